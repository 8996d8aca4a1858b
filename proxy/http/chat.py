"""`POST /v1/chat/completions`, streamed and whole: one path up to the last step."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Final

import falcon
import falcon.asgi
import msgspec

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
        answer = self._chunks(request, identity, trace)
        # A failure before the first chunk raises here, and becomes an HTTP status.
        first = await anext(answer)
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

    async def _chunks(self, request: Request, identity: Identity, trace: Trace) -> AsyncIterator[list[Chunk]]:
        """The answer, some chunks at a time; an empty list after every silence of `KEEP_ALIVE_EVERY`.

        Raises Rejection on failure. The conversation is released when this ends, in whatever way.
        """
        service = self._service
        conversation = await service.pool.open(request.plan)
        try:
            await conversation.ask_new(request.plan)
            chunks = Chunks(identity)
            over = False
            while not over:
                deltas = await conversation.deltas(KEEP_ALIVE_EVERY)
                out = chunks.feed(deltas)
                if out:
                    service.pool.first_delta(conversation)
                last = deltas[-1] if deltas else None
                if isinstance(last, Failed):
                    if out:
                        yield out
                    service.failed(last.failure)
                    trace.outcome = last.failure.kind.value
                    raise Rejection(last.failure)
                if isinstance(last, Finished):
                    over = True
                    trace.model, trace.tokens = chunks.model, last.tokens
                    service.succeeded()
                    if request.include_usage:
                        out.append(usage_chunk(identity, chunks.model, last.tokens))
                yield out
        finally:
            service.limits = conversation.limits_seen or service.limits
            service.pool.release(conversation)
