"""What is scarce: processes, threads, descriptors; and a CLI that goes on, or goes, by itself."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from proxy import offload
from proxy.cli import memory
from proxy.cli import pool as pools
from proxy.cli.capacity import MIN_FREE, MIN_TASKS, PARKED_COST, TASKS, Memory, max_parked
from proxy.cli.pool import Pool
from proxy.cli.process import Child, Launch
from proxy.cli.validator import Validator
from proxy.protocol.calls import Written
from proxy.protocol.deltas import Arguments, ToolCall, ToolEnd
from proxy.protocol.failures import Kind
from proxy.protocol.judging import Item
from tests import fake_cli
from tests.conftest import PATIENCE, base_settings, chat, children_of, launch_of, until
from tests.outcomes import Expects
from tests.served import ROOT, Served
from tests.test_pool import plan, rejected, served

Limited = Callable[..., Awaitable[Pool]]


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[Limited]:
    """`await limited(most)`: a pool on a system that has so many processes to give."""
    made: list[Pool] = []

    async def start(most: int) -> Pool:
        async def child(launch: Launch) -> Child:
            if len(children_of(tmp_path)) >= most:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return await Child.start(launch)

        settings = base_settings(waiting=0, parked=10)
        pool = Pool(settings, launch_of(fake_cli.write(tmp_path), settings), child)
        made.append(pool)
        await pool.start()
        return pool

    yield start
    for pool in made:
        await asyncio.wait_for(pool.close(), PATIENCE)
    assert children_of(tmp_path) == []


async def test_what_is_parked_makes_room_for_a_request(limited: Limited, expects: Expects) -> None:
    expects("faults", "no process is left beside parked conversations", "half of them are given up; answered")
    pool = await limited(3)
    for number in range(3):
        await served(pool, plan(f"{number}"), keep=True)
    assert pool.counts.parked == 3
    assert (await served(pool, plan("another")))[1] == "echo: another"
    assert pool.counts.parked == 1


async def test_without_anything_parked_a_client_may_try_again(limited: Limited) -> None:
    pool = await limited(0)
    failure = await rejected(pool.open(plan(), ""))
    assert failure.kind is Kind.OVERLOADED
    assert failure.row.status == 503


async def test_what_is_parked_makes_room_for_a_validator(monkeypatch: pytest.MonkeyPatch) -> None:
    room: list[bool] = [True, False]
    tried = 0

    async def make_room() -> bool:
        return room.pop(0)

    async def start(*_: Any, **__: Any) -> Any:
        nonlocal tried
        tried += 1
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    validator = Validator()
    validator.make_room = make_room
    for tries in (2, 3):
        verdicts = await validator.judge("", (Item("format", Raw(b"{}")),))
        assert verdicts.limit is not None
        assert tried == tries
    await validator.close()


@pytest.mark.parametrize(
    ("tasks", "parked", "allowed"),
    [
        (None, 0, 10), (100_000, 0, 10), (MIN_TASKS - 1, 0, 0), (0, 5, 0), (MIN_TASKS, 3, 3), (MIN_TASKS + TASKS, 0, 1),
        (MIN_TASKS - TASKS, 3, 2),
    ],
)  # fmt: skip
def test_no_more_are_parked_than_there_are_threads_for(tasks: int | None, parked: int, allowed: int) -> None:
    free = Memory(64 << 30, 64 << 30, tasks)
    assert max_parked(10, free, parked, PARKED_COST) == allowed
    assert max_parked("auto", free, parked, PARKED_COST) == (32 if allowed == 10 else allowed)
    assert max_parked(10, Memory(MIN_FREE - 1, None, tasks), parked, PARKED_COST) == 0


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, None),
        ({"sys/fs/cgroup/pids.max": "max", "sys/fs/cgroup/pids.current": "7"}, None),
        ({"sys/fs/cgroup/pids.max": "100", "sys/fs/cgroup/pids.current": "7"}, 93),
        ({"sys/fs/cgroup/pids.max": "100", "sys/fs/cgroup/pids.current": "107"}, 0),
        ({"sys/fs/cgroup/pids/pids.max": "50", "sys/fs/cgroup/pids/pids.current": "20"}, 30),
        (
            {
                "proc/self/cgroup": "8:pids:/box\n1:cpu:/\n0::/user/unit\n",
                "sys/fs/cgroup/pids/box/pids.max": "50", "sys/fs/cgroup/pids/box/pids.current": "20",
                "sys/fs/cgroup/user/unit/pids.max": "45", "sys/fs/cgroup/user/unit/pids.current": "20",
            },
            25,
        ),
        ({"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/pids.max": "9", "sys/fs/cgroup/pids.current": "x"}, None),
    ],
)  # fmt: skip
def test_how_many_processes_there_may_still_be(tmp_path: Path, files: dict[str, str], left: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert memory.tasks(tmp_path) == left


async def test_one_round_that_fails_is_not_the_last(limited: Limited, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = 0

    def read() -> Memory:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            raise RuntimeError("can't start new thread")
        return Memory(None, None)

    monkeypatch.setattr(memory, "read", read)
    monkeypatch.setattr(pools, "ROUND", 0.01)
    await limited(1)
    await until(lambda: rounds > 3, 5, "it goes on")


async def test_large_values_need_no_new_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: object) -> None:
        raise RuntimeError("can't start new thread")

    offload.start()
    with monkeypatch.context() as patched:
        patched.setattr("threading.Thread.start", none_left)
        for _ in range(3):
            assert await offload.off_loop(offload.LARGE, len, "abc") == 3
            both = await asyncio.gather(*(offload.in_file("store", len, "ab") for _ in range(3)))
            assert both == [2, 2, 2]
            assert await asyncio.to_thread(len, "a") == 1


def test_a_system_that_does_not_tell_of_children_by_descriptors(tmp_path: Path, expects: Expects) -> None:
    expects("faults", "the system has no pidfd_open (Linux before 5.3)", "200, complete")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import errno, os\n\ndef none(*_):\n    raise OSError(errno.ENOSYS, 'none')\n\nos.pidfd_open = none\n"
    )
    settings = {"PYTHONPATH": f"{site}:{ROOT}", "CLAUDE_PROXY_WAITING": "0"}
    with Served(fake_cli.write(tmp_path), tmp_path / "state", settings) as server:
        assert server.chat(chat("hi")).json()["choices"][0]["message"]["content"] == "echo: hi"
    assert server.children() == []


def test_numbers_below_nothing(tmp_path: Path, expects: Expects) -> None:
    expects("faults", "the CLI says negative numbers of tokens", "they count as 0; the row is complete")
    usage = dict.fromkeys(("input_tokens", "cache_creation_input_tokens", "output_tokens"), -5)
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
    steps: list[Any] = [["say", "x"], ["line", {"type": "stream_event", "event": delta}], ["hang"]]
    with Served(fake_cli.write(tmp_path), tmp_path / "state", {"CLAUDE_PROXY_WAITING": "0"}) as server:
        answer = server.chat(chat(steps)).json()
        assert answer["usage"]["completion_tokens"] == 0
        (row,) = server.recent()
        assert (row["outcome"], row["completion_tokens"]) == ("ok", 0)
        assert "Traceback" not in server.log()


# Calls that the CLI does not hand on


@pytest.mark.parametrize(
    ("name", "id", "arguments", "astray"),
    [
        ("get", "toolu_1", "{}", False),
        ("get", "toolu_1", '{"a": [1, 2.5, "\\ud800"]}', False),
        ("get", "toolu_1", "null", True),
        ("Bash", "toolu_1", "{}", True),
        ("", "toolu_1", "{}", True),
        ("get", "", "{}", True),
        ("get", "toolu_1", '{"a": "x"', True),
        ("get", "toolu_1", '{"a": "x"} and more', True),
        ("get", "toolu_1", '{"a": NaN}', True),
        ("get", "toolu_1", '{"a": "x\ny"}', True),
        ("get", "toolu_1", "[" * 100_000, True),
    ],
)
def test_calls_that_are_not_handed_on(name: str, id: str, arguments: str, astray: bool) -> None:
    written = Written(("get", "put"))
    written.take([ToolCall(0, "toolu_0", "put"), Arguments(0, "{}"), ToolEnd(0)])
    assert written.handed_on
    written.take([ToolCall(1, id, name), *(Arguments(1, part) for part in (arguments[:3], arguments[3:])), ToolEnd(1)])
    assert written.handed_on is not astray
