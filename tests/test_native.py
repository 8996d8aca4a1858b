"""Fields that a model may refuse: which a plan uses, and what stands for them."""

from __future__ import annotations

import pytest
from msgspec import Raw

from proxy.protocol import native
from proxy.protocol.plan import Message, Plan, Sampling, TextBlock, Tool, ToolChoice

TOOLS = tuple(Tool(name, "", Raw(b'{"type":"object"}')) for name in ("look", "book"))


def plan(**more: object) -> Plan:
    return Plan(model="opus", system="Be brief.", messages=(Message("user", (TextBlock("hi"),)),), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asks", "fields"),
    [
        (plan(), set()),
        (plan(tools=TOOLS, tool_choice=ToolChoice("auto", disable_parallel_tool_use=True)), set()),
        (plan(tools=TOOLS, tool_choice=ToolChoice("none")), set()),
        (plan(tools=TOOLS, tool_choice=ToolChoice("any")), {"tool_choice"}),
        (plan(tools=TOOLS, tool_choice=ToolChoice("tool", name="look")), {"tool_choice"}),
        (plan(thinking=False), {"thinking"}),
        (plan(sampling=Sampling(temperature=0.0, top_k=5)), {"temperature", "top_k"}),
        (plan(sampling=Sampling(top_p=0.5), thinking=False), {"top_p", "thinking"}),
    ],
)
def test_the_fields_that_may_be_refused(asks: Plan, fields: set[str]) -> None:
    assert native.asked(asks) == fields
    assert native.asked(native.without(asks, fields)) == set()


def test_what_was_refused_together_is_known_of_requests_that_have_all_of_it() -> None:
    refused = [["temperature", "top_p"], ["tool_choice"]]
    assert native.known(frozenset({"temperature"}), refused) == set()
    assert native.known(frozenset({"temperature", "top_p", "thinking"}), refused) == {"temperature", "top_p"}
    assert native.known(frozenset({"tool_choice", "top_p"}), refused) == {"tool_choice"}
    assert native.known(frozenset({"tool_choice"}), []) == set()


def test_a_demanded_call_is_asked_for_in_words() -> None:
    named = plan(
        tools=TOOLS, tool_choice=ToolChoice("tool", name="look"), must_call=True, demand="You must call `look`."
    )
    emulated = native.without(named, {"tool_choice"})
    assert emulated.system == "Be brief.\n\nYou must call `look`."
    assert (emulated.tools, emulated.tool_choice, emulated.must_call) == (TOOLS[:1], None, True)
    single = plan(tools=TOOLS, tool_choice=ToolChoice("any", disable_parallel_tool_use=True), demand="Call one.")
    emulated = native.without(single, {"tool_choice"})
    assert (emulated.tools, emulated.tool_choice) == (TOOLS, ToolChoice("auto", disable_parallel_tool_use=True))
    assert native.without(named, {"temperature"}) == named


def test_no_thinking_becomes_little_of_it() -> None:
    assert native.without(plan(thinking=False), {"thinking"}) == plan(effort="low")


def test_a_sampling_parameter_goes_alone() -> None:
    both = plan(sampling=Sampling(temperature=0.5, top_p=0.9))
    assert native.without(both, {"temperature"}).sampling == Sampling(top_p=0.9)
