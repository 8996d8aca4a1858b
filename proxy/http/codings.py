"""Bodies that come compressed: `Content-Encoding` of a request, undone within a bound."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# A body is compressed once, in one piece. More of either would be a lot of work for few bytes.
MAX_CODINGS: Final = 3
MAX_MEMBERS: Final = 16
# The window that a decoder has to have (RFC 9659), as a power of two: 8 MB.
ZSTD_WINDOW: Final = 23


class TooLarge(Exception):
    """The decoded body is larger than the bound."""


class NotDecodable(Exception):
    """The body is not what its coding says."""


class _Decompressor(Protocol):
    """What zlib's and zstd's have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _zstd() -> _Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW})


def _inflate(data: bytes, make: Callable[[], _Decompressor], max_size: int) -> bytes:
    """All members of `data`, one after the other."""
    parts: list[bytes] = []
    room = max_size
    for _ in range(MAX_MEMBERS):
        decompressor = make()
        try:
            parts.append(decompressor.decompress(data, room + 1))
        except (zlib.error, zstd.ZstdError) as error:
            raise NotDecodable from error
        room -= len(parts[-1])
        if room < 0:
            raise TooLarge
        if not decompressor.eof:
            raise NotDecodable
        data = decompressor.unused_data
        if not data:
            return b"".join(parts)
    raise NotDecodable


def _gzip(data: bytes, max_size: int) -> bytes:
    return _inflate(data, lambda: zlib.decompressobj(zlib.MAX_WBITS | 16), max_size)


def _deflate(data: bytes, max_size: int) -> bytes:
    """The zlib format, as the standard has it; without its header and checksum, as some clients send it."""
    wrapped = len(data) >= 2 and data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
    return _inflate(data, lambda: zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS), max_size)


_DECODERS: Final[dict[str, Callable[[bytes, int], bytes]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "zstd": lambda data, max_size: _inflate(data, _zstd, max_size),
}
SUPPORTED: Final = "gzip, deflate, zstd"


def parse(header: str | None) -> tuple[str, ...]:
    """The codings of a `Content-Encoding` header, in the order in which they were applied."""
    names = (name.strip().lower() for name in (header or "").split(","))
    return tuple(name for name in names if name not in ("", "identity"))


def unsupported(codings: Sequence[str]) -> str | None:
    """The first of them that is not known."""
    return next((coding for coding in codings if coding not in _DECODERS), None)


def decode(body: bytes, codings: Sequence[str], max_size: int) -> bytes:
    """The body before these codings, all known, were applied. Never holds more than `max_size` bytes of a step.

    Raises `TooLarge` and `NotDecodable`. May take a tenth of a second for 64 MB.
    """
    for coding in reversed(codings):
        body = _DECODERS[coding](body, max_size)
    return body
