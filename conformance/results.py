"""Results of a run: JSON Lines with a header, a line for each case, and a last line that says that it is whole.

They hold no times, no addresses and no totals: two runs over the same answers are equal byte by byte, and two
contributions that add cases do not touch one line.
"""

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

FORMAT = 2
HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
KNOWN_FAILURES = HERE / "known_failures.toml"
_END = b'{"end":true}'

Outcome = Literal["pass", "fail", "error", "skipped"]


class Header(msgspec.Struct, frozen=True):
    """`target`: what was judged. `openai`: the version of the package whose types and client judged it."""

    format: int
    target: str
    cli: str
    openai: str


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """`why`: what was not met, what went wrong, or why it was skipped."""

    case: str
    outcome: Outcome
    why: str = ""


class Report(msgspec.Struct, frozen=True):
    header: Header
    results: tuple[Result, ...]

    @property
    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(result.outcome for result in self.results).items()))

    def encoded(self) -> bytes:
        """As JSON Lines."""
        return b"".join(msgspec.json.encode(row) + b"\n" for row in (self.header, *self.results)) + _END + b"\n"


def read(path: Path) -> Report:
    """Raises ValueError for a file that is none, or that is cut."""
    rows = path.read_bytes().splitlines()
    try:
        header = msgspec.json.decode(rows[0], type=Header)
        report = Report(header, tuple(msgspec.json.decode(row, type=Result) for row in rows[1:-1]))
    except (ValueError, IndexError) as fault:
        raise ValueError(f"{path}: {fault}") from fault
    if header.format != FORMAT or rows[-1] != _END:
        raise ValueError(f"{path}: of another format, or without its last line")
    return report


def known_failures(path: Path = KNOWN_FAILURES) -> dict[str, str]:
    """Cases that are known to fail, with reasons. Raises ValueError for one without a reason."""
    found = tomllib.loads(path.read_text("utf-8"))
    for case, reason in found.items():
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"{path}: {case} has no reason")
    return found


def unexpected(results: Iterable[Result], known: Mapping[str, str]) -> list[str]:
    """What makes a run fail: failures and errors that are not known, known ones that pass or do not exist."""
    found = []
    by_case = {result.case: result for result in results}
    for result in by_case.values():
        if result.outcome in ("fail", "error") and result.case not in known:
            found.append(f"{result.outcome}: {result.case}: {result.why}")
        if result.outcome == "pass" and result.case in known:
            found.append(f"{result.case} is a known failure, but passes")
    return found + [f"{case} is a known failure, but there is no such case" for case in known if case not in by_case]
