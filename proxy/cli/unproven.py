"""Counts what the CLI in use writes that no recording has, for `/metrics` and the doctor.

Whole lines are looked at once for each type of line and child: what a release writes it writes in every conversation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from proxy import files
from proxy.protocol.lines import Line, StreamEvent, label
from proxy.protocol.unproven import Unproven, unproven, unproven_word
from proxy.settings.paths import make_private

log: Final = logging.getLogger("proxy.cli")

# In the state directory.
FILE: Final = "unproven.json"
# So many different names are counted; a larger line is not looked at.
MAX_NAMES: Final = 100
MAX_LINE: Final = 1 << 20
# By CLI version: what it has written that no recording has.
_Seen = dict[str, list[Unproven]]
# So many versions are remembered, the newest.
MAX_VERSIONS: Final = 8


class UnprovenCounts:
    """One per process. `counts`: how many children have written it, or how many messages have ended with it."""

    def __init__(self) -> None:
        self._counts: dict[Unproven, int] = {}
        self.version = ""
        self._path: Path | None = None

    @property
    def counts(self) -> Mapping[Unproven, int]:
        return self._counts

    def remember(self, path: Path | None, version: str) -> None:
        """From now on: the CLI is of this version, and new names are added to the file at `path`, if there is one."""
        self._path, self.version = path, version
        self._counts.clear()

    def watch(self) -> Callable[[Line, bytes], None]:
        """What looks at the lines of one child, each with the bytes that it was made of."""
        seen: set[str | type] = set()

        def look(line: Line, raw: bytes) -> None:
            if (new := unproven_word(line)) is not None:
                self._count(new)
            kind = type(line.event) if isinstance(line, StreamEvent) else label(line)
            if kind in seen:
                return
            seen.add(kind)
            if len(raw) <= MAX_LINE:
                for one in unproven(line, raw):
                    self._count(one)

        return look

    def _count(self, one: Unproven) -> None:
        if one in self._counts:
            self._counts[one] += 1
        elif len(self._counts) < MAX_NAMES:
            self._counts[one] = 1
            if self._path is not None:
                try:
                    _add(self._path, self.version, one)
                except OSError as error:
                    log.warning("%s cannot be written: %s", self._path, error)


def read(path: Path) -> _Seen:
    """What the file holds; nothing if there is none, or none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Seen)
    except (OSError, ValueError, RecursionError):
        return {}


def _add(path: Path, version: str, one: Unproven) -> None:
    seen = read(path)
    found = seen.pop(version, [])
    if one in found:
        return
    seen[version] = [*found, one][-MAX_NAMES:]
    while len(seen) > MAX_VERSIONS:
        del seen[next(iter(seen))]
    make_private(path.parent)
    files.replace(path, msgspec.json.encode(seen))


UNPROVEN: Final = UnprovenCounts()
