"""Bodies of the Responses API that are posted to chat completions, as Cursor's agent does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from proxy.dialects import Request, Rules
from proxy.dialects.openai.chat import Chat
from proxy.dialects.openai.responses.request import decode
from proxy.protocol.failures import Rejection
from tests.responses_api import client

PATH = "/v1/chat/completions"
RULES = Rules(native=True, secret=b"s" * 32)
TOOLS = [
    {"type": "function", "name": "read_file", "parameters": {"type": "object", "properties": {}}, "strict": False},
    {"type": "custom", "name": "ApplyPatch", "description": "Patches.",
     "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x+/"}},
]  # fmt: skip
BODY: dict[str, Any] = {
    "model": "gpt-5",
    "input": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Read it."}]},
        {"type": "function_call", "call_id": "c1", "name": "read_file", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "x"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "ApplyPatch", "input": "xx"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
        {"role": "user", "content": "Go on."},
    ],
    "tools": TOOLS,
    "tool_choice": "auto",
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"verbosity": "medium"},
    "max_output_tokens": 100,
}


def asked(rules: Rules = RULES, **more: Any) -> Request:
    return Chat().decode(json.dumps(BODY | more).encode(), rules)


def refused(rules: Rules = RULES, **more: Any) -> str | None:
    with pytest.raises(Rejection) as caught:
        asked(rules, **more)
    return caught.value.failure.param


@pytest.mark.parametrize("more", [{}, {"messages": None}, {"messages": []}, {"tool_choice": {"type": "shell"}}])
def test_it_is_asked_as_by_the_responses_api(more: Any) -> None:
    tools = [*TOOLS, {"type": "shell"}]
    body = BODY | {"tools": tools} | {name: value for name, value in more.items() if name != "messages"}
    found = asked(tools=tools, **more)
    assert found.plans == (decode(json.dumps(body).encode(), RULES).plan,)
    assert (found.model, found.stream, found.ignored) == ("gpt-5", False, ())


async def test_it_is_answered_as_by_chat() -> None:
    async with client() as http:
        whole = await http.post(PATH, json=BODY | {"tools": TOOLS[1:]})
        call = ChatCompletion.model_validate_json(whole.text, strict=True).choices[0].message.tool_calls
        assert call is not None
        assert (call[0].type, whole.json()["choices"][0]["finish_reason"]) == ("custom", "tool_calls")
        assert "x-ignored-params" not in whole.headers
        more = {"stream": True, "stream_options": {"include_usage": True}, "tools": []}
        stream = await http.post(PATH, json=BODY | more)
        chunks = [json.loads(line[6:]) for line in stream.text.split("\n\n")[:-2]]
        assert stream.text.endswith("data: [DONE]\n\n")
        text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
        assert (text, chunks[-1]["usage"]["total_tokens"]) == ("Hello there.", 34)
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        without = await http.post(PATH, json=BODY | {"stream": True})
        assert '"usage":{' not in without.text


def test_what_has_no_effect_in_an_answer_of_chat_is_named() -> None:
    more: dict[str, Any] = {
        "include": ["reasoning.encrypted_content"], "store": True, "truncation": "auto", "user": "u",
        "stream_options": {"include_usage": True, "other": 1},
    }  # fmt: skip
    names = {"include", "store", "truncation", "user", "stream_options.other"}
    assert set(asked(**more).ignored) == names
    strict = Rules(native=True, secret=b"s" * 32, strict=True)
    for name in more:
        assert refused(strict, **{name: more[name]}) == ("stream_options.other" if name == "stream_options" else name)
    options = {"include_usage": True, "include_obfuscation": False}
    assert asked(strict, stream_options=options, include=[], store=False).ignored == ()


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id"),
        ({"background": True}, "background"),
        ({"stream_options": 5}, "stream_options"),
    ],
)
def test_what_cannot_be(more: Any, param: str) -> None:
    assert refused(**more) == param


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model":"opus"}', b'{"model":"opus","messages":[]}', b"[" * 5000])
def test_what_is_neither_is_refused_as_chat(body: bytes) -> None:
    with pytest.raises(Rejection) as caught:
        Chat().decode(body, RULES)
    assert "input" not in caught.value.failure.message


def test_messages_are_read_first() -> None:
    found = asked(messages=[{"role": "user", "content": "Hello."}])
    assert len(found.plans[0].messages) == 1
    assert "input" in found.ignored
