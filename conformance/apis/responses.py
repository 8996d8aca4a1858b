"""OpenAI's Responses API."""

from collections.abc import Mapping
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from pydantic import TypeAdapter

from conformance import open_responses
from conformance.apis import Section
from conformance.events import named
from conformance.shapes import misfits

PATH = "/v1/responses"
REQUEST = "responses"
SECTIONS: Mapping[str, Section] = {
    "responses": Section(
        "Responses requests",
        "Every field of `openai.types.responses.response_create_params`.",
        (*ResponseCreateParamsBase.__annotations__, "stream"),
    ),
    "responses_answer": Section(
        "Responses answers", "Every field of `openai.types.responses.Response`.", tuple(Response.__annotations__)
    ),
}
SHOWS: Mapping[str, str] = {
    "model": "responses_answer.model",
    "content": "responses_answer.output",
    "tool_calls": "responses_answer.output",
    "citations": "responses_answer.output",
    "searches": "responses_answer.output",
    "finish_reason": "responses_answer.status",
    "usage": "responses_answer.usage",
}
_LAST = ("response.completed", "response.incomplete", "response.failed")
_CALLS = ("function_call", "custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call")
_response: TypeAdapter[Response] = TypeAdapter(Response)
_event: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def headers(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def opening(body: Mapping[str, Any]) -> str:
    """The first text a user says."""
    asked = body.get("input")
    if isinstance(asked, str):
        return asked
    for item in asked or ():
        if item.get("role") == "user":
            content = item["content"]
            if isinstance(content, str):
                return content
            return next((str(part["text"]) for part in content if part.get("type") == "input_text"), "")
    return ""


def streamed(body: Mapping[str, Any]) -> dict[str, Any]:
    return {**body, "stream": True}


def is_streamed(body: Mapping[str, Any]) -> bool:
    return bool(body.get("stream"))


def read(body: Any) -> dict[str, Any]:
    """A response or an error, under the names that facts have. `finish_reason`: why it is incomplete, or its status."""
    if "output" not in body:
        return {"error": body["error"]}
    output = body["output"]
    parts = [part for item in output if item["type"] == "message" for part in item["content"]]
    details = body["incomplete_details"] or {}
    told = {
        "content": "".join(part.get("text", "") for part in parts),
        "refusal": "".join(part.get("refusal", "") for part in parts) or None,
        "reasoning": "".join(
            part["text"] for item in output if item["type"] == "reasoning" for part in item["summary"]
        ) or None,
        "tool_calls": [
            {name: value for name, value in item.items() if name not in ("id", "status")}
            for item in output
            if item["type"] in _CALLS
        ],
        "citations": [
            {"text": part["text"][one["start_index"] : one["end_index"]], "title": one["title"], "url": one["url"]}
            for part in parts
            for one in part.get("annotations", ())
        ],
        "searches": [_search(item) for item in output if item["type"] == "web_search_call"],
        "finish_reason": details.get("reason") or body["status"],
    }  # fmt: skip
    facts = told | {"model": body["model"], "usage": body["usage"], "choices": [told]}
    return facts if body["error"] is None else facts | {"error": body["error"]}


def _search(item: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"query": item["action"]["query"]}
    if item["status"] != "completed":
        return told | {"error": item["status"]}
    return told | {"pages": [page["url"] for page in item["action"].get("sources", ())]}


def read_stream(text: str) -> dict[str, Any]:
    """The last event holds the whole response; its text is that of the deltas by the laws of a stream."""
    name, data = named(text)[-1]
    return read(data["response"]) | {"done": name in ("response.completed", "response.incomplete")}


def wrong(status: int, body: Any) -> list[str]:
    if status != 200:
        error = body.get("error") if isinstance(body, dict) else None
        shaped = isinstance(error, dict) and {"message", "type", "param", "code"} <= error.keys()
        return [] if shaped else [f"not an error: {body}"]
    return misfits(_response, body) or open_responses.wrong(body)


def wrong_stream(asked: Mapping[str, Any], text: str) -> list[str]:
    """Events are what the package says, named after their type, numbered without gaps; items begin, hold what their
    deltas say, and end, in the order of their indexes; one event ends it, with the whole response."""
    found: list[str] = []
    events = named(text)
    numbers = [data.get("sequence_number") for _, data in events]
    if numbers != list(range(len(events))):
        found.append(f"the events are numbered {numbers}")
    names = [name for name, _ in events]
    if names[:1] != ["response.created"] or [name for name in names if name in _LAST] != names[-1:]:
        found.append(f"it does not begin and end once: {names}")
    for name, data in events:
        if data.get("type") != name:
            found.append(f"the event {name!r} has data of type {data.get('type')!r}")
        found += [f"{name}: {words}" for words in misfits(_event, data) or open_responses.wrong_event(data)]
    return found + _items(events)


def _items(events: list[tuple[str, dict[str, Any]]]) -> list[str]:
    found: list[str] = []
    begun: list[str] = []
    said: dict[str, str] = {}
    done: list[dict[str, Any]] = []
    for name, data in events:
        if name == "response.output_item.added":
            if data["output_index"] != len(begun):
                found.append(f"item {len(begun)} has the index {data['output_index']}")
            begun.append(data["item"]["id"])
        elif name.endswith(".delta"):
            said[data["item_id"]] = said.get(data["item_id"], "") + data["delta"]
        elif name == "response.output_item.done":
            item = data["item"]
            done.append(item)
            parts = item.get("content") or item.get("summary") or ()
            told = item.get("arguments") or item.get("input")
            told = told or "".join(part.get("text") or part.get("refusal") or "" for part in parts)
            if item["id"] in said and said[item["id"]] != told:
                found.append(f"the deltas of {item['id']} say {said[item['id']]!r}, and its end {told!r}")
    last = events[-1][1].get("response") or {}
    if last.get("status") != "failed" and done != last.get("output"):
        found.append("the items at the end are not those of the events")
    return found
