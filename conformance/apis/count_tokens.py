"""Anthropic's Messages API: how many tokens a request has. Nothing is streamed."""

from collections.abc import Mapping
from typing import Any

from anthropic.types import MessageTokensCount
from anthropic.types.message_count_tokens_params import MessageCountTokensParams
from pydantic import TypeAdapter

from conformance.apis import Section, messages
from conformance.apis.messages import headers as headers
from conformance.messages import opening as opening
from conformance.shapes import misfits
from conformance.unstreamed import is_streamed as is_streamed
from conformance.unstreamed import read_stream as read_stream
from conformance.unstreamed import streamed as streamed
from conformance.unstreamed import wrong_stream as wrong_stream

PATH = "/v1/messages/count_tokens"
REQUEST = "count_tokens"
SECTIONS: Mapping[str, Section] = {
    "count_tokens": Section(
        "Counting requests",
        "Every field of `anthropic.types.message_count_tokens_params`.",
        tuple(MessageCountTokensParams.__annotations__),
    ),
}
SHOWS: Mapping[str, str] = {}
_count: TypeAdapter[MessageTokensCount] = TypeAdapter(MessageTokensCount)


def read(body: Any) -> dict[str, Any]:
    """The count, as the fact `usage`; or an error."""
    return messages.read(body) if body.get("type") == "error" else {"usage": body}


def wrong(status: int, body: Any) -> list[str]:
    if status != 200:
        return messages.wrong(status, body)
    return misfits(_count, body)
