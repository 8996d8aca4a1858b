"""Limits of keys: requests a minute, tokens and list-price dollars a day. Looked at when a request begins.

What requests under way will have used is not known before they end, so several at once can go past a day's limit
together; the next one is refused.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec import Struct

from proxy.keys.store import KeyLimits
from proxy.protocol.failures import Failure, Kind


class UsedToday(Struct, frozen=True):
    tokens: int = 0
    usd: float = 0.0


def midnight(now: float) -> float:
    """When this computer's day began, seconds since 1970."""
    return datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def tomorrow(now: float) -> float:
    """When it ends. Not 86,400 s later: some days are an hour longer or shorter."""
    day = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0)
    return (day + timedelta(days=1)).timestamp()


class Quota:
    """One per server. `clock`: seconds since 1970. `steady`: seconds that nobody can set back."""

    def __init__(self, clock: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steady = steady
        self._minute: dict[str, deque[float]] = {}

    def now(self) -> float:
        return self._clock()

    def spent(self, name: str, limits: KeyLimits, used: UsedToday) -> Failure | None:
        """Why the key may not ask now, if so. A request that may is counted. `used`: the key's, since midnight."""
        now = self._clock()
        for limit, part, what in (
            (limits.tokens_per_day, used.tokens, "tokens"),
            (limits.usd_per_day, used.usd, "dollars at list price"),
        ):
            if limit is not None and part >= limit:
                words = f"The key {name!r} has used {part:.6g} {what} today, of {limit:g} that it may use in a day."
                return Failure(Kind.KEY_LIMIT, words, resets_at=tomorrow(now))
        if limits.requests_per_minute is not None:
            now = self._steady()
            recent = self._minute.setdefault(name, deque())
            while recent and recent[0] <= now - 60:
                recent.popleft()
            if len(recent) >= limits.requests_per_minute:
                words = f"The key {name!r} may send {limits.requests_per_minute} requests a minute."
                return Failure(Kind.KEY_RATE, words, retry_after=recent[0] + 60 - now if recent else 60.0)
            recent.append(now)
        return None
