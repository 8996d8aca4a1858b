"""What a request to `/v1/responses` comes to: items as turns, tools as they are offered, what is refused and named."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from proxy.dialects import Rules
from proxy.dialects.openai.responses.reasoning import Seal, Summary
from proxy.dialects.openai.responses.request import AskedResponse, decode
from proxy.dialects.openai.responses.tools import flat
from proxy.protocol.failures import Rejection
from proxy.protocol.models import Abilities
from proxy.protocol.plan import Grammar, RedactedThinkingBlock, ThinkingBlock, ToolChoice

RULES = Rules(owner="mine", secret=b"s" * 32)
SEAL = Seal(RULES.secret, "mine")
HI = {"role": "user", "content": "Hi."}


def asked(rules: Rules = RULES, /, **body: Any) -> AskedResponse:
    return decode(json.dumps({"model": "opus", "input": "Hi."} | body).encode(), rules)


def messages(*items: Any, **body: Any) -> Any:
    return json.loads(msgspec.json.encode(asked(input=list(items), **body).plan.messages))


def refused(**body: Any) -> tuple[str | None, str]:
    with pytest.raises(Rejection) as caught:
        asked(**body)
    return caught.value.failure.param, caught.value.failure.message


def text(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": one} for one in texts]


CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
OTHER = {"type": "custom_tool_call", "call_id": "c2", "name": "run", "input": "ls"}
OUT = {"type": "function_call_output", "call_id": "c1", "output": "one"}
OTHER_OUT = {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]}


def test_instructions_and_first_developer_messages_are_the_system_prompt() -> None:
    plan = asked(
        instructions="A.",
        input=[{"role": "developer", "content": "B."}, HI, {"role": "assistant", "content": "C."},
               {"role": "developer", "content": "D."}, {"type": "message", "role": "user", "content": "E."}],
    ).plan  # fmt: skip
    assert plan.system == "A.\n\nB."
    last = json.loads(msgspec.json.encode(plan.messages[-1]))
    assert last["content"] == text("<system>\nD.\n</system>", "E.")


def test_all_between_two_outputs_is_one_turn() -> None:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]}
    found = messages(HI, CALL, said, OTHER, OUT, OTHER_OUT)
    assert [message["role"] for message in found] == ["user", "assistant", "user"]
    assert found[1]["content"] == [
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
        *text("Wait."),
        {"type": "tool_use", "id": "c2", "name": "run", "input": {"input": "ls"}},
    ]
    assert [block["content"] for block in found[2]["content"]] == [text("one"), text("two")]


def test_an_output_without_its_call_is_refused() -> None:
    param, words = refused(input=[HI, OUT])
    assert (param, "c1" in words) == ("input[1].call_id", True)


@pytest.mark.parametrize(
    ("call", "output", "name", "arguments", "result"),
    [
        (
            {"type": "local_shell_call", "action": {"type": "exec", "command": ["ls"], "env": {}, "user": None}},
            {"type": "local_shell_call_output", "output": "done"},
            "local_shell", {"command": ["ls"]}, "done",
        ),
        (
            {"type": "shell_call", "action": {"commands": ["ls"], "timeout_ms": 5}},
            {"type": "shell_call_output",
             "output": [{"stdout": "a", "stderr": "b", "outcome": {"type": "exit", "exit_code": 1}}]},
            "shell", {"commands": ["ls"], "timeout_ms": 5}, "a\nb\n[exit code 1]",
        ),
        (
            {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "x"}},
            {"type": "apply_patch_call_output", "status": "completed", "output": "gone"},
            "apply_patch", {"type": "delete_file", "path": "x"}, "gone",
        ),
    ],
)  # fmt: skip
def test_calls_of_built_in_tools(call: Any, output: Any, name: str, arguments: Any, result: str) -> None:
    found = messages(HI, call | {"call_id": "c1"}, output | {"call_id": "c1"})
    assert found[1]["content"] == [{"type": "tool_use", "id": "c1", "name": name, "input": arguments}]
    assert found[2]["content"][0]["content"] == text(result)


# Signed thinking


@pytest.mark.parametrize("block", [ThinkingBlock("Hm.", "sig=="), RedactedThinkingBlock("data")])
def test_signed_thinking_goes_back_in(block: ThinkingBlock | RedactedThinkingBlock) -> None:
    sealed = SEAL.close("claude-opus-5-5", block)
    plan = asked(input=[HI, {"type": "reasoning", "summary": [], "encrypted_content": sealed}, CALL, OUT]).plan
    assert plan.messages[1].content[0] == block


@pytest.mark.parametrize("change", ["owner", "secret", "text", "cut", "foreign", "version"])
def test_thinking_that_is_not_ours_is_refused(change: str) -> None:
    block = ThinkingBlock("Hm.", "sig")
    sealed = {
        "owner": Seal(RULES.secret, "other").close("m", block),
        "secret": Seal(b"t" * 32, "mine").close("m", block),
        "text": SEAL.close("m", block)[:-4] + "AAAA",
        "cut": SEAL.close("m", block)[:-3],
        "foreign": "gAAAAABk",
        "version": "cmr2." + SEAL.close("m", block)[5:],
    }[change]
    param, words = refused(input=[HI, {"type": "reasoning", "encrypted_content": sealed}])
    assert (param, "not made by this server" in words) == ("input[1].encrypted_content", True)


def test_a_compaction_goes_back_in_as_what_it_says() -> None:
    sealed = SEAL.close("", Summary("All is well."))
    found = messages({"type": "compaction", "encrypted_content": sealed}, HI)
    assert "All is well." in found[0]["content"][0]["text"]
    assert refused(input=[HI, {"type": "reasoning", "encrypted_content": sealed}])[0] == "input[1].encrypted_content"


# Tools


def test_tools_of_all_kinds_are_offered() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /x+/"}
    found = asked(
        tools=[
            {"type": "function", "name": "f", "parameters": None},
            {"type": "custom", "name": "p", "description": "Patches.", "format": grammar},
            {"type": "namespace", "name": "mcp__tiny", "tools": [{"type": "function", "name": "weather"}]},
            {"type": "local_shell"},
            {"type": "web_search", "external_web_access": False},
            {"type": "tool_search", "execution": "client"},
        ],
        input=[{"type": "additional_tools", "role": "developer", "tools": [{"type": "custom", "name": "e"}]}, HI],
    )
    tools = {tool.name: tool for tool in found.plan.tools}
    assert list(tools) == ["f", "p", "mcp__tiny__weather", "local_shell", "e"]
    assert tools["p"].description == "Patches.\n\nThe input must match this Lark grammar:\n\nstart: /x+/"
    assert tools["p"].grammar == Grammar("lark", "start: /x+/", "tools[1].format")
    form = found.forms["mcp__tiny__weather"]
    assert (form.name, form.namespace) == ("weather", "mcp__tiny")
    assert found.ignored == ("tools.web_search", "tools.tool_search")


@pytest.mark.parametrize("kind", ["file_search", "code_interpreter", "image_generation", "computer_use_preview", "mcp"])
def test_tools_that_only_openai_runs_are_refused(kind: str) -> None:
    assert refused(tools=[{"type": kind}])[0] == "tools[0].type"


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        ({"type": "function", "name": "a"}, ["a"]),
        ({"type": "custom", "name": "b"}, ["b"]),
        ({"type": "shell"}, ["shell"]),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "a"}, {"type": "shell"}]},
         ["a", "shell"]),
        ("none", []),
        ("auto", ["a", "b", "shell"]),
    ],
)  # fmt: skip
def test_choices(choice: Any, left: list[str]) -> None:
    tools = [{"type": "function", "name": "a"}, {"type": "custom", "name": "b"}, {"type": "shell"}]
    plan = asked(tools=tools, tool_choice=choice).plan
    assert [tool.name for tool in plan.tools] == left
    assert plan.must_call is (isinstance(choice, dict) and choice["type"] != "allowed_tools")


def test_a_named_tool_leaves_the_others_on_offer() -> None:
    """As in chat: what is offered stands before the conversation in the prompt cache."""
    tools = [{"type": "function", "name": "a"}, {"type": "custom", "name": "b"}, {"type": "shell"}]
    native = Rules(owner="mine", secret=b"s" * 32, native=True)
    for choice, name in (({"type": "function", "name": "a"}, "a"), ({"type": "shell"}, "shell")):
        plan = asked(native, tools=tools, tool_choice=choice).plan
        assert [tool.name for tool in plan.tools] == ["a", "b", "shell"]
        assert plan.tool_choice == ToolChoice("tool", name=name)


FUNCTION = {"name": "a", "description": "A.", "parameters": {"type": "object"}, "strict": False}
GRAMMAR = {"syntax": "lark", "definition": "start: X"}
FLAT_TOOLS = [
    {"type": "function", **FUNCTION}, {"type": "custom", "name": "b", "format": {"type": "grammar", **GRAMMAR}},
]  # fmt: skip
NESTED_TOOLS = [
    {"type": "function", "function": FUNCTION},
    {"type": "custom", "custom": {"name": "b", "format": {"type": "grammar", "grammar": GRAMMAR}}},
]


@pytest.mark.parametrize(
    ("nested", "flat"),
    [
        ("auto", "auto"),
        ({"type": "function", "function": {"name": "a"}}, {"type": "function", "name": "a"}),
        ({"type": "custom", "custom": {"name": "b"}}, {"type": "custom", "name": "b"}),
        *(
            (given, {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "b"}]})
            for given in (
                {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "custom": {"name": "b"}}]},
                {"type": "allowed_tools", "allowed_tools": {
                    "mode": "required", "tools": [{"type": "custom", "custom": {"name": "b"}}]}},
            )
        ),
    ],
)  # fmt: skip
def test_tools_and_choices_in_the_form_of_chat(nested: Any, flat: Any) -> None:
    found = asked(tools=NESTED_TOOLS, tool_choice=nested)
    wanted = asked(tools=FLAT_TOOLS, tool_choice=flat)
    assert (found.plan, found.forms, found.ignored) == (wanted.plan, wanted.forms, wanted.ignored)
    told = [json.loads(msgspec.json.encode([one.template.tools, one.template.tool_choice])) for one in (found, wanted)]
    assert told[0] == told[1]
    assert told[0][0] == FLAT_TOOLS


def test_what_lies_deeper_than_any_form_is_not_made_again_at_each_level() -> None:
    below = {"type": "namespace", "tools": [{"type": "function", "function": {"name": "a"}}]}
    nested: dict[str, Any] = {"type": "custom", "custom": {"name": "b"}, "tools": [below]}
    found = flat(Raw(json.dumps({"type": "namespace", "name": "n", "tools": [nested]}).encode()))
    assert json.loads(bytes(found))["tools"] == [{"type": "custom", "name": "b", "tools": [below]}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "function": "a"}]}, "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [5]}]}, "tools[0].tools[0]"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": 5}]}, "tools[0].tools"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "namespace", "name": "m", "tools": []}]}]},
         "tools[0].tools[0].type"),
        ({"tools": [{"type": "custom", "name": "b", "format": 5}]}, "tools[0].format"),
        ({"tools": FLAT_TOOLS, "tool_choice": {"type": "function", "function": {"name": "c"}}}, "tool_choice.name"),
        ({"tools": FLAT_TOOLS, "tool_choice": {"type": ["function"]}}, "tool_choice.type"),
        ({"tools": FLAT_TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": 5}},
         "tool_choice.tools"),
    ],
)  # fmt: skip
def test_neither_form(body: Any, param: str) -> None:
    assert refused(**body)[0] == param


@pytest.mark.parametrize("named", [{"call_id": "c1"}, {"call_id": "c1", "id": "lsh_1"}, {"id": "c1"}, {"id": "lsh_1"}])
def test_the_output_of_a_local_shell_names_its_call_by_either_id(named: dict[str, str]) -> None:
    call = {"type": "local_shell_call", "id": "lsh_1", "call_id": "c1", "action": {"type": "exec", "command": ["ls"]}}
    *_, last = messages(HI, call, {"type": "local_shell_call_output", "output": "files", **named})
    assert (last["content"][0]["tool_use_id"], last["content"][0]["content"]) == ("c1", text("files"))


def test_what_a_tool_tells_unasked_is_in_the_users_turn() -> None:
    """As Codex sends the goal that its user has set: an output with the tool's name, and without a call."""
    goal = {"type": "function_call_output", "id": "fco_1", "name": "goal", "namespace": "agent", "output": "Win."}
    found = messages(HI, CALL, OUT, goal, {"role": "user", "content": "Go on."})
    assert [message["role"] for message in found] == ["user", "assistant", "user"]
    result, *rest = found[2]["content"]
    assert (result["type"], result["tool_use_id"]) == ("tool_result", "c1")
    assert rest == text('<tool_output name="agent__goal">\nWin.\n</tool_output>', "Go on.")
    assert asked(input=[HI, goal]).ignored == ()
    assert messages(HI, goal | {"output": ""}) == messages(HI)
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    found = messages(HI, goal | {"output": parts, "namespace": None})
    assert found[0]["content"] == text("Hi.", '<tool_output name="goal">', "a", "b", "</tool_output>")
    # With the id of a call it is the result of that.
    assert messages(HI, CALL, OUT | {"name": "f"}) == messages(HI, CALL, OUT)
    assert refused(input=[HI, goal | {"call_id": "c9"}])[0] == "input[1].call_id"
    assert refused(input=[HI, {"type": "function_call_output", "output": "x"}])[0] == "input[1].call_id"


FORM = {"type": "json_schema", "name": "n", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}


def update(**fields: Any) -> dict[str, Any]:
    return {"type": "configuration_update", "id": "cu_1", **fields}


def test_what_a_configuration_update_sets_counts_until_the_next() -> None:
    native = Rules(secret=b"s" * 32, native=True, abilities_of=lambda model: Abilities(("low", "high")))
    low, high = update(reasoning={"effort": "low"}), update(reasoning={"effort": "high"})
    form, words = update(text={"format": FORM}), update(text={"format": {"type": "text"}})
    cases: list[tuple[list[Any], str | None, bool]] = [
        ([HI], None, False), ([low, HI], "low", False), ([HI, low, high], "high", False),
        ([high, HI, low], "low", False), ([low, HI, form], "low", True), ([form, HI, words, low], "low", False),
        ([form, HI, update()], None, True),
    ]  # fmt: skip
    for items, effort, formed in cases:
        found = asked(native, input=items)
        assert (found.plan.effort, found.plan.schema is not None, found.ignored) == (effort, formed, ())
        told = found.template
        assert (told.reasoning.effort, b"json_schema" in bytes(told.text.format)) == (effort, formed)
    # They count in place of what the request says, which stays the same from one to the next.
    found = asked(
        native, input=[HI, low, words], reasoning={"effort": "high", "summary": "auto"}, text={"format": FORM}
    )
    assert (found.plan.effort, found.plan.schema, found.template.reasoning.summary) == ("low", None, "auto")
    schema = asked(native, input=[HI, form]).plan.schema
    assert schema is not None
    assert schema.where == "input[1].text.format.schema"


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (update(reasoning={"effort": "huge"}), "input[1].reasoning.effort"),
        (update(reasoning=5), "input[1].reasoning"),
        (update(text={"format": {"type": "prose"}}), "input[1].text.format.type"),
        (update(text={"format": {"type": "json_schema"}}), "input[1].text.format.schema"),
        ({"type": "compaction_trigger"}, "input[1].type"),
    ],
)
def test_updates_that_cannot_be(item: Any, param: str) -> None:
    assert refused(input=[HI, item])[0] == param


def test_what_is_not_known_of_an_update_is_named() -> None:
    assert asked(input=[HI, update(reasoning={"effort": "low", "x": 1}, tools=[1])]).ignored == (
        "input.reasoning.x", "input.tools",
    )  # fmt: skip


# What has no effect, and what cannot be


def test_what_has_no_effect_is_named() -> None:
    found = asked(
        input=[HI, {"type": "reasoning", "id": "rs_1", "summary": []}, {"type": "next_year"},
               {"type": "web_search_call", "id": "ws_1"}],
        include=["reasoning.encrypted_content", "web_search_call.action.sources"],
        text={"verbosity": "low"}, truncation="auto", store=True, prompt_cache_key="k", max_tool_calls=3,
    )  # fmt: skip
    assert set(found.ignored) == {
        "input.reasoning", "input.next_year", "input.web_search_call",
        "text.verbosity", "store", "prompt_cache_key", "max_tool_calls",
    }  # fmt: skip
    assert found.encrypted
    assert found.template.store is False


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"input": " "}, "input"),
        ({"input": []}, "input"),
        ({"model": ""}, "model"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"text": {"verbosity": "none"}}, "text.verbosity"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"truncation": "some"}, "truncation"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"max_output_tokens": -2}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "name": "a"}] * 2}, "tools[1].name"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "conversation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": [{"role": "tool"}]}, "input[0].role"),
        ({"input": [{"id": None}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
         "input[0].content[0].file_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0].type"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    assert refused(**body)[0] == param


def test_a_strict_server_refuses_what_has_no_effect() -> None:
    rules = msgspec.structs.replace(RULES, strict=True)
    with pytest.raises(Rejection) as caught:
        asked(rules, max_tool_calls=3)
    assert caught.value.failure.param == "max_tool_calls"


PAST: tuple[dict[str, Any], ...] = (
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
    {"role": "assistant", "content": "Yes."},
)


def test_a_strict_server_takes_what_it_has_said_itself_and_names_it() -> None:
    rules = msgspec.structs.replace(RULES, strict=True)
    assert asked(rules, input=[HI, *PAST, HI]).ignored == ("input.reasoning", "input.web_search_call")


def test_a_strict_server_takes_what_it_has_stored_and_names_it() -> None:
    class Stored:
        stores = True
        most_stored = 10**6

        def response(self, id: str) -> list[msgspec.Raw]:
            return [msgspec.Raw(json.dumps(item).encode()) for item in (HI, {"type": "unheard_of"}, *PAST)]

        conversation = response

        def item(self, id: str) -> msgspec.Raw:
            return msgspec.Raw(b'{"type":"web_search_call","id":"ws_2"}')

    rules = msgspec.structs.replace(RULES, strict=True, lookup=Stored())
    for more in ({"previous_response_id": "resp_1"}, {"conversation": "conv_1"}):
        found = asked(rules, input=[{"type": "item_reference", "id": "ws_2"}, HI], **more)
        assert sorted(found.ignored) == ["input.reasoning", "input.unheard_of", "input.web_search_call"]
    with pytest.raises(Rejection) as caught:
        asked(rules, input=[HI, {"type": "unheard_of"}])
    assert caught.value.failure.param == "input.unheard_of"


def test_thinking_of_the_past_says_who_wrote_it() -> None:
    sealed = SEAL.close("claude-haiku-5-5", ThinkingBlock("Hm.", "c2ln"))
    said = {"role": "assistant", "content": "Yes."}
    plan = asked(input=[HI, {"type": "reasoning", "summary": [], "encrypted_content": sealed}, said, HI, said, HI]).plan
    assert [message.written_by for message in plan.messages] == [None, "claude-haiku-5-5", None, None, None]


def test_fields_that_nobody_knows_are_named() -> None:
    ignored = asked(RULES, client_metadata={"a": 1}, **{"odd\nfield": 1, "absent": None}).ignored
    assert ignored == ("client_metadata", "odd_field")
    with pytest.raises(Rejection) as caught:
        asked(msgspec.structs.replace(RULES, strict=True), client_metadata={"a": 1})
    assert caught.value.failure.param == "client_metadata"


def test_truncation_is_a_wish_for_later() -> None:
    assert (asked(truncation="auto").shorten, asked(truncation="disabled").shorten, asked().shorten) == (
        True, False, False,
    )  # fmt: skip
