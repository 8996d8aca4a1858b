"""Measures how fast the server is, against the CLI driven without it, in one run.

Everything is compared with something that runs in turn with it (A B A B …), since the machine's own speed changes.
Figures are medians; "first delta" is the time from the last byte of a request to the first text of its answer. The
real CLI talks to a Messages API on loopback that answers at once.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from conformance.bench import apis, lives, measure
from conformance.bench.figures import Figure, table
from conformance.bench.processes import BenchError, Place, upstream

SOURCE = Path(__file__).with_name("instant.c")

# Name: what it measures, with the real CLI or with the instant one.
MEASURES: dict[str, tuple[Callable[[Place, bool], list[Figure]], str, bool]] = {
    "paced": (measure.paced, "first delta, requests 1.5 s apart", True),
    "back": (measure.back_to_back, "first delta, new conversations back to back", True),
    "many": (measure.many, "new conversations, 8 at once", True),
    "follow": (measure.follow_ups, "follow-up requests, 8 at once", True),
    "cache": (lives.cache, "input that is read from the prompt cache, by what becomes of a conversation", True),
    "apis": (apis.first, "the Responses and Messages APIs against chat", True),
    "instant": (measure.instant, "the server's own cost: instant CLI, 32 at once", False),
    "deltas": (measure.deltas, "the server's own cost: long answers of an instant CLI", False),
    "api deltas": (apis.cost, "the server's own cost: long answers of an instant CLI, in each API", False),
}


class Report(msgspec.Struct, frozen=True):
    """What is written to the file."""

    at: str
    cli: str
    processors: int
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]
    figures: dict[str, list[Figure]]


def compile_instant(into: Path) -> Path:
    """The instant CLI, compiled. Raises BenchError without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchError("no C compiler (cc, gcc or clang) on PATH; it is needed for the instant CLI")
    target = into / "claude"
    done = subprocess.run([compiler, "-O2", "-o", target, SOURCE], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{compiler} failed: {done.stderr[-1000:]}")
    return target


def find_cli(given: str | None) -> str:
    """The real CLI: a path, or a version to be had from npm; else CLAUDE_CLI, else PATH. Raises BenchError."""
    given = given or os.environ.get("CLAUDE_CLI") or shutil.which("claude")
    if given is None:
        raise BenchError("no CLI: give --cli PATH or VERSION, or set CLAUDE_CLI")
    if given[0].isdigit():
        from conformance.install import NotInstalled, install

        try:
            return str(install(given))
        except NotInstalled as fault:
            raise BenchError(str(fault)) from None
    if not os.access(given, os.X_OK):
        raise BenchError(f"no CLI at {given}")
    return str(Path(given).absolute())


def _measure(
    names: Sequence[str], cli: str | None, quick: bool, scratch: Path, before: Path | None
) -> dict[str, list[Figure]]:
    figures: dict[str, list[Figure]] = {}
    for name in names:
        work, title, real = MEASURES[name]
        home, empty = scratch / "home", scratch / "empty"
        home.mkdir(exist_ok=True)
        empty.mkdir(exist_ok=True)
        print(f"… {name}: {title}", file=sys.stderr, flush=True)
        try:
            with upstream() as port:
                program = find_cli(cli) if real else str(compile_instant(scratch))
                figures[title] = work(Place(program, home, empty, port, before=before), quick)
        except BenchError as fault:
            figures[title] = [Figure(name, None, "", note=f"not measured: {fault}")]
    return figures


def main(arguments: list[str]) -> int:
    """Measures, prints, writes; exit code 1 if --check is given and a target was missed or could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m conformance bench", description=__doc__)
    parser.add_argument("--cli", help="path of the real CLI, or a version of it; else CLAUDE_CLI, else PATH")
    parser.add_argument("--only", help=f"names separated by commas: {', '.join(MEASURES)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: about a minute and a half in all")
    parser.add_argument("--check", action="store_true", help="exit with 1 unless all targets are met")
    parser.add_argument("--before", type=Path, help="another checkout, whose server `cache` measures beside this one's")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    given = parser.parse_args(arguments)
    names = given.only.split(",") if given.only else list(MEASURES)
    if unknown := set(names) - MEASURES.keys():
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")
    before = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        figures = _measure(names, given.cli, given.quick, Path(scratch), given.before)
    report = Report(
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        (given.cli or "").rpartition("/")[2],
        os.cpu_count() or 1,
        before,
        os.getloadavg(),
        figures,
    )
    busy = ": other work on this machine, expect noise" if before[0] > report.processors / 4 else ""
    print(f"{report.processors} processors, load {before[0]:.1f} at the start{busy}\n\n{table(figures)}")
    if given.out:
        given.out.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    whole = all(figure.value is not None and figure.met is not False for group in figures.values() for figure in group)
    return int(given.check and not whole)
