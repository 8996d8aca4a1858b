"""proxy/dialects/parameters.py: what APIs ask for in words of their own comes to the same in each of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec import Raw, Struct

from proxy.dialects import Dialect, Rules
from proxy.dialects.anthropic.messages import Messages
from proxy.dialects.openai.chat import Chat
from proxy.dialects.openai.responses.dialect import Responses
from proxy.protocol import history, tools
from proxy.protocol.failures import Rejection
from proxy.protocol.models import Abilities, abilities
from proxy.protocol.plan import Plan, Sampling, TextBlock, ToolChoice

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
ABLE = Rules(abilities_of=lambda model: Abilities(("low", "medium", "high"), thinking_off=True))
NATIVE = Rules(native=True)


class Api(Struct, frozen=True):
    """How one API says what all of them can. `messages`: the parameter that holds them; `schema`: a tool's schema's."""

    dialect: Dialect
    tool: Callable[[str, Any], dict[str, Any]]
    choice: Callable[[str, bool], dict[str, Any]]
    effort: Callable[[str], dict[str, Any]]
    past: list[dict[str, Any]]
    messages: str
    schema: str


def _openai_choice(kind: str, single: bool, named: dict[str, Any]) -> dict[str, Any]:
    return {"tool_choice": named if kind == "tool" else kind} | ({"parallel_tool_calls": False} if single else {})


APIS = {
    "chat": Api(
        Chat(),
        lambda name, schema: {"type": "function", "function": {"name": name, "parameters": schema}},
        lambda kind, single: _openai_choice(kind, single, {"type": "function", "function": {"name": "book"}}),
        lambda effort: {"reasoning_effort": effort},
        [
            {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "look"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "x"},
        ],
        "messages",
        "tools[{}].function.parameters",
    ),
    "responses": Api(
        Responses(),
        lambda name, schema: {"type": "function", "name": name, "parameters": schema},
        lambda kind, single: _openai_choice(kind, single, {"type": "function", "name": "book"}),
        lambda effort: {"reasoning": {"effort": effort}},
        [
            {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
        ],
        "input",
        "tools[{}].parameters",
    ),
    "messages": Api(
        Messages(),
        lambda name, schema: {"name": name, "input_schema": schema},
        lambda kind, single: {
            "tool_choice": {"type": {"required": "any"}.get(kind, kind)}
            | ({"name": "book"} if kind == "tool" else {})
            | ({"disable_parallel_tool_use": True} if single else {})
        },
        lambda effort: {"output_config": {"effort": effort}},
        [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "look", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "x"}]},
        ],
        "messages",
        "tools[{}].input_schema",
    ),
}
each_api = pytest.mark.parametrize("api", APIS.values(), ids=APIS.keys())


def decode(api: Api, rules: Rules = NATIVE, messages: Sequence[Any] = (), **body: Any) -> Plan:
    sent: dict[str, Any] = {"max_tokens": 100} if isinstance(api.dialect, Messages) else {}
    sent |= {"model": "opus", api.messages: [{"role": "user", "content": "Hi."}, *messages]} | body
    return api.dialect.decode(json.dumps(sent).encode(), rules).plans[0]


def refused(api: Api, **body: Any) -> tuple[str | None, str]:
    with pytest.raises(Rejection) as caught:
        decode(api, **body)
    return caught.value.failure.param, caught.value.failure.message


@each_api
@pytest.mark.parametrize("past", [False, True], ids=["new", "with calls"])
@pytest.mark.parametrize(
    ("kind", "single", "choice"),
    [
        ("auto", False, None),
        ("auto", True, ToolChoice("auto", True)),
        ("required", False, ToolChoice("any")),
        ("required", True, ToolChoice("any", True)),
        ("tool", False, ToolChoice("tool", name="book")),
        ("tool", True, ToolChoice("tool", True, "book")),
        ("none", False, ToolChoice("none")),
    ],
)
def test_how_tools_may_be_used(api: Api, kind: str, single: bool, choice: ToolChoice | None, past: bool) -> None:
    plan = decode(
        api,
        messages=api.past if past else (),
        tools=[api.tool("look", SCHEMA), api.tool("book", SCHEMA)],
        **api.choice(kind, single),
    )
    if kind == "none" and not past:
        # Nothing says that there are tools.
        assert (plan.tools, plan.tool_choice) == ((), None)
        return
    assert plan.tool_choice == choice
    assert [tool.name for tool in plan.tools if tool.name == "book" or kind != "tool"][-1] == "book"
    assert {bytes(tool.schema) for tool in plan.tools} == {json.dumps(SCHEMA, separators=(",", ":")).encode()}
    words = {"required": tools.MUST_CALL_ANY, "tool": tools.MUST_CALL_ONE.format("book")}
    assert (plan.must_call, plan.demand) == (kind in words, words.get(kind))


@each_api
@pytest.mark.parametrize("kind", ["required", "tool"])
def test_without_tools_none_can_be_called(api: Api, kind: str) -> None:
    param, _ = refused(api, **api.choice(kind, False))
    assert param is not None
    assert param.startswith("tool_choice")


LIMITS = {"chat": "max_completion_tokens", "responses": "max_output_tokens", "messages": "max_tokens"}


@pytest.mark.parametrize("name", APIS)
@pytest.mark.parametrize(
    ("version", "limit", "on"),
    [
        ("claude-haiku-4-5", 1024, False), ("claude-haiku-4-5", 1025, True), ("claude-opus-4-6", 10, True),
        ("claude-sonnet-5-5", 10, True), ("haiku", 10, True),
    ],
)  # fmt: skip
def test_there_is_no_thinking_without_room_for_its_least_budget(name: str, version: str, limit: int, on: bool) -> None:
    able = abilities(version)
    body: dict[str, Any] = {LIMITS[name]: limit}
    if name == "messages":
        body["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    rules = Rules(native=True, abilities_of=lambda model: able)
    assert decode(APIS[name], rules, **body).thinking == on
    assert decode(APIS[name], Rules(abilities_of=lambda model: able), **body).thinking, "it cannot be turned off"


@each_api
@pytest.mark.parametrize(
    ("effort", "native", "able"),
    [
        ("none", (None, False), (None, False)),
        ("minimal", ("low", True), ("low", True)),
        ("high", ("high", True), ("high", True)),
        ("max", ("max", True), ("high", True)),
    ],
)
def test_effort(api: Api, effort: str, native: tuple[str | None, bool], able: tuple[str | None, bool]) -> None:
    for rules, wanted in ((NATIVE, native), (ABLE, able)):
        plan = decode(api, rules, **api.effort(effort))
        assert (plan.effort, plan.thinking) == wanted


@each_api
def test_sampling(api: Api) -> None:
    asked: dict[str, Any] = {"temperature": 0.5, "top_p": 0.25}
    assert decode(api, **asked).sampling == Sampling(0.5, 0.25)
    body = {"model": "opus", api.messages: [{"role": "user", "content": "Hi."}], "max_tokens": 1} | asked
    request = api.dialect.decode(json.dumps(body).encode(), Rules())
    assert request.plans[0].sampling == Sampling()
    assert request.ignored[:2] == ("temperature", "top_p")
    assert [refused(api, **{name: value})[0] for name, value in (("temperature", -0.1), ("top_p", 1.1))] == [
        "temperature",
        "top_p",
    ]


@each_api
def test_a_demand_is_told_in_words_where_an_answer_has_a_form(api: Api) -> None:
    assert decode(api, Rules(), tools=[api.tool("look", SCHEMA)], **api.choice("required", False)).tool_choice is None


# What a request can have of everything


@each_api
def test_how_many_messages(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_MESSAGES", 8)
    more = [{"role": "user", "content": "More."}]
    decode(api, messages=more * 7)
    assert refused(api, messages=more * 8) == (api.messages, "At most 8 messages can be given.")


@each_api
def test_how_many_parts(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_PARTS", 8)
    kind = "input_text" if api.messages == "input" else "text"
    half = {"role": "user", "content": [{"type": kind, "text": "x"}] * 4}
    decode(api, messages=[half, half])
    param, message = refused(api, messages=[half, half, half])
    assert (param or "").startswith(f"{api.messages}[3]")
    assert message.startswith("At most 8 content parts")


def test_what_nobody_has_announced_is_bounded_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_BLOCKS", 3)
    talk = history.History("input")
    talk.instruct("a")
    talk.say([history.PastCall("c", "look", Raw(b"{}"))])
    with pytest.raises(Rejection) as caught:
        talk.answer("c", (TextBlock("x"),))
    assert caught.value.failure.param == "input"


@each_api
def test_how_much_all_tools_can_be(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "MAX_TOOLS_BYTES", 1000)
    large = {"type": "object", "description": "x" * 400}
    assert len(decode(api, tools=[api.tool(f"t{number}", large) for number in range(2)]).tools) == 2
    param, message = refused(api, tools=[api.tool(f"t{number}", large) for number in range(3)])
    assert (param, message) == (
        api.schema.format(2),
        "The tools of a request can have 1000 bytes of schemas and descriptions in all.",
    )
    monkeypatch.setattr(tools, "MAX_TOOLS", 2)
    assert refused(api, tools=[api.tool(f"t{number}", {}) for number in range(3)])[0] == "tools"


def test_an_answer_that_has_to_be_a_call_has_no_form() -> None:
    """instructor asks for a call and for the same as JSON: the call is forced, not left to words beside the form."""
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    function = {"name": "user", "parameters": schema}
    form = {"name": "user", "schema": schema}
    bodies: dict[Dialect, dict[str, Any]] = {
        Chat(): {
            "messages": [{"role": "user", "content": "Ada"}],
            "tools": [{"type": "function", "function": function}],
            "tool_choice": {"type": "function", "function": {"name": "user"}},
            "response_format": {"type": "json_schema", "json_schema": form},
        },
        Responses(): {
            "input": "Ada",
            "tools": [{"type": "function"} | function],
            "tool_choice": {"type": "function", "name": "user"},
            "text": {"format": {"type": "json_schema"} | form},
        },
        Messages(): {
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "Ada"}],
            "tools": [{"name": "user", "input_schema": schema}],
            "tool_choice": {"type": "tool", "name": "user"},
            "output_config": {"format": {"type": "json_schema", "schema": schema}},
        },
    }
    for dialect, body in bodies.items():
        (plan,) = dialect.decode(json.dumps({"model": "opus"} | body).encode(), NATIVE).plans
        assert (plan.schema, plan.tool_choice, plan.must_call) == (None, ToolChoice("tool", name="user"), True)
        free = body | {"tool_choice": {"type": "auto"} if isinstance(dialect, Messages) else "auto"}
        (plan,) = dialect.decode(json.dumps({"model": "opus"} | free).encode(), NATIVE).plans
        assert (plan.schema is None, plan.tool_choice, plan.must_call) == (False, None, False)
