"""`POST /v1/chat/completions`, streamed and whole, one choice or several: one path up to the last step."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

import falcon
import falcon.asgi
import msgspec

from proxy.cli.exchange import Exchange
from proxy.http import sse
from proxy.http.edge import TRACE, Trace
from proxy.http.guard import read_json
from proxy.http.service import Service
from proxy.protocol import request as requests
from proxy.protocol.chat import Chunk, Chunks, Identity, fold, usage_chunk
from proxy.protocol.failures import Rejection
from proxy.protocol.request import Request
from proxy.protocol.turn import Failed, Finished, Tokens

# A stream is begun after this silence, and kept alive at this pace: proxies and clients give up on silent ones.
KEEP_ALIVE_EVERY: Final = 10.0

Answer = AsyncGenerator[list[Chunk], None]


class ChatCompletions:
    """The resource."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        service = self._service
        trace: Trace = req.scope[TRACE]
        request = requests.decode(await read_json(req, service.settings.max_body), service.rules)
        trace.asked = request.model
        identity = Identity(
            f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), service.fingerprint, request.include_usage
        )
        exchanges = [
            Exchange(service.pool, request.plan, req.context.key_name, streamed=request.stream, stop=request.stop)
            for _ in range(request.n)
        ]
        answer = trace.answer = self._answer(request, exchanges, identity, trace)
        # A failure before the first chunk raises here, and becomes an HTTP status.
        first = await anext(answer)
        self._mark(resp, request, exchanges)
        if request.stream:
            resp.content_type = sse.CONTENT_TYPE
            resp.set_header("cache-control", "no-cache")
            resp.set_header("x-accel-buffering", "no")
            resp.stream = sse.stream(first, answer)
            return
        chunks = [*first]
        async for more in answer:
            chunks += more
        # An answer that is whole may have changed since its first chunk: which conversation, which tries.
        self._mark(resp, request, exchanges)
        assert trace.tokens is not None
        resp.data = msgspec.json.encode(fold(chunks, trace.tokens))
        resp.content_type = falcon.MEDIA_JSON

    @staticmethod
    def _mark(resp: falcon.asgi.Response, request: Request, exchanges: Sequence[Exchange]) -> None:
        """Say in headers how the request was served, and what of it had no effect."""
        resp.set_header("x-claude-proxy-served", exchanges[0].served)
        if request.ignored:
            resp.set_header("x-ignored-params", ", ".join(request.ignored))
        if any(exchange.uncalled for exchange in exchanges):
            resp.set_header("x-claude-proxy-tool-choice", "unmet")

    async def _answer(
        self, request: Request, exchanges: Sequence[Exchange], identity: Identity, trace: Trace
    ) -> Answer:
        """All choices' chunks, some at a time; an empty list after every silence of `KEEP_ALIVE_EVERY`.

        Raises Rejection on failure.
        """
        choices = [self._choice(request, exchange, identity, index) for index, exchange in enumerate(exchanges)]
        used = Tokens()
        try:
            async with aclosing(choices[0] if len(choices) == 1 else _merged(choices)) as parts:
                async for chunks, tokens in parts:
                    used += tokens
                    if chunks:
                        trace.model = chunks[0].model
                    yield chunks
            self._service.succeeded()
            trace.tokens = used
            if request.include_usage:
                yield [usage_chunk(identity, trace.model, used)]
        except Rejection as rejection:
            self._service.failed(rejection.failure)
            trace.outcome = rejection.failure.kind.value
            raise
        finally:
            trace.served = exchanges[0].served
            for exchange in exchanges:
                self._service.limits = exchange.limits or self._service.limits

    async def _choice(
        self, request: Request, exchange: Exchange, identity: Identity, index: int
    ) -> AsyncGenerator[tuple[list[Chunk], Tokens], None]:
        """One choice's chunks, some at a time, with the tokens that they end."""
        style, thinking = request.tool_use.style, self._service.settings.reasoning
        chunks = Chunks(identity, index, style, thinking=thinking)
        async with aclosing(exchange.deltas(KEEP_ALIVE_EVERY)) as answer:
            async for deltas in answer:
                out = chunks.feed(deltas)
                last = deltas[-1] if deltas else None
                if isinstance(last, Failed):
                    if out:
                        yield out, Tokens()
                    raise Rejection(last.failure)
                if out or not deltas:
                    yield out, last.tokens if isinstance(last, Finished) else Tokens()


async def _merged(
    choices: Sequence[AsyncGenerator[tuple[list[Chunk], Tokens], None]],
) -> AsyncGenerator[tuple[list[Chunk], Tokens], None]:
    """What several choices give, as it comes; the first failure is that of all."""
    ready: asyncio.Queue[tuple[list[Chunk], Tokens] | BaseException | None] = asyncio.Queue(maxsize=len(choices))

    async def pump(choice: AsyncGenerator[tuple[list[Chunk], Tokens], None]) -> None:
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
