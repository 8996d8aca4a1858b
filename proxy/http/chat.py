"""`POST /v1/chat/completions`, streamed and whole: one path up to the last step."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
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
from proxy.protocol.turn import Failed, Finished

# A stream is begun after this silence, and kept alive at this pace: proxies and clients give up on silent ones.
KEEP_ALIVE_EVERY: Final = 10.0


class ChatCompletions:
    """The resource."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        trace: Trace = req.scope[TRACE]
        body = await read_json(req, self._service.settings.max_body)
        request = requests.decode(body, self._service.model_for)
        trace.asked = request.model
        identity = Identity(
            f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), self._service.fingerprint, request.include_usage
        )
        if request.ignored:
            resp.set_header("x-ignored-params", ", ".join(request.ignored))
        exchange = Exchange(self._service.pool, request.plan, req.context.key_name)
        answer = self._chunks(request, exchange, identity, trace)
        trace.answer = answer
        # A failure before the first chunk raises here, and becomes an HTTP status.
        first = await anext(answer)
        resp.set_header("x-claude-proxy-served", exchange.served)
        if exchange.uncalled:
            resp.set_header("x-claude-proxy-tool-choice", "unmet")
        if request.stream:
            resp.content_type = sse.CONTENT_TYPE
            resp.set_header("cache-control", "no-cache")
            resp.set_header("x-accel-buffering", "no")
            resp.stream = sse.stream(first, answer)
            return
        chunks = [*first]
        async for more in answer:
            chunks += more
        assert trace.tokens is not None
        resp.data = msgspec.json.encode(fold(chunks, trace.tokens))
        resp.content_type = falcon.MEDIA_JSON

    async def _chunks(
        self, request: Request, exchange: Exchange, identity: Identity, trace: Trace
    ) -> AsyncGenerator[list[Chunk], None]:
        """The answer, some chunks at a time; an empty list after every silence of `KEEP_ALIVE_EVERY`.

        Raises Rejection on failure.
        """
        service = self._service
        chunks = Chunks(identity, style=request.tool_use.style)
        try:
            async with aclosing(exchange.deltas(KEEP_ALIVE_EVERY)) as answer:
                async for deltas in answer:
                    out = chunks.feed(deltas)
                    last = deltas[-1] if deltas else None
                    if isinstance(last, Failed):
                        if out:
                            yield out
                        service.failed(last.failure)
                        trace.outcome = last.failure.kind.value
                        raise Rejection(last.failure)
                    if isinstance(last, Finished):
                        trace.model, trace.tokens = chunks.model, last.tokens
                        service.succeeded()
                        if request.include_usage:
                            out.append(usage_chunk(identity, chunks.model, last.tokens))
                    yield out
        finally:
            trace.served = exchange.served
            service.limits = exchange.limits or service.limits
