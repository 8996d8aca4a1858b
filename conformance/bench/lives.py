"""How much of its input a conversation reads from the prompt cache, by what becomes of the conversation.

Ten turns with a tool each: the user asks, the model calls the tool, gets its result and answers, 20 requests in all.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from conformance.bench.client import Client, Message, chat
from conformance.bench.figures import Figure
from conformance.bench.messages_api import MANY, THINK
from conformance.bench.processes import BenchError, Place, Server, server, upstream
from conformance.promptcache import Counted, share

TURNS = 10
FORKS = 5
_INSTRUCTIONS = "You help with travel plans. " + "Weigh weather, distance, price and the traveller's wishes. " * 60
_RESULT = {"city": "Rome", "days": [{"day": n, "sky": "sunny", "high": 24 + n} for n in range(40)]}


def _tool(name: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Does what {name} says, for travel plans. " * 8,
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string", "description": "What to look for."}},
                "required": ["query"],
            },
        },
    }


_TOOLS = [_tool(name) for name in ("look_up", "book", "cancel")]


class Talk:
    """A conversation, as its client has it, and how its requests were served."""

    def __init__(self, instructions: str) -> None:
        self.messages: list[Message] = [{"role": "system", "content": instructions}]
        self.served: list[str] = []

    def turn(self, running: Server, question: str, calls_at_once: int = 1, **more: Any) -> None:
        """A question, the call of a tool, its result, an answer. Raises BenchError for anything else."""
        words = f"Please look up the weather for {question}. " + "I would like it dry. " * 8
        self.messages.append({"role": "user", "content": words})
        with Client(running.port) as client:
            for calls_wanted in (calls_at_once, 0):
                answer = client.ask(chat(self.messages, tools=_TOOLS, **more))
                self.served.append(answer.served)
                self.messages.append(answer.message)
                calls = answer.message.get("tool_calls", [])
                if len(calls) != calls_wanted:
                    raise BenchError(f"{question} was answered with {len(calls)} tool calls")
                result = json.dumps({"asked": question, **(_RESULT if calls_at_once == 1 else {})})
                self.messages += [{"role": "tool", "tool_call_id": call["id"], "content": result} for call in calls]

    def turns(self, running: Server, first: int, last: int, **more: Any) -> None:
        """So many, each with a question of its own."""
        for number in range(first, last):
            self.turn(running, f"day {number}", **more)

    def forget(self, messages: int) -> None:
        """Go back to where there were so many messages."""
        del self.messages[messages:]


class Stage:
    """An upstream that counts, and servers in front of it; `counted`: every request that has come so far."""

    def __init__(self, place: Place, log: Path) -> None:
        self._place = place
        self._log = log

    @contextmanager
    def serve(self, **more: str) -> Iterator[Server]:
        """A server; `more`: settings of its own."""
        with server(self._place, more=more) as running:
            yield running

    def counted(self) -> list[Counted]:
        """In the order in which they came."""
        return [msgspec.json.decode(line, type=Counted) for line in self._log.read_bytes().splitlines()]


@contextmanager
def _stage(place: Place) -> Iterator[Stage]:
    log = place.home / "counted.jsonl"
    log.unlink(missing_ok=True)
    with upstream(log) as port:
        yield Stage(msgspec.structs.replace(place, upstream=port), log)


# ── lives ───────────────────────────────────────────────────────────────────────────────────────────────────

Life = Callable[[Stage, Talk], None]


def _continued(stage: Stage, talk: Talk) -> None:
    with stage.serve() as running:
        talk.turns(running, 0, TURNS)


def _put_in(stage: Stage, talk: Talk) -> None:
    with stage.serve(CLAUDE_PROXY_PARKED="0") as running:
        talk.turns(running, 0, TURNS)


def _forked(stage: Stage, talk: Talk) -> None:
    with stage.serve() as running:
        talk.turns(running, 0, TURNS)
        shared = len(talk.messages)
        for number in range(FORKS):
            talk.forget(shared)
            talk.turn(running, f"another day, fork {number}")


def _choices(stage: Stage, talk: Talk) -> None:
    with stage.serve() as running:
        talk.turns(running, 0, TURNS, n=4)


def _restarted(stage: Stage, talk: Talk) -> None:
    for half in (range(TURNS // 2), range(TURNS // 2, TURNS)):
        with stage.serve() as running:
            talk.turns(running, half.start, half.stop)


def _restarted_with_file(stage: Stage, talk: Talk) -> None:
    for half in (range(TURNS // 2), range(TURNS // 2, TURNS)):
        with stage.serve(CLAUDE_PROXY_STORE="file") as running:
            talk.turns(running, half.start, half.stop)


def _edited(stage: Stage, talk: Talk) -> None:
    with stage.serve() as running:
        for number in range(TURNS):
            shared = len(talk.messages)
            talk.turn(running, f"day {number}, I think")
            talk.forget(shared)
            talk.turn(running, f"day {number}")


def _many_calls(stage: Stage, talk: Talk) -> None:
    with stage.serve() as running:
        for number in range(TURNS):
            talk.turn(running, f"day {number} of each place", MANY)


LEAST = 0.9
LIVES: dict[str, Life] = {
    "continued": _continued,
    "put in again each turn": _put_in,
    "forked at turn 10 five ways": _forked,
    "n = 4 each turn": _choices,
    "restarted in the middle": _restarted,
    "restarted in the middle, with a file": _restarted_with_file,
    "last message edited each turn": _edited,
    f"{MANY} calls at once each turn": _many_calls,
}


def cache(place: Place, quick: bool) -> list[Figure]:
    """The share of all input that was read from the cache."""
    figures = []
    for thinks in (False, True):
        for name, life in LIVES.items():
            for code in filter(None, (place.code, place.before)):
                talk = Talk(f"{_INSTRUCTIONS}{f' {THINK.decode()}' if thinks else ''}")
                with _stage(msgspec.structs.replace(place, code=code)) as stage:
                    life(stage, talk)
                    counted = stage.counted()
                old = code == place.before
                served = {word or "not said": talk.served.count(word) for word in talk.served}
                how = ", ".join(f"{word} {times}" for word, times in served.items())
                note = f"{len(counted)} requests, {sum(each.total for each in counted):,.0f} tokens; {how}"
                title = f"{name}{', thinking' if thinks else ''}{', before' if old else ''}"
                figures.append(
                    Figure(
                        title,
                        share(counted),
                        "of tokens",
                        at_least=None if old else LEAST,
                        note=note,
                    )
                )
        if quick:
            break
    return figures
