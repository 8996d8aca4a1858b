"""Who may ask: `Host`, `Origin` and key are checked before anything else of a request is looked at.

- `Host`: a page of another site that has its name point to 127.0.0.1 (DNS rebinding) still sends its own name. Checked
  while the server listens on loopback; beyond it keys are needed, which such a page does not have.
- `Origin`: a browser sends it with every cross-site POST. Only origins that the user named may call, and this server's
  own pages.
- Key: needed on every path but `/health` and preflights once keys are set; compared in constant time, with all of them.
  It comes as `Authorization: Bearer KEY`, `x-api-key: KEY` or `api-key: KEY`.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import falcon
import falcon.asgi

from proxy.keys.keyring import Keyring
from proxy.offload import OWNER
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.settings import Settings, loopback

# The page itself says nothing: it asks for a key before it can show anything.
OPEN_PATHS: Final = ("/health", "/")
# Beside `Authorization: Bearer`: Anthropic's clients and Azure's.
KEY_HEADERS: Final = ("x-api-key", "api-key")
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
ALLOWED_METHODS: Final = "GET, POST, DELETE, OPTIONS"
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


def given_keys(req: falcon.asgi.Request) -> list[str]:
    """The keys that a request brings, in each of the headers that a client may be made for."""
    scheme, _, bearer = (req.get_header("authorization") or "").partition(" ")
    found = [bearer] if scheme.lower() == "bearer" else []
    found += [req.get_header(name) or "" for name in KEY_HEADERS]
    return [key for key in map(str.strip, found) if key]


class AccessControl:
    """Falcon middleware. Puts the key's name into `req.context.key_name`, and its owner (`Keyring.find`) into
    `req.context.owner`; both are empty without keys."""

    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self._keyring = keyring
        self._origins = frozenset(origin.rstrip("/").lower() for origin in settings.origins)
        self._check_host = loopback(settings.host)
        self._hosts = frozenset(map(host_name, (*LOOPBACK_NAMES, *settings.hosts)))

    async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        req.context.key_name = req.context.owner = ""
        OWNER.set("")
        if sum(name == b"host" for name, _ in req.scope["headers"]) > 1:
            raise Rejection(Failure(Kind.BAD_REQUEST, "The request has more than one Host header."))
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
        if self._keyring and req.path not in OPEN_PATHS:
            given = given_keys(req)
            found = self._keyring.find(given)
            if found is None and given:
                message = "Incorrect API key provided: it is none of this server's keys."
                raise Rejection(Failure(Kind.BAD_KEY, message))
            if found is None:
                message = "No API key given: send `Authorization: Bearer KEY` or `x-api-key: KEY`."
                raise Rejection(Failure(Kind.NO_KEY, message))
            req.context.key_name, req.context.owner = found
            OWNER.set(req.context.owner)

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
