"""Reading the usage file: sums over periods, the latest requests, the plan's state.

A reader opens the file for itself, so that the terminal needs no server. It may be told to stop by another thread.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Struct

from proxy.protocol.allowance import Allowance
from proxy.usage.estimate import WindowEstimate, estimate
from proxy.usage.schema import BUSY, GROUPING, SUMMED, VERSION, migrate, version_of

# Steps of SQLite's machine between two looks at whether to go on, well under a millisecond; pages of a copy, likewise.
STEPS: Final = 20_000
PAGES: Final = 200


class UsageSums(Struct, frozen=True, kw_only=True):
    """Sums over requests. Tokens as OpenAI counts them: `prompt_tokens` is all input, cached or not.

    `cached_share`: the part of the prompt tokens that was read from the prompt cache, 1 is all; null: there are none.
    `served`: how many requests were put into a `new` process, `continued` in a living one, or `replayed` into another.
    `not_continued`: how many were not continued for which reason. `list_price_usd`: what the CLI says that answers
    would have cost. `without_price`: for how many requests it has not said; those are not in the sum. `savings_usd`:
    the part that a subscription paid for.
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
    cached_share: float | None = None
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    web_searches: int = 0
    served: dict[str, int] = {}
    not_continued: dict[str, int] = {}
    list_price_usd: float = 0.0
    savings_usd: float = 0.0
    without_price: int = 0


class UsageGroup(UsageSums, frozen=True, kw_only=True):
    """The sums of one model, key, API or day. `name` null: no model answered, no key was needed, or it is not known."""

    name: str | None


class Summary(Struct, frozen=True):
    totals: UsageSums
    by_model: tuple[UsageGroup, ...]
    by_key: tuple[UsageGroup, ...]
    by_api: tuple[UsageGroup, ...]
    by_day: tuple[UsageGroup, ...]


class UsageRow(Struct, frozen=True, kw_only=True):
    """One request. Times in seconds; `began` since 1970.

    `not_continued`: why it was not continued in its conversation's living process: `expired` (by age), `evicted` (its
    memory was needed), `continued` (by another request: a fork), `ended` (its process), `unfit` (what follows cannot be
    put to a living process, or would lose the prompt cache there), `settings` (it was here with other settings),
    `edited` (a beginning of it was here, or its last answer), `unknown` (never here, or before a restart).
    `fallback`: by what it was answered when the plan was used up.
    `list_price_usd` null: unknown. `priced_with`: the request whose price contains this one's, too.
    """

    id: str
    began: float
    key: str | None
    endpoint: str
    api: str | None
    model_asked: str | None
    model: str | None
    served: str | None
    not_continued: str | None
    outcome: str
    status: int | None
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    web_searches: int
    list_price_usd: float | None
    priced_with: str | None
    duration: float | None
    first_delta: float | None
    fallback: str | None = None


# Days that lie in the period as a whole are read from their sums, the others row by row. Which day a row belongs to was
# decided when it was written: the zone of this computer may have changed since.
_WHOLE: Final = "first >= :since AND last < :until"
_PERIOD: Final = f"""
CREATE TEMP TABLE period AS
SELECT {GROUPING}, {", ".join(f"total({name}) AS {name}" for name in SUMMED)} FROM (
    SELECT {GROUPING}, {", ".join(SUMMED)} FROM days JOIN daily USING (day) WHERE {_WHOLE}
    UNION ALL
    SELECT {", ".join(f"sums.{name}" for name in GROUPING.split(", "))}, {", ".join(SUMMED)}
    FROM days CROSS JOIN request_sums AS sums
        ON sums.began BETWEEN max(days.first, :since) AND min(days.last, :until) AND sums.day = days.day
    WHERE NOT ({_WHOLE}) AND sums.began < :until
) GROUP BY {GROUPING}
"""
_GROUPS: Final = {"by_model": "model", "by_key": "key", "by_api": "api", "by_day": "day"}
_ROW: Final = """
SELECT id, began, nullif(key, '') AS key, endpoint, nullif(api, '') AS api, nullif(asked, '') AS model_asked,
nullif(model, '') AS model, nullif(served, '') AS served, nullif(not_continued, '') AS not_continued, outcome,
nullif(status, 0) AS status, input + cache_read + cache_write AS prompt_tokens, cache_read AS cached_tokens,
cache_write AS cache_write_tokens, output AS completion_tokens, reasoning AS reasoning_tokens, web_searches,
CASE WHEN unpaid = 0 AND paid_in = '' AND outcome != 'running' THEN cost END AS list_price_usd,
nullif(paid_in, '') AS priced_with, duration, first_delta, nullif(fallback, '') AS fallback
FROM requests ORDER BY began DESC, id LIMIT ?
"""
_TOKENS: Final = "(input + cache_read + cache_write + output)"
# They have ended and cost something that has not been said. A failure has cost something where the model had begun.
_UNANSWERED: Final = f"(unpaid > 0 AND (outcome IN ('ok', 'cancelled', 'interrupted') OR {_TOKENS} > 0))"
_USED: Final = f"""
SELECT total({_TOKENS}) AS tokens, total(cost_nano) / 1e9 AS usd,
    EXISTS (SELECT 1 FROM requests WHERE key = :key AND began >= :since AND {_UNANSWERED}) AS unanswered
FROM temp.period WHERE key = :key
"""
# What a request comes to, by so many of the latest for which it is known, the key's own or else anybody's; so many are
# looked at.
_LATEST: Final = 100
_LATELY: Final = "SELECT * FROM requests ORDER BY began DESC LIMIT 5000"
_PRICED: Final = "unpaid = 0 AND cost > 0"
_COUNTED: Final = f"{_TOKENS} > 0"
# Where it is known of none: about what the smallest takes, and what a token costs.
_LEAST_USD: Final = 0.05
_LEAST_TOKENS: Final = 5000
_USD_PER_TOKEN: Final = 0.00001
# What those requests come to, each at least the usual one: by what was put to the model, and by what a token of the
# same model has cost the key lately, or anybody, or one of the dearest model.
_RATE: Final = f"sum(cost) / sum({_TOKENS}) AS rate"
_COME_TO: Final = f"""
WITH lately AS MATERIALIZED (SELECT * FROM ({_LATELY}) WHERE {_PRICED} AND {_COUNTED}),
own AS (SELECT asked, {_RATE} FROM lately WHERE key = :key GROUP BY asked),
rates AS (SELECT asked, {_RATE} FROM lately GROUP BY asked),
dearest AS (SELECT coalesce(max(rate), {_USD_PER_TOKEN}) AS rate FROM rates),
unanswered AS (
    SELECT asked, estimated, {_TOKENS} AS said, {_TOKENS} + estimated AS least FROM requests
    WHERE key = :key AND began >= :since AND {_UNANSWERED}
)
SELECT total(CASE said WHEN 0 THEN max(:tokens, least) ELSE estimated END) AS tokens,
    total(max(:usd, least * coalesce(own.rate, rates.rate, dearest.rate))) AS usd
FROM dearest CROSS JOIN unanswered LEFT JOIN own USING (asked) LEFT JOIN rates USING (asked)
"""


def _sums(rows: Sequence[sqlite3.Row]) -> dict[str, Any]:
    """The fields of `UsageSums` from rows of one group, each for one way of having been served."""
    total = {name: sum(row[name] for row in rows) for name in SUMMED}
    count = {name: int(value) for name, value in total.items()}
    prompt = count["input"] + count["cache_read"] + count["cache_write"]
    ways: dict[str, dict[str, int]] = {"served": {}, "not_continued": {}}
    for field, found in ways.items():
        for row in rows:
            if row[field]:
                found[row[field]] = found.get(row[field], 0) + int(row["requests"])
    return {
        **{name: count[name] for name in SUMMED[: SUMMED.index("input")]},
        "prompt_tokens": prompt,
        "cached_tokens": count["cache_read"],
        "cache_write_tokens": count["cache_write"],
        "cached_share": round(count["cache_read"] / prompt, 4) if prompt else None,
        "completion_tokens": count["output"],
        "reasoning_tokens": count["reasoning"],
        "web_searches": count["web_searches"],
        **ways,
        "list_price_usd": round(total["cost_nano"] / 1e9, 6),
        "savings_usd": round(total["saved_nano"] / 1e9, 6),
        "without_price": count["unpriced"],
    }


class FallbackCost(Struct, frozen=True):
    """In dollars: of all, and of the dearest. `unknown`: requests whose cost the CLI has not said (yet)."""

    usd: float = 0.0
    dearest: float = 0.0
    unknown: int = 0


class Reader:
    """A file of usage, for reading; one that does not exist is empty. Raises sqlite3.Error. `with` opens and closes it.

    `stop` may come from another thread, at any time: what is read ends with sqlite3.OperationalError ("interrupted").
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stopped = False
        self._connection: sqlite3.Connection | None = None

    def stop(self) -> None:
        self._stopped = True

    def __enter__(self) -> Reader:
        if self._path.exists():
            uri = f"file:{quote(str(self._path.absolute()))}?mode=ro"
            connection = sqlite3.connect(uri, uri=True, timeout=BUSY)
            try:
                self._connection = self._prepared(connection)
            finally:
                if self._connection is not connection:
                    connection.close()
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def _prepared(self, connection: sqlite3.Connection) -> sqlite3.Connection | None:
        """The file, or a copy of it of this version; None: there is nothing in it yet."""
        # All that is read is of one moment.
        connection.execute("BEGIN")
        version = version_of(connection)
        if version == 0:
            return None
        if version < VERSION:
            # The server will make one of this version of it; a reader changes nothing.
            connection = self._copy(connection)
        connection.row_factory = sqlite3.Row
        connection.set_progress_handler(self._is_stopped, STEPS)
        return connection

    def _copy(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        copy = sqlite3.connect("")
        try:
            connection.backup(copy, pages=PAGES, progress=self._copied)
            copy.set_progress_handler(self._is_stopped, STEPS)
            migrate(copy)
        except BaseException:
            copy.close()
            raise
        return copy

    def _copied(self, status: int, remaining: int, total: int) -> None:
        if self._stopped:
            raise sqlite3.OperationalError("interrupted")

    def _is_stopped(self) -> bool:
        return self._stopped

    def _rows(self, sql: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[sqlite3.Row]:
        return [] if self._connection is None else self._connection.execute(sql, values).fetchall()

    def summary(self, since: float | None, until: float | None) -> Summary:
        """The sums over the requests that began in the period; `until` is not in it."""
        self._sum_up(since, until)
        groups = {field: self._groups(name) for field, name in _GROUPS.items()}
        return Summary(UsageSums(**self._totals()), **groups)

    def _sum_up(self, since: float | None, until: float | None) -> None:
        """The sums over the period, for what is read next: whole days are summed already, parts of one are read."""
        if self._connection is not None:
            bounds = {"since": 0.0 if since is None else since, "until": math.inf if until is None else until}
            self._connection.execute("DROP TABLE IF EXISTS temp.period")
            self._connection.execute(_PERIOD, bounds)

    def _totals(self) -> dict[str, Any]:
        return _sums(self._by_served("''"))

    def _groups(self, name: str) -> tuple[UsageGroup, ...]:
        """Of each name its sums, the most used first; days in their order."""
        groups: dict[str, list[sqlite3.Row]] = {}
        for row in self._by_served(name):
            groups.setdefault(row["name"], []).append(row)
        found = [UsageGroup(name=group or None, **_sums(rows)) for group, rows in sorted(groups.items())]
        return tuple(found if name == "day" else sorted(found, key=lambda group: -group.requests))

    def _by_served(self, name: str) -> list[sqlite3.Row]:
        sums = ", ".join(f"total({summed}) AS {summed}" for summed in SUMMED)
        return self._rows(f"SELECT {name} AS name, served, not_continued, {sums} FROM temp.period GROUP BY 1, 2, 3")

    def used(self, key: str, since: float) -> tuple[int, float]:
        """Tokens, input and output, and list price in dollars, of a key's requests that began from `since` on. Those
        that have ended before either was known count as the average of the key's latest, or of all keys' latest, and
        for what was put to the model if that is more."""
        self._sum_up(since, None)
        rows = self._rows(_USED, {"key": key, "since": since})
        if not rows:
            return 0, 0.0
        (used,) = rows
        tokens, usd = used["tokens"], used["usd"]
        if used["unanswered"]:
            usual = {
                "tokens": self._usual(_TOKENS, _COUNTED, key, _LEAST_TOKENS),
                "usd": self._usual("cost", _PRICED, key, _LEAST_USD),
            }
            (more,) = self._rows(_COME_TO, usual | {"key": key, "since": since})
            tokens, usd = tokens + more["tokens"], usd + more["usd"]
        return int(tokens), float(usd)

    def _usual(self, what: str, known: str, key: str, least: float) -> float:
        """The average of the latest requests for which it is known."""
        for whose in ("key = ?", "? != ''"):
            latest = f"SELECT {what} AS one FROM ({_LATELY}) WHERE {known} AND {whose} LIMIT {_LATEST}"
            average = self._rows(f"SELECT avg(one) AS average FROM ({latest})", (key,))[0]["average"]
            if average is not None:
                return float(average)
        return least

    def fallback_cost(self, since: float, lately: float) -> FallbackCost:
        """What answers by another login have cost, of requests that began from `since` on; the dearest from `lately`
        on."""
        rows = self._rows(
            "SELECT total(CASE WHEN began >= ?1 THEN cost END) AS usd, max(cost) AS dearest, "
            "total(began >= ?1 AND unpaid > 0) AS unknown "
            "FROM requests WHERE fallback != '' AND login != '' AND began >= ?2",
            (since, lately),
        )
        if not rows:
            return FallbackCost()
        return FallbackCost(float(rows[0]["usd"]), float(rows[0]["dearest"] or 0.0), int(rows[0]["unknown"]))

    def recent(self, limit: int) -> tuple[UsageRow, ...]:
        """The latest requests, newest first."""
        return tuple(msgspec.convert(dict(row), UsageRow) for row in self._rows(_ROW, (limit,)))

    def allowance(self) -> Allowance:
        """The plan's state as last reported."""
        rows = self._rows("SELECT value FROM allowance")
        return msgspec.json.decode(rows[0]["value"], type=Allowance) if rows else Allowance()

    def estimate(self) -> WindowEstimate | None:
        """What a percent of the five-hour window has been worth lately."""
        return None if self._connection is None else estimate(self._connection)
