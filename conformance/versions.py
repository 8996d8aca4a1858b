"""What became of each release of the CLI: fixtures/versions.jsonl, a line for each that was judged."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from conformance import install, transcript
from conformance.replay import FIXTURES

FILE = FIXTURES / "versions.jsonl"
# How many releases COMPATIBILITY.md shows.
SHOWN = 30

Verdict = Literal["compatible", "compatible with new unknowns", "broken"]


class Judged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One release. `base`: that it was compared with; `new` and `missing`: lines and fields that only one of both has.

    `relied`: which of the missing ones the server reads.
    """

    version: str
    date: str
    verdict: Verdict
    base: str
    failing: list[str]
    new: list[str]
    missing: list[str]
    relied: list[str] = []


def read(path: Path | None = None) -> dict[str, Judged]:
    """All that were judged, oldest first. Raises ValueError, naming the file, for lines of another kind."""
    path = path or FILE
    if not path.exists():
        return {}
    try:
        rows = [msgspec.json.decode(row, type=Judged) for row in path.read_bytes().splitlines()]
    except msgspec.DecodeError as fault:
        raise ValueError(f"{path}: {fault}") from fault
    return {row.version: row for row in sorted(rows, key=lambda row: transcript.order(row.version))}


def keep(new: Iterable[Judged], path: Path | None = None) -> None:
    """Adds or replaces verdicts."""
    path = path or FILE
    known = read(path)
    known |= {row.version: row for row in new}
    rows = sorted(known.values(), key=lambda row: transcript.order(row.version))
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def released(since: str, *, package: str = install.PACKAGE) -> dict[str, str]:
    """Every release from that one on, with its date, oldest first. Raises install.NotInstalled."""
    times: dict[str, str] = json.loads(install.npm("view", package, "time", "--json"))
    found = {
        version: at[:10]
        for version, at in times.items()
        if version.replace(".", "").isdecimal() and transcript.order(version) >= transcript.order(since)
    }
    return dict(sorted(found.items(), key=lambda pair: transcript.order(pair[0])))


def table(known: Iterable[Judged]) -> str:
    """The newest releases as a table of COMPATIBILITY.md, newest first."""
    rows = sorted(known, key=lambda row: transcript.order(row.version), reverse=True)[:SHOWN]
    lines = ["| Release | Date | Verdict | New since the one before | Missing |", "|---|---|---|---|---|"]
    return "\n".join((*lines, *map(_line, rows)))


def _line(row: Judged) -> str:
    verdict = f"**broken**: {', '.join(row.failing[:3])}" if row.verdict == "broken" else row.verdict
    missing = [f"**{name}**" if name in row.relied else name for name in row.missing]
    return f"| {row.version} | {row.date} | {verdict} | {_few(row.new)} | {_few(missing)} |"


def _few(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" if not name.startswith("**") else name for name in names[:3])
    return f"{shown} and more" if len(names) > 3 else shown
