"""The tables of what is kept, and how a file with tables is opened.

`entries`: responses and conversations; `previous` is the response that one goes on from. `items`: of an entry, in their
order. `owners`: how much each has, kept by triggers, so that sums and rows can never differ.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from proxy import files

# Seconds to wait for another program that has the file locked.
BUSY: Final = 1.0
VERSION: Final = 1
# SQLite's largest: items of a kilobyte or more leave up to a third of smaller pages empty.
PAGE_IN_MEMORY: Final = 65_536
# Bytes of an entry or item beside its text: its row, and its lines in the indexes.
OVERHEAD: Final = 200

TABLES: Final = (
    """
CREATE TABLE entries (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, kind TEXT NOT NULL,
    previous TEXT NOT NULL, body BLOB NOT NULL, used REAL NOT NULL, size INTEGER NOT NULL
)
""",
    "CREATE INDEX entries_used ON entries (used)",
    "CREATE INDEX entries_of_owner ON entries (owner, used)",
    """
CREATE TABLE items (
    number INTEGER PRIMARY KEY, entry INTEGER NOT NULL, position INTEGER NOT NULL, id TEXT NOT NULL,
    part TEXT NOT NULL, item BLOB NOT NULL
)
""",
    "CREATE UNIQUE INDEX items_of_entry ON items (entry, position)",
    "CREATE INDEX items_id ON items (id)",
    "CREATE TABLE owners (owner TEXT PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID",
    """
CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN
    INSERT INTO owners VALUES (NEW.owner, 1, NEW.size) ON CONFLICT (owner)
        DO UPDATE SET entries = entries + 1, bytes = bytes + excluded.bytes;
END
""",
    """
CREATE TRIGGER entry_resized AFTER UPDATE OF size ON entries BEGIN
    UPDATE owners SET bytes = bytes + NEW.size - OLD.size WHERE owner = NEW.owner;
END
""",
    """
CREATE TRIGGER entry_removed AFTER DELETE ON entries BEGIN
    DELETE FROM items WHERE entry = OLD.number;
    UPDATE owners SET entries = entries - 1, bytes = bytes - OLD.size WHERE owner = OLD.owner;
    DELETE FROM owners WHERE owner = OLD.owner AND entries = 0;
END
""",
)


def connect(path: Path | None, tables: Sequence[str] = TABLES) -> sqlite3.Connection:
    """The file at `path`, for this user alone; None: in memory. Raises sqlite3.Error, OSError.

    What is removed is overwritten in the file.
    """
    if path is None:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA page_size = {PAGE_IN_MEMORY}")
    else:
        path.touch(0o600)
        # SQLite gives the files beside it its mode, unless they are there.
        for ending in ("", "-wal", "-shm"):
            files.make_private(path.with_name(path.name + ending))
        connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA secure_delete = ON")
    try:
        _make(connection, tables)
    except BaseException:
        connection.close()
        raise
    return connection


def _make(connection: sqlite3.Connection, tables: Sequence[str]) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise sqlite3.DatabaseError("the file was made by a newer version of this program")
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another program may have been first.
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            for statement in tables:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
