"""What answers when the plan is used up, if its owner has said so: another login of theirs, or a smaller model.

Never in silence: the answer's header, the usage file and the page name it. What is paid for has a daily limit.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

from msgspec import Struct, structs

from proxy.cli.pool import Pool
from proxy.keys.quota import midnight, tomorrow
from proxy.offload import in_file
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.protocol.plan import Plan
from proxy.usage.reader import FallbackCost, Reader
from proxy.usage.writer import Ledger

HEADER: Final = "x-claude-proxy-fallback"
# What a request costs is known after its end, or never if it is cut short. Until then it counts as much as the dearest
# of so many days, but as no less than the least share of the day's limit.
DAYS: Final = 30
LEAST_SHARE: Final = 1 / 50
# Of the day's limit, where no price is known at all.
UNKNOWN_SHARE: Final = 1 / 4
# Seconds to wait for what has just ended to be in the usage file.
FRESH_WAIT: Final = 1.0


class Way(Struct, frozen=True):
    """How a request is answered instead: by which processes, and what is put to them. `login`: who pays."""

    name: str
    pool: Pool
    plan: Plan
    login: str


class Fallback:
    """One per server. `name`: as in the settings, `api-key` or `model:haiku`. `pool`: its processes. `model`: what is
    asked instead, None for the same. `paid`: whether it is billed; then `usd_per_day` is the most that it may cost."""

    def __init__(
        self,
        name: str,
        pool: Pool,
        login: str,
        ledger: Ledger | None,
        *,
        model: str | None = None,
        usd_per_day: float,
    ) -> None:
        self.name = name
        self.pool = pool
        self._login = login
        self._ledger = ledger
        self._model = model
        self._usd_per_day = usd_per_day
        # How many requests are answered so, or have been; and of how many the usage file has been told the end.
        self._begun = self._ended = 0

    async def way(self, failure: Failure, plan: Plan) -> Way | None:
        """How to answer the request that has met this failure, before any of its answer has gone out; None: not at
        all. Raises Rejection when the day's money is spent. Whoever is told a way that is paid for says when the
        request has ended."""
        if failure.kind is not Kind.PLAN_LIMIT:
            return None
        if self._model is not None:
            if plan.model == self._model:
                return None
            return Way(self.name, self.pool, structs.replace(plan, model=self._model), self._login)
        if (spent := await self._spent()) >= self._usd_per_day:
            now = time.time()
            ends = tomorrow(now) if failure.resets_at is None else min(failure.resets_at, tomorrow(now))
            message = (
                f"{failure.message} What CLAUDE_PROXY_FALLBACK_USD allows for today, ${self._usd_per_day:g} by "
                f"{self.name}, is spent, too (${spent:.2f})."
            )
            raise Rejection(structs.replace(failure, message=message, resets_at=ends))
        self._begun += 1
        return Way(self.name, self.pool, plan, self._login)

    def ended(self) -> None:
        """A request has ended that is paid for, and the usage file is told."""
        self._ended += 1

    async def _spent(self) -> float:
        """Since midnight, in dollars, at the most. Raises Rejection when it cannot be told: nobody wants a bill without
        a limit."""
        if self._ledger is None:
            return 0.0
        # What ends from here on may not be in what is read.
        ended = self._ended
        await self._ledger.written(FRESH_WAIT)
        path, since = self._ledger.path, midnight(time.time())

        def read(path: Path) -> FallbackCost:
            with Reader(path) as reader:
                return reader.fallback_cost(since, since - DAYS * 86_400)

        try:
            cost = await in_file("usage", read, path)
        except (sqlite3.Error, OSError) as error:
            message = f"The plan is used up, and what the other login has cost today cannot be read: {error}."
            raise Rejection(Failure(Kind.PLAN_LIMIT, message)) from None
        limit = self._usd_per_day
        each = max(cost.dearest, limit * LEAST_SHARE) if cost.dearest else limit * UNKNOWN_SHARE
        return cost.usd + (cost.unknown + self._begun - ended) * each
