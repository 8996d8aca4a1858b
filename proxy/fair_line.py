"""Threads in which owners of API keys take turns: what one has asked for does not hold up what others ask for."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

_Result = TypeVar("_Result")


class Threads(ThreadPoolExecutor):
    """Makes do with the threads that it has when the system has no more to give."""

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


class FairLine:
    """So many `threads`, of which each owner's calls have at most `each`; there may be `most` calls."""

    def __init__(self, threads: int, each: int, most: int, name: str) -> None:
        self.threads = Threads(threads, thread_name_prefix=name)
        self._bounds = (threads, each, most)
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()

    def full(self, owner: str) -> bool:
        """Whether the owner has its share of the calls that there may be, all of them being there."""
        return self._here.full(owner)

    async def run(self, owner: str, work: Callable[[], _Result]) -> _Result:
        """What `work` gives in a thread, when it is the owner's turn. When nobody waits for it any more it is not
        begun, or runs to its end."""
        return await self._here.run(owner, work, self.threads)

    @property
    def _here(self) -> _Turns:
        return self._turns.setdefault(asyncio.get_running_loop(), _Turns(*self._bounds))


class _Turns:
    """Those of one event loop."""

    def __init__(self, threads: int, each: int, most: int) -> None:
        self._free = threads
        self._each = each
        self._most = most
        # Calls under way, also those that nobody waits for any more; and those that wait, by owner, in order of turn.
        self._busy: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def full(self, owner: str) -> bool:
        mine = self._busy[owner] + len(self._waiting.get(owner, ()))
        there = self._busy.total() + sum(map(len, self._waiting.values()))
        owners = {owner, *self._waiting, *(name for name, calls in self._busy.items() if calls)}
        return there >= self._most and mine >= self._most // len(owners)

    async def run(self, owner: str, work: Callable[[], _Result], threads: Threads) -> _Result:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        self._go_on()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._end(owner)
            raise
        finally:
            self._forget(owner, turn)

        def ended(_: Future[Any]) -> None:
            # The loop may be gone by then.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end, owner)

        try:
            call = threads.submit(work)
        except BaseException:
            self._end(owner)
            raise
        call.add_done_callback(ended)
        return await asyncio.wrap_future(call)

    def _forget(self, owner: str, turn: asyncio.Future[None]) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._waiting[owner].remove(turn)
            if not self._waiting[owner]:
                del self._waiting[owner]

    def _end(self, owner: str) -> None:
        self._free += 1
        self._busy[owner] -= 1
        if not self._busy[owner]:
            del self._busy[owner]
        self._go_on()

    def _go_on(self) -> None:
        """Give free threads to those whose turn it is; who has had one is the last to have another."""
        for owner in tuple(self._waiting):
            turns = self._waiting[owner]
            while turns and turns[0].done():
                turns.popleft()
            if self._free and turns and self._busy[owner] < self._each:
                self._free -= 1
                self._busy[owner] += 1
                turns.popleft().set_result(None)
                del self._waiting[owner]
                if turns:
                    self._waiting[owner] = turns
            elif not turns:
                del self._waiting[owner]
