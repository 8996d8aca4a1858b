"""Who may ask: `Host`, `Origin` and key are checked before anything else of a request is looked at.

- `Host`: a page of another site that has its name point to 127.0.0.1 (DNS rebinding) still sends its own name. Checked
  while the server listens on loopback; beyond it keys are needed, which such a page does not have.
- `Origin`: a browser sends it with every cross-site POST. Only origins that the user named may call, and this server's
  own pages.
- Key: needed on every path but `/health` and preflights once keys are set; compared in constant time, with all of them.
"""

from __future__ import annotations

import hmac
from typing import Final
from urllib.parse import urlsplit

import falcon
import falcon.asgi

from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.settings import Key, Settings, loopback

OPEN_PATHS: Final = ("/health",)
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
ALLOWED_METHODS: Final = "GET, POST, OPTIONS"
PREFLIGHT_AGE: Final = "600"
# All headers may be read: none of them is secret, and no answer allows cookies to be sent along.
EXPOSED: Final = "*"


def host_name(header: str) -> str:
    """The name in a `Host` header, without port and brackets, in lower case; empty when it cannot be read."""
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _forbidden(message: str) -> Rejection:
    return Rejection(Failure(Kind.FORBIDDEN, message))


def find_key(keys: tuple[Key, ...], header: str | None) -> Key | None:
    """The key that an `Authorization` header holds. Takes the same time whichever it is, or none."""
    scheme, _, given = (header or "").partition(" ")
    secret = given.strip().encode("utf-8", "surrogateescape")
    found = None
    for key in keys:
        if hmac.compare_digest(key.secret.encode(), secret) and scheme.lower() == "bearer":
            found = key
    return found


class Guard:
    """Falcon middleware. Puts the key's name into `req.context.key_name` (empty without keys)."""

    def __init__(self, settings: Settings) -> None:
        self._keys = settings.api_keys
        self._origins = frozenset(origin.rstrip("/").lower() for origin in settings.origins)
        self._check_host = loopback(settings.host)
        self._hosts = frozenset(map(host_name, (*LOOPBACK_NAMES, *settings.hosts)))

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        req.context.key_name = ""
        host = req.get_header("host") or ""
        if self._check_host and host_name(host) not in self._hosts:
            raise _forbidden(
                "This server does not answer to that host name. If it is meant to, add it to CLAUDE_PROXY_HOSTS."
            )
        origin = req.get_header("origin")
        if origin is not None:
            self._check_origin(origin, host, req, resp)
        if req.method == "OPTIONS" and origin is not None and req.get_header("access-control-request-method"):
            resp.complete = True
            resp.status = 204
            return
        if self._keys and req.path not in OPEN_PATHS:
            key = find_key(self._keys, req.get_header("authorization"))
            if key is None:
                if (req.get_header("authorization") or "").lower().startswith("bearer "):
                    words = "Incorrect API key provided: it is none of those in this server's API_KEYS."
                    raise Rejection(Failure(Kind.BAD_KEY, words))
                raise Rejection(Failure(Kind.NO_KEY, "No API key given: send `Authorization: Bearer KEY`."))
            req.context.key_name = key.name

    def _check_origin(self, origin: str, host: str, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        origin = origin.rstrip("/").lower()
        if origin == f"{req.scheme}://{host.lower()}":
            return
        if origin not in self._origins:
            raise _forbidden(
                "Web pages of this origin may not call this server. To allow it, add it to CLAUDE_PROXY_ORIGINS."
            )
        resp.set_header("access-control-allow-origin", origin)
        resp.set_header("vary", "origin")
        resp.set_header("access-control-expose-headers", EXPOSED)
        if req.method == "OPTIONS":
            resp.set_header("access-control-allow-methods", ALLOWED_METHODS)
            resp.set_header(
                "access-control-allow-headers", req.get_header("access-control-request-headers") or "content-type"
            )
            resp.set_header("access-control-max-age", PREFLIGHT_AGE)


def _too_large(most: int) -> Rejection:
    return Rejection(Failure(Kind.BODY_TOO_LARGE, f"The body is larger than {most} bytes."))


async def read_json(req: falcon.asgi.Request, most: int) -> bytes:
    """The body of a POST, which must say that it is JSON: a form or plain text could come from any web page."""
    media_type = (req.content_type or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Rejection(Failure(Kind.CONTENT_TYPE, "The body must be sent as `content-type: application/json`."))
    if (req.content_length or 0) > most:
        raise _too_large(most)
    body = bytearray()
    async for piece in req.stream:
        body += piece
        if len(body) > most:
            raise _too_large(most)
    return bytes(body)
