"""`POST /v1/messages` over HTTP: heads, errors and streams, as Anthropic's own client takes them."""

from __future__ import annotations

import json
import time
from typing import Any, cast

import anthropic
import httpx2
import pytest

from proxy.http.accounts import anthropic_headers
from proxy.http.app import create_app
from proxy.http.service import Service
from proxy.protocol.allowance import Allowance
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.protocol.lines import RateLimitInfo, Window
from tests.instant import InstantPool

ASKED: Any = {"model": "opus", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi."}]}
FIVE, SEVEN = Window(0.42, 2_000.0, "allowed"), Window(0.9, 9_000.0, "allowed_warning")


def client(pool: InstantPool) -> anthropic.AsyncAnthropic:
    app = create_app(Service(pool._settings, pool, "2.1.330", "oauth_token"))
    return anthropic.AsyncAnthropic(
        base_url="http://127.0.0.1:3456",
        api_key="none",
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(app=cast(Any, app))),
        _strict_response_validation=True,
    )


def test_the_plan_is_told_in_the_names_of_the_api() -> None:
    found = dict(
        anthropic_headers(Allowance("allowed_warning", 1.0, {"five_hour": FIVE, "seven_day": SEVEN}), "r", 1_000)
    )
    prefix = "anthropic-ratelimit-unified-"
    assert {name.removeprefix(prefix): value for name, value in found.items()} == {
        "request-id": "r",
        "status": "allowed_warning", "representative-claim": "seven_day", "reset": "9000",
        "5h-status": "allowed", "5h-reset": "2000", "5h-utilization": "0.42",
        "7d-status": "allowed_warning", "7d-reset": "9000", "7d-utilization": "0.9",
    }  # fmt: skip


def test_of_a_plan_that_is_not_known_nothing_is_told() -> None:
    assert anthropic_headers(Allowance(), "r", 1_000) == [("request-id", "r")]
    over = Allowance("allowed", 1.0, {"five_hour": FIVE})
    assert anthropic_headers(over, "r", 3_000) == [("request-id", "r")]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_says_its_request_and_the_plan(stream: bool) -> None:
    pool = InstantPool()
    service = Service(pool._settings, pool, "2.1.330", "oauth_token")
    service.accounts.limits(RateLimitInfo("allowed", time.time() + 1000, "five_hour", 0.25))
    transport = httpx2.ASGITransport(app=cast(Any, create_app(service)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:3456") as http:
        answer = await http.post("/v1/messages", json=ASKED | {"stream": stream})
        chat = await http.post("/v1/chat/completions", json=ASKED)
        wrong = await http.post("/v1/messages", json=ASKED | {"max_tokens": 0})
    assert answer.status_code == 200
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert answer.headers["anthropic-ratelimit-unified-5h-utilization"] == "0.25"
    # Others read these names in another way, or not at all.
    assert not any(name.startswith(("anthropic-", "request-id")) for name in chat.headers)
    assert wrong.headers.get_list("request-id") == [wrong.headers["x-request-id"]]


async def test_the_client_reads_a_stream_and_its_end() -> None:
    async with client(InstantPool()) as api, api.messages.stream(**ASKED) as stream:
        kinds = [event.type async for event in stream]
        message = await stream.get_final_message()
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert "".join(block.text for block in message.content if block.type == "text") == "Hello there."
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("end_turn", 10, 12)


async def test_the_client_gets_the_same_whole() -> None:
    async with client(InstantPool()) as api:
        message = await api.messages.create(**ASKED)
        assert "".join(block.text for block in message.content if block.type == "text") == "Hello there."
        assert message._request_id is not None
        assert (await api.messages.count_tokens(model="opus", messages=ASKED["messages"])).input_tokens == 12


@pytest.mark.parametrize(
    ("kind", "error", "status"),
    [
        (Kind.PLAN_LIMIT, anthropic.RateLimitError, 429),
        (Kind.OVERLOADED, anthropic.InternalServerError, 529),
        (Kind.NOT_LOGGED_IN, anthropic.AuthenticationError, 401),
        (Kind.NO_PERMISSION, anthropic.PermissionDeniedError, 403),
        (Kind.MODEL_NOT_FOUND, anthropic.NotFoundError, 404),
        (Kind.PROMPT_TOO_LONG, anthropic.BadRequestError, 400),
        (Kind.TOOK_TOO_LONG, anthropic.InternalServerError, 504),
        (Kind.CLI_DIED, anthropic.InternalServerError, 502),
    ],
)
async def test_failures_are_the_clients_exceptions(
    monkeypatch: pytest.MonkeyPatch, kind: Kind, error: type[anthropic.APIStatusError], status: int
) -> None:
    pool = InstantPool()

    async def fails(*_: Any) -> Any:
        raise Rejection(Failure(kind, "Not now.", retry_after=3.0))

    monkeypatch.setattr(pool, "open", fails)
    async with client(pool) as api:
        for stream in (False, True):
            with pytest.raises(error) as caught:
                await api.messages.create(**ASKED, stream=stream)
            assert caught.value.status_code == status
            assert caught.value.response.headers["retry-after"] == "3"
            body = cast(Any, caught.value.body)
            assert (body["type"], "Not now." in json.dumps(body)) == ("error", True)
            assert body["request_id"] == caught.value.request_id
