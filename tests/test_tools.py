"""proxy/protocol/tools.py: the client's tools, what it says of their use, and how calls go back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects.openai.chat_request import ChatPlan, decode
from proxy.protocol.failures import TABLE, Rejection
from proxy.protocol.plan import ToolChoice
from proxy.protocol.tools import MAX_TOOLS, MUST_CALL_ANY, MUST_CALL_ONE
from tests.direct import check

HI = {"role": "user", "content": "hi"}
CALLED = [
    HI,
    {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "get"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "done"},
]
OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
NOTHING = {"type": "object", "properties": {}}


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name} | more}


def custom(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "custom", "custom": {"name": name} | more}


def named(name: str, kind: str = "function") -> dict[str, Any]:
    return {"type": kind, kind: {"name": name}}


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]}}


THREE = [function("get", parameters=OBJECT), function("put"), custom("note")]


def request(messages: list[Any] | None = None, **more: Any) -> ChatPlan:
    """The request, its schemas judged as they are before it is served."""
    made = decode(json.dumps({"model": "opus", "messages": messages or [HI]} | more).encode())
    check(made.plan)
    return made


def refused(messages: list[Any] | None = None, **more: Any) -> str | None:
    with pytest.raises(Rejection) as caught:
        request(messages, **more)
    failure = caught.value.failure
    assert TABLE[failure.kind].status == 400
    assert failure.message
    return failure.param


def names(made: ChatPlan) -> list[str]:
    return [tool.name for tool in made.plan.tools]


# What is offered


def test_functions_keep_their_names_words_and_schemas() -> None:
    (tool,) = request(tools=[function("get", description="Gets.", parameters=OBJECT, strict=True)]).plan.tools
    assert (tool.name, tool.description, json.loads(bytes(tool.schema))) == ("get", "Gets.", OBJECT)


def test_their_order_is_kept() -> None:
    assert names(request(tools=THREE)) == ["get", "put", "note"]


@pytest.mark.parametrize(
    ("more", "schema"),
    [
        ({}, NOTHING),
        ({"parameters": None}, NOTHING),
        ({"parameters": {}}, {"type": "object"}),
        ({"parameters": {"properties": {"a": {}}}}, {"properties": {"a": {}}, "type": "object"}),
        ({"parameters": {"$ref": "#/$defs/A", "$defs": {"A": OBJECT}}}, None),
    ],
)
def test_parameters_are_a_schema_of_an_object(more: Any, schema: Any) -> None:
    (tool,) = request(tools=[function("get", **more)]).plan.tools
    found = json.loads(bytes(tool.schema))
    assert found["type"] == "object"
    assert found == (schema or {"type": "object"} | more["parameters"])


@pytest.mark.parametrize(
    "parameters",
    [
        {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {}}, "items": [{}]},
        {
            "$schema": "http://json-schema.org/draft-04/schema",
            "properties": {"a": {"exclusiveMinimum": True, "minimum": 1}},
        },
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "unevaluatedProperties": False},
        {"properties": {"a": {"type": "string", "format": "odd", "nullable": True, "x-order": 1}}},
        # Nothing of this is resolved here, and nothing is fetched.
        {"$schema": "http://127.0.0.1:1/schema", "properties": {"a": {"$ref": "http://127.0.0.1:1/x"}}},
        {"properties": {"a": {"$ref": "#/nowhere", "pattern": "[^]"}}},
    ],
)
def test_schemas_of_any_draft_are_handed_on(parameters: dict[str, Any]) -> None:
    (tool,) = request(tools=[function("get", parameters=parameters)]).plan.tools
    assert json.loads(bytes(tool.schema)) == parameters | {"type": "object"}


@pytest.mark.parametrize("description", [None, ""])
def test_a_description_may_be_missing(description: str | None) -> None:
    assert request(tools=[function("get", description=description)]).plan.tools[0].description == ""


def test_custom_tools_take_one_text() -> None:
    made = request(tools=[custom("note", description="Notes.", format={"type": "text"}), custom("sing")])
    assert [tool.description for tool in made.plan.tools] == ["Notes.", ""]
    for tool in made.plan.tools:
        assert json.loads(bytes(tool.schema)) == {
            "type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"],
            "additionalProperties": False,
        }  # fmt: skip
    assert made.style.custom == {"note", "sing"}
    assert not made.style.legacy


def test_functions_of_old_are_tools() -> None:
    made = request(functions=[{"name": "get", "description": "Gets.", "parameters": OBJECT}, {"name": "put"}])
    assert names(made) == ["get", "put"]
    assert made.style.legacy
    # A message has room for one `function_call` only.
    assert made.plan.tool_choice == ToolChoice("auto", disable_parallel_tool_use=True)


def test_tools_and_functions_together_are_tools() -> None:
    made = request(tools=[function("get")], functions=[{"name": "put"}])
    assert names(made) == ["get", "put"]
    assert not made.style.legacy
    assert made.plan.tool_choice is None


@pytest.mark.parametrize("name", ["a", "x" * 129, "Bash", "StructuredOutput", "mcp__client__x", "-", " ", "a/b", "ü"])
def test_names_that_are_taken(name: str) -> None:
    assert names(request(tools=[function(name)])) == [name]


@pytest.mark.parametrize("kind", ["function", "custom", "functions"])
def test_a_tool_needs_a_name(kind: str) -> None:
    if kind == "functions":
        assert refused(functions=[{"name": "ok"}, {"name": ""}]) == "functions[1].name"
    else:
        assert refused(tools=[function("ok"), {"type": kind, kind: {"name": ""}}]) == f"tools[1].{kind}.name"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": 5}, "tools"),
        ({"tools": {"type": "function"}}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [None]}, "tools[0]"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": [{"type": 5}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "custom"}]}, "tools[0].custom"),
        ({"tools": [{"type": "function", "custom": {"name": "x"}}]}, "tools[0].function"),
        ({"tools": [{"type": "custom", "function": {"name": "x"}}]}, "tools[0].custom"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": None}}]}, "tools[0].function.name"),
        ({"tools": [function("a"), function("b", description=5)]}, "tools[1].function.description"),
        ({"tools": [function("a", parameters=5)]}, "tools[0].function.parameters"),
        ({"tools": [function("a", parameters=True)]}, "tools[0].function.parameters"),
        ({"tools": [function("a", parameters=[])]}, "tools[0].function.parameters"),
        ({"tools": [function("a", parameters={"type": "string"})]}, "tools[0].function.parameters.type"),
        ({"tools": [function("a", parameters={"type": None})]}, "tools[0].function.parameters.type"),
        ({"tools": [function("a", parameters={"type": ["object"]})]}, "tools[0].function.parameters.type"),
        ({"tools": [function("a", parameters={"properties": [None]})]}, "tools[0].function.parameters"),
        ({"tools": [function("a", parameters={"properties": {"a": {"type": "any"}}})]}, "tools[0].function.parameters"),
        ({"tools": [function("a", parameters={"required": True})]}, "tools[0].function.parameters"),
        ({"tools": [function("a", parameters={"$schema": 5})]}, "tools[0].function.parameters"),
        ({"tools": [function("a"), custom("b"), function("a")]}, "tools[2].function.name"),
        ({"tools": [function("a"), custom("a")]}, "tools[1].custom.name"),
        ({"tools": [function("a")], "functions": [{"name": "a"}]}, "functions[0].name"),
        ({"tools": [custom("a", format={"type": "grammar"})]}, "tools[0].custom.format"),
        ({"tools": [custom("a", format={})]}, "tools[0].custom.format.type"),
        ({"tools": [function(f"t{n}") for n in range(MAX_TOOLS + 1)]}, "tools"),
        ({"functions": [{"name": f"t{n}"} for n in range(MAX_TOOLS + 1)]}, "functions"),
        ({"functions": [5]}, "functions[0]"),
        ({"functions": [{"description": "x"}]}, "functions[0].name"),
        ({"functions": [{"name": "a", "parameters": "x"}]}, "functions[0].parameters"),
        ({"functions": [{"name": "a", "parameters": {"minimum": "1"}}]}, "functions[0].parameters"),
        ({"functions": [{"name": "a", "parameters": {"type": "array"}}]}, "functions[0].parameters.type"),
    ],
)
def test_what_is_wrong_is_named(more: dict[str, Any], param: str) -> None:
    assert refused(**more) == param


def test_as_many_tools_as_there_may_be() -> None:
    assert len(request(tools=[function(f"t{n}") for n in range(MAX_TOOLS)]).plan.tools) == MAX_TOOLS


def test_a_tool_may_have_the_name_of_the_answers_own() -> None:
    """It is offered under another: see `translation`."""
    tools = [function("get"), function("StructuredOutput")]
    made = request(tools=tools, response_format={"type": "json_object"})
    assert [tool.name for tool in made.plan.tools] == ["get", "StructuredOutput"]


def test_parameters_nested_too_deep_are_refused() -> None:
    deep = b'{"items":' * 100_000 + b"{}" + b"}" * 100_000
    body = b'{"model":"opus","messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function","function":'
    with pytest.raises(Rejection) as caught:
        decode(body + b'{"name":"a","parameters":%s}}]}' % deep)
    assert TABLE[caught.value.failure.kind].status == 400


# What is said of their use


@pytest.mark.parametrize("choice", [{}, {"tool_choice": None}, {"tool_choice": "auto"}, {"function_call": "auto"}])
def test_auto_leaves_it_to_the_model(choice: dict[str, Any]) -> None:
    made = request(tools=THREE, **choice)
    assert names(made) == ["get", "put", "note"]
    assert (made.plan.tool_choice, made.plan.must_call, made.plan.system) == (None, False, None)


@pytest.mark.parametrize("choice", [{}, {"tool_choice": "auto"}, {"tool_choice": "none"}, {"tool_choice": None}])
@pytest.mark.parametrize("messages", [None, CALLED])
def test_without_tools(messages: list[Any] | None, choice: dict[str, Any]) -> None:
    absent: list[dict[str, Any]] = [
        {},
        {"tools": None},
        {"tools": []},
        {"functions": []},
        {"parallel_tool_calls": False},
    ]
    for more in absent:
        made = request(messages, **more, **choice)
        assert (made.plan.tools, made.plan.tool_choice, made.plan.must_call) == ((), None, False)


@pytest.mark.parametrize("choice", [{"tool_choice": "none"}, {"function_call": "none"}])
def test_none_offers_nothing(choice: dict[str, Any]) -> None:
    made = request(tools=THREE, **choice)
    assert (made.plan.tools, made.plan.tool_choice, made.plan.must_call) == ((), None, False)


@pytest.mark.parametrize("choice", [{"tool_choice": "none"}, {"function_call": "none"}])
def test_none_after_calls_forbids_instead(choice: dict[str, Any]) -> None:
    """The Messages API wants tools declared where messages hold calls."""
    made = request(CALLED, tools=THREE, **choice)
    assert names(made) == ["get", "put", "note"]
    assert (made.plan.tool_choice, made.plan.must_call) == (ToolChoice("none"), False)


def test_required_must_call_any() -> None:
    made = request(tools=THREE, tool_choice="required")
    assert names(made) == ["get", "put", "note"]
    assert (made.plan.must_call, made.plan.tool_choice, made.plan.system) == (True, None, MUST_CALL_ANY)


def test_what_the_model_is_told_follows_the_system_prompt() -> None:
    made = request([{"role": "system", "content": "Be brief."}, HI], tools=THREE, tool_choice="required")
    assert made.plan.system == f"Be brief.\n\n{MUST_CALL_ANY}"


@pytest.mark.parametrize(
    "choice",
    [{"tool_choice": named("put")}, {"function_call": {"name": "put"}}, {"tool_choice": named("put", "custom")}],
)
def test_a_named_one_is_all_that_is_offered(choice: dict[str, Any]) -> None:
    made = request(tools=THREE, **choice)
    assert names(made) == ["put"]
    assert (made.plan.must_call, made.plan.system) == (True, MUST_CALL_ONE.format("put"))


def test_a_named_custom_tool() -> None:
    made = request(tools=THREE, tool_choice=named("note", "custom"))
    assert names(made) == ["note"]
    assert made.style.custom == {"note"}


def test_a_named_function_of_old() -> None:
    made = request(functions=[{"name": "get"}, {"name": "put"}], function_call={"name": "put"})
    assert names(made) == ["put"]
    assert (made.plan.must_call, made.style.legacy) == (True, True)


def test_the_newer_parameter_counts() -> None:
    made = request(tools=THREE, tool_choice=named("get"), function_call={"name": "put"})
    assert names(made) == ["get"]


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_narrow_what_is_offered(mode: str) -> None:
    made = request(tools=THREE, tool_choice=allowed("note", "get", "get", mode=mode))
    assert names(made) == ["get", "note"]
    assert made.plan.must_call is (mode == "required")
    assert made.plan.system == (MUST_CALL_ANY if mode == "required" else None)


@pytest.mark.parametrize(
    ("flat", "nested"),
    [
        ({"type": "function", "name": "get"}, named("get")),
        ({"type": "custom", "name": "note"}, named("note", "custom")),
        (
            {"type": "allowed_tools", "mode": "auto",
             "tools": [{"type": "custom", "name": "note"}, {"type": "function", "name": "get"}]},
            allowed("get", "note"),
        ),
        (
            {"type": "allowed_tools",
             "allowed_tools": {"mode": "required", "tools": [{"type": "function", "name": "get"}]}},
            allowed("get", mode="required"),
        ),
    ],
)  # fmt: skip
def test_choices_in_the_form_of_the_responses_api(flat: Any, nested: Any) -> None:
    made = request(tools=THREE, tool_choice=flat)
    assert made.plan == request(tools=THREE, tool_choice=nested).plan
    assert not any(name.startswith("tool_choice") for name in made.ignored)


def test_no_tool_may_be_allowed() -> None:
    assert request(tools=THREE, tool_choice=allowed()).plan.tools == ()


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("any", "tool_choice"),
        ("", "tool_choice"),
        (5, "tool_choice"),
        ([], "tool_choice"),
        ({}, "tool_choice.type"),
        ({"type": "function"}, "tool_choice.function"),
        ({"type": "function", "name": "delete"}, "tool_choice.name"),
        ({"type": "function", "name": ""}, "tool_choice.name"),
        ({"type": "tool", "function": {"name": "get"}}, "tool_choice.name"),
        ({"type": "some", "function": {"name": "get"}}, "tool_choice.type"),
        ({"type": "function", "function": {}}, "tool_choice.function.name"),
        ({"type": "function", "function": "get"}, "tool_choice.function"),
        (named("delete"), "tool_choice.function.name"),
        (named("delete", "custom"), "tool_choice.custom.name"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}, "tool_choice.allowed_tools.tools"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "all", "tools": []}}, "tool_choice.allowed_tools.mode"),
        ({"type": "allowed_tools", "mode": "auto"}, "tool_choice.tools"),
        ({"type": "allowed_tools", "tools": []}, "tool_choice.mode"),
        ({"type": "allowed_tools", "mode": "all", "tools": []}, "tool_choice.mode"),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "delete"}]},
            "tool_choice.tools",
        ),
        (allowed("get", "delete"), "tool_choice.allowed_tools.tools"),
        (allowed(mode="required"), "tool_choice.allowed_tools.tools"),
        *(
            ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named("get"), wrong]}}, param)
            for wrong, param in (
                (5, "tool_choice.allowed_tools.tools[1]"),
                ("get", "tool_choice.allowed_tools.tools[1]"),
                ({"type": "function"}, "tool_choice.allowed_tools.tools[1].function"),
                ({"type": "function", "function": {}}, "tool_choice.allowed_tools.tools[1].function.name"),
                ({}, "tool_choice.allowed_tools.tools[1].type"),
            )
        ),
    ],
)
def test_a_choice_that_is_none(choice: Any, param: str) -> None:
    assert refused(tools=THREE, tool_choice=choice) == param


@pytest.mark.parametrize(
    ("choice", "param"),
    [("any", "function_call"), (5, "function_call"), ({}, "function_call.name"), ({"name": 5}, "function_call.name"),
     ({"name": "delete"}, "function_call.name")],
)  # fmt: skip
def test_a_choice_of_old_that_is_none(choice: Any, param: str) -> None:
    assert refused(functions=[{"name": "get"}], function_call=choice) == param


@pytest.mark.parametrize(
    ("choice", "param"),
    [("required", "tool_choice"), (named("get"), "tool_choice.function.name"),
     (allowed("get"), "tool_choice.allowed_tools.tools"),
     (allowed(mode="required"), "tool_choice.allowed_tools.tools")],
)  # fmt: skip
def test_there_is_nothing_to_choose_without_tools(choice: Any, param: str) -> None:
    assert refused(tool_choice=choice) == param


# One at a time


@pytest.mark.parametrize("choice", ["auto", "required", named("get"), allowed("get", "put")])
def test_calls_one_at_a_time(choice: Any) -> None:
    made = request(tools=THREE, tool_choice=choice, parallel_tool_calls=False)
    assert made.plan.tool_choice == ToolChoice("auto", disable_parallel_tool_use=True)


@pytest.mark.parametrize("parallel", [None, True])
def test_calls_at_once(parallel: bool | None) -> None:
    assert request(tools=THREE, parallel_tool_calls=parallel).plan.tool_choice is None


def test_nothing_offered_nothing_said() -> None:
    assert request(tools=THREE, tool_choice=allowed(), parallel_tool_calls=False).plan.tool_choice is None
    assert request(tools=THREE, tool_choice="none", parallel_tool_calls=False).plan.tool_choice is None


def test_parallel_is_yes_or_no() -> None:
    assert refused(tools=THREE, parallel_tool_calls="no") == "parallel_tool_calls"
