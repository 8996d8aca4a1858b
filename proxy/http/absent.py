"""Endpoints of OpenAI's that nothing behind this server can serve: a 404 that says so, and what to do instead."""

from __future__ import annotations

from typing import Any, Final

import falcon.asgi

from proxy.protocol.failures import Failure, Kind, Rejection

_NONE: Final = "The Claude Code CLI has no {}, so this server has none."
ABSENT: Final = {
    "/v1/embeddings": _NONE.format("embeddings"),
    "/v1/images": _NONE.format("image generation"),
    "/v1/audio": _NONE.format("audio"),
    "/v1/moderations": _NONE.format("moderation"),
}


class Absent:
    """A sink for one of them, with its words, whatever comes after its path and by whatever method."""

    def __init__(self, words: str) -> None:
        self._failure = Failure(Kind.UNKNOWN_PATH, words)

    async def __call__(self, req: falcon.asgi.Request, resp: falcon.asgi.Response | None, **params: Any) -> None:
        raise Rejection(self._failure)
