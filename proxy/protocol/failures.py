"""What went wrong, and what the client is told: one table.

`TABLE` maps every `Kind` to the HTTP status and whether a client may try again; each dialect adds its own names for it.
Clients retry 408, 409, 429 and >= 500 unless `x-should-retry: false` is sent (`_base_client._should_retry` in their
Python packages).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec
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
    NOT_FOUND = "not_found"
    METHOD = "method"
    NO_WEBSOCKET = "no_websocket"
    BODY_TOO_LARGE = "body_too_large"
    CONTENT_TYPE = "content_type"
    PROMPT_TOO_LONG = "prompt_too_long"
    REFUSED_UPSTREAM = "refused_upstream"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_LOGGED_IN = "not_logged_in"
    NO_PERMISSION = "no_permission"
    PLAN_LIMIT = "plan_limit"
    EXTRA_USAGE = "extra_usage"
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


class About(Enum):
    """What of a request a failure is about, where only the core knows; each dialect has its own name for it."""

    MODEL = "model"
    SCHEMA = "schema"
    TOOLS = "tools"
    SEARCH = "search"


class Row(Struct, frozen=True):
    """`retry`: what `x-should-retry` says; None leaves it to the client's own rules (by status)."""

    status: int
    retry: bool | None = None


TABLE: Final[dict[Kind, Row]] = {
    Kind.BAD_REQUEST: Row(400),
    Kind.NO_KEY: Row(401),
    Kind.BAD_KEY: Row(401),
    Kind.FORBIDDEN: Row(403),
    Kind.UNKNOWN_PATH: Row(404),
    Kind.UNKNOWN_MODEL: Row(404),
    Kind.NOT_FOUND: Row(404),
    Kind.METHOD: Row(405),
    Kind.NO_WEBSOCKET: Row(426, retry=False),
    Kind.BODY_TOO_LARGE: Row(413),
    Kind.CONTENT_TYPE: Row(415),
    Kind.PROMPT_TOO_LONG: Row(400),
    Kind.REFUSED_UPSTREAM: Row(400),
    Kind.MODEL_NOT_FOUND: Row(404),
    Kind.NOT_LOGGED_IN: Row(401, retry=False),
    Kind.NO_PERMISSION: Row(403, retry=False),
    Kind.PLAN_LIMIT: Row(429, retry=False),
    Kind.EXTRA_USAGE: Row(429, retry=False),
    Kind.RATE_LIMIT: Row(429),
    Kind.KEY_LIMIT: Row(429, retry=False),
    Kind.KEY_RATE: Row(429),
    Kind.OVERLOADED: Row(503),
    Kind.UPSTREAM_ERROR: Row(502),
    Kind.UPSTREAM_CUT: Row(502),
    Kind.SCHEMA_UNMET: Row(502, retry=False),
    Kind.QUEUE_FULL: Row(429),
    Kind.QUEUE_WAIT: Row(429),
    Kind.SHUTTING_DOWN: Row(503),
    Kind.CLI_MISSING: Row(502, retry=False),
    Kind.CLI_DIED: Row(502),
    Kind.CLI_CONFUSED: Row(502),
    Kind.CLI_SILENT: Row(504),
    Kind.TOOK_TOO_LONG: Row(504, retry=False),
    Kind.INTERNAL: Row(500),
}


class Failure(Struct, frozen=True):
    """One failure: its kind and a message for the client.

    `param`: the path of the parameter at fault in the request's body, from the dialect that decoded it; `about`: what
    it is about, from the core. `retry_after`: seconds until a retry makes sense; `resets_at`: the same as a time,
    seconds since 1970.
    """

    kind: Kind
    message: str
    param: str | None = None
    about: About | None = None
    retry_after: float | None = None
    resets_at: float | None = None

    @property
    def row(self) -> Row:
        return TABLE[self.kind]

    def wait(self, now: float) -> float | None:
        """Seconds until a retry makes sense, seen from `now` (seconds since 1970); None: not known."""
        return self.retry_after if self.resets_at is None else max(1.0, self.resets_at - now)


# The words by which clients know what to do about it: to leave the oldest messages out, or to sum them up.
WINDOW: Final = "{} This model's maximum context length is {} tokens."


def with_window(failure: Failure, tokens: int) -> Failure:
    """A failure for a prompt that is too long, which says how long one may be."""
    message = WINDOW.format(f"{failure.message.rstrip('. ')}.", tokens)
    return msgspec.structs.replace(failure, message=message)


# Whatever the server's children do then: it is the server that ends them.
SHUTTING_DOWN: Final = Failure(Kind.SHUTTING_DOWN, "The server is shutting down.")


BUSY: Final = Failure(Kind.QUEUE_FULL, "Too many large requests are being taken in.", retry_after=1.0)


class Rejection(Exception):
    """A request that cannot be served as it is. Raised by the request decoder, answered by the HTTP edge."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


# Characters of a message about a request, which may hold what the client has sent.
MAX_TOLD: Final = 2000


def shown(text: str) -> str:
    """The text, of one that is too long the beginning and the end: what is wrong stands in one, where in the other."""
    half = MAX_TOLD // 2
    return text if len(text) <= MAX_TOLD else f"{text[:half]} […] {text[-half:]}"


def bad_request(message: str, param: str | None) -> Rejection:
    return Rejection(Failure(Kind.BAD_REQUEST, shown(message), param and shown(param)))


# The Messages API says these with the status 400 of a bad request and nothing else to tell them by; they are about what
# the account may use, and no change of the request by the client's code would help.
EXTRA_USAGE: Final[dict[str, Kind]] = {
    "out of extra usage": Kind.PLAN_LIMIT,
    "draw from your extra usage": Kind.EXTRA_USAGE,
    "draw from extra usage": Kind.EXTRA_USAGE,
}
EXTRA_USAGE_HELP: Final = (
    "(Anthropic bills some programs' requests as extra usage, judged by their prompts. What helps: extra usage in the "
    "account's usage settings, another login of the CLI, or a client with another system prompt. This proxy does not "
    "change prompts.)"
)
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
    for words, billed in EXTRA_USAGE.items():
        if kind is Kind.REFUSED_UPSTREAM and words in text.lower():
            kind, text = billed, f"{text} {EXTRA_USAGE_HELP}"
            break
    resets_at = limits.resetsAt if kind is Kind.PLAN_LIMIT and limits is not None else None
    if kind is Kind.NOT_LOGGED_IN:
        text = f"{LOGIN_HELP} (the CLI said: {text})"
    return Failure(kind, text, about=About.MODEL if kind is Kind.MODEL_NOT_FOUND else None, resets_at=resets_at)
