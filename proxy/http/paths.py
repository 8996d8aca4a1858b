"""Paths that clients are set to by mistake, or by the habits of other servers, and that can mean only one thing."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

# Where the model that the path names is found in a request's ASGI scope, if it names one.
DEPLOYMENT: Final = "claude_max_api.deployment"
# What begins a path after `/v1`.
ROOTS: Final = (
    "agents", "assistants", "audio", "batches", "chat", "complete", "completions", "containers", "conversations",
    "embeddings", "environments", "evals", "files", "fine_tuning", "images", "inspector", "memory_stores", "messages",
    "models", "moderations", "organization", "organizations", "realtime", "rerank", "responses", "sessions", "skills",
    "status", "threads", "uploads", "usage", "user_profiles", "vaults", "vector_stores", "videos",
)  # fmt: skip
_SLASHES: Final = re.compile("/{2,}")
_REPEATED: Final = re.compile("^(?:/v1)+(?=/v1(?:/|$))")
_AZURE: Final = re.compile("/openai(?:/deployments/(?P<model>[^/]+))?(?=/)")
_WITH: Final = re.compile("/v1(?:/|$)")
_WITHOUT: Final = re.compile(f"/(?:{'|'.join(ROOTS)})(?:/|$)")
_OLLAMA: Final = re.compile("^/v1(?=/api/)")
_ENDPOINT: Final = "/(?:chat/completions|completions|messages|responses)"
_ENDPOINT_TWICE: Final = re.compile(f"/v1{_ENDPOINT}(?:{_ENDPOINT}|/v1|/models)(?:/|$)")
_OTHER_VERSION: Final = re.compile(r"/v\d+\w*(?:/|$)")


class Meant(Struct, frozen=True):
    """The path that is served, and the model that was named in it."""

    path: str
    model: str | None = None


def meant(path: str) -> Meant:
    """What a path means that has `/v1` twice, not at all, or before Ollama's `/api`, slashes twice, or Azure's
    `/openai/deployments/MODEL`."""
    path = _SLASHES.sub("/", path)
    azure = _AZURE.match(path)
    rest = _REPEATED.sub("", path if azure is None else path[azure.end() :])
    rest = _OLLAMA.sub("", rest)
    if _WITHOUT.match(rest):
        rest = f"/v1{rest}"
    if azure is None:
        return Meant(rest)
    return Meant(rest, azure["model"]) if _WITH.match(rest) else Meant(path)


def advice(path: str) -> str:
    """What to change so that a path is one that is served; empty if that cannot be told."""
    if _ENDPOINT_TWICE.match(path):
        return " The client adds the path of the endpoint by itself: its base URL has to end with /v1."
    if _OTHER_VERSION.match(path) and not path.startswith("/v1/"):
        return " The version is v1: the client's base URL has to end with /v1."
    return "" if path.startswith(("/v1", "/api/")) else " Paths begin with /v1."
