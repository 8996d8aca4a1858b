"""Writing the usage file: a row for every request that was put to the model.

- A row is opened when its request begins and completed when it ends, however it ends. Rows that are still open when
  their server is no more are marked as interrupted by the next one. Several servers may share a file.
- One thread writes, and nobody waits for it. While the file cannot be written (full disk, locked, gone) entries are
  kept in memory, up to a bound; the log says so once, and once more when it is over. An entry that cannot be written
  for what it is, is dropped. What is lost in either way is counted.
- What an answer costs the CLI tells after it has ended (`paid`), or never: then it is unknown, and counted as such.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from proxy.protocol.allowance import Allowance
from proxy.protocol.deltas import Tokens
from proxy.settings.paths import make_private
from proxy.usage.estimate import PRUNE_REPORTS, WindowEstimate, estimate, reported
from proxy.usage.schema import BUSY, MAX_COST, MAX_COUNT, migrate, version_of
from proxy.usage.servers import gone, this_server

log: Final = logging.getLogger("proxy.usage")

# Entries kept in memory while the file cannot be written; about 1 kB each.
MAX_PENDING: Final = 10_000
# Seconds between tries while it cannot be written.
RETRY: Final = 2.0
# A full disk can be written to now and then: it is well again when it has been for so long.
CALM: Final = 30.0
# Seconds that the end of the server waits for what is still to be written.
CLOSE_WAIT: Final = 3.0
# A client chooses the text of a model name.
MAX_TEXT: Final = 200
# The estimate for `/metrics` is made so often at most, in seconds.
ESTIMATE_EVERY: Final = 60.0
# Seconds between two prunings. What one deletes is bounded: this share of the rows, or so many if that is more.
PRUNE_EVERY: Final = 86_400.0
PRUNE_SHARE: Final = 0.1
PRUNE_ROWS: Final = 1000
# A row is old by the clock and by the days on which there have been requests, the newest of them left aside: a clock
# that was wrong for a day or two deletes nothing.
DAYS_ASIDE: Final = 2

_DAY: Final = "coalesce(date(:began, 'unixepoch', 'localtime'), '')"
_BEGUN: Final = f"""
INSERT INTO requests (id, began, day, key, endpoint, api, login, server, outcome)
VALUES (:id, :began, {_DAY}, :key, :endpoint, :api, :login, :server, 'running')
ON CONFLICT (id) DO NOTHING
"""
# `unpaid` counts up by what is due and down by what has been told, in whatever order the two come.
_ENDED: Final = f"""
INSERT INTO requests (
    id, began, day, key, endpoint, api, login, server, asked, model, served, not_continued, outcome, status, input,
    cache_read, cache_write, output, reasoning, web_searches, unpaid, duration, first_delta, fallback, estimated
) VALUES (
    :id, :began, {_DAY}, :key, :endpoint, :api, :login, :server, :asked, :model, :served, :not_continued, :outcome,
    :status, :input, :cache_read, :cache_write, :output, :reasoning, :web_searches, :asks, :duration, :first_delta,
    :fallback, :estimated
) ON CONFLICT (id) DO UPDATE SET
    api = excluded.api, asked = excluded.asked, model = excluded.model, served = excluded.served,
    not_continued = excluded.not_continued, outcome = excluded.outcome, status = excluded.status,
    input = excluded.input, cache_read = excluded.cache_read, cache_write = excluded.cache_write,
    output = excluded.output, reasoning = excluded.reasoning, web_searches = excluded.web_searches,
    unpaid = unpaid + excluded.unpaid, duration = excluded.duration, first_delta = excluded.first_delta,
    login = excluded.login, fallback = excluded.fallback, estimated = excluded.estimated
"""
_PAID: Final = "UPDATE requests SET cost = cost + ?, unpaid = unpaid - 1, paid_in = ? WHERE id = ?"
_ALLOWANCE: Final = "INSERT OR REPLACE INTO allowance (one, value) VALUES (1, ?)"
_INTERRUPTED: Final = """
UPDATE requests SET outcome = 'interrupted', unpaid = unpaid + 1 WHERE outcome = 'running' AND server = ?
"""
_NEWEST: Final = f"SELECT min(last) FROM (SELECT last FROM days ORDER BY last DESC LIMIT {DAYS_ASIDE + 1})"
_PRUNE: Final = """
DELETE FROM requests WHERE id IN (
    SELECT id FROM requests WHERE began < ? ORDER BY began
    LIMIT (SELECT CAST(max(?, total(requests) * ?) AS INTEGER) FROM daily)
)
"""
# Errors of SQLite's that are not one entry's own: the file, the disk or another program is in the way.
_FILE_ERRORS: Final = frozenset({
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOTADB,
})  # fmt: skip

Statement = tuple[str, Sequence[object] | Mapping[str, object]]


class Record(Struct, frozen=True):
    """A request that has ended.

    `began`: seconds since 1970. `key`: the API key's name. `asked`, `model`: the model asked for, and which answered.
    `api`: the API it is written in, such as `openai-chat`. `served`: `new`, `continued`, `replayed`; `not_continued`:
    why it was not continued in its conversation's living process, such as `expired`, or nothing.
    `outcome`: `ok`, `cancelled` (the client left), `interrupted` (the server ended), or a failure's kind.
    `asks`: how often the CLI was asked, each of which costs. `duration`, `first_delta`: seconds.
    `fallback`: by what it was answered when the plan was used up; `login`: who pays then, if it is another.
    `estimated`: about how many tokens were put to the model of which it has not said how many.
    """

    id: str
    began: float
    key: str
    endpoint: str
    asked: str
    model: str
    served: str
    outcome: str
    status: int
    tokens: Tokens
    asks: int
    duration: float
    first_delta: float | None
    api: str = ""
    not_continued: str = ""
    web_searches: int = 0
    login: str = ""
    fallback: str = ""
    estimated: int = 0


def _text(text: str) -> str:
    return text[:MAX_TEXT].encode("utf-8", "replace").decode()


def _count(count: int) -> int:
    """A count of the CLI's as it can be kept and summed."""
    return max(0, min(count, MAX_COUNT))


def _of_file(error: Exception) -> bool:
    """Whether it is the file that cannot be written, rather than this entry."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _FILE_ERRORS


class Ledger:
    """See the module. `start` it; `begun`, `ended`, `paid` and `allowance` only note, and never fail; `close` it.

    `days`: for how long rows are kept, 0: for ever. `login`: who pays.
    """

    def __init__(self, path: Path, days: int, login: str) -> None:
        self.path = path
        # As of the last look; see `WindowEstimate`.
        self.estimate: WindowEstimate | None = None
        # Counted by each thread for itself.
        self._overflowed = 0
        self._dropped = 0
        self._days = days
        self._login = login
        self._server = this_server()
        self._queue: queue.SimpleQueue[Statement | Callable[[], None] | None] = queue.SimpleQueue()
        self._pending: list[Statement] = []
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._next_prune = 0.0
        self._next_estimate = 0.0
        self._trouble = False
        self._told = False
        self._well_since = 0.0
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    @property
    def lost(self) -> int:
        """How many entries are not in the file and never will be."""
        return self._overflowed + self._dropped

    @property
    def failing(self) -> bool:
        """The file cannot be written at the moment."""
        return self._trouble

    def start(self) -> None:
        self._thread.start()

    def begun(self, id: str, began: float, key: str, endpoint: str, api: str = "") -> None:
        """A request has begun; see `Record`."""
        row = {"id": id, "began": began, "key": key, "endpoint": endpoint, "api": _text(api), "login": self._login}
        self._note((_BEGUN, row | {"server": self._server}))

    def ended(self, record: Record) -> None:
        counts = msgspec.structs.asdict(record.tokens) | {"web_searches": record.web_searches}
        row = msgspec.structs.asdict(record) | {name: _count(count) for name, count in counts.items()}
        del row["tokens"]
        row["estimated"] = _count(record.estimated)
        row |= {name: _text(row[name]) for name in ("asked", "model", "api", "served", "not_continued")}
        self._note((_ENDED, row | {"login": record.login or self._login, "server": self._server}))

    def paid(self, requests: Sequence[str], usd: float) -> None:
        """These requests cost so much together; it stands in the last one's row, to which the others point."""
        if not 0 <= usd <= MAX_COST:
            log.warning("a price of %r dollars is not believed: it counts as unknown", usd)
            return
        *others, last = requests
        for other in others:
            self._note((_PAID, (0.0, last if other != last else "", other)))
        self._note((_PAID, (usd, "", last)))

    def allowance(self, allowance: Allowance) -> None:
        self._note((_ALLOWANCE, (msgspec.json.encode(allowance).decode(),)))
        report = reported(allowance)
        if report is not None:
            self._note(report)

    async def written(self, seconds: float) -> bool:
        """Wait until all that has been noted so far is in the file, for so long at most; whether it is."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def tell() -> None:
            # The loop may be gone by then.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

        self._queue.put(tell)
        try:
            await asyncio.wait_for(done.wait(), seconds)
        except TimeoutError:
            return False
        return not self._trouble

    def close(self) -> None:
        """Write what is left, in the time that there is."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(CLOSE_WAIT)

    def _note(self, statement: Statement) -> None:
        if self._queue.qsize() >= MAX_PENDING:
            self._overflowed += 1
        else:
            self._queue.put(statement)

    # The thread.

    def _run(self) -> None:
        told: list[Callable[[], None]] = []
        running = True
        while running:
            self._write()
            for tell in told:
                tell()
            told = []
            item = self._wait()
            while item is not _NOTHING:
                if item is None:
                    running = False
                elif callable(item):
                    told.append(item)
                else:
                    self._pending.append(item)  # type: ignore[arg-type]
                item = self._next()
            over = len(self._pending) - MAX_PENDING
            if over > 0:
                self._dropped += over
                del self._pending[:over]
        self._write()
        if self._connection is not None:
            self._connection.close()

    def _wait(self) -> object:
        """The next entry, or nothing when it is time to try again or to prune."""
        try:
            return self._queue.get(timeout=RETRY if self._told else max(1.0, self._next_prune - time.monotonic()))
        except queue.Empty:
            return _NOTHING

    def _next(self) -> object:
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            return _NOTHING

    def _write(self) -> None:
        try:
            connection = self._opened()
            if self._pending:
                self._write_pending(connection)
            if time.monotonic() >= self._next_prune:
                self._next_prune = time.monotonic() + PRUNE_EVERY
                self._prune(connection)
            if time.monotonic() >= self._next_estimate:
                self._next_estimate = time.monotonic() + ESTIMATE_EVERY
                self.estimate = estimate(connection)
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread goes on and the log has it.
            self._failed(error)
        else:
            self._succeeded()

    def _write_pending(self, connection: sqlite3.Connection) -> None:
        unwritable: list[Exception] = []
        with connection:
            for sql, values in self._pending:
                try:
                    connection.execute(sql, values)
                except Exception as error:
                    if _of_file(error):
                        raise
                    # This entry's own fault, and of no other.
                    unwritable.append(error)
        self._pending.clear()
        if unwritable:
            self._dropped += len(unwritable)
            log.warning("%d entries of usage are dropped, they cannot be written: %r", len(unwritable), unwritable[0])

    def _opened(self) -> sqlite3.Connection:
        """The connection to the file that is at the path now."""
        with contextlib.suppress(OSError):
            if self._connection is not None and self.path.stat().st_ino == self._inode:
                return self._connection
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        make_private(self.path.parent)
        # SQLite gives the files beside it the mode of this one.
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self.path, timeout=BUSY, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._inode = self.path.stat().st_ino
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version_of(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        migrate(connection)
        servers = connection.execute("SELECT DISTINCT server FROM requests WHERE outcome = 'running'").fetchall()
        with connection:
            for (server,) in servers:
                if gone(server):
                    connection.execute(_INTERRUPTED, (server,))

    def _prune(self, connection: sqlite3.Connection) -> None:
        (newest,) = connection.execute(_NEWEST).fetchone()
        with connection:
            connection.execute(PRUNE_REPORTS)
            if self._days and newest is not None:
                limit = min(newest, time.time()) - self._days * 86_400
                connection.execute(_PRUNE, (limit, PRUNE_ROWS, PRUNE_SHARE))

    def _failed(self, error: Exception) -> None:
        self._trouble = True
        self._well_since = math.inf
        if not self._told:
            self._told = True
            log.warning("usage cannot be written to %s (%s); up to %d entries are kept meanwhile",
                        self.path, error, MAX_PENDING)  # fmt: skip
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _succeeded(self) -> None:
        self._trouble = False
        now = time.monotonic()
        self._well_since = min(self._well_since, now)
        if self._told and now - self._well_since >= CALM:
            self._told = False
            log.warning("usage is written to %s again; %d entries have been lost", self.path, self.lost)


_NOTHING: Final = object()
