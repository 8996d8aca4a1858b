"""Every error of the server as OpenAI's error body, with the headers that tell a client whether to try again."""

from __future__ import annotations

import json
import logging
import math
import time
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from proxy.http.edge import TRACE
from proxy.http.paths import advice
from proxy.protocol.failures import Failure, Kind, Rejection, envelope

log: Final = logging.getLogger("proxy.error")
BY_HTTP_ERROR: Final[dict[int, Kind]] = {
    400: Kind.BAD_REQUEST,
    404: Kind.UNKNOWN_PATH,
    405: Kind.METHOD,
    413: Kind.BODY_TOO_LARGE,
    415: Kind.CONTENT_TYPE,
}


def answer(resp: falcon.asgi.Response, failure: Failure) -> None:
    """Make `resp` the answer that stands for `failure`."""
    row = failure.row
    resp.status = row.status
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(envelope(failure))
    wait = failure.retry_after
    if failure.resets_at is not None:
        wait = max(1.0, failure.resets_at - time.time())
    if wait is not None:
        resp.set_header("retry-after", str(math.ceil(wait)))
        resp.set_header("retry-after-ms", str(math.ceil(wait * 1000)))
    if row.retry is not None:
        resp.set_header("x-should-retry", json.dumps(row.retry))


async def on_rejection(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Rejection, params: dict[str, Any]
) -> None:
    req.scope[TRACE].outcome = error.failure.kind.value
    answer(resp, error.failure)


async def on_http_error(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: falcon.HTTPError, params: dict[str, Any]
) -> None:
    """Falcon's own errors: unknown path, method, body."""
    kind = BY_HTTP_ERROR.get(error.status_code, Kind.BAD_REQUEST if error.status_code < 500 else Kind.INTERNAL)
    if kind is Kind.UNKNOWN_PATH:
        message = f"Unknown path.{advice(req.path)}"
    elif kind is Kind.METHOD:
        message = "Method not allowed."
    else:
        message = error.description or error.title or "The request cannot be served."
    req.scope[TRACE].outcome = kind.value
    answer(resp, Failure(kind, message))
    allow = (error.headers or {}).get("Allow") if isinstance(error.headers, dict) else None
    if kind is Kind.METHOD and allow:
        resp.set_header("allow", allow)


async def on_bug(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
) -> None:
    """A fault of ours: told to the log in full, to the client without its innards."""
    log.error("%s: unexpected error", req.scope[TRACE].id, exc_info=error)
    req.scope[TRACE].outcome = Kind.INTERNAL.value
    answer(resp, Failure(Kind.INTERNAL, f"The proxy failed at this request ({type(error).__name__}); see its log."))
