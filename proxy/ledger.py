"""Usage that outlives the server: a row for every request that was put to the model, in one SQLite file.

- A row is opened when its request begins and completed when it ends, however it ends. Rows that are still open when
  their server is no more are marked as interrupted by the next one. Several servers may share a file.
- One thread writes, and nobody waits for it. While the file cannot be written (full disk, locked, gone) entries are
  kept in memory, up to a bound; the log says so once, and once more when it is over.
- What an answer costs the CLI tells after it has ended (`paid`), or never: then it is unknown, and counted as such.
- Readers open the file for themselves, so that the terminal needs no server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import queue
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Struct

from proxy.protocol.allowance import Allowance
from proxy.protocol.turn import Tokens

log: Final = logging.getLogger("proxy.ledger")

VERSION: Final = 1
# Entries kept in memory while the file cannot be written; about 1 kB each.
MOST_PENDING: Final = 10_000
# Seconds between tries while it cannot be written; the longest wait for another program that has it locked.
RETRY: Final = 2.0
BUSY: Final = 1.0
# A full disk can be written to now and then: it is well again when it has been for so long.
CALM: Final = 30.0
PRUNE_EVERY: Final = 86_400.0
# Seconds that the end of the server waits for what is still to be written.
CLOSE_WAIT: Final = 3.0
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
# A client chooses the text of a model name.
LONGEST_TEXT: Final = 200

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS requests (
    id TEXT PRIMARY KEY, began REAL NOT NULL, key TEXT NOT NULL, endpoint TEXT NOT NULL, login TEXT NOT NULL,
    server TEXT NOT NULL, asked TEXT NOT NULL DEFAULT '', model TEXT NOT NULL DEFAULT '',
    served TEXT NOT NULL DEFAULT '', outcome TEXT NOT NULL, status INTEGER NOT NULL DEFAULT 0,
    input INTEGER NOT NULL DEFAULT 0, cache_read INTEGER NOT NULL DEFAULT 0, cache_write INTEGER NOT NULL DEFAULT 0,
    output INTEGER NOT NULL DEFAULT 0, reasoning INTEGER NOT NULL DEFAULT 0,
    cost REAL NOT NULL DEFAULT 0, unpaid INTEGER NOT NULL DEFAULT 0, paid_in TEXT NOT NULL DEFAULT '',
    duration REAL, first_delta REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS requests_began ON requests (began);
CREATE INDEX IF NOT EXISTS requests_running ON requests (server) WHERE outcome = 'running';
CREATE TABLE IF NOT EXISTS allowance (one INTEGER PRIMARY KEY CHECK (one = 1), value TEXT NOT NULL);
"""
_BEGUN: Final = """
INSERT OR IGNORE INTO requests (id, began, key, endpoint, login, server, outcome)
VALUES (:id, :began, :key, :endpoint, :login, :server, 'running')
"""
# `unpaid` counts up by what is due and down by what has been told, in whatever order the two come.
_ENDED: Final = """
INSERT INTO requests (
    id, began, key, endpoint, login, server, asked, model, served, outcome, status, input, cache_read, cache_write,
    output, reasoning, unpaid, duration, first_delta
) VALUES (
    :id, :began, :key, :endpoint, :login, :server, :asked, :model, :served, :outcome, :status, :input, :cache_read,
    :cache_write, :output, :reasoning, :asks, :duration, :first_delta
) ON CONFLICT (id) DO UPDATE SET
    asked = excluded.asked, model = excluded.model, served = excluded.served, outcome = excluded.outcome,
    status = excluded.status, input = excluded.input, cache_read = excluded.cache_read,
    cache_write = excluded.cache_write, output = excluded.output, reasoning = excluded.reasoning,
    unpaid = unpaid + excluded.unpaid, duration = excluded.duration, first_delta = excluded.first_delta
"""
_PAID: Final = "UPDATE requests SET cost = cost + ?, unpaid = unpaid - 1, paid_in = ? WHERE id = ?"
_ALLOWANCE: Final = "INSERT OR REPLACE INTO allowance (one, value) VALUES (1, ?)"
_INTERRUPTED: Final = """
UPDATE requests SET outcome = 'interrupted', unpaid = unpaid + 1 WHERE outcome = 'running' AND server = ?
"""

Statement = tuple[str, Sequence[object] | Mapping[str, object]]


class Record(Struct, frozen=True):
    """A request that has ended.

    `began`: seconds since 1970. `key`: the API key's name. `asked`, `model`: the model asked for, and which answered.
    `outcome`: `ok`, `cancelled` (the client left), `interrupted` (the server ended), or a failure's kind.
    `asks`: how often the CLI was asked, each of which costs. `duration`, `first_delta`: seconds.
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


def process_mark(pid: int) -> str | None:
    """What tells a process from a later one of the same number; None when there is none of this number."""
    if _BOOT.exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            return None if fields[0] in ("Z", "X") else f"{fields[19]}@{_BOOT.read_text().strip()}"
        except OSError:
            return None
    said = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return said.stdout.strip() or None


def _server() -> str:
    return f"{os.getpid()} {process_mark(os.getpid())}"


def _gone(server: str) -> bool:
    pid, _, mark = server.partition(" ")
    return process_mark(int(pid)) != mark


def _text(text: str) -> str:
    return text[:LONGEST_TEXT].encode("utf-8", "replace").decode()


class Ledger:
    """See the module. `start` it; `begun`, `ended`, `paid` and `allowance` only note, and never fail; `close` it.

    `days`: for how long rows are kept, 0: for ever. `login`: who pays.
    """

    def __init__(self, path: Path, days: int, login: str) -> None:
        self.path = path
        self.lost = 0
        self._days = days
        self._login = login
        self._server = _server()
        self._queue: queue.SimpleQueue[Statement | Callable[[], None] | None] = queue.SimpleQueue()
        self._pending: list[Statement] = []
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._next_prune = 0.0
        self._trouble = False
        self._told = False
        self._well_since = 0.0
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def begun(self, id: str, began: float, key: str, endpoint: str) -> None:
        """A request has begun; see `Record`."""
        row = {"id": id, "began": began, "key": key, "endpoint": endpoint, "login": self._login}
        self._note((_BEGUN, row | {"server": self._server}))

    def ended(self, record: Record) -> None:
        row = msgspec.structs.asdict(record) | msgspec.structs.asdict(record.tokens)
        del row["tokens"]
        row |= {"asked": _text(record.asked), "model": _text(record.model)}
        self._note((_ENDED, row | {"login": self._login, "server": self._server}))

    def paid(self, requests: Sequence[str], usd: float) -> None:
        """These requests cost so much together; it stands in the last one's row, to which the others point."""
        *others, last = requests
        for other in others:
            self._note((_PAID, (0.0, last if other != last else "", other)))
        self._note((_PAID, (usd, "", last)))

    def allowance(self, allowance: Allowance) -> None:
        self._note((_ALLOWANCE, (msgspec.json.encode(allowance).decode(),)))

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
        if self._queue.qsize() >= MOST_PENDING:
            self.lost += 1
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
            over = len(self._pending) - MOST_PENDING
            if over > 0:
                self.lost += over
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
                with connection:
                    for sql, values in self._pending:
                        connection.execute(sql, values)
                self._pending.clear()
            if time.monotonic() >= self._next_prune:
                self._next_prune = time.monotonic() + PRUNE_EVERY
                self._prune(connection)
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
        else:
            self._succeeded()

    def _opened(self) -> sqlite3.Connection:
        """The connection to the file that is at the path now."""
        with contextlib.suppress(OSError):
            if self._connection is not None and self.path.stat().st_ino == self._inode:
                return self._connection
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        check_version(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        servers = connection.execute("SELECT DISTINCT server FROM requests WHERE outcome = 'running'").fetchall()
        with connection:
            for (server,) in servers:
                if _gone(server):
                    connection.execute(_INTERRUPTED, (server,))

    def _prune(self, connection: sqlite3.Connection) -> None:
        if self._days:
            with connection:
                connection.execute("DELETE FROM requests WHERE began < ?", (time.time() - self._days * 86_400,))

    def _failed(self, error: Exception) -> None:
        self._trouble = True
        self._well_since = math.inf
        if not self._told:
            self._told = True
            log.warning("usage cannot be written to %s (%s); up to %d entries are kept meanwhile",
                        self.path, error, MOST_PENDING)  # fmt: skip
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


def check_version(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError for the file of a later version."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise sqlite3.DatabaseError("the file was made by a newer version of this program")


# Reading.


class UsageSums(Struct, frozen=True, kw_only=True):
    """Sums over requests. Tokens as OpenAI counts them: `prompt_tokens` is all input, cached or not.

    `list_price_usd`: what the CLI says that answers would have cost. `without_price`: for how many requests it has not
    said; those are not in the sum. `savings_usd`: the part that a subscription paid for.
    """

    requests: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    interrupted: int = 0
    running: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    list_price_usd: float = 0.0
    savings_usd: float = 0.0
    without_price: int = 0


class UsageGroup(UsageSums, frozen=True, kw_only=True):
    """The sums of one model, key or day. `name` null: no model answered, or no key was needed."""

    name: str | None


class Summary(Struct, frozen=True):
    totals: UsageSums
    by_model: tuple[UsageGroup, ...]
    by_key: tuple[UsageGroup, ...]
    by_day: tuple[UsageGroup, ...]


class UsageRow(Struct, frozen=True, kw_only=True):
    """One request. Times in seconds; `began` since 1970.

    `list_price_usd` null: unknown. `priced_with`: the request whose price contains this one's, too.
    """

    id: str
    began: float
    key: str | None
    endpoint: str
    model_asked: str | None
    model: str | None
    served: str | None
    outcome: str
    status: int | None
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    list_price_usd: float | None
    priced_with: str | None
    duration: float | None
    first_delta: float | None


_ALL: Final = """
count(*) AS requests, total(outcome = 'ok') AS succeeded, total(outcome = 'cancelled') AS cancelled,
total(outcome = 'interrupted') AS interrupted, total(outcome = 'running') AS running,
total(outcome NOT IN ('ok', 'cancelled', 'interrupted', 'running')) AS failed,
total(input + cache_read + cache_write) AS prompt_tokens, total(cache_read) AS cached_tokens,
total(cache_write) AS cache_write_tokens, total(output) AS completion_tokens, total(reasoning) AS reasoning_tokens,
round(total(cost), 6) AS list_price_usd,
round(total(CASE login WHEN 'subscription' THEN cost END), 6) AS savings_usd,
total(unpaid > 0) AS without_price
"""
_GROUPS: Final = {
    "by_model": ("nullif(model, '')", "requests DESC, name"),
    "by_key": ("nullif(key, '')", "requests DESC, name"),
    "by_day": ("date(began, 'unixepoch', 'localtime')", "name"),
}
_ROW: Final = """
SELECT id, began, nullif(key, '') AS key, endpoint, nullif(asked, '') AS model_asked, nullif(model, '') AS model,
nullif(served, '') AS served, outcome, nullif(status, 0) AS status,
input + cache_read + cache_write AS prompt_tokens, cache_read AS cached_tokens, cache_write AS cache_write_tokens,
output AS completion_tokens, reasoning AS reasoning_tokens,
CASE WHEN unpaid = 0 AND paid_in = '' AND outcome != 'running' THEN cost END AS list_price_usd,
nullif(paid_in, '') AS priced_with, duration, first_delta
FROM requests ORDER BY began DESC, id LIMIT ?
"""


class Reader:
    """A file of usage, for reading; one that does not exist is empty. Raises sqlite3.Error. Close it (`with`)."""

    def __init__(self, path: Path) -> None:
        self._connection: sqlite3.Connection | None = None
        if path.exists():
            uri = f"file:{quote(str(path.absolute()))}?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, timeout=BUSY)
            self._connection.row_factory = sqlite3.Row

    def __enter__(self) -> Reader:
        if self._connection is not None:
            check_version(self._connection)
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def _rows(self, sql: str, values: Iterable[object] = ()) -> list[dict[str, Any]]:
        if self._connection is None or not self._connection.execute("PRAGMA user_version").fetchone()[0]:
            return []
        return [dict(row) for row in self._connection.execute(sql, tuple(values))]

    def summary(self, since: float | None, until: float | None) -> Summary:
        """The sums over the requests that began in the period; `until` is not in it."""
        where = "FROM requests WHERE began >= ? AND began < ?"
        values = (0.0 if since is None else since, math.inf if until is None else until)
        [totals] = self._rows(f"SELECT {_ALL} {where}", values) or [{}]
        groups = {
            field: tuple(
                msgspec.convert(row, UsageGroup, strict=False)
                for row in self._rows(f"SELECT {name} AS name, {_ALL} {where} GROUP BY 1 ORDER BY {order}", values)
            )
            for field, (name, order) in _GROUPS.items()
        }
        return Summary(msgspec.convert(totals, UsageSums, strict=False), **groups)

    def recent(self, limit: int) -> tuple[UsageRow, ...]:
        """The latest requests, newest first."""
        return tuple(msgspec.convert(row, UsageRow) for row in self._rows(_ROW, (limit,)))

    def allowance(self) -> Allowance:
        """The plan's state as last reported."""
        rows = self._rows("SELECT value FROM allowance")
        return msgspec.json.decode(rows[0]["value"], type=Allowance) if rows else Allowance()
