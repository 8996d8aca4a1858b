"""The one place that writes an event stream.

Only `data:` lines and comments: `event:`, `id:` and `retry:` break clients (wire notes, "What breaks whom").
`[DONE]` ends a stream that succeeded, and no other.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from proxy.protocol.failures import Failure, Kind, Rejection, envelope

log: Final = logging.getLogger("proxy.error")
CONTENT_TYPE: Final = "text/event-stream; charset=utf-8"
KEEP_ALIVE: Final = b": keep-alive\n\n"
DONE: Final = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


def event(value: Struct) -> bytes:
    """One event."""
    return b"data: " + _encode(value) + b"\n\n"


async def stream(first: Sequence[Struct], rest: AsyncIterator[Sequence[Struct]]) -> AsyncIterator[bytes]:
    """Events for what comes; nothing new becomes a keep-alive; a failure becomes an error event and the end.

    Events that come together are written together.
    """
    yield b"".join(map(event, first)) or KEEP_ALIVE
    try:
        async for values in rest:
            yield b"".join(map(event, values)) or KEEP_ALIVE
    except Rejection as rejection:
        yield event(envelope(rejection.failure))
        return
    except Exception as error:
        # A fault of ours: to the client no more than that the answer is not complete.
        log.error("unexpected error in a stream", exc_info=error)
        words = f"The proxy failed in mid-answer ({type(error).__name__}); see its log."
        yield event(envelope(Failure(Kind.INTERNAL, words)))
        return
    yield DONE
