"""Conversations: a slot and a process for each request, those kept for their next message, and the queue for slots.

- There are two kinds of processes, see `launch`: those that may search the web serve only requests that ask for it. One
  of them is kept idle only while there are such requests.
- A conversation whose answer has ended well is parked with its child under a fingerprint of all that it holds. The next
  request that extends exactly it goes on there. Parked ones are bounded in number and age; losing one costs time only.
- A slot is held from before the child is taken until `release`, which is when the stream has really ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from proxy.cli import capacity, memory
from proxy.cli import launch as launches
from proxy.cli.capacity import Memory
from proxy.cli.conversation import UNOBSERVED, Conversation, Observer, Timeouts
from proxy.cli.limiter import FairLimiter
from proxy.cli.parked import NotContinued, ParkedConversations
from proxy.cli.plan_limits import PlanLimits
from proxy.cli.process import STOP_GRACE, Child, Launch
from proxy.cli.recall import Recall
from proxy.cli.refusals import Refusals
from proxy.cli.validator import Validator
from proxy.cli.warm_pool import WarmPool
from proxy.offload import off_loop
from proxy.protocol import caching, fingerprint
from proxy.protocol.failures import SHUTTING_DOWN, Kind, Rejection
from proxy.protocol.lines import ModelUse
from proxy.protocol.plan import CacheLife, Plan, size_of_plan
from proxy.settings import Settings

log: Final = logging.getLogger("proxy.pool")
# How often (seconds) age, memory and the CLI's file are looked at.
ROUND: Final = 5.0
# An answer's cost follows it within milliseconds; the child of a conversation that is to end gets this long to say it.
COST_WAIT: Final = 1.0
# How long the CLI has the prompt cache keep what it marks, by login. Others may not know of such times at all.
CACHE_LIFE: Final[Mapping[str, CacheLife]] = {"subscription": "1h", "api-key": "5m"}


class Counts(Struct, frozen=True):
    """The pool at a moment."""

    waiting: int
    starting: int
    busy: int
    parked: int
    queued: int
    # Bytes that all processes take together, as far as they have been measured; None: not known.
    memory: int | None = None


Served = Literal["new", "continued", "replayed"]


class Lease(Struct, frozen=True):
    """One request's hold on a slot and the conversation in it. `fingerprint`: of all messages that the request holds;
    `answers`: of its messages up to each answer in them.

    `plan`: the request's, with past answers as the model wrote them where they are known, and marked for the prompt
    cache so that they are found there. `not_continued`: why earlier turns had to be put in again; empty if there are
    none, or if it is continued.
    """

    conversation: Conversation
    served: Served
    fingerprint: bytes
    plan: Plan
    owner: str = ""
    not_continued: NotContinued = ""
    answers: tuple[bytes, ...] = ()


class Pool:
    """See the module. `start` it, `open` a conversation for every request, `release` it, `close` the pool."""

    def __init__(
        self,
        settings: Settings,
        launch: Launch,
        start: Callable[[Launch], Awaitable[Child]] = Child.start,
        observer: Observer = UNOBSERVED,
        validator: Validator | None = None,
        refusals: Refusals | None = None,
        recall: Recall | None = None,
    ) -> None:
        self.validator = validator or Validator()
        self.validator.make_room = self._make_room
        # What models have refused, and whether what has no effect is refused here.
        self.refusals = refusals or Refusals()
        self.strict = settings.strict_params
        self._settings = settings
        self._observer = observer
        self._timeouts = Timeouts(settings.idle_timeout, settings.total_timeout)
        self.warm_pool = WarmPool(settings, launch, start, self._in_background)
        self._search_pool = WarmPool(settings, launches.searching(launch), start, self._in_background)
        self._warm_pools = (self.warm_pool, self._search_pool)
        self._limiter = FairLimiter(settings.max_conversations, settings.max_queue, settings.queue_wait)
        self._busy: dict[Conversation, Lease] = {}
        # Processes that count, or say something else that is no answer.
        self._spare: set[Conversation] = set()
        self._parked = ParkedConversations(self._end, self._learn_models)
        self._memory = Memory(None, None)
        self._max_parked = capacity.max_parked(settings.parked, self._memory, 0, capacity.PARKED_COST)
        self._last_request = 0.0
        self._last_search = -math.inf
        self._tasks: set[asyncio.Task[None]] = set()
        self._round: asyncio.Task[None] | None = None
        self._closing = False
        self.models_used: dict[str, ModelUse] = {}
        self._recall = recall or Recall(time.monotonic)
        self.plan_limits = PlanLimits(settings.limit_retry)
        # Whether this CLI keeps the first message of a past to itself (`Dialogue`).
        self.keeps_first = True

    @property
    def counts(self) -> Counts:
        return Counts(
            sum(pool.waiting for pool in self._warm_pools),
            sum(pool.starting for pool in self._warm_pools),
            len(self._busy) + len(self._spare), len(self._parked), len(self._limiter),
            self._processes_memory(),
        )  # fmt: skip

    @property
    def models_held(self) -> dict[str, ModelUse]:
        """The models that have answered in the conversations that are alive."""
        alive = (*self._busy, *self._parked)
        return {name: used for conversation in alive for name, used in conversation.models_used.items()}

    @property
    def closing(self) -> bool:
        return self._closing

    async def start(self) -> None:
        """Begin to keep processes idle. Returns at once."""
        loop = asyncio.get_running_loop()
        self._last_request = loop.time()
        self._round = loop.create_task(self._look_after())
        self._memory = memory.read()
        self._adjust()
        self.warm_pool.refill()
        if self._settings.waiting:
            self._in_background(self.validator.warm())

    async def open(self, plan: Plan, owner: str) -> Lease:
        """A conversation for `plan`; `Rejection` when there is no room or no child. The caller must `release` it.

        `owner`: of the API key, to whose requests a parked conversation belongs.
        """
        # First of all: the queue is what bounds how many large plans there are at once.
        await self._limiter.acquire(owner)
        not_continued: NotContinued = ""
        try:
            size = size_of_plan(plan)
            before, keys = await off_loop(size, fingerprint.of_all, plan, owner)
            answers = tuple(key for key, each in zip(keys, plan.messages, strict=True) if each.role == "assistant")
            self._last_request = asyncio.get_running_loop().time()
            if plan.search is not None:
                self._last_search = self._last_request
            conversation = await self._parked.take(before, *plan.ending)
            served: Served = "continued"
            if conversation is None:
                served = "new" if len(plan.messages) == 1 else "replayed"
                if served == "replayed":
                    last = await off_loop(size, fingerprint.of_last_answer, plan, owner)
                    not_continued = self._parked.why_not(before, (last, *keys[:-1]))
                await self._recall.load(answers)
                conversation = await self._child(search=plan.search is not None)
            self._adjust()
        except BaseException:
            self._limiter.release(owner)
            raise
        plan = self._recall.whole(plan, keys)
        ttl = CACHE_LIFE.get(self._settings.login)
        if ttl is not None:
            plan = caching.remarked(plan, keys, self._parked.known, ttl)
        return self._begun(Lease(conversation, served, keys[-1], plan, owner, not_continued, answers))

    @contextlib.asynccontextmanager
    async def spare(self, owner: str, *, search: bool = False) -> AsyncIterator[Conversation]:
        """A slot and a process for what is to be neither answered nor gone on with; it is ended afterwards.

        `owner`: of the API key; `search`: the process may search the web. Raises Rejection, as `open` does.
        """
        await self._limiter.acquire(owner)
        conversation: Conversation | None = None
        try:
            self._last_request = asyncio.get_running_loop().time()
            conversation = await self._child(search=search)
            self._spare.add(conversation)
            self._request_sent(conversation)
            yield conversation
        except Rejection as rejection:
            if self._closing and rejection.failure.kind is Kind.CLI_DIED:
                raise Rejection(SHUTTING_DOWN) from None
            raise
        finally:
            if conversation is not None:
                self._spare.discard(conversation)
                self._in_background(conversation.child.stop(STOP_GRACE))
                self._first_token(conversation)
            self._limiter.release(owner)

    async def renew(self, lease: Lease) -> Lease:
        """The same slot with another conversation, on a new child, for one that was continued and has died.

        When that fails `lease` is still the caller's to release.
        """
        conversation = await self._child(search=lease.plan.search is not None)
        if self._busy.pop(lease.conversation, None) is None:
            self._end(conversation)
            raise Rejection(SHUTTING_DOWN)
        renewed = self._begun(
            msgspec.structs.replace(lease, conversation=conversation, served="replayed", not_continued="ended")
        )
        self._first_token(lease.conversation)
        self._end(lease.conversation)
        return renewed

    def _begun(self, lease: Lease) -> Lease:
        self._busy[lease.conversation] = lease
        self._request_sent(lease.conversation)
        return lease

    def _request_sent(self, conversation: Conversation) -> None:
        for pool in self._warm_pools:
            pool.request_sent(conversation)

    def _first_token(self, conversation: Conversation) -> None:
        for pool in self._warm_pools:
            pool.first_token(conversation)

    def first_delta(self, lease: Lease) -> None:
        """The answer has begun: the processor may be used for something else."""
        self._first_token(lease.conversation)

    def release(self, lease: Lease, *, keep: bool = False, to_disk: bool = False) -> None:
        """The answer has ended, or nobody waits for it any more: the slot is free, the child goes.

        `keep`: the answer ended well and is what the client has; then the conversation is parked, if it can be.
        `to_disk`: what the model wrote may be kept there.
        """
        conversation = lease.conversation
        if self._busy.pop(conversation, None) is None:
            return
        kept = False
        try:
            kept = keep and not self._closing and self._keep(lease, to_disk=to_disk)
        finally:
            if not kept:
                self._end(conversation)
            self._limiter.release(lease.owner)
            self._first_token(conversation)

    def _keep(self, lease: Lease, *, to_disk: bool) -> bool:
        """Park the conversation under the fingerprints of its messages with the answer, as clients may send it back.
        Not if it says nothing."""
        answer = lease.conversation.answer.answer()
        echoes = fingerprint.echoes(answer)
        if not echoes:
            return False
        known = fingerprint.defaults(lease.plan.tools, echoes[:1])
        keys = fingerprint.of_echoes(lease.fingerprint, echoes, known)
        self._recall.keep(keys[0], answer, known, others=keys[1:])
        self._parked.seen(lease.fingerprint, *keys, fingerprint.alone(echoes[0], lease.owner, known))
        if to_disk:
            self._in_background(self._recall.save(keys, lease.answers))
        lease.conversation.answer.forget()
        self._parked.park([fingerprint.under(lease.plan, key) for key in keys], lease.conversation)
        self._parked.trim(self._max_parked)
        return True

    def _end(self, conversation: Conversation, settling: asyncio.Task[bool] | None = None) -> None:
        """End the child, after the CLI has said what answers that ended well have cost: nobody waits for that."""

        async def end() -> None:
            try:
                with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                    async with asyncio.timeout(COST_WAIT):
                        await (settling or conversation.settle())
                        await conversation.learn_cost()
            finally:
                await conversation.child.stop(STOP_GRACE)

        self._in_background(end())

    async def close(self) -> None:
        """End all children; answers still under way end with theirs. Returns when none is left."""
        self._closing = True
        for pool in self._warm_pools:
            pool.close()
        self._limiter.close(Rejection(SHUTTING_DOWN))
        for lease in tuple(self._busy.values()):
            self.release(lease)
        for conversation in (*self._spare, *self._parked.close()):
            self._in_background(conversation.child.stop(STOP_GRACE))
        if self._round is not None:
            self._round.cancel()
        await self.validator.close()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _child(self, *, search: bool) -> Conversation:
        pool = self._search_pool if search else self.warm_pool
        while True:
            try:
                child, ready = await pool.child()
            except Rejection as rejection:
                if rejection.failure.kind is not Kind.OVERLOADED or not await self._make_room():
                    raise
            else:
                return Conversation(child, self._timeouts, self._settings.system_prompt_mode, ready, self._observer)

    async def _make_room(self) -> bool:
        """Give up half of what is parked, and wait for the end of its processes: the system has no more processes,
        threads or descriptors to give. False: nothing was parked."""
        before = tuple(self._parked)
        self._parked.trim(len(before) // 2)
        ending = [conversation.child.exited for conversation in set(before).difference(self._parked)]
        if ending:
            await asyncio.wait(ending, timeout=COST_WAIT + STOP_GRACE)
        return bool(ending)

    async def _look_after(self) -> None:
        """Give up old conversations, and those for which memory is short; look after the warm pool."""
        while True:
            await asyncio.sleep(ROUND)
            try:
                await self._look()
            except Exception:
                # No thread is left, say: the next round may find one.
                log.exception("The processes could not be looked after this time")

    async def _look(self) -> None:
        self._memory = memory.read()
        self._parked.expire(self._settings.parked_age)
        self._adjust()
        for pool in self._warm_pools:
            pool.replace_old()
        await self._measure()

    def _adjust(self) -> None:
        """Keep as many processes as settings, memory and use allow."""
        now = asyncio.get_running_loop().time()
        quiet = now - self._last_request
        settings, parked = self._settings, len(self._parked)
        cost = _average([conversation.child for conversation in self._parked]) or capacity.PARKED_COST
        self._max_parked = capacity.max_parked(settings.parked, self._memory, parked, cost)
        self._parked.trim(self._max_parked)
        self.warm_pool.resize(capacity.max_idle(settings.waiting, self._memory, quiet, self.warm_pool.taken))
        self._search_pool.resize(1 if settings.waiting and now - self._last_search < capacity.QUIET else 0)

    async def _measure(self) -> None:
        """Measure the memory of the process for which that is longest ago: one at a time, it takes milliseconds."""
        parked = (conversation.child for conversation in self._parked)
        child = min((*self._idle, *parked), key=lambda child: child.measured_at, default=None)
        if child is not None:
            child.measured_at = asyncio.get_running_loop().time()
            child.memory = await asyncio.to_thread(memory.pss, child.pid) or child.memory

    @property
    def _idle(self) -> tuple[Child, ...]:
        return tuple(child for pool in self._warm_pools for child in pool.processes)

    def _processes_memory(self) -> int | None:
        idle = self._idle
        used = [conversation.child for conversation in (*self._busy, *self._spare, *self._parked)]
        if not idle and not used:
            return 0
        if _average([*idle, *used]) is None:
            return None
        per_idle, per_used = _average(idle) or capacity.IDLE_COST, _average(used) or capacity.PARKED_COST
        return sum(child.memory or per_idle for child in idle) + sum(child.memory or per_used for child in used)

    def _learn_models(self, conversation: Conversation) -> None:
        self.models_used |= conversation.models_used


def _average(children: Sequence[Child]) -> int | None:
    """The memory of one, of those that have been measured."""
    found = [child.memory for child in children if child.memory is not None]
    return sum(found) // len(found) if found else None
