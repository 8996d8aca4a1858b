"""Counting tokens, and how many each model can take: the CLI's own numbers, without an answer first.

A request is put to an idle process as it would be to answer it; the CLI then has the Messages API count it, which costs
nothing. That process is of no use to a conversation any more, and is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec import Struct

from proxy.cli.pool import Pool
from proxy.offload import off_loop, overdone
from proxy.protocol import fingerprint
from proxy.protocol.counting import Count, countable
from proxy.protocol.failures import BUSY, Rejection
from proxy.protocol.plan import Plan, size_of_plan

# Counts that are remembered, and for how long (seconds): a name such as `opus` may mean another model by then.
MAX_KEPT: Final = 1000
MAX_AGE: Final = 3600.0
# How long (seconds) the sizes of models are waited for; they are left out then.
WINDOWS_WAIT: Final = 5.0


class _Kept(Struct, frozen=True):
    count: Count
    at: float


class Counter:
    """`count` and `windows`. One for each pool."""

    def __init__(self, pool: Pool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        # By what the CLI is asked for, and by what answers then.
        self._windows: dict[str, int] = {}
        self._asking: asyncio.Task[None] | None = None

    async def count(self, plan: Plan, owner: str) -> Count:
        """How many tokens the plan's conversation has. Raises Rejection, as an answer does.

        `owner`: of the API key. What the CLI has guessed is not remembered: it may count the next time.
        """
        plan = countable(plan)
        size = size_of_plan(plan)
        if overdone(size):
            raise Rejection(BUSY)
        key = await off_loop(size, _key, plan, owner)
        kept = self._kept.get(key)
        if kept is not None and kept.at > self._clock() - MAX_AGE:
            self._kept.move_to_end(key)
            return kept.count
        async with self._pool.spare(owner, search=plan.search is not None) as conversation:
            count = await conversation.count(plan)
        self._windows[plan.model] = self._windows[count.model] = count.context_window
        if not count.estimated:
            self._kept[key] = _Kept(count, self._clock())
            self._kept.move_to_end(key)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return count

    @property
    def known_windows(self) -> Mapping[str, int]:
        """How many tokens each model takes, as far as that is known by now; see `windows`."""
        return self._windows

    async def windows(self, models: Iterable[str]) -> Mapping[str, int]:
        """How many tokens each of these models takes, by what the CLI is asked for; without those that are not known.

        The CLI is asked once for each; nothing is sent upstream.
        """
        missing = [model for model in dict.fromkeys(models) if model not in self._windows]
        if missing:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.get_running_loop().create_task(self._ask(missing))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WINDOWS_WAIT):
                    await asyncio.shield(self._asking)
        return self._windows

    async def _ask(self, models: Iterable[str]) -> None:
        """What cannot be learned is asked for again the next time."""
        with contextlib.suppress(Rejection):
            async with self._pool.spare("") as conversation:
                for model in models:
                    window = await conversation.context_window(model)
                    if window:
                        self._windows[model] = window


def _key(plan: Plan, owner: str) -> bytes:
    return fingerprint.digest(plan, fingerprint.start(owner))
