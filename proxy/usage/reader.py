"""Reading the usage file: sums over periods, the latest requests, the plan's state.

A reader opens the file for itself, so that the terminal needs no server.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Struct

from proxy.protocol.allowance import Allowance
from proxy.usage.schema import BUSY, check_version


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
