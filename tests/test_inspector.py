"""The inspector: what is kept of a request, what is not, and who may see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.http.inspector import MAX_KEPT, MAX_LINES, MAX_TEXT, Exchange, Inspector
from proxy.http.status import memory
from proxy.settings import Key
from tests import fake_cli
from tests.conftest import PATIENCE, Serve, chat, until
from tests.served import Served, entries, wait_for

KEYS = (Key("ann", "sesame"), Key("bob", "mellon"))
SECRETS = ("sesame", "mellon", "cookie-secret")


async def fetch(server: Any, path: str, secret: str = "") -> Any:
    async with server.client() as client:
        return (await client.get(path, headers={"authorization": f"Bearer {secret}"} if secret else {})).json()


async def test_headers_timings_and_how_it_was_served(local: Serve) -> None:
    server = await local()
    async with server.client() as client:
        answer = await client.post(
            "/v1/chat/completions",
            json=chat("hi", seed=1, stream=True),
            headers={"cookie": "cookie-secret", "x-mine": "yes"},
        )
    await until(lambda: server.service.inspector.under_way == 0, 5, "it has ended")
    (one,) = (await fetch(server, "/v1/inspector"))["data"]
    assert one["id"] == answer.headers["x-request-id"]
    assert (one["state"], one["outcome"], one["status"], one["served"]) == ("ended", "ok", 200, "new")
    assert one["ignored"] == ["seed"]
    assert (one["prompt_tokens"], one["cached_tokens"], one["completion_tokens"]) == (22, 7, 12)
    assert 0 <= one["first_delta"] <= one["duration"]
    whole = await fetch(server, f"/v1/inspector/{one['id']}")
    assert whole["request"] == one
    sent, got = dict(whole["request_headers"]), dict(whole["response_headers"])
    assert (sent["x-mine"], sent["cookie"]) == ("yes", "(not kept)")
    assert got["x-claude-proxy-served"] == "new"
    # Texts are not kept unless the owner has said so.
    assert (whole["request_body"], whole["response_body"], whole["lines"]) == (None, None, None)
    assert "echo: hi" not in json.dumps(whole)


@pytest.mark.parametrize(
    ("name", "hidden"),
    [("authorization", True), ("proxy-authorization", True), ("x-api-key", True), ("api-key", True), ("apikey", True),
     ("x-goog-api-key", True), ("x-auth-token", True), ("x-amz-security-token", True), ("cookie", True),
     ("x-client-secret", True), ("x-forwarded-access-token", True), ("idempotency-key", False), ("user-agent", False),
     ("x-max-tokens", False), ("x-keyboard", False), ("x-monkey", False), ("content-type", False)],
)  # fmt: skip
async def test_what_may_be_a_secret_is_not_kept(local: Serve, name: str, hidden: bool) -> None:
    server = await local()
    async with server.client() as client:
        await client.post("/v1/models", headers={name: "mellon"})
    (one,) = (await fetch(server, "/v1/inspector"))["data"]
    shown = dict((await fetch(server, f"/v1/inspector/{one['id']}"))["request_headers"])
    assert shown[name] == ("(not kept)" if hidden else "mellon")


async def test_requests_that_are_turned_away_take_no_place(local: Serve) -> None:
    server = await local(api_keys=KEYS)
    async with server.client() as client:
        key = {"authorization": "Bearer sesame"}
        asked = await client.post("/v1/chat/completions", json=chat("hi"), headers=key)
        for _ in range(MAX_KEPT):
            await client.post("/v1/chat/completions", json=chat("hi"), headers={"authorization": "Bearer wrong"})
            await client.post("/v1/chat/completions", json=chat("hi"))
            await client.post("/v1/chat/completions", json=chat("hi"), headers=key | {"origin": "https://evil.example"})
    (one,) = (await fetch(server, "/v1/inspector", "sesame"))["data"]
    assert one["id"] == asked.headers["x-request-id"]


async def test_a_request_under_way_is_shown(local: Serve) -> None:
    server = await local()
    async with server.client() as client:
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=chat([["say", "a"], ["hang"]])))
        await until(lambda: server.service.inspector.under_way == 1, 5, "it is under way")
        await until(lambda: server.pool.counts.busy == 1, 5, "it is asked")
        (one,) = (await fetch(server, "/v1/inspector"))["data"]
        assert (one["state"], one["outcome"]) == ("running", None)
        assert (await fetch(server, "/v1/status"))["under_way"] == 1
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_each_key_sees_its_own(local: Serve) -> None:
    server = await local(api_keys=KEYS)
    async with server.client() as client:
        for secret in ("sesame", "mellon", "wrong"):
            await client.post("/v1/chat/completions", json=chat("hi"), headers={"authorization": f"Bearer {secret}"})
    anns, bobs = [(await fetch(server, "/v1/inspector", secret))["data"] for secret in ("sesame", "mellon")]
    assert [[one["key"] for one in each] for each in (anns, bobs)] == [["ann"], ["bob"]]
    assert "request" in await fetch(server, f"/v1/inspector/{anns[0]['id']}", "sesame")
    assert (await fetch(server, f"/v1/inspector/{anns[0]['id']}", "mellon"))["error"]["code"] == "unknown_url"
    assert (await fetch(server, "/v1/inspector"))["error"]["code"] == "invalid_api_key"


async def test_only_so_many_are_kept_and_no_reading_of_them(local: Serve) -> None:
    server = await local()
    async with server.client() as client:
        for _ in range(MAX_KEPT + 3):
            await client.post("/v1/chat/completions", json={})
        await client.get("/v1/models")
    data = (await fetch(server, "/v1/inspector"))["data"]
    assert len(data) == MAX_KEPT
    assert {one["outcome"] for one in data} == {"bad_request"}
    assert data == sorted(data, key=lambda one: one["began"], reverse=True)


def exchange() -> Exchange:
    return Exchange({"type": "http", "method": "POST", "path": "/", "headers": []}, texts=True)


def test_texts_are_bounded() -> None:
    one = exchange()
    one.received({"body": b"x" * (MAX_TEXT - 1)})
    assert not one.whole().cut
    one.received({"body": b"yz"})
    whole = one.whole()
    assert whole.request_body is not None
    assert (len(whole.request_body), whole.cut) == (MAX_TEXT, True)


def test_lines_are_put_together_and_bounded() -> None:
    one = exchange()
    for piece in ('{"a": "', "ü".encode()[:1].decode("latin-1"), ""):
        one.line("proxy", piece.encode("latin-1"))
    one.line("cli", b"to the cli\n")
    one.line("proxy", "ü".encode()[1:] + b'"}\nnext')
    assert [(line.to, line.text) for line in one.whole().lines or ()] == [
        ("cli", "to the cli"),
        ("proxy", '{"a": "ü"}'),
    ]
    one.line("proxy", b"y" * (MAX_LINES + 1))
    assert one.whole().cut
    one.line("cli", b"z" * (MAX_LINES - 100) + b"\n")
    one.line("cli", b"z" * 200 + b"\n")
    assert sum(len(line.text) for line in one.whole().lines or ()) <= MAX_LINES


def test_nothing_is_kept_of_what_is_no_request() -> None:
    called = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.append(scope["type"])

    inspector = Inspector(texts=True)
    asyncio.run(inspector.around(app)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert (called, inspector.of("")) == (["lifespan"], [])


def test_memory_is_told() -> None:
    found = memory()
    assert found.server is not None
    assert 1e6 < found.server < 1e10


# With --inspect.


@pytest.fixture(scope="module")
def inspected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    tmp_path = tmp_path_factory.mktemp("inspected")
    keys = {"API_KEYS": "ann:sesame"}
    with Served(fake_cli.write(tmp_path / "cli"), tmp_path / "state", keys, arguments=("--inspect",)) as server:
        yield server


def test_texts_are_kept_when_they_are_asked_for(inspected: Served, tmp_path: Path) -> None:
    key = {"authorization": "Bearer sesame", "x-api-key": "sesame"}
    for text in ("first words", "second words"):
        assert inspected.chat(chat(text, stream=True), headers=key).status_code == 200
    listed: dict[str, Any] = {}

    def all_ended() -> bool:
        """For its client an answer ends before the server is done with it."""
        listed.update(inspected.get("/v1/inspector", headers=key).json())
        return [one["state"] for one in listed["data"]] == ["ended", "ended"]

    wait_for(all_ended, PATIENCE, "both have ended")
    assert listed["texts"] is True
    second, first = (inspected.get(f"/v1/inspector/{one['id']}", headers=key).json() for one in listed["data"])
    for whole, own, other in ((first, "first words", "second words"), (second, "second words", "first words")):
        assert json.loads(whole["request_body"])["messages"][0]["content"] == own
        assert whole["response_body"].endswith("data: [DONE]\n\n")
        lines = {to: [line["text"] for line in whole["lines"] if line["to"] == to] for to in ("cli", "proxy")}
        assert any(own in line for line in lines["cli"])
        # The line with its result, `echo: …`, may come after the end.
        assert any(own in line for line in lines["proxy"])
        assert all(json.loads(line) for each in lines.values() for line in each)
        assert other not in json.dumps(whole)
        assert not any(secret in json.dumps(whole) for secret in SECRETS)
    # In memory only.
    files = [content for path, _, content in entries(inspected.state)]
    assert files
    assert not any(b"first words" in content for content in files)
    assert "--inspect" in inspected.log()
