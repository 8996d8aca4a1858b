"""OpenAI's Responses API: how many tokens a request has. Nothing is streamed."""

from collections.abc import Mapping
from typing import Any

from openai.types.responses.input_token_count_params import InputTokenCountParams
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from pydantic import TypeAdapter

from conformance.apis import Section, responses
from conformance.apis.responses import headers as headers
from conformance.apis.responses import opening as opening
from conformance.shapes import misfits
from conformance.unstreamed import is_streamed as is_streamed
from conformance.unstreamed import read_stream as read_stream
from conformance.unstreamed import streamed as streamed
from conformance.unstreamed import wrong_stream as wrong_stream

PATH = "/v1/responses/input_tokens"
REQUEST = "input_tokens"
SECTIONS: Mapping[str, Section] = {
    "input_tokens": Section(
        "Counting of Responses requests",
        "Every field of `openai.types.responses.input_token_count_params`.",
        tuple(InputTokenCountParams.__annotations__),
    ),
}
SHOWS: Mapping[str, str] = {}
_count: TypeAdapter[InputTokenCountResponse] = TypeAdapter(InputTokenCountResponse)


def read(body: Any) -> dict[str, Any]:
    """The count, as the fact `usage`; or an error."""
    return body if "error" in body else {"usage": body}


def wrong(status: int, body: Any) -> list[str]:
    if status != 200:
        return responses.wrong(status, body)
    return misfits(_count, body)
