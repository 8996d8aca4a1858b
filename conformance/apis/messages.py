"""Anthropic's Messages API."""

import json
from collections.abc import Mapping
from typing import Any

import anthropic
from anthropic.types import Message, RawMessageStreamEvent, Usage
from anthropic.types.message_create_params import MessageCreateParamsBase
from pydantic import TypeAdapter

from conformance.apis import Section
from conformance.events import named
from conformance.messages import opening as opening
from conformance.shapes import misfits

PATH = "/v1/messages"
REQUEST = "messages"
SECTIONS: Mapping[str, Section] = {
    "messages": Section(
        "Messages requests",
        "Every field of `anthropic.types.message_create_params`.",
        (*MessageCreateParamsBase.__annotations__, "stream"),
    ),
    "message": Section(
        "Messages answers",
        "Every field of `anthropic.types.Message` and of its usage.",
        (*Message.__annotations__, *(f"usage.{name}" for name in Usage.__annotations__)),
    ),
}
SHOWS: Mapping[str, str] = {
    "model": "message.model",
    "content": "message.content",
    "reasoning": "message.content",
    "tool_calls": "message.content",
    "finish_reason": "message.stop_reason",
    "usage": "message.usage",
}
_events: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
_message: TypeAdapter[Message] = TypeAdapter(Message)
_ERRORS = {
    "invalid_request_error", "authentication_error", "billing_error", "permission_error", "not_found_error",
    "request_too_large", "rate_limit_error", "timeout_error", "api_error", "overloaded_error",
}  # fmt: skip


def headers(key: str | None) -> dict[str, str]:
    return {"anthropic-version": "2023-06-01"} | ({"x-api-key": key} if key else {})


def streamed(body: Mapping[str, Any]) -> dict[str, Any]:
    return {**body, "stream": True}


def is_streamed(body: Mapping[str, Any]) -> bool:
    return bool(body.get("stream"))


def read(body: Any) -> dict[str, Any]:
    """A message or an error, under the names that facts have."""
    if body.get("type") == "error":
        return {"error": body["error"]}
    blocks = body.get("content", [])
    told = {
        "model": body.get("model"),
        "usage": body.get("usage"),
        "content": "".join(block["text"] for block in blocks if block["type"] == "text"),
        "reasoning": "".join(block["thinking"] for block in blocks if block["type"] == "thinking") or None,
        "tool_calls": [
            {"id": block["id"], "function": {"name": block["name"], "arguments": json.dumps(block["input"])}}
            for block in blocks
            if block["type"] == "tool_use"
        ],
        "citations": [
            {"title": one["title"], "url": one["url"]}
            for block in blocks
            for one in block.get("citations") or ()
            if one["type"] == "web_search_result_location"
        ],
        "searches": _searches(blocks),
        "finish_reason": body.get("stop_reason"),
    }
    return told | {"choices": [{name: told[name] for name in ("content", "tool_calls", "finish_reason")}]}


def _searches(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = {
        block["tool_use_id"]: {"error": block["content"]["error_code"]}
        if isinstance(block["content"], dict)
        else {"pages": [page["url"] for page in block["content"]]}
        for block in blocks
        if block["type"] == "web_search_tool_result"
    }
    asked = [block for block in blocks if block["type"] == "server_tool_use" and block["name"] == "web_search"]
    return [{"query": block["input"].get("query"), **found.get(block["id"], {})} for block in asked]


def read_stream(text: str) -> dict[str, Any]:
    message: dict[str, Any] = {"content": []}
    done = False
    for name, data in named(text):
        if name == "error":
            return read(data) | {"done": False}
        if name == "message_start":
            message = data["message"]
        elif name == "content_block_start":
            message["content"].append(data["content_block"] | {"json": ""})
        elif name == "content_block_delta":
            _add(message["content"][data["index"]], data["delta"])
        elif name == "message_delta":
            message |= data["delta"]
            message["usage"] = message["usage"] | data["usage"]
        done = name == "message_stop"
    for block in message["content"]:
        if block["type"] in ("tool_use", "server_tool_use"):
            block["input"] = json.loads(block["json"] or "{}")
    return read(message) | {"done": done}


def _add(block: dict[str, Any], delta: dict[str, Any]) -> None:
    field = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}.get(delta["type"])
    if delta["type"] == "citations_delta":
        block["citations"] = [*block.get("citations", ()), delta["citation"]]
    elif field is None:
        block["json"] += delta["partial_json"]
    else:
        block[field] += delta[field]


def wrong(status: int, body: Any) -> list[str]:
    if status != 200:
        shaped = isinstance(body, dict) and body.get("type") == "error" and "request_id" in body
        kind = body.get("error", {}).get("type") if shaped else None
        return [] if kind in _ERRORS else [f"an error that {anthropic.__name__} does not know: {body}"]
    return misfits(_message, body)


def wrong_stream(asked: Mapping[str, Any], text: str) -> list[str]:
    """Events are what the package says they are, named after their type, and in the API's order."""
    found: list[str] = []
    names = []
    open_block: int | None = None
    for name, data in named(text):
        if name == "error":
            return found
        if name == "ping":
            continue
        names.append(name)
        if data.get("type") != name:
            found.append(f"the event {name!r} has data of type {data.get('type')!r}")
        found += misfits(_events, data)
        if name == "content_block_start":
            if open_block is not None:
                found.append("a block in a block")
            open_block = data["index"]
        elif name in ("content_block_delta", "content_block_stop"):
            if data["index"] != open_block:
                found.append(f"{name} of block {data['index']} while {open_block} is open")
            open_block = None if name == "content_block_stop" else open_block
    if names[:1] != ["message_start"] or names[-2:] != ["message_delta", "message_stop"]:
        found.append(f"events in the wrong order: {names}")
    return found
