"""proxy/http/access.py: hosts, origins, keys, content types."""

from __future__ import annotations

import asyncio
import hmac
import json
from typing import Any

import pytest

from proxy.http.access import host_name
from proxy.keys import keyring
from proxy.keys.keyring import Keyring
from proxy.keys.store import digest
from proxy.settings import Key, loopback
from proxy.settings.values import origin_list
from tests.conftest import Serve, chat

KEYS = (Key("alice", "sk-alice"), Key("bob", "sk-bob"))
MODELS = "/v1/models"


async def status(server: Any, path: str = MODELS, method: str = "GET", **headers: str) -> tuple[int, str | None]:
    async with server.client() as client:
        answer = await client.request(method, path, headers={name.replace("_", "-"): v for name, v in headers.items()})
        code = answer.json()["error"]["code"] if answer.status_code >= 400 else None
        return answer.status_code, code


# Host: against DNS rebinding


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST:3456", "127.0.0.1:99", "[::1]:3456", "localhost."]
)
async def test_names_of_this_computer_are_answered(local: Serve, host: str) -> None:
    assert (await status(await local(), Host=host))[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:3456", "127.0.0.1.evil.example", "localhost.evil.example", "0.0.0.0", "[", ""],
)
@pytest.mark.parametrize("path", [MODELS, "/health", "/nowhere"])
async def test_other_names_are_not(local: Serve, host: str, path: str) -> None:
    assert await status(await local(), path, Host=host) == (403, "forbidden")


async def test_names_of_the_settings_are_answered(local: Serve) -> None:
    server = await local(hosts=("Proxy.example", "other.example:99"))
    assert (await status(server, Host="proxy.example:3456"))[0] == 200
    assert (await status(server, Host="other.example"))[0] == 200
    assert (await status(server, Host="evil.example"))[0] == 403


@pytest.mark.parametrize("second", [b"localhost", b"evil.example"])
async def test_two_hosts_are_one_too_many(serve: Serve, second: bytes) -> None:
    server = await serve()
    head = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nhost: %s\r\n\r\n" % second
    assert (await raw(server.port, head)).startswith(b"HTTP/1.1 400 ")


async def test_a_request_without_a_host_is_refused(serve: Serve) -> None:
    server = await serve()
    answer = await raw(server.port, b"GET /v1/models HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")


async def test_a_rebound_name_cannot_ask_for_a_completion(local: Serve) -> None:
    server = await local()
    async with server.client() as client:
        answer = await client.post("/v1/chat/completions", json=chat(), headers={"host": "evil.example:3456"})
    assert answer.status_code == 403
    assert server.pool.counts.busy == 0


async def raw(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer


# Origin: web pages


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "file://", "http://localhost:9", "http://127.0.0.1"]
)
async def test_pages_of_other_origins_may_not_call(local: Serve, origin: str) -> None:
    server = await local()
    assert await status(server, Origin=origin) == (403, "forbidden")
    async with server.client() as client:
        answer = await client.get(MODELS, headers={"origin": origin})
        assert not any(name.startswith("access-control") for name in answer.headers)


async def test_no_origin_is_ever_allowed_by_a_star(local: Serve) -> None:
    server = await local(origins=("https://app.example",))
    async with server.client() as client:
        answer = await client.get(MODELS, headers={"origin": "https://app.example"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "origin" in answer.headers["vary"].split(", ")
    assert answer.headers["access-control-expose-headers"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


async def test_the_servers_own_pages_may_call(local: Serve) -> None:
    server = await local()
    assert (await status(server, Origin=server.url))[0] == 200


@pytest.mark.parametrize("origin", ["app://obsidian.md", "tauri://localhost", "chrome-extension://abcdefgh"])
async def test_programs_that_are_pages_inside_may_call_when_they_are_named(local: Serve, origin: str) -> None:
    assert origin_list(origin) == (origin,)
    assert (await status(await local(origins=(origin,)), Origin=origin))[0] == 200
    assert (await status(await local(), Origin=origin))[0] == 403


@pytest.mark.parametrize("spelled", ["https://app.example/", "HTTPS://APP.example"])
async def test_origins_of_the_settings_may_be_spelled_loosely(local: Serve, spelled: str) -> None:
    assert (await status(await local(origins=(spelled,)), Origin="https://app.example"))[0] == 200


async def preflight(server: Any, **headers: str) -> Any:
    given = {"origin": "https://app.example", "access-control-request-method": "POST"} | headers
    async with server.client() as client:
        return await client.options("/v1/chat/completions", headers=given)


async def test_a_preflight_needs_no_key_and_gets_what_it_asks_for(local: Serve) -> None:
    server = await local(api_keys=KEYS, origins=("https://app.example",))
    answer = await preflight(server, **{"access-control-request-headers": "authorization, content-type"})
    assert answer.status_code == 204
    assert answer.content == b""
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["access-control-allow-headers"] == "authorization, content-type"
    assert "POST" in answer.headers["access-control-allow-methods"]


async def test_a_preflight_of_another_origin_is_refused(local: Serve) -> None:
    server = await local(api_keys=KEYS, origins=("https://app.example",))
    answer = await preflight(server, origin="https://evil.example")
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


async def test_a_preflight_with_odd_headers_does_no_harm(serve: Serve) -> None:
    server = await serve(origins=("https://app.example",))
    head = (
        "OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example\r\nConnection: close\r\n"
        "Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: wörld\r\n\r\n"
    )
    answer = await raw(server.port, head.encode("latin-1"))
    assert answer.startswith((b"HTTP/1.1 204 ", b"HTTP/1.1 400 "))


async def test_errors_can_be_read_by_allowed_pages(local: Serve) -> None:
    server = await local(api_keys=KEYS, origins=("https://app.example",))
    async with server.client() as client:
        for path in (MODELS, "/nowhere"):
            answer = await client.get(path, headers={"origin": "https://app.example"})
            assert answer.status_code == 401
            assert answer.headers["access-control-allow-origin"] == "https://app.example"


async def test_options_without_a_browser_is_no_preflight(local: Serve) -> None:
    assert (await status(await local(api_keys=KEYS), method="OPTIONS")) == (401, "invalid_api_key")


# Keys


@pytest.mark.parametrize(
    "path", [MODELS, "/v1/models/opus", "/nowhere", "/v1/chat/completions", "/health/x", "/healthy"]
)
async def test_a_key_is_needed(local: Serve, path: str) -> None:
    assert await status(await local(api_keys=KEYS), path) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", ["/health", "/health/"])
async def test_health_needs_no_key(local: Serve, path: str) -> None:
    assert (await status(await local(api_keys=KEYS), path))[0] == 200


@pytest.mark.parametrize("header", ["Bearer sk-alice", "bearer sk-bob", "BEARER  sk-alice"])
async def test_any_of_the_keys_will_do(local: Serve, header: str) -> None:
    assert (await status(await local(api_keys=KEYS), Authorization=header))[0] == 200


@pytest.mark.parametrize(
    "header",
    ["Bearer sk-alic", "Bearer sk-alicex", "Bearer SK-ALICE", "sk-alice", "Basic sk-alice", "Bearer", "",
     "Bearer sk-alice,sk-bob", "Bearer sk-alice sk-bob"],
)  # fmt: skip
async def test_a_wrong_key_is_refused(local: Serve, header: str) -> None:
    assert await status(await local(api_keys=KEYS), Authorization=header) == (401, "invalid_api_key")


async def test_a_refusal_never_repeats_the_key(local: Serve) -> None:
    server = await local(api_keys=KEYS)
    async with server.client() as client:
        answer = await client.get(MODELS, headers={"authorization": "Bearer sk-wrong-secret"})
    assert "sk-wrong-secret" not in answer.text
    assert "sk-alice" not in answer.text


@pytest.mark.parametrize(
    ("header", "words"),
    [({"Authorization": "sk-bob"}, "Bearer KEY"), ({"x-api-key": ""}, "x-api-key: KEY"),
     ({"x-api-key": "sk-no"}, "none of this server's keys"),
     ({"Authorization": "Bearer sk-no"}, "none of this server's keys")],
)  # fmt: skip
async def test_it_is_said_what_a_key_must_look_like(local: Serve, header: dict[str, str], words: str) -> None:
    server = await local(api_keys=KEYS)
    async with server.client() as client:
        assert words in (await client.get(MODELS, headers=header)).text


async def test_no_key_is_needed_when_none_is_set(local: Serve) -> None:
    assert (await status(await local(), Authorization="Bearer anything"))[0] == 200


@pytest.mark.parametrize("name", ["x-api-key", "api-key", "X-Api-Key"])
async def test_a_key_may_come_in_the_headers_of_other_apis(local: Serve, name: str) -> None:
    server = await local(api_keys=KEYS)
    assert (await status(server, **{name: "sk-bob"}))[0] == 200
    assert (await status(server, **{name: "sk-bo"}))[0] == 401
    assert (await status(server, **{name: "Bearer sk-bob"}))[0] == 401
    # Some clients always send a bearer token of their own, too.
    assert (await status(server, **{name: "sk-bob", "Authorization": "Bearer none"}))[0] == 200


def test_the_key_that_was_found() -> None:
    ring = Keyring(KEYS)
    assert [found and found[0] for found in map(ring.find, (["sk-bob"], ["none", "sk-alice"]))] == ["bob", "alice"]
    assert Keyring(KEYS).find([]) is None
    assert Keyring(()).find(["sk-bob"]) is None


@pytest.mark.parametrize("given", ["sk-alice", "sk-bob", "nothing", "ü", "\udcff"])
def test_every_key_is_compared_whatever_is_given(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    compared: list[str] = []

    class Watched:
        @staticmethod
        def compare_digest(one: str, other: str) -> bool:
            compared.append(one)
            return hmac.compare_digest(one, other)

        digest = hmac.digest

    monkeypatch.setattr(keyring, "hmac", Watched)
    Keyring(KEYS).find([given, given])
    assert compared == [digest(b"sk-alice"), digest(b"sk-bob")] * 2


# Content types: a form or plain text could come from any web page


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
async def test_json_is_taken(local: Serve, content_type: str) -> None:
    server = await local()
    async with server.client() as client:
        answer = await client.post("/v1/chat/completions", content=b"{}", headers={"content-type": content_type})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "json",
                     "text/plain; application/json", "application/jsonx"]
)  # fmt: skip
async def test_nothing_else_is(local: Serve, content_type: str) -> None:
    server = await local()
    async with server.client() as client:
        answer = await client.post(
            "/v1/chat/completions", content=json.dumps(chat()).encode(), headers={"content-type": content_type}
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert server.pool.counts.busy == 0


# Pieces


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback(host: str) -> None:
    assert loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "", "127.0.0.1.example"])
def test_not_loopback(host: str) -> None:
    assert not loopback(host)


@pytest.mark.parametrize(
    ("header", "name"),
    [("a:1", "a"), ("[::1]:1", "::1"), ("A.B.", "a.b"), ("", ""), ("[", ""), ("user@a", "a"), ("a/b", "a")],
)
def test_the_name_in_a_host_header(header: str, name: str) -> None:
    assert host_name(header) == name
