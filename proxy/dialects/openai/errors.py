"""Errors in OpenAI's form: all four keys, always. Status decides the exception class of OpenAI's clients."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from proxy.dialects import ErrorReply
from proxy.protocol.failures import About, Failure, Kind


class ErrorCode(Struct, frozen=True):
    """OpenAI's `type` and `code` of a kind of failure."""

    type: str
    code: str | None


CODES: Final[dict[Kind, ErrorCode]] = {
    Kind.BAD_REQUEST: ErrorCode("invalid_request_error", None),
    Kind.NO_KEY: ErrorCode("invalid_request_error", "invalid_api_key"),
    Kind.BAD_KEY: ErrorCode("invalid_request_error", "invalid_api_key"),
    Kind.FORBIDDEN: ErrorCode("invalid_request_error", "forbidden"),
    Kind.UNKNOWN_PATH: ErrorCode("invalid_request_error", "unknown_url"),
    Kind.UNKNOWN_MODEL: ErrorCode("invalid_request_error", "model_not_found"),
    Kind.NOT_FOUND: ErrorCode("invalid_request_error", "not_found"),
    Kind.METHOD: ErrorCode("invalid_request_error", "method_not_supported"),
    Kind.NO_WEBSOCKET: ErrorCode("invalid_request_error", "websocket_not_supported"),
    Kind.BODY_TOO_LARGE: ErrorCode("invalid_request_error", "request_too_large"),
    Kind.CONTENT_TYPE: ErrorCode("invalid_request_error", "unsupported_media_type"),
    Kind.PROMPT_TOO_LONG: ErrorCode("invalid_request_error", "context_length_exceeded"),
    Kind.REFUSED_UPSTREAM: ErrorCode("invalid_request_error", None),
    Kind.MODEL_NOT_FOUND: ErrorCode("invalid_request_error", "model_not_found"),
    Kind.NOT_LOGGED_IN: ErrorCode("authentication_error", "not_logged_in"),
    Kind.NO_PERMISSION: ErrorCode("permission_error", "permission_denied"),
    Kind.PLAN_LIMIT: ErrorCode("insufficient_quota", "insufficient_quota"),
    Kind.EXTRA_USAGE: ErrorCode("insufficient_quota", "extra_usage_required"),
    Kind.RATE_LIMIT: ErrorCode("rate_limit_error", "rate_limit_exceeded"),
    Kind.KEY_LIMIT: ErrorCode("insufficient_quota", "key_quota_exceeded"),
    Kind.KEY_RATE: ErrorCode("rate_limit_error", "key_rate_limit_exceeded"),
    Kind.OVERLOADED: ErrorCode("server_error", "overloaded"),
    Kind.UPSTREAM_ERROR: ErrorCode("server_error", "upstream_error"),
    Kind.UPSTREAM_CUT: ErrorCode("server_error", "upstream_cut"),
    Kind.SCHEMA_UNMET: ErrorCode("server_error", "schema_unmet"),
    Kind.QUEUE_FULL: ErrorCode("rate_limit_error", "queue_full"),
    Kind.QUEUE_WAIT: ErrorCode("rate_limit_error", "queue_timeout"),
    Kind.SHUTTING_DOWN: ErrorCode("server_error", "shutting_down"),
    Kind.CLI_MISSING: ErrorCode("server_error", "cli_unavailable"),
    Kind.CLI_DIED: ErrorCode("server_error", "cli_died"),
    Kind.CLI_CONFUSED: ErrorCode("server_error", "cli_protocol_error"),
    Kind.CLI_SILENT: ErrorCode("server_error", "cli_silent"),
    Kind.TOOK_TOO_LONG: ErrorCode("server_error", "timeout"),
    Kind.INTERNAL: ErrorCode("server_error", "internal_error"),
}


class ErrorBody(Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(Struct, frozen=True):
    """OpenAI's error body."""

    error: ErrorBody


def envelope(failure: Failure, params: Mapping[About, str] = {}) -> ErrorEnvelope:
    """`params`: what the API calls the parameters that failures of the core are about."""
    code = CODES[failure.kind]
    param = failure.param or (None if failure.about is None else params.get(failure.about))
    return ErrorEnvelope(ErrorBody(failure.message, code.type, param, code.code))


def reply(failure: Failure, now: float, params: Mapping[About, str] = {}) -> ErrorReply:
    """The same with its status, and the headers that tell a client whether to try again."""
    headers = []
    wait = failure.wait(now)
    if wait is not None:
        headers += [("retry-after", str(math.ceil(wait))), ("retry-after-ms", str(math.ceil(wait * 1000)))]
    if failure.row.retry is not None:
        headers.append(("x-should-retry", json.dumps(failure.row.retry)))
    return ErrorReply(failure.row.status, envelope(failure, params), tuple(headers))
