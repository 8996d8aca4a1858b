"""What the tests of the Responses API share: a client without a server, and the openai package's types as judges."""

from __future__ import annotations

import json
from typing import Any, cast

import httpx
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.instant import application

PATH = "/v1/responses"
RESPONSE: TypeAdapter[Response] = TypeAdapter(Response)
EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
LAST = ("response.completed", "response.incomplete", "response.failed")


def client(**settings: Any) -> httpx.AsyncClient:
    """A client of a server with nothing behind it."""
    transport = httpx.ASGITransport(app=cast(Any, application(**settings)))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3456")


def judged(body: Any) -> dict[str, Any]:
    """A response as the package's types have it, strictly."""
    RESPONSE.validate_json(json.dumps(body), strict=True)
    # The package's own loop of tools takes no null here, which its types allow.
    assert all(item["content"] == [] for item in body["output"] if item["type"] == "reasoning")
    return cast(dict[str, Any], body)


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, which keeps all laws of one."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        name, data = lines
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_json(json.dumps(event), strict=True)
        found.append(event)
    lawful(found)
    return found


def lawful(events: list[dict[str, Any]]) -> None:
    """Numbers without gaps, one beginning and one end, and items and parts that begin, hold their deltas, and end."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    types = [event["type"] for event in events]
    assert types[:2] == ["response.created", "response.in_progress"]
    assert [type for type in types if type in LAST] == types[-1:]
    last = events[-1]["response"]
    judged(last)
    assert {event["response"]["id"] for event in events if "response" in event} == {last["id"]}
    items: dict[int, dict[str, Any]] = {}
    text: dict[str, str] = {}
    order: list[int] = []
    for event in events[2:-1]:
        index = event["output_index"]
        if event["type"] == "response.output_item.added":
            assert index not in items
            order.append(index)
            items[index] = event["item"]
            text[event["item"]["id"]] = ""
            continue
        assert event.get("item_id", items[index]["id"]) == items[index]["id"]
        if event["type"].endswith(".delta"):
            text[event["item_id"]] += event["delta"]
        elif event["type"] == "response.output_item.done":
            item = event["item"]
            assert item["id"] == items[index]["id"]
            told = item.get("arguments") or item.get("input") or _texts(item)
            if item["type"] not in ("local_shell_call", "shell_call", "apply_patch_call"):
                assert told == text[item["id"]]
            items[index] = item
    assert order == list(range(len(order)))
    if events[-1]["type"] != "response.failed":
        assert last["output"] == [items[index] for index in order]


def _texts(item: dict[str, Any]) -> str:
    parts = item.get("content") or item.get("summary") or ()
    return "".join(part.get("text") or part.get("refusal") or "" for part in parts)
