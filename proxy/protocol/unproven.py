"""What of the CLI's lines no recording has: types of line, fields of the types that are read, and some words in them.

Names only, never what a field says. Nothing below a field whose names a client or a model has made, such as the
arguments of a call, is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from proxy.protocol.known_lines import FIELDS, WORDS
from proxy.protocol.lines import (
    Assistant,
    BlockPiece,
    BlockStart,
    Garbage,
    Line,
    MessageDelta,
    RateLimit,
    StreamEvent,
    label,
)

Word = Literal["stop reason", "block type", "delta type", "limit status"]
Sort = Literal["line type", "field"] | Word

# The fields whose own fields have names of the CLI's or of the Messages API's.
STRUCTURED: Final = frozenset((
    "message", "message.usage", "message.content[]", "event", "event.message", "event.message.usage", "event.delta",
    "event.content_block", "event.usage", "rate_limit_info", "usage", "request", "response",
))  # fmt: skip
# What a name may look like; others could be text.
_NAME: Final = re.compile(r"[A-Za-z0-9_./\[\]-]{1,120}")
_ODD: Final = "(no plain name)"
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Unproven(Struct, frozen=True, order=True):
    """One thing that no recording has. `name`: of the line's type (`system/status`), and of the field after a space."""

    sort: Sort
    name: str

    def __str__(self) -> str:
        return f"{self.sort} {self.name}"


def paths(line: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The fields of a line; those within `STRUCTURED` ones with a dot between, `[]` for any item of a list."""
    for name, value in line.items():
        path = f"{prefix}.{name}" if prefix else name
        yield path
        if isinstance(value, dict) and path in STRUCTURED:
            yield from paths(value, path)
        elif isinstance(value, list) and f"{path}[]" in STRUCTURED:
            for item in value:
                if isinstance(item, dict):
                    yield from paths(item, f"{path}[]")


def word(line: Line) -> tuple[Word, str] | None:
    """The word that a line tells of a list that may grow, if it tells one."""
    if isinstance(line, RateLimit):
        return "limit status", line.rate_limit_info.status
    if isinstance(line, StreamEvent):
        event = line.event
        if isinstance(event, BlockPiece):
            return "delta type", event.delta.type
        if isinstance(event, BlockStart):
            return "block type", event.content_block.type
        reason = event.delta.stop_reason if isinstance(event, MessageDelta) else None
    else:
        reason = line.message.stop_reason if isinstance(line, Assistant) else None
    return None if reason is None else ("stop reason", reason)


def unproven_word(line: Line) -> Unproven | None:
    """The word that a line tells, if no recording has it."""
    told = word(line)
    return None if told is None or told[1] in WORDS[told[0]] else Unproven(told[0], _plain(told[1]))


def unproven(line: Line, raw: bytes) -> list[Unproven]:
    """What is new about a line's type and fields; `raw`: as the CLI wrote it. Lines that are no JSON are one type."""
    if isinstance(line, Garbage):
        return [Unproven("line type", label(line))]
    type_ = _plain(label(line))
    known = FIELDS.get(type_)
    if known is None:
        return [Unproven("line type", type_)]
    found = [Unproven("field", f"{type_} {_plain(path)}") for path in paths(_decode(raw)) if path not in known]
    return list(dict.fromkeys(found))


def _plain(name: str) -> str:
    return name if _NAME.fullmatch(name) else _ODD
