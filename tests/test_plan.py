"""proxy/protocol/plan.py: whatever parameters hold, they become a plan whose lines are lines, or a refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dialects import Rules
from proxy.dialects.openai.chat_request import ChatPlan, decode
from proxy.protocol import commands, fingerprint
from proxy.protocol.failures import TABLE, Rejection
from proxy.protocol.models import Abilities
from proxy.protocol.plan import Plan

# Lines that end where they should not, for one reason or another.
BREAKS = "a\nb\r\nc\u2028d\u2029e\x85f\x0bg"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5) | st.sampled_from([BREAKS, "none", "required", "type", "low"]),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just(BREAKS), one, max_size=3),
    max_leaves=6,
)  # fmt: skip
NAMES = st.sampled_from(["get", "put", "x" * 128, "x" * 129, "", "a b", BREAKS])
SCHEMAS = JSON | st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["object", "array", "string", ["object"], 5]),
        "properties": st.dictionaries(st.sampled_from(["a", "format", BREAKS]), JSON, max_size=2),
        "items": JSON,
        "$ref": st.sampled_from(["#", "#/$defs/a", "#/properties/a", "http://127.0.0.1:1/x"]),
        "$defs": st.dictionaries(st.just("a"), JSON, max_size=1),
        "description": st.just(BREAKS),
    },
)
FUNCTION = st.fixed_dictionaries({"name": NAMES}, optional={"description": JSON, "parameters": SCHEMAS, "strict": JSON})
CUSTOM = st.fixed_dictionaries({"name": NAMES}, optional={"format": JSON, "description": st.just(BREAKS)})
TOOL = JSON | st.one_of(
    st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION}),
    st.fixed_dictionaries({"type": st.just("custom"), "custom": CUSTOM}),
    st.fixed_dictionaries({"type": NAMES}, optional={"function": FUNCTION, "custom": CUSTOM}),
)
NAMED = st.fixed_dictionaries({"type": st.just("function"), "function": st.fixed_dictionaries({"name": NAMES})})
CHOICE = st.one_of(
    JSON,
    st.sampled_from(["auto", "none", "required"]),
    NAMED,
    st.fixed_dictionaries(
        {
            "type": st.just("allowed_tools"),
            "allowed_tools": st.fixed_dictionaries(
                {"mode": st.sampled_from(["auto", "required"]), "tools": st.lists(NAMED | JSON, max_size=2)}
            ),
        }
    ),
)
FORMAT = JSON | st.fixed_dictionaries(
    {"type": st.sampled_from(["json_schema", "json_object", "text"])},
    optional={"json_schema": JSON | st.fixed_dictionaries({"name": NAMES}, optional={"schema": SCHEMAS})},
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "tools": st.lists(TOOL, max_size=3) | JSON,
    "functions": st.lists(FUNCTION, max_size=2) | JSON,
    "tool_choice": CHOICE,
    "function_call": st.sampled_from(["auto", "none"]) | st.fixed_dictionaries({"name": NAMES}) | JSON,
    "parallel_tool_calls": st.booleans() | JSON,
    "response_format": FORMAT,
    "reasoning_effort": st.sampled_from(["none", "minimal", "low", "max"]) | JSON,
    "stop": st.lists(st.text(max_size=3), max_size=5) | JSON,
    "temperature": st.floats(-1, 3) | JSON,
    "top_p": st.floats(-1, 2) | JSON,
    "max_tokens": JSON, "max_completion_tokens": JSON, "n": st.integers(-1, 9) | JSON, "stream": JSON,
    "stream_options": JSON, "modalities": JSON, "logit_bias": JSON, "seed": JSON, "model": st.just(BREAKS) | JSON,
}  # fmt: skip
MESSAGES = st.sampled_from(
    [
        [{"role": "user", "content": BREAKS}],
        [{"role": "system", "content": BREAKS}, {"role": "user", "content": [{"type": "text", "text": BREAKS}]}],
        [
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "tool_calls": [{"id": BREAKS, "function": {"name": BREAKS, "arguments": '{"a":\n"b",\r"c":"\u2028"}'}}],
            },
            {"role": "tool", "tool_call_id": BREAKS, "content": BREAKS},
        ],
    ]
)
RULES = st.sampled_from(
    [Rules(), Rules(strict=True), Rules(native=True, abilities_of=lambda model: Abilities(("high",), True))]
)


def outcome(body: dict[str, Any], rules: Rules) -> ChatPlan | Rejection:
    try:
        return decode(json.dumps(body).encode(), rules)
    except Rejection as rejection:
        return rejection


def lines(plan: Plan) -> list[bytes]:
    """All that goes to the CLI for it."""
    *past, last = plan.messages
    first = [commands.initialize(plan, "append"), commands.settings(plan)]
    return [*filter(None, first), *map(commands.past, past), commands.ask(last)]


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    """A few of them: with many, some are wrong nearly always."""
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=2, unique=True))
    return {name: draw(FIELDS[name]) for name in names}


@settings(max_examples=300)
@given(MESSAGES, parameters(), RULES)
def test_any_parameters_become_lines_or_a_refusal(messages: Any, more: dict[str, Any], rules: Rules) -> None:
    made = outcome({"model": "opus", "messages": messages} | more, rules)
    if isinstance(made, Rejection):
        assert TABLE[made.failure.kind].status in (400, 413)
        assert made.failure.message
        return
    written = lines(made.plan)
    data = b"".join(written)
    assert data.count(b"\n") == len(written)
    assert not any(end in data for end in (b"\r", b"\xe2\x80\xa8", b"\xe2\x80\xa9"))
    for line in written:
        assert isinstance(json.loads(line), dict)
    key = fingerprint.start("")
    for message in made.plan.messages:
        key = fingerprint.extend(key, message)
    assert len(fingerprint.under(made.plan, key)) == 32
    # What must be called can be; what is counted is bounded.
    assert made.plan.tools or not made.plan.must_call
    assert 1 <= made.n <= 8
    assert len(made.stop) <= 4


@pytest.mark.parametrize("field", sorted(FIELDS.keys() - {"logit_bias", "seed", "stream_options"}))
def test_every_field_is_one_that_is_read(field: str) -> None:
    body = {"model": "opus", "messages": [{"role": "user", "content": "hi"}], field: {"a": [[5]]}}
    refused = outcome(body, Rules())
    assert isinstance(refused, Rejection)
    assert (refused.failure.param or "").startswith(field)


@pytest.mark.parametrize("modalities", [["audio"], ["text", "audio"], ["image"], ["TEXT"]])
def test_nothing_but_text_is_given(modalities: list[str]) -> None:
    body = {"model": "opus", "messages": [{"role": "user", "content": "hi"}], "modalities": modalities}
    refused = outcome(body, Rules())
    assert isinstance(refused, Rejection)
    assert refused.failure.param == "modalities"
