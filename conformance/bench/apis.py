"""The other APIs against chat, in one run: first deltas, next requests of a conversation, and the server's own cost."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from conformance.bench.client import END, Connection
from conformance.bench.figures import Figure, median, paired
from conformance.bench.processes import BenchError, Place, Server, server

# So many that the processor time of an answer is many times what the system counts it in.
DELTAS = 40_000
_counted = iter(range(1 << 30))
# What a delta of text looks like in each API, and what the last event does.
_FIRST = {
    "chat": re.compile(rb'"content":"[^"]'),
    "responses": re.compile(rb'output_text\.delta".*?"delta":"[^"]'),
    "messages": re.compile(rb'"text_delta","text":"[^"]'),
}
_PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
# The Messages API needs a limit, which the CLI is told in a line of its own: so all have one.
_LIMITS = {"chat": "max_completion_tokens", "responses": "max_output_tokens", "messages": "max_tokens"}
_LAST = {"chat": b"[DONE]", "responses": b"response.completed", "messages": b"message_stop"}


class Heard(msgspec.Struct, frozen=True):
    """A streamed answer: seconds to its first event and to its first text; how it was served; its bytes."""

    event: float
    text: float
    served: str
    said: bytes


class Speaker(Connection):
    """It asks one of the APIs."""

    def __init__(self, port: int, api: str) -> None:
        super().__init__(port)
        self.api = api

    def ask(self, messages: list[dict[str, Any]], **more: Any) -> Heard:
        """One request, its answer read to the end. Raises BenchError on any failure."""
        asked: dict[str, Any] = {"model": "opus", "stream": True, _LIMITS[self.api]: 32_000}
        asked |= {"input" if self.api == "responses" else "messages": messages, **more}
        body = msgspec.json.encode(asked)
        head = f"POST {_PATHS[self.api]} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n"
        version = "anthropic-version: 2023-06-01\r\n" if self.api == "messages" else ""
        request = f"{head}{version}content-type: application/json\r\n\r\n".encode() + body
        started = time.perf_counter()
        self._socket.sendall(request)
        came, event, text = bytearray(), 0.0, 0.0
        while not came.endswith(END):
            part = self._socket.recv(1 << 18)
            came += part
            now = time.perf_counter() - started
            event = event or (now if b"data: " in part else 0.0)
            text = text or (now if _FIRST[self.api].search(came) else 0.0)
            if not part or not came.startswith(b"HTTP/1.1 200"[: len(came)]):
                raise BenchError(f"the server answered {bytes(came[:1000])!r}")
        if not text or _LAST[self.api] not in came:
            raise BenchError(f"the answer is no answer: {bytes(came[-1000:])!r}")
        served = re.search(rb"(?im)^x-claude-proxy-served: *([a-z]+)", came)
        return Heard(event, text, served[1].decode() if served else "", bytes(came))


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _text() -> str:
    return f"Say something, number {next(_counted)}."


Turn = Callable[[], float]


@contextmanager
def _new(running: Server, api: str, *, event: bool = False) -> Iterator[Turn]:
    """New conversations; to the first text of each, or to its first event."""
    with Speaker(running.port, api) as speaker:

        def turn() -> float:
            heard = speaker.ask([_user(_text())])
            return heard.event if event else heard.text

        yield turn


@contextmanager
def following(running: Server, api: str) -> Iterator[Turn]:
    """Further requests of one conversation, in the process that holds it."""
    with Speaker(running.port, api) as speaker:
        messages: list[dict[str, Any]] = []
        more: dict[str, str] = {}

        def turn() -> float:
            asked = _user(_text())
            messages.append(asked)
            heard = speaker.ask([asked] if api == "responses" else messages, **more)
            if (more or len(messages) > 1) and heard.served != "continued":
                raise BenchError(f"served: {heard.served or 'no header says how'}")
            if api == "responses":
                found = re.search(rb'"id":"(resp_[0-9a-f]+)"', heard.said)
                assert found is not None
                more["previous_response_id"] = found[1].decode()
            else:
                pieces = re.findall(rb'"content":"((?:[^"\\]|\\.)+)"', heard.said)
                answer = b"".join(pieces).decode()
                messages.append({"role": "assistant", "content": msgspec.json.decode(f'"{answer}"')})
            return heard.text

        turn()
        yield turn


def _against(name: str, one: Turn, other: Turn, rounds: int, pause: float, at_most: float) -> list[Figure]:
    """Two of them in turn, after one of each that does not count; their ratio, pair by pair."""
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(rounds + 1):
        for turn, found in ((other, theirs), (one, ours)):
            time.sleep(pause)
            seconds = turn() * 1000
            if number:
                found.append(seconds)
    return [median(name, "ms", ours), median("chat, in the same turns", "ms", theirs),
            paired(f"{name} / chat", ours, theirs, at_most=at_most)]  # fmt: skip


def first(place: Place, quick: bool) -> list[Figure]:
    """First events and texts of new conversations, and next requests, of each API and chat in turn."""
    rounds = 4 if quick else 12
    figures: list[Figure] = []
    with server(place) as running:
        for name, api, event in (
            ("responses, first event", "responses", True),
            ("responses, first text", "responses", False),
            ("messages, first text", "messages", False),
        ):
            with _new(running, api, event=event) as one, _new(running, "chat", event=event) as other:
                figures += _against(name, one, other, rounds, 0.5, 1.1)
        with following(running, "responses") as one, following(running, "chat") as other:
            figures += _against("responses, previous_response_id", one, other, 2 * rounds, 0.1, 1.1)
    return figures


def cost(place: Place, quick: bool) -> list[Figure]:
    """Processor time of the server for each delta of an instant CLI's long answers."""
    costs: dict[str, list[float]] = {api: [] for api in ("chat", "responses", "messages")}
    with server(place) as running:
        for number in range((2 if quick else 5) + 1):
            for api, found in costs.items():
                with Speaker(running.port, api) as speaker:
                    running.rest(2)
                    before = running.processor_seconds()
                    speaker.ask([_user(f"{_text()} deltas={DELTAS}")])
                    spent = (running.processor_seconds() - before) / DELTAS * 1000
                if number:
                    found.append(spent)
    return [
        *(median(f"processor time a delta, {api}", "ms", found) for api, found in costs.items()),
        *(paired(f"{api} / chat", costs[api], costs["chat"], at_most=1.3) for api in ("responses", "messages")),
    ]
