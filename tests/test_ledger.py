"""The ledger: what is in the file whatever happens to the file, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.protocol.allowance import Allowance, current, take_in, tightest
from proxy.protocol.deltas import Tokens
from proxy.protocol.lines import RateLimitInfo, Window
from proxy.usage import reader, writer
from proxy.usage.reader import Reader, UsageRow
from proxy.usage.servers import gone, process_mark
from proxy.usage.writer import Ledger
from tests.usage_rows import record

Make = Callable[..., Ledger]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Ledger] = []

    def start(path: Path | None = None, days: int = 0, login: str = "subscription") -> Ledger:
        made.append(Ledger(path or tmp_path / "state" / "usage.sqlite3", days, login))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        await asyncio.to_thread(one.close)


def rows(ledger: Ledger, limit: int = 100) -> dict[str, UsageRow]:
    with Reader(ledger.path) as reader:
        return {row.id: row for row in reader.recent(limit)}


async def test_a_request_from_its_beginning_to_its_cost(make: Make) -> None:
    ledger = make()
    ledger.begun("r", 5.0, "mine", "/v1/chat/completions")
    assert await ledger.written(5)
    assert (rows(ledger)["r"].outcome, rows(ledger)["r"].list_price_usd) == ("running", None)
    ledger.ended(record("r", began=5.0, key="mine"))
    assert await ledger.written(5)
    assert rows(ledger)["r"].list_price_usd is None
    ledger.paid(["r"], 0.25)
    assert await ledger.written(5)
    row = rows(ledger)["r"]
    assert (row.began, row.key, row.outcome, row.list_price_usd) == (5.0, "mine", "ok", 0.25)
    assert (row.prompt_tokens, row.cached_tokens, row.cache_write_tokens) == (22, 7, 5)
    assert (row.completion_tokens, row.reasoning_tokens) == (12, 3)


async def test_what_it_costs_may_be_said_before_it_has_ended(make: Make) -> None:
    ledger = make()
    ledger.begun("r", 5.0, "", "x")
    ledger.paid(["r"], 0.5)
    ledger.ended(record("r"))
    assert await ledger.written(5)
    assert rows(ledger)["r"].list_price_usd == 0.5


async def test_several_answers_of_one_request_are_unpriced_until_all_are_priced(make: Make) -> None:
    ledger = make()
    ledger.begun("r", 5.0, "", "x")
    ledger.paid(["r"], 0.5)
    ledger.ended(record("r", asks=2))
    assert await ledger.written(5)
    assert rows(ledger)["r"].list_price_usd is None
    ledger.paid(["r"], 0.25)
    ledger.ended(record("s", asks=2))
    ledger.paid(["s", "s"], 0.5)
    assert await ledger.written(5)
    found = rows(ledger)
    assert (found["r"].list_price_usd, found["s"].list_price_usd) == (0.75, 0.5)


async def test_one_price_for_several_requests_stands_in_the_last(make: Make) -> None:
    """The CLI says nothing of the cost of an answer that calls tools until its whole turn is over."""
    ledger = make()
    for id in ("call", "answer", "unknown"):
        ledger.begun(id, 5.0, "", "x")
        ledger.ended(record(id))
    ledger.paid(["call", "answer"], 0.75)
    assert await ledger.written(5)
    found = rows(ledger)
    assert (found["call"].list_price_usd, found["call"].priced_with) == (None, "answer")
    assert found["answer"].list_price_usd == 0.75
    with Reader(ledger.path) as reader:
        totals = reader.summary(None, None).totals
    assert (totals.list_price_usd, totals.without_price) == (0.75, 1)


async def test_sums_by_model_key_and_day(make: Make) -> None:
    ledger = make()
    day = time.mktime((2026, 8, 1, 12, 0, 0, 0, 0, -1))
    ledger.ended(record("a", began=day, key="ann"))
    ledger.ended(record("b", began=day, key="bob", model="claude-haiku-5-5", outcome="cli_died", status=502))
    ledger.ended(record("c", began=day + 86_400, outcome="cancelled", tokens=Tokens(10, 7, 5, 1, 0)))
    ledger.ended(record("d", began=day + 2 * 86_400, outcome="queue_full", model="", asks=0, tokens=Tokens()))
    ledger.paid(["a"], 1.0)
    assert await ledger.written(5)
    with Reader(ledger.path) as reader:
        found = reader.summary(None, None)
        part = reader.summary(day, day + 86_400)
    totals = found.totals
    assert (totals.requests, totals.succeeded, totals.failed, totals.cancelled) == (4, 1, 2, 1)
    assert (totals.prompt_tokens, totals.completion_tokens) == (66, 25)
    assert (totals.list_price_usd, totals.savings_usd, totals.without_price) == (1.0, 1.0, 2)
    assert {group.name: group.requests for group in found.by_model} == {
        "claude-opus-5-5": 2,
        "claude-haiku-5-5": 1,
        None: 1,
    }
    assert {group.name: group.requests for group in found.by_key} == {"ann": 1, "bob": 1, None: 2}
    assert [group.name for group in found.by_day] == ["2026-08-01", "2026-08-02", "2026-08-03"]
    assert part.totals.requests == 2


async def test_only_a_subscription_saves(make: Make, tmp_path: Path) -> None:
    ledger = make(login="api-key")
    ledger.ended(record("a"))
    ledger.paid(["a"], 1.0)
    assert await ledger.written(5)
    with Reader(ledger.path) as reader:
        totals = reader.summary(None, None).totals
    assert (totals.list_price_usd, totals.savings_usd) == (1.0, 0.0)


async def test_modes_of_what_is_written(make: Make, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ledger = make(tmp_path / "state" / "usage.sqlite3")
        ledger.begun("r", 5.0, "", "x")
        assert await ledger.written(5)
    finally:
        os.umask(before)
    files = sorted(ledger.path.parent.iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(ledger.path.parent.stat().st_mode) == 0o700


async def test_a_client_s_text_is_bounded_and_storable(make: Make) -> None:
    ledger = make()
    ledger.ended(record("r", asked="x" * 5000, model="\ud800'); DROP TABLE requests; --"))
    assert await ledger.written(5)
    row = rows(ledger)["r"]
    assert row.model_asked == "x" * writer.MAX_TEXT
    assert row.model == "?'); DROP TABLE requests; --"


async def test_rows_grow_old(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "usage.sqlite3"
    ledger = make(path)
    ledger.ended(record("old", began=time.time() - 40 * 86_400))
    for days in (6, 3, 1):
        ledger.ended(record(f"young {days}", began=time.time() - days * 86_400))
    assert await ledger.written(5)
    await asyncio.to_thread(ledger.close)
    later = make(path, days=30)
    assert await later.written(5)
    assert list(rows(later)) == ["young 1", "young 3", "young 6"]


# Servers that are no more.


ORPHAN = """
import sys, time
from pathlib import Path
from proxy.usage.writer import Ledger
ledger = Ledger(Path(sys.argv[1]), 0, "subscription")
ledger.start()
ledger.begun("orphan", 5.0, "", "x")
while not Path(sys.argv[1]).exists() or ledger._queue.qsize():
    time.sleep(0.01)
time.sleep(0.2)
print("written", flush=True)
time.sleep(60)
"""


async def test_rows_of_a_server_that_was_killed_are_interrupted_and_those_of_one_that_lives_are_not(
    make: Make, tmp_path: Path
) -> None:
    path = tmp_path / "usage.sqlite3"
    command = [sys.executable, "-c", ORPHAN, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:  # noqa: ASYNC220
        assert other.stdout is not None
        assert other.stdout.readline() == "written\n"
        ledger = make(path)
        ledger.begun("mine", 6.0, "", "x")
        assert await ledger.written(5)
        assert {id: row.outcome for id, row in rows(ledger).items()} == {"orphan": "running", "mine": "running"}
        other.kill()
        other.wait()
        next_server = make(path)
        assert await next_server.written(5)
        assert {id: row.outcome for id, row in rows(ledger).items()} == {"orphan": "interrupted", "mine": "running"}
        assert rows(ledger)["orphan"].list_price_usd is None


def test_a_process_is_known_by_more_than_its_number() -> None:
    mark = process_mark(os.getpid())
    assert mark is not None
    assert mark == process_mark(os.getpid())
    assert process_mark(2**22 - 1) is None
    assert gone("1 someone else")
    assert not gone(f"{os.getpid()} {mark}")


def test_a_process_that_nobody_has_waited_for_is_gone() -> None:
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert process_mark(ended.pid) is None


# Files that cannot be written.


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY", 0.05)
    monkeypatch.setattr(writer, "BUSY", 0.05)
    monkeypatch.setattr(writer, "CALM", 0.0)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]


async def until_written(ledger: Ledger) -> None:
    async with asyncio.timeout(60):
        while not await ledger.written(1):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("impatient")
async def test_a_locked_file_delays_nobody_and_loses_nothing(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    ledger = make()
    assert await ledger.written(5)
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for number in range(100):
        ledger.ended(record(f"r{number}"))
    # All were taken while the file is locked.
    assert not await ledger.written(0.3)
    await asyncio.sleep(0.3)
    assert len(warnings(caplog)) == 1
    assert "locked" in warnings(caplog)[0]
    other.execute("ROLLBACK")
    other.close()
    await until_written(ledger)
    assert len(rows(ledger, 1000)) == 100
    assert len(warnings(caplog)) == 2
    assert "again" in warnings(caplog)[1]


@pytest.mark.usefixtures("impatient")
async def test_what_can_be_written_now_and_then_is_complained_of_once(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "CALM", 60.0)
    ledger = make()
    assert await ledger.written(5)
    for number in range(2):
        with contextlib.closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            ledger.ended(record(f"r{number}"))
            assert not await ledger.written(1)
        await until_written(ledger)
    assert len(warnings(caplog)) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_full_disk_delays_nobody(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """As SQLite reports it: the file may not grow any more."""
    ledger = make()
    assert await ledger.written(5)
    assert ledger._connection is not None
    ledger._connection.execute("PRAGMA max_page_count = 1")
    for number in range(2000):
        ledger.ended(record(f"r{number}"))
    async with asyncio.timeout(60):
        while not warnings(caplog):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert "full" in warnings(caplog)[0]
    # The connection is opened anew for every try, and so has no such limit.
    await until_written(ledger)
    assert len(rows(ledger, 5000)) == 2000


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("content", [b"not a database, but longer than the head of one" * 40, None])
async def test_a_file_that_is_none(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    """It is left alone; once it is out of the way, what was kept goes into a new one."""
    path = tmp_path / "usage.sqlite3"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    ledger = make(path)
    ledger.ended(record("r"))
    assert not await ledger.written(1)
    assert len(warnings(caplog)) == 1
    path.rename(tmp_path / "aside")
    await until_written(ledger)
    assert list(rows(ledger)) == ["r"]


@pytest.mark.usefixtures("impatient")
async def test_the_file_of_a_later_version_is_left_alone(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "usage.sqlite3"
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    ledger = make(path)
    ledger.ended(record("r"))
    assert not await ledger.written(1)
    with pytest.raises(sqlite3.DatabaseError, match="newer"), Reader(path):
        pass


@pytest.mark.usefixtures("impatient")
async def test_a_file_that_is_removed_is_begun_again(make: Make) -> None:
    ledger = make()
    ledger.ended(record("before"))
    assert await ledger.written(5)
    for file in ledger.path.parent.iterdir():
        file.unlink()
    ledger.ended(record("after"))
    await until_written(ledger)
    assert list(rows(ledger)) == ["after"]


@pytest.mark.usefixtures("impatient")
async def test_what_is_kept_meanwhile_is_bounded(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "MAX_PENDING", 50)
    path = tmp_path / "usage.sqlite3"
    path.mkdir()
    ledger = make(path)
    for number in range(200):
        ledger.ended(record(f"r{number}"))
        if number % 20 == 0:
            await asyncio.sleep(0.02)
    assert not await ledger.written(1)
    path.rmdir()
    await until_written(ledger)
    assert len(rows(ledger, 1000)) == 50
    assert ledger.lost == 150
    assert "150 entries" in warnings(caplog)[-1]


async def test_closing_writes_what_is_left(make: Make) -> None:
    ledger = make()
    for number in range(500):
        ledger.ended(record(f"r{number}"))
    await asyncio.to_thread(ledger.close)
    assert len(rows(ledger, 1000)) == 500


# The plan's windows.


def info(**more: Any) -> RateLimitInfo:
    return RateLimitInfo(**{"status": "allowed"} | more)


def test_reports_add_up() -> None:
    both = {"five_hour": Window(0.4, 200.0, "allowed"), "seven_day": Window(0.1, 900.0, "allowed")}
    known = take_in(Allowance(), info(rateLimitType="five_hour", resetsAt=200.0, unifiedWindows=both), 100.0)
    assert known == Allowance("allowed", 100.0, both)
    assert take_in(known, info(), 110.0) == Allowance("allowed", 110.0, both)
    one = take_in(
        known, info(status="allowed_warning", rateLimitType="five_hour", resetsAt=200.0, utilization=0.9), 120
    )
    assert one.windows == {**both, "five_hour": Window(0.9, 200.0, "allowed_warning")}
    full = take_in(one, info(status="rejected", rateLimitType="seven_day", resetsAt=900.0), 130.0)
    assert tightest(full) == ("seven_day", Window(None, 900.0, "rejected"))


def test_a_window_that_has_ended_says_nothing_any_more() -> None:
    known = Allowance("rejected", 100.0, {"five_hour": Window(1.0, 200.0, "rejected"), "seven_day": Window(0.1, 900.0)})
    assert current(known, 199.0) == known
    assert current(known, 200.0) == Allowance("", 100.0, {"seven_day": Window(0.1, 900.0)})


def test_names_of_windows_are_names() -> None:
    odd = {"a\r\nb": Window(0.5, 200.0), "ok_1": Window(0.5, 200.0)}
    assert list(take_in(Allowance(), info(unifiedWindows=odd), 1.0).windows) == ["ok_1"]


async def test_the_plan_s_state_is_kept(make: Make) -> None:
    ledger = make()
    state = Allowance("allowed", 100.0, {"five_hour": Window(0.4, 2e9, "allowed")})
    ledger.allowance(Allowance("old"))
    ledger.allowance(state)
    assert await ledger.written(5)
    with Reader(ledger.path) as reader:
        assert reader.allowance() == state


def test_without_a_file_nothing_has_been_used(tmp_path: Path) -> None:
    with Reader(tmp_path / "none") as reader:
        assert reader.summary(None, None).totals.requests == 0
        assert reader.recent(5) == ()
        assert reader.allowance() == Allowance()


def test_what_limits_need_takes_as_long_however_much_has_been_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a key has used, and what the fallback has cost, is looked at before each request. Work is counted in
    SQLite's steps."""
    path = tmp_path / "usage.sqlite3"
    ledger = Ledger(path, 0, "subscription")
    now = time.time()

    def steps(rows: int) -> int:
        for number in range(rows):
            ledger.ended(record(f"{rows}-{number}", began=now, key="ann"))
            ledger.paid([f"{rows}-{number}"], 0.25)
        ledger._queue.put(None)
        ledger._run()
        ledger._connection = None
        taken = 0

        def count(_: Reader) -> bool:
            nonlocal taken
            taken += 1
            return False

        with monkeypatch.context() as patch:
            patch.setattr(reader, "STEPS", 10)
            patch.setattr(Reader, "_is_stopped", count)
            with Reader(path) as opened:
                assert opened.used("ann", now - 1) == (total * 34, total * 0.25)
                assert opened.fallback_cost(now - 1, now - 1).usd == 0
        return taken

    total = 20
    few = steps(20)
    total = 2020
    assert steps(2000) < 2 * few
