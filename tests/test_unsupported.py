"""proxy/http/unsupported.py: what OpenAI and others have and Claude Code has not."""

from __future__ import annotations

from typing import Any, cast

import httpx
import pytest

from proxy.settings import Key
from tests import instant

PATHS = [
    "/v1/embeddings", "/v1/images/generations", "/v1/images/edits", "/v1/images", "/v1/audio/speech",
    "/v1/audio/transcriptions", "/v1/moderations", "/v1/embeddings/",
]  # fmt: skip
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"]


async def ask(method: str, path: str, **settings: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app=cast(Any, instant.application(**settings)))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3456") as client:
        return await client.request(method, path, json={"model": "x", "input": "y"} if method == "POST" else None)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", METHODS)
async def test_they_are_said_to_be_absent(method: str, path: str) -> None:
    response = await ask(method, path)
    assert response.status_code == 404
    assert response.headers["x-request-id"]
    if method != "HEAD":
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "Claude Code CLI has no" in error["message"]
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "what"),
    [("/v1/embeddings", "embeddings"), ("/v1/images/generations", "image"), ("/v1/audio/speech", "audio"),
     ("/v1/moderations", "moderation"), ("/v1/assistants", "/v1/responses"), ("/v1/threads/t_1/runs", "/v1/responses"),
     ("/v1/vector_stores", "vector stores"), ("/v1/uploads", "no files"), ("/v1/realtime/client_secrets", "realtime"),
     ("/v1/videos", "video"), ("/v1/containers", "containers"), ("/v1/rerank", "reranking"),
     ("/v1/evals", "evaluations"), ("/v1/fine_tuning/jobs", "fine-tuned"), ("/v1/organization/costs", "/v1/usage")],
)  # fmt: skip
async def test_what_is_absent_is_named(path: str, what: str) -> None:
    assert what in (await ask("POST", path)).json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/messages/batches", "no batches"), ("/v1/messages/batches/msgbatch_1/results", "no batches"),
        ("/v1/batches", "no batches"), ("/v1/files", "no files"), ("/v1/files/file_1/content", "no files"),
        ("/v1/skills", "no skills"), ("/v1/complete", "/v1/messages"),
        *((f"/v1/{name}", "managed agents") for name in
          ("agents", "sessions", "environments/env_1", "vaults", "memory_stores", "user_profiles")),
        ("/v1/organizations/usage_report/messages", "/v1/usage"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("anthropic", [True, False])
async def test_what_anthropics_api_has_beside_messages_is_said_to_be_absent(
    path: str, words: str, anthropic: bool
) -> None:
    transport = httpx.ASGITransport(app=cast(Any, instant.application()))
    headers = {"anthropic-version": "2023-06-01"} if anthropic else {}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3456", headers=headers) as client:
        response = await client.get(path)
    assert (response.status_code, response.json().get("type")) == (
        404,
        "error" if anthropic or "/v1/messages" in path else None,
    )
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/embeddingsx", "/v1/imagesx", "/v2/embeddings", "/engines", "/v1/engines"])
async def test_other_paths_are_unknown(path: str) -> None:
    response = await ask("POST", path)
    assert response.status_code == 404
    assert "Unknown path" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/api/embed", "has no embeddings"), ("POST", "/api/embeddings", "has no embeddings"),
        ("POST", "/api/pull", "can be pulled"), ("POST", "/api/push", "can be pushed"),
        ("POST", "/api/create", "CLAUDE_PROXY_MODELS"), ("POST", "/api/copy", "CLAUDE_PROXY_MODELS"),
        ("DELETE", "/api/delete", "can be deleted"), ("POST", "/api/blobs/sha256:0", "can be created"),
        ("GET", "/api/nowhere", "Unknown path."), ("POST", "/api", "Unknown path"),
    ],
)  # fmt: skip
async def test_what_ollama_has_is_absent_in_its_own_form(method: str, path: str, words: str) -> None:
    response = await ask(method, path)
    assert response.status_code == 404
    error = response.json()["error"]
    assert words in (error if path != "/api" else error["message"])


async def test_a_key_is_needed_here_too() -> None:
    response = await ask("POST", "/v1/embeddings", api_keys=(Key("mine", "secret"),))
    assert response.status_code == 401
