"""How a CLI version was launched, and what it answers to `initialize`: the same in every recording, so kept once.

`transcripts/VERSION/launch.json` holds all launch arguments, the names of all environment variables, and the reply to
`initialize`. In a transcript `"$initialize": true` stands for the fields of that reply; what one recording has beyond
them stands beside it.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

FILE = "launch.json"
MARK = "$initialize"
_MARKED = b'"$initialize":true'


class Launch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`argv` and the names in `environment` are those of a process of that CLI version, as it was recorded.

    `searching`: the arguments of a process that has a tool of the CLI's own, its web search.
    """

    cli: str
    argv: list[str]
    environment: list[str]
    initialize: dict[str, Any]
    searching: list[str] = []

    @property
    def searches(self) -> bool:
        """The process that `argv` tells of has a tool of the CLI's own."""
        return any(flag == "--tools" and value for flag, value in pairwise(self.argv))

    def save(self, folder: Path) -> Path:
        """Writes it into the folder of its version; says to which file."""
        path = folder / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(msgspec.to_builtins(self), indent=2, ensure_ascii=False) + "\n", "utf-8")
        return path


def load(folder: Path) -> Launch | None:
    """That of the version whose folder this is, or None. Raises ValueError, naming the file, for anything else."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Launch)
    except msgspec.DecodeError as fault:
        raise ValueError(f"{path}: {fault}") from fault


def fields_of(initialize: Mapping[str, Any]) -> str:
    """What the mark in a transcript stands for: the fields of the reply, as JSON without its braces."""
    return json.dumps(initialize, ensure_ascii=False, separators=(",", ":"))[1:-1]


def marked(reply: Mapping[str, Any], initialize: Mapping[str, Any]) -> dict[str, Any]:
    """A reply to `initialize` with the mark for what is kept once; the reply itself if it has not all of that."""
    if not initialize.items() <= reply.items():
        return dict(reply)
    return {MARK: True, **{name: value for name, value in reply.items() if name not in initialize}}


def unmarked(row: bytes, path: Path) -> bytes:
    """A row of a transcript with the reply of its version in the mark's place. Raises ValueError if none is kept."""
    if _MARKED not in row:
        return row
    file = next((file for parent in path.parents if (file := parent / FILE).exists()), None)
    if file is None:
        raise ValueError(f"there is no {FILE} with the reply to initialize")
    return row.replace(_MARKED, _kept(file, file.stat().st_mtime_ns))


@lru_cache(32)
def _kept(file: Path, changed: int) -> bytes:
    one = load(file.parent)
    assert one is not None
    return fields_of(one.initialize).encode()
