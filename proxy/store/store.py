"""Entries and their items, each of one owner, within bounds of number, bytes and age.

An owner's entries are invisible to every other. When there is too much, the owner with the most loses what has not been
used for the longest time. An entry that another goes on from counts as used with it: so what belongs together goes
together.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Raw, Struct

from proxy.store.schema import OVERHEAD, connect

Kind = Literal["response", "conversation"]
# What it is of a response, for whoever kept it.
Part = Literal["input", "output", "sealed", "hidden"]
# All entries that one goes on from, and itself.
_CHAIN: Final = """
WITH RECURSIVE chain (number, previous, depth) AS (
    SELECT number, previous, 0 FROM entries WHERE id = :id AND owner = :owner AND kind = 'response' AND used >= :since
    UNION ALL
    SELECT entries.number, entries.previous, depth + 1 FROM chain JOIN entries ON entries.id = chain.previous
    WHERE entries.owner = :owner AND entries.kind = 'response' AND entries.used >= :since
)
"""
DAY: Final = 86_400
DAYS_ASIDE: Final = 2
_TOP: Final = "SELECT owner FROM owners ORDER BY {} DESC LIMIT 1"


class Limits(Struct, frozen=True):
    """Of a store: entries and bytes at most, and seconds since an entry's last use."""

    entries: int
    bytes: int
    age: float


class Item(Struct, frozen=True):
    """One item. `data`: its JSON, with its id in it."""

    id: str
    data: Raw
    part: Part = "input"


class Missing(Exception):
    """An entry is not there; `id` names it."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id


class TooLarge(Exception):
    """What is asked for has more bytes than whoever asks can take, or an entry more than all that is kept can have."""


class Store:
    """See the module. Any thread may call it. All raise sqlite3.Error when the file cannot be read or written.

    `path` None: in memory. `clock`: seconds since 1970. `most`: bytes of one entry, with its items.
    """

    def __init__(self, path: Path | None, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.most = limits.bytes
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._writer = connect(path)
        if path is None:
            # Nobody has to close what is gone with the store.
            weakref.finalize(self, self._writer.close)
        # Whoever reads does not wait for the disk, on which a file's writer may have to.
        self._reading = threading.Lock() if path else self._lock
        self._reader = connect(path) if path else self._writer
        with self._writing() as run:
            self._expire(run)

    def close(self) -> None:
        """Write what is left, and let go of the file."""
        with self._lock:
            self._writer.close()
        if self._reader is not self._writer:
            with self._reading:
                self._reader.close()

    # Reading

    def get(self, owner: str, kind: Kind, id: str) -> Raw:
        """The entry's body. Raises Missing."""
        rows = self._read(
            "SELECT body FROM entries WHERE id = ? AND owner = ? AND kind = ? AND used >= ?",
            (id, owner, kind, self._since),
        )
        if not rows:
            raise Missing(id)
        return Raw(rows[0][0])

    def items(self, owner: str, kind: Kind, id: str, most: float = math.inf) -> list[Item]:
        """The entry's items, in order. Raises Missing, and TooLarge for more than `most` bytes."""
        self.get(owner, kind, id)
        rows = self._read(
            "SELECT item, items.id, part FROM items JOIN entries ON items.entry = entries.number "
            "WHERE entries.id = ? AND entries.owner = ? ORDER BY position",
            (id, owner),
            most,
        )
        return [Item(row[1], Raw(row[0]), row[2]) for row in rows]

    def chain(self, owner: str, id: str, most: float = math.inf) -> list[Raw]:
        """The items of a response and of all that it goes on from, in order.

        Raises Missing for any of these, and TooLarge for more than `most` bytes.
        """
        arguments = {"id": id, "owner": owner, "since": self._since}
        rows = self._read(f"{_CHAIN} SELECT previous FROM chain ORDER BY depth DESC LIMIT 1", arguments)
        if not rows:
            raise Missing(id)
        if rows[0][0]:
            raise Missing(rows[0][0])
        found = self._read(
            f"{_CHAIN} SELECT item FROM chain JOIN items ON items.entry = chain.number ORDER BY depth DESC, position",
            arguments,
            most,
        )
        return [Raw(row[0]) for row in found]

    def page(
        self,
        owner: str,
        kind: Kind,
        id: str,
        parts: Sequence[Part],
        limit: int,
        *,
        newest_first: bool = False,
        after: str | None = None,
        most: float = math.inf,
    ) -> tuple[list[Item], bool]:
        """At most `limit` of the entry's items of these parts, in order or from the last to the first, and whether
        there are more. `after`: the item behind which they begin; `most`: bytes of all, but of one at the least. Raises
        Missing, and KeyError for that item."""
        self.get(owner, kind, id)
        of_parts = f"entries.id = ? AND owner = ? AND part IN ({', '.join('?' * len(parts))})"
        way, edge = ("<", "max") if newest_first else (">", "min")
        place: int | None = None
        if after is not None:
            place = self._read(
                f"SELECT {edge}(position) FROM items JOIN entries ON items.entry = entries.number "
                f"WHERE {of_parts} AND items.id = ?",
                (id, owner, *parts, after),
            )[0][0]
            if place is None:
                raise KeyError(after)
        statement = (
            "SELECT item, items.id, part FROM items JOIN entries ON items.entry = entries.number "
            f"WHERE {of_parts} AND (? IS NULL OR position {way} ?) "
            f"ORDER BY position {'DESC' if newest_first else 'ASC'} LIMIT ?"
        )
        found: list[Item] = []
        with self._reading, contextlib.closing(self._reader.cursor()) as rows:
            for item, item_id, part in rows.execute(statement, (id, owner, *parts, place, place, limit + 1)):
                most -= len(item)
                if len(found) == limit or (found and most < 0):
                    return found, True
                found.append(Item(item_id, Raw(item), part))
        return found, False

    def item_of(self, owner: str, kind: Kind, id: str, item: str) -> Item:
        """The first item of that id in the entry. Raises Missing for either."""
        self.get(owner, kind, id)
        rows = self._read(
            "SELECT item, part FROM items JOIN entries ON items.entry = entries.number "
            "WHERE entries.id = ? AND owner = ? AND items.id = ? ORDER BY position LIMIT 1",
            (id, owner, item),
        )
        if not rows:
            raise Missing(item)
        return Item(item, Raw(rows[0][0]), rows[0][1])

    def item(self, owner: str, id: str) -> Raw | None:
        """The latest item of that id, in whatever entry of the owner's."""
        rows = self._read(
            "SELECT item FROM items JOIN entries ON items.entry = entries.number "
            "WHERE items.id = ? AND owner = ? AND used >= ? ORDER BY items.number DESC LIMIT 1",
            (id, owner, self._since),
        )
        return Raw(rows[0][0]) if rows else None

    def _read(self, statement: str, arguments: Any, most: float = math.inf) -> list[Any]:
        """The rows; of the first column at most so many bytes in all."""
        with self._reading:
            rows = self._reader.execute(statement, arguments)
            if most == math.inf:
                return rows.fetchall()
            found = []
            for row in rows:
                most -= len(row[0])
                if most < 0:
                    rows.close()
                    raise TooLarge
                found.append(row)
            return found

    # Writing

    def add(self, owner: str, kind: Kind, id: str, body: bytes, items: Sequence[Item], previous: str = "") -> None:
        """Keep a new entry. `previous`: the response that it goes on from. Raises TooLarge."""
        size = self._bounded(len(body) + OVERHEAD + _size(items))
        now = self._clock()
        with self._writing() as run:
            run(
                "INSERT INTO entries (id, owner, kind, previous, body, used, size) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (id, owner, kind, previous, body, now, size),
            )
            self._insert(run, run("SELECT last_insert_rowid()").fetchone()[0], items)
            if previous:
                arguments = {"id": previous, "owner": owner, "since": self._since, "now": now}
                run(f"{_CHAIN} UPDATE entries SET used = :now WHERE number IN (SELECT number FROM chain)", arguments)
            self._expire(run)
            self._shrink(run)

    def append(self, owner: str, id: str, items: Sequence[Item]) -> None:
        """More items of a conversation. Raises Missing, TooLarge."""
        with self._writing() as run:
            found = run(
                "SELECT number, size FROM entries WHERE id = ? AND owner = ? AND kind = 'conversation' AND used >= ?",
                (id, owner, self._since),
            ).fetchone()
            if found is None:
                raise Missing(id)
            number, size = found
            size = self._bounded(size + _size(items))
            self._insert(run, number, items)
            run("UPDATE entries SET size = ?, used = ? WHERE number = ?", (size, self._clock(), number))
            self._shrink(run)

    def update(self, owner: str, kind: Kind, id: str, body: bytes) -> None:
        """Another body. Raises Missing, TooLarge."""
        with self._writing() as run:
            found = run(
                "SELECT number, size - length(body) FROM entries WHERE id = ? AND owner = ? AND kind = ? AND used >= ?",
                (id, owner, kind, self._since),
            ).fetchone()
            if found is None:
                raise Missing(id)
            number, rest = found
            size = self._bounded(rest + len(body))
            run("UPDATE entries SET size = ?, body = ?, used = ? WHERE number = ?", (size, body, self._clock(), number))
            self._shrink(run)

    def remove(self, owner: str, kind: Kind, id: str) -> None:
        """Forget an entry with its items: nothing of it stays on disk. Raises Missing."""
        with self._writing() as run:
            gone = run("DELETE FROM entries WHERE id = ? AND owner = ? AND kind = ?", (id, owner, kind))
            if not gone.rowcount:
                raise Missing(id)
        self._empty_journal()

    def remove_item(self, owner: str, id: str, item: str) -> None:
        """Forget one item of a conversation. Raises Missing for either."""
        with self._writing() as run:
            found = run(
                "SELECT entries.number, items.number, length(item) FROM entries JOIN items ON entry = entries.number "
                "WHERE entries.id = ? AND owner = ? AND kind = 'conversation' AND items.id = ?",
                (id, owner, item),
            ).fetchone()
            if found is None:
                raise Missing(item)
            entry, number, length = found
            run("DELETE FROM items WHERE number = ?", (number,))
            run("UPDATE entries SET size = size - ? WHERE number = ?", (length + OVERHEAD, entry))
        self._empty_journal()

    def _bounded(self, size: int) -> int:
        """An entry's bytes. Raises TooLarge: what could never be kept is not to cost what is."""
        if size > self._limits.bytes:
            raise TooLarge
        return size

    @property
    def _since(self) -> float:
        """The use before which an entry counts as gone."""
        return self._clock() - self._limits.age

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """All of it, or nothing."""
        with self._lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer.execute
                self._writer.execute("COMMIT")
            except BaseException:
                # A disk that is full has ended it already.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _empty_journal(self) -> None:
        """Nothing of what has been removed stays in the file beside the store's either."""
        if self.path is not None:
            with self._lock:
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _insert(self, run: Callable[..., sqlite3.Cursor], number: int, items: Sequence[Item]) -> None:
        last = run("SELECT max(position) FROM items WHERE entry = ?", (number,)).fetchone()[0]
        for position, item in enumerate(items, 0 if last is None else last + 1):
            run(
                "INSERT INTO items (entry, position, id, part, item) VALUES (?, ?, ?, ?, ?)",
                (number, position, item.id, item.part, bytes(item.data)),
            )

    def _expire(self, run: Callable[..., sqlite3.Cursor]) -> None:
        """Remove what is too old: by the clock, and by the days on which there has been any use, the newest left aside.
        A clock that is wrong for a day or two hides entries, and removes none."""
        newest, before = 0.0, math.inf
        for _ in range(DAYS_ASIDE + 1):
            newest = run("SELECT max(used) FROM entries WHERE used < ?", (before,)).fetchone()[0]
            if newest is None:
                return
            before = newest // DAY * DAY
        run("DELETE FROM entries WHERE used < ?", (min(newest - self._limits.age, self._since),))

    def _shrink(self, run: Callable[..., sqlite3.Cursor]) -> None:
        """Remove what is too much."""
        while True:
            entries, size = run("SELECT coalesce(sum(entries), 0), coalesce(sum(bytes), 0) FROM owners").fetchone()
            if entries <= self._limits.entries and size <= self._limits.bytes:
                return
            owner = run(_TOP.format("bytes" if size > self._limits.bytes else "entries")).fetchone()[0]
            run(
                "DELETE FROM entries WHERE number = "
                "(SELECT number FROM entries WHERE owner = ? ORDER BY used, number LIMIT 1)",
                (owner,),
            )


def _size(items: Sequence[Item]) -> int:
    return sum(len(bytes(item.data)) + OVERHEAD for item in items)
