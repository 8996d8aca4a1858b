"""A Messages request and what it comes to: what is passed on, refused by name, or named as ignored."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import jsonschema_rs
import msgspec
import pytest
from anthropic.types.beta import BetaContentBlockParam, BetaMemoryTool20250818Command
from pydantic import TypeAdapter

from proxy.dialects import Rules
from proxy.dialects.anthropic.decode import Decoded, decode
from proxy.dialects.anthropic.errors import reply
from proxy.dialects.anthropic.request import MessagesRequest
from proxy.dialects.anthropic.tools import tool_use
from proxy.protocol.failures import Kind, Rejection
from proxy.protocol.models import Abilities, abilities
from proxy.protocol.plan import ToolChoice

NATIVE = Rules(native=True)
ASKED: dict[str, Any] = {"model": "opus", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi."}]}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 16).decode()
PDF = base64.b64encode(b"%PDF-1.4 x").decode()
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


def made(rules: Rules = NATIVE, **more: Any) -> Decoded:
    return decode(json.dumps(ASKED | more).encode(), rules)


def said(role: str, *content: Any) -> dict[str, Any]:
    return {"role": role, "content": list(content)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def messages_of(*messages: Any, rules: Rules = NATIVE, **more: Any) -> Any:
    """The messages as they reach the Messages API."""
    return json.loads(msgspec.json.encode(made(rules, messages=messages, **more).plan.messages))


def refused(**more: Any) -> tuple[str | None, str]:
    with pytest.raises(Rejection) as caught:
        made(**more)
    failure = caught.value.failure
    assert failure.kind in (Kind.BAD_REQUEST, Kind.NOT_FOUND)
    return failure.param, failure.message


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
BLOCKS = [
    text("Look."),
    IMAGE,
    {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}, "title": "A"},
    {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}, "context": "Old."},
    {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "Words."},
        "citations": {"enabled": True},
    },
    {"type": "document", "source": {"type": "content", "content": "Words."}},
    {"type": "document", "source": {"type": "content", "content": [text("One."), IMAGE]}},
    {"type": "search_result", "source": "https://a", "title": "A", "content": [text("Found.")]},
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block['type']}-{block.get('source')}"[:40])
def test_a_block_reaches_the_api_as_it_is(block: dict[str, Any]) -> None:
    assert messages_of(said("user", block)) == [said("user", block)]
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [block]}
    past = [said("user", text("Hi.")), said("assistant", call), said("user", result)]
    assert messages_of(*past, tools=[TOOL]) == past


LATER = {"name": "later", "defer_loading": True, "input_schema": {"type": "object"}}
OTHER = LATER | {"name": "other"}
TOOL_SEARCH = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}


def found(*names: str) -> list[dict[str, Any]]:
    """A conversation in which a tool has found others."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    parts = [{"type": "tool_reference", "tool_name": name} for name in names]
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": parts}
    return [said("user", text("Hi.")), said("assistant", call), said("user", result)]


@pytest.mark.parametrize(
    ("more", "offered", "ignored"),
    [
        ({"tools": [TOOL, LATER, OTHER]}, ["weather"], ()),
        ({"tools": [TOOL, LATER, OTHER], "messages": found("later")}, ["weather", "later"], ()),
        ({"tools": [TOOL, LATER, OTHER], "messages": found("later", "other")}, ["weather", "later", "other"], ()),
        ({"tools": [TOOL, LATER, OTHER], "tool_choice": {"type": "tool", "name": "other"}}, ["weather", "other"], ()),
        ({"tools": [LATER, OTHER]}, ["later", "other"], ("tools.defer_loading",)),
        ({"tools": [TOOL_SEARCH, TOOL, LATER]}, ["weather", "later"], ("tools.defer_loading",)),
        ({"tools": [TOOL_SEARCH, TOOL]}, ["weather"], ()),
    ],
)
def test_a_deferred_tool_is_offered_once_it_has_been_found(
    more: dict[str, Any], offered: list[str], ignored: tuple[str, ...]
) -> None:
    decoded = made(**more)
    assert ([tool.name for tool in decoded.plan.tools], decoded.ignored) == (offered, ignored)


def test_found_tools_are_not_gone_through_for_each_tool() -> None:
    class Found(set[str]):
        def __iter__(self) -> Iterator[str]:
            pytest.fail("thousands of them for each of a thousand tools hold up all others")

    asked = msgspec.json.decode(json.dumps(ASKED | {"tools": [TOOL, LATER, OTHER]}), type=MessagesRequest)
    use = tool_use(asked, [], Found({"later"}))
    assert [tool.name for tool in use.tools] == ["weather", "later"]


EDITOR = "str_replace_based_edit_tool"


@pytest.mark.parametrize(
    ("kind", "name", "arguments"),
    [
        ("bash_20250124", "bash", {"command": "ls"}),
        ("bash_20250124", "bash", {"restart": True}),
        ("text_editor_20250728", EDITOR, {"command": "view", "path": "/a", "view_range": [1, -1]}),
        ("text_editor_20250429", EDITOR, {"command": "insert", "path": "/a", "insert_line": 0, "insert_text": "x"}),
        *(("memory_20250818", "memory", command) for command in (
            {"command": "view", "path": "/memories"},
            {"command": "create", "path": "/memories/a", "file_text": "x"},
            {"command": "str_replace", "path": "/memories/a", "old_str": "x", "new_str": "y"},
            {"command": "insert", "path": "/memories/a", "insert_line": 1, "insert_text": "x"},
            {"command": "delete", "path": "/memories/a"},
            {"command": "rename", "old_path": "/memories/a", "new_path": "/memories/b"},
        )),
    ],
)  # fmt: skip
def test_a_tool_that_is_known_by_its_type_is_offered_by_a_schema(kind: str, name: str, arguments: Any) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    decoded = made(tools=[{"type": kind, "name": name} | mark])
    (tool,) = decoded.plan.tools
    assert (tool.name, decoded.ignored) == (name, ())
    assert tool.description
    schema = json.loads(bytes(tool.schema))
    assert jsonschema_rs.is_valid(schema, arguments)
    assert arguments.keys() <= schema["properties"].keys()
    if name == "memory":
        # Anthropic's own client takes it.
        TypeAdapter(BetaMemoryTool20250818Command).validate_python(arguments)
        assert not jsonschema_rs.is_valid(schema, {"command": "undo_edit"})


def test_a_reference_to_a_tool_is_told_in_words() -> None:
    (result,) = messages_of(*found("later"), tools=[TOOL, LATER])[2]["content"]
    assert result["content"] == [text("The tool `later` has been loaded and can be called.")]


SERVERS: list[dict[str, Any]] = [
    {"type": f"{name}_tool_result", "tool_use_id": "srvtoolu_1", "content": {"type": "x", "y": [1]}}
    for name in (
        "web_search", "web_fetch", "tool_search", "code_execution", "bash_code_execution",
        "text_editor_code_execution", "advisor",
    )
]  # fmt: skip
SERVERS += [
    {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "is_error": False, "content": [text("r")]},
    {"type": "mcp_tool_listing", "mcp_server_name": "a", "tools": [{"name": "b"}]},
]
UNTOLD: list[dict[str, Any]] = [
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "code_execution", "input": {"code": "1"}},
    {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "b", "server_name": "a", "input": {}},
    {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}, "trigger": None},
    {"type": "compaction", "content": None},
]


@pytest.mark.parametrize("block", [*SERVERS, *UNTOLD], ids=lambda block: block["type"])
def test_what_the_apis_servers_did_in_the_past_is_left_out(block: dict[str, Any]) -> None:
    past = [said("user", text("A")), said("assistant", block, text("Yes.")), said("user", text("B"))]
    assert messages_of(*past)[1] == said("assistant", text("Yes."))
    # It is named, and no strict server refuses it: without it the answer is the same, or cannot be another.
    named = () if block in UNTOLD else (f"messages.{block['type']}",)
    assert made(Rules(native=True, strict=True), messages=past).ignored == named


def test_all_blocks_of_past_answers_are_known() -> None:
    """Those of the installed client's types (`BetaContentBlockParam`)."""
    known = {block["type"] for block in (*SERVERS, *UNTOLD, *BLOCKS)}
    known |= {"tool_use", "tool_result", "thinking", "redacted_thinking"}
    kinds = [one for one in get_args(BetaContentBlockParam) if isinstance(one, type)]
    found = {get_args(get_type_hints(kind)["type"])[0] for kind in kinds}
    # What is left is said by name to be unknown: what changes the tools in the middle, and files that are stored.
    assert found - known == {"container_upload", "tool_addition", "tool_removal"}


def test_a_summary_of_what_was_before_is_put_in_as_text() -> None:
    block = {"type": "compaction", "content": "They spoke of tea.", "encrypted_content": "x"}
    past = [said("user", text("A")), said("assistant", block, text("Yes.")), said("user", text("B"))]
    assert messages_of(*past)[1] == said("assistant", text("They spoke of tea."), text("Yes."))
    assert made(messages=past).ignored == ("messages.encrypted_content",)


def test_an_answer_of_the_past_keeps_its_thinking() -> None:
    answer = said(
        "assistant",
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "xyz"},
        text("Yes."),
    )
    assert messages_of(said("user", text("A")), answer, said("user", text("B")))[1] == answer


def test_thinking_without_a_signature_is_left_out() -> None:
    thought = {"type": "thinking", "thinking": "Hm."}
    past = messages_of(said("user", text("A")), said("assistant", thought, text("Yes.")), said("user", text("B")))
    assert past[1] == said("assistant", text("Yes."))


@pytest.mark.parametrize("system", ["Be brief.", [text("Be brief.")], [text("Be"), text("brief.")]])
def test_the_system_prompt(system: Any) -> None:
    found = made(system=system).plan.system
    assert found is not None
    assert found.split() == ["Be", "brief."]


def test_a_system_message_keeps_its_place_and_its_effort_holds() -> None:
    later = said("system", text("Be loud.")) | {"output_config": {"effort": "low"}}
    found = made(messages=[said("user", text("Hi.")), later], output_config={"effort": "high"})
    assert found.plan.effort == "low"
    assert "Be loud." in json.dumps(msgspec.to_builtins(found.plan.messages))
    assert found.ignored == ()


@pytest.mark.parametrize(
    ("choice", "expected", "must"),
    [
        (None, None, False),
        ({"type": "auto"}, None, False),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice("auto", True), False),
        ({"type": "any"}, ToolChoice("any"), True),
        ({"type": "tool", "name": "weather"}, ToolChoice("tool", False, "weather"), True),
    ],
)
def test_tool_choice(choice: Any, expected: ToolChoice | None, must: bool) -> None:
    plan = made(tools=[TOOL], tool_choice=choice).plan
    assert (plan.tool_choice, plan.must_call, [tool.name for tool in plan.tools]) == (expected, must, ["weather"])


def test_no_tool_is_to_be_used() -> None:
    assert made(tools=[TOOL], tool_choice={"type": "none"}).plan.tools == ()


def test_sampling_limits_and_form() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    found = made(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        stop_sequences=["END"],
        stream=True,
        output_config={"effort": "max", "format": {"type": "json_schema", "schema": schema}},
    )
    plan = found.plan
    assert (plan.sampling.temperature, plan.sampling.top_p, plan.sampling.top_k) == (0.5, 0.9, 40)
    assert (plan.max_tokens, plan.effort, found.stop, found.stream) == (100, "max", ("END",), True)
    assert plan.schema is not None
    assert json.loads(bytes(plan.schema.source)) == schema
    assert made(Rules(native=False), temperature=0.5).ignored == ("temperature",)


@pytest.mark.parametrize(
    ("thinking", "on", "shown", "ignored"),
    [
        (None, True, True, ()),
        ({"type": "adaptive"}, True, True, ()),
        ({"type": "adaptive", "display": "summarized"}, True, True, ()),
        ({"type": "adaptive", "display": "omitted"}, True, False, ()),
        ({"type": "adaptive", "display": "updates"}, True, True, ("thinking.display",)),
        ({"type": "enabled", "budget_tokens": 2000}, True, True, ("thinking.budget_tokens",)),
        ({"type": "between_tools"}, True, True, ("thinking.type",)),
        ({"type": "disabled"}, False, True, ()),
    ],
)
def test_thinking(thinking: Any, on: bool, shown: bool, ignored: tuple[str, ...]) -> None:
    found = made(thinking=thinking)
    assert (found.plan.thinking, found.shown, found.ignored) == (on, shown, ignored)


@pytest.mark.parametrize(
    ("version", "thinking", "on"),
    [
        ("claude-sonnet-4-5", None, False), ("claude-opus-4-8", None, False), ("claude-sonnet-5", None, True),
        ("claude-sonnet-4-5", {"type": "enabled", "budget_tokens": 2000}, True),
        ("claude-opus-4-8", {"type": "adaptive"}, True), ("claude-next", None, True),
    ],
)  # fmt: skip
def test_older_models_think_when_they_are_asked_to(version: str, thinking: dict[str, Any] | None, on: bool) -> None:
    able = abilities(version)
    more: dict[str, Any] = {"max_tokens": 5000, "output_config": {"effort": "high"}}
    if thinking is not None:
        more["thinking"] = thinking
    found = made(Rules(native=True, abilities_of=lambda model: able), **more).plan
    assert (found.thinking, found.effort) == (on, "high")
    assert made(Rules(abilities_of=lambda model: able), **more).plan.thinking, "it cannot be turned off"


def test_thinking_that_cannot_be_turned_off_is_said() -> None:
    rules = Rules(native=False, abilities_of=lambda model: Abilities(thinking_off=False))
    assert made(rules, thinking={"type": "disabled"}).ignored == ("thinking.type",)


@pytest.mark.parametrize(
    ("more", "ignored"),
    [
        ({"metadata": {"user_id": "u"}}, "metadata"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"context_management": {"edits": []}}, "context_management"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"speed": "fast"}, "speed"),
        ({"diagnostics": {}}, "diagnostics"),
        ({"user_profile_id": "u"}, "user_profile_id"),
        ({"workspace_id": "w"}, "workspace_id"),
        ({"billing_policy": {}}, "billing_policy"),
        ({"compaction": {}}, "compaction"),
        ({"fallback_credit_token": "t"}, "fallback_credit_token"),
        ({"fallbacks": ["haiku"]}, "fallbacks"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"output_config": {"task_budget": {"type": "tokens", "total": 9}}}, "output_config.task_budget"),
        ({"tools": [TOOL | {"strict": True}]}, "tools.strict"),
        ({"tools": [TOOL | {"allowed_callers": ["code_execution_20260120"]}]}, "tools.allowed_callers"),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools.defer_loading"),
        ({"tools": [TOOL | {"eager_input_streaming": True}]}, "tools.eager_input_streaming"),
        ({"tools": [TOOL | {"input_examples": [{"city": "Oslo"}]}]}, "tools.input_examples"),
        ({"messages": [said("user", IMAGE | {"transformations": {"oversized_image": "error"}})]},
         "messages.transformations"),
        ({"messages": [said("user", text("A") | {"citations": [{"type": "x"}]})]}, "messages.citations"),
        ({"messages": [said("user", text("A")), said("assistant", text("B") | {"cache_control": {"type": "ephemeral"}}),
                       said("user", text("C"))]}, "cache_control"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_named(more: dict[str, Any], ignored: str) -> None:
    assert made(**more).ignored == (ignored,)
    if ignored != "cache_control":
        # A strict server refuses it.
        with pytest.raises(Rejection) as caught:
            made(Rules(native=True, strict=True), **more)
        assert caught.value.failure.param == ignored


@pytest.mark.parametrize(
    "more",
    [
        {"metadata": {}, "service_tier": "auto", "speed": "standard", "mcp_servers": [], "fallbacks": []},
        {"tools": [TOOL | {"strict": False, "allowed_callers": ["direct"], "defer_loading": False, "type": "custom"}]},
        {"made_up_by_a_newer_client": {}},
    ],
)
def test_what_asks_for_what_is_done_anyway_is_not_named(more: dict[str, Any]) -> None:
    assert made(**more).ignored == ()


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"model": " "}, "model"),
        ({"messages": []}, "messages"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"name": "a"}]}, "mcp_servers"),
        ({"stop_sequences": ["a", " "]}, "stop_sequences[1]"),
        ({"stop_sequences": [f"{number}" for number in range(65)]}, "stop_sequences"),
        ({"stop_sequences": ["a" * 4000, "b" * 97]}, "stop_sequences"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
        ({"tools": [{"type": "computer_20251124", "name": "computer"}]}, "tools[0].type"),
        ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, "tools[0].type"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}, TOOL | {"name": "bash"}]}, "tools[1].name"),
        ({"tools": [{"type": "mcp_toolset", "mcp_server_name": "a"}]}, "tools[0].type"),
        ({"tools": [{"input_schema": {"type": "object"}}]}, "tools[0].name"),
        ({"tools": [TOOL_SEARCH | {"name": ""}]}, "tools[0].name"),
        ({"tools": [{"type": "memory_20250818"}]}, "tools[0].name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
        ({"messages": [said("user", {"type": "audio"})]}, "messages[0].content[0].type"),
        ({"messages": [said("user", {"type": "thinking", "thinking": "a"})]}, "messages[0].content[0].type"),
        ({"messages": [said("assistant", IMAGE)]}, "messages[0].content[0].type"),
        ({"messages": [said("system", IMAGE)]}, "messages[0].content[0].type"),
        ({"messages": [said("user", {"type": "tool_result", "tool_use_id": "x"})]},
         "messages[0].content[0].tool_use_id"),
        ({"messages": [said("user", {"type": "image", "source": {"type": "file", "file_id": "f"}})]},
         "messages[0].content[0].source.file_id"),
        ({"messages": [said("user", {"type": "image", "source": {"type": "base64", "media_type": "image/tiff",
                                                                 "data": PNG}})]},
         "messages[0].content[0].source.data"),
        ({"messages": [said("user", {"type": "document", "source": {"type": "text", "data": " "}})]},
         "messages[0].content[0].source.data"),
        ({"messages": [said("user", {"type": "document", "source": {"type": "url", "url": "file:///etc/passwd"}})]},
         "messages[0].content[0].source.url"),
        ({"messages": [said("user", {"type": "document", "source": {"type": "content", "content": []}})]},
         "messages[0].content[0].source.content"),
        ({"messages": [said("user", {"type": "search_result", "source": "s", "title": "t", "content": []})]},
         "messages[0].content[0].content"),
        ({"messages": [said("user", text(" "))]}, "messages[0].content"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(more: dict[str, Any], param: str) -> None:
    assert refused(**more)[0] == param


def test_a_result_that_is_an_error_has_text_alone() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True, "content": [text("Broken."), IMAGE]}
    past = [said("user", text("Hi.")), said("assistant", call)]
    assert refused(messages=[*past, said("user", result)])[0] == "messages[2].content[0].content[1].type"
    result["content"] = [text("Broken.")]
    assert messages_of(*past, said("user", result))[2]["content"][0]["is_error"] is True


def test_a_thread_that_is_to_go_on_is_sent_again_as_a_whole() -> None:
    with pytest.raises(Rejection) as caught:
        made(thread={"type": "continue", "previous_message_id": "msg_1"})
    told = reply(caught.value.failure, 0, "req_1")
    body = json.loads(msgspec.json.encode(told.body))
    assert (told.status, body["error"]["type"]) == (404, "not_found_error")
    # What `anthropic` looks for (`lib/threads/_thread_state.py`).
    assert body["error"]["details"] == {"error_code": "thread_not_found"}


def test_a_system_message_for_one_turn_is_gone_in_the_next() -> None:
    once = said("system", text("Be loud.")) | {"clear_at": "next_user_message"}
    asked, answer = said("user", text("Hi.")), said("assistant", text("HELLO."))
    assert "Be loud." in json.dumps(messages_of(asked, once))
    later = messages_of(asked, once, answer, said("user", text("Bye.")))
    assert later == [asked, answer, said("user", text("Bye."))]
    kept = messages_of(asked, once | {"clear_at": "never"}, answer, said("user", text("Bye.")))
    assert "Be loud." in json.dumps(kept)


def test_a_system_message_may_have_an_effort_alone() -> None:
    found = made(messages=[said("user", text("Hi.")), {"role": "system", "output_config": {"effort": "low"}}])
    assert (found.plan.effort, len(found.plan.messages)) == ("low", 1)


@pytest.mark.parametrize("more", [{}, {"input": None}])
def test_a_call_may_have_no_arguments(more: dict[str, Any]) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather"}
    past = [said("user", text("Hi.")), said("assistant", call | more)]
    assert messages_of(*past, tools=[TOOL])[1] == said("assistant", call | {"input": {}})


def test_blank_parts_of_a_document_are_left_out() -> None:
    source = {"type": "content", "content": [text(" "), text("One.")]}
    (message,) = messages_of(said("user", {"type": "document", "source": source}))
    assert message["content"][0]["source"]["content"] == [text("One.")]
    source["content"] = [text(" ")]
    refusal = refused(messages=[said("user", {"type": "document", "source": source})])
    assert refusal[0] == "messages[0].content[0].source.content"


def test_an_answer_that_is_sent_back_whole_is_not_refused_by_a_strict_server() -> None:
    answer = said("assistant", text("Yes.")) | {
        "id": "msg_1",
        "model": "m",
        "stop_reason": "end_turn",
        "usage": {"output_tokens": 5},
    }
    past = [said("user", text("A")), answer, said("user", text("B"))]
    found = made(Rules(native=True, strict=True), messages=past)
    assert set(found.ignored) == {"messages.id", "messages.model", "messages.stop_reason", "messages.usage"}


def test_a_count_needs_no_limit() -> None:
    body = {name: value for name, value in ASKED.items() if name != "max_tokens"}
    assert decode(json.dumps(body).encode(), NATIVE, counting=True).plan.max_tokens is None
