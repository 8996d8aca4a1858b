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
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain, groupby, repeat
from operator import itemgetter
from pathlib import Path

import httpx
import msgspec

from conformance import cassettes, install, launch, messages, recorder, recordings, transcript
from conformance import scenario as scenarios
from conformance.cassettes import Cassette, Library
from conformance.compare import kinds, miscounted
from conformance.launch import Launch
from conformance.player import kind, lacking
from conformance.recordings import Raw
from conformance.replay import FIXTURES, TRANSCRIPTS, Server, drive
from conformance.scenario import Mode, Scenario
from conformance.transcript import Header, Transcript
from conformance.upstream import Live, Upstream

CASSETTES = FIXTURES / "upstream"
SCENARIOS = FIXTURES / "scenarios"
# From how many milliseconds on what the upstream does between two chunks is a silence that a client notices.
SILENCE = 60
# How many scenarios are worth being recorded alone.
_FEW = 12
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


def processors() -> int:
    """How many scenarios run at once: a CLI waits half of its time."""
    return 2 * (os.cpu_count() or 1)


def record(
    cli: Cli,
    wanted: Sequence[Scenario],
    say: Progress,
    *,
    live: bool = False,
    quick: bool = False,
    proven: Mapping[str, Transcript] | None = None,
) -> list[Outcome]:
    """Records scenarios. Raises RuntimeError if the proxy does not start.

    With `live` the real API answers, a cassette is kept for each scenario, and every scenario is asked once.
    `quick`: as many at once as the processors carry, each only in its last mode; what does not hold, or has not as many
    lines as its recording in `proven`, is recorded once more, alone, before it counts.
    """
    if live:
        return asyncio.run(_live(cli, wanted, say))
    if not quick:
        return asyncio.run(_record(cli, wanted, say, at_once=1, quick=False))
    first = asyncio.run(_record(cli, wanted, say, at_once=processors(), quick=True))
    known = kinds((proven or {}).values())
    doubtful = {one.scenario.name for one in first if one.problems or _miscounted(one, proven or {}, known)}
    if not doubtful:
        return first
    say(f"once more: {', '.join(sorted(doubtful))}")
    again = [one for one in wanted if one.name in doubtful]
    # If it is more than a few, the CLI is broken rather than the machine busy.
    at_once = 1 if len(again) <= _FEW else processors()
    second = {one.scenario.name: one for one in asyncio.run(_record(cli, again, say, at_once=at_once, quick=True))}
    return [second.get(one.scenario.name, one) for one in first]


def _miscounted(outcome: Outcome, proven: Mapping[str, Transcript], known: frozenset[str]) -> bool:
    names = [outcome.scenario.name, *(f"{outcome.scenario.name}.{number}" for number in range(2, 9))]
    old = [proven[name] for name in names if name in proven]
    return len(old) > len(outcome.transcripts) or any(map(miscounted, old, outcome.transcripts, repeat(known)))


def _settings(scenario: Scenario) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(scenario.settings.items()))


class _Asked(msgspec.Struct, frozen=True):
    """One scenario as it was asked in one mode, from `start` on (nanoseconds of the monotonic clock)."""

    scenario: Scenario
    mode: Mode
    start: int
    problems: list[str]


async def _record(cli: Cli, wanted: Sequence[Scenario], say: Progress, *, at_once: int, quick: bool) -> list[Outcome]:
    """Scenarios with the same settings share a server; no more than `at_once` are asked at a time over all of them."""
    slots = asyncio.Semaphore(at_once)
    groups = [list(group) for _, group in groupby(sorted(wanted, key=_settings), key=_settings)]
    # What has to wait is begun first: the others are asked meanwhile.
    groups.sort(key=lambda group: -max(each.after for one in group for each in one.request))
    found = [_group(cli, group, say, slots, quick) for group in groups]
    if at_once > 1:
        done = await asyncio.gather(*found)
    else:
        done = [await one for one in found]
    return sorted(chain.from_iterable(done), key=lambda outcome: outcome.scenario.name)


async def _group(
    cli: Cli, wanted: list[Scenario], say: Progress, slots: asyncio.Semaphore, quick: bool
) -> list[Outcome]:
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        folder = Path(scratch)
        shim = recorder.shim(folder, cli.path, claim=cli.claim, setpriv=shutil.which("setpriv"))
        loaded = {each.name: cassettes.load(CASSETTES / f"{each.name}.yaml") for each in wanted}
        library = Library()
        for each in wanted:
            library.add(each.start, loaded[each.name])

        async def ask(scenario: Scenario) -> list[_Asked]:
            async with slots:
                started = time.monotonic()
                asked = [
                    await _ask(scenario, mode, url, library, folder)
                    for mode in (scenario.modes[-1:] if quick else scenario.modes)
                ]
            problems = [line for each in asked for line in each.problems]
            say(f"{scenario.name}  {time.monotonic() - started:.1f} s  {_state(problems)}")
            return asked

        async with Upstream(library) as up, _server(shim, up.url, dict(_settings(wanted[0]))) as url:
            done = await asyncio.gather(*map(ask, wanted))
            await _ask_aside(url)
        raws = await recordings.ended(folder)
        return [_outcome(cli, asked, raws, loaded[asked[0].scenario.name]) for asked in done]


async def _ask_aside(url: str) -> None:
    """Has the proxy ask the CLI what belongs to no conversation."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        await client.get(f"{url}/v1/models")


def _state(problems: Sequence[str]) -> str:
    if not problems:
        return "ok"
    first = problems[0] if len(problems[0]) <= _WIDE else f"{problems[0][:_WIDE]}…"
    return f"FAILED {first}{f' (and {len(problems) - 1} more)' if len(problems) > 1 else ''}"


@asynccontextmanager
async def _server(cli: Path, upstream: str, settings: dict[str, str], *, live: bool = False) -> AsyncIterator[str]:
    """The proxy, started and ended without blocking the upstream that serves its CLI."""
    environment = {
        "CLAUDE_PROXY_UPSTREAM_URL": upstream,
        "CLAUDE_PROXY_IDLE_TIMEOUT": "20",
        "CLAUDE_PROXY_WAITING": "1",
        # Enough for those that are asked at once; each takes the memory of a CLI.
        "CLAUDE_PROXY_PARKED": str(2 * processors()),
        **settings,
    }
    server = Server(cli, environment, login=live)
    await asyncio.to_thread(server.__enter__)
    try:
        yield server.url
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


async def _live(cli: Cli, wanted: Sequence[Scenario], say: Progress) -> list[Outcome]:
    """Asks once, and keeps what the real API answered, whatever that was: the facts may have to be written anew."""
    outcomes = []
    for settings, group in groupby(sorted(wanted, key=_settings), key=_settings):
        real = Live()
        async with Upstream(real) as up, _server(cli.path, up.url, dict(settings), live=True) as url:
            for scenario in group:
                real.pairs.clear()
                problems = await drive(scenario, scenario.modes[-1], url)
                cassettes.save(CASSETTES / f"{scenario.name}.yaml", real.pairs, live=True)
                outcomes.append(Outcome(scenario, tuple(problems)))
                say(f"{scenario.name}  {_state(problems)}")
    return outcomes


async def _ask(scenario: Scenario, mode: Mode, url: str, library: Library, folder: Path) -> _Asked:
    library.rewind(scenario.start)
    start = time.monotonic_ns()
    killer = asyncio.create_task(_kill(scenario, folder, start)) if scenario.killed else None
    found = await drive(scenario, mode, url, waiting=True)
    if killer is not None:
        killer.cancel()
    found += scenario.arrived([messages.simplified(each.body) for each in library.arrived(scenario.start)])
    if found:
        found += library.surprises(scenario.start)
    return _Asked(scenario, mode, start, found)


def _outcome(cli: Cli, asked: Sequence[_Asked], raws: Mapping[Path, Raw], cassette: Cassette) -> Outcome:
    """What came of a scenario; all modes must drive the CLI alike, so the recording of the last is kept."""
    scenario = asked[0].scenario
    problems: list[str] = []
    kept: tuple[Transcript, ...] = ()
    asides, launched = _asides(cli, [raw for raw in raws.values() if not recordings.conversed(raw)]), None
    for one, until in zip(asked, [*(each.start for each in asked[1:]), None], strict=True):
        # In the order in which they were asked: which process of those that wait is taken first says nothing.
        begun = [
            (at, raw)
            for path, raw in raws.items()
            if (at := recordings.opened(path, raw, scenario.start, one.start, until)) is not None
        ]
        mine = [raw for _, raw in sorted(begun, key=itemgetter(0))]
        made = _transcripts(cli, scenario, mine, cassette)
        found = [*one.problems, *_faults(scenario, mine, made)]
        if kept and list(map(_sent, kept)) != list(map(_sent, made)):
            found.append(f"the proxy drives the CLI otherwise than in mode {asked[0].mode}")
        kept = made
        launched = launched or _launch(cli, mine, made)
        problems += [f"{one.mode}: {line}" for line in found]
    return Outcome(scenario, tuple(problems), kept, asides, launched)


def _faults(scenario: Scenario, raws: Sequence[Raw], made: Sequence[Transcript]) -> Iterator[str]:
    """What keeps recordings from being taken for what the CLI wrote."""
    if not raws:
        yield "no conversation with the CLI was recorded"
    for raw in raws:
        if not raw.whole and not scenario.cut:
            yield "the recording is not whole: the end of the CLI was not seen"
        if lost := lacking(scenario.needs, raw.launch["argv"], raw.launch["environment"]):
            yield f"the CLI was launched without {', '.join(lost)}, which the scenario needs"
    yield from (f"the recording is not whole: {why}" for one in made if (why := transcript.unended(one)))


async def _kill(scenario: Scenario, folder: Path, start: int) -> None:
    """Kills the CLI once it has written the line after which the scenario wants it dead."""
    while True:
        for path, raw in recordings.every(folder).items():
            if recordings.opened(path, raw, scenario.start, start) is None:
                continue
            if scenario.killed in [kind(json.loads(text)) for _, to, text in raw.lines if to == "proxy"]:
                os.kill(raw.pid, signal.SIGKILL)
                return
        await asyncio.sleep(0.02)


def _transcripts(cli: Cli, scenario: Scenario, raws: Sequence[Raw], cassette: Cassette) -> tuple[Transcript, ...]:
    made: list[Transcript] = []
    quiet = max((each.reply.play.between for each in cassette.interactions), default=0)
    for raw in raws:
        conversation, _ = recordings.without_asides(raw)
        header = Header(
            transcript.FORMAT, cli.version, scenario.name, scenario.needs, "recorded",
            "live" if cassette.live else "scripted", scenario.ending(len(made)),
        )  # fmt: skip
        conversation = recordings.uninterrupted(conversation, header.ends)
        new = recordings.normalised(conversation, header, silence=quiet if quiet >= SILENCE else 0)
        if scenario.cut:
            new = transcript.cut(new)
        if not any(new.lines == old.lines for old in made):
            made.append(new)
    return tuple(made)


def _sent(one: Transcript) -> list[object]:
    return [crossing.line for crossing in one.lines if crossing.to == "cli"]


def _asides(cli: Cli, raws: Sequence[Raw]) -> Transcript | None:
    header = Header(transcript.FORMAT, cli.version, "asides", [], "recorded", "scripted", "control_response")
    found = max((recordings.without_asides(raw)[1] for raw in raws), key=lambda raw: len(raw.lines), default=None)
    if found is None or not found.lines:
        return None
    return recordings.normalised(recordings.once_each(found), header)


def _launch(cli: Cli, raws: Sequence[Raw], made: Sequence[Transcript]) -> Launch | None:
    replies = [reply for one in made if (reply := transcript.initialized(one.lines)) is not None]
    if not raws or not replies:
        return None
    launched = raws[0].launch
    return Launch(cli.version, launched["argv"], sorted(launched["environment"]), replies[0])


def keep_launch(outcomes: Sequence[Outcome], folder: Path) -> Launch | None:
    """Writes how this version was launched, as far as it is the same for all: that of the proxy's own settings. Of
    processes that may search the web only the arguments are kept, beside.

    The reply to `initialize` is the shortest, which the others add to. One that is kept already stays: transcripts
    refer to it.
    """
    plain = [one for one in outcomes if one.launch and not one.scenario.settings and not one.problems]
    known = launch.load(folder)
    searching = next((one.launch.argv for one in plain if one.launch and one.launch.searches), None)
    quiet = [one.launch for one in plain if one.launch and not one.launch.searches]
    first = min(quiet, key=lambda each: len(each.initialize), default=known)
    if first is None:
        return None
    made = first if known is None else msgspec.structs.replace(first, initialize=known.initialize)
    made = msgspec.structs.replace(made, searching=searching or (known.searching if known else []))
    if made != known:
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
        if outcome.asides is not None and not (asides.exists() and _as_much(asides, outcome.asides)):
            transcript.write(asides, outcome.asides)
            written.append(asides)
    return written


def _as_much(path: Path, new: Transcript) -> bool:
    return len(transcript.read(path).lines) >= len(new.lines)


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
