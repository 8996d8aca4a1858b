"""Endpoints of OpenAI's that nothing behind this server can serve: a 404 that says so, rather than "unknown path"."""

from __future__ import annotations

from typing import Any, Final

import falcon.asgi

from proxy.protocol.failures import Failure, Kind, Rejection

ABSENT: Final = {
    "/v1/embeddings": "embeddings",
    "/v1/images": "image generation",
    "/v1/audio": "audio",
    "/v1/moderations": "moderation",
}


class Absent:
    """A sink for one of them, whatever comes after its path and by whatever method."""

    def __init__(self, what: str) -> None:
        self._failure = Failure(Kind.UNKNOWN_PATH, f"The Claude Code CLI has no {what}, so this server has none.")

    async def __call__(self, req: falcon.asgi.Request, resp: falcon.asgi.Response | None, **params: Any) -> None:
        raise Rejection(self._failure)
