"""What an adversary found on keys, clocks and files: who a key is, what its limits count, what a wrong clock costs."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import Raw

from proxy import address, files
from proxy.http import listing
from proxy.keys import store as keys
from proxy.keys.keyring import Keyring
from proxy.keys.quota import Quota, UsedToday
from proxy.keys.store import KeyLimits, StoredKey
from proxy.service.units import systemd_unit
from proxy.settings import Key, Settings
from proxy.store.store import Item, Limits, Missing, Store
from tests import fake_cli
from tests.conftest import chat
from tests.outcomes import Expects
from tests.responses_api import client
from tests.served import ROOT, Served, wait_for


def stored(name: str, secret: str, limits: KeyLimits | None = None) -> StoredKey:
    return StoredKey(name, keys.digest(secret.encode()), 1.7e9, limits or KeyLimits())


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


# Whose what is.


def test_an_owner_is_a_key_and_not_its_name() -> None:
    ring = Keyring((Key("key-1", "one"), Key("key-2", "two")), (), b"secret")
    one, two = ring.find(["one"]), ring.find(["two"])
    assert one is not None
    assert two is not None
    assert (one[0], two[0]) == ("key-1", "key-2")
    # The first is taken out of API_KEYS: the second now has its name.
    ring.replace((Key("key-1", "two"),), ())
    assert ring.find(["two"]) == ("key-1", two[1])
    assert ring.find(["one"]) is None
    assert Keyring((Key("key-1", "one"),), (), b"another secret").find(["one"]) != one
    assert keys.digest(b"one")[:8] not in one[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("adversary")
    state = home / "state"
    limits = KeyLimits(requests_per_minute=3)
    keys.write(
        state,
        (
            stored("bob", "old"),
            stored("plain", "plain"),
            stored("often", "often", limits),
            stored("day", "day", KeyLimits(None, 99)),
        ),
    )
    with Served(fake_cli.write(home / "cli"), state) as served:
        yield served


def test_a_name_that_is_given_again_brings_nothing_along(server: Served, expects: Expects) -> None:
    expects("security", "a key revoked, and its name given to another key", "nothing of the first is the second's")
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False, headers=bearer("old")) as bob:
        made = bob.post("/v1/responses", json={"model": "opus", "input": "secret"}).json()["id"]
        assert bob.get(f"/v1/responses/{made}").status_code == 200
        talk = bob.post("/v1/conversations", json={}).json()["id"]
        traced = bob.get("/v1/inspector").json()["data"][0]["id"]
    there = keys.read(server.state)
    keys.write(server.state, (stored("bob", "new"), *(key for key in there if key.name != "bob")))
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False, headers=bearer("new")) as other:
        server.process.send_signal(1)
        wait_for(lambda: other.get("/v1/models").status_code == 200, 5, "the keys are read again")
        for path in (f"/v1/responses/{made}", f"/v1/responses/{made}/input_items", f"/v1/conversations/{talk}"):
            assert other.get(path).status_code == 404
        assert other.post(
            "/v1/responses", json={"model": "opus", "input": "hi", "previous_response_id": made}
        ).status_code == 404  # fmt: skip
        assert other.get(f"/v1/inspector/{traced}").status_code == 404
        assert traced not in other.get("/v1/inspector").text
        assert other.get("/v1/usage").json()["by_key"]


# Limits of keys.


def test_counts_are_requests_too(server: Served, expects: Expects) -> None:
    expects(
        "security", "counts by a key with a limit of requests a minute", "429 beyond it: each count takes a process"
    )
    ask = {"model": "opus", "messages": [{"role": "user", "content": "hi"}]}
    found = [
        httpx.post(f"{server.url}/v1/messages/count_tokens", json=ask, headers=bearer("often"), timeout=60).status_code
        for _ in range(4)
    ]
    assert found == [200, 200, 200, 429]
    counted = httpx.post(f"{server.url}/v1/responses/input_tokens", json={"input": "hi"}, headers=bearer("often"))
    assert counted.status_code == 429


def test_many_at_once_do_not_get_past_a_limit_of_requests(server: Served, expects: Expects) -> None:
    expects("security", "30 requests at once by a key with a limit of 3 a minute", "no more than 3 are answered")

    async def ask() -> list[int]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False, headers=bearer("one")) as client:
            asked = [client.post("/v1/chat/completions", json=chat("hi")) for _ in range(30)]
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    there = keys.read(server.state)
    keys.write(server.state, (*there, stored("one", "one", KeyLimits(requests_per_minute=3))))
    server.process.send_signal(1)
    wait_for(lambda: server.get("/v1/models", headers=bearer("one")).status_code == 200, 5, "the keys are read again")
    assert sorted(asyncio.run(ask())) == [200] * 3 + [429] * 27


def test_a_limit_that_cannot_be_kept_is_not_passed(server: Served, expects: Expects) -> None:
    expects("security", "a key with a limit a day while usage cannot be written", "refused, and others are answered")
    assert server.chat(chat("hi"), headers=bearer("day")).status_code == 200
    for path in server.state.glob("usage.sqlite3*"):
        path.unlink()
    server.usage.mkdir()
    try:
        wait_for(lambda: server.chat(chat("hi"), headers=bearer("day")).status_code == 500, 30, "it is refused")
        assert server.chat(chat("hi"), headers=bearer("plain")).status_code == 200
    finally:
        server.usage.rmdir()


def test_a_clock_that_is_set_back_blocks_no_key() -> None:
    day, steady = [1.7e9], [5.0]
    quota, limits = Quota(lambda: day[0], lambda: steady[0]), KeyLimits(requests_per_minute=1)
    assert quota.spent("a", limits, UsedToday()) is None
    day[0] -= 86_400
    assert quota.spent("a", limits, UsedToday()) is not None
    steady[0] += 60
    assert quota.spent("a", limits, UsedToday()) is None
    # Nor does one that jumps ahead make the minute shorter.
    day[0] += 86_400
    assert quota.spent("a", limits, UsedToday()) is not None


# What a wrong clock costs.


def test_one_start_with_a_clock_a_year_ahead_removes_nothing(tmp_path: Path, expects: Expects) -> None:
    expects("faults", "a clock that is a year ahead, and stored responses", "hidden meanwhile, none removed")
    now = [1.7e9]
    path, limits = tmp_path / "responses.sqlite3", Limits(1000, 10**9, 30 * 86_400.0)

    def opened() -> Store:
        return Store(path, limits, lambda: now[0])

    first = opened()
    first.add("a", "response", "old", b"{}", [])
    first.close()
    now[0] += 366 * 86_400
    ahead = opened()
    with pytest.raises(Missing):
        ahead.get("a", "response", "old")
    ahead.add("a", "response", "ahead", b"{}", [Item("i", Raw(b"{}"))])
    ahead.close()
    now[0] -= 366 * 86_400
    again = opened()
    assert bytes(again.get("a", "response", "old")) == b"{}"
    # With days of use since then it goes.
    for number in range(4):
        now[0] += 31 * 86_400
        again.add("a", "response", f"later {number}", b"{}", [])
    assert "old" not in {row[0] for row in again._writer.execute("SELECT id FROM entries")}
    again.close()


# Files.


def test_keys_that_are_made_at_once_are_all_kept(tmp_path: Path, expects: Expects) -> None:
    expects("faults", "keys made and revoked at the same time", "none is lost, none comes back")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    state = tmp_path / ".local" / "state" / "claude-max-api-proxy"
    keys.write(state, (stored("old", "old"),))
    words = [["add", f"key{number}"] for number in range(5)] + [["revoke", "old"]]
    running = [
        subprocess.Popen([sys.executable, "-m", "proxy", "keys", *each], env=environ, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, cwd=tmp_path)
        for each in words
    ]  # fmt: skip
    assert [process.wait(120) for process in running] == [0] * 6
    assert sorted(key.name for key in keys.read(state)) == [f"key{number}" for number in range(5)]


def test_nothing_is_made_for_others_under_an_open_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        state = tmp_path / "a" / "b" / "state"
        keys.write(state, (stored("a", "a"),))
        with keys.changing(state):
            pass
    finally:
        os.umask(before)
    made = [*state.parents[:2], state, *state.iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in made} == {0}


def test_a_service_file_is_never_wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expects: Expects) -> None:
    """Files that may hold secrets come into being with their mode: the only writer is `files.replace`."""
    expects("security", "the files that setup and service install write, under umask 0", "never readable by others")
    modes: list[int] = []
    real = os.replace

    def noting(source: str, target: str) -> None:
        modes.append(stat.S_IMODE(os.stat(source).st_mode))
        real(source, target)

    monkeypatch.setattr("proxy.files.os.replace", noting)
    for module in ("service/command.py", "setup/command.py", "keys/store.py"):
        text = (ROOT / "proxy" / module).read_text()
        assert not any(word in text for word in ("write_text", "write_bytes", ".chmod(", "copy2", 'open("w'))
    files.replace(tmp_path / "unit", b"secret")
    assert modes == [0o600]


def test_a_variable_cannot_add_lines_to_the_unit() -> None:
    unit = systemd_unit(["python"], {"PATH": "/bin\nExecStartPre=/bin/evil\r"}, 10)
    assert not any(line.startswith("ExecStartPre") for line in unit.splitlines())
    assert r"/bin\x0aExecStartPre=/bin/evil\x0d" in unit


def test_of_two_servers_that_start_at_once_one_gets_the_socket(tmp_path: Path, expects: Expects) -> None:
    expects("faults", "servers that start at the same time on one Unix socket", "one serves, the others say why not")
    settings = Settings(uds=str(tmp_path / "sock"))
    address.bind_unix(tmp_path / "sock").close()
    won: list[bool] = []
    go, end = threading.Barrier(8), threading.Event()

    def start() -> None:
        go.wait()
        try:
            with address.bound(settings):
                won.append(True)
                end.wait(60)
        except OSError:
            won.append(False)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(won) == 8, 60, "all have tried")
    assert sorted(won) == [False] * 7 + [True]
    address._connect_unix(tmp_path / "sock").close()
    end.set()
    for thread in threads:
        thread.join(60)
    assert not (tmp_path / "sock").exists()


def test_depth_is_bad_input_to_a_count(server: Served) -> None:
    deep = b'{"input": "hi", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    headers = bearer("plain") | {"content-type": "application/json"}
    found = httpx.post(f"{server.url}/v1/responses/input_tokens", content=deep, headers=headers, timeout=60)
    assert found.status_code == 400


# What is kept of a request, and comes back.

ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/messages": {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"input": "hi"},
    "/v1/responses/compact": {"input": "hi"},
    "/v1/responses/input_tokens": {"input": "hi"},
    "/api/chat": {"messages": [{"role": "user", "content": "hi"}]},
    "/api/generate": {"prompt": "hi"},
}


@pytest.mark.parametrize("path", ASKED)
def test_a_name_of_a_megabyte_is_neither_kept_nor_echoed(server: Served, expects: Expects, path: str) -> None:
    expects("faults", f"a model's name of 1 MB to {path}", "400; it is not kept, and no piece of an answer has it")
    body = ASKED[path] | {"model": "m" * 1_000_000}
    found = httpx.post(server.url + path, json=body, headers=bearer("plain"), timeout=60, trust_env=False)
    assert found.status_code == 400
    assert "256 characters" in found.text
    assert len(server.get("/v1/inspector", headers=bearer("plain")).content) < 100_000


@pytest.mark.parametrize("metadata", [{"a" * 65: "b"}, {"a": "b" * 513}])
def test_metadata_are_as_short_as_those_of_openai(server: Served, metadata: dict[str, str]) -> None:
    for path, body in (("/v1/responses", {"model": "opus", "input": "hi"}), ("/v1/conversations", {})):
        asked = body | {"metadata": metadata}
        found = httpx.post(server.url + path, json=asked, headers=bearer("plain"), timeout=60, trust_env=False)
        assert (found.status_code, found.json()["error"]["param"]) == (400, "metadata")


# What one request makes the server do for each piece of its answer.


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [("/v1/messages", {"stop_sequences": [f"q{number}" for number in range(100_000)]}, "stop_sequences"),
     ("/v1/messages", {"stop_sequences": ["a" * 1_000_000]}, "stop_sequences"),
     ("/v1/chat/completions", {"stop": ["a" * 1_000_000]}, "stop"),
     ("/v1/completions", {"stop": ["a" * 1_000_000]}, "stop"),
     ("/api/chat", {"options": {"stop": [f"q{number}" for number in range(100_000)]}}, ""),
     ("/api/generate", {"options": {"stop": [f"q{number}" for number in range(100_000)]}}, "")],
)  # fmt: skip
def test_stop_sequences_are_bounded(
    server: Served, expects: Expects, path: str, more: dict[str, Any], param: str
) -> None:
    expects("faults", f"100,000 stop sequences, or one of 1 MB, to {path}", "400: all are looked for in every piece")
    body = ASKED[path] | {"model": "opus"} | more
    found = httpx.post(server.url + path, json=body, headers=bearer("plain"), timeout=60, trust_env=False)
    assert found.status_code == 400
    assert "top sequences can" in found.text
    assert param in found.text


# What is stored.


async def ok(http: httpx.AsyncClient, method: str, path: str, **more: Any) -> Any:
    answer = await http.request(method, path, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_pages_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch, expects: Expects) -> None:
    expects(
        "faults", "100 large items of a conversation, listed at once", "pages of 4 MB; the client's own loop has all"
    )
    monkeypatch.setattr(listing, "MAX_PAGE_BYTES", 1000)
    words = ["a" * 400, "b" * 2000, "c" * 400, "d" * 400]
    async with client() as http:
        items = [{"role": "user", "content": text} for text in words]
        made = await ok(http, "POST", "/v1/conversations", json={"items": items})
        told: list[str] = []
        query: dict[str, Any] = {"limit": 100, "order": "asc"}
        while page := await ok(http, "GET", f"/v1/conversations/{made['id']}/items", params=query):
            told += (item["content"][0]["text"] for item in page["data"])
            query["after"] = page["last_id"]
            if not page["has_more"]:
                break
            assert len(page["data"]) == 1
        assert told == words


async def test_a_conversation_that_nothing_can_go_on_from_does_not_grow(expects: Expects) -> None:
    expects(
        "faults", "more items for a conversation of more than a body may hold", "413: all of it would be read again"
    )
    async with client(max_body=20_000) as http:
        made = await ok(http, "POST", "/v1/conversations", json={})
        path, items = f"/v1/conversations/{made['id']}/items", [{"role": "user", "content": "x" * 9000}]
        for _ in range(3):
            await ok(http, "POST", path, json={"items": items})
        refused = await http.post(path, json={"items": items})
        assert (refused.status_code, refused.json()["error"]["param"]) == (413, "items")
        assert "20000 bytes" in refused.text
        (first, *_) = (await ok(http, "GET", path))["data"]
        await ok(http, "DELETE", f"{path}/{first['id']}")
        await ok(http, "POST", path, json={"items": items})
