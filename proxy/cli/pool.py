"""Conversations: a slot and a process for each request, those kept for their next message, and the queue for slots.

- A conversation whose answer has ended well is parked with its child under a fingerprint of all that it holds. The next
  request that extends exactly it goes on there. Parked ones are bounded in number and age; losing one costs time only.
- A slot is held from before the child is taken until `release`, which is when the stream has really ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Literal

from msgspec import Struct

from proxy.cli.conversation import UNOBSERVED, Conversation, Observer, Timeouts
from proxy.cli.limiter import FairLimiter
from proxy.cli.memory import available
from proxy.cli.process import STOP_GRACE, Child, Launch
from proxy.cli.warm_pool import WarmPool
from proxy.protocol import fingerprint
from proxy.protocol.failures import SHUTTING_DOWN, Rejection
from proxy.protocol.lines import ModelUse
from proxy.protocol.plan import Message, Plan
from proxy.settings import Settings

# How often (seconds) age, memory and the CLI's file are looked at.
ROUND: Final = 5.0
# An answer's cost follows it within milliseconds; the child of a conversation that is to end gets this long to say it.
COST_WAIT: Final = 0.5
# Bytes of memory that must be left for conversations to stay parked.
MIN_FREE_MEMORY: Final = 512 * 1024 * 1024


class Counts(Struct, frozen=True):
    """The pool at a moment."""

    waiting: int
    starting: int
    busy: int
    parked: int
    queued: int


Served = Literal["new", "continued", "replayed"]


class Lease(Struct, frozen=True):
    """One request's hold on a slot and the conversation in it. `fingerprint`: of all that the request holds."""

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
        self._observer = observer
        self._timeouts = Timeouts(settings.idle_timeout, settings.total_timeout)
        self.warm_pool = WarmPool(settings, launch, start, self._in_background)
        self._limiter = FairLimiter(settings.max_conversations, settings.max_queue, settings.queue_wait)
        self._busy: dict[Conversation, Lease] = {}
        self._parked: OrderedDict[bytes, _Parked] = OrderedDict()
        # Those that a request is to go on with as soon as they have settled.
        self._settling: set[_Parked] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._round: asyncio.Task[None] | None = None
        self._closing = False
        self.models_used: dict[str, ModelUse] = {}

    @property
    def counts(self) -> Counts:
        return Counts(
            self.warm_pool.waiting, self.warm_pool.starting, len(self._busy), len(self._parked), len(self._limiter)
        )

    @property
    def closing(self) -> bool:
        return self._closing

    async def start(self) -> None:
        """Begin to keep children waiting. Returns at once."""
        self._round = asyncio.get_running_loop().create_task(self._look_after())
        self.warm_pool.refill()

    async def open(self, plan: Plan, owner: str) -> Lease:
        """A conversation for `plan`; `Rejection` when there is no room or no child. The caller must `release` it.

        `owner`: the name of the API key, to whose requests a parked conversation belongs.
        """
        before = fingerprint.of(plan, owner, plan.messages[:-1])
        await self._limiter.acquire(owner)
        try:
            conversation = await self._unpark(before, plan.messages[-1])
            served: Served = "continued"
            if conversation is None:
                served = "new" if len(plan.messages) == 1 else "replayed"
                conversation = await self._child()
        except BaseException:
            self._limiter.release(owner)
            raise
        return self._begun(Lease(conversation, served, fingerprint.extend(before, plan.messages[-1]), owner))

    async def renew(self, lease: Lease) -> Lease:
        """The same slot with another conversation, on a new child, for one that was continued and has died.

        When that fails `lease` is still the caller's to release.
        """
        conversation = await self._child()
        if self._busy.pop(lease.conversation, None) is None:
            self._end(conversation)
            raise Rejection(SHUTTING_DOWN)
        renewed = self._begun(Lease(conversation, "replayed", lease.fingerprint, lease.owner))
        self.warm_pool.first_token(lease.conversation)
        self._end(lease.conversation)
        return renewed

    def _begun(self, lease: Lease) -> Lease:
        self._busy[lease.conversation] = lease
        self.warm_pool.request_sent(lease.conversation)
        return lease

    def first_delta(self, lease: Lease) -> None:
        """The answer has begun: the processor may be used for something else."""
        self.warm_pool.first_token(lease.conversation)

    def release(self, lease: Lease, *, keep: bool = False) -> None:
        """The answer has ended, or nobody waits for it any more: the slot is free, the child goes.

        `keep`: the answer ended well and is what the client has; then the conversation is parked, if it can be.
        """
        conversation = lease.conversation
        if self._busy.pop(conversation, None) is None:
            return
        answer = None
        if keep and self._settings.parked and not self._closing:
            answer = fingerprint.echo(conversation.answer.answer())
        if answer is None:
            self._end(conversation)
        else:
            conversation.answer.forget()
            self._park(fingerprint.extend(lease.fingerprint, answer), conversation)
        self._limiter.release(lease.owner)
        self.warm_pool.first_token(conversation)

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
                    async with asyncio.timeout(COST_WAIT):
                        await (settling or conversation.settle())
            finally:
                await conversation.child.stop(STOP_GRACE)

        self._in_background(end())

    async def close(self) -> None:
        """End all children; answers still under way end with theirs. Returns when none is left."""
        self._closing = True
        self.warm_pool.close()
        self._limiter.close(Rejection(SHUTTING_DOWN))
        for lease in tuple(self._busy.values()):
            self.release(lease)
        while self._parked:
            self._unparked(self._parked.popitem()[1])
        for parked in self._settling:
            self._in_background(parked.conversation.child.stop(STOP_GRACE))
        if self._round is not None:
            self._round.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _child(self) -> Conversation:
        child, ready = await self.warm_pool.child()
        return Conversation(child, self._timeouts, self._settings.system_prompt_mode, ready, self._observer)

    async def _look_after(self) -> None:
        """Give up old conversations, and all that are parked when memory runs short; look after the warm pool."""
        while True:
            await asyncio.sleep(ROUND)
            now = asyncio.get_running_loop().time()
            left = available()
            low = left is not None and left < MIN_FREE_MEMORY
            for key, parked in tuple(self._parked.items()):
                if low or now - parked.since > self._settings.parked_age:
                    self._unparked(self._parked.pop(key))
            self.warm_pool.replace_old()
