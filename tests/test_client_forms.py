"""What real clients send beside OpenAI's own forms: read as what it means, passed on, or named as ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import Rules
from proxy.dialects.openai.chat_request import ChatPlan, decode
from proxy.protocol.decoding import MAX_FRACTIONS
from proxy.protocol.failures import Kind, Rejection, of_result
from proxy.protocol.history import CONTINUE
from proxy.protocol.lines import Result
from proxy.protocol.models import resolve
from proxy.protocol.plan import (
    Base64Source,
    Grammar,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
)

GRAMMAR = {"syntax": "lark", "definition": "start: X"}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def asked(*messages: Any, **more: Any) -> ChatPlan:
    return decode(json.dumps({"model": "sonnet", "messages": list(messages), **more}).encode())


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def texts(plan: ChatPlan) -> list[list[str]]:
    """The texts of each message."""
    return [[block.text for block in message.content if isinstance(block, TextBlock)] for message in plan.plan.messages]


def test_where_several_speak_the_model_is_told_who() -> None:
    found = asked(user("I like tea.", name="alice"), user("I like coffee.", name="bob"), user("Who?", name="carol"))
    assert texts(found) == [["[alice]:", "I like tea.", "[bob]:", "I like coffee.", "[carol]:", "Who?"]]
    assert found.ignored == ()


def test_one_name_alone_is_named_as_ignored() -> None:
    found = asked(user("a", name="alice"), {"role": "assistant", "content": "b"}, user("c", name="alice"))
    assert texts(found) == [["a"], ["b"], ["c"]]
    assert found.ignored == ("messages.name",)


@pytest.mark.parametrize("tail", ["Once upon a time there was", [{"type": "text", "text": "Once"}]])
def test_an_answer_that_is_to_be_gone_on_with(tail: Any) -> None:
    found = asked(user("Write a long story."), {"role": "assistant", "content": tail})
    assert [message.role for message in found.plan.messages] == ["user", "assistant", "user"]
    assert texts(found)[-1] == [CONTINUE]


def test_a_json_object_with_a_schema_is_held_to_it() -> None:
    schema = {"type": "object", "properties": {"team": {"type": "string"}}, "required": ["team"]}
    found = asked(user("who won?"), response_format={"type": "json_object", "schema": schema})
    assert found.plan.schema is not None
    assert json.loads(bytes(found.plan.schema.source)) == schema
    assert found.plan.schema.where == "response_format.schema"


def test_flat_and_bare_tools_are_tools() -> None:
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    found = asked(
        user("go"),
        tools=[
            {"type": "function", "name": "grep", "description": "d", "parameters": schema},
            {"name": "read_file", "description": "e", "input_schema": schema},
            {"type": "custom", "name": "patch", "format": GRAMMAR | {"type": "grammar"}},
            {"type": "custom", "custom": {"name": "sql", "format": {"type": "grammar", "grammar": GRAMMAR}}},
        ],
    )  # fmt: skip
    assert [tool.name for tool in found.plan.tools] == ["grep", "read_file", "patch", "sql"]
    assert json.loads(bytes(found.plan.tools[1].schema)) == schema
    assert "start: X" in found.plan.tools[2].description
    grammars = [tool.grammar for tool in found.plan.tools[2:]]
    assert grammars == [Grammar("lark", "start: X", f"tools[{place}.format") for place in ("2]", "3].custom")]
    assert found.style.custom == {"patch", "sql"}


@pytest.mark.parametrize(
    ("tools", "ignored"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, ("tools.strict",)),
        ({"tools": [{"type": "function", "name": "f", "strict": True}]}, ("tools.strict",)),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": False}}]}, ()),
        ({"functions": [{"name": "f", "strict": True}]}, ("functions.strict",)),
    ],
)
def test_a_tool_that_is_to_be_strict_is_told_that_it_is_not(tools: dict[str, Any], ignored: tuple[str, ...]) -> None:
    assert asked(user("go"), **tools).ignored == ignored


@pytest.mark.parametrize("tool", [{}, {"description": "no name"}, {"type": "custom"}])
def test_a_tool_without_a_name_is_refused(tool: Any) -> None:
    with pytest.raises(Rejection) as caught:
        asked(user("go"), tools=[tool])
    assert (caught.value.failure.param or "").startswith("tools[0]")


def test_blocks_of_the_messages_api_are_what_they_are() -> None:
    found = asked(
        user([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}]),
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                {"type": "text", "text": "let me look"},
                {"type": "tool_use", "id": "toolu_1", "name": "lookup", "input": {"q": "x"}},
            ],
        },
        user([{"type": "tool_result", "tool_use_id": "toolu_1", "content": "answer: r"}]),
    )
    image, said, results = found.plan.messages
    assert isinstance(image.content[0], ImageBlock)
    assert [type(block) for block in said.content] == [ThinkingBlock, TextBlock, ToolUseBlock]
    (result,) = results.content
    assert isinstance(result, ToolResultBlock)
    assert (result.tool_use_id, result.content) == ("toolu_1", (TextBlock("answer: r"),))


TEXT_FILE = "data:text/plain;base64,V29yZHMu"


@pytest.mark.parametrize(
    ("part", "as_chat_has_it"),
    [
        ({"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
         {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}),
        ({"type": "input_image", "image_url": "https://example.com/a.png", "detail": "auto"},
         {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}),
        ({"type": "input_file", "filename": "a.txt", "file_data": TEXT_FILE},
         {"type": "file", "file": {"filename": "a.txt", "file_data": TEXT_FILE}}),
    ],
)  # fmt: skip
def test_parts_of_the_responses_api_are_what_they_are(part: dict[str, Any], as_chat_has_it: dict[str, Any]) -> None:
    assert asked(user([part])) == asked(user([as_chat_has_it]))
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    past = [user("x"), {"role": "assistant", "tool_calls": [call]}]
    found, expected = (
        asked(*past, {"role": "tool", "tool_call_id": "a", "content": [one]}) for one in (part, as_chat_has_it)
    )
    assert found == expected


@pytest.mark.parametrize(
    ("part", "param"),
    [({"type": "input_file"}, ""), ({"type": "input_file", "file_id": "f"}, ".file_id"),
     ({"type": "input_file", "file_data": "%"}, ".file_data"), ({"type": "input_image"}, ".image_url.url")],
)  # fmt: skip
def test_what_such_a_part_lacks_is_named(part: dict[str, Any], param: str) -> None:
    with pytest.raises(Rejection) as caught:
        asked(user([part]))
    assert caught.value.failure.param == f"messages[0].content[0]{param}"


@pytest.mark.parametrize("arguments", ['{"city":"Oslo"}', {"city": "Oslo"}])
def test_arguments_of_a_past_call_may_be_an_object(arguments: Any) -> None:
    function = {"name": "f", "arguments": arguments}
    for said in ({"tool_calls": [{"id": "a", "type": "function", "function": function}]}, {"function_call": function}):
        (call,) = asked(user("x"), {"role": "assistant"} | said).plan.messages[1].content
        assert isinstance(call, ToolUseBlock)
        assert json.loads(bytes(call.input)) == {"city": "Oslo"}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (rb"cut here \ud83d", "cut here \ufffd"), (rb"\ude00 half", "\ufffd half"),
        (rb"\ud83d\ud83d\ude00", "\ufffd\U0001f600"), (rb"whole \ud83d\ude00", "whole \U0001f600"),
        (rb"\\ud83d is text", "\\ud83d is text"), (rb"\\\ud83d", "\\\ufffd"),
    ],
)  # fmt: skip
def test_half_a_character_is_a_replacement_character(text: bytes, read: str) -> None:
    body = b'{"model": "sonnet", "messages": [{"role": "user", "content": "%b"}]}' % text
    assert texts(decode(body)) == [[read]]


def test_whole_numbers_may_have_a_fraction_of_zero() -> None:
    body = (
        b'{"model": "sonnet", "max_tokens": 100.0, "n":2.00, "messages": [{"role": "user", "content": "\\"n\\": 2.0"}]}'
    )
    found = decode(body)
    assert (found.plan.max_tokens, found.n) == (100, 2)
    assert texts(found) == [['"n": 2.0']]


@pytest.mark.parametrize("number", ["100.5", "1e2", '"100"'])
def test_other_numbers_are_no_whole_ones(number: str) -> None:
    with pytest.raises(Rejection) as caught:
        decode(f'{{"model": "sonnet", "max_tokens": {number}, "messages": []}}'.encode())
    assert caught.value.failure.param == "max_tokens"
    assert MAX_FRACTIONS > 2


@pytest.mark.parametrize("url", [f"data:image/png;base64,{PNG[:40]}\n{PNG[40:]}\r\n", f"DATA:image/PNG; BASE64,{PNG}"])
def test_base64_may_be_broken_into_lines(url: str) -> None:
    found = asked(user([{"type": "image_url", "image_url": {"url": url}}]))
    (image,) = found.plan.messages[0].content
    assert isinstance(image, ImageBlock)
    assert image.source == Base64Source("image/png", PNG)


@pytest.mark.parametrize(
    ("name", "asks_for"),
    [
        *((name, name) for name in ("claude-opus-5", "claude-sonnet-5", "claude-fable-5")),
        ("claude-opus-4", "opus"), ("claude-sonnet-4", "sonnet"), ("anthropic/claude-opus-5[1m]", "claude-opus-5[1m]"),
    ],
)  # fmt: skip
def test_ids_of_one_number_are_real_from_the_fifth_on(name: str, asks_for: str) -> None:
    assert resolve(name) == asks_for


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("API Error: 400 You're out of extra usage. Add more and keep going.", Kind.PLAN_LIMIT),
        ("Third-party apps now draw from your extra usage, not your plan limits.", Kind.EXTRA_USAGE),
        ("messages: at least one is required, not even extra usage", Kind.REFUSED_UPSTREAM),
    ],
)  # fmt: skip
def test_extra_usage_is_no_fault_of_the_request(text: str, kind: Kind) -> None:
    line = Result(subtype="success", is_error=True, result=text, api_error_status=400, num_turns=1)
    failure = of_result(line, None, None)
    assert failure.kind is kind
    assert (failure.row.status, failure.row.retry) == ((400, None) if kind is Kind.REFUSED_UPSTREAM else (429, False))


@pytest.mark.parametrize("given", ["[]", '"x"', "5"])
def test_arguments_that_are_no_object_are_not_lost_in_silence(given: str) -> None:
    call = f'{{"type": "tool_use", "id": "t", "name": "f", "input": {given}}}'
    with pytest.raises(Rejection) as caught:
        decode(f'{{"model": "opus", "messages": [{{"role": "assistant", "content": [{call}]}}]}}'.encode())
    assert caught.value.failure.param == "messages[0].content[0].input"


@pytest.mark.parametrize(
    ("choice", "names", "must", "sent"),
    [
        ({"type": "tool", "name": "b"}, ["a", "b"], True, ToolChoice("tool", name="b")),
        ({"type": "any"}, ["a", "b"], True, ToolChoice("any")),
        ({"type": "any", "disable_parallel_tool_use": True}, ["a", "b"], True, ToolChoice("any", True)),
        ({"type": "auto"}, ["a", "b"], False, None),
        ({"type": "auto", "disable_parallel_tool_use": True}, ["a", "b"], False, ToolChoice("auto", True)),
        ({"type": "none"}, [], False, None),
    ],
)
def test_a_choice_of_tools_in_the_form_of_another_api(
    choice: Any, names: list[str], must: bool, sent: ToolChoice | None
) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("a", "b")]
    body = {"model": "opus", "messages": [user("go")], "tools": tools, "tool_choice": choice}
    found = decode(json.dumps(body).encode(), Rules(native=True))
    assert [tool.name for tool in found.plan.tools] == names
    assert (found.plan.must_call, found.plan.tool_choice, found.ignored) == (must, sent, ())


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ({"type": "function"}, "tool_choice.function"), ({"type": "custom"}, "tool_choice.custom"),
        ({"type": "tool"}, "tool_choice.name"), ({"type": "tool", "name": "c"}, "tool_choice.name"),
        ({"type": "some"}, "tool_choice.type"),
    ],
)  # fmt: skip
def test_a_choice_without_a_tool_is_refused(choice: Any, param: str) -> None:
    with pytest.raises(Rejection) as caught:
        asked(user("go"), tools=[{"type": "function", "function": {"name": "a"}}], tool_choice=choice)
    assert caught.value.failure.param == param
