"""Answers in a file, by what tells their conversations apart, within bounds of bytes and age."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from proxy.store.schema import connect

log: Final = logging.getLogger("proxy.store")
_TABLES: Final = (
    "CREATE TABLE answers (key BLOB PRIMARY KEY, used REAL NOT NULL, size INTEGER NOT NULL, answer BLOB NOT NULL)",
    "CREATE INDEX answers_used ON answers (used, size)",
)
# The least recently used, until there is room for the rest.
_SHRINK: Final = """
DELETE FROM answers WHERE key IN (
    SELECT key FROM (SELECT key, sum(size) OVER (ORDER BY used DESC, key) AS sum FROM answers) WHERE sum > ?
)
"""


class AnswersFile:
    """Any thread may call it. A file that cannot be read or written is told to the log; what was in it is not found.

    What has not been used for `max_age` seconds is not found, and is overwritten with the next `save`; when there is
    too much, so is what has not been used for the longest time. `clock`: seconds since 1970. Opening it raises
    sqlite3.Error, OSError.
    """

    def __init__(self, path: Path, max_bytes: int, max_age: float, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._clock = clock
        self._lock = threading.Lock()
        self._connection = connect(path, _TABLES)
        self.save({}, ())

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Those answers that are there."""
        found: dict[bytes, bytes] = {}
        since = self._clock() - self._max_age
        try:
            with self._lock:
                for key in keys:
                    statement = "SELECT answer FROM answers WHERE key = ? AND used >= ?"
                    if row := self._connection.execute(statement, (key, since)).fetchone():
                        found[key] = row[0]
        except sqlite3.Error as error:
            log.warning("%s: %s", self._path, error)
        return found

    def save(self, answers: Mapping[bytes, bytes], used: Sequence[bytes]) -> None:
        """Keep more answers. `used`: those that are to stay as long as these, if they are there."""
        now = self._clock()
        # Not each time: it is written to the disk.
        stale = now - self._max_age / 4
        try:
            with self._lock, self._connection:
                run = self._connection.execute
                run("BEGIN IMMEDIATE")
                for key, answer in answers.items():
                    if len(answer) > self._max_bytes:
                        continue
                    run("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (key, now, len(answer), answer))
                for key in used:
                    run("UPDATE answers SET used = ? WHERE key = ? AND used < ?", (now, key, stale))
                run("DELETE FROM answers WHERE used < ?", (now - self._max_age,))
                if (run("SELECT sum(size) FROM answers").fetchone()[0] or 0) > self._max_bytes:
                    run(_SHRINK, (self._max_bytes,))
        except sqlite3.Error as error:
            log.warning("%s: %s", self._path, error)
