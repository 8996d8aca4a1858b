"""Requests to a model, in whatever dialect: streamed and whole, one choice or several, one path up to the last step."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

import falcon
import falcon.asgi
import msgspec
from msgspec import Struct

from proxy.cli.exchange import Exchange
from proxy.cli.pool import Pool
from proxy.dialects import Comment, Dialect, Encoder, Event, Identity, Request, Rules, Timing
from proxy.dialects.parameters import told
from proxy.http import fallback
from proxy.http.body import read_json
from proxy.http.edge import TRACE, Trace
from proxy.http.framing import written
from proxy.http.service import Service
from proxy.protocol import native
from proxy.protocol.answer import Fold
from proxy.protocol.deltas import Delta, Failed, Started, Tokens
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.protocol.judging import without_grammars
from proxy.protocol.plan import Plan, tokens_of_plan
from proxy.protocol.shortening import shorter

log: Final = logging.getLogger("proxy.error")
# A stream is begun after this silence, and kept alive at this pace: proxies and clients give up on silent ones.
KEEP_ALIVE_EVERY: Final = 10.0
RESPONSES: Final = "openai-responses"

# Some deltas of one choice.
Part = tuple[int, Sequence[Delta]]
# Some events of a stream.
Told = Sequence[Event | Comment]


def failure_of(error: Exception) -> Failure:
    """What the client is told of an error after the first event."""
    if isinstance(error, Rejection):
        return error.failure
    # A fault of ours: to the client no more than that the answer is not complete.
    log.error("unexpected error in a stream", exc_info=error)
    return Failure(Kind.INTERNAL, f"The proxy failed in mid-answer ({type(error).__name__}); see its log.")


class ModelRequests:
    """The resource; one for each path and dialect. `api`: what is posted to it is put to a model, in this API."""

    def __init__(self, service: Service, dialect: Dialect) -> None:
        self.api = dialect.name
        # Its requests go on from what is stored, which may be large.
        self._from_store = dialect.name == RESPONSES and service.store is not None
        self._service = service
        self._dialect = dialect

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        service, trace = self._service, req.scope[TRACE]
        rules = service.rules_for(req.context.owner)
        request = await read_json(
            req, service.settings.max_body, lambda body: self._dialect.decode(body, rules), large=self._from_store
        )
        trace.requested_model = request.model
        if not request.plans:
            _send(resp, request.encoder(_identity(service, trace)).whole((), Tokens()))
            return
        # All choices have the same tools, and are to have the same form.
        await service.pool.validator.check(req.context.owner, request.plans[0])
        request = await self._checkable(request, rules, req.context.owner)
        await self._answer(Answering(service, self._dialect, request, req.context.owner, trace), req, resp)

    async def _checkable(self, request: Request, rules: Rules, owner: str) -> Request:
        """The request without the grammars that nothing can be checked against, which are named as ignored."""
        unusable = await self._service.pool.validator.unusable(owner, request.plans[0])
        if not unusable:
            return request
        ignored = told((*request.ignored, *sorted(unusable)), rules)
        plans = tuple(without_grammars(plan, unusable) for plan in request.plans)
        return msgspec.structs.replace(request, plans=plans, ignored=ignored)

    async def _answer(self, answering: Answering, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        await answering.respond(resp)


def _identity(service: Service, trace: Trace) -> Identity:
    def timing() -> Timing:
        return Timing(trace.at, trace.seconds, trace.first_delta)

    return Identity(uuid.uuid4().hex, int(time.time()), service.fingerprint, timing)


def _send(resp: falcon.asgi.Response, whole: Struct) -> None:
    resp.data = msgspec.json.encode(whole)
    resp.content_type = falcon.MEDIA_JSON


async def _kept_nowhere(encoder: Encoder) -> None:
    pass


class Answering:
    """One request while it is answered. `keep` is called once the answer has ended, before its end is told; of
    one that has not failed it may raise Rejection, which fails it."""

    def __init__(self, service: Service, dialect: Dialect, request: Request, owner: str, trace: Trace) -> None:
        self.keep: Callable[[Encoder], Awaitable[None]] = _kept_nowhere
        self._service = service
        self._dialect = dialect
        self.request = request
        self.trace = trace
        self.encoder = request.encoder(_identity(service, trace))
        self.owner = owner
        # Of each choice: what it was asked last, and where.
        self._plans = list(request.plans)
        self._pools = [service.pool for _ in request.plans]
        self._exchanges = [self._exchange(service.pool, plan) for plan in request.plans]
        self._fallen_back: set[int] = set()
        # Messages without which it was asked again.
        self._left_out = 0
        # What has been given up for another way: it may have cost something.
        self._given_up: list[Exchange] = []

    def _exchange(self, pool: Pool, plan: Plan) -> Exchange:
        request = self.request
        return Exchange(
            pool, plan, self.owner, streamed=request.stream, stop=request.stop, request=self.trace.id,
            to_disk=request.to_disk,
        )  # fmt: skip

    @property
    def _unvalidated(self) -> bool:
        return any(exchange.unvalidated for exchange in self._exchanges)

    @property
    def _tokens(self) -> Tokens:
        return sum((exchange.tokens for exchange in (*self._exchanges, *self._given_up)), Tokens())

    @property
    def _estimated(self) -> int:
        asked = zip(self._exchanges, self._plans, strict=True)
        unsaid = ((each.attempts, plan) for each, plan in asked if each.attempts and each.tokens == Tokens())
        return sum(attempts * tokens_of_plan(plan) for attempts, plan in unsaid)

    async def respond(self, resp: falcon.asgi.Response) -> None:
        """Make `resp` the answer. Raises Rejection for what fails before anything can go out."""
        if self.request.stream:
            events = self.trace.answer = self.events()
            # A failure before the first event raises here, and becomes an HTTP status.
            first = await anext(events)
            self.mark(resp)
            resp.content_type = self._dialect.framing.content_type
            resp.set_header("cache-control", "no-cache")
            resp.set_header("x-accel-buffering", "no")
            resp.stream = self._stream(first, events)
            return
        folds = [Fold() for _ in self._exchanges]
        parts = self.trace.answer = self._parts()
        async for batch in parts:
            for choice, deltas in batch:
                folds[choice].take(deltas)
        self.mark(resp)
        whole = self.encoder.whole([fold.answer() for fold in folds], self._tokens)
        await self.keep(self.encoder)
        _send(resp, whole)

    def mark(self, resp: falcon.asgi.Response) -> None:
        """Say in headers how the request was served, and what of it had no effect."""
        if self._exchanges[0].attempts:
            # Not known yet of a stream that begins while its request is still in the queue.
            resp.set_header("x-claude-proxy-served", self._exchanges[0].served)
        if self._service.demo:
            resp.set_header("x-claude-proxy-demo", "recorded")
        if self._left_out:
            resp.set_header("x-claude-proxy-truncated", str(self._left_out))
        if self.trace.fallback:
            resp.set_header(fallback.HEADER, self.trace.fallback)
        emulated = frozenset[str]().union(*(exchange.emulated for exchange in self._exchanges))
        ignored = (*(name for name in native.SAMPLING if name in emulated), *self.request.ignored)
        if ignored:
            resp.set_header("x-ignored-params", ", ".join(ignored))
        if stand_ins := [name for name in native.FIELDS if name in emulated and name not in native.SAMPLING]:
            resp.set_header("x-claude-proxy-emulated", ", ".join(stand_ins))
        if any(exchange.tool_choice_unmet for exchange in self._exchanges):
            resp.set_header("x-claude-proxy-tool-choice", "unmet")
        if self._unvalidated:
            resp.set_header("x-claude-proxy-validation", "skipped")

    async def _stream(self, first: Told, rest: AsyncIterator[Told]) -> AsyncIterator[bytes]:
        """The bytes of a stream that has begun: a failure becomes an event of it, and its end."""
        framing = self._dialect.framing
        for piece in written(framing, first):
            yield piece
        try:
            async for events in rest:
                for piece in written(framing, events):
                    yield piece
            self.trace.complete = True
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            events = self.encoder.fail(failure_of(error))
        await self.keep(self.encoder)
        for piece in written(framing, events):
            yield piece

    async def events(self, opening: Sequence[Event] | None = None) -> AsyncGenerator[Told, None]:
        """The events, some at a time; those that come together are written together.

        `opening`: what of it has been told before. A silence of `KEEP_ALIVE_EVERY`, or as long without an event, is a
        keep-alive. Raises Rejection on failure.
        """
        encoder, trace = self.encoder, self.trace
        told_at = trace.seconds
        async with aclosing(self._parts()) as parts:
            async for batch in parts:
                events: list[Event | Comment] = [
                    event for choice, deltas in batch for event in encoder.feed(choice, deltas)
                ]
                if not events and batch and trace.seconds - told_at < KEEP_ALIVE_EVERY:
                    continue
                told_at = trace.seconds
                if opening is None:
                    opening = encoder.open()
                    events = [*opening, *events]
                if not events:
                    events = [encoder.idle()]
                yield events
        skipped = (Comment("validation skipped"),) if self._unvalidated else ()
        # Of an answer that says nothing there has been no event yet.
        ending = (*(encoder.open() if opening is None else ()), *skipped, *encoder.close(self._tokens))
        await self.keep(encoder)
        # A client that closes as soon as it has the last event, as Codex does, has had its whole answer.
        trace.complete = True
        yield ending

    async def _parts(self) -> AsyncGenerator[Sequence[Part], None]:
        """All choices' deltas, some at a time; nothing after every silence. Raises Rejection on failure."""
        trace = self.trace
        choices = [self._choice(index) for index in range(len(self._exchanges))]
        try:
            async with aclosing(choices[0] if len(choices) == 1 else _merged(choices)) as parts:
                async for batch in parts:
                    if trace.first_delta is None and any(deltas for _, deltas in batch):
                        trace.first_delta = trace.seconds
                    yield batch
            self._service.succeeded()
        except Rejection as rejection:
            self._service.failed(rejection.failure)
            trace.outcome = rejection.failure.kind.value
            raise
        finally:
            trace.served = "demo" if self._service.demo else self._exchanges[0].served
            trace.not_continued = "" if self._service.demo else self._exchanges[0].not_continued
            trace.tokens, trace.estimated = self._tokens, self._estimated
            trace.web_searches = trace.tokens.searches
            trace.attempts = sum(exchange.attempts for exchange in (*self._exchanges, *self._given_up))
            trace.invalid_calls = sum(exchange.invalid_calls for exchange in self._exchanges)

    async def _choice(self, index: int) -> AsyncGenerator[Sequence[Part], None]:
        """One choice's deltas, likewise; asked again in another way, if there is one."""
        begun = False
        while True:
            try:
                async with aclosing(self._asked(index)) as answer:
                    async for part in answer:
                        begun = begun or bool(part)
                        yield part
                return
            except Rejection as rejection:
                again = None if begun else await self._again(index, rejection.failure)
                if again is None:
                    raise
            self._given_up.append(self._exchanges[index])
            self._exchanges[index] = again

    async def _again(self, index: int, failure: Failure) -> Exchange | None:
        """What may answer after this failure: without the oldest turns, if they are too many and the client agrees; by
        the fallback, if the plan is used up and there is one."""
        plan = self._plans[index]
        if failure.kind is Kind.PROMPT_TOO_LONG:
            left = shorter(plan) if self.request.shorten else None
            if left is None:
                return None
            self._left_out += len(plan.messages) - len(left.messages)
            self._plans[index] = left
            return self._exchange(self._pools[index], left)
        other = None if index in self._fallen_back else self._service.fallback
        way = None if other is None else await other.way(failure, plan)
        if other is None or way is None:
            return None
        self.trace.fallback, self.trace.login = way.name, way.login
        self._plans[index], self._pools[index] = way.plan, way.pool
        self._fallen_back.add(index)
        if way.login:
            self.trace.ended.append(other.ended)
        return self._exchange(way.pool, way.plan)

    async def _asked(self, index: int) -> AsyncGenerator[Sequence[Part], None]:
        """What the choice's exchange gives."""
        async with aclosing(self._exchanges[index].deltas(KEEP_ALIVE_EVERY)) as answer:
            async for deltas in answer:
                if deltas and isinstance(deltas[0], Started):
                    self.trace.model = deltas[0].model
                last = deltas[-1] if deltas else None
                if isinstance(last, Failed):
                    if len(deltas) > 1:
                        yield ((index, deltas[:-1]),)
                    raise Rejection(last.failure)
                yield ((index, deltas),) if deltas else ()


async def _merged(choices: Sequence[AsyncGenerator[Sequence[Part], None]]) -> AsyncGenerator[Sequence[Part], None]:
    """What several choices give, as it comes; the first failure is that of all."""
    ready: asyncio.Queue[Sequence[Part] | BaseException | None] = asyncio.Queue(maxsize=len(choices))

    async def pump(choice: AsyncGenerator[Sequence[Part], None]) -> None:
        try:
            async with aclosing(choice):
                async for part in choice:
                    await ready.put(part)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised again where the parts are read
            await ready.put(error)
        else:
            await ready.put(None)

    tasks = [asyncio.create_task(pump(choice)) for choice in choices]
    part: Sequence[Part] | BaseException | None = None
    try:
        running = len(tasks)
        while running:
            part = await ready.get()
            if isinstance(part, BaseException):
                raise part
            if part is None:
                running -= 1
            else:
                yield part
    finally:
        # An error has this frame, which would keep it with all that the request holds.
        part = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
