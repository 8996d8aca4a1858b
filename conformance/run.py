"""Runs all cases against a server: ours on recorded answers, or any other by its URL."""

import argparse
import asyncio
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from fnmatch import fnmatch
from pathlib import Path

import httpx
import openai

from conformance import cases, replay, results
from conformance.cases import Case
from conformance.results import Header, Report, Result
from conformance.target import Skip, Target, Unmet

# How long an answer may take from recordings, and from a model.
SCRIPTED_TIMEOUT = 20.0
LIVE_TIMEOUT = 180.0
AT_ONCE = 4
# Beyond the settings of a case: cases run at the same time, and each keeps its own conversations.
SERVER = {"CLAUDE_PROXY_WAITING": "2", "CLAUDE_PROXY_PARKED": "32", "LOG_LEVEL": "warn"}

Say = Callable[[Result], None]
TargetFor = Callable[[Case], Awaitable[Target]]


@contextmanager
def started(settings: Mapping[str, str], version: str = replay.NEWEST) -> Iterator[tuple[str, Path]]:
    """Our server with these settings, on the recordings of a CLI version: its URL, and its player's folder."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        folder = Path(scratch)
        with replay.Server(replay.player_shim(folder, version), {**SERVER, **settings}) as server:
            yield server.url, folder


class Servers:
    """Our servers on recorded answers: one for each set of settings, started when it is first asked for."""

    def __init__(self, version: str = replay.NEWEST) -> None:
        self.version = version
        self._running: dict[tuple[tuple[str, str], ...], tuple[Target, Path]] = {}
        self._stack = ExitStack()
        self._targets = AsyncExitStack()
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> "Servers":
        return self

    async def __aexit__(self, *fault: object) -> None:
        await self._targets.aclose()
        await asyncio.to_thread(self._stack.close)

    async def target(self, settings: Mapping[str, str]) -> Target:
        """The server with these settings."""
        key = tuple(sorted(settings.items()))
        async with self._starting:
            if key not in self._running:
                url, folder = await asyncio.to_thread(self._stack.enter_context, started(settings, self.version))
                secret = settings.get("API_KEYS")
                target = Target(url, key=secret, scripted=True, timeout=SCRIPTED_TIMEOUT)
                self._targets.push_async_callback(target.close)
                self._running[key] = target, folder
        return self._running[key][0]

    def differences(self) -> list[str]:
        """What the players were sent and did not expect."""
        files = (folder / "differences.txt" for _, folder in self._running.values())
        return [file.read_text("utf-8") for file in files if file.exists()]


async def judge_one(case: Case, target: Target) -> Result:
    """One case against one server."""
    try:
        async with asyncio.timeout(target.timeout * 2):
            await case.run(target)
    except Skip as skip:
        return Result(case.id, "skipped", str(skip))
    except (Unmet, openai.APIResponseValidationError) as unmet:
        return Result(case.id, "fail", str(unmet))
    except (openai.APIConnectionError, httpx.TransportError, TimeoutError) as fault:
        return Result(case.id, "error", f"{type(fault).__name__}: {fault}")
    except openai.APIStatusError as answer:
        return Result(case.id, "fail", f"status {answer.status_code}: {answer.message}")
    except Exception as fault:  # noqa: BLE001 - an answer that breaks a case, or the client in it, is judged as such
        return Result(case.id, "fail", f"{type(fault).__name__}: {fault}")
    return Result(case.id, "pass")


async def judge(wanted: Sequence[Case], target_for: TargetFor, say: Say = lambda result: None) -> list[Result]:
    """All of them, some at a time. Two that use one scenario never run at once: they are one conversation."""
    slots = asyncio.Semaphore(AT_ONCE)
    locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def one(case: Case) -> Result:
        async with AsyncExitStack() as stack:
            for name in sorted(case.uses):
                await stack.enter_async_context(locks[name])
            await stack.enter_async_context(slots)
            try:
                result = await judge_one(case, await target_for(case))
            except Skip as skip:
                result = Result(case.id, "skipped", str(skip))
        say(result)
        return result

    return list(await asyncio.gather(*map(one, wanted)))


async def scripted(wanted: Sequence[Case], say: Say, version: str = replay.NEWEST) -> Report:
    """Judge our own server, on the recordings of that CLI version."""
    async with Servers(version) as servers:
        found = await judge(wanted, lambda case: servers.target(case.settings), say)
        strange = servers.differences()
    if strange:
        found.append(Result("player/nothing_unknown_is_sent", "fail", strange[0].strip().splitlines()[-1]))
    # Kept results change with what the package says, not with each of its releases.
    major = openai.__version__.partition(".")[0]
    header = Header(results.FORMAT, "this server on recorded answers", version, major)
    return Report(header, tuple(found))


async def live(wanted: Sequence[Case], target: Target, say: Say) -> Report:
    """Judge the server at a URL."""

    async def target_for(case: Case) -> Target:
        if case.scripted:
            raise Skip("needs the recorded answers")
        if case.settings:
            raise Skip(f"needs a server started with {', '.join(case.settings)}")
        return target

    try:
        found = await judge(wanted, target_for, say)
    finally:
        await target.close()
    return Report(Header(results.FORMAT, "a server by its URL", "", openai.__version__), tuple(found))


def selected(patterns: Iterable[str]) -> list[Case]:
    """The cases whose id matches a pattern such as `errors/*`; all without one."""
    wanted = tuple(patterns)
    return [case for case in cases.every() if not wanted or any(fnmatch(case.id, pattern) for pattern in wanted)]


def main(arguments: Sequence[str]) -> int:
    """`run`: prints what is not as it must be; exit code 1 if anything is unexpected, 2 if nothing was run."""
    parser = argparse.ArgumentParser(prog="python -m conformance run", description=__doc__)
    parser.add_argument("cases", nargs="*", help="patterns such as 'errors/*'; all without one")
    parser.add_argument("--base-url", help="the server to judge, without /v1; else ours, on recorded answers")
    parser.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY"), help="default: OPENAI_API_KEY")
    parser.add_argument("--model", help="asked for instead of the model in the cases")
    parser.add_argument("--timeout", type=float, default=LIVE_TIMEOUT, help="seconds for an answer from --base-url")
    parser.add_argument("--out", type=Path, help="write the results there, as JSON Lines")
    parser.add_argument("--list", action="store_true", help="print the cases and what they require, and run none")
    options = parser.parse_args(arguments)
    wanted = selected(options.cases)
    if options.list or not wanted:
        print("\n".join(f"{case.id}: {case.requirement} ({case.source})" for case in wanted) or "no case is called so")
        return 0 if wanted else 2

    def say(result: Result) -> None:
        if result.outcome in ("fail", "error"):
            print(f"{result.outcome:<5} {result.case}: {result.why[:400]}", file=sys.stderr)

    if options.base_url:
        url = options.base_url.rstrip("/").removesuffix("/v1")
        target = Target(url, key=options.api_key, model=options.model, scripted=False, timeout=options.timeout)
        report = asyncio.run(live(wanted, target, say))
    else:
        report = asyncio.run(scripted(wanted, say))
    if options.out is not None:
        options.out.write_bytes(report.encoded())
    known = {} if options.base_url else results.known_failures()
    if options.cases:
        known = {case: reason for case, reason in known.items() if case in {result.case for result in report.results}}
    problems = results.unexpected(report.results, known)
    for problem in problems:
        print(problem)
    print(", ".join(f"{count} {outcome}" for outcome, count in report.counts.items()))
    return 1 if problems else 0
