"""Lines as the CLI writes them, as tables; their shapes are those of fixtures/transcripts."""

from __future__ import annotations

import json
from typing import Any

from proxy.protocol.line_decoder import decode_line
from proxy.protocol.lines import Line

Table = dict[str, Any]

OPUS = "claude-opus-5-5"
HEAD_USAGE = {
    "input_tokens": 10, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 7, "output_tokens": 1,
    "service_tier": "standard",
}  # fmt: skip
END_USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 5,
    "cache_read_input_tokens": 7,
    "output_tokens": 12,
}


def raw(*tables: Table) -> bytes:
    """The bytes of these lines."""
    return b"".join(json.dumps(table, ensure_ascii=False).encode() + b"\n" for table in tables)


def lines(*tables: Table) -> list[Line]:
    """The same, decoded."""
    return [decode_line(json.dumps(table).encode()) for table in tables]


def event(table: Table, **more: Any) -> Table:
    return {"type": "stream_event", "event": table, "session_id": "s", "parent_tool_use_id": None, "uuid": "u"} | more


def start(model: str = OPUS, usage: Table | None = None) -> Table:
    message: Table = {
        "id": "msg_01", "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": HEAD_USAGE if usage is None else usage,
    }  # fmt: skip
    return event({"type": "message_start", "message": message})


def opened(index: int = 0, **block: Any) -> Table:
    head = block or {"type": "text", "text": ""}
    return event({"type": "content_block_start", "index": index, "content_block": head})


def piece(text: str, index: int = 0) -> Table:
    return event({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}})


def thought(text: str, index: int = 0) -> Table:
    delta = {"type": "thinking_delta", "thinking": text, "estimated_tokens": 5}
    return event({"type": "content_block_delta", "index": index, "delta": delta})


def signature(index: int = 0) -> Table:
    delta = {"type": "signature_delta", "signature": "c2ln"}
    return event({"type": "content_block_delta", "index": index, "delta": delta})


def arguments(text: str, index: int = 0) -> Table:
    delta = {"type": "input_json_delta", "partial_json": text}
    return event({"type": "content_block_delta", "index": index, "delta": delta})


def closed(index: int = 0) -> Table:
    return event({"type": "content_block_stop", "index": index})


def end(reason: str | None = "end_turn", usage: Table | None = None) -> Table:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return event({"type": "message_delta", "delta": delta, "usage": END_USAGE if usage is None else usage})


def stopped() -> Table:
    return event({"type": "message_stop"})


def snapshot(*blocks: Table, stop_reason: str | None = None, model: str = OPUS, usage: Table | None = None) -> Table:
    message = {
        "id": "msg_01", "type": "message", "role": "assistant", "model": model, "content": list(blocks),
        "stop_reason": stop_reason, "stop_sequence": None, "usage": HEAD_USAGE if usage is None else usage,
    }  # fmt: skip
    return {"type": "assistant", "message": message, "parent_tool_use_id": None, "session_id": "s", "uuid": "u"}


def text_block(text: str) -> Table:
    return {"type": "text", "text": text}


def words(text: str, error: str | None = None) -> Table:
    """What the CLI says itself, as if it were the model."""
    line = snapshot(text_block(text), model="<synthetic>", stop_reason="stop_sequence")
    return line if error is None else line | {"error": error}


def system(subtype: str, **more: Any) -> Table:
    return {"type": "system", "subtype": subtype, "session_id": "s", "uuid": "u"} | more


def retry(wait_ms: float = 600, status: int | None = 529, error: str | None = "overloaded") -> Table:
    return system(
        "api_retry", attempt=1, max_retries=1, retry_delay_ms=wait_ms, error_status=status, error=error
    )  # fmt: skip


def limits(status: str = "allowed", **info: Any) -> Table:
    return {"type": "rate_limit_event", "rate_limit_info": {"status": status} | info, "uuid": "u", "session_id": "s"}


def result(**more: Any) -> Table:
    return {
        "type": "result", "subtype": "success", "is_error": False, "num_turns": 1, "result": "text",
        "stop_reason": "end_turn", "duration_ms": 0, "session_id": "s", "uuid": "u", "usage": END_USAGE,
    } | more  # fmt: skip


def error_result(text: str = "API Error: broken", **more: Any) -> Table:
    return result(is_error=True, result=text, stop_reason="stop_sequence") | more


def put_in() -> Table:
    """The answer to a message of the past."""
    return result(num_turns=0, result="", stop_reason=None)


def search(index: int, id: str, query: str, **more: Any) -> list[Table]:
    """A block in which the model searches the web."""
    return call(index, id, "WebSearch", json.dumps({"query": query} | more))


def ran(id: str, outcome: Any, *, error: bool = False) -> Table:
    """A tool that the CLI runs itself has ended."""
    block = {"type": "tool_result", "tool_use_id": id, "content": "text"} | ({"is_error": True} if error else {})
    return {
        "type": "user", "message": {"role": "user", "content": [block]}, "parent_tool_use_id": None,
        "session_id": "s", "uuid": "u", "tool_use_result": outcome,
    }  # fmt: skip


def found(id: str, *links: tuple[str, str], query: str = "q") -> Table:
    """A search has found these titles and addresses."""
    hits = [{"title": title, "url": url} for title, url in links]
    results = [{"tool_use_id": "srvtoolu_01", "content": hits}, "What the model made of it."]
    return ran(id, {"query": query, "results": results, "durationSeconds": 0.1, "searchCount": 1})


def reply(request_id: str, **more: Any) -> Table:
    return {"type": "control_response", "response": {"subtype": "success", "request_id": request_id} | more}


def message(*pieces: str, reason: str | None = "end_turn", model: str = OPUS) -> list[Table]:
    """A whole message of one text block, as it streams."""
    whole = text_block("".join(pieces))
    return [start(model), opened(), *map(piece, pieces), snapshot(whole, model=model), closed(), end(reason), stopped()]


def answer(*pieces: str) -> list[Table]:
    """The same with what stands around it."""
    return [system("init", claude_code_version="2.1.330"), system("status"), *message(*pieces), limits(), result()]


def call(index: int, id: str, name: str, *pieces: str) -> list[Table]:
    """A block that calls a tool."""
    return [
        opened(index, type="tool_use", id=id, name=name, input={}),
        *(arguments(text, index) for text in pieces),
        snapshot({"type": "tool_use", "id": id, "name": name, "input": json.loads("".join(pieces) or "{}")}),
        closed(index),
    ]
