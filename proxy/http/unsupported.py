"""Endpoints of other servers that nothing behind this one can serve: a 404 that says so, in the API's own form."""

from __future__ import annotations

from typing import Any, Final

import falcon.asgi

from proxy.protocol.failures import Failure, Kind, Rejection

_NONE: Final = "The Claude Code CLI has no {}, so this server has none."
_FIXED: Final = "The models are Anthropic's, and all of them are there: none can be {}."
_BATCHES: Final = "This server takes no batches of requests: send each by itself."
_FILES: Final = "This server stores no files: send each in the message that it belongs to."
_ASSISTANTS: Final = "Assistants are not served: use /v1/responses, with `previous_response_id` or `conversation`."
_AGENTS: Final = "Anthropic's managed agents are not served: use /v1/messages, with tools of the client's own."
_ORGANIZATION: Final = "There is no organization here to manage. What has been used is told by /v1/usage."
UNSUPPORTED: Final = {
    "/api/embed": _NONE.format("embeddings"),
    "/api/embeddings": _NONE.format("embeddings"),
    "/api/pull": _FIXED.format("pulled"),
    "/api/push": _FIXED.format("pushed"),
    "/api/create": _FIXED.format("created; names of your own are made with CLAUDE_PROXY_MODELS"),
    "/api/copy": _FIXED.format("copied; names of your own are made with CLAUDE_PROXY_MODELS"),
    "/api/delete": _FIXED.format("deleted"),
    "/api/blobs": _FIXED.format("created"),
    "/v1/embeddings": _NONE.format("embeddings"),
    "/v1/images": _NONE.format("image generation"),
    "/v1/audio": _NONE.format("audio"),
    "/v1/moderations": _NONE.format("moderation"),
    "/v1/messages/batches": _BATCHES,
    "/v1/batches": _BATCHES,
    "/v1/files": _FILES,
    "/v1/uploads": _FILES,
    "/v1/vector_stores": "This server stores no files, and has no vector stores to search them in.",
    "/v1/skills": _NONE.format("skills of the API"),
    "/v1/assistants": _ASSISTANTS,
    "/v1/threads": _ASSISTANTS,
    "/v1/realtime": _NONE.format("realtime sessions"),
    "/v1/videos": _NONE.format("video generation"),
    "/v1/containers": _NONE.format("containers"),
    "/v1/rerank": _NONE.format("reranking"),
    "/v1/evals": "This server runs no evaluations: send the requests of each by themselves.",
    "/v1/fine_tuning": _FIXED.format("fine-tuned"),
    "/v1/organization": _ORGANIZATION,
    "/v1/organizations": _ORGANIZATION,
    "/v1/agents": _AGENTS,
    "/v1/sessions": _AGENTS,
    "/v1/environments": _AGENTS,
    "/v1/vaults": _AGENTS,
    "/v1/memory_stores": _AGENTS,
    "/v1/user_profiles": _AGENTS,
    "/v1/complete": "Anthropic's old completions are not served: use /v1/messages.",
}


class Unsupported:
    """A sink for one of them, with its words, whatever comes after its path and by whatever method."""

    def __init__(self, words: str) -> None:
        self._failure = Failure(Kind.UNKNOWN_PATH, words)

    async def __call__(self, req: falcon.asgi.Request, resp: falcon.asgi.Response | None, **params: Any) -> None:
        raise Rejection(self._failure)
