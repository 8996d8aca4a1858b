"""The one place that writes an event stream: server-sent events, or JSON lines."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from proxy.dialects import Comment, Event, Framing

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
