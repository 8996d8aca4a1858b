"""Bytes of the CLI's stdout → lines."""

from __future__ import annotations

from collections.abc import Callable

from proxy.protocol.lines import Line, decode_line


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
