"""Writes COMPATIBILITY.md from claims, results and fixtures, or checks it.

A row says what `claims.toml` claims of it if a case that shows it passed; `failing` if one failed; else `untested`.
That a wrong value is refused shows nothing of a right one.
The rows of requests and answers are the fields of the installed `openai` package: a new one shows up as untested.
"""

import argparse
import asyncio
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from conformance import apis, cases, replay, results, run, transcript, versions
from conformance import scenario as scenarios
from conformance.cases import Case
from conformance.results import RESULTS, Report, Result
from conformance.target import SCENARIOS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "COMPATIBILITY.md"
CLAIMS = Path(__file__).parent / "claims.toml"
# How cases are called that have a wrong value refused.
REFUSAL = "/refuses_"
# How many cases a row links to; the first are those written for it.
LINKS = 3

Word = Literal["native", "emulated", "ignored", "refused", "failing", "untested"]
# From the strongest to the weakest that an answer of the Messages API, and a recording of the CLI, can come from.
ORIGINS = ("recorded, live", "recorded, scripted", "derived", "written")


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said of a row if its cases pass."""

    word: Literal["native", "emulated", "ignored", "refused"]
    note: str = ""


class Row(msgspec.Struct, frozen=True):
    """`origin`: the weakest of the fixtures that its cases use; empty if they use none."""

    name: str
    word: Word
    note: str
    cases: tuple[str, ...]
    origin: str


def fields() -> dict[str, list[str]]:
    """The rows that the installed packages of the APIs make, by section."""
    return {word: list(section.fields) for word, section in apis.sections().items()}


def claims(path: Path = CLAIMS) -> dict[str, dict[str, Claim]]:
    """All claims by section and name. Raises ValueError for one that cannot be read."""
    return msgspec.convert(tomllib.loads(path.read_text("utf-8")), dict[str, dict[str, Claim]])


def misfits(known: Mapping[str, Mapping[str, Claim]], wanted: Iterable[Case]) -> list[str]:
    """Claims of fields that do not exist, and cases that show rows that do not exist, one line each."""
    found = [
        f"claims.toml: {section}.{name} is no field of the installed package"
        for section, names in fields().items()
        for name in known.get(section, {})
        if name not in names
    ]
    rows = {f"{section}.{name}" for section, names in fields().items() for name in names}
    rows |= {f"{section}.{name}" for section, named in known.items() for name in named}
    # A scenario may send a field that is no one's.
    shown = {row: case.id for case in wanted for row in case.shows if not case.id.startswith("scenario/")}
    return found + [f"{case} shows {row}, which is no row" for row, case in shown.items() if row not in rows]


def rows(
    known: Mapping[str, Mapping[str, Claim]], wanted: Sequence[Case], done: Iterable[Result]
) -> dict[str, list[Row]]:
    """All rows by section."""
    outcomes = {result.case: result.outcome for result in done}
    shown: dict[str, list[Case]] = defaultdict(list)
    for case in sorted(wanted, key=lambda case: (REFUSAL in case.id, case.id.startswith("scenario/"), case.id)):
        for row in case.shows:
            shown[row].append(case)
    found: dict[str, list[Row]] = {}
    for section, names in {**fields(), **{section: [] for section in OTHERS}}.items():
        named = dict.fromkeys((*names, *known.get(section, {})))
        found[section] = [
            _row(name, known.get(section, {}).get(name), shown[f"{section}.{name}"], outcomes) for name in sorted(named)
        ]
    return found


def _row(name: str, claim: Claim | None, evidence: Sequence[Case], outcomes: Mapping[str, str]) -> Row:
    ran = [case for case in evidence if outcomes.get(case.id, "skipped") != "skipped"]
    shown = [case for case in ran if REFUSAL not in case.id or (claim is not None and claim.word == "refused")]
    word: Word = claim.word if claim is not None and shown else "untested"
    if any(outcomes[case.id] != "pass" for case in ran):
        word = "failing"
    origins = {origin_of(scenario) for case in ran for scenario in case.uses}
    weakest = max(origins, key=ORIGINS.index) if origins else ""
    return Row(name, word, claim.note if claim else "", tuple(case.id for case in ran), weakest)


def origin_of(scenario: str) -> str:
    """Where the newest recording of a scenario comes from."""
    header = transcript.read(replay.TRANSCRIPTS / replay.NEWEST / f"{scenario}.jsonl").header
    return f"{header.origin}, {header.upstream}" if header.origin == "recorded" else header.origin


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────

INTRODUCTION = """\
# Compatibility

What becomes of each API here, field by field, with the cases of the conformance suite that show it.

Judged with the APIs' own Python packages (`openai` {openai}), on recordings of Claude Code {cli}. No case fails but
those under *Known failures*, if there are any. The same suite judges any server:
`python -m conformance run --base-url URL`.

| Word | Meaning |
|---|---|
| native | Claude Code or the Messages API does it |
| emulated | the proxy does it |
| ignored | accepted, without effect; the response header `x-ignored-params` names it |
| refused | answered with an error that says so |
| failing | a case fails |
| untested | no case shows it |

*Fixtures* is the weakest origin of the recordings that a row's cases use: the real Claude Code CLI wrote them all;
*live* if the real Messages API answered it, *scripted* if a script did. A row without one needs no answer of the CLI.

Generated by `python -m conformance matrix` from [claims](conformance/claims.toml), the
[results](conformance/results.jsonl) of the suite and the [fixtures](fixtures); CI runs the suite again and compares. Do
not edit it."""
# Beside those of the APIs: their rows are what is claimed.
OTHERS = {"endpoint": ("Endpoints", "Endpoint"), "behaviour": ("Behaviours", "Behaviour")}


def page(report: Report, known: Mapping[str, Mapping[str, Claim]], wanted: Sequence[Case]) -> str:
    """COMPATIBILITY.md."""
    found = rows(known, wanted, report.results)
    head = INTRODUCTION.format(openai=report.header.openai, cli=report.header.cli)
    sections = [
        *(_section(word, each.title, "Field", each.text, found[word]) for word, each in apis.sections().items()),
        *(_section(word, title, column, "", found[word]) for word, (title, column) in OTHERS.items()),
    ]
    return "\n\n".join(part for part in (head, *sections, _failures(report), _versions()) if part) + "\n"


def _section(section: str, title: str, column: str, text: str, found: Sequence[Row]) -> str:
    lines = [f"| {column} | | Note | Cases | Fixtures |", "|---|---|---|---|---|"]
    table = "\n".join((*lines, *(_line(section, row) for row in found)))
    return "\n\n".join(filter(None, (f"## {title}", text, table)))


def _line(section: str, row: Row) -> str:
    name = row.name if section == "behaviour" else f"`{row.name}`"
    shown = list(dict.fromkeys(_shown(case) for case in row.cases))
    links = [f"[{case}]({_file(case)})" for case in shown[:LINKS]]
    if len(shown) > LINKS:
        links.append("and more")
    cells = (name, f"**{row.word}**" if row.word in ("failing", "untested") else row.word, row.note)
    return f"| {' | '.join(cells)} | {', '.join(links)} | {row.origin.removeprefix('recorded, ')} |"


def _shown(case: str) -> str:
    """A scenario counts once, in whatever modes it is asked."""
    return case.rpartition("/")[0] if case.startswith("scenario/") else case


def _file(case: str) -> str:
    module, _, rest = case.partition("/")
    return f"fixtures/scenarios/{rest}.toml" if module == "scenario" else f"conformance/cases/{module}.py"


def _failures(report: Report) -> str:
    known = results.known_failures()
    failing = [result for result in report.results if result.outcome in ("fail", "error")]
    if not failing:
        return ""
    lines = [f"- `{result.case}`: {known.get(result.case, result.why)}" for result in failing]
    return "\n".join(("## Known failures\n", *lines))


def _versions() -> str:
    """The newest releases of the CLI with their verdicts, and which scenarios are not recorded with all versions."""
    recorded = transcript.versions(replay.TRANSCRIPTS)
    lines = []
    for one in scenarios.every(SCENARIOS):
        lacking = [each for each in recorded if not (replay.TRANSCRIPTS / each / f"{one.name}.jsonl").exists()]
        if lacking:
            lines.append(f"- [{one.name}](fixtures/scenarios/{one.name}.toml): not with {', '.join(lacking)}")
    known = f"Every scenario was recorded with {' and '.join(recorded)}, the oldest and the newest that are supported"
    return "\n".join(
        (
            "## Versions of Claude Code\n",
            "A scenario counts for a version if that CLI answered it as expected, and the recording still plays.",
            f"{known}, but for:\n" if lines else f"{known}.",
            *lines,
            "",
            "Releases that were judged by `python -m conformance bump`, each compared with the one before it in this",
            "table. New lines and fields change nothing until the server reads them; what it reads and misses is bold.",
            "",
            versions.table(versions.read().values()),
        )
    )


def main(arguments: Sequence[str]) -> int:
    """`matrix`: exit code 1 if anything does not fit, is unexpected, or, with `--check`, has changed."""
    parser = argparse.ArgumentParser(prog="python -m conformance matrix", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--keep", action="store_true", help="take the results as they are, instead of a new run")
    options = parser.parse_args(arguments)
    wanted, known = cases.every(), claims()
    problems = misfits(known, wanted)
    report = results.read(RESULTS) if options.keep else asyncio.run(run.scripted(wanted, lambda result: None))
    problems += results.unexpected(report.results, results.known_failures())
    for path, content in ((RESULTS, report.encoded()), (PAGE, page(report, known, wanted).encode())):
        if not options.check and not problems:
            path.write_bytes(content)
        elif not path.exists() or path.read_bytes() != content:
            problems.append(f"{path.name} is not what the suite gives now: run `python -m conformance matrix`")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0
