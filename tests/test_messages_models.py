"""The models in the form of Anthropic's API; its own client is the judge."""

from __future__ import annotations

from typing import Any, cast

import anthropic
import httpx
import httpx2
import pytest
from anthropic.types import ModelCapabilities, ModelInfo

from proxy.dialects.anthropic import models
from proxy.dialects.anthropic.models import page
from proxy.http.app import create_app
from proxy.http.service import Service
from proxy.protocol.failures import Rejection
from proxy.protocol.lines import ListedModel, ModelUse
from proxy.settings import Key, ModelName
from tests.instant import InstantPool

OPUS = "claude-opus-5-5"
NAMES = [models.ModelInfo(id=str(number), display_name="") for number in range(1, 6)]


class Server:
    def __init__(self, **settings: Any) -> None:
        self.pool = InstantPool(**settings)
        self.app = create_app(Service(self.pool._settings, self.pool, "2.1.330", "oauth_token"))

    @property
    def transport(self) -> httpx.ASGITransport:
        return httpx.ASGITransport(app=cast(Any, self.app))

    def client(self, key: str = "none") -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(
            base_url="http://127.0.0.1:3456",
            api_key=key,
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(app=cast(Any, self.app))),
            _strict_response_validation=True,
        )

    async def ask(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        headers = {"anthropic-version": "2023-06-01"} | {name.replace("_", "-"): it for name, it in headers.items()}
        async with httpx.AsyncClient(transport=self.transport, base_url="http://127.0.0.1:3456") as client:
            return await client.request(method, path, headers=headers)


def ids(found: models.ModelPage) -> str:
    assert (found.first_id, found.last_id) == ((found.data[0].id, found.data[-1].id) if found.data else (None, None))
    return "".join(model.id for model in found.data) + ("+" if found.has_more else "")


@pytest.mark.parametrize("web_search", [True, False])
async def test_what_a_model_can_be_asked_for(web_search: bool) -> None:
    server = Server(web_search=web_search)
    server.pool.warm_pool.models = (
        ListedModel("opus", OPUS, ["low", "high"], supportsThinkingOff=True, supportsAdaptiveThinking=True),
        ListedModel("haiku", "claude-haiku-5-5"),
    )
    async with server.client() as client:
        opus, haiku, unlisted = [await client.models.retrieve(id) for id in ("opus", "haiku", "claude-opus-4-7")]
    assert opus.capabilities is not None
    told: Any = opus.capabilities.to_dict()
    # The client's type has a word for every capability, and each is said.
    assert set(told) == set(ModelCapabilities.model_fields)
    levels = [name for name, one in told["effort"].items() if one == {"supported": True}]
    assert (told["effort"]["supported"], sorted(levels)) == (True, ["high", "low"])
    types = [name for name, one in told["thinking"]["types"].items() if one["supported"]]
    assert sorted(types) == ["adaptive", "disabled"]
    assert told["server_tools"] == {
        "supported": web_search,
        "web_search": {"supported": web_search},
        "code_execution": {"supported": False},
    }
    flat = [told[name]["supported"] for name in ("image_input", "pdf_input", "structured_outputs", "batch")]
    assert flat == [True, True, True, False]
    assert haiku.capabilities is not None
    assert not haiku.capabilities.effort.supported
    assert not haiku.capabilities.thinking.supported
    assert unlisted.capabilities is None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "12345"),
        ({"limit": "2"}, "12+"),
        ({"limit": "5"}, "12345"),
        ({"after_id": "2"}, "345"),
        ({"after_id": "2", "limit": "2"}, "34+"),
        ({"after_id": "5"}, ""),
        ({"before_id": "4"}, "123"),
        ({"before_id": "4", "limit": "2"}, "23+"),
        ({"before_id": "1"}, ""),
    ],
)
def test_pages(asked: dict[str, str], expected: str) -> None:
    assert ids(page(NAMES, **asked)) == expected


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"limit": "1" * 5000}, "limit"),
        ({"limit": "\u0663"}, "limit"),
        ({"after_id": "6"}, "after_id"),
        ({"before_id": ""}, "before_id"),
        ({"after_id": "1", "before_id": "2"}, "before_id"),
    ],
)
def test_pages_that_there_cannot_be(asked: dict[str, str], param: str) -> None:
    with pytest.raises(Rejection) as caught:
        page(NAMES, **asked)
    assert caught.value.failure.param == param


async def test_the_client_pages_through_the_list() -> None:
    server = Server(models=(ModelName("mine", "opus"),))
    async with server.client() as client:
        first = await client.models.list(limit=2)
        assert (len(first.data), first.has_more) == (2, True)
        found = [model.id async for model in client.models.list(limit=2)]
        assert found == ["mine", "opus", "fable", "sonnet", "haiku", OPUS, "claude-haiku-5-5"]
        before = await client.models.list(before_id="sonnet", limit=1)
        assert ([model.id for model in before.data], before.has_more) == (["fable"], True)


async def test_a_model_says_what_the_cli_has_said_of_it() -> None:
    server = Server(models=(ModelName("mine", "opus"),))
    server.pool.warm_pool.models = (ListedModel("opus", OPUS, displayName="Opus"),)
    server.pool.windows = {"opus": 1_000_000}
    server.pool.models_used = {OPUS: ModelUse(maxOutputTokens=64_000)}
    async with server.client() as client:
        for id, name in (("opus", "Opus"), (OPUS, "Opus"), ("mine", "mine")):
            model = await client.models.retrieve(id)
            assert model == ModelInfo.model_validate(model.model_dump(), strict=True)
            assert (model.id, model.display_name, model.line, model.lifecycle) == (id, name, "opus", "active")
            assert (model.max_input_tokens, model.max_tokens) == (1_000_000, 64_000)
            assert model.created_at.timestamp() == 0
        unknown = await client.models.retrieve("claude-3-5-sonnet-latest")
        assert (unknown.line, unknown.max_input_tokens, unknown.max_tokens) == ("sonnet", None, None)


async def test_sizes_in_the_list_of_openai_need_no_answer_first() -> None:
    server = Server()
    server.pool.windows = {"opus": 1_000_000, "haiku": 200_000}
    async with httpx.AsyncClient(transport=server.transport, base_url="http://127.0.0.1:3456") as client:
        listed = (await client.get("/v1/models")).json()["data"]
        one = (await client.get("/v1/models/haiku")).json()
    sizes = {model["id"]: model.get("context_length") for model in listed}
    assert sizes["opus"] == sizes[OPUS] == 1_000_000
    assert sizes["haiku"] == one["context_length"] == 200_000
    assert sizes["sonnet"] is None


async def test_a_name_that_is_no_models_is_an_error_of_this_api() -> None:
    async with Server().client() as client:
        with pytest.raises(anthropic.NotFoundError) as caught:
            await client.models.retrieve("gpt-4o")
    assert cast(Any, caught.value.body)["error"]["type"] == "not_found_error"


async def test_a_bad_page_is_an_error_of_this_api() -> None:
    async with Server().client() as client:
        with pytest.raises(anthropic.BadRequestError) as caught:
            await client.models.list(limit=0)
    assert cast(Any, caught.value.body)["error"] == {
        "type": "invalid_request_error",
        "message": "limit: Must be an integer between 1 and 1000.",
    }


async def test_only_models_in_use_are_listed() -> None:
    async with Server().client() as client:
        assert (await client.models.list(lifecycle=["retired"])).data == []
        assert (await client.models.list(lifecycle=["retired", "active"])).data != []


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/files", "/v1/models/gpt-4o"])
async def test_errors_of_paths_that_are_no_apis_own_follow_the_client(path: str) -> None:
    answer = await Server().ask(path)
    assert (answer.status_code, answer.json()["type"]) == (404, "error")
    assert answer.headers["request-id"] == answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_errors_of_openais_own_paths_stay_openais() -> None:
    answer = await Server().ask("/v1/chat/completions")
    assert (answer.status_code, "type" in answer.json()) == (405, False)


async def test_any_beta_is_taken_and_the_form_depends_on_the_version_alone() -> None:
    server = Server()
    plain = await server.ask("/v1/models", anthropic_beta="made-up-2099-01-01,another")
    assert plain.json()["first_id"] == "opus"
    assert plain.headers["vary"] == "anthropic-version"
    async with httpx.AsyncClient(transport=server.transport, base_url="http://127.0.0.1:3456") as client:
        assert (await client.get("/v1/models")).json()["object"] == "list"


@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/models/opus"])
async def test_the_head_alone(path: str) -> None:
    answer = await Server().ask(path, "HEAD")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_keys_come_in_the_header_of_this_api() -> None:
    server = Server(api_keys=(Key("me", "sk-one"),))
    async with server.client("sk-one") as client:
        assert (await client.models.retrieve("opus")).id == "opus"
    async with server.client("sk-two") as client:
        with pytest.raises(anthropic.AuthenticationError):
            await client.models.retrieve("opus")
