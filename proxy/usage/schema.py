"""The tables of the usage file."""

from __future__ import annotations

import sqlite3
from typing import Final

VERSION: Final = 1
# Seconds to wait for another program that has the file locked.
BUSY: Final = 1.0
SCHEMA: Final = """
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


def check_version(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError for the file of a later version."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise sqlite3.DatabaseError("the file was made by a newer version of this program")
