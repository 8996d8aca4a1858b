"""Holds many tool conversations on the real CLI, with clients that dawdle, leave and come late.

Every conversation has its own marker. The Messages API here answers with calls whose ids carry it, and looks at every
result that arrives: it must be that of its call, in a conversation of that marker alone. Each client looks at every
call and at its last answer in the same way. At the end the server must hold no more than it may, and leave nothing.
"""

import argparse
import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from msgspec import Struct

from conformance import install, messages, record, replay
from conformance.apis import chat
from conformance.messages import Arrived, Reply
from conformance.upstream import Upstream

PARKED = 4
# Seconds; short, so that some clients come back after their conversation has been given up.
PARKED_AGE = 2
ROUNDS = 2
RESULT = "result for {}"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Look something up.",
            "parameters": {"type": "object", "properties": {"marker": {"type": "string"}}},
        },
    }
]


class Wrong(Exception):
    """Something was paired with what it does not belong to. The message says what."""


class Figures(Struct, frozen=True):
    """What a soak came to. Memory in MB."""

    conversations: int
    seconds: float
    outcomes: Mapping[str, int]
    served: Mapping[str, int]
    wrong: tuple[str, ...]
    memory_before: float
    memory_after: float
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


class Client:
    """One conversation from the client's side; `run` says how it ended."""

    def __init__(self, http: httpx.AsyncClient, url: str, marker: str, luck: random.Random) -> None:
        self._http = http
        self._url = f"{url}/v1/chat/completions"
        self._marker = marker
        self._luck = luck
        self._messages: list[dict[str, Any]] = [{"role": "user", "content": f"soak {marker}"}]
        self.served: list[str] = []

    async def run(self) -> str:
        for _ in range(ROUNDS + 1):
            if self._luck.random() < 0.08:
                await self._leave()
                return "left in mid-answer"
            message = await self._ask()
            self._messages.append(message)
            calls = message.get("tool_calls", [])
            if not calls:
                if message["content"] != f"all is known of {self._marker}":
                    raise Wrong(f"client {self._marker} was told {message['content']!r}")
                return "complete"
            if self._luck.random() < 0.08:
                return "never came back"
            for call in calls:
                arguments = json.loads(call["function"]["arguments"])
                if arguments != {"marker": self._marker} or f"_{self._marker}_" not in call["id"]:
                    raise Wrong(f"client {self._marker} got the call {call}")
            self._luck.shuffle(calls)
            self._messages += [
                {"role": "tool", "tool_call_id": call["id"], "content": RESULT.format(call["id"])} for call in calls
            ]
            await asyncio.sleep(self._luck.choice((0, 0, 0.05, 0.3, PARKED_AGE + 6)))
        raise Wrong(f"client {self._marker} was never given words")

    def _body(self, stream: bool) -> dict[str, Any]:
        return {"model": "opus", "messages": self._messages, "tools": TOOLS, "stream": stream}

    async def _ask(self) -> dict[str, Any]:
        stream = self._luck.random() < 0.5
        response = await self._http.post(self._url, json=self._body(stream))
        if response.status_code != 200:
            raise Wrong(f"client {self._marker}: {response.status_code} {response.text[:300]}")
        self.served.append(response.headers["x-claude-proxy-served"])
        if not stream:
            message: dict[str, Any] = response.json()["choices"][0]["message"]
            return message
        events = re.findall(r"^data: (.*)$", response.text, re.M)
        if events[-1] != "[DONE]":
            raise Wrong(f"client {self._marker}: the stream ended with {events[-1][:300]}")
        folded: dict[str, Any] = chat.fold([json.loads(event) for event in events[:-1]])
        message = folded["choices"][0]["message"]
        return message

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(self._luck.choice((0.01, 0.05, 0.15))):
                await self._http.post(self._url, json=self._body(True))
        except TimeoutError:
            return


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


async def soak(cli: Path, conversations: int, at_once: int, seed: int) -> Figures:
    """Runs it. The clients are the same for the same seed; what overlaps with what is not."""
    luck = random.Random(seed)
    outcomes: Counter[str] = Counter()
    served: Counter[str] = Counter()
    wrong: list[str] = []
    api = Api()
    began = time.monotonic()
    async with Upstream(api) as up:
        settings = {
            "CLAUDE_PROXY_UPSTREAM_URL": up.url,
            "CLAUDE_PROXY_PARKED": str(PARKED),
            "CLAUDE_PROXY_PARKED_AGE": str(PARKED_AGE),
            "CLAUDE_PROXY_WAITING": "2",
            "LOG_LEVEL": "warn",
        }
        server = replay.Server(cli, settings)
        await asyncio.to_thread(server.__enter__)
        try:
            async with httpx.AsyncClient(timeout=120, trust_env=False) as http:
                gate = asyncio.Semaphore(at_once)

                async def one(number: int) -> None:
                    async with gate:
                        client = Client(http, server.url, f"m{number}x", random.Random(luck.random()))
                        try:
                            outcomes[await client.run()] += 1
                        except Wrong as error:
                            outcomes["wrong"] += 1
                            wrong.append(str(error))
                        served.update(client.served)

                await asyncio.gather(*(one(number) for number in range(at_once)))
                before = _memory(server.pid)
                await asyncio.gather(*(one(number) for number in range(at_once, conversations)))
                # Everything parked is given up by its age, and looked after every few seconds.
                await asyncio.sleep(PARKED_AGE + 6)
                after = _memory(server.pid)
                health = (await http.get(f"{server.url}/health")).json()["children"]
                living = below(server.pid)
                if health["busy"] or health["parked"] or len(living) > health["waiting"]:
                    wrong.append(f"the server still holds {health} and has {len(living)} children")
        finally:
            await asyncio.to_thread(server.__exit__, None, None, None)
    left = [child for child in living if Path(f"/proc/{child}").exists()]
    return Figures(
        conversations, time.monotonic() - began, outcomes, served, (*api.wrong, *wrong), before, after, len(left)
    )


def main(arguments: list[str]) -> int:
    """The command. Exit code 0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m conformance soak", description=__doc__)
    parser.add_argument("--cli", help="version, `latest` or path; else CLAUDE_CLI")
    parser.add_argument("--conversations", type=int, default=500, help="how many; default: %(default)s")
    parser.add_argument("--at-once", type=int, default=8, help="how many side by side; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="the same clients for the same one; default: %(default)s")
    asked = parser.parse_args(arguments)
    try:
        cli = record.find(asked.cli)
    except install.NotInstalled as error:
        print(error)
        return 2
    figures = asyncio.run(soak(cli.path, asked.conversations, asked.at_once, asked.seed))
    print(f"{figures.conversations} conversations in {figures.seconds:.0f} s on CLI {cli.version}")
    print("  ended:  " + ", ".join(f"{count} {how}" for how, count in sorted(figures.outcomes.items())))
    print("  served: " + ", ".join(f"{count} {how}" for how, count in sorted(figures.served.items())))
    print(f"  server memory: {figures.memory_before:.1f} MB, in the end {figures.memory_after:.1f} MB")
    print(f"  processes left after its end: {figures.children_left}")
    for words in figures.wrong[-20:]:
        print(f"  WRONG: {words}")
    grown = figures.memory_after - figures.memory_before
    ok = not figures.wrong and not figures.children_left and grown < 10
    print("all as it should be" if ok else "NOT as it should be")
    return 0 if ok else 1
