"""The one place that writes an event stream: server-sent events, or JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from proxy.dialects import Comment, Event, Framing

# What is larger the transport copies as a whole, which takes a tenth of a second for 15 MB.
WRITTEN_AT_ONCE: Final = 256 * 1024
_encode = msgspec.json.Encoder().encode


def _data(event: Event) -> bytes:
    return event.data.encode() if isinstance(event.data, str) else _encode(event.data)


def _sse(event: Event | Comment) -> bytes:
    if isinstance(event, Comment):
        return b": " + event.text.encode() + b"\n\n"
    name = b"event: " + event.name.encode() + b"\n" if event.name else b""
    return name + b"data: " + _data(event) + b"\n\n"


def framed(framing: Framing, events: Iterable[Event | Comment]) -> bytes:
    """The events as they are written, together. JSON lines have no comments."""
    if framing is Framing.SSE:
        return b"".join(map(_sse, events))
    return b"".join(_data(event) + b"\n" for event in events if isinstance(event, Event))


def sliced(data: bytes) -> Iterator[bytes]:
    """The data, no more than `WRITTEN_AT_ONCE` bytes at a time."""
    for at in range(0, len(data), WRITTEN_AT_ONCE):
        yield data[at : at + WRITTEN_AT_ONCE]


def written(framing: Framing, events: Iterable[Event | Comment]) -> Iterator[bytes]:
    """As `framed`, in writes: small events together, large ones made when it is their turn and a piece at a time.

    While the client takes one others are served.
    """
    small: list[bytes] = []
    size = 0
    for event in events:
        data = framed(framing, (event,))
        if size + len(data) > WRITTEN_AT_ONCE:
            yield from sliced(b"".join(small))
            small, size = [], 0
        if len(data) > WRITTEN_AT_ONCE:
            yield from sliced(data)
        else:
            small.append(data)
            size += len(data)
    yield from sliced(b"".join(small))
