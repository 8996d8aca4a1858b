"""proxy/http/paths.py: paths that clients are set to by mistake or habit."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from proxy.http.paths import Meant, advice, meant
from proxy.http.routes import ROUTES
from proxy.http.unsupported import UNSUPPORTED
from tests.conftest import Serve, chat

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    "path",
    [CHAT, "/v1/v1/chat/completions", "/v1/v1/v1/chat/completions", "//v1/chat/completions", "/v1//chat/completions",
     "/chat/completions", "//chat//completions", "/openai/v1/chat/completions", "/openai/chat/completions"],
)  # fmt: skip
def test_these_all_mean_one(path: str) -> None:
    assert meant(path) == Meant(CHAT)


@pytest.mark.parametrize(
    "path",
    ["/", "", "/health", "/metrics", "/docs", "/openapi.json", "/v1", "/v1/models/a", "/v1/nowhere", "/nowhere", "*",
     "/chats", "/api/chat", "/openai/health", "/openai/deployments/x/health",
     "/api/v1", "/v1x/v1/models", "/v1/chat/completions/v1/v1", "/v1/models/v1/v1/x"],
)  # fmt: skip
def test_these_mean_themselves(path: str) -> None:
    assert meant(path) == Meant(path)


@pytest.mark.parametrize(
    ("path", "served", "model"),
    [
        ("/openai/deployments/opus/chat/completions", CHAT, "opus"),
        ("//openai//deployments/opus/completions", "/v1/completions", "opus"),
        ("/openai/deployments/claude-opus-5[1m]/chat/completions", CHAT, "claude-opus-5[1m]"),
        ("/openai/models", "/v1/models", None),
        ("/models/opus", "/v1/models/opus", None),
        ("/v1/v1", "/v1", None),
        ("/v1/api/chat", "/api/chat", None),
        ("/v1//v1/api/tags", "/api/tags", None),
    ],
)
def test_other_habits(path: str, served: str, model: str | None) -> None:
    assert meant(path) == Meant(served, model)


def test_every_path_of_the_api_may_lack_its_v1() -> None:
    paths = [path for path in (*(route.path for route in ROUTES), *UNSUPPORTED) if path.startswith("/v1/")]
    assert paths
    for path in paths:
        assert meant(path.removeprefix("/v1")) == meant(path) == Meant(path)


@pytest.mark.parametrize(
    ("path", "said"),
    [("/v1/chat/completions/chat/completions", "base URL"), ("/v1/completions/models", "base URL"),
     ("/v2/models", "version"), ("/v1beta/models", "version"), ("/nowhere", "begin with /v1"), ("/v1/nowhere", ""),
     ("/v1/messages/batches", ""), ("/v1/messages/v1/messages", "base URL")],
)  # fmt: skip
def test_what_to_change_is_told(path: str, said: str) -> None:
    assert said in advice(path)
    assert bool(said) == bool(advice(path))


@pytest.mark.parametrize("path", ["/v1/v1/models", "//v1/models", "/models", "/openai/models?api-version=2026-01-01"])
async def test_they_are_served(local: Serve, path: str) -> None:
    server = await local()
    async with server.client() as client:
        assert (await client.get(server.url + path)).json()["object"] == "list"
        assert (await client.get(server.url + "/v1/chat/completions/models")).status_code == 404


@pytest.mark.parametrize("body", [{}, {"model": "haiku"}, {"model": None}])
async def test_the_model_of_azure_s_path_counts(
    local: Serve, body: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "proxy.request")
    server = await local()
    path = "/openai/deployments/opus-of-mine/chat/completions?api-version=2026-01-01"
    headers = {"content-type": "application/json"}
    async with server.client() as client:
        answer = await client.post(path, json={"messages": chat("Hi.")["messages"]} | body)
        empty = await client.post(path, content=" {} ", headers=headers)
        none = await client.post(path, content="[", headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == "echo: Hi."
    assert "/openai/deployments/opus-of-mine/chat/completions 200" in caplog.messages[0]
    assert "model=opus-of-mine" in caplog.messages[0]
    assert "messages" in empty.json()["error"]["message"]
    assert none.status_code == 400


async def test_it_takes_a_key_all_the_same(local: Serve) -> None:
    from proxy.settings import Key

    server = await local(api_keys=(Key("me", "secret"),))
    async with server.client() as client:
        for path in ("/models", "//health/../v1/models", "/v1/v1/usage", "/openai/deployments/health/health"):
            assert (await client.get(server.url + path)).status_code == 401
        assert (await client.get(server.url + "//health")).status_code == 200
