"""Responses that are made in the background: each goes on without its client, and is followed from any event of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from proxy.dialects import Comment, Event, Framing
from proxy.dialects.openai.responses.encoder import ResponsesEncoder
from proxy.dialects.openai.responses.types import Response
from proxy.http.edge import Trace
from proxy.http.framing import framed
from proxy.http.model_requests import KEEP_ALIVE_EVERY, Answering, Told, failure_of


class Job:
    """One response. `trace`: its own; that of the request which asked for it ends with that."""

    def __init__(self, answering: Answering, encoder: ResponsesEncoder, trace: Trace) -> None:
        self.owner = answering.owner
        self.id = encoder.response.id
        self.trace = trace
        self.size = 0
        self.ended = False
        self._answering = answering
        self._encoder = encoder
        # Its events as they are written, each at the place of its number.
        self._events: list[bytes] = []
        self._news = asyncio.Event()
        self._cancelled = False
        self._tell(encoder.open())

    @property
    def response(self) -> Response:
        """As it is at this moment."""
        return self._encoder.response

    def start(self) -> None:
        self.task = asyncio.create_task(self._run())

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """Its events behind the one of that number (-1: all), up to its end."""
        at = after + 1
        while True:
            if at < len(self._events):
                told, at = b"".join(self._events[at:]), len(self._events)
                yield told
                continue
            if self.ended:
                return
            try:
                async with asyncio.timeout(KEEP_ALIVE_EVERY):
                    await self._news.wait()
            except TimeoutError:
                yield framed(Framing.SSE, [Comment("keep-alive")])

    async def cancel(self) -> None:
        """End it, and wait until it has ended."""
        self._cancelled = True
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _run(self) -> None:
        answering, encoder = self._answering, self._encoder
        last: Sequence[Event] = ()
        try:
            async with aclosing(answering.events(())) as told:
                async for events in told:
                    self._tell(events)
        except asyncio.CancelledError:
            self.trace.left = True
            if not self._cancelled:
                raise
            last = encoder.cancel() if encoder.ended is None else ()
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever follows is told
            last = encoder.fail(failure_of(error))
        finally:
            if last:
                await answering.keep(encoder)
            self._tell(last)
            self.ended = True
            self._wake()

    def _tell(self, events: Told) -> None:
        for event in events:
            if isinstance(event, Event):
                self._events.append(framed(Framing.SSE, [event]))
                self.size += len(self._events[-1])
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
