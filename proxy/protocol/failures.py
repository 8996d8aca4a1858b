"""What went wrong, and what the client is told: one table.

`TABLE` maps every `Kind` to the HTTP status, OpenAI's `type` and `code`, and whether a client may try again.
Status decides the exception class of OpenAI's clients; 408, 409, 429 and >= 500 are retried by them unless
`x-should-retry: false` is sent (wire notes; openai-python `_base_client._should_retry`).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from msgspec import Struct

from proxy.protocol.lines import RateLimitInfo, Result


class Kind(Enum):
    """Whose fault it is comes first: the client's request, the login or plan, upstream, the CLI, ours."""

    BAD_REQUEST = "bad_request"
    NO_KEY = "no_key"
    BAD_KEY = "bad_key"
    FORBIDDEN = "forbidden"
    UNKNOWN_PATH = "unknown_path"
    UNKNOWN_MODEL = "unknown_model"
    METHOD = "method"
    BODY_TOO_LARGE = "body_too_large"
    CONTENT_TYPE = "content_type"
    PROMPT_TOO_LONG = "prompt_too_long"
    REFUSED_UPSTREAM = "refused_upstream"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_LOGGED_IN = "not_logged_in"
    NO_PERMISSION = "no_permission"
    PLAN_LIMIT = "plan_limit"
    RATE_LIMIT = "rate_limit"
    KEY_LIMIT = "key_limit"
    KEY_RATE = "key_rate"
    OVERLOADED = "overloaded"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_CUT = "upstream_cut"
    SCHEMA_UNMET = "schema_unmet"
    QUEUE_FULL = "queue_full"
    QUEUE_WAIT = "queue_wait"
    SHUTTING_DOWN = "shutting_down"
    CLI_MISSING = "cli_missing"
    CLI_DIED = "cli_died"
    CLI_CONFUSED = "cli_confused"
    CLI_SILENT = "cli_silent"
    TOOK_TOO_LONG = "took_too_long"
    INTERNAL = "internal"


class Row(Struct, frozen=True):
    """`retry`: what `x-should-retry` says; None leaves it to the client's own rules (by status)."""

    status: int
    type: str
    code: str | None
    retry: bool | None = None


TABLE: Final[dict[Kind, Row]] = {
    Kind.BAD_REQUEST: Row(400, "invalid_request_error", None),
    Kind.NO_KEY: Row(401, "invalid_request_error", "invalid_api_key"),
    Kind.BAD_KEY: Row(401, "invalid_request_error", "invalid_api_key"),
    Kind.FORBIDDEN: Row(403, "invalid_request_error", "forbidden"),
    Kind.UNKNOWN_PATH: Row(404, "invalid_request_error", "unknown_url"),
    Kind.UNKNOWN_MODEL: Row(404, "invalid_request_error", "model_not_found"),
    Kind.METHOD: Row(405, "invalid_request_error", "method_not_supported"),
    Kind.BODY_TOO_LARGE: Row(413, "invalid_request_error", "request_too_large"),
    Kind.CONTENT_TYPE: Row(415, "invalid_request_error", "unsupported_media_type"),
    Kind.PROMPT_TOO_LONG: Row(400, "invalid_request_error", "context_length_exceeded"),
    Kind.REFUSED_UPSTREAM: Row(400, "invalid_request_error", None),
    Kind.MODEL_NOT_FOUND: Row(404, "invalid_request_error", "model_not_found"),
    Kind.NOT_LOGGED_IN: Row(401, "authentication_error", "not_logged_in", retry=False),
    Kind.NO_PERMISSION: Row(403, "permission_error", "permission_denied", retry=False),
    Kind.PLAN_LIMIT: Row(429, "insufficient_quota", "insufficient_quota", retry=False),
    Kind.RATE_LIMIT: Row(429, "rate_limit_error", "rate_limit_exceeded"),
    Kind.KEY_LIMIT: Row(429, "insufficient_quota", "key_quota_exceeded", retry=False),
    Kind.KEY_RATE: Row(429, "rate_limit_error", "key_rate_limit_exceeded"),
    Kind.OVERLOADED: Row(503, "server_error", "overloaded"),
    Kind.UPSTREAM_ERROR: Row(502, "server_error", "upstream_error"),
    Kind.UPSTREAM_CUT: Row(502, "server_error", "upstream_cut"),
    Kind.SCHEMA_UNMET: Row(502, "server_error", "schema_unmet", retry=False),
    Kind.QUEUE_FULL: Row(429, "rate_limit_error", "queue_full"),
    Kind.QUEUE_WAIT: Row(429, "rate_limit_error", "queue_timeout"),
    Kind.SHUTTING_DOWN: Row(503, "server_error", "shutting_down"),
    Kind.CLI_MISSING: Row(502, "server_error", "cli_unavailable", retry=False),
    Kind.CLI_DIED: Row(502, "server_error", "cli_died"),
    Kind.CLI_CONFUSED: Row(502, "server_error", "cli_protocol_error"),
    Kind.CLI_SILENT: Row(504, "server_error", "cli_silent"),
    Kind.TOOK_TOO_LONG: Row(504, "server_error", "timeout", retry=False),
    Kind.INTERNAL: Row(500, "server_error", "internal_error"),
}


class Failure(Struct, frozen=True):
    """One failure: its kind, words for the client, the parameter at fault.

    `retry_after`: seconds until a retry makes sense; `resets_at`: the same as a time, seconds since 1970.
    """

    kind: Kind
    message: str
    param: str | None = None
    retry_after: float | None = None
    resets_at: float | None = None

    @property
    def row(self) -> Row:
        return TABLE[self.kind]


# Whatever the server's children do then: it is the server that ends them.
SHUTTING_DOWN: Final = Failure(Kind.SHUTTING_DOWN, "The server is shutting down.")


class Rejection(Exception):
    """A request that cannot be served as it is. Raised by the request decoder, answered by the HTTP edge."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def bad_request(message: str, param: str | None) -> Rejection:
    return Rejection(Failure(Kind.BAD_REQUEST, message, param))


class ErrorBody(Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(Struct, frozen=True):
    """OpenAI's error body: all four keys, always."""

    error: ErrorBody


def envelope(failure: Failure) -> ErrorEnvelope:
    row = failure.row
    return ErrorEnvelope(ErrorBody(failure.message, row.type, failure.param, row.code))


LOGIN_HELP: Final = "The Claude Code CLI is not logged in. On the computer that runs this proxy, run: claude auth login"

# What the CLI puts into `api_error_status`, `system/api_retry.error_status`: the Messages API's own status.
BY_STATUS: Final[dict[int, Kind]] = {
    400: Kind.REFUSED_UPSTREAM,
    401: Kind.NOT_LOGGED_IN,
    403: Kind.NO_PERMISSION,
    404: Kind.MODEL_NOT_FOUND,
    408: Kind.UPSTREAM_ERROR,
    409: Kind.UPSTREAM_ERROR,
    413: Kind.BODY_TOO_LARGE,
    429: Kind.RATE_LIMIT,
    503: Kind.OVERLOADED,
    529: Kind.OVERLOADED,
}
# What the CLI puts into `api_error` of the result, `assistant.error` and `terminal_reason`; stronger than a status.
BY_WORD: Final[dict[str, Kind]] = {
    "usage_limit_reached": Kind.PLAN_LIMIT,
    "connection_failed": Kind.UPSTREAM_CUT,
    "prompt_too_long": Kind.PROMPT_TOO_LONG,
    # Too long for the CLI itself, which asks nobody (a user text of 4 MB on 2.1.330).
    "blocking_limit": Kind.PROMPT_TOO_LONG,
    "authentication_failed": Kind.NOT_LOGGED_IN,
    "oauth_org_not_allowed": Kind.NO_PERMISSION,
    "model_not_found": Kind.MODEL_NOT_FOUND,
    "overloaded": Kind.OVERLOADED,
    "rate_limit": Kind.RATE_LIMIT,
    "billing_error": Kind.PLAN_LIMIT,
}
# The Messages API's own types of errors: all that the CLI passes on of an error event in a stream, which has no status
# (it makes one up for the first two).
BY_TYPE: Final[dict[str, Kind]] = {
    "overloaded_error": Kind.OVERLOADED,
    "rate_limit_error": Kind.RATE_LIMIT,
    "invalid_request_error": Kind.REFUSED_UPSTREAM,
    "authentication_error": Kind.NOT_LOGGED_IN,
    "permission_error": Kind.NO_PERMISSION,
    "billing_error": Kind.PLAN_LIMIT,
}


def by_status(status: int | None) -> Kind:
    """The kind for an upstream status; none at all means the connection failed."""
    if status is None:
        return Kind.UPSTREAM_CUT
    return BY_STATUS.get(status, Kind.UPSTREAM_ERROR if status >= 500 else Kind.REFUSED_UPSTREAM)


def of_result(result: Result, assistant_error: str | None, limits: RateLimitInfo | None) -> Failure:
    """The failure that an error result stands for.

    The fields decide, never the text (fixtures errors/*): `api_error`, then `terminal_reason`, then
    `api_error_status` or else `api_error_type`, then the word on the assistant line before it, which says more than
    a plain 400.
    """
    text = result.result or "; ".join(result.errors) or "The CLI reported an error without words."
    kind = BY_WORD.get(result.api_error or "") or BY_WORD.get(result.terminal_reason or "")
    if kind is None and result.api_error_status is not None:
        kind = by_status(result.api_error_status)
    if kind is None:
        kind = BY_TYPE.get(result.api_error_type or "")
    if kind in (None, Kind.REFUSED_UPSTREAM):
        kind = BY_WORD.get(assistant_error or "", kind or Kind.UPSTREAM_ERROR)
    resets_at = limits.resetsAt if kind is Kind.PLAN_LIMIT and limits is not None else None
    if kind is Kind.NOT_LOGGED_IN:
        text = f"{LOGIN_HELP} (the CLI said: {text})"
    return Failure(kind, text, param="model" if kind is Kind.MODEL_NOT_FOUND else None, resets_at=resets_at)
