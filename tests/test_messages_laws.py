"""The Messages API over every recording: what was passed on of its events is what the client gets, and the other
dialects tell the same of it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from proxy.dialects import Encoder, Event, Identity, Rules
from proxy.dialects.anthropic.encoder import MessageEncoder
from proxy.dialects.openai.chat import ChatEncoder
from proxy.dialects.openai.chat_types import AnswerHead
from proxy.dialects.openai.responses.encoder import ResponsesEncoder
from proxy.dialects.openai.responses.request import decode
from proxy.protocol.answer import Answer, Fold
from proxy.protocol.deltas import Delta, Failed, Finished, Proposed, Refusal, Retracted, Searching
from proxy.protocol.history import argument_object
from tests.test_laws import Asked, deltas_of, each_recording, questions

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
# What the API is known to send; others are left out.
BLOCKS = ("text", "tool_use", "thinking", "redacted_thinking")
PIECES = ("text_delta", "citations_delta", "input_json_delta", "thinking_delta", "signature_delta")


def plain(asked: Asked) -> bool:
    """It was answered, by one message, in the words of the Messages API."""
    deltas = deltas_of(asked, asked.data)
    odd = (Failed, Retracted, Refusal, Proposed)
    return asked.schema is None and not any(isinstance(delta, odd) for delta in deltas)


ANSWERED = [asked for asked in questions() if plain(asked)]
every_answer = each_recording(ANSWERED)


def events_of(deltas: list[Delta]) -> list[dict[str, Any]]:
    """What a client gets for these deltas, by the names of the events."""
    encoder = MessageEncoder("msg_none")
    last = deltas[-1]
    assert isinstance(last, Finished)
    # One by one: however they are cut, the events are the same.
    found: list[Event] = [event for delta in deltas for event in encoder.feed(0, [delta])]
    found += encoder.close(last.tokens)
    told = [json.loads(msgspec.json.encode(event.data)) for event in found]
    assert [event.name for event in found] == [data["type"] for data in told]
    return told


def upstream_of(asked: Asked) -> list[dict[str, Any]]:
    """The events of the answer's message that the CLI has passed on, in their order."""
    message: list[dict[str, Any]] = []
    for row in asked.data.splitlines():
        if not row.startswith(b"{"):
            continue
        line = json.loads(row)
        if line["type"] != "stream_event" or line.get("parent_tool_use_id"):
            continue
        event = line["event"]
        if event["type"] == "message_start":
            message = []
        message.append(event)
        if event["type"] == "message_stop" and any(one["type"] == "message_delta" for one in message):
            break
    if message and message[-1]["type"] == "message_delta":
        # A recording goes no further where the CLI is killed at an answer's end.
        message.append({"type": "message_stop"})
    return message


def is_one_message(asked: Asked) -> bool:
    """It was streamed, and not asked for again without that; and the CLI has not searched the web between messages."""
    searched = any(isinstance(delta, Searching) for delta in deltas_of(asked, asked.data))
    return not searched and any(event["type"] == "message_delta" for event in upstream_of(asked))


STREAMED = [asked for asked in ANSWERED if is_one_message(asked)]


def said(events: list[dict[str, Any]]) -> list[Any]:
    """Events by what the API says in them: without pings, blocks and pieces that say nothing, and what a client of a
    stream does not look at."""
    blocks: dict[int, list[Any]] = {}
    found: list[Any] = []
    for event in events:
        kind = event["type"]
        if kind == "message_start":
            found.append((kind, event["message"]["id"], event["message"]["model"], event["message"]["role"]))
        elif kind == "content_block_start":
            block = event["content_block"]
            blocks[event["index"]] = [kind, *(block.get(name) for name in ("type", "id", "name", "data"))]
        elif kind == "content_block_delta":
            value = next((value for name, value in event["delta"].items() if name != "type"), None)
            if value and event["delta"]["type"] in PIECES:
                blocks[event["index"]].append((event["delta"]["type"], value))
        elif kind == "content_block_stop":
            block = blocks.pop(event["index"])
            if block[1] in BLOCKS and (block[1] == "tool_use" or len(block) > 5 or block[4]):
                found.append(_whole_calls(block))
        elif kind == "message_delta":
            found.append((kind, event["delta"]["stop_reason"], event["delta"].get("stop_sequence")))
            found.append(("output_tokens", event["usage"]["output_tokens"]))
        elif kind == "message_stop":
            found.append((kind,))
    return found


def _whole_calls(block: list[Any]) -> list[Any]:
    """A call without arguments has no piece upstream, and here an empty object."""
    if block[1] == "tool_use":
        block[5:] = ["".join(text for _, text in block[5:]) or "{}"]
    return block


def test_there_are_answers_of_every_kind() -> None:
    assert len(STREAMED) > len(ANSWERED) * 0.8
    names = " ".join(asked.name for asked in ANSWERED)
    for topic in (
        "chat/plain",
        "messages/told",
        "messages/",
        "tools/parallel",
        "reasoning/thinking",
        "limits/max_tokens",
        "limits/refusal",
    ):
        assert topic in names, topic


@each_recording(STREAMED)
def test_a_stream_is_what_upstream_sent_and_the_cli_passed_on(asked: Asked) -> None:
    assert said(events_of(deltas_of(asked, asked.data))) == said(upstream_of(asked))


UNLIKE = ("server_tool_use", "output_tokens")


def told(value: dict[str, Any]) -> dict[str, Any]:
    """What is said beside content, without what is null. Searches are counted here, not there; what an answer without
    content has used is known before it begins."""
    return {name: one for name, one in value.items() if one is not None and name not in UNLIKE}


@each_recording(STREAMED)
def test_what_upstream_says_beside_content_is_handed_on(asked: Asked) -> None:
    events, upstream = events_of(deltas_of(asked, asked.data)), upstream_of(asked)
    (start,) = (event["message"] for event in upstream if event["type"] == "message_start")
    ours = events[0]["message"]
    assert told(start["usage"]).items() <= told(ours["usage"]).items()
    for name in ("container", "diagnostics"):
        assert ours[name] == start.get(name)
    for end in upstream:
        if end["type"] == "message_delta":
            assert told(end["usage"]).items() <= told(events[-2]["usage"]).items()
            assert events[-2].get("context_management") == end.get("context_management")
            assert events[-2]["delta"]["container"] == end["delta"].get("container")
    # And in the whole answer.
    whole, merged = whole_of(asked), {**start, **events[-2], **events[-2]["delta"]}
    assert told(start["usage"] | events[-2]["usage"]).items() <= told(whole["usage"]).items()
    for name in ("container", "diagnostics", "context_management"):
        assert whole.get(name) == merged.get(name)


@every_answer
def test_every_event_is_one_of_the_apis(asked: Asked) -> None:
    events = events_of(deltas_of(asked, asked.data))
    for event in events:
        EVENT.validate_json(json.dumps(event), strict=True)
    names = [event["type"] for event in events]
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    # Blocks are numbered, and one is open at a time.
    indexes = [event["index"] for event in events if event["type"] == "content_block_start"]
    assert indexes == list(range(len(indexes)))
    open_block = None
    for event in events:
        if event["type"] == "content_block_start":
            assert open_block is None
            open_block = event["index"]
        elif event["type"].startswith("content_block"):
            assert event["index"] == open_block
            open_block = None if event["type"] == "content_block_stop" else open_block


def whole_of(asked: Asked) -> dict[str, Any]:
    """The answer that is not streamed."""
    answer = answer_of(asked)
    found: dict[str, Any] = json.loads(msgspec.json.encode(MessageEncoder("msg_none").whole([answer], answer.tokens)))
    Message.model_validate_json(json.dumps(found), strict=True)
    return found


def answer_of(asked: Asked) -> Answer:
    fold = Fold()
    fold.take(deltas_of(asked, asked.data))
    return fold.answer()


def usage_of(usage: Any) -> dict[str, Any]:
    """What a stream says of it at its end, too."""
    return {name: usage[name] for name in ("input_tokens", "output_tokens", "cache_read_input_tokens")}


def is_json(answer: Answer) -> bool:
    """All arguments of calls are, so that a client can read them piece by piece."""
    try:
        return all(json.loads(call.arguments or "{}") is not None for call in answer.calls)
    except ValueError:
        return False


@each_recording([asked for asked in ANSWERED if is_json(answer_of(asked))])
def test_a_stream_adds_up_to_the_whole_answer_for_the_apis_own_client(asked: Asked) -> None:
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events_of(deltas_of(asked, asked.data)):
        parsed = EVENT.validate_json(json.dumps(event))
        snapshot = accumulate_event(event=parsed, current_snapshot=snapshot, json_bufs=buffers)
    folded, whole = json.loads(snapshot.to_json()), whole_of(asked)
    assert [plain_block(block) for block in folded["content"]] == [plain_block(block) for block in whole["content"]]
    for name in ("id", "model", "role", "type", "stop_reason", "stop_sequence"):
        assert folded[name] == whole[name], name
    assert usage_of(folded["usage"]) == usage_of(whole["usage"])


def plain_block(block: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name in ("type", "text", "thinking", "id", "name", "input")}


@every_answer
def test_all_apis_tell_the_same(asked: Asked) -> None:
    answer, message = answer_of(asked), whole_of(asked)
    told = {
        "text": "".join(block["text"] for block in message["content"] if block["type"] == "text"),
        "calls": [
            (block["name"], block["input"]) for block in message["content"] if block["type"] == "tool_use"
        ],
        "input": sum(
            message["usage"][name]
            for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        ),
        "output": message["usage"]["output_tokens"],
    }  # fmt: skip
    completion = encoded(ChatEncoder(AnswerHead("chatcmpl-1", 1, "claude-code")), answer)
    (choice,) = completion["choices"]
    calls = [call["function"] for call in choice["message"].get("tool_calls", ())]
    assert told == {
        "text": choice["message"]["content"] or "",
        "calls": [(call["name"], arguments(call)) for call in calls],
        "input": completion["usage"]["prompt_tokens"],
        "output": completion["usage"]["completion_tokens"],
    }
    identity = Identity("0" * 32, 1, "claude-code")
    request = decode(b'{"model":"opus","input":"Hi."}', Rules(secret=b"s" * 32))
    response = encoded(ResponsesEncoder(request, identity), answer)
    items = response["output"]
    assert told == {
        "text": "".join(part["text"] for item in items if item["type"] == "message" for part in item["content"]),
        "calls": [(item["name"], arguments(item)) for item in items if item["type"] == "function_call"],
        "input": response["usage"]["input_tokens"],
        "output": response["usage"]["output_tokens"],
    }


def arguments(call: dict[str, Any]) -> Any:
    return msgspec.json.decode(argument_object(call["arguments"]))


def encoded(encoder: Encoder, answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(msgspec.json.encode(encoder.whole([answer], answer.tokens)))
    return found


FAILED = [
    asked
    for asked in questions()
    if len(deltas_of(asked, asked.data)) > 1 and isinstance(deltas_of(asked, asked.data)[-1], Failed)
]


@each_recording(FAILED)
def test_a_stream_that_fails_says_what_came_and_that_it_failed(asked: Asked) -> None:
    *deltas, last = deltas_of(asked, asked.data)
    assert isinstance(last, Failed)
    encoder = MessageEncoder("msg_none")
    events = [json.loads(msgspec.json.encode(event.data)) for event in encoder.feed(0, deltas)]
    assert [event["type"] for event in events][:1] == ["message_start"]
    assert not {"message_delta", "message_stop"} & {event["type"] for event in events}
    (error,) = encoder.fail(last.failure)
    assert (error.name, json.loads(msgspec.json.encode(error.data))["type"]) == ("error", "error")
