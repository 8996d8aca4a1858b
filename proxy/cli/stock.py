"""Children that wait for a request, and the starting of new ones.

- A waiting child has been started and knows nothing of any request. One that dies, grows old or was started from a CLI
  that has since changed on disk is replaced.
- Starting a child costs 0.4 s of processor time. A request that finds no child starts one; the stock is filled up
  again only when no answer is between its question and its first delta, and never more at once than there are
  processors: a start would take the processor from the answer under way. One that has begun is paused meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from proxy.cli.process import STOP_GRACE, Child, Launch
from proxy.protocol import commands
from proxy.protocol.failures import SHUTTING_DOWN, Failure, Kind, Rejection
from proxy.protocol.lines import ControlResponse, ListedModel
from proxy.settings import Settings

log: Final = logging.getLogger("proxy.pool")
# An answer holds the starts back no longer than this: the CLI has sent its request by then, upstream may think on.
TENDER: Final = 0.15
# Requests that come sooner after each other than this (seconds) and use up the stock wait for starts, not for the
# processor: then starts are not held back.
RUSH: Final = 1.0
# As many starts as there are processors help; a child that is ready sooner than this (seconds) costs so little that its
# start need not be rationed so tightly.
PROCESSORS: Final = os.cpu_count() or 1
CHEAP_START: Final = 0.1
MOST_CHEAP_STARTS: Final = 16
# What the system has none of for the moment: descriptors, processes, memory. A client may try again.
USED_UP: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM))
# After a start that failed: seconds until the next try, doubled up to the most.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0


class _Spare:
    """A waiting child. `ready`: it has answered; `answered`: to be called then; `born`: loop time."""

    __slots__ = ("answered", "attending", "born", "child", "ready", "stamp")

    def __init__(self, child: Child, answered: Callable[[], None], born: float, stamp: object) -> None:
        self.child = child
        self.answered = answered
        self.born = born
        self.stamp = stamp
        self.ready = False
        self.attending: asyncio.Task[None] | None = None


def file_stamp(path: str) -> object:
    """What changes when the CLI is updated: which file its path leads to, its size and time."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


class Stock:
    """See the module. `refill` it to begin; `child` gives one; what is given is the caller's to stop.

    `in_background` runs what nobody waits for, and must have run it all before the event loop ends.
    """

    def __init__(
        self,
        settings: Settings,
        launch: Launch,
        start: Callable[[Launch], Awaitable[Child]],
        in_background: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._size = settings.waiting
        self._longest_wait = settings.waiting_age
        self._launch = launch
        self._start = start
        self._in_background = in_background
        self._spares: deque[_Spare] = deque()
        # Children that cost a start at the moment, and how many may; requests that wait until one more may.
        self._starting = 0
        self._most_starting = PROCESSORS
        self._turns: deque[asyncio.Future[None]] = deque()
        # Children that have been asked for and are not among the spares yet.
        self._coming = 0
        # Answers between their question and their first delta, and until when each of them holds starts back.
        self._tender: dict[object, float] = {}
        # The last request came soon after the one before it, and found or left no child that is ready.
        self._rush = False
        self._asked_at = -math.inf
        self._refill_at: asyncio.TimerHandle | None = None
        self._pause = 0.0
        self._no_start_before = 0.0
        self._closed = False
        self.models: tuple[ListedModel, ...] = ()
        self.models_known = asyncio.Event()
        self.last_start_error: str | None = None

    @property
    def waiting(self) -> int:
        return len(self._spares)

    @property
    def starting(self) -> int:
        return self._starting

    async def child(self) -> tuple[Child, Callable[[], None]]:
        """A waiting child, or one that is started now, in turn; and what to call when it has answered.

        Raises Rejection when none can be started.
        """
        while not self._closed:
            spare = self._take()
            if spare is not None:
                return spare.child, spare.answered
            if self._starting < self._most_starting:
                return await self._spawn()
            turn = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake_one()
                raise
            finally:
                with contextlib.suppress(ValueError):
                    self._turns.remove(turn)
        raise Rejection(SHUTTING_DOWN)

    def answer_asked(self, answer: object) -> None:
        """A question has been put: what else wants the processor waits for the answer's first delta."""
        now = asyncio.get_running_loop().time()
        self._rush = now - self._asked_at < RUSH and not any(spare.ready for spare in self._spares)
        self._asked_at = now
        self._tender[answer] = now + TENDER
        if not self._rush:
            for spare in self._spares:
                if not spare.ready:
                    spare.child.pause()
        self.refill()

    def answer_begun(self, answer: object) -> None:
        """The answer has its first delta, or has ended without: the processor may be used for something else."""
        self._tender.pop(answer, None)
        self.refill()

    def refill(self) -> None:
        """Start what is missing of the stock, unless an answer needs the processor, or starts have just failed."""
        if self._refill_at is not None:
            self._refill_at.cancel()
            self._refill_at = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        tender_until = 0.0 if self._rush else max(self._tender.values(), default=0.0)
        if tender_until <= now:
            for spare in self._spares:
                if not spare.ready:
                    spare.child.resume()
        missing = self._size - len(self._spares) - self._coming
        wait_until = max(tender_until, self._no_start_before if missing > 0 else 0.0)
        if self._closed:
            return
        if wait_until > now:
            self._refill_at = loop.call_at(wait_until, self.refill)
            return
        for _ in range(min(missing, self._most_starting - self._starting)):
            self._coming += 1
            self._in_background(self._add())

    def replace_old(self) -> None:
        """Replace what has waited too long, or was started from a CLI that is no longer the one on disk."""
        now = asyncio.get_running_loop().time()
        stamp = file_stamp(self._launch.argv[0])
        for spare in tuple(self._spares):
            if spare.stamp != stamp or now - spare.born > self._longest_wait:
                self._discard(spare)
        self.refill()

    def close(self) -> None:
        """End all that wait, and start none any more."""
        self._closed = True
        if self._refill_at is not None:
            self._refill_at.cancel()
        for turn in self._turns:
            if not turn.done():
                turn.set_exception(Rejection(SHUTTING_DOWN))
        for spare in tuple(self._spares):
            self._discard(spare)

    def _take(self) -> _Spare | None:
        """The child that is ready, else the one that has been starting longest."""
        stamp = file_stamp(self._launch.argv[0])
        for spare in tuple(self._spares):
            if not spare.child.alive or spare.stamp != stamp:
                self._discard(spare)
        if not self._spares:
            return None
        best = next((spare for spare in self._spares if spare.ready), self._spares[0])
        self._remove(best)
        best.child.resume()
        return best

    def _remove(self, spare: _Spare) -> None:
        self._spares.remove(spare)
        if spare.attending is not None:
            spare.attending.cancel()

    def _discard(self, spare: _Spare) -> None:
        self._remove(spare)
        self._in_background(spare.child.stop(STOP_GRACE))

    async def _spawn(self) -> tuple[Child, Callable[[], None]]:
        """Start a child; and what to call when it has answered. Until then, or its exit, it counts as starting."""
        self._starting += 1
        began = asyncio.get_running_loop().time()
        started = _once(lambda: self._one_started(began))
        try:
            child = await self._start(self._launch)
        except BaseException as error:
            started()
            if not isinstance(error, OSError):
                raise
            self.last_start_error = f"The CLI could not be started: {error.strerror or error}."
            kind = Kind.OVERLOADED if error.errno in USED_UP else Kind.CLI_MISSING
            raise Rejection(Failure(kind, self.last_start_error)) from None
        child.exited.add_done_callback(lambda _: started())
        if self._closed:
            self._in_background(child.stop(STOP_GRACE))
            raise Rejection(SHUTTING_DOWN)

        def answered() -> None:
            # Starts work: those that have failed are no reason to wait any more.
            self.last_start_error = None
            self._pause = self._no_start_before = 0.0
            started()

        return child, answered

    def _one_started(self, began: float) -> None:
        self._starting -= 1
        cheap = asyncio.get_running_loop().time() - began < CHEAP_START
        self._most_starting = min(self._most_starting * 2, MOST_CHEAP_STARTS) if cheap else PROCESSORS
        if self._turns:
            self._wake_one()
        else:
            self.refill()

    def _wake_one(self) -> None:
        """Let the next request that waits for a child look again."""
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    async def _add(self) -> None:
        stamp = file_stamp(self._launch.argv[0])
        try:
            child, answered = await self._spawn()
        except Rejection:
            self._start_failed()
            return
        finally:
            self._coming -= 1
        spare = _Spare(child, answered, asyncio.get_running_loop().time(), stamp)
        self._spares.append(spare)
        child.exited.add_done_callback(lambda _: self._died(spare))
        child.write(commands.list_models())
        spare.attending = asyncio.get_running_loop().create_task(self._attend(spare))
        self._wake_one()

    async def _attend(self, spare: _Spare) -> None:
        """Wait until the child has answered, and learn the models from it."""
        while lines := await spare.child.read():
            for line in lines:
                if isinstance(line, ControlResponse) and line.response.request_id == commands.LIST_MODELS_ID:
                    spare.ready = True
                    if line.response.response is not None and line.response.response.models:
                        self.models = tuple(line.response.response.models)
                    self.models_known.set()
                    spare.answered()
                    return

    def _died(self, spare: _Spare) -> None:
        if spare in self._spares:
            self._discard(spare)
            words = spare.child.last_words
            self.last_start_error = (
                f"A waiting CLI ended by itself (exit code {spare.child.exit_code}){': ' + words if words else ''}."
            )
            self._start_failed()

    def _start_failed(self) -> None:
        log.warning("%s", self.last_start_error)
        self._pause = min(max(FIRST_PAUSE, self._pause * 2), LONGEST_PAUSE)
        self._no_start_before = asyncio.get_running_loop().time() + self._pause
        self.refill()


def _once(action: Callable[[], None]) -> Callable[[], None]:
    rest = [action]

    def call() -> None:
        if rest:
            rest.pop()()

    return call
