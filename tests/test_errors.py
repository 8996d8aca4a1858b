"""proxy/http/errors.py: every error of the server has OpenAI's shape."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import msgspec
import pytest

from proxy.dialects.openai.errors import CODES, reply
from proxy.http.models import Models
from proxy.protocol.failures import TABLE, Failure, Kind
from tests import cli_lines as say
from tests.conftest import Serve, chat, until

COMPLETIONS = "/v1/chat/completions"


def judged(answer: httpx.Response, status: int, code: str | None) -> dict[str, Any]:
    """The error of a body that must have OpenAI's shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["x-request-id"].startswith("req_")
    assert int(answer.headers["openai-processing-ms"]) >= 0
    body = answer.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["code"] == code
    return error


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1", "/v1/nothing", "/chat/nothing", "/v1/chat", "/health/more", "/v1/chat/completions/x",
             "/%00", "/v1/%2e%2e/%2e%2e/etc/passwd", "/V1/models"]
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unknown_paths(local: Serve, method: str, path: str) -> None:
    server = await local()
    async with server.client() as client:
        judged(await client.request(method, path), 404, "unknown_url")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", COMPLETIONS, "POST"), ("PUT", COMPLETIONS, "POST"), ("DELETE", "/v1/models/opus", "GET"),
        ("POST", "/v1/models", "GET"), ("POST", "/health", "GET"), ("PATCH", "/v1/models", "GET"),
    ],
)  # fmt: skip
async def test_wrong_methods_say_which_is_right(local: Serve, method: str, path: str, allowed: str) -> None:
    server = await local()
    async with server.client() as client:
        answer = await client.request(method, path)
    judged(answer, 405, "method_not_supported")
    assert allowed in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/opus", "/health"])
async def test_head_is_get_without_a_body(serve: Serve, path: str) -> None:
    server = await serve()
    async with server.client() as client:
        got, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


async def test_a_strange_method_is_refused(local: Serve) -> None:
    server = await local()
    async with server.client() as client:
        answer = await client.request("PROPFIND", "/v1/models")
    judged(answer, 405, "method_not_supported")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"model":"\xff"}', b"[" * 100_000, b'{"a":' * 100_000, b"NaN",
     b'{"model":"opus"}', b'{"messages":[]}', b'{"model":"opus","messages":[]}', b"\x00"],
)  # fmt: skip
async def test_bodies_that_are_no_request(local: Serve, body: bytes) -> None:
    server = await local()
    async with server.client() as client:
        answer = await client.post(COMPLETIONS, content=body, headers={"content-type": "application/json"})
    error = judged(answer, 400, None)
    assert error["type"] == "invalid_request_error"


async def test_a_body_that_is_too_large(local: Serve) -> None:
    server = await local(max_body=2000)
    async with server.client() as client:
        judged(await client.post(COMPLETIONS, json=chat("x" * 3000)), 413, "request_too_large")
        assert (await client.post(COMPLETIONS, json=chat("x" * 100))).status_code == 200


async def test_a_body_that_is_too_large_and_does_not_say_so(serve: Serve) -> None:
    server = await serve(max_body=2000)

    async def pieces() -> Any:
        for _ in range(100):
            yield b"x" * 1000

    async with server.client() as client:
        answer = await client.post(COMPLETIONS, content=pieces(), headers={"content-type": "application/json"})
    judged(answer, 413, "request_too_large")


async def test_a_hundred_megabytes_are_refused_before_they_come(serve: Serve) -> None:
    server = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: 104857600\r\n\r\n{"
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 60)
    assert head.startswith(b"HTTP/1.1 413 ")
    writer.close()


async def test_twelve_megabytes_of_text_pass(serve: Serve) -> None:
    server = await serve()
    async with server.client() as client:
        answer = await client.post(COMPLETIONS, json=chat(f'[["say","took it"],["end"],["sleep",0]]{" " * 12_000_000}'))
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "took it"


async def test_a_bug_is_a_500_that_tells_no_innards(
    local: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret innards")

    monkeypatch.setattr(Models, "on_get", broken)
    server = await local()
    async with server.client() as client:
        answer = await client.get("/v1/models")
    judged(answer, 500, "internal_error")
    assert "secret innards" not in answer.text
    assert "secret innards" in caplog.text


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        ([say.error_result("no", api_error_status=401)], 401, "not_logged_in"),
        ([say.error_result("no", api_error_status=429)], 429, "rate_limit_exceeded"),
        ([say.error_result("no", api_error="usage_limit_reached")], 429, "insufficient_quota"),
        ([say.error_result("no", api_error_status=529)], 503, "overloaded"),
        ([say.error_result("no", terminal_reason="prompt_too_long")], 400, "context_length_exceeded"),
        ([say.error_result("no", api_error_status=404)], 404, "model_not_found"),
        ([say.words("API Error: broken"), say.error_result("API Error: broken")], 502, "upstream_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_fails_before_the_first_delta_is_a_status(
    local: Serve, lines: list[say.Table], status: int, code: str, stream: bool
) -> None:
    server = await local()
    async with server.client() as client:
        answer = await client.post(COMPLETIONS, json=chat([["line", line] for line in lines], stream=stream))
    judged(answer, status, code)
    assert "API Error: broken" not in answer.text or status == 502
    kind = next(kind for kind in Kind if CODES[kind].code == code and TABLE[kind].status == status)
    assert answer.headers.get("x-should-retry") == (None if TABLE[kind].retry is None else "false")
    await server.idle()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_child_that_dies_at_its_start_is_a_status(local: Serve, stream: bool) -> None:
    server = await local({"exit": 1, "stderr": "error: unknown option '--tools'\n"})
    async with server.client() as client:
        answer = await client.post(COMPLETIONS, json=chat(stream=stream))
    assert "unknown option" in judged(answer, 502, "cli_died")["message"]


async def test_a_plan_limit_says_when_to_come_back(local: Serve) -> None:
    server = await local()
    resets_at = time.time() + 3600
    lines = [say.limits("rejected", resetsAt=resets_at), say.error_result("no", api_error="usage_limit_reached")]
    async with server.client() as client:
        answer = await client.post(COMPLETIONS, json=chat([["line", line] for line in lines]))
    judged(answer, 429, "insufficient_quota")
    assert 3590 <= int(answer.headers["retry-after"]) <= 3601
    assert 3_590_000 <= int(answer.headers["retry-after-ms"]) <= 3_601_000
    assert answer.headers["x-should-retry"] == "false"


async def test_a_full_queue_says_so_at_once(local: Serve) -> None:
    server = await local(max_conversations=1, max_queue=0)
    async with server.client() as client:
        busy = asyncio.create_task(client.post(COMPLETIONS, json=chat([["sleep", 0.5], ["say", "x"], ["end"]])))
        await until(lambda: server.pool.counts.busy == 1, 5, "one is served")
        answer = await client.post(COMPLETIONS, json=chat())
        judged(answer, 429, "queue_full")
        assert 0 < int(answer.headers["retry-after"]) <= 5
        assert "x-should-retry" not in answer.headers
        assert (await busy).status_code == 200


def test_a_reset_in_the_past_is_no_negative_wait() -> None:
    answer = reply(Failure(Kind.PLAN_LIMIT, "no", resets_at=1.0), time.time())
    assert dict(answer.headers)["retry-after"] == "1"


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_can_be_answered(kind: Kind) -> None:
    answer = reply(Failure(kind, "Why.", "param", retry_after=1.2), 0.0)
    assert answer.status == TABLE[kind].status
    assert json.loads(msgspec.json.encode(answer.body)) == {
        "error": {"message": "Why.", "type": CODES[kind].type, "param": "param", "code": CODES[kind].code}
    }
    headers = dict(answer.headers)
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("2", "1200")
