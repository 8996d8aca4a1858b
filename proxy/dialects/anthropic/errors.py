"""Errors in the Messages API's form (`anthropic.types.ErrorResponse`), with its types and statuses."""

from __future__ import annotations

import json
import math
import re
from typing import Final

from msgspec import UNSET, Struct, UnsetType

from proxy.dialects import ErrorReply
from proxy.protocol.failures import About, Failure, Kind

# What the API calls each status; its own 529 stands for an upstream that has no capacity.
OVERLOADED: Final = 529
_BY_STATUS: Final[dict[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    426: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}
_PARAMS: Final = {
    About.MODEL: "model",
    About.SCHEMA: "output_config.format.schema",
    About.TOOLS: "tools",
    About.SEARCH: "tools",
}
THREAD: Final = "thread"
_INDEX: Final = re.compile(r"\[(\d+)\]")


class ErrorDetails(Struct, frozen=True):
    """What clients tell one error from another by, where its type is not enough."""

    error_code: str


class ErrorBody(Struct, frozen=True):
    type: str
    message: str
    details: ErrorDetails | UnsetType = UNSET


class ErrorEnvelope(Struct, frozen=True, tag_field="type", tag="error"):
    """The API's error body; also an event of a stream."""

    error: ErrorBody
    request_id: str | None


def status_of(kind: Kind, status: int) -> int:
    return OVERLOADED if kind is Kind.OVERLOADED else status


def type_of(status: int) -> str:
    return _BY_STATUS.get(status, "api_error")


def envelope(failure: Failure, request_id: str | None) -> ErrorEnvelope:
    """The message begins with the parameter at fault, as the API's own do: `messages.0.content: …`."""
    status = status_of(failure.kind, failure.row.status)
    param = failure.param or (None if failure.about is None else _PARAMS[failure.about])
    place = "" if param is None else _INDEX.sub(r".\1", param) + ": "
    # At this word a client sends the whole conversation again.
    lost = failure.kind is Kind.NOT_FOUND and param == THREAD
    details = ErrorDetails("thread_not_found") if lost else UNSET
    return ErrorEnvelope(ErrorBody(type_of(status), place + failure.message, details), request_id)


def reply(failure: Failure, now: float, request_id: str) -> ErrorReply:
    """The same with its status, and the headers that tell a client whether to try again."""
    headers = [("request-id", request_id)]
    wait = failure.wait(now)
    if wait is not None:
        headers.append(("retry-after", str(math.ceil(wait))))
    if failure.row.retry is not None:
        headers.append(("x-should-retry", json.dumps(failure.row.retry)))
    return ErrorReply(status_of(failure.kind, failure.row.status), envelope(failure, request_id), tuple(headers))
