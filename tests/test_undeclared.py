"""No field of a request is lost in silence: what no type declares is named, wherever it stands, in every API."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec import Raw

from proxy.dialects import NoLookup, Rules, parameters
from proxy.dialects.anthropic.messages import Messages, MessagesCount
from proxy.dialects.ollama.dialect import CHAT, GENERATE
from proxy.dialects.openai.chat import Chat
from proxy.dialects.openai.completions import LegacyCompletions
from proxy.dialects.openai.responses.compact import Compaction
from proxy.dialects.openai.responses.counting import ResponsesCount
from proxy.dialects.openai.responses.dialect import Responses
from proxy.dialects.undeclared import Undeclared
from proxy.protocol.failures import Rejection
from tests.conftest import Serve

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
# What is in there is the client's own, and passed on as it is.
FREE = {"parameters", "input_schema", "schema", "input", "arguments", "metadata", "action"}

CHAT_BODY: dict[str, Any] = {
    "model": "opus",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "developer", "content": "Really."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look."},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                {"type": "file", "file": {"file_data": "data:text/plain;base64,aGVsbG8=", "filename": "a.txt"}},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "I call."}],
            "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}],
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
                {"id": "call_2", "type": "custom", "custom": {"name": "free", "input": "x"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Sunny."}]},
        {"role": "tool", "tool_call_id": "call_2", "content": "Done."},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "call_3", "name": "weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_3", "content": "Rain."}]},
    ],
    "tools": [
        {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
        {"type": "custom", "custom": {"name": "free", "format": {"type": "text"}}},
        {"name": "bare", "input_schema": SCHEMA},
    ],
    "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}]},
    },
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
    "stream_options": {"include_usage": True},
    "web_search_options": {},
}
MESSAGES_BODY: dict[str, Any] = {
    "model": "opus",
    "max_tokens": 100,
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look."},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "Words."},
                    "citations": {"enabled": True},
                },
                {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "x"}]},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "Sunny."}]}
            ],
        },
    ],
    "tools": [{"name": "weather", "input_schema": SCHEMA}, {"type": "web_search_20250305", "name": "web_search"}],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
}
RESPONSES_BODY: dict[str, Any] = {
    "model": "opus",
    "input": [
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look."},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
            ],
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I call."}]},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "Sunny."}]},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "free", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "y"},
        {"type": "shell_call", "call_id": "call_3", "action": {"commands": ["ls"]}},
        {
            "type": "shell_call_output",
            "call_id": "call_3",
            "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
        },
    ],
    "tools": [
        {"type": "function", "name": "weather", "parameters": SCHEMA},
        {"type": "custom", "name": "free", "format": {"type": "grammar", "syntax": "lark", "definition": "start: A"}},
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "inner", "parameters": SCHEMA}]},
        {"type": "shell"},
        {"type": "web_search", "filters": {"allowed_domains": ["a.example"]}},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
    "reasoning": {"effort": "low"},
    "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}},
    "stream_options": {},
}
OLLAMA_CHAT_BODY: dict[str, Any] = {
    "model": "opus",
    "messages": [
        {"role": "user", "content": "Look.", "images": [PNG]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weather", "arguments": {}}}]},
        {"role": "tool", "content": "Sunny.", "tool_name": "weather"},
    ],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}],
    "options": {"num_predict": 10},
}
TEXT_BODY: dict[str, Any] = {"model": "opus", "prompt": "Once", "stream_options": {"include_usage": True}}
GENERATE_BODY: dict[str, Any] = {"model": "opus", "prompt": "Once", "options": {"num_predict": 10}}
COMPACT_BODY: dict[str, Any] = {"model": "opus", "input": RESPONSES_BODY["input"]}
RULES = Rules(native=True)


def decoding(dialect: Any) -> Callable[[bytes, Rules], tuple[str, ...]]:
    return lambda body, rules: tuple(dialect.decode(body, rules).ignored)


APIS: dict[str, tuple[Callable[[bytes, Rules], tuple[str, ...]], dict[str, Any]]] = {
    "chat": (decoding(Chat()), CHAT_BODY),
    "completions": (decoding(LegacyCompletions()), TEXT_BODY),
    "messages": (decoding(Messages()), MESSAGES_BODY),
    "count_tokens": (decoding(MessagesCount()), MESSAGES_BODY),
    "responses": (decoding(Responses()), RESPONSES_BODY),
    "input_tokens": (decoding(ResponsesCount()), RESPONSES_BODY),
    "compact": (decoding(Compaction()), COMPACT_BODY),
    "ollama_chat": (decoding(CHAT), OLLAMA_CHAT_BODY),
    "ollama_generate": (decoding(GENERATE), GENERATE_BODY),
}
Place = tuple[str | int, ...]


def objects(value: Any, place: Place = ()) -> Iterator[Place]:
    """The places of all objects that are no client's own."""
    if isinstance(value, dict):
        yield place
        for name, inner in value.items():
            if name not in FREE or isinstance(inner, list):
                yield from objects(inner, (*place, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from objects(inner, (*place, index))


CASES = [(api, place) for api, (_, body) in APIS.items() for place in objects(body)]


def with_field(body: dict[str, Any], place: Place, field: str, value: Any = 1) -> dict[str, Any]:
    changed = copy.deepcopy(body)
    target: Any = changed
    for step in place:
        target = target[step]
    target[field] = value
    return changed


def ignored(api: str, body: dict[str, Any], rules: Rules = RULES) -> tuple[str, ...]:
    return APIS[api][0](json.dumps(body).encode(), rules)


@pytest.mark.parametrize("api", APIS)
def test_what_is_declared_is_not_named(api: str) -> None:
    assert ignored(api, APIS[api][1]) == ()


@pytest.mark.parametrize("api", APIS)
def test_what_is_declared_is_not_taken_apart(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at each value as it stands takes several times as long as that there is nothing to be named."""

    def slow(*_: object) -> None:
        raise AssertionError("it was taken apart")

    monkeypatch.setattr(Undeclared, "_found", slow)
    assert ignored(api, APIS[api][1]) == ()


@pytest.mark.parametrize(("api", "place"), CASES, ids=lambda one: ".".join(map(str, one)) if one else None)
def test_an_undeclared_field_is_named_wherever_it_stands(api: str, place: Place) -> None:
    names = [str(step) for step in place if isinstance(step, str)]
    # The kind of a search tool stands in the names of its fields.
    if names[:1] == ["tools"] and place[1:2] == (4,) and api in ("responses", "input_tokens"):
        names.insert(1, "web_search")
    body = with_field(APIS[api][1], place, "x_new")
    assert ignored(api, body) == (".".join([*names, "x_new"]),)
    with pytest.raises(Rejection) as caught:
        ignored(api, body, Rules(native=True, strict=True))
    assert caught.value.failure.param == ".".join([*names, "x_new"])


@pytest.mark.parametrize("nothing", [None, [], {}])
@pytest.mark.parametrize("api", APIS)
def test_a_field_that_asks_for_nothing_is_not_named(api: str, nothing: Any) -> None:
    for place in objects(APIS[api][1]):
        assert ignored(api, with_field(APIS[api][1], place, "x_new", nothing)) == ()


def test_an_answer_that_is_sent_back_is_named_and_never_refused() -> None:
    strict = Rules(native=True, strict=True)
    answer: dict[str, Any] = {
        "role": "assistant", "content": "Hello.", "refusal": None, "annotations": [], "audio": None,
        "reasoning_content": "Hm.",
        "tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
    }  # fmt: skip
    turns: list[dict[str, Any]]
    turns = [{"role": "user", "content": "Hi."}, answer, {"role": "tool", "tool_call_id": "a", "content": "Sunny."}]
    sent: dict[str, Any] = {"model": "opus", "messages": turns}
    assert ignored("chat", sent, strict) == ("messages.reasoning_content", "messages.tool_calls.index")
    unsigned = {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}]}
    turns = [{"role": "user", "content": "Hi."}, unsigned, {"role": "user", "content": "Go on."}]
    sent = {"model": "opus", "max_tokens": 9, "messages": turns}
    assert ignored("messages", sent, strict) == ("messages.thinking",)
    assert ignored("chat", sent, strict) == ("messages.thinking",)
    said = {"role": "assistant", "content": "Hello.", "thinking": "Hm."}
    turns = [{"role": "user", "content": "Hi."}, said, {"role": "user", "content": "Go on."}]
    assert ignored("ollama_chat", {"model": "opus", "messages": turns}, strict) == ("messages.thinking",)


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_marks_that_are_not_placed_are_never_refused(api: str) -> None:
    body = with_field(APIS[api][1], ("tools", 0), "cache_control", {"type": "ephemeral"})
    assert ignored(api, body, Rules(native=True, strict=True)) == ("cache_control",)


def test_names_are_fit_for_a_header_and_not_without_end() -> None:
    long, odd = "n" * 200, 'x\r\n"y, z'
    assert ignored("chat", {"model": "opus", "messages": [{"role": "user", "content": "Hi.", odd: 1, long: 1}]}) == (
        "messages.x___y__z", f"messages.{'n' * 60}",
    )  # fmt: skip
    many = {f"field_{index:03}": 1 for index in range(1000)}
    told = ignored("chat", {"model": "opus", "messages": [{"role": "user", "content": "Hi."}], **many})
    assert told[0] == "field_000"
    assert told[-1] == parameters.AND_OTHERS
    assert len(", ".join(told)) <= parameters.MAX_TOLD + len(parameters.AND_OTHERS)


def test_what_earlier_answers_have_named_is_not_named_again() -> None:
    class Kept(NoLookup):
        def response(self, id: str) -> list[Raw]:
            return [Raw(b'{"type":"message","role":"user","content":[{"type":"input_text","text":"Hi.","x":1}],"y":1}')]

    body = {"model": "opus", "previous_response_id": "resp_1", "input": [{"role": "user", "content": "More.", "z": 1}]}
    assert ignored("responses", body, Rules(native=True, lookup=Kept())) == ("input.z",)


def test_half_characters_and_free_values_are_no_hindrance() -> None:
    body = b'{"model":"opus","messages":[{"role":"user","content":"\\ud83d","x":{"deep":[1]}}]}'
    assert APIS["chat"][0](body, RULES) == ("messages.x",)
    assert list(Undeclared(dict)(b'{"a":{"b":1}}')) == []


@pytest.mark.parametrize("stream", [False, True])
async def test_the_header_names_them(local: Serve, stream: bool) -> None:
    server = await local()
    message = {"role": "user", "content": [{"type": "text", "text": "hi", "x_new": 1}]}
    body = {"model": "opus", "messages": [message], "y_new": 1, "stream": stream}
    async with server.client() as client:
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    named = answer.headers["x-ignored-params"].split(", ")
    assert named == ["messages.content.x_new", "y_new"]
