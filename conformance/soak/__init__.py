"""Holds many tool conversations on the real CLI over all APIs, with clients that dawdle, leave, come late, ask again,
fork and edit.

Every conversation has its own marker. The Messages API here answers with calls whose ids carry it, and looks at every
result that arrives: it must be that of its call, in a conversation of that marker alone. Each client looks at every
call and at its last answer in the same way. At the end the server must hold no more than it may, and leave nothing.
"""

import argparse
import asyncio
import functools
import itertools
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
from msgspec import Struct

from conformance import install, messages, record, replay
from conformance.messages import Arrived, Reply
from conformance.soak.clients import PARKED_AGE, RESULT, ROUNDS, TALKS, Client, Wrong
from conformance.upstream import Upstream

PARKED = 4
# Few, so that the oldest are dropped many times within a soak.
STORED = "50"
# MB. What is remembered of requests and of conversations that have gone is bounded, and fills up within an hour or two.
MAX_GROWTH = 16


class Figures(Struct, frozen=True):
    """What a soak came to. `memory`: the server's, `(seconds, MB)` now and then and at the end."""

    conversations: int
    seconds: float
    outcomes: Mapping[str, int]
    served: Mapping[str, int]
    wrong: tuple[str, ...]
    memory: tuple[tuple[float, float], ...]
    children_left: int


def _texts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


class Api:
    """The scripted model: two rounds of one to three calls, then words that name what it has seen."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self._numbers = 0

    def __call__(self, request: Arrived) -> Reply:
        history = [message for message in request.body["messages"] if message["role"] != "system"]
        opening = str(_texts(history[0])[0]["text"])
        marker = opening.split()[-1]
        rounds = 0
        for message in history:
            for block in _texts(message):
                if block["type"] == "tool_result":
                    rounds += message is history[-1] or block is _texts(message)[0]
                    self._check(block, marker)
        calls = sum(any(block["type"] == "tool_use" for block in _texts(message)) for message in history)
        self._numbers += 1
        if calls >= ROUNDS:
            return messages.stream(
                messages.message(messages.text("all is ", f"known of {marker}"), identifier=f"msg_{self._numbers}")
            )
        blocks = [
            messages.tool_use(f"toolu_{marker}_{self._numbers}_{number}", "look_up", '{"marker":', f'"{marker}"}}')
            for number in range(random.randint(1, 3))
        ]
        events = messages.message(*blocks, stop="tool_use", identifier=f"msg_{self._numbers}")
        return messages.stream(events, between=random.choice((0, 0, 5)))

    def _check(self, block: Mapping[str, Any], marker: str) -> None:
        call = str(block["tool_use_id"])
        content = block["content"]
        said = content if isinstance(content, str) else "".join(part["text"] for part in content)
        if f"_{marker}_" not in call or said != RESULT.format(call):
            self.wrong.append(f"conversation {marker} got {said!r} for {call}")


def _memory(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def below(process: int) -> list[int]:
    """All processes of the CLI below `process`, from /proc: neither the shell that ends them should it be killed, nor
    the workers that judge schemas."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes() if parent == process else b""
        except OSError:
            continue
        if not command.startswith(b"sh\0-c\0\ncd /\n") and b"validator_worker" not in command:
            parents[int(entry.name)] = parent
    found, new = set[int](), {process}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return sorted(found)


async def soak(
    cli: Path, conversations: int, at_once: int, seed: int, minutes: float = 0, told: Callable[[str], object] = str
) -> Figures:
    """Runs it, for `minutes` if that is longer. The clients are the same for the same seed; what overlaps with what is
    not. `told` is given a line now and then."""
    luck = random.Random(seed)
    outcomes: Counter[str] = Counter()
    served: Counter[str] = Counter()
    wrong: list[str] = []
    memory: list[tuple[float, float]] = []
    api = Api()
    began = time.monotonic()
    async with Upstream(api) as up:
        settings = {
            "CLAUDE_PROXY_UPSTREAM_URL": up.url,
            "CLAUDE_PROXY_PARKED": str(PARKED),
            "CLAUDE_PROXY_PARKED_AGE": str(PARKED_AGE),
            "CLAUDE_PROXY_STORE_ENTRIES": STORED,
            "CLAUDE_PROXY_WAITING": "2",
            "LOG_LEVEL": "warn",
        }
        server = replay.Server(cli, settings)
        await asyncio.to_thread(server.__enter__)
        try:
            async with httpx.AsyncClient(timeout=120, trust_env=False) as http:
                numbers = itertools.count()

                async def one(number: int) -> None:
                    form = list(TALKS)[number % len(TALKS)]
                    client = Client(http, server.url, form, f"m{number}x", random.Random(luck.random()))
                    try:
                        outcomes[await client.run()] += 1
                    except Wrong as error:
                        outcomes["wrong"] += 1
                        wrong.append(f"{form}: {error}")
                    served.update(client.served)

                async def some() -> None:
                    while (number := next(numbers)) < conversations or time.monotonic() - began < minutes * 60:
                        await one(number)
                        now = time.monotonic() - began
                        if number >= 2 * at_once and (not memory or now > memory[-1][0] + 30):
                            memory.append((now, _memory(server.pid)))
                            told(f"{now:.0f} s: {number} conversations, {memory[-1][1]:.1f} MB")

                await asyncio.gather(*(some() for _ in range(at_once)))
                # Everything parked is given up by its age, and looked after every few seconds.
                await asyncio.sleep(PARKED_AGE + 6)
                memory.append((time.monotonic() - began, _memory(server.pid)))
                health = (await http.get(f"{server.url}/health")).json()["children"]
                living = below(server.pid)
                if health["busy"] or health["parked"] or len(living) > health["waiting"]:
                    wrong.append(f"the server still holds {health} and has {len(living)} children")
                wrong += await _uncounted(http, server.url, sum(served.values()))
        finally:
            await asyncio.to_thread(server.__exit__, None, None, None)
    left = [child for child in living if Path(f"/proc/{child}").exists()]
    return Figures(
        sum(outcomes.values()), time.monotonic() - began, outcomes, served, (*api.wrong, *wrong), tuple(memory),
        len(left),
    )  # fmt: skip


async def _uncounted(http: httpx.AsyncClient, url: str, answered: int) -> list[str]:
    """What `/v1/usage` says of requests, if it misses any that was answered."""
    usage = (await http.get(f"{url}/v1/usage")).json()
    counted: int = usage["totals"]["requests"]
    return [] if counted >= answered else [f"{answered} requests were answered, and {counted} counted"]


def main(arguments: list[str]) -> int:
    """The command. Exit code 0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m conformance soak", description=__doc__)
    parser.add_argument("--cli", help="version, `latest` or path; else CLAUDE_CLI")
    parser.add_argument("--conversations", type=int, default=500, help="how many; default: %(default)s")
    parser.add_argument("--minutes", type=float, default=0, help="go on for as long, whatever their number")
    parser.add_argument("--at-once", type=int, default=8, help="how many side by side; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="the same clients for the same one; default: %(default)s")
    asked = parser.parse_args(arguments)
    try:
        cli = record.find(asked.cli)
    except install.NotInstalled as error:
        print(error)
        return 2
    told = functools.partial(print, flush=True)
    figures = asyncio.run(soak(cli.path, asked.conversations, asked.at_once, asked.seed, asked.minutes, told))
    first, last = figures.memory[0][1], figures.memory[-1][1]
    print(f"{figures.conversations} conversations in {figures.seconds:.0f} s on CLI {cli.version}")
    print("  ended:  " + ", ".join(f"{count} {how}" for how, count in sorted(figures.outcomes.items())))
    print("  served: " + ", ".join(f"{count} {how}" for how, count in sorted(figures.served.items())))
    print(f"  server memory: {first:.1f} MB, in the end {last:.1f} MB")
    print(f"  processes left after its end: {figures.children_left}")
    for words in figures.wrong[-20:]:
        print(f"  WRONG: {words}")
    ok = not figures.wrong and not figures.children_left and last - first < MAX_GROWTH
    print("all as it should be" if ok else "NOT as it should be")
    return 0 if ok else 1
