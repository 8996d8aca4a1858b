"""proxy/http/models.py: the models on offer; the openai package's types are the judge."""

from __future__ import annotations

import time
from typing import Any, cast

import httpx
import pytest
from openai.types import Model

from proxy.http.app import create_app
from proxy.http.models import CREATED, model_ids
from proxy.http.service import Service
from proxy.protocol.lines import ListedModel, ModelUse
from proxy.protocol.models import FAMILIES
from proxy.settings import ModelName
from tests import fake_cli
from tests.conftest import Serve, chat
from tests.instant import InstantPool

KEYS = ["id", "object", "created", "owned_by"]
OPUS = "claude-opus-5-5"


class Server:
    def __init__(self, **settings: Any) -> None:
        self.pool = InstantPool(**settings)
        self.service = Service(self.pool._settings, self.pool, "2.1.330", "oauth_token")
        self.app = create_app(self.service)

    async def ask(self, path: str, method: str = "GET") -> httpx.Response:
        transport = httpx.ASGITransport(app=cast(Any, self.app))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3456") as client:
            return await client.request(method, path)

    async def listed(self) -> list[Any]:
        found = (await self.ask("/v1/models")).json()
        assert found["object"] == "list"
        data: list[Any] = found["data"]
        for model in data:
            Model.model_validate(model, strict=True)
        return data


async def test_the_list() -> None:
    data = await Server().listed()
    assert [list(model) for model in data] == [KEYS] * len(data)
    assert {(model["object"], model["created"], model["owned_by"]) for model in data} == {
        ("model", CREATED, "anthropic")
    }
    ids = [model["id"] for model in data]
    assert ids == list(dict.fromkeys([*FAMILIES, OPUS, "claude-haiku-5-5"]))


async def test_created_is_long_ago_and_never_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    before = await server.listed()
    assert time.time() - CREATED > 86_400
    monkeypatch.setattr("time.time", lambda: 4_000_000_000.0)
    assert await server.listed() == before


async def test_own_names_come_first_and_nothing_twice() -> None:
    server = Server(models=(ModelName("gpt-4o", "opus"), ModelName("haiku", "opus")))
    server.pool.warm_pool.models += (ListedModel("default", OPUS), ListedModel("", ""))
    ids = [model["id"] for model in await server.listed()]
    assert ids[:2] == ["gpt-4o", "haiku"]
    assert len(ids) == len(set(ids))
    assert not {"", "default"} & set(ids)
    assert tuple(ids) == model_ids(server.service)


async def test_sizes_are_told_when_the_cli_has_told_them() -> None:
    server = Server(models=(ModelName("mine", "opus"),))
    assert list((await server.ask("/v1/models/opus")).json()) == KEYS
    server.pool.models_used = {OPUS: ModelUse(contextWindow=200_000, maxOutputTokens=64_000)}
    for id in ("mine", "opus", OPUS):
        found = (await server.ask(f"/v1/models/{id}")).json()
        assert (found["id"], found["context_length"], found["max_completion_tokens"]) == (id, 200_000, 64_000)
    assert list((await server.ask("/v1/models/haiku")).json()) == KEYS
    assert {model["id"] for model in await server.listed() if "context_length" in model} == {"mine", "opus", OPUS}


async def test_sizes_of_nothing_are_not_told() -> None:
    server = Server()
    server.pool.models_used = {OPUS: ModelUse(contextWindow=0, maxOutputTokens=0)}
    assert list((await server.ask("/v1/models/opus")).json()) == KEYS


@pytest.mark.parametrize(
    ("asked", "id"),
    [("opus", "opus"), ("anthropic/claude-opus-4-7", "claude-opus-4-7"), ("claude-max/haiku", "haiku"),
     ("claude-sonnet-4-20250514", "claude-sonnet-4-20250514"), ("opus%5B1m%5D", "opus[1m]"),
     ("a/b/sonnet/c", "a/b/sonnet/c"), ("opus/", "opus")],
)  # fmt: skip
async def test_one_by_its_name(asked: str, id: str) -> None:
    response = await Server().ask(f"/v1/models/{asked}")
    assert response.status_code == 200
    assert Model.model_validate(response.json(), strict=True).id == id


@pytest.mark.parametrize(
    "id",
    ["gpt-4o", "nobody/knows", "x", "openai/gpt-4o", "..%2f..%2fetc%2fpasswd", "%0d%0aset-cookie:%20x", "%00", "%ff",
     "x" * 3000],
)  # fmt: skip
async def test_one_that_is_not_of_claude(id: str) -> None:
    response = await Server().ask(f"/v1/models/{id}")
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("model", "model_not_found")


async def test_a_name_with_line_breaks_stays_in_the_body() -> None:
    response = await Server().ask("/v1/models/opus%0d%0aset-cookie:%20x=1")
    assert response.status_code == 200
    assert "set-cookie" not in response.headers


async def test_a_name_of_the_settings_reaches_the_cli_as_its_target(local: Serve) -> None:
    server = await local(models=(ModelName("fast", "claude-haiku-5-5"),))
    async with server.client() as client:
        await client.post("/v1/chat/completions", json=chat(model="claude-max/fast"))
    settings = [
        line["request"]["settings"]
        for line in fake_cli.told(server.directory)[0]
        if "settings" in line.get("request", {})
    ]
    assert settings[0]["model"] == "claude-haiku-5-5"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/opus"])
async def test_the_head_alone(path: str) -> None:
    response = await Server().ask(path, "HEAD")
    assert (response.status_code, response.content) == (200, b"")
