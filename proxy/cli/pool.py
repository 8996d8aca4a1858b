"""Children waiting for a request, conversations kept for their next message, the slots, and the queue for them.

- A waiting child has been started and knows nothing of any request. One that dies, grows old or was started from a CLI
  that has since changed on disk is replaced.
- Starting a child costs 0.4 s of processor time. A request that finds no child starts one; the stock is filled up
  again only when no answer is between its question and its first delta, and never more at once than there are
  processors: a start would take the processor from the answer under way. One that has begun is paused meanwhile.
- A conversation whose answer has ended well is parked with its child under a fingerprint of all that it holds. The next
  request that extends exactly it goes on there. Parked ones are bounded in number and age; losing one costs time only.
- A slot is held from before the child is taken until `release`, which is when the stream has really ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Literal

from msgspec import Struct

from proxy.cli.conversation import UNOBSERVED, Conversation, Limits, Observer
from proxy.cli.memory import available
from proxy.cli.process import Child, Launch
from proxy.cli.queue import Places
from proxy.protocol import commands, fingerprint
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.protocol.lines import ControlResponse, ListedModel, ModelUse
from proxy.protocol.plan import Message, Plan
from proxy.settings import Settings

log: Final = logging.getLogger("proxy.pool")
# Seconds between SIGTERM and SIGKILL; an idle CLI needs 0.05 to 0.1.
STOP_GRACE: Final = 2.0
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
# How often age, health and the CLI's file are looked at.
ROUND: Final = 5.0
# An answer's cost follows it within milliseconds; the child of a conversation that is to end gets this long to say it.
LAST_WORDS: Final = 0.5
# Bytes of memory that must be left for conversations to stay parked.
LEAST_MEMORY: Final = 512 * 1024 * 1024


class Counts(Struct, frozen=True):
    """The pool at a moment."""

    waiting: int
    starting: int
    busy: int
    parked: int
    queued: int


Served = Literal["new", "continued", "replayed"]


class Place(Struct, frozen=True):
    """A conversation in a slot, for one request. `fingerprint`: of all that the request holds."""

    conversation: Conversation
    served: Served
    fingerprint: bytes
    owner: str = ""


class _Parked:
    """A conversation between two requests. `settling` tells whether it can go on; `since`: loop time."""

    __slots__ = ("conversation", "settling", "since")

    def __init__(self, conversation: Conversation, settling: asyncio.Task[bool], since: float) -> None:
        self.conversation = conversation
        self.settling = settling
        self.since = since


class _Spare:
    """A waiting child. `ready`: it has answered; `started`: says that it no longer costs a start; `born`: loop time."""

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


class Pool:
    """See the module. `start` it, `open` a conversation for every request, `release` it, `close` the pool."""

    def __init__(
        self,
        settings: Settings,
        launch: Launch,
        start: Callable[[Launch], Awaitable[Child]] = Child.start,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._settings = settings
        self._start_child = start
        self._observer = observer
        self._launch = launch
        self._limits = Limits(settings.idle_timeout, settings.total_timeout)
        self._spares: deque[_Spare] = deque()
        self._starting = 0
        self._most_starting = PROCESSORS
        self._start_turns: deque[asyncio.Future[None]] = deque()
        self._busy: dict[Conversation, Place] = {}
        self._parked: OrderedDict[bytes, _Parked] = OrderedDict()
        # Those that a request is to go on with as soon as they have settled.
        self._settling: set[_Parked] = set()
        self._places = Places(settings.max_conversations, settings.max_queue, settings.queue_wait)
        self._tender: dict[Conversation, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._round: asyncio.Task[None] | None = None
        self._refill_at: asyncio.TimerHandle | None = None
        self._coming = 0
        # The last request came soon after the one before it, and found or left no child that is ready.
        self._rush = False
        self._opened_at = -math.inf
        self._pause = 0.0
        self._no_start_before = 0.0
        self._closing = False
        self.models: tuple[ListedModel, ...] = ()
        self.models_used: dict[str, ModelUse] = {}
        self.models_known = asyncio.Event()
        self.last_start_error: str | None = None

    @property
    def counts(self) -> Counts:
        return Counts(len(self._spares), self._starting, len(self._busy), len(self._parked), len(self._places))

    @property
    def closing(self) -> bool:
        return self._closing

    async def start(self) -> None:
        """Begin to keep children waiting. Returns at once."""
        self._round = asyncio.get_running_loop().create_task(self._look_after())
        self._refill()

    async def open(self, plan: Plan, owner: str) -> Place:
        """A conversation for `plan`; `Rejection` when there is no room or no child. The caller must `release` it.

        `owner`: the name of the API key, to whose requests a parked conversation belongs.
        """
        before = fingerprint.of(plan, owner, plan.messages[:-1])
        await self._places.take(owner)
        try:
            conversation = await self._unpark(before, plan.messages[-1])
            served: Served = "continued"
            if conversation is None:
                served = "new" if len(plan.messages) == 1 else "replayed"
                conversation = await self._child()
        except BaseException:
            self._places.give_back(owner)
            raise
        return self._begun(Place(conversation, served, fingerprint.extend(before, plan.messages[-1]), owner))

    async def renew(self, place: Place) -> Place:
        """The same slot with another conversation, on a new child, for one that was continued and has died.

        When that fails `place` is still the caller's to release.
        """
        conversation = await self._child()
        if self._busy.pop(place.conversation, None) is None:
            self._end(conversation)
            raise _shutting_down()
        self._tender.pop(place.conversation, None)
        self._end(place.conversation)
        return self._begun(Place(conversation, "replayed", place.fingerprint, place.owner))

    def _begun(self, place: Place) -> Place:
        """An answer is under way: what else wants the processor waits for its first delta."""
        self._busy[place.conversation] = place
        now = asyncio.get_running_loop().time()
        self._rush = now - self._opened_at < RUSH and not any(spare.ready for spare in self._spares)
        self._opened_at = now
        self._tender[place.conversation] = now + TENDER
        if not self._rush:
            for spare in self._spares:
                if not spare.ready:
                    spare.child.pause()
        self._refill()
        return place

    def first_delta(self, place: Place) -> None:
        """The answer has begun: the processor may be used for something else."""
        if self._tender.pop(place.conversation, None) is not None:
            self._refill()

    def release(self, place: Place, *, keep: bool = False) -> None:
        """The answer has ended, or nobody waits for it any more: the slot is free, the child goes.

        `keep`: the answer ended well and is what the client has; then the conversation is parked, if it can be.
        """
        conversation = place.conversation
        self._tender.pop(conversation, None)
        if self._busy.pop(conversation, None) is None:
            return
        answer = conversation.echo.message() if keep and self._settings.parked and not self._closing else None
        if answer is None:
            self._end(conversation)
        else:
            conversation.echo.forget()
            self._park(fingerprint.extend(place.fingerprint, answer), conversation)
        self._places.give_back(place.owner)
        self._refill()

    # Parked conversations.

    def _park(self, key: bytes, conversation: Conversation) -> None:
        loop = asyncio.get_running_loop()
        parked = _Parked(conversation, loop.create_task(conversation.settle()), loop.time())
        self._unparked(self._parked.pop(key, None))
        self._parked[key] = parked

        def drop() -> None:
            if self._parked.get(key) is parked:
                self._unparked(self._parked.pop(key))

        def settled(task: asyncio.Task[bool]) -> None:
            self.models_used |= conversation.models_used
            if task.cancelled() or not task.result():
                drop()

        parked.settling.add_done_callback(settled)
        conversation.child.exited.add_done_callback(lambda _: drop())
        while len(self._parked) > self._settings.parked:
            self._unparked(self._parked.popitem(last=False)[1])

    def _unparked(self, parked: _Parked | None) -> None:
        """End what is parked no more."""
        if parked is not None:
            self._end(parked.conversation, parked.settling)

    async def _unpark(self, key: bytes, message: Message) -> Conversation | None:
        """The parked conversation that `message` can go on, if there is one. It is parked no more then."""
        parked = self._parked.pop(key, None)
        if parked is None:
            return None
        self._settling.add(parked)
        try:
            settled = await parked.settling
        except asyncio.CancelledError:
            self._end(parked.conversation)
            raise
        finally:
            self._settling.remove(parked)
        if settled and parked.conversation.child.alive and parked.conversation.can_ask(message):
            return parked.conversation
        self._end(parked.conversation)
        return None

    def _end(self, conversation: Conversation, settling: asyncio.Task[bool] | None = None) -> None:
        """End the child, after the CLI has said what an answer that ended well has cost: nobody waits for that."""

        async def end() -> None:
            try:
                with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                    async with asyncio.timeout(LAST_WORDS):
                        await (settling or conversation.settle())
            finally:
                await conversation.child.stop(STOP_GRACE)

        self._task(end())

    async def close(self) -> None:
        """End all children; answers still under way end with theirs. Returns when none is left."""
        self._closing = True
        if self._refill_at is not None:
            self._refill_at.cancel()
        self._places.close(_shutting_down())
        for waiting in self._start_turns:
            if not waiting.done():
                waiting.set_exception(_shutting_down())
        for spare in tuple(self._spares):
            self._discard(spare)
        for place in tuple(self._busy.values()):
            self.release(place)
        while self._parked:
            self._unparked(self._parked.popitem()[1])
        for parked in self._settling:
            self._task(parked.conversation.child.stop(STOP_GRACE))
        if self._round is not None:
            self._round.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Children.

    async def _child(self) -> Conversation:
        """A conversation on a waiting child, or on one that is started now, in turn."""
        while not self._closing:
            spare = self._take_spare()
            if spare is not None:
                if spare.attending is not None:
                    spare.attending.cancel()
                return self._conversation(spare.child, spare.started)
            if self._starting < self._most_starting:
                return self._conversation(*await self._spawn())
            turn = asyncio.get_running_loop().create_future()
            self._start_turns.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake_one()
                raise
            finally:
                with contextlib.suppress(ValueError):
                    self._start_turns.remove(turn)
        raise _shutting_down()

    def _conversation(self, child: Child, started: Callable[[], None]) -> Conversation:
        def ready() -> None:
            self._answers()
            started()

        return Conversation(child, self._limits, self._settings.system_prompt_mode, ready, self._observer)

    def _answers(self) -> None:
        """A child has answered: starts that have failed before are no reason to wait any more."""
        self.last_start_error = None
        self._pause = self._no_start_before = 0.0

    def _take_spare(self) -> _Spare | None:
        """The child that is ready, else the one that has been starting longest."""
        stamp = file_stamp(self._launch.argv[0])
        for spare in tuple(self._spares):
            if not spare.child.alive or spare.stamp != stamp:
                self._discard(spare)
        if not self._spares:
            return None
        best = next((spare for spare in self._spares if spare.ready), self._spares[0])
        self._spares.remove(best)
        best.child.resume()
        return best

    def _discard(self, spare: _Spare) -> None:
        if spare in self._spares:
            self._spares.remove(spare)
            if spare.attending is not None:
                spare.attending.cancel()
            self._task(spare.child.stop(STOP_GRACE))

    async def _spawn(self) -> tuple[Child, Callable[[], None]]:
        """Start a child. It counts as starting until the function is called that comes with it, or until it exits."""
        self._starting += 1
        began = asyncio.get_running_loop().time()
        started = self._once(lambda: self._one_started(began))
        try:
            child = await self._start_child(self._launch)
        except BaseException as error:
            started()
            if not isinstance(error, OSError):
                raise
            self.last_start_error = f"The CLI could not be started: {error.strerror or error}."
            kind = Kind.OVERLOADED if error.errno in USED_UP else Kind.CLI_MISSING
            raise Rejection(Failure(kind, self.last_start_error)) from None
        child.exited.add_done_callback(lambda _: started())
        if self._closing:
            self._task(child.stop(STOP_GRACE))
            raise _shutting_down()
        return child, started

    @staticmethod
    def _once(action: Callable[[], None]) -> Callable[[], None]:
        rest = [action]

        def call() -> None:
            if rest:
                rest.pop()()

        return call

    def _one_started(self, began: float) -> None:
        self._starting -= 1
        cheap = asyncio.get_running_loop().time() - began < CHEAP_START
        self._most_starting = min(self._most_starting * 2, MOST_CHEAP_STARTS) if cheap else PROCESSORS
        if self._start_turns:
            self._wake_one()
        else:
            self._refill()

    def _wake_one(self) -> None:
        """Let the next request that waits for a child look again."""
        while self._start_turns:
            turn = self._start_turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    # The stock.

    def _refill(self) -> None:
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
        missing = self._settings.waiting - len(self._spares) - self._coming
        wait_until = max(tender_until, self._no_start_before if missing > 0 else 0.0)
        if self._closing:
            return
        if wait_until > now:
            self._refill_at = loop.call_at(wait_until, self._refill)
            return
        for _ in range(min(missing, self._most_starting - self._starting)):
            self._coming += 1
            self._task(self._add_spare())

    async def _add_spare(self) -> None:
        stamp = file_stamp(self._launch.argv[0])
        try:
            child, started = await self._spawn()
        except Rejection:
            self._start_failed()
            return
        finally:
            self._coming -= 1
        spare = _Spare(child, started, asyncio.get_running_loop().time(), stamp)
        self._spares.append(spare)
        child.exited.add_done_callback(lambda _: self._spare_died(spare))
        child.write(commands.list_models())
        spare.attending = asyncio.get_running_loop().create_task(self._attend(spare))
        self._wake_one()

    async def _attend(self, spare: _Spare) -> None:
        """Wait until the child has answered, and learn the models from it."""
        while lines := await spare.child.read():
            for line in lines:
                if isinstance(line, ControlResponse) and line.response.request_id == commands.LIST_MODELS_ID:
                    spare.ready = True
                    self._answers()
                    if line.response.response is not None and line.response.response.models:
                        self.models = tuple(line.response.response.models)
                    self.models_known.set()
                    spare.started()
                    return

    def _spare_died(self, spare: _Spare) -> None:
        if spare in self._spares:
            self._spares.remove(spare)
            words = spare.child.last_words
            self.last_start_error = (
                f"A waiting CLI ended by itself (exit code {spare.child.exit_code}){': ' + words if words else ''}."
            )
            self._task(spare.child.stop(STOP_GRACE))
            self._start_failed()

    def _start_failed(self) -> None:
        log.warning("%s", self.last_start_error)
        self._pause = min(max(FIRST_PAUSE, self._pause * 2), LONGEST_PAUSE)
        self._no_start_before = asyncio.get_running_loop().time() + self._pause
        self._refill()

    async def _look_after(self) -> None:
        """Replace what is old or was started from a CLI that is no longer the one on disk; give up old conversations,
        and all that are parked when memory runs short."""
        while True:
            await asyncio.sleep(ROUND)
            now = asyncio.get_running_loop().time()
            stamp = file_stamp(self._launch.argv[0])
            for spare in tuple(self._spares):
                if spare.stamp != stamp or now - spare.born > self._settings.waiting_age:
                    self._discard(spare)
            left = available()
            low = left is not None and left < LEAST_MEMORY
            for key, parked in tuple(self._parked.items()):
                if low or now - parked.since > self._settings.parked_age:
                    self._unparked(self._parked.pop(key))
            self._refill()


def _shutting_down() -> Rejection:
    return Rejection(Failure(Kind.SHUTTING_DOWN, "The server is shutting down."))
