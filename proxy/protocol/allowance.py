"""What the subscription's plan allows: its windows, put together from the CLI's reports.

A report (`rate_limit_event`) comes when something has changed. Some hold all windows, some only the one that matters
most, some none at all: what they leave out is still as it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from proxy.protocol.lines import RateLimitInfo, Window

REJECTED: Final = "rejected"
# Always shown, known or not.
WINDOWS: Final = ("five_hour", "seven_day")
MAX_WINDOWS: Final = 16


class Allowance(Struct, frozen=True):
    """`windows` by the CLI's names: share used (1 is all), end as seconds since 1970, state. `seen`: when reported."""

    status: str = ""
    seen: float | None = None
    windows: Mapping[str, Window] = {}


def take_in(known: Allowance, info: RateLimitInfo, now: float) -> Allowance:
    """What is known after a report that came at `now`."""
    reported = dict(info.unifiedWindows)
    name = info.rateLimitType
    if name and name not in reported and info.resetsAt is not None:
        reported[name] = Window(info.utilization, info.resetsAt, info.status)
    elif name and info.status == REJECTED:
        window = reported.get(name) or known.windows.get(name) or Window()
        reported[name] = msgspec.structs.replace(window, status=REJECTED)
    windows = {**known.windows, **reported}
    named = [(name, window) for name, window in windows.items() if re.fullmatch(r"[a-z0-9_]{1,40}", name)]
    return current(Allowance(info.status, now, dict(named[:MAX_WINDOWS])), now)


def current(allowance: Allowance, now: float) -> Allowance:
    """Without the windows that have ended by `now`: how much of the next ones is used is not known."""
    windows = {
        name: window for name, window in allowance.windows.items() if window.resetsAt is None or window.resetsAt > now
    }
    ended = len(windows) < len(allowance.windows)
    status = "" if ended and allowance.status == REJECTED else allowance.status
    return Allowance(status, allowance.seen, windows)


def tightest(allowance: Allowance) -> tuple[str, Window] | None:
    """The window that will be, or has been, used up first."""
    return max(
        allowance.windows.items(),
        key=lambda item: (item[1].status == REJECTED, item[1].utilization or 0.0),
        default=None,
    )
