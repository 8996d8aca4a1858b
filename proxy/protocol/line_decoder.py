"""Bytes of the CLI's stdout → lines.

The CLI gains line types every month: a type that is not declared in `lines` becomes `Unknown` and changes nothing. A
declared one that cannot be read becomes `Malformed`, as dropping it could drop a part of the answer; or `Unknown`, if
it is `BESIDE` the answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from proxy.protocol.lines import Event, Garbage, Known, Line, Malformed, Unknown


class _EventHead(Struct):
    type: str = ""


class _Head(Struct):
    type: str


class _StreamHead(Struct):
    event: _EventHead


def _tags(union: Any) -> frozenset[str]:
    return frozenset(str(member.__struct_config__.tag) for member in union.__args__)


KNOWN_TYPES: Final = _tags(Known)
KNOWN_EVENTS: Final = _tags(Event)
_decode_known = msgspec.json.Decoder(Known).decode
# Types that hold no part of the answer and grow with every release: one of another shape is as good as unknown.
BESIDE: Final = frozenset(("system", "user", "rate_limit_event"))
_decode_head = msgspec.json.Decoder(_Head).decode
_decode_stream_head = msgspec.json.Decoder(_StreamHead).decode
_FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_line(raw: bytes) -> Line:
    """One line, without its newline, to a value. Never raises."""
    try:
        line: Known = _decode_known(raw)
        return line
    except _FAULTS as error:
        reason = str(error)
    try:
        type_ = _decode_head(raw).type
    except _FAULTS:
        return Garbage(raw[:80])
    if type_ not in KNOWN_TYPES or type_ in BESIDE:
        return Unknown(type_)
    if type_ == "stream_event":
        with contextlib.suppress(*_FAULTS):
            event = _decode_stream_head(raw).event.type
            if event not in KNOWN_EVENTS:
                return Unknown(f"stream_event/{event}")
    return Malformed(type_, reason)


class LineDecoder:
    """Bytes in, lines out, whatever way the bytes are cut. Holds at most one unfinished line.

    `feed` returns the lines that the bytes complete; `close` returns the last one if its newline is missing.
    `watch`: is told each line with its bytes.
    """

    __slots__ = ("_parts", "_watch")

    def __init__(self, watch: Callable[[Line, bytes], None] | None = None) -> None:
        self._parts: list[bytes] = []
        self._watch = watch

    def feed(self, data: bytes) -> list[Line]:
        if b"\n" not in data:
            if data:
                self._parts.append(data)
            return []
        if self._parts:
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts.clear()
        *whole, rest = data.split(b"\n")
        if rest:
            self._parts.append(rest)
        return [self._decode(raw) for raw in whole if raw.strip()]

    def close(self) -> list[Line]:
        rest = b"".join(self._parts)
        self._parts.clear()
        return [self._decode(rest)] if rest.strip() else []

    def _decode(self, raw: bytes) -> Line:
        line = decode_line(raw)
        if self._watch is not None:
            self._watch(line, raw)
        return line
