"""OpenAI's Responses API: a long conversation made short. Nothing is streamed."""

from collections.abc import Mapping
from typing import Any

from openai.types.responses.response_compact_params import ResponseCompactParams

from conformance.apis import Section, responses
from conformance.apis.responses import headers as headers
from conformance.apis.responses import opening as opening
from conformance.unstreamed import is_streamed as is_streamed
from conformance.unstreamed import read_stream as read_stream
from conformance.unstreamed import streamed as streamed
from conformance.unstreamed import wrong_stream as wrong_stream

PATH = "/v1/responses/compact"
REQUEST = "compact"
SECTIONS: Mapping[str, Section] = {
    "compact": Section(
        "Compaction requests",
        "Every field of `openai.types.responses.response_compact_params`.",
        tuple(ResponseCompactParams.__annotations__),
    ),
}
SHOWS: Mapping[str, str] = {}
_FIELDS = {"id", "created_at", "object", "output", "usage"}


def read(body: Any) -> dict[str, Any]:
    """The types of the items that are left, as the fact `choices`; or an error."""
    if "error" in body:
        return dict(body)
    return {"usage": body["usage"], "choices": [item.get("role") or item["type"] for item in body["output"]]}


def wrong(status: int, body: Any) -> list[str]:
    """The package's type knows no messages of a user's, which the API's own words put there: what is left is looked
    at by hand."""
    if status != 200:
        return responses.wrong(status, body)
    found = [] if body.keys() == _FIELDS and body["object"] == "response.compaction" else [f"other fields: {body}"]
    *kept, last = body["output"]
    if last.keys() != {"id", "type", "encrypted_content"} or last["type"] != "compaction":
        found.append(f"the last item is no compaction: {last}")
    return found + [f"no message with an id: {item}" for item in kept if item["type"] != "message" or not item["id"]]
