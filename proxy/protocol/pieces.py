"""JSON of large values, made in pieces: one call that encodes a text of many megabytes keeps all other threads waiting.

A long text or `Raw` within the value is left out of what is encoded at once, and put in afterwards, a piece at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import is_
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

# Characters, or bytes, that are encoded in one call.
PIECE: Final = 256 * 1024
# Stands for what has been left out. No JSON has it: within strings it is escaped.
_MARK: Final = b"\0"
_text: Final = msgspec.json.Encoder().encode


def in_pieces(value: object, encode: Callable[[object], bytes]) -> Iterator[bytes]:
    """What `encode` gives for a value of structs, lists, tuples and texts, in pieces that are whole characters."""
    long: list[str | Raw] = []
    short, *rest = encode(_without(value, long)).split(_MARK)
    yield short
    for one, short in zip(long, rest, strict=True):
        if isinstance(one, str):
            yield b'"'
            yield from (_text(one[at : at + PIECE])[1:-1] for at in range(0, len(one), PIECE))
            yield b'"'
        else:
            yield from _slices(one)
        yield short


def _slices(raw: Raw) -> Iterator[bytes]:
    data = memoryview(raw)
    at = 0
    while at < len(data):
        end = min(at + PIECE, len(data))
        # Not within a character.
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end += 1
        yield bytes(data[at:end])
        at = end


def _without(value: Any, long: list[str | Raw]) -> Any:
    """The value with a mark for each long text, which is added to `long`."""
    if isinstance(value, str):
        if len(value) <= PIECE:
            return value
    elif isinstance(value, Raw):
        if memoryview(value).nbytes <= PIECE:
            return value
    elif isinstance(value, list | tuple):
        members = [_without(one, long) for one in value]
        return value if all(map(is_, members, value)) else members
    elif isinstance(value, Struct):
        changes = {}
        for name in value.__struct_fields__:
            found = getattr(value, name)
            changed = _without(found, long)
            if changed is not found:
                changes[name] = changed
        return msgspec.structs.replace(value, **changes) if changes else value
    else:
        return value
    long.append(value)
    return Raw(_MARK)
