"""Results of a run: JSON Lines with a header, a line for each case, and a footer that counts them.

They hold no times and no addresses, so that two runs over the same answers are equal byte by byte.
"""

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

FORMAT = 1
HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
KNOWN_FAILURES = HERE / "known_failures.toml"

Outcome = Literal["pass", "fail", "error", "skipped"]


class Header(msgspec.Struct, frozen=True):
    """`target`: what was judged. `openai`: the version of the package whose types and client judged it."""

    format: int
    target: str
    cli: str
    openai: str
    cases: int


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """`why`: what was not met, what went wrong, or why it was skipped."""

    case: str
    outcome: Outcome
    why: str = ""


class Footer(msgspec.Struct, frozen=True):
    """How many cases had which outcome."""

    counts: dict[str, int]


class Report(msgspec.Struct, frozen=True):
    header: Header
    results: tuple[Result, ...]

    @property
    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(result.outcome for result in self.results).items()))

    def encoded(self) -> bytes:
        """As JSON Lines."""
        rows = [self.header, *self.results, Footer(self.counts)]
        return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def read(path: Path) -> Report:
    """Raises ValueError for a file that is none, or that is cut."""
    rows = path.read_bytes().splitlines()
    try:
        header = msgspec.json.decode(rows[0], type=Header)
        report = Report(header, tuple(msgspec.json.decode(row, type=Result) for row in rows[1:-1]))
        footer = msgspec.json.decode(rows[-1], type=Footer)
    except (ValueError, IndexError) as fault:
        raise ValueError(f"{path}: {fault}") from fault
    if header.format != FORMAT or footer.counts != report.counts or header.cases != len(report.results):
        raise ValueError(f"{path}: header and footer do not fit its lines")
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
