"""`GET /v1/usage` and `GET /v1/usage/recent`: what has been used, from the ledger's file."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal, TypeVar

import falcon
import falcon.asgi
import msgspec
from msgspec import Struct

from proxy.http.service import Service
from proxy.ledger import Reader, UsageGroup, UsageRow, UsageSums
from proxy.protocol.allowance import WINDOWS, Allowance, current
from proxy.protocol.failures import Failure, Kind, Rejection, bad_request

log: Final = logging.getLogger("proxy.ledger")
# Seconds that a reader waits for what has just ended to be in the file.
FRESH_WAIT: Final = 1.0
DEFAULT_RECENT: Final = 50
MOST_RECENT: Final = 1000
LAST_MOMENT: Final = 1e12

T = TypeVar("T")


class PlanWindow(Struct, frozen=True):
    """`utilization`: the used share, 1 is all; null: not known. `resets_at`: seconds since 1970."""

    utilization: float | None = None
    resets_at: float | None = None
    status: str | None = None


class PlanState(Struct, frozen=True):
    """What the CLI last said of the plan's windows. `seen_at`: when, in seconds since 1970; null: not yet."""

    status: str | None
    seen_at: float | None
    windows: dict[str, PlanWindow]


class UsageReport(Struct, frozen=True, kw_only=True):
    """Sums over the requests that began from `since` on and before `until` (seconds since 1970; null: no bound)."""

    object: Literal["usage"] = "usage"
    since: float | None
    until: float | None
    totals: UsageSums
    by_model: tuple[UsageGroup, ...]
    by_key: tuple[UsageGroup, ...]
    by_day: tuple[UsageGroup, ...]
    plan: PlanState


class RecentUsage(Struct, frozen=True, kw_only=True):
    """The latest requests, newest first."""

    object: Literal["list"] = "list"
    data: tuple[UsageRow, ...]
    plan: PlanState


def plan_state(allowance: Allowance, now: float) -> PlanState:
    allowance = current(allowance, now)
    known = {
        name: PlanWindow(window.utilization, window.resetsAt, window.status)
        for name, window in allowance.windows.items()
    }
    return PlanState(allowance.status or None, allowance.seen, {name: PlanWindow() for name in WINDOWS} | known)


def report(path: Path, since: float | None, until: float | None) -> UsageReport:
    """From the file. Raises sqlite3.Error."""
    with Reader(path) as reader:
        found = reader.summary(since, until)
        state = plan_state(reader.allowance(), time.time())
    return UsageReport(since=since, until=until, plan=state, **msgspec.structs.asdict(found))


def recent(path: Path, limit: int) -> RecentUsage:
    """From the file. Raises sqlite3.Error."""
    with Reader(path) as reader:
        return RecentUsage(data=reader.recent(limit), plan=plan_state(reader.allowance(), time.time()))


def moment(text: str, *, end: bool = False) -> float:
    """Seconds since 1970, a date (its beginning, or its `end`), or a date with a time; of this computer's zone when it
    names none. Raises ValueError with words that follow the parameter's name."""
    if re.fullmatch(r"[0-9]{1,11}", text):
        return float(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        words = "must be a date (2026-08-01), a date with a time (2026-08-01T12:00:00Z) or seconds since 1970"
        raise ValueError(words) from None
    try:
        return (found + timedelta(days=end and len(text) <= len("2026-08-01"))).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0 if found.year < 2000 else LAST_MOMENT


def _limit(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or not 1 <= int(text) <= MOST_RECENT:
        raise ValueError(f"must be a whole number between 1 and {MOST_RECENT}")
    return int(text)


def _parameters(req: falcon.asgi.Request, known: dict[str, Callable[[str], float]]) -> dict[str, float]:
    """The query, read. Raises Rejection."""
    found = {}
    for name, value in req.params.items():
        if name not in known:
            raise bad_request(f"There is no parameter {name!r} here; there is {' and '.join(known)}.", name)
        if not isinstance(value, str):
            raise bad_request(f"{name} must be given once.", name)
        try:
            # In a query a plus sign is a space: that of a time zone, if it stands there.
            found[name] = known[name](re.sub(r" (\d\d:?\d\d)$", r"+\1", value) if "T" in value else value)
        except ValueError as error:
            raise bad_request(f"{name} {error}.", name) from None
    return found


class _FromLedger:
    def __init__(self, service: Service) -> None:
        self._ledger = service.accounts.ledger

    async def _read(self, reading: Callable[[Path], T]) -> T:
        path = Path("/nonexistent")
        if self._ledger is not None:
            await self._ledger.written(FRESH_WAIT)
            path = self._ledger.path
        try:
            return await asyncio.to_thread(reading, path)
        except (sqlite3.Error, OSError) as error:
            log.warning("usage cannot be read from %s (%s)", path, error)
            raise Rejection(Failure(Kind.INTERNAL, f"The usage file cannot be read: {error}.")) from None


class UsageSummary(_FromLedger):
    """UsageSums over a period."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        period = _parameters(req, {"since": moment, "until": lambda text: moment(text, end=True)})
        since, until = period.get("since"), period.get("until")
        if since is not None and until is not None and since >= until:
            raise bad_request("until must be later than since.", "until")
        resp.data = msgspec.json.encode(await self._read(lambda path: report(path, since, until)))
        resp.content_type = falcon.MEDIA_JSON

    on_head = on_get


class RecentRequests(_FromLedger):
    """One by one."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        limit = int(_parameters(req, {"limit": _limit}).get("limit", DEFAULT_RECENT))
        resp.data = msgspec.json.encode(await self._read(lambda path: recent(path, limit)))
        resp.content_type = falcon.MEDIA_JSON

    on_head = on_get
