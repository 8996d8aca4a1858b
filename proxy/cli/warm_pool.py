"""The warm pool: idle processes that wait for a request, and the starting of new ones.

- An idle process has been started and knows nothing of any request. One that dies, grows old or was started from a CLI
  that has since changed on disk is replaced.
- Starting a process costs 0.4 s of processor time. A request that finds none starts one; the warm pool is refilled
  only when no answer awaits its first token, and never with more at once than there are processors: a start would take
  the processor from the answer under way. A start that has begun is paused meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

from proxy.cli.process import STOP_GRACE, USED_UP, Child, Launch
from proxy.protocol import commands
from proxy.protocol.failures import SHUTTING_DOWN, Failure, Kind, Rejection
from proxy.protocol.lines import ControlResponse, ListedModel
from proxy.settings import Settings

log: Final = logging.getLogger("proxy.pool")
# An answer that awaits its first token holds starts back no longer than this (seconds): the CLI has sent its request by
# then, upstream may think on.
AWAITING_FIRST_TOKEN: Final = 0.15
# Requests that come sooner after each other than this (seconds) and use up the idle processes wait for starts, not for
# the processor: then starts are not held back.
BURST: Final = 1.0
# As many starts as there are processors help; a child that is ready sooner than this (seconds) costs so little that its
# start need not be rationed so tightly.
PROCESSORS: Final = os.cpu_count() or 1
CHEAP_START: Final = 0.1
MAX_CHEAP_STARTS: Final = 16
# A process that has not answered so long (seconds) after its start is ended: it takes half a second, on a busy computer
# a few.
MAX_START_TIME: Final = 30.0
# After a start that failed, or an idle process that ended by itself: seconds until the next try, doubled up to the
# most. It begins anew when a request's process has answered, or when as much time has passed without another failure.
MIN_PAUSE: Final = 0.5
MAX_PAUSE: Final = 30.0
# Where no process is kept idle only a request can show that starts work again, and where it is said that none can be
# answered no request would come: after so many seconds one may try.
START_RETRY: Final = 60.0


class _IdleProcess:
    """An idle process. `ready`: it has answered; `started`: to be called then; `born`: loop time."""

    __slots__ = ("attending", "born", "child", "ready", "stamp", "started")

    def __init__(self, child: Child, started: Callable[[], None], born: float, stamp: object) -> None:
        self.child = child
        self.started = started
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


class WarmPool:
    """See the module. `resize` and `refill` it to begin; `child` gives one; what is given is the caller's to stop.

    `in_background` runs what nobody waits for, and must have run it all before the event loop ends.
    """

    def __init__(
        self,
        settings: Settings,
        launch: Launch,
        start: Callable[[Launch], Awaitable[Child]],
        in_background: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._size = 0
        self._max_age = settings.waiting_age
        self._max_wait = settings.queue_wait
        self._launch = launch
        self._start = start
        self._in_background = in_background
        self._idle: deque[_IdleProcess] = deque()
        # Children that cost a start at the moment, and how many may; requests that wait until one more may.
        self._starting = 0
        self._max_starting = PROCESSORS
        self._queue: deque[asyncio.Future[None]] = deque()
        # Processes that have been asked for and are not idle yet.
        self._coming = 0
        # Answers that await their first token, and until when (loop time) each of them holds starts back.
        self._awaiting_first_token: dict[object, float] = {}
        # The last request came soon after the one before it, and found or left no child that is ready.
        self._burst = False
        self._asked_at = -math.inf
        self._refill_at: asyncio.TimerHandle | None = None
        self._pause = 0.0
        self._no_start_before = 0.0
        self._closed = False
        self.models: tuple[ListedModel, ...] = ()
        self.models_known = asyncio.Event()
        self.last_start_error: str | None = None
        self._start_failed_at = -math.inf
        # When (loop time) requests have taken a process of late.
        self._taken_at: deque[float] = deque()

    @property
    def waiting(self) -> int:
        return len(self._idle)

    @property
    def processes(self) -> tuple[Child, ...]:
        """Those that are idle."""
        return tuple(process.child for process in self._idle)

    @property
    def taken(self) -> int:
        """How many processes requests have taken within the last minute."""
        now = asyncio.get_running_loop().time()
        while self._taken_at and self._taken_at[0] < now - 60:
            self._taken_at.popleft()
        return len(self._taken_at)

    @property
    def starts_fail(self) -> bool:
        """The last start has failed, and a request now is no way to find out more."""
        tries_again = self._size > 0 or asyncio.get_running_loop().time() < self._start_failed_at + START_RETRY
        return self.last_start_error is not None and tries_again

    def resize(self, size: int) -> None:
        """Keep so many idle processes from now on. What is missing comes with the next `refill`."""
        self._size = size
        while len(self._idle) > size:
            self._discard(self._idle[0])

    @property
    def starting(self) -> int:
        return self._starting

    async def child(self) -> tuple[Child, Callable[[], None]]:
        """An idle process, or one that is started now, in turn; and what to call when it has answered.

        Raises Rejection when none can be started, or none in time.
        """
        now = asyncio.get_running_loop().time()
        end = now + self._max_wait
        self._taken_at.append(now)
        while not self._closed:
            process = self._take()
            if process is not None:
                return process.child, partial(self._served, process.started)
            if self._starting < self._max_starting:
                child, started = await self._spawn()
                return child, partial(self._served, started)
            turn = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                async with asyncio.timeout_at(end):
                    await turn
            except TimeoutError:
                if turn.done() and not turn.cancelled():
                    turn.result()
                    continue
                message = (
                    f"Timed out after {self._max_wait:g} s of waiting for a CLI process: the CLI starts too slowly."
                )
                raise Rejection(Failure(Kind.QUEUE_WAIT, message, retry_after=2.0)) from None
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake_one()
                raise
            finally:
                with contextlib.suppress(ValueError):
                    self._queue.remove(turn)
        raise Rejection(SHUTTING_DOWN)

    def request_sent(self, answer: object) -> None:
        """A request has been sent: what else wants the processor waits for the answer's first token."""
        now = asyncio.get_running_loop().time()
        self._burst = now - self._asked_at < BURST and not any(process.ready for process in self._idle)
        self._asked_at = now
        self._awaiting_first_token[answer] = now + AWAITING_FIRST_TOKEN
        if not self._burst:
            for process in self._idle:
                if not process.ready:
                    process.child.pause()
        self.refill()

    def first_token(self, answer: object) -> None:
        """The answer has its first delta, or has ended without: the processor may be used for something else."""
        self._awaiting_first_token.pop(answer, None)
        self.refill()

    def refill(self) -> None:
        """Start the missing idle processes, unless an answer needs the processor, or starts have just failed."""
        if self._refill_at is not None:
            self._refill_at.cancel()
            self._refill_at = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        hold_until = 0.0 if self._burst else max(self._awaiting_first_token.values(), default=0.0)
        if hold_until <= now:
            for process in self._idle:
                if not process.ready:
                    process.child.resume()
        missing = self._size - len(self._idle) - self._coming
        wait_until = max(hold_until, self._no_start_before if missing > 0 else 0.0)
        if self._closed:
            return
        if wait_until > now:
            self._refill_at = loop.call_at(wait_until, self.refill)
            return
        for _ in range(min(missing, self._max_starting - self._starting)):
            self._coming += 1
            self._in_background(self._add())

    def replace_old(self) -> None:
        """Replace what has waited too long, or was started from a CLI that is no longer the one on disk."""
        now = asyncio.get_running_loop().time()
        stamp = file_stamp(self._launch.argv[0])
        for process in tuple(self._idle):
            if process.stamp != stamp or now - process.born > self._max_age:
                self._discard(process)
        self.refill()

    def close(self) -> None:
        """End all that wait, and start none any more."""
        self._closed = True
        if self._refill_at is not None:
            self._refill_at.cancel()
        for turn in self._queue:
            if not turn.done():
                turn.set_exception(Rejection(SHUTTING_DOWN))
        for process in tuple(self._idle):
            self._discard(process)

    def _take(self) -> _IdleProcess | None:
        """The child that is ready, else the one that has been starting longest."""
        stamp = file_stamp(self._launch.argv[0])
        for process in tuple(self._idle):
            if not process.child.alive or process.stamp != stamp:
                self._discard(process)
        if not self._idle:
            return None
        best = next((process for process in self._idle if process.ready), self._idle[0])
        self._remove(best)
        best.child.resume()
        return best

    def _remove(self, process: _IdleProcess) -> None:
        self._idle.remove(process)
        if process.attending is not None:
            process.attending.cancel()

    def _discard(self, process: _IdleProcess) -> None:
        self._remove(process)
        self._in_background(process.child.stop(STOP_GRACE))

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
            self._start_failed_at = asyncio.get_running_loop().time()
            self.last_start_error = f"The CLI could not be started: {error.strerror or error}."
            kind = Kind.OVERLOADED if error.errno in USED_UP else Kind.CLI_MISSING
            raise Rejection(Failure(kind, self.last_start_error)) from None
        child.exited.add_done_callback(lambda _: started())
        late = asyncio.get_running_loop().call_later(
            MAX_START_TIME, child.kill, f"it did not answer within {MAX_START_TIME:g} s of its start"
        )
        child.exited.add_done_callback(lambda _: late.cancel())
        if self._closed:
            self._in_background(child.stop(STOP_GRACE))
            raise Rejection(SHUTTING_DOWN)

        def answered() -> None:
            self.last_start_error = None
            late.cancel()
            started()

        return child, answered

    def _served(self, started: Callable[[], None]) -> None:
        """A request's process has answered: failures before are no reason to wait any more."""
        self._pause = self._no_start_before = 0.0
        started()
        self.refill()

    def _one_started(self, began: float) -> None:
        self._starting -= 1
        cheap = asyncio.get_running_loop().time() - began < CHEAP_START
        self._max_starting = min(self._max_starting * 2, MAX_CHEAP_STARTS) if cheap else PROCESSORS
        if self._queue:
            self._wake_one()
        else:
            self.refill()

    def _wake_one(self) -> None:
        """Let the next request that waits for a child look again."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    async def _add(self) -> None:
        stamp = file_stamp(self._launch.argv[0])
        try:
            child, started = await self._spawn()
        except Rejection:
            self._start_failed()
            return
        finally:
            self._coming -= 1
        process = _IdleProcess(child, started, asyncio.get_running_loop().time(), stamp)
        self._idle.append(process)
        child.exited.add_done_callback(lambda _: self._died(process))
        child.write(commands.list_models())
        process.attending = asyncio.get_running_loop().create_task(self._attend(process))
        self._wake_one()

    async def _attend(self, process: _IdleProcess) -> None:
        """Wait until the child has answered, and learn the models from it."""
        while lines := await process.child.read():
            for line in lines:
                if isinstance(line, ControlResponse) and line.response.request_id == commands.LIST_MODELS_ID:
                    process.ready = True
                    if line.response.response is not None and line.response.response.models:
                        self.models = tuple(line.response.response.models)
                    self.models_known.set()
                    process.started()
                    return

    def _died(self, process: _IdleProcess) -> None:
        if process in self._idle:
            self._discard(process)
            said = process.child.last_error_line
            ended = f"An idle CLI process ended by itself (exit code {process.child.exit_code})"
            self.last_start_error = f"{ended}: {said}" if said else f"{ended}."
            self._start_failed()

    def _start_failed(self) -> None:
        log.warning("%s", self.last_start_error)
        now = asyncio.get_running_loop().time()
        if now > self._no_start_before + MAX_PAUSE:
            self._pause = 0.0
        self._pause = min(max(MIN_PAUSE, self._pause * 2), MAX_PAUSE)
        self._no_start_before = now + self._pause
        self.refill()


def _once(action: Callable[[], None]) -> Callable[[], None]:
    rest = [action]

    def call() -> None:
        if rest:
            rest.pop()()

    return call
