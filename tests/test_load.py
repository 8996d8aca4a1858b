"""Load: nothing lost, nothing mixed up, nothing that grows. The long forms: `pytest -m soak`.

The figures are printed at the end of the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from conformance import bench
from conformance.bench.processes import BenchError
from tests import fake_cli
from tests.conftest import chat
from tests.outcomes import Expects
from tests.served import Served, wait_for
from tests.test_faults import connection, slow_readers

KEYS = {"ann": "sk-ann", "bob": "sk-bob"}


@pytest.fixture
def instant(tmp_path: Path) -> Path:
    """A CLI that costs next to nothing: the bench's."""
    try:
        return bench.compile_instant(tmp_path)
    except BenchError as missing:
        pytest.skip(str(missing))


async def many(server: Served, count: int, at_once: int, text: Any, *, stream: bool = True) -> Counter[str]:
    """So many requests; how often each outcome came. `text(number)` gives what is asked and what must come back."""
    left = iter(range(count))
    ends: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, trust_env=False, limits=limits) as client:

        async def worker() -> None:
            for number in left:
                asked, wanted = text(number)
                answer = await client.post("/v1/chat/completions", json=chat(asked, stream=stream))
                ends[end_of(answer, wanted)] += 1

        await asyncio.gather(*(worker() for _ in range(at_once)))
    return ends


def end_of(answer: httpx.Response, wanted: str) -> str:
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.json()['error']['code']}"
    events = [event[6:] for event in answer.text.split("\n\n") if event.startswith("data: ")]
    if events[-1] != "[DONE]":
        return "cut"
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    return "its own" if text == wanted else "another's"


def echo(number: int) -> tuple[str, str]:
    """A marker that no other answer has."""
    return f"marker {number}", f"echo: marker {number}"


def lengths(number: int) -> tuple[str, str]:
    """For the instant CLI, which says as much as it is told to."""
    count = number % 97 + 1
    return f"number {number} deltas={count} size={number % 7 + 1}", "y" * (count * (number % 7 + 1))


def burst(server: Served, expects: Expects, count: int, at_once: int) -> None:
    expects("load", f"{count} requests, {at_once} at once", "each has its own answer")
    asyncio.run(many(server, at_once, at_once, echo))
    memory, descriptors = rest(server)
    began = time.perf_counter()
    ends = asyncio.run(many(server, count, at_once, echo))
    took = time.perf_counter() - began
    after, descriptors_after = rest(server)
    grown = f"memory {memory:.1f} → {after:.1f} MB, descriptors {descriptors} → {descriptors_after}"
    expects("load", f"{count} requests, {at_once} at once", f"each has its own answer; {count / took:.0f}/s, {grown}")
    assert ends == {"its own": count}
    assert after < memory + 25
    assert descriptors_after <= descriptors + 5
    totals = server.get("/v1/usage").json()["totals"]
    assert (totals["succeeded"], totals["failed"]) == (count + at_once, 0)


def rest(server: Served) -> tuple[float, int]:
    """Memory and descriptors once nothing is under way."""

    def idle() -> bool:
        counts = server.get("/health").json()["children"]
        return bool(counts["busy"] == counts["queued"] == counts["starting"] == 0)

    wait_for(idle, 30, "nothing is under way")
    time.sleep(0.2)
    return server.memory(), server.descriptors()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    settings = {"CLAUDE_PROXY_MAX_QUEUE": "100", "LOG_LEVEL": "error", "CLAUDE_PROXY_PARKED": "2"}
    with Served(fake_cli.write(tmp_path), tmp_path / "state", settings) as served:
        yield served


def test_a_burst(server: Served, expects: Expects) -> None:
    burst(server, expects, 40, 16)


@pytest.mark.soak
def test_500_requests_64_at_once(server: Served, expects: Expects) -> None:
    burst(server, expects, 500, 64)


def steady(server: Served, expects: Expects, count: int, rounds: int) -> None:
    """The same load again and again: memory after each round."""
    memories: list[float] = []
    descriptors: list[int] = []
    asyncio.run(many(server, max(100, count // rounds), 32, lengths))
    began = time.perf_counter()
    for _ in range(rounds):
        ends = asyncio.run(many(server, count // rounds, 32, lengths))
        assert ends == {"its own": count // rounds}
        memory, open_files = rest(server)
        memories.append(memory)
        descriptors.append(open_files)
    took = time.perf_counter() - began
    growth = memories[-1] - memories[0]
    then = f"each its own; {count / took:.0f}/s; memory {memories[0]:.1f} → {memories[-1]:.1f} MB ({growth:+.1f}), "
    then += f"descriptors {descriptors[0]} → {descriptors[-1]}, usage {server.usage.stat().st_size / 1e6:.1f} MB"
    expects("load", f"{count} requests, 32 at once", then)
    assert growth < 20
    assert max(memories) < 100
    assert descriptors[-1] <= descriptors[0] + 5


@pytest.fixture
def instant_server(tmp_path: Path, instant: Path) -> Iterator[Served]:
    settings = {"CLAUDE_PROXY_MAX_CONVERSATIONS": "32", "LOG_LEVEL": "error"}
    with Served(instant, tmp_path / "state", settings) as served:
        yield served


def test_a_steady_load(instant_server: Served, expects: Expects) -> None:
    steady(instant_server, expects, 200, 2)


@pytest.mark.soak
def test_10_000_requests(instant_server: Served, expects: Expects) -> None:
    steady(instant_server, expects, 10_000, 10)


@pytest.mark.soak
def test_1_000_slow_readers(tmp_path: Path, expects: Expects) -> None:
    name = "1,000 slow readers of 20 MB each, 32 answered at once"
    peak = slow_readers(tmp_path, 1000, 32)
    expects("load", name, f"memory at most {peak:.0f} MB; others are served")
    assert peak < 300


def test_a_greedy_key(tmp_path: Path, expects: Expects) -> None:
    """One key sends 30 requests at once, another one; each takes a place for 0.2 s, and there are two."""
    name = "a key with 30 requests in the queue, and another's one"
    keys = ",".join(f"{each}:{secret}" for each, secret in KEYS.items())
    settings = {"API_KEYS": keys, "CLAUDE_PROXY_MAX_CONVERSATIONS": "2", "CLAUDE_PROXY_MAX_QUEUE": "20"}
    with Served(fake_cli.write(tmp_path), tmp_path / "state", settings) as server:

        async def ask(client: httpx.AsyncClient, key: str) -> tuple[int, float]:
            began = time.perf_counter()
            steps = [["sleep", 0.2], ["say", "x"], ["end"]]
            sent = {"authorization": f"Bearer {KEYS[key]}"}
            answer = await client.post("/v1/chat/completions", json=chat(steps), headers=sent)
            return answer.status_code, time.perf_counter() - began

        async def all_of_them() -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
            async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
                greedy = [asyncio.create_task(ask(client, "ann")) for _ in range(30)]
                await asyncio.sleep(0.4)
                modest = [await ask(client, "bob") for _ in range(3)]
                return await asyncio.gather(*greedy), modest

        greedy, modest = asyncio.run(all_of_them())
    slowest = max(seconds for _, seconds in modest)
    last = max(seconds for _, seconds in greedy)
    statuses = Counter(status for status, _ in greedy)
    expects("load", name, f"the other's: served within {slowest:.1f} s, the greedy one's last after {last:.1f} s")
    assert [status for status, _ in modest] == [200, 200, 200]
    assert slowest < last / 2
    assert set(statuses) == {200, 429}
    assert statuses[200] >= 20


def test_a_queue_of_those_who_leave(tmp_path: Path, expects: Expects) -> None:
    expects("load", "20 in the queue, all of whom leave", "none takes a place; the queue is empty at once")
    settings = {"CLAUDE_PROXY_MAX_CONVERSATIONS": "1", "LOG_LEVEL": "error"}
    with Served(fake_cli.write(tmp_path), tmp_path / "state", settings) as server:

        async def leave() -> None:
            async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
                steps = [["sleep", 3], ["say", "x"], ["end"]]
                asking = [asyncio.create_task(client.post("/v1/chat/completions", json=chat(steps))) for _ in range(21)]
                while server.get("/health").json()["children"]["queued"] < 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                for task in asking:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)

        asyncio.run(leave())
        assert server.chat(chat("next")).json()["choices"][0]["message"]["content"] == "echo: next"
        outcomes = Counter(row["outcome"] for row in server.recent())
    assert outcomes == {"cancelled": 21, "ok": 1}


def test_more_connections_than_files(tmp_path: Path, expects: Expects) -> None:
    expects("faults", "600 connections that ask nothing, with room for 512 open files", "others are answered")
    files = ("sh", "-c", 'ulimit -n 512; exec "$@"', "sh")
    with (
        Served(fake_cli.write(tmp_path / "cli"), tmp_path / "state", wrapper=files) as server,
        contextlib.ExitStack() as open_ones,
    ):
        for number in range(600):
            sock = open_ones.enter_context(connection(server))
            sock.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n")
            if number % 100 == 99:
                assert server.get("/health").status_code == 200
        assert server.chat(chat("hi")).status_code == 200
        assert "accepted" not in server.log()
