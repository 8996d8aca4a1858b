"""Responses that are made in the background: each goes on without its client, and is followed from any event of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final
from weakref import WeakValueDictionary

from proxy.dialects import Comment, Event, Framing
from proxy.dialects.openai.responses.encoder import ResponsesEncoder
from proxy.dialects.openai.responses.types import Response
from proxy.http.edge import Trace
from proxy.http.framing import framed, sliced
from proxy.http.model_requests import KEEP_ALIVE_EVERY, Answering, Told, failure_of

# Bytes of events that are written at once.
MAX_TOLD: Final = 256 * 1024
# Bytes of one event from which on it is kept as what it is made of: events that hold the response have its instructions
# and tools in common.
LARGE: Final = 64 * 1024


class _Written:
    """Bytes to which there can be weak references."""

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data


class Job:
    """One response. `trace`: its own; that of the request which asked for it ends with that."""

    def __init__(self, answering: Answering, encoder: ResponsesEncoder, trace: Trace) -> None:
        self.owner = answering.owner
        self.id = encoder.response.id
        self.trace = trace
        self.size = 0
        self._size_of_last = 0
        self.ended = False
        # Let go of when it has ended: the request is as large as its client likes.
        self._answering: Answering | None = answering
        self._encoder: ResponsesEncoder | None = encoder
        self._last = encoder.response
        # Its events, each at the place of its number; small ones as they are written.
        self._events: list[bytes | Event] = []
        self._news = asyncio.Event()
        # Large ones as they are written, for as long as somebody takes one: all who do so have it in common.
        self._large: WeakValueDictionary[int, _Written] = WeakValueDictionary()
        self._cancelled = False
        self._tell(encoder.open())

    @property
    def response(self) -> Response:
        """As it is at this moment."""
        return self._last if self._encoder is None else self._encoder.response

    def start(self) -> None:
        assert self._answering is not None
        assert self._encoder is not None
        self.task = asyncio.create_task(self._run(self._answering, self._encoder))
        self.task.add_done_callback(self._finished)

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """Its events behind the one of that number (-1: all), up to its end."""
        at = after + 1
        while True:
            if at < len(self._events):
                pieces, size = [], 0
                while at < len(self._events) and size < MAX_TOLD and isinstance(event := self._events[at], bytes):
                    pieces.append(event)
                    size += len(event)
                    at += 1
                # Small ones up to a large one, or that alone.
                told = _Written(b"".join(pieces)) if pieces else self._written(at)
                at += not pieces
                for piece in sliced(told.data):
                    yield piece
                continue
            if self.ended:
                return
            try:
                async with asyncio.timeout(KEEP_ALIVE_EVERY):
                    await self._news.wait()
            except TimeoutError:
                yield framed(Framing.SSE, [Comment("keep-alive")])

    def _written(self, at: int) -> _Written:
        """The large event of that number."""
        event = self._events[at]
        assert isinstance(event, Event)
        written = self._large.get(at)
        if written is None:
            written = self._large[at] = _Written(framed(Framing.SSE, [event]))
        return written

    async def cancel(self) -> None:
        """End it, and wait until it has ended."""
        # Once: what the first brings about is not to be broken off. An answer that is whole is being stored.
        if not self._cancelled and self._encoder is not None and self._encoder.ended is None:
            self._cancelled = True
            self.task.cancel()
        await asyncio.wait([self.task])

    async def _run(self, answering: Answering, encoder: ResponsesEncoder) -> None:
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
            try:
                if last:
                    await answering.keep(encoder)
            finally:
                self._tell(last)

    def _finished(self, task: asyncio.Task[None]) -> None:
        """However it has ended, and if it was before it began."""
        self._last = self.response
        # The last event holds all of it.
        self.size += self._size_of_last
        self._answering = self._encoder = None
        self.ended = True
        self._wake()

    def _tell(self, events: Told) -> None:
        for event in events:
            if isinstance(event, Event):
                data = framed(Framing.SSE, [event])
                self._events.append(data if len(data) < LARGE else event)
                self._size_of_last = len(data)
                self.size += len(data)
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
