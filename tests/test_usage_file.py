"""The usage file as it grows: its versions, its sums by day, what is old, what cannot be written, who stops reading."""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http import usage as http_usage
from proxy.http.accounts import Accounts
from proxy.http.service import Service
from proxy.protocol.allowance import Allowance
from proxy.protocol.deltas import Tokens
from proxy.protocol.lines import Window
from proxy.usage import schema, writer
from proxy.usage.estimate import WindowEstimate
from proxy.usage.reader import Reader, Summary, UsageGroup, UsageSums
from proxy.usage.schema import GROUPING, MAX_COST, MAX_COUNT, SUMMED
from proxy.usage.writer import Ledger, Record
from tests.outcomes import Expects
from tests.usage_rows import record

DAY = 86_400.0
NOON = time.mktime((2026, 8, 1, 12, 0, 0, 0, 0, -1))


def write(ledger: Ledger) -> None:
    """Put into the file what has been noted, in this thread."""
    ledger._queue.put(None)
    ledger._run()
    ledger._connection = None


def new(path: Path, days: int = 0, login: str = "subscription") -> Ledger:
    return Ledger(path, days, login)


def ids(path: Path) -> set[str]:
    with Reader(path) as reader:
        return {row.id for row in reader.recent(100_000)}


def summary(path: Path, since: float | None = None, until: float | None = None) -> Summary:
    with Reader(path) as reader:
        return reader.summary(since, until)


def test_answers_without_a_price_are_not_for_nothing(tmp_path: Path) -> None:
    """A client that leaves just before the end would have no limit in dollars otherwise."""
    ledger = new(tmp_path / "usage.sqlite3")

    def used(key: str) -> tuple[int, float]:
        write(ledger)
        with Reader(ledger.path) as reader:
            return reader.used(key, NOON)

    def ask(id: str, outcome: str, began: float, usd: float | None, key: str = "ann") -> None:
        ledger.begun(id, began, key, "/v1/chat/completions")
        ledger.ended(record(id, began=began, key=key, outcome=outcome))
        if usd is not None:
            ledger.paid([id], usd)

    ask("left without any price known", "cancelled", NOON, None)
    # As long as no price is known at all, something; then that of others.
    assert used("ann") == (34, 0.05)
    ask("another's", "ok", NOON, 9.0, "bob")
    assert used("ann") == (34, 9.0)
    ask("yesterday's", "ok", NOON - DAY, 0.2)
    ask("paid", "ok", NOON, 0.4)
    ask("stopped", "ok", NOON, None)
    # The model has answered, and the answer did not fit its schema, or was lost.
    ask("unfit", "schema_unmet", NOON, None)
    ask("failed", "cli_died", NOON, None)
    ledger.begun("running", NOON, "ann", "/v1/chat/completions")
    tokens, usd = used("ann")
    assert tokens == 5 * 34
    assert usd == pytest.approx(0.4 + 4 * 0.3)
    assert used("nobody") == (0, 0.0)


def test_a_request_that_is_left_before_its_tokens_are_said_counts_some(tmp_path: Path) -> None:
    ledger = new(tmp_path / "usage.sqlite3")

    def used(*left: str) -> int:
        for id in left:
            ledger.ended(record(id, key="ann", outcome="cancelled", tokens=Tokens()))
        write(ledger)
        with Reader(ledger.path) as reader:
            return reader.used("ann", 0.0)[0]

    assert used("1", "2") == 2 * 5000
    ledger.ended(record("another's", key="bob"))
    assert used() == 2 * 34
    ledger.ended(record("its own", key="ann", tokens=Tokens(input=1000)))
    assert used("3") == 4 * 1000
    # It was never put to the CLI, or there was no answer.
    ledger.ended(record("waited", key="ann", outcome="cancelled", tokens=Tokens(), asks=0))
    ledger.ended(record("failed", key="ann", outcome="cli_died", tokens=Tokens()))
    assert used() == 4 * 1000


def test_what_was_put_to_the_model_and_left_counts_by_its_size_and_model(tmp_path: Path) -> None:
    """A key could pass its limit by many small requests and then large ones that it leaves, or ones of a dear model."""
    ledger = new(tmp_path / "usage.sqlite3")

    def used(**more: Any) -> tuple[int, float]:
        """What one more that is left comes to."""
        before = now()
        ledger.ended(record(str(time.perf_counter()), key="ann", outcome="cancelled", **more))
        tokens, usd = now()
        return tokens - before[0], round(usd - before[1], 9)

    def now() -> tuple[int, float]:
        write(ledger)
        with Reader(ledger.path) as reader:
            return reader.used("ann", 0.0)

    def paid(id: str, asked: str, tokens: int, usd: float, key: str = "ann") -> None:
        ledger.ended(record(id, key=key, asked=asked, tokens=Tokens(input=tokens)))
        ledger.paid([id], usd)

    # Nothing is known: the size, at a low price.
    assert used(tokens=Tokens(), estimated=100_000) == (100_000, 1.0)
    for number in range(3):
        paid(f"small {number}", "haiku", 1000, 0.002)
    assert used(tokens=Tokens(), asked="haiku") == (1000, 0.002)
    assert used(tokens=Tokens(), asked="haiku", estimated=500) == (1000, 0.002)
    assert used(tokens=Tokens(), asked="haiku", estimated=200_000) == (200_000, 0.4)
    # Tokens that were said are what they are; the price goes by them.
    assert used(tokens=Tokens(input=50_000), asked="haiku")[1] == 0.1
    # By the model's own price, whoever paid it; that of the dearest for one that nobody has had.
    paid("dear", "opus", 1000, 0.02, "bob")
    assert used(tokens=Tokens(), asked="opus", estimated=200_000) == (200_000, 4.0)
    assert used(tokens=Tokens(), asked="fable", estimated=200_000) == (200_000, 4.0)


def test_choices_that_have_not_said_their_tokens_count_beside_one_that_has(tmp_path: Path) -> None:
    ledger = new(tmp_path / "usage.sqlite3")
    ledger.ended(record("1", key="ann", outcome="cancelled", tokens=Tokens(input=50_000), estimated=150_000, asks=4))
    write(ledger)
    with Reader(ledger.path) as reader:
        assert reader.used("ann", 0.0) == (200_000, 2.0)


# Versions.


# A file of version 1, as `sqlite3 FILE .dump` writes it.
VERSION_1 = """
BEGIN TRANSACTION;
CREATE TABLE requests (
    id TEXT PRIMARY KEY, began REAL NOT NULL, key TEXT NOT NULL, endpoint TEXT NOT NULL, login TEXT NOT NULL,
    server TEXT NOT NULL, asked TEXT NOT NULL DEFAULT '', model TEXT NOT NULL DEFAULT '',
    served TEXT NOT NULL DEFAULT '', outcome TEXT NOT NULL, status INTEGER NOT NULL DEFAULT 0,
    input INTEGER NOT NULL DEFAULT 0, cache_read INTEGER NOT NULL DEFAULT 0, cache_write INTEGER NOT NULL DEFAULT 0,
    output INTEGER NOT NULL DEFAULT 0, reasoning INTEGER NOT NULL DEFAULT 0,
    cost REAL NOT NULL DEFAULT 0, unpaid INTEGER NOT NULL DEFAULT 0, paid_in TEXT NOT NULL DEFAULT '',
    duration REAL, first_delta REAL
) WITHOUT ROWID;
INSERT INTO requests VALUES('req_1',1785585600.0,'ann','/v1/chat/completions','subscription','1 x@y','gpt-4o',
'claude-opus-5-5','new','ok',200,10,7,5,12,3,0.25,0,'',1.5,0.2);
INSERT INTO requests VALUES('req_2',1785585660.0,'','/v1/completions','subscription','1 x@y','opus','claude-opus-5-5',
'continued','ok',200,9223372036854775807,9007199254740993,-5,12,3,1.0e+300,0,'',1.5,0.2);
INSERT INTO requests VALUES('req_3',1785685660.0,'bob','/health','api-key','1 x@y','','','','running',
0,0,0,0,0,0,0.0,0,'',NULL,NULL);
CREATE TABLE allowance (one INTEGER PRIMARY KEY CHECK (one = 1), value TEXT NOT NULL);
INSERT INTO allowance VALUES(1,'{"status":"allowed","seen":100.0,"windows":{}}');
CREATE INDEX requests_began ON requests (began);
CREATE INDEX requests_running ON requests (server) WHERE outcome = 'running';
PRAGMA user_version = 1;
COMMIT;
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "usage.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1)
    return path


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check_old_rows(path: Path, interrupted: int) -> None:
    found = summary(path)
    assert (found.totals.requests, found.totals.succeeded, found.totals.interrupted) == (3, 2, interrupted)
    assert {group.name: group.requests for group in found.by_api} == {
        "openai-chat": 1,
        "openai-completions": 1,
        None: 1,
    }
    assert found.totals.list_price_usd == 0.25
    assert found.totals.prompt_tokens == 22 + 2 * MAX_COUNT
    with Reader(path) as reader:
        assert reader.allowance().seen == 100.0


def test_an_old_file_can_be_read_before_any_server_has_made_a_new_one_of_it(old: Path) -> None:
    check_old_rows(old, interrupted=0)
    assert version(old) == 1


def test_an_old_file_becomes_a_new_one_and_takes_rows(old: Path) -> None:
    ledger = new(old)
    ledger.ended(record("req_1", began=1785585600.0, key="ann", asks=0, api="openai-chat"))
    ledger.paid(["req_1"], 0.0)
    ledger.begun("req_4", 1785585700.0, "ann", "/v1/chat/completions", "openai-chat")
    ledger.ended(record("req_4", began=1785585700.0, api="openai-chat", web_searches=3, not_continued="expired"))
    write(ledger)
    assert (version(old), ledger.lost) == (schema.VERSION, 0)
    found = summary(old)
    assert (found.totals.requests, found.totals.web_searches) == (4, 3)
    assert (found.totals.served, found.totals.not_continued) == ({"continued": 1, "new": 2}, {"expired": 1})
    check_sums(old)


def test_two_servers_that_come_to_an_old_file_at_once(old: Path) -> None:
    """The second finds it done when its turn comes."""
    with closing(sqlite3.connect(old)) as first, closing(sqlite3.connect(old)) as second:
        assert schema.version_of(second) == 1
        schema.migrate(first)
        schema.migrate(second)
    check_old_rows(old, interrupted=0)


def test_a_migration_that_fails_leaves_the_file_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE more (x)", "no such statement")))
    monkeypatch.setattr(schema, "VERSION", 3)
    with closing(sqlite3.connect(old)) as connection, pytest.raises(sqlite3.OperationalError):
        schema.migrate(connection)
    assert version(old) == 1
    monkeypatch.undo()
    check_old_rows(old, interrupted=0)


# Sums by day.


def check_sums(path: Path) -> None:
    """The sums of each day are those of its rows."""
    sums = ", ".join(f"sum({name})" for name in SUMMED)
    with closing(sqlite3.connect(path)) as connection:
        by_rows = connection.execute(f"SELECT {GROUPING}, {sums} FROM request_sums GROUP BY {GROUPING}").fetchall()
        kept = connection.execute(f"SELECT {GROUPING}, {', '.join(SUMMED)} FROM daily ORDER BY {GROUPING}").fetchall()
        assert kept == sorted(by_rows)
        wrong = connection.execute(
            "SELECT * FROM (SELECT day, min(began) AS f, max(began) AS l FROM requests GROUP BY day) FULL JOIN days "
            "USING (day) WHERE (f >= first AND l <= last) IS NOT TRUE"
            if sqlite3.sqlite_version_info >= (3, 39)
            else "SELECT day FROM requests JOIN days USING (day) WHERE NOT began BETWEEN first AND last"
        ).fetchall()
        assert wrong == []


def from_rows(path: Path, since: float, until: float) -> Summary:
    """The report of a period, made of nothing but rows."""
    with Reader(path) as reader:
        rows = [row for row in reader.recent(100_000) if since <= row.began < until]
    with closing(sqlite3.connect(path)) as connection:
        more = {id: rest for id, *rest in connection.execute("SELECT id, day, login, cost, unpaid FROM requests")}

    def sums(name: str) -> dict[str | None, dict[str, Any]]:
        groups: dict[str | None, list[Any]] = defaultdict(list)
        for row in rows:
            groups[more[row.id][0] or None if name == "day" else getattr(row, name) if name else None].append(row)
        return {group: one(found) for group, found in groups.items()}

    def one(found: list[Any]) -> dict[str, Any]:
        outcomes = Counter(row.outcome for row in found)
        ends = {name: outcomes[name] for name in ("cancelled", "interrupted", "running")}
        names = ("prompt", "cached", "cache_write", "completion", "reasoning")
        tokens = {f"{name}_tokens": sum(getattr(row, f"{name}_tokens") for row in found) for name in names}
        cached = tokens["cached_tokens"] / tokens["prompt_tokens"] if tokens["prompt_tokens"] else None
        paid = [(login, round(cost * 1e9)) for _, login, cost, _ in (more[row.id] for row in found)]
        return {
            "requests": len(found),
            "succeeded": outcomes["ok"],
            "failed": len(found) - outcomes["ok"] - sum(ends.values()),
            **ends,
            **tokens,
            "cached_share": None if cached is None else round(cached, 4),
            "web_searches": sum(row.web_searches for row in found),
            "served": dict(Counter(row.served for row in found if row.served)),
            "not_continued": dict(Counter(row.not_continued for row in found if row.not_continued)),
            "list_price_usd": round(sum(nano for _, nano in paid) / 1e9, 6),
            "savings_usd": round(sum(nano for login, nano in paid if login == "subscription") / 1e9, 6),
            "without_price": sum(more[row.id][3] > 0 for row in found),
        }

    def groups(name: str) -> tuple[UsageGroup, ...]:
        found = [UsageGroup(name=group, **values) for group, values in sums(name).items()]
        by_name = sorted(found, key=lambda group: group.name or "")
        return tuple(by_name if name == "day" else sorted(by_name, key=lambda group: -group.requests))

    return Summary(UsageSums(**one(rows)), groups("model"), groups("key"), groups("api"), groups("day"))


REQUESTS = [f"r{number}" for number in range(8)]
AT = st.integers(0, 12).map(lambda number: NOON + number * 5 * 3600.0)
COUNT = st.one_of(st.integers(0, 50), st.sampled_from([2**53 + 1, 2**62, 2**63, 2**64, -1]))
ENDED = st.builds(
    record,
    st.sampled_from(REQUESTS),
    began=AT,
    key=st.sampled_from(["", "ann"]),
    model=st.sampled_from(["", "opus", "haiku"]),
    served=st.sampled_from(["", "new", "continued"]),
    not_continued=st.sampled_from(["", "expired"]),
    api=st.sampled_from(["openai-chat", "ollama"]),
    outcome=st.sampled_from(["ok", "cancelled", "cli_died"]),
    tokens=st.builds(Tokens, COUNT, COUNT, COUNT, COUNT, COUNT),
    web_searches=COUNT,
    asks=st.integers(0, 3),
)
STEP = st.one_of(
    st.tuples(st.just("begun"), st.sampled_from(REQUESTS), AT),
    st.tuples(st.just("ended"), ENDED),
    st.tuples(st.just("paid"), st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=3), st.floats(0, MAX_COST)),
    st.tuples(st.just("prune"), st.integers(1, 4)),
    st.tuples(st.just("server gone")),
    st.tuples(st.just("zone"), st.sampled_from(["UTC", "Asia/Kolkata", "Pacific/Kiritimati", "Pacific/Pago_Pago"])),
    st.tuples(st.just("login"), st.sampled_from(["subscription", "api-key"])),
)


@settings(max_examples=50)
@given(steps=st.lists(STEP, min_size=5, max_size=20), bounds=st.tuples(AT, AT))
def test_sums_are_those_of_the_rows_whatever_happens(steps: list[tuple[Any, ...]], bounds: tuple[float, float]) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "PRUNE_ROWS", 2)
        path = Path(directory) / "usage.sqlite3"
        login = "subscription"
        ledger = new(path)
        for what, *values in steps:
            if what in ("begun", "ended", "paid"):
                getattr(ledger, what)(*values, *(("", "x", "openai-chat") if what == "begun" else ()))
                continue
            write(ledger)
            if what == "zone":
                patch.setenv("TZ", values[0])
                time.tzset()
            login = values[0] if what == "login" else login
            ledger = new(path, values[0] if what == "prune" else 0, login)
            if what == "server gone":
                ledger._server = "1 of yesterday"
                ledger.begun("orphan", NOON, "", "x")
        write(ledger)
        write(new(path))
        check_sums(path)
        since, until = min(bounds), max(bounds)
        assert summary(path, since, until) == from_rows(path, since, until)
        assert summary(path) == from_rows(path, 0, math.inf)
        assert ledger.lost == 0
    time.tzset()


def test_days_of_two_zones_that_overlap_are_not_counted_twice(tmp_path: Path) -> None:
    """Kiritimati and Pago Pago are 25 hours apart: where one has the 2nd for a whole day, the other has the 1st."""
    path = tmp_path / "usage.sqlite3"
    with pytest.MonkeyPatch.context() as patch:
        for name, hours in (("Pacific/Kiritimati", (0, 8, 16)), ("Pacific/Pago_Pago", (4, 12, 20))):
            patch.setenv("TZ", name)
            time.tzset()
            ledger = new(path)
            for hour in hours:
                ledger.ended(record(f"{name} {hour}", began=1785585600.0 + hour * 3600))
            write(ledger)
    time.tzset()
    for since in range(-2, 24, 2):
        for until in range(since + 1, 26, 2):
            bounds = 1785585600.0 + since * 3600, 1785585600.0 + until * 3600
            assert summary(path, *bounds) == from_rows(path, *bounds)


def test_a_price_that_cannot_be_is_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger = new(tmp_path / "usage.sqlite3")
    for number, usd in enumerate((math.inf, math.nan, -1.0, 1e300)):
        ledger.ended(record(f"r{number}"))
        ledger.paid([f"r{number}"], usd)
    write(ledger)
    totals = summary(ledger.path).totals
    assert (totals.list_price_usd, totals.without_price) == (0.0, 4)
    assert len(caplog.records) == 4


# What is old.


def test_one_start_with_a_clock_a_year_ahead_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expects: Expects
) -> None:
    expects("faults", "a start with a clock 366 days ahead, and five requests", "no row of usage is deleted")
    path = tmp_path / "usage.sqlite3"
    ledger = new(path)
    now = time.time()
    for number in range(30):
        ledger.ended(record(f"r{number}", began=now - number * DAY))
    write(ledger)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 366 * DAY)
    ahead = new(path, days=30)
    for number in range(5):
        ahead.ended(record(f"ahead{number}", began=time.time()))
    write(ahead)
    write(new(path, days=30))
    assert len(ids(path)) == 35
    monkeypatch.undo()
    write(new(path, days=30))
    assert len(ids(path)) == 35


def test_one_pruning_deletes_a_bounded_share_and_the_oldest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PRUNE_ROWS", 3)
    path = tmp_path / "usage.sqlite3"
    ledger = new(path)
    for number in range(100):
        ledger.ended(record(f"r{number}", began=time.time() - number * DAY))
    write(ledger)
    counts = []
    for _ in range(3):
        write(new(path, days=10))
        counts.append(len(ids(path)))
    assert counts == [90, 81, 73]
    assert ids(path) == {f"r{number}" for number in range(73)}
    check_sums(path)


# What cannot be written.


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Callable[[], Ledger]]:
    made: list[Ledger] = []

    def start() -> Ledger:
        made.append(new(tmp_path / "usage.sqlite3"))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        await asyncio.to_thread(one.close)


@pytest.mark.parametrize("count", [2**53, 2**63, 2**64, 10**30, -(2**70)])
async def test_any_count_of_tokens_is_kept_in_bounds(running: Callable[[], Ledger], count: int) -> None:
    ledger = running()
    for number in range(3):
        ledger.ended(record(f"r{number}", tokens=Tokens(count, count, count, count, count), web_searches=count))
    assert await ledger.written(5)
    bound = min(max(count, 0), MAX_COUNT)
    totals = summary(ledger.path).totals
    assert (totals.prompt_tokens, totals.completion_tokens, totals.web_searches) == (9 * bound, 3 * bound, 3 * bound)
    assert msgspec.json.decode(msgspec.json.encode(totals), type=UsageSums) == totals
    assert ledger.lost == 0


async def test_sums_beyond_what_sqlite_can_add_are_told(running: Callable[[], Ledger]) -> None:
    ledger = running()
    ledger.ended(record("r"))
    assert await ledger.written(5)
    with closing(sqlite3.connect(ledger.path)) as other, other:
        other.execute("UPDATE daily SET input = 9223372036854775807")
    ledger.ended(record("s"))
    ledger.ended(record("t", model="another"))
    assert await ledger.written(5)
    assert summary(ledger.path).totals.prompt_tokens >= 2**63 - 1


UNWRITABLE: dict[str, Record] = {
    "no id": record(cast(str, None)),
    "no text": record("\ud800"),
    "an id that the file refuses": record("refused"),
    "an integer beyond 64 bits": record("r", asks=2**64),
    "a type that SQLite does not have": record("r", duration=cast(float, {})),
}


@pytest.mark.parametrize("what", UNWRITABLE)
async def test_an_entry_that_cannot_be_written_is_dropped_and_counted(
    running: Callable[[], Ledger], caplog: pytest.LogCaptureFixture, expects: Expects, what: str
) -> None:
    expects("faults", f"an entry of usage with {what}", "dropped, counted and told; the others are written")
    ledger = running()
    assert await ledger.written(5)
    with closing(sqlite3.connect(ledger.path)) as other:
        other.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON requests WHEN NEW.id = 'refused' "
            "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
    ledger.ended(record("before"))
    ledger.ended(UNWRITABLE[what])
    ledger.ended(record("after"))
    assert await ledger.written(5)
    assert ids(ledger.path) == {"before", "after"}
    assert ledger.lost == 1
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING]
    assert "dropped" in caplog.text
    check_sums(ledger.path)


async def test_nothing_ends_the_thread(running: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY", 0.01)
    ledger = running()
    assert await ledger.written(5)

    def fail(connection: object) -> None:
        # At the next try as well, which may come before it is asked whether all is written.
        ledger._next_estimate = 0.0
        raise RuntimeError("nobody has thought of this")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "estimate", fail)
        ledger._next_estimate = 0.0
        ledger.ended(record("r"))
        assert not await ledger.written(5)
    async with asyncio.timeout(60):
        while not await ledger.written(1):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert ids(ledger.path) == {"r"}


# Who stops reading.


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


async def test_reading_ends_when_nobody_waits_for_it_any_more(running: Callable[[], Ledger], expects: Expects) -> None:
    """As when the client leaves, or the server ends: the handler is cancelled."""
    expects("faults", "/v1/usage reads for long, and the client leaves or the server ends", "reading ends")
    ledger = running()
    assert await ledger.written(5)
    service = cast(Service, type("_", (), {"accounts": Accounts(ledger)}))
    resource = http_usage._FromLedger(service)
    began, ended = threading.Event(), threading.Event()

    def read(reader: Reader) -> None:
        began.set()
        try:
            reader._rows(ENDLESS)
        finally:
            ended.set()

    task = asyncio.create_task(resource._read(read))
    assert await asyncio.to_thread(began.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 5)


@pytest.mark.parametrize("version", [1, 2])
def test_a_reader_that_was_stopped_before_it_began(old: Path, version: int) -> None:
    if version == schema.VERSION:
        write(new(old))
    reader = Reader(old)
    reader.stop()
    with pytest.raises(sqlite3.OperationalError, match="interrupted"), reader:
        reader._rows(ENDLESS)


# What a percent of the five-hour window is worth.


def spend(ledger: Ledger, id: str, ends: float, usd: float, tokens: int) -> None:
    ledger.ended(record(id, began=ends - 10, duration=10.0, tokens=Tokens(tokens, 0, 0, 0, 0)))
    ledger.paid([id], usd)


def told(ledger: Ledger, at: float, used: float, resets: float) -> None:
    ledger.allowance(Allowance("allowed", at, {"five_hour": Window(used, resets)}))


def estimate(path: Path) -> WindowEstimate | None:
    with Reader(path) as reader:
        return reader.estimate()


def test_what_a_percent_of_five_hours_is_worth(tmp_path: Path) -> None:
    """Counted from the first rise of each window, whose step has been seen from its beginning, to its last."""
    ledger = new(tmp_path / "usage.sqlite3")
    resets = NOON + 5 * 3600
    told(ledger, NOON, 0.10, resets)
    spend(ledger, "before the first rise", NOON + 60, 9.0, 9000)
    told(ledger, NOON + 100, 0.11, resets)
    for number in range(4):
        spend(ledger, f"r{number}", NOON + 200 + number, 0.75, 500)
    told(ledger, NOON + 300, 0.12, resets + 1)
    told(ledger, NOON + 301, 0.11, resets)
    spend(ledger, "s", NOON + 350, 1.0, 1000)
    told(ledger, NOON + 400, 0.13, resets)
    spend(ledger, "after the last rise", NOON + 450, 9.0, 9000)
    told(ledger, NOON + 500, 0.13, resets)
    write(ledger)
    assert estimate(ledger.path) == WindowEstimate(2.0, 1500.0, 2.0, NOON + 100)
    told(ledger, NOON + 6 * 3600, 0.01, resets + 6 * 3600)
    told(ledger, NOON + 6 * 3600 + 100, 0.02, resets + 6 * 3600)
    spend(ledger, "t", NOON + 6 * 3600 + 150, 8.0, 6000)
    told(ledger, NOON + 6 * 3600 + 200, 0.04, resets + 6 * 3600)
    write(ledger)
    assert estimate(ledger.path) == WindowEstimate(3.0, 2250.0, 4.0, NOON + 100)
    ledger._next_estimate = 0.0
    write(ledger)
    assert ledger.estimate == estimate(ledger.path)


def test_too_little_is_no_estimate(tmp_path: Path) -> None:
    ledger = new(tmp_path / "usage.sqlite3")
    resets = NOON + 5 * 3600
    ledger.allowance(Allowance("allowed", NOON, {"five_hour": Window(None, resets), "seven_day": Window(0.5, resets)}))
    for number, used in enumerate((0.1, 0.11, 0.12)):
        told(ledger, NOON + 100 * number, used, resets)
        spend(ledger, f"r{number}", NOON + 100 * number + 50, 1.0, 100)
    write(ledger)
    assert estimate(ledger.path) is None
    assert estimate(tmp_path / "none") is None
