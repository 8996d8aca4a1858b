"""Answers to completions of any kind, streamed and whole, one choice or several: one path up to the last step."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Final, Generic, Protocol, TypeVar

import falcon
import falcon.asgi
import msgspec
from msgspec import Struct

from proxy.cli.exchange import Exchange
from proxy.http import sse
from proxy.http.edge import Trace
from proxy.http.service import Service
from proxy.protocol.chat import Identity
from proxy.protocol.failures import Rejection
from proxy.protocol.plan import Plan
from proxy.protocol.turn import Delta, Failed, Finished, Tokens

# A stream is begun after this silence, and kept alive at this pace: proxies and clients give up on silent ones.
KEEP_ALIVE_EVERY: Final = 10.0

C = TypeVar("C", bound=Struct)
C_co = TypeVar("C_co", bound=Struct, covariant=True)


class Feeder(Protocol[C_co]):
    """Deltas of one choice in, chunks out."""

    model: str

    def feed(self, deltas: Iterable[Delta]) -> Sequence[C_co]: ...


class Job(Struct, Generic[C], frozen=True):
    """One request, whatever its kind of chunks. `plans`: one for every choice."""

    identity: Identity
    plans: tuple[Plan, ...]
    model: str
    stream: bool
    stop: tuple[str, ...]
    ignored: tuple[str, ...]
    feeder: Callable[[int], Feeder[C]]
    usage_chunk: Callable[[str, Tokens], C]
    fold: Callable[[Sequence[C], Tokens], Struct]


def new_identity(service: Service, prefix: str, with_usage: bool) -> Identity:
    """What all chunks of an answer that begins now share."""
    return Identity(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), service.fingerprint, with_usage)


async def answer(service: Service, job: Job[C], owner: str, trace: Trace, resp: falcon.asgi.Response) -> None:
    """Run the job and make `resp` its answer. Raises Rejection for what fails before anything can go out."""
    trace.asked = job.model
    exchanges = [
        Exchange(service.pool, plan, owner, streamed=job.stream, stop=job.stop, request=trace.id) for plan in job.plans
    ]
    parts = trace.answer = _parts(service, job, exchanges, trace)
    # A failure before the first chunk raises here, and becomes an HTTP status.
    first = await anext(parts)
    _mark(service, resp, job, exchanges)
    if job.stream:
        resp.content_type = sse.CONTENT_TYPE
        resp.set_header("cache-control", "no-cache")
        resp.set_header("x-accel-buffering", "no")
        resp.stream = sse.stream(first, parts)
        return
    chunks = [*first]
    async for more in parts:
        chunks += more
    # An answer that is whole may have changed since its first chunk: which conversation, which tries.
    _mark(service, resp, job, exchanges)
    assert trace.tokens is not None
    resp.data = msgspec.json.encode(job.fold(chunks, trace.tokens))
    resp.content_type = falcon.MEDIA_JSON


def _mark(service: Service, resp: falcon.asgi.Response, job: Job[C], exchanges: Sequence[Exchange]) -> None:
    """Say in headers how the request was served, and what of it had no effect."""
    if exchanges[0].asks:
        # Not known yet of a stream that begins while its request is still in the queue.
        resp.set_header("x-claude-proxy-served", exchanges[0].served)
    if service.demo:
        resp.set_header("x-claude-proxy-demo", "recorded")
    if job.ignored:
        resp.set_header("x-ignored-params", ", ".join(job.ignored))
    if any(exchange.uncalled for exchange in exchanges):
        resp.set_header("x-claude-proxy-tool-choice", "unmet")


async def _parts(
    service: Service, job: Job[C], exchanges: Sequence[Exchange], trace: Trace
) -> AsyncGenerator[Sequence[C], None]:
    """All choices' chunks, some at a time; an empty list after every silence of `KEEP_ALIVE_EVERY`.

    Raises Rejection on failure.
    """
    choices = [_choice(job.feeder(index), exchange, trace) for index, exchange in enumerate(exchanges)]
    used = Tokens()
    try:
        async with aclosing(choices[0] if len(choices) == 1 else _merged(choices)) as parts:
            async for chunks, tokens in parts:
                used += tokens
                yield chunks
        service.succeeded()
        if job.identity.with_usage:
            yield [job.usage_chunk(trace.model, used)]
    except Rejection as rejection:
        service.failed(rejection.failure)
        trace.outcome = rejection.failure.kind.value
        raise
    finally:
        trace.served = "demo" if service.demo else exchanges[0].served
        trace.tokens = sum((exchange.tokens for exchange in exchanges), Tokens())
        trace.asks = sum(exchange.asks for exchange in exchanges)
        trace.odd_calls = sum(exchange.odd_calls for exchange in exchanges)


async def _choice(
    feeder: Feeder[C], exchange: Exchange, trace: Trace
) -> AsyncGenerator[tuple[Sequence[C], Tokens], None]:
    """One choice's chunks, some at a time, with the tokens that they end. Deltas of which none go out are silence."""
    told_at = trace.seconds
    async with aclosing(exchange.deltas(KEEP_ALIVE_EVERY)) as answer:
        async for deltas in answer:
            out = feeder.feed(deltas)
            trace.model = feeder.model or trace.model
            last = deltas[-1] if deltas else None
            if isinstance(last, Failed):
                if out:
                    yield out, Tokens()
                raise Rejection(last.failure)
            if out and trace.first_delta is None:
                trace.first_delta = trace.seconds
            if out or not deltas or trace.seconds - told_at >= KEEP_ALIVE_EVERY:
                told_at = trace.seconds
                yield out, last.tokens if isinstance(last, Finished) else Tokens()


async def _merged(
    choices: Sequence[AsyncGenerator[tuple[Sequence[C], Tokens], None]],
) -> AsyncGenerator[tuple[Sequence[C], Tokens], None]:
    """What several choices give, as it comes; the first failure is that of all."""
    ready: asyncio.Queue[tuple[Sequence[C], Tokens] | BaseException | None] = asyncio.Queue(maxsize=len(choices))

    async def pump(choice: AsyncGenerator[tuple[Sequence[C], Tokens], None]) -> None:
        try:
            async with aclosing(choice):
                async for part in choice:
                    await ready.put(part)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised again where the parts are read
            await ready.put(error)
        else:
            await ready.put(None)

    tasks = [asyncio.create_task(pump(choice)) for choice in choices]
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
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
