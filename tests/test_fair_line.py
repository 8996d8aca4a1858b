"""Threads in which owners take turns."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from proxy.fair_line import FairLine
from proxy.http.uploads import Uploads
from tests.conftest import until


class Calls:
    """Calls that wait to be let on; `begun`: whose have begun, in order."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go_on = threading.Event()

    def one(self, name: str) -> Callable[[], str]:
        def work() -> str:
            self.begun.append(name)
            assert self.go_on.wait(60)
            return name

        return work


async def test_no_owner_waits_for_what_another_has_asked_for_before() -> None:
    line, calls = FairLine(2, 1, 64, "test"), Calls()
    asked = [asyncio.create_task(line.run(owner, calls.one(owner))) for owner in "aaaab"]
    try:
        await until(lambda: len(calls.begun) == 2, 60, "two have begun")
        assert sorted(calls.begun) == ["a", "b"]
        asked.append(asyncio.create_task(line.run("c", calls.one("c"))))
    finally:
        calls.go_on.set()
    assert await asyncio.gather(*asked) == [*"aaaab", "c"]
    assert calls.begun.index("c") < 4, "it had its turn before the others of the first"


async def test_what_nobody_waits_for_is_not_begun_and_what_runs_keeps_its_place() -> None:
    line, calls = FairLine(1, 1, 64, "test"), Calls()
    first, second = (asyncio.create_task(line.run("a", calls.one(name))) for name in ("first", "second"))
    third = asyncio.create_task(line.run("b", calls.one("third")))
    await until(lambda: calls.begun == ["first"], 60, "the first has begun")
    for task in (first, second):
        task.cancel()
    await asyncio.wait([first, second])
    await asyncio.sleep(0)
    assert calls.begun == ["first"]
    calls.go_on.set()
    assert await third == "third"
    assert calls.begun == ["first", "third"]
    assert await line.run("a", lambda: 5) == 5


async def test_an_error_is_handed_on_and_frees_its_place() -> None:
    line = FairLine(1, 1, 64, "test")
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await line.run("a", lambda: 1 // 0)
    assert await line.run("a", lambda: 5) == 5


async def test_an_owner_with_less_than_its_share_may_always_come() -> None:
    line, calls = FairLine(1, 1, 4, "test"), Calls()
    asked = []
    for there in range(4):
        assert not line.full("a")
        asked.append(asyncio.create_task(line.run("a", calls.one("a"))))
        await until(lambda: len(calls.begun) == 1, 60, "the first has begun")
        await asyncio.sleep(0)
        assert there < 4
    assert line.full("a")
    assert not line.full("b")
    calls.go_on.set()
    await asyncio.gather(*asked)
    await until(lambda: not line.full("a"), 60, "there is room again")


def test_of_bodies_on_their_way_one_of_the_owner_with_most_is_cut() -> None:
    uploads, cut = Uploads(), list[str]()
    with (
        uploads.one(100, lambda: cut.append("b"), "b") as little,
        uploads.one(100, lambda: cut.append("a1"), "a") as one,
        uploads.one(100, lambda: cut.append("a2"), "a") as other,
    ):
        little.grow(30)
        one.grow(30)
        other.grow(30)
        assert cut == []
        little.grow(15)
        assert cut == ["a1"]
