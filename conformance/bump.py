"""Tells whether the proxy gets on with a CLI version: records every scenario with it, compares, replays, says so.

Exit code: 0 compatible, 3 compatible with new unknowns, 1 broken, 2 the check itself could not be done.
"""

import argparse
import asyncio
import importlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from conformance import install, sdk, transcript, versions
from conformance import record as recording
from conformance import scenario as scenarios
from conformance.compare import HARMLESS, Summary, summarise
from conformance.record import SCENARIOS, Cli, Outcome
from conformance.replay import TRANSCRIPTS, Server, drive, player_shim
from conformance.scenario import Scenario
from conformance.transcript import Transcript
from conformance.versions import Judged, Verdict

EXIT: dict[Verdict, int] = {"compatible": 0, "broken": 1, "compatible with new unknowns": 3}
_SHOWN = 12
_WIDE = 300


class Report(msgspec.Struct, frozen=True):
    """Everything a verdict rests on. `types`: the text of the release's sdk.d.ts, if it can be had."""

    version: str
    base: str
    refused: str
    outcomes: tuple[Outcome, ...]
    changes: tuple[Summary, ...]
    replayed: Mapping[str, list[str]]
    types: str = ""

    @property
    def broken(self) -> dict[str, str]:
        """Where it breaks: the scenario, and the first thing that did not hold."""
        found = {one.scenario.name: one.problems[0] for one in self.outcomes if one.problems}
        for name, problems in self.replayed.items():
            if problems:
                found.setdefault(name, f"in replay: {problems[0]}")
        return found

    @property
    def verdict(self) -> Verdict:
        if self.broken or self.refused or not self.outcomes:
            return "broken"
        unknown = any(each.change.sort not in HARMLESS for each in self.changes)
        return "compatible with new unknowns" if unknown else "compatible"

    def text(self) -> str:
        """The report as a person reads it, the verdict last."""
        lines = [f"── CLI {self.version}, compared with {self.base} ──"]
        sorts = [each.change.sort for each in self.changes]
        lines += [f"{sort}: {sorts.count(sort)}" for sort in dict.fromkeys(sorts)]
        # First what the server reads and does not get any more, then what is new, then the rest.
        ranked = sorted(self.changes, key=lambda each: (not each.is_lost, each.change.sort in HARMLESS))
        lines += _first([f"  {self._told(each)}" for each in ranked])
        if self.refused:
            lines.append(f"the proxy refuses this version: {self.refused}")
        lines += _first(self._broken())
        held = len(self.outcomes) - len({one.scenario.name for one in self.outcomes if one.problems})
        replays = sum(not problems for problems in self.replayed.values())
        lines.append(f"recorded {held} of {len(self.outcomes)} scenarios, replayed {replays} of {len(self.replayed)}")
        lines.append(f"VERDICT: {self.version} is {self.verdict}{self._where()}")
        return "\n".join(lines)

    def _told(self, each: Summary) -> str:
        if each.change.sort != "field added" or not self.types:
            return str(each)
        return f"{each}; {sdk.described(each.change.path, self.types) or 'sdk.d.ts does not have it'}"

    def judged(self, date: str) -> Judged:
        """As a line of fixtures/versions.jsonl."""
        sorts: dict[str, list[Summary]] = {}
        for each in self.changes:
            sorts.setdefault(each.change.sort, []).append(each)
        gone = [*sorts.get("line less", ()), *sorts.get("field removed", ())]
        come = [*sorts.get("new line type", ()), *sorts.get("line more", ()), *sorts.get("field added", ())]
        return Judged(
            self.version, date, self.verdict, self.base, sorted(self.broken),
            [each.name for each in come], [each.name for each in gone], [each.name for each in gone if each.is_lost],
        )  # fmt: skip

    def _broken(self) -> list[str]:
        """One line for all scenarios that break at the same place."""
        places: dict[str, list[str]] = {}
        for name, problem in self.broken.items():
            places.setdefault(re.sub(r"^(whole|stream): |: expected .*", "", problem), []).append(name)
        return [
            f"broken: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: "
            f"{self.broken[names[0]][:_WIDE]}"
            for names in places.values()
        ]

    def _where(self) -> str:
        topics = sorted({name.split("/")[0] for name in self.broken})
        return f": {', '.join(topics)}" if topics else ""


def _first(lines: list[str]) -> list[str]:
    rest = len(lines) - _SHOWN
    return [*lines[:_SHOWN], f"  … and {rest} more (--all shows them)"] if rest > 0 else lines


def base_for(version: str) -> str:
    """The recorded version to compare with: the newest before it, else the oldest. Raises ValueError without one."""
    known = [each for each in transcript.versions(TRANSCRIPTS) if each != version]
    if not known:
        raise ValueError("no other version is recorded yet")
    older = [each for each in known if transcript.order(each) < transcript.order(version)]
    return older[-1] if older else known[0]


def check(
    cli: Cli,
    base: str,
    wanted: Sequence[Scenario],
    say: Callable[[str], None],
    folder: Path,
    against: Path | None = None,
) -> Report:
    """Records with this CLI into `folder`, compares with `base`, replays. Raises RuntimeError if no proxy starts.

    `against`: the folder with the recordings of `base`, if it is not that of the fixtures.
    """
    refused = ""
    old = _recordings(against or TRANSCRIPTS / base)
    say(f"recording {len(wanted)} scenarios with {cli.version}")
    try:
        outcomes = recording.record(cli, wanted, say, quick=True, proven=old)
    except RuntimeError as fault:
        # Below its lower bound the proxy does not start: what would break then is still worth knowing.
        refused = " ".join(str(fault).splitlines()[-3:])
        claimed = Cli(cli.path, cli.version, claim=base)
        say(f"the proxy refuses {cli.version}; it is told {base} from here on")
        outcomes = recording.record(claimed, wanted, say, quick=True, proven=old)
    recording.keep(outcomes, folder)
    new = _recordings(folder)
    say(f"comparing {len(old.keys() & new.keys())} recordings with {base}")
    kept = [one.scenario for one in outcomes if not one.problems]
    say(f"replaying {len(kept)} scenarios")
    claim = base if refused else cli.version
    return Report(
        cli.version,
        base,
        refused,
        tuple(outcomes),
        tuple(summarise(old, new)),
        asyncio.run(replay(claim, kept, folder)),
        _types(cli.version),
    )


def _recordings(folder: Path) -> dict[str, Transcript]:
    return {
        path.relative_to(folder).with_suffix("").as_posix(): transcript.read(path) for path in transcript.every(folder)
    }


def _types(version: str) -> str:
    try:
        return sdk.types(version)
    except (install.NotInstalled, OSError):
        return ""


async def replay(version: str, wanted: Sequence[Scenario], folder: Path) -> dict[str, list[str]]:
    """Drives these scenarios through a proxy on the player of the recordings in `folder`; what did not hold.

    As many at once as the processors carry; what did not hold is played once more, alone, before it counts.
    """
    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in transcript.every(folder)}
    found: dict[str, list[str]] = {}
    for at_once in (recording.processors(), 1):
        again = [one for one in wanted if one.name not in found or found[one.name]]
        found |= await _replay(version, again, folder, files, asyncio.Semaphore(at_once))
    return found


async def _replay(
    version: str, wanted: Sequence[Scenario], folder: Path, files: Mapping[str, Path], slots: asyncio.Semaphore
) -> dict[str, list[str]]:
    async def group(settings: dict[str, str]) -> dict[str, list[str]]:
        mine = [one for one in wanted if one.settings == settings]
        with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
            shim = player_shim(Path(scratch), version, recordings=files, asides=folder / transcript.ASIDE_FILE)
            server = Server(shim, {"CLAUDE_PROXY_WAITING": "2", **settings})
            await asyncio.to_thread(server.__enter__)
            try:
                done = await asyncio.gather(*(play(one, server.url) for one in mine))
            finally:
                await asyncio.to_thread(server.__exit__, None, None, None)
            differences = Path(scratch) / "differences.txt"
            said = differences.read_text("utf-8").splitlines() if differences.exists() else []
        for one, problems in zip(mine, done, strict=True):
            problems += [line for line in said if problems and one.name in line][:1]
        return {one.name: problems for one, problems in zip(mine, done, strict=True)}

    async def play(one: Scenario, url: str) -> list[str]:
        async with slots:
            return [f"{mode}: {line}" for mode in one.modes for line in await drive(one, mode, url)]

    kinds = {tuple(sorted(one.settings.items())) for one in wanted}
    return {
        name: lines
        for part in await asyncio.gather(*(group(dict(each)) for each in kinds))
        for name, lines in part.items()
    }


def since(first: str, wanted: Sequence[Scenario], say: Callable[[str], None]) -> list[Judged]:
    """Judges every release from `first` on that has not been yet, each compared with the one judged before it.

    Verdicts are kept as they come: a run that is stopped goes on where it was, and records the one before anew, as what
    is asked of it may have changed. A CLI stays in the cache only if it was there. Raises install.NotInstalled.
    """
    found: list[Judged] = []
    made: set[str] = set()
    older = [each for each in versions.read() if transcript.order(each) < transcript.order(first)]
    before = older[-1] if older else ""
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        for version, date in versions.released(first).items():
            if version not in versions.read():
                base = before or base_for(version)
                if base not in made and base not in transcript.versions(TRANSCRIPTS):
                    say(f"recording {base}, to compare with")
                    with _installed(base) as cli:
                        recording.keep(recording.record(cli, wanted, say, quick=True), Path(scratch, base))
                    made.add(base)
                against = Path(scratch, base) if base in made else None
                with _installed(version) as cli:
                    report = check(cli, base, wanted, say, Path(scratch, version), against)
                made.add(version)
                found.append(report.judged(date))
                versions.keep(found[-1:])
                say(report.text().splitlines()[-1])
            before = version
    return found


@contextmanager
def _installed(version: str) -> Iterator[Cli]:
    """It is removed again if it was not there."""
    was_there = install.has(version)
    yield recording.find(version)
    if not was_there:
        install.remove(version)


def main(arguments: Sequence[str]) -> int:
    """`bump`: see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m conformance bump", description=__doc__)
    parser.add_argument("version", nargs="?", default="latest", help="a version or `latest` (the default)")
    parser.add_argument("scenarios", nargs="*", help="only these scenarios: errors/* …")
    parser.add_argument("--from", dest="base", help="the recorded version to compare with")
    parser.add_argument("--all", action="store_true", help="show every change")
    parser.add_argument("--since", metavar="VERSION", help="judge every release from that one on; keep the verdicts")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep verdict and recordings, if not broken, in fixtures, and write COMPATIBILITY.md anew",
    )
    given = parser.parse_args(arguments)

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        if given.since:
            judged = since(given.since, [one for one in scenarios.every(SCENARIOS) if not one.pending], say)
            say("\n".join(f"{one.version}: {one.verdict}" for one in judged) or "every release has been judged")
            return max((EXIT[one.verdict] for one in judged if one.verdict == "broken"), default=0)
        say(f"installing {given.version}")
        cli = recording.find(given.version)
        base = given.base or base_for(cli.version)
        wanted = [one for one in scenarios.every(SCENARIOS, given.scenarios) if not one.pending]
        with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
            report = check(cli, base, wanted, say, Path(scratch) / cli.version)
            if given.keep:
                _keep(report, say)
    except (install.NotInstalled, RuntimeError, ValueError) as fault:
        say(f"the check could not be done: {fault}")
        return 2
    if given.all:
        say("\n".join([*map(str, report.changes), *(f"{name}: {found}" for name, found in report.broken.items())]))
    say(re.sub(r"\n{2,}", "\n", report.text()))
    return EXIT[report.verdict]


def _keep(report: Report, say: Callable[[str], None]) -> None:
    versions.keep([report.judged(versions.released(report.version)[report.version])])
    if report.verdict == "broken":
        return
    written = recording.keep(report.outcomes, TRANSCRIPTS / report.version)
    say(f"{len(written)} transcripts written to fixtures/transcripts/{report.version}")
    say("running the suite, for COMPATIBILITY.md")
    done = importlib.import_module("conformance.matrix").main([]) == 0
    say("COMPATIBILITY.md is up to date" if done else "COMPATIBILITY.md is as it was: see above")
