"""Every error of the server in the form of the API that was asked, with headers that tell whether to try again."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from proxy.http import models
from proxy.http.edge import TRACE, Trace
from proxy.http.paths import advice
from proxy.http.routes import dialect_of
from proxy.protocol.failures import Failure, Kind, Rejection

log: Final = logging.getLogger("proxy.error")
BY_HTTP_ERROR: Final[dict[int, Kind]] = {
    400: Kind.BAD_REQUEST,
    404: Kind.UNKNOWN_PATH,
    405: Kind.METHOD,
    413: Kind.BODY_TOO_LARGE,
    415: Kind.CONTENT_TYPE,
}


def answer(req: falcon.asgi.Request, resp: falcon.asgi.Response, failure: Failure) -> None:
    """Make `resp` the answer that stands for `failure`, in the form of the API that was asked."""
    trace: Trace = req.scope[TRACE]
    trace.outcome = failure.kind.value
    dialect = dialect_of(req.path, anthropic=req.get_header(models.VERSION) is not None)
    reply = dialect.error(failure, time.time(), trace.id)
    resp.status = reply.status
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(reply.body)
    for name, value in reply.headers:
        resp.set_header(name, value)


async def on_rejection(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Rejection, params: dict[str, Any]
) -> None:
    answer(req, resp, error.failure)


async def on_http_error(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: falcon.HTTPError, params: dict[str, Any]
) -> None:
    """Falcon's own errors: unknown path, method, body."""
    kind = BY_HTTP_ERROR.get(error.status_code, Kind.BAD_REQUEST if error.status_code < 500 else Kind.INTERNAL)
    if kind is Kind.UNKNOWN_PATH:
        message = f"Unknown path.{advice(req.path)}"
    elif kind is Kind.METHOD:
        message = "Method not allowed."
        if (req.get_header("upgrade") or "").lower() == "websocket":
            # Codex asks for one where it would POST; at this answer it does so at once.
            answer(req, resp, Failure(Kind.NO_WEBSOCKET, "There are no WebSockets here: POST the request instead."))
            return
    else:
        message = error.description or error.title or "The request cannot be served."
    answer(req, resp, Failure(kind, message))
    allow = (error.headers or {}).get("Allow") if isinstance(error.headers, dict) else None
    if kind is Kind.METHOD and allow:
        resp.set_header("allow", allow)


async def on_bug(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
) -> None:
    """A fault of ours: told to the log in full, to the client without its innards."""
    log.error("%s: unexpected error", req.scope[TRACE].id, exc_info=error)
    answer(
        req, resp, Failure(Kind.INTERNAL, f"The proxy failed at this request ({type(error).__name__}); see its log.")
    )
