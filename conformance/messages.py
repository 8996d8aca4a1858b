"""The Messages API as it is played: requests as they arrive, what they say, and answers in its form.

What a response has no place for goes into `play`, a table of whole numbers, all optional:

    before   milliseconds of silence before the first byte
    between  milliseconds between two chunks
    size     bytes of one chunk; without it one SSE event is one chunk, one write
    cut      close the connection after that many chunks; 0: after the headers, -1: before them
    hang     the same, but the connection stays open and silent
    again    1: what the same process asks after that gets the same answer, and does not count as arrived: how often
             the CLI asks again after a refusal depends on its version
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec


class Play(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a response is played; see the module's text."""

    before: int = 0
    between: int = 0
    size: int | None = None
    cut: int | None = None
    hang: int | None = None
    again: int = 0


class Reply(msgspec.Struct, frozen=True):
    """One HTTP response, in the chunks in which it is written."""

    status: int
    headers: tuple[tuple[str, str], ...]
    chunks: tuple[bytes, ...]
    play: Play = Play()


class Arrived(msgspec.Struct, frozen=True):
    """One request as it came; `credentials` are the headers that only Live looks at, and nobody keeps."""

    at: float
    target: str
    headers: Mapping[str, str]
    credentials: Mapping[str, str]
    body: dict[str, Any]
    number: int

    @property
    def session(self) -> str | None:
        """The CLI's own name for the conversation, if it was the CLI that asked."""
        return self.headers.get("x-claude-code-session-id")


Answer = Callable[[Arrived], Reply | Awaitable[Reply]]


def sse(event: Mapping[str, Any]) -> bytes:
    """One event of a stream, as the Messages API writes it."""
    return f"event: {event['type']}\ndata: {msgspec.json.encode(event).decode()}\n\n".encode()


def stream(events: Iterable[Mapping[str, Any]], headers: Mapping[str, str] | None = None, **play: int) -> Reply:
    """A streamed answer, one chunk an event."""
    return Reply(
        200,
        (
            ("content-type", "text/event-stream; charset=utf-8"),
            ("request-id", "req_01"),
            *(headers or {}).items(),
        ),
        tuple(map(sse, events)),
        Play(**play),
    )


def error(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None, **play: int) -> Reply:
    """An error as the Messages API words it."""
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_01"}
    return Reply(
        status,
        (("content-type", "application/json"), ("request-id", "req_01"), *(headers or {}).items()),
        (msgspec.json.encode(body),),
        Play(**play),
    )


def counted(body: Mapping[str, Any]) -> Reply:
    """A count: the more the request says the larger, and never what the CLI guesses by itself."""
    tokens = 7 + len(json.dumps(simplified(body)["messages"])) + len(json.dumps(body.get("tools", [])))
    return Reply(200, (("content-type", "application/json"),), (msgspec.json.encode({"input_tokens": tokens}),))


def text(*pieces: str) -> dict[str, Any]:
    """A text block that arrives in these pieces."""
    return {
        "start": {"type": "text", "text": ""},
        "deltas": [{"type": "text_delta", "text": piece} for piece in pieces],
    }


def tool_use(identifier: str, name: str, *pieces: str) -> dict[str, Any]:
    """A tool call whose arguments arrive in these pieces of JSON."""
    return {
        "start": {"type": "tool_use", "id": identifier, "name": name, "input": {}},
        "deltas": [{"type": "input_json_delta", "partial_json": piece} for piece in pieces],
    }


def thinking(*pieces: str, signature: str = "c2lnbmF0dXJl") -> dict[str, Any]:
    """A thinking block that arrives in these pieces, signed at its end."""
    return {
        "start": {"type": "thinking", "thinking": "", "signature": ""},
        "deltas": [
            *({"type": "thinking_delta", "thinking": piece} for piece in pieces),
            {"type": "signature_delta", "signature": signature},
        ],
    }


def message(
    *blocks: Mapping[str, Any],
    stop: str = "end_turn",
    model: str = "claude-opus-5-5",
    usage: Mapping[str, int] | None = None,
    identifier: str = "msg_01",
    stop_sequence: str | None = None,
) -> list[dict[str, Any]]:
    """The events of one whole message."""
    counted = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 5,
        "cache_read_input_tokens": 7,
        "output_tokens": 12,
    }
    counted |= usage or {}
    events: list[dict[str, Any]] = [
        {
            "type": "message_start",
            "message": {
                "id": identifier, "type": "message", "role": "assistant", "model": model, "content": [],
                "stop_reason": None, "stop_sequence": None,
                "usage": counted | {"output_tokens": 1, "service_tier": "standard"},
            },
        }
    ]  # fmt: skip
    for index, block in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block["start"]})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in block["deltas"]]
        events.append({"type": "content_block_stop", "index": index})
    events.append(
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop, "stop_sequence": stop_sequence},
            "usage": counted,
        }
    )
    events.append({"type": "message_stop"})
    return events


def simplified(body: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a request that its sender decides.

    Cache marks, the billing line, the CLI's own one-line identity and what it says of its environment (a message of
    its own, in older versions a block in the first message) are left out; a content of one text block is that text,
    `system` is a list of texts.
    """
    plain: dict[str, Any] = {key: value for key, value in body.items() if key != "metadata"}
    plain["messages"] = [
        {"role": entry["role"], "content": _content(entry["content"])}
        for entry in body.get("messages", [])
        if entry["role"] != "system"
    ]
    system = body.get("system") or []
    texts = [system] if isinstance(system, str) else [block["text"] for block in system]
    plain["system"] = [
        line
        for line in texts
        if not line.startswith(("x-anthropic-billing-header:", "You are a Claude agent, built on"))
    ]
    plain["tools"] = [unmarked(tool) for tool in body.get("tools") or []]
    return plain


_CONTEXT = "<system-reminder>\nAs you answer the user's questions, you can use the following context:"


def _content(content: Any) -> Any:
    if isinstance(content, str):
        return content
    blocks = [unmarked(block) for block in content if not block.get("text", "").startswith(_CONTEXT)]
    if len(blocks) == 1 and blocks[0]["type"] == "text":
        return blocks[0]["text"]
    return blocks


def unmarked(value: Any) -> Any:
    """The value without cache marks, however deep."""
    if isinstance(value, dict):
        return {key: unmarked(inner) for key, inner in value.items() if key != "cache_control"}
    return [unmarked(inner) for inner in value] if isinstance(value, list) else value


def opening(body: Mapping[str, Any]) -> str:
    """The first text a user said, by which a conversation is known."""
    for entry in body.get("messages", []):
        if entry["role"] == "user":
            content = entry["content"]
            if isinstance(content, str):
                return content
            for block in content:
                if block.get("type") == "text" and not block["text"].startswith(_CONTEXT):
                    return str(block["text"])
    return ""
