"""What has been used, as `GET /v1/usage` tells it and `claude-max-api usage` prints it: both from the usage file."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec
from msgspec import Struct

from proxy.protocol.allowance import WINDOWS, Allowance, current
from proxy.usage.estimate import WindowEstimate
from proxy.usage.reader import Reader, UsageGroup, UsageRow, UsageSums

# Stands for every moment that this computer's calendar cannot tell in seconds since 1970, and comes after all others.
LAST_MOMENT: Final = 1e12
# Not eight digits: they may be meant as a date.
SECONDS: Final = r"[0-9]{1,7}|[0-9]{9,11}"
DATE: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
TIME: Final = r"[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?(Z|[+-][0-9]{2}:?[0-9]{2})?"


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
    by_api: tuple[UsageGroup, ...]
    by_day: tuple[UsageGroup, ...]
    plan: PlanState
    five_hour_estimate: WindowEstimate | None


class RecentUsage(Struct, frozen=True, kw_only=True):
    """The latest requests, newest first."""

    object: Literal["list"] = "list"
    data: tuple[UsageRow, ...]
    plan: PlanState


def plan_state(allowance: Allowance, now: float) -> PlanState:
    """What is still so at `now`; the windows that every plan has are there even if nothing is known of them."""
    allowance = current(allowance, now)
    known = {
        name: PlanWindow(window.utilization, window.resetsAt, window.status)
        for name, window in allowance.windows.items()
    }
    return PlanState(allowance.status or None, allowance.seen, {name: PlanWindow() for name in WINDOWS} | known)


def empty(since: float | None, until: float | None) -> bool:
    """Nothing can lie in such a period."""
    return since is not None and until is not None and since >= until


def report(reader: Reader, since: float | None, until: float | None) -> UsageReport:
    """From an opened file. Raises sqlite3.Error."""
    return UsageReport(
        since=since,
        until=until,
        plan=plan_state(reader.allowance(), time.time()),
        five_hour_estimate=reader.estimate(),
        **msgspec.structs.asdict(reader.summary(since, until)),
    )


def recent(reader: Reader, limit: int) -> RecentUsage:
    """From an opened file. Raises sqlite3.Error."""
    return RecentUsage(data=reader.recent(limit), plan=plan_state(reader.allowance(), time.time()))


def moment(text: str, *, end: bool = False) -> float:
    """Seconds since 1970, a date (its beginning, or its `end`), or a date with a time; of this computer's zone when it
    names none. Raises ValueError with words that follow the parameter's name."""
    if re.fullmatch(SECONDS, text):
        return float(text)
    text = text.upper()
    try:
        if not re.fullmatch(f"{DATE}({TIME})?", text):
            raise ValueError
        found = datetime.fromisoformat(text)
    except ValueError:
        words = "must be a date (2026-08-01), a date with a time (2026-08-01T12:00:00Z) or seconds since 1970"
        raise ValueError(words) from None
    try:
        return (found + timedelta(days=end and len(text) == len("2026-08-01"))).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0 if found.year < 2000 else LAST_MOMENT
