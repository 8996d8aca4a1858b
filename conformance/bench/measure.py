"""The measurements. Each takes a place and whether to be quick, and gives its figures. All raise BenchError."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import msgspec

from conformance.bench.client import Client, Message, burst, chat, in_turn, say
from conformance.bench.figures import Figure, median, paired, ratio
from conformance.bench.messages_api import WORDS
from conformance.bench.processes import BenchError, Direct, Place, Server, ask, begin, server, start_each

APART = 1.5
SYSTEM: Message = {"role": "system", "content": "Be brief."}
_counted = iter(range(1 << 30))


def _new() -> str:
    """A text that begins a conversation unlike all others."""
    return f"Say something, number {next(_counted)}."


def _said(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


# ── first deltas ────────────────────────────────────────────────────────────────────────────────────────────

# Gives the seconds to one first delta.
Turn = Callable[[], float]


class Unavailable(Exception):
    """A contestant that cannot take part, and why."""


@contextmanager
def _on_demand(place: Place) -> Iterator[Turn]:
    def turn() -> float:
        child = Direct(place)
        try:
            return child.turn(begin(_new()), child.started)
        finally:
            child.end()

    yield turn


@contextmanager
def _waiting(place: Place) -> Iterator[Turn]:
    child = Direct(place, idle=True)

    def turn() -> float:
        nonlocal child
        try:
            return child.turn(begin(_new()))
        finally:
            child.end()
            child = Direct(place, idle=True)

    try:
        yield turn
    finally:
        child.end()


@contextmanager
def _living(place: Place) -> Iterator[Turn]:
    child = Direct(place, idle=True)
    try:
        child.turn(begin(_new()))
        yield lambda: child.turn(ask(_new()))
    finally:
        child.end()


@contextmanager
def _proxied(running: Server) -> Iterator[Turn]:
    with Client(running.port) as client:
        yield lambda: client.ask(say(_new())).first


@contextmanager
def _continued(running: Server) -> Iterator[Turn]:
    with Client(running.port) as client:
        messages: list[Message] = [SYSTEM]

        def turn() -> float:
            messages.append(_said(_new()))
            answer = client.ask(chat(messages))
            messages.append(answer.message)
            if len(messages) > 3 and answer.served != "continued":
                raise Unavailable(f"served: {answer.served or 'no header says how'}")
            return answer.first

        turn()
        yield turn


def _compare(
    contestants: Mapping[str, Callable[[], AbstractContextManager[Turn]]], rounds: int, turns: int, apart: float
) -> dict[str, Figure]:
    """Each contestant in turn, some turns at a stretch, round after round; their medians in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    absent: dict[str, str] = {}
    for _ in range(rounds):
        for name, prepare in contestants.items():
            try:
                with prepare() as turn:
                    time.sleep(APART)
                    for _ in range(turns):
                        next_at = time.perf_counter() + apart
                        times[name].append(turn() * 1000)
                        time.sleep(max(0.0, next_at - time.perf_counter()))
            except Unavailable as reason:
                absent[name] = str(reason)
                times[name].clear()
    return {name: median(name, "ms", times[name], note=absent.get(name, "")) for name in contestants}


def paced(place: Place, quick: bool) -> list[Figure]:
    """New and next requests at the pace of a person, against the CLI driven directly at the same pace."""
    with server(place) as running:
        found = _compare(
            {
                "CLI started on demand": lambda: _on_demand(place),
                "CLI waiting, driven directly": lambda: _waiting(place),
                "CLI living, next turn driven directly": lambda: _living(place),
                "server, new conversation": lambda: _proxied(running),
                "server, next request of a conversation": lambda: _continued(running),
            },
            2 if quick else 4,
            3 if quick else 5,
            APART,
        )
    demand, waiting, living, new, following = found.values()
    return [
        *found.values(),
        ratio("server new / CLI waiting", new, waiting, at_most=1.2),
        ratio("CLI on demand / server new", demand, new, at_least=4),
        ratio("server next / CLI next turn", following, living, at_most=1.4),
        ratio("CLI on demand / server next", demand, following, at_least=10),
    ]


def back_to_back(place: Place, quick: bool) -> list[Figure]:
    """New conversations without a pause."""
    with server(place) as running:
        found = _compare(
            {
                "CLI started on demand": lambda: _on_demand(place),
                "server, new conversation": lambda: _proxied(running),
            },
            2 if quick else 4,
            6 if quick else 10,
            0.0,
        )
    demand, new = found.values()
    return [*found.values(), ratio("CLI on demand / server new", demand, new, at_least=1.5)]


# ── many at once ────────────────────────────────────────────────────────────────────────────────────────────


def _alternating(rounds: int, *contestants: Callable[[], float]) -> list[list[float]]:
    """What each contestant gives, round after round."""
    rates: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds):
        for run, found in zip(contestants, rates, strict=True):
            time.sleep(1)
            found.append(run())
    return rates


def many(place: Place, quick: bool) -> list[Figure]:
    """New conversations, 8 at once, against starting the CLI for each, 8 at once."""
    count = 16 if quick else 24
    with server(place) as running:

        def served() -> float:
            running.rest(2)
            return burst(running.port, [say(_new()) for _ in range(count)], 8)[0]

        demand, new = _alternating(2 if quick else 4, lambda: start_each(place, begin(_new()), count, 8), served)
    return [
        median("CLI started on demand", "requests/s", demand),
        median("server, new conversations", "requests/s", new),
        paired("server / CLI on demand", new, demand, at_least=1.0),
    ]


def follow_ups(place: Place, quick: bool) -> list[Figure]:
    """60 further requests of 8 living conversations, side by side, against starting the CLI for each."""
    answer: Message = {"role": "assistant", "content": "".join(WORDS)}
    count = 30 if quick else 60
    with server(place, more={"CLAUDE_PROXY_PARKED": "8"}) as running:
        served: dict[str, int] = {}

        def continued() -> float:
            histories: list[list[Message]] = [[SYSTEM, _said(_new()), answer] for _ in range(8)]
            burst(running.port, [chat(history[:2]) for history in histories], 8)
            running.rest(2)
            queues: list[list[bytes]] = [[] for _ in histories]
            for number in range(count):
                history = histories[number % 8]
                history.append(_said(_new()))
                queues[number % 8].append(chat(history))
                history.append(answer)
            rate, how = in_turn(running.port, queues)
            for word, times in how.items():
                served[word] = served.get(word, 0) + times
            return rate

        demand, following = _alternating(2, lambda: start_each(place, begin(_new()), 16, 8), continued)
    figures = [
        median("CLI started on demand", "requests/s", demand),
        median("server, follow-up requests", "requests/s", following),
        paired("server / CLI on demand", following, demand, at_least=8),
    ]
    if set(served) == {"continued"}:
        return figures
    how = ", ".join(f"{word or 'no header'} {times}" for word, times in served.items())
    return [figures[0], *(Figure(one.name, None, one.unit, at_least=one.at_least, note=how) for one in figures[1:])]


# ── the server's own cost ───────────────────────────────────────────────────────────────────────────────────


def instant(place: Place, quick: bool) -> list[Figure]:
    """Rate, processor time and memory with a CLI that costs nothing, against a bare loop that starts it."""
    count, rounds = (340, 3) if quick else (600, 4)
    with server(place, conversations=32) as running:
        spent: list[float] = []

        def served() -> float:
            requests = [say(_new()) for _ in range(count)]
            before = running.processor_seconds()
            rate, _ = burst(running.port, requests, 32)
            spent.append((running.processor_seconds() - before) / count * 1000)
            return rate

        burst(running.port, [say(_new()) for _ in range(64)], 32)
        bare, new = _alternating(rounds, lambda: start_each(place, begin(_new()), count, 32), served)
        memory = running.memory()
    cost = median("server, processor time a request", "ms", spent)
    return [
        median("bare loop: start, feed, read", "requests/s", bare),
        median("server, new conversations", "requests/s", new),
        paired("server / bare loop", new, bare, at_least=0.5),
        msgspec.structs.replace(cost, at_most=3.0),
        Figure(f"server, memory after {64 + count * rounds:,} requests", memory, "MB", at_most=60.0),
    ]


def deltas(place: Place, quick: bool) -> list[Figure]:
    """Processor time of the server for each delta of long answers, and how fast they get through."""
    figures = []
    rounds = 2 if quick else 5
    ways = {
        "one burst": ("deltas=5000", 0.05),
        "one write each": ("deltas=5000 each", 0.05),
        "one write each, 0.5 ms apart": ("deltas=5000 gap=500 each", None),
    }
    with server(place) as running, Client(running.port) as client:
        client.ask(say("Say deltas=5000"))
        for name, (text, target) in ways.items():
            costs = []
            seconds = []
            for _ in range(rounds):
                running.rest(2)
                before, started = running.processor_seconds(), time.perf_counter()
                answer = client.ask(say(f"{_new()} {text}"))
                seconds.append(time.perf_counter() - started)
                costs.append((running.processor_seconds() - before) / 5000 * 1000)
                if len(answer.message["content"]) != 30_000:
                    raise BenchError(f"{len(answer.message['content'])} of 30000 characters came through")
            cost = median(f"processor time a delta, {name}", "ms", costs)
            figures.append(msgspec.structs.replace(cost, at_most=target))
            figures.append(median(f"5,000 deltas, {name}", "s", seconds))
    return figures
