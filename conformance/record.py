"""Records scenarios: the real CLI behind the recorder, between a proxy and a scripted (or the real) Messages API."""

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Literal

import msgspec

from conformance import install, launch, recorder, transcript
from conformance import scenario as scenarios
from conformance import upstream as messages
from conformance.launch import Launch
from conformance.player import kind, lacking
from conformance.replay import FIXTURES, TRANSCRIPTS, Server, drive
from conformance.scenario import Scenario
from conformance.transcript import Raw, Transcript

CASSETTES = FIXTURES / "upstream"
SCENARIOS = FIXTURES / "scenarios"
# After the last line of a conversation: how long it must be quiet before the recording counts as whole.
_QUIET = 0.25
_WIDE = 160

Progress = Callable[[str], None]


class Cli(msgspec.Struct, frozen=True):
    """A real CLI; `claim` is the version that the proxy is told, to get past its lower bound."""

    path: Path
    version: str
    claim: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What came of one scenario: what did not hold, and its recordings, if all did, with how the CLI was launched."""

    scenario: Scenario
    problems: tuple[str, ...]
    transcripts: tuple[Transcript, ...] = ()
    asides: Transcript | None = None
    launch: Launch | None = None


def find(wanted: str | None) -> Cli:
    """The CLI by version, `latest` or path; without one that of CLAUDE_CLI. Raises install.NotInstalled."""
    wanted = wanted or os.environ.get("CLAUDE_CLI")
    if wanted is None:
        raise install.NotInstalled("say which CLI: --cli VERSION, --cli latest, --cli PATH, or CLAUDE_CLI=PATH")
    if wanted == "latest":
        wanted = install.latest()
    if re.fullmatch(r"\d+\.\d+\.\d+", wanted):
        return Cli(install.install(wanted), wanted)
    path = Path(wanted).resolve()
    return Cli(path, install.version_of(path))


def record(cli: Cli, wanted: Sequence[Scenario], say: Progress, *, live: bool = False) -> list[Outcome]:
    """Records scenarios one after the other. Raises RuntimeError if the proxy does not start.

    With `live` the real API answers, a cassette is kept for each scenario, and every scenario is asked once.
    """
    outcomes: list[Outcome] = []
    for settings, group in groupby(sorted(wanted, key=_settings), key=_settings):
        outcomes += asyncio.run(_record(cli, list(group), dict(settings), say, live))
    return sorted(outcomes, key=lambda outcome: outcome.scenario.name)


def _settings(scenario: Scenario) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(scenario.settings.items()))


async def _record(
    cli: Cli, wanted: list[Scenario], settings: dict[str, str], say: Progress, live: bool
) -> list[Outcome]:
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        folder = Path(scratch)
        shim = recorder.shim(folder, cli.path, claim=cli.claim, setpriv=shutil.which("setpriv"))
        cassettes = {} if live else {each.name: messages.load(CASSETTES / f"{each.name}.yaml") for each in wanted}
        library = messages.Library()
        for each in wanted:
            if not live:
                library.add(each.start, cassettes[each.name])
        real = messages.Live()
        outcomes = []
        async with messages.Upstream(real if live else library) as up, _server(shim, up.url, settings, live) as url:
            for each in wanted:
                started = time.monotonic()
                if live:
                    outcome = await _from_life(each, url, real)
                else:
                    outcome = await _one(cli, each, url, library, folder, cassettes[each.name].live)
                outcomes.append(outcome)
                say(f"{each.name}  {time.monotonic() - started:.1f} s  {_state(outcome.problems)}")
        return outcomes


def _state(problems: Sequence[str]) -> str:
    if not problems:
        return "ok"
    first = problems[0] if len(problems[0]) <= _WIDE else f"{problems[0][:_WIDE]}…"
    return f"FAILED {first}{f' (and {len(problems) - 1} more)' if len(problems) > 1 else ''}"


@asynccontextmanager
async def _server(cli: Path, upstream: str, settings: dict[str, str], live: bool) -> AsyncIterator[str]:
    """The proxy, started and ended without blocking the upstream that serves its CLI."""
    environment = {
        "CLAUDE_PROXY_UPSTREAM_URL": upstream,
        "CLAUDE_PROXY_IDLE_TIMEOUT": "20",
        "CLAUDE_PROXY_WAITING": "1",
        **settings,
    }
    server = Server(cli, environment, login=live)
    await asyncio.to_thread(server.__enter__)
    try:
        yield server.url
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


async def _from_life(scenario: Scenario, url: str, real: messages.Live) -> Outcome:
    """Asks once, and keeps what the real API answered, whatever that was: the facts may have to be written anew."""
    real.pairs.clear()
    problems = await drive(scenario, scenario.modes[-1], url)
    messages.save(CASSETTES / f"{scenario.name}.yaml", real.pairs, live=True)
    return Outcome(scenario, tuple(problems))


async def _one(cli: Cli, scenario: Scenario, url: str, library: messages.Library, folder: Path, live: bool) -> Outcome:
    """One scenario in all its modes; all of them must drive the CLI alike, so the last recording is kept."""
    problems: list[str] = []
    kept: tuple[Transcript, ...] = ()
    asides, launched = None, None
    for mode in scenario.modes:
        library.rewind(scenario.start)
        before = set(_raws(scenario, folder))
        killer = asyncio.create_task(_kill(scenario, folder, before)) if scenario.killed else None
        found = await drive(scenario, mode, url)
        if killer is not None:
            killer.cancel()
        found += scenario.arrived([messages.simplified(each.body) for each in library.arrived(scenario.start)])
        if found:
            found += library.surprises(scenario.start)
        raws = [raw for path, raw in (await _settled(scenario, folder)).items() if path not in before]
        made = _transcripts(cli, scenario, raws, "live" if live else "scripted")
        if not raws:
            found.append("no conversation with the CLI was recorded")
        for raw in raws:
            if lost := lacking(scenario.needs, raw.launch["argv"], raw.launch["environment"]):
                found.append(f"the CLI was launched without {', '.join(lost)}, which the scenario needs")
        if kept and list(map(_sent, kept)) != list(map(_sent, made)):
            found.append(f"the proxy drives the CLI otherwise than in mode {scenario.modes[0]}")
        kept = made
        asides = asides or _asides(cli, raws)
        launched = launched or _launch(cli, raws, made)
        problems += [f"{mode}: {line}" for line in found]
    return Outcome(scenario, tuple(problems), kept, asides, launched)


# ── the recorder's files ────────────────────────────────────────────────────────────────────────────────────


def _raws(scenario: Scenario, folder: Path) -> dict[Path, Raw]:
    """The recordings of conversations that open as this scenario does, in the order in which they began."""
    found = {path: transcript.read_raw(path) for path in sorted(folder.glob("*.raw"))}
    return {path: raw for path, raw in found.items() if _opening(raw) == scenario.start}


def _opening(raw: Raw) -> str:
    for _, to, text in raw.lines:
        if to == "cli" and (line := json.loads(text)).get("type") == "user":
            return messages.opening({"messages": [line["message"]]})
    return ""


async def _settled(scenario: Scenario, folder: Path) -> dict[Path, Raw]:
    """The recordings once nothing has been added to them for a while."""
    while True:
        found = _raws(scenario, folder)
        if all(time.time() - path.stat().st_mtime > _QUIET for path in found):
            return found
        await asyncio.sleep(0.05)


async def _kill(scenario: Scenario, folder: Path, before: set[Path]) -> None:
    """Kills the CLI once it has written the line after which the scenario wants it dead."""
    while True:
        for path, raw in _raws(scenario, folder).items():
            written = [kind(json.loads(text)) for _, to, text in raw.lines if to == "proxy"]
            if path not in before and scenario.killed in written:
                os.kill(raw.pid, signal.SIGKILL)
                return
        await asyncio.sleep(0.02)


def _transcripts(
    cli: Cli, scenario: Scenario, raws: list[Raw], upstream: Literal["live", "scripted"]
) -> tuple[Transcript, ...]:
    made: list[Transcript] = []
    for raw in raws:
        conversation, _ = transcript.without_asides(raw)
        new = transcript.normalised(
            conversation, cli=cli.version, scenario=scenario.name, upstream=upstream, needs=scenario.needs
        )
        if not any(_lines(new) == _lines(old) for old in made):
            made.append(new)
    return tuple(made)


def _lines(one: Transcript) -> list[object]:
    return [(crossing.to, crossing.line) for crossing in one.lines]


def _sent(one: Transcript) -> list[object]:
    return [crossing.line for crossing in one.lines if crossing.to == "cli"]


def _asides(cli: Cli, raws: list[Raw]) -> Transcript | None:
    for raw in raws:
        _, aside = transcript.without_asides(raw)
        if aside.lines:
            return transcript.normalised(aside, cli=cli.version, scenario="asides", upstream="scripted")
    return None


def _launch(cli: Cli, raws: Sequence[Raw], made: Sequence[Transcript]) -> Launch | None:
    replies = [reply for one in made if (reply := transcript.initialized(one.lines)) is not None]
    if not raws or not replies:
        return None
    launched = raws[0].launch
    return Launch(cli.version, launched["argv"], sorted(launched["environment"]), replies[0])


def keep_launch(outcomes: Sequence[Outcome], folder: Path) -> Launch | None:
    """Writes how this version was launched, as far as it is the same for all: that of the proxy's own settings.

    The reply to `initialize` is the shortest, which the others add to. One that is kept already stays: transcripts
    refer to it.
    """
    plain = [one for one in outcomes if one.launch and not one.scenario.settings and not one.problems]
    known = launch.load(folder)
    if not plain:
        return known
    first = min((one.launch for one in plain if one.launch), key=lambda each: len(each.initialize))
    made = first if known is None else msgspec.structs.replace(first, initialize=known.initialize)
    made.save(folder)
    return made


def keep(outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """Writes the recordings of what held in full below a folder of one version; says which files these are.

    Recordings of a scenario that are no longer made are removed. Raises ValueError for anything private.
    """
    written = []
    launched = keep_launch(outcomes, folder)
    initialize = launched.initialize if launched else None
    for outcome in outcomes:
        if outcome.problems:
            continue
        base = folder / outcome.scenario.name
        for old in base.parent.glob(f"{base.name}*.jsonl"):
            if re.fullmatch(rf"{re.escape(base.name)}(\.\d+)?\.jsonl", old.name):
                old.unlink()
        for number, each in enumerate(outcome.transcripts, 1):
            path = base.with_name(f"{base.name}{'' if number == 1 else f'.{number}'}.jsonl")
            transcript.write(path, each, initialize)
            written.append(path)
        asides = folder / transcript.ASIDE_FILE
        if outcome.asides is not None and not asides.exists():
            transcript.write(asides, outcome.asides)
            written.append(asides)
    return written


def main(arguments: Sequence[str]) -> int:
    """`record`: see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m conformance record", description=__doc__)
    parser.add_argument("scenarios", nargs="*", help="names such as chat/plain or errors/*; all without one")
    parser.add_argument("--cli", help="a version, `latest` or a path; else CLAUDE_CLI")
    parser.add_argument("--live", action="store_true", help="record cassettes from the real API, with your login")
    given = parser.parse_args(arguments)
    wanted = scenarios.every(SCENARIOS, given.scenarios)
    if not wanted:
        parser.error("no scenario has such a name")
    try:
        cli = find(given.cli)
        print(f"CLI {cli.version}, {len(wanted)} scenarios", flush=True)
        outcomes = record(cli, wanted, lambda line: print(line, flush=True), live=given.live)
        written = [] if given.live else keep(outcomes, TRANSCRIPTS / cli.version)
    except (install.NotInstalled, RuntimeError, ValueError) as fault:
        print(fault)
        return 2
    failed = [outcome for outcome in outcomes if outcome.problems]
    for outcome in failed:
        print("\n  ".join([f"{outcome.scenario.name} did not hold:", *outcome.problems]))
    print(f"{len(outcomes) - len(failed)} held, {len(failed)} did not, {len(written)} transcripts written")
    return 1 if failed else 0
