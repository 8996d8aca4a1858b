"""`POST /v1/responses` as a dialect, and its errors."""

from __future__ import annotations

from functools import partial
from typing import Final

from msgspec import UNSET, Struct, UnsetType

from proxy.dialects import ErrorReply, Framing, Identity, Request, Rules
from proxy.dialects.openai.errors import envelope, reply
from proxy.dialects.openai.responses import request
from proxy.dialects.openai.responses.encoder import ResponsesEncoder
from proxy.protocol.failures import About, Failure, Kind

PARAMS: Final = {
    About.MODEL: "model",
    About.SCHEMA: "text.format.schema",
    About.TOOLS: "tools",
    About.SEARCH: "tools",
}
# The word by which clients know that a plan, and not a bill, is used up.
USAGE_LIMIT: Final = "usage_limit_reached"


class ErrorBody(Struct, frozen=True):
    """`resets_at`: when a plan that is used up can be used again, in seconds since 1970."""

    message: str
    type: str
    param: str | None
    code: str | None
    resets_at: int | UnsetType = UNSET


class ErrorEnvelope(Struct, frozen=True):
    error: ErrorBody


class Responses:
    """The dialect."""

    name: Final = "openai-responses"
    framing: Final = Framing.SSE

    def decode(self, body: bytes, rules: Rules) -> Request:
        asked = request.decode(body, rules)
        return Request(
            asked.model, (asked.plan,), asked.stream, partial(_encoder, asked), ignored=asked.ignored,
            shorten=asked.shorten,
        )  # fmt: skip

    def error(self, failure: Failure, now: float, request_id: str) -> ErrorReply:
        told, error = reply(failure, now), envelope(failure, PARAMS).error
        type, resets_at = error.type, None
        if failure.kind is Kind.PLAN_LIMIT:
            type, resets_at = USAGE_LIMIT, failure.resets_at
        body = ErrorBody(error.message, type, error.param, error.code, UNSET if resets_at is None else int(resets_at))
        return ErrorReply(told.status, ErrorEnvelope(body), told.headers)


def _encoder(asked: request.AskedResponse, identity: Identity) -> ResponsesEncoder:
    return ResponsesEncoder(asked, identity)
