"""The tables of the usage file, as the list of migrations that make them.

`requests`: a row for each request. `daily`: their sums by day, model, key, API and how they were served, kept by
triggers, so that sums and rows can never differ, whoever changes a row. `days`: when the first and the last request of
a day began, or earlier and later. `five_hours`: the first and the last report of a five-hour window. `allowance`: the
plan's state as last reported.
"""

from __future__ import annotations

import sqlite3
from typing import Final

# Seconds to wait for another program that has the file locked.
BUSY: Final = 1.0
# The highest count in a row. No answer has so many tokens, and the sum over eight million such rows is still exact.
MAX_COUNT: Final = 2**40
# The highest price of a row, USD.
MAX_COST: Final = 1e6
# What `daily` is grouped by.
GROUPING: Final = "day, model, key, api, served, not_continued"
# What is summed. Prices are whole billionths of a dollar: their sums do not depend on the order of adding.
SUMMED: Final = (
    "requests", "succeeded", "failed", "cancelled", "interrupted", "running", "input", "cache_read", "cache_write",
    "output", "reasoning", "web_searches", "cost_nano", "saved_nano", "unpriced",
)  # fmt: skip

_FIRST: Final = (
    """
CREATE TABLE IF NOT EXISTS requests (
    id TEXT PRIMARY KEY, began REAL NOT NULL, key TEXT NOT NULL, endpoint TEXT NOT NULL, login TEXT NOT NULL,
    server TEXT NOT NULL, asked TEXT NOT NULL DEFAULT '', model TEXT NOT NULL DEFAULT '',
    served TEXT NOT NULL DEFAULT '', outcome TEXT NOT NULL, status INTEGER NOT NULL DEFAULT 0,
    input INTEGER NOT NULL DEFAULT 0, cache_read INTEGER NOT NULL DEFAULT 0, cache_write INTEGER NOT NULL DEFAULT 0,
    output INTEGER NOT NULL DEFAULT 0, reasoning INTEGER NOT NULL DEFAULT 0,
    cost REAL NOT NULL DEFAULT 0, unpaid INTEGER NOT NULL DEFAULT 0, paid_in TEXT NOT NULL DEFAULT '',
    duration REAL, first_delta REAL
) WITHOUT ROWID
""",
    "CREATE INDEX IF NOT EXISTS requests_began ON requests (began)",
    "CREATE INDEX IF NOT EXISTS requests_running ON requests (server) WHERE outcome = 'running'",
    "CREATE TABLE IF NOT EXISTS allowance (one INTEGER PRIMARY KEY CHECK (one = 1), value TEXT NOT NULL)",
)


def _count(name: str) -> str:
    return f"{name} = max(0, min({name}, {MAX_COUNT}))"


def _daily(row: str, sign: str) -> tuple[str, ...]:
    """A trigger's statements: add a row (OLD or NEW) to its day, or take it away."""
    values = ", ".join(f"{sign}{name}" for name in SUMMED)
    added = ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMMED)
    sums = f"""
INSERT INTO daily ({GROUPING}, {", ".join(SUMMED)}) SELECT {GROUPING}, {values} FROM request_sums WHERE id = {row}.id
ON CONFLICT ({GROUPING}) DO UPDATE SET {added};"""
    if sign:
        same = " AND ".join(f"{name} = {row}.{name}" for name in GROUPING.split(", "))
        return (
            sums,
            f"DELETE FROM daily WHERE {same} AND requests = 0;",
            f"DELETE FROM days WHERE day = {row}.day AND NOT EXISTS (SELECT 1 FROM daily WHERE day = {row}.day);",
        )
    return (
        sums,
        f"""
INSERT INTO days (day, first, last) VALUES ({row}.day, {row}.began, {row}.began)
ON CONFLICT (day) DO UPDATE SET first = min(first, excluded.first), last = max(last, excluded.last);""",
    )


def _trigger(name: str, when: str, *statements: str) -> str:
    return f"CREATE TRIGGER {name} {when} ON requests BEGIN {''.join(statements)} END"


_DAILY: Final = (
    "ALTER TABLE requests ADD COLUMN day TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE requests ADD COLUMN api TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE requests ADD COLUMN not_continued TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE requests ADD COLUMN web_searches INTEGER NOT NULL DEFAULT 0",
    f"""
UPDATE requests SET day = coalesce(date(began, 'unixepoch', 'localtime'), ''),
    api = CASE endpoint WHEN '/v1/chat/completions' THEN 'openai-chat'
        WHEN '/v1/completions' THEN 'openai-completions' ELSE '' END,
    cost = CASE WHEN cost BETWEEN 0 AND {MAX_COST} THEN cost ELSE 0 END,
    {", ".join(_count(name) for name in ("input", "cache_read", "cache_write", "output", "reasoning"))}
""",
    """
CREATE VIEW request_sums AS SELECT
    id, began, day, model, key, api, served, not_continued,
    1 AS requests, outcome = 'ok' AS succeeded,
    outcome NOT IN ('ok', 'cancelled', 'interrupted', 'running') AS failed, outcome = 'cancelled' AS cancelled,
    outcome = 'interrupted' AS interrupted, outcome = 'running' AS running, input, cache_read, cache_write, output,
    reasoning, web_searches, CAST(round(cost * 1e9) AS INTEGER) AS cost_nano,
    CASE login WHEN 'subscription' THEN CAST(round(cost * 1e9) AS INTEGER) ELSE 0 END AS saved_nano,
    unpaid > 0 AS unpriced
FROM requests
""",
    f"""
CREATE TABLE daily (
    {", ".join(f"{name} TEXT NOT NULL" for name in GROUPING.split(", "))},
    {", ".join(f"{name} INTEGER NOT NULL" for name in SUMMED)}, PRIMARY KEY ({GROUPING})
) WITHOUT ROWID
""",
    "CREATE TABLE days (day TEXT PRIMARY KEY, first REAL NOT NULL, last REAL NOT NULL) WITHOUT ROWID",
    f"""
INSERT INTO daily ({GROUPING}, {", ".join(SUMMED)})
SELECT {GROUPING}, {", ".join(f"sum({name})" for name in SUMMED)} FROM request_sums GROUP BY {GROUPING}
""",
    "INSERT INTO days SELECT day, min(began), max(began) FROM requests GROUP BY day",
    _trigger("requests_inserted", "AFTER INSERT", *_daily("NEW", "")),
    _trigger("requests_changing", "BEFORE UPDATE", *_daily("OLD", "-")),
    _trigger("requests_changed", "AFTER UPDATE", *_daily("NEW", "")),
    _trigger("requests_removing", "BEFORE DELETE", *_daily("OLD", "-")),
    """
CREATE TABLE five_hours (
    resets INTEGER PRIMARY KEY, first_at REAL NOT NULL, first_used REAL NOT NULL, last_at REAL NOT NULL,
    last_used REAL NOT NULL, rises INTEGER NOT NULL
)
""",
)
# By what a request was answered when the plan was used up.
_FALLBACK: Final = ("ALTER TABLE requests ADD COLUMN fallback TEXT NOT NULL DEFAULT ''",)
# Each makes of a file of the version before it one of the next; what has been released is never changed.
# What a request put to the model, in tokens, where the CLI has not said it.
_ESTIMATED: Final = ("ALTER TABLE requests ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0",)
# Requests whose price has not been said, of each key; and those that were answered by a fallback.
_UNPAID: Final = ("CREATE INDEX requests_unpaid ON requests (key, began) WHERE unpaid > 0",)
_FALLEN_BACK: Final = ("CREATE INDEX requests_fallback ON requests (began) WHERE fallback != ''",)
MIGRATIONS: Final = (_FIRST, _DAILY, _FALLBACK, _ESTIMATED, _UNPAID, _FALLEN_BACK)
VERSION: Final = len(MIGRATIONS)


def version_of(connection: sqlite3.Connection) -> int:
    """The file's version; 0: nothing has been made in it yet. Raises sqlite3.DatabaseError for that of a later one."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise sqlite3.DatabaseError("the file was made by a newer version of this program")
    return version


def migrate(connection: sqlite3.Connection) -> None:
    """Make of the file one of this version, whole or not at all. Raises sqlite3.Error."""
    if version_of(connection) == VERSION:
        return
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        # Another program may have been first.
        for statements in MIGRATIONS[version_of(connection) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
