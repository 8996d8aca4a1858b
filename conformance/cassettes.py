"""Cassettes of the Messages API, in vcrpy's format, read and matched with vcrpy; `play` is one extra key of a response
(`conformance.messages`)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml
from vcr import matchers  # type: ignore[import-untyped]
from vcr.request import Request as VcrRequest  # type: ignore[import-untyped]
from vcr.serialize import deserialize  # type: ignore[import-untyped]
from vcr.serializers import yamlserializer  # type: ignore[import-untyped]

from conformance.facts import shown
from conformance.messages import Arrived, Play, Reply, counted, error, opening, simplified
from conformance.web_search import is_search

REAL = "https://api.anthropic.com"
COUNTING = "/v1/messages/count_tokens"


class Interaction(msgspec.Struct, frozen=True):
    """One request as vcrpy keeps it (no body: any request) and the reply to it."""

    request: Any
    reply: Reply


class Cassette(msgspec.Struct, frozen=True):
    """Interactions in the order in which they are played; `live` if the real API answered."""

    interactions: tuple[Interaction, ...]
    live: bool


def load(path: Path) -> Cassette:
    """Reads a cassette. Raises ValueError, naming the file, if it is not one."""
    try:
        requests, responses, *rest = deserialize(path.read_text("utf-8"), yamlserializer)
        interactions = tuple(
            Interaction(request, _reply(response)) for request, response in zip(requests, responses, strict=True)
        )
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        yaml.YAMLError,
        msgspec.ValidationError,
    ) as fault:
        raise ValueError(f"{path}: not a cassette: {fault}") from fault
    if not interactions:
        raise ValueError(f"{path}: a cassette without interactions")
    return Cassette(interactions, bool(rest and rest[0].get("live")))


def _reply(response: dict[str, Any]) -> Reply:
    if unknown := response.keys() - {"status", "headers", "body", "play"}:
        raise ValueError(f"unknown keys in a response: {', '.join(sorted(unknown))}")
    play = msgspec.convert(response.get("play", {}), Play)
    body: bytes = response["body"]["string"] or b""
    headers = tuple((name.lower(), str(value)) for name, values in response["headers"].items() for value in values)
    return Reply(response["status"]["code"], headers, tuple(chunks(body, headers, play)), play)


def chunks(body: bytes, headers: Sequence[tuple[str, str]], play: Play) -> Iterable[bytes]:
    """The pieces in which a body is written."""
    if play.size:
        return [body[start : start + play.size] for start in range(0, len(body), play.size)]
    if any(name == "content-type" and "event-stream" in value for name, value in headers):
        return [event.strip(b"\n") + b"\n\n" for event in body.split(b"\n\n") if event.strip()]
    return [body] if body else []


class _Dumper(yaml.SafeDumper):
    pass


def _literal(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # The stream stays readable, and a change of it shows as a change of one line.
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _literal)


def save(path: Path, interactions: Iterable[tuple[dict[str, Any] | None, Reply]], *, live: bool) -> None:
    """Writes a cassette; a request is given as the body to be matched, or None for any."""
    document: dict[str, Any] = {
        "version": 1,
        "interactions": [
            {
                "request": {
                    "method": "POST",
                    "uri": f"{REAL}/v1/messages?beta=true",
                    "body": None if body is None else msgspec.json.encode(body).decode(),
                    "headers": {},
                },
                "response": {
                    "status": {"code": reply.status, "message": ""},
                    "headers": {name: [value] for name, value in reply.headers},
                    "body": {"string": b"".join(reply.chunks).decode()},
                    **({"play": play} if (play := _only_set(reply.play)) else {}),
                },
            }
            for body, reply in interactions
        ],
    }
    if live:
        document["metadata"] = {"live": True}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20), "utf-8")


def _only_set(play: Play) -> dict[str, int]:
    standard = Play()
    return {key: value for key in Play.__struct_fields__ if (value := getattr(play, key)) != getattr(standard, key)}


def messages(arriving: Any, recorded: Any) -> None:
    """A matcher for vcrpy: the same messages, as far as the sender decides them; no recorded body matches all."""
    if recorded.body is None:
        return
    new, old = (simplified(json.loads(request.body))["messages"] for request in (arriving, recorded))
    if new != old:
        raise AssertionError(f"messages: recorded {shown(old)}, arrived {shown(new)}")


class Library:
    """Many cassettes behind one upstream; the first user text of a request says which one it is played from. That of a
    search of the web is the CLI's own: it belongs to the conversation that the same CLI has asked before.

    As with vcrpy each interaction is played once, the first one that matches; `rewind` starts over.
    """

    def __init__(self) -> None:
        self._cassettes: dict[str, Cassette] = {}
        self._unplayed: dict[str, list[Interaction]] = {}
        self._arrived: dict[str, list[Arrived]] = {}
        self._surprises: dict[str, list[str]] = {}
        self._gone: set[str | None] = set()
        self._refused: dict[str, tuple[str | None, Reply]] = {}

    def add(self, start: str, cassette: Cassette) -> None:
        """Conversations that open with this text are answered from this cassette."""
        if start in self._cassettes:
            raise ValueError(f"two cassettes for conversations that open with {shown(start)}")
        self._cassettes[start] = cassette
        self.rewind(start)

    def rewind(self, start: str) -> None:
        """Plays a cassette from its start again and forgets what arrived for it, and whoever had sent it."""
        self._gone |= {request.session for request in self._arrived.get(start, [])}
        self._unplayed[start] = list(self._cassettes[start].interactions)
        self._arrived[start] = []
        self._surprises[start] = []
        self._refused.pop(start, None)

    def arrived(self, start: str) -> list[Arrived]:
        """The requests that were answered from this cassette, or should have been, in order."""
        return self._arrived[start]

    def surprises(self, start: str) -> list[str]:
        """Why the cassette had no answer, for each request that got none."""
        return self._surprises[start]

    def __call__(self, request: Arrived) -> Reply:
        body = request.body
        start = self._asked_before(request) if is_search(body) else self._start(body)
        if start is None and request.target.startswith(COUNTING):
            return counted(body)
        if start is None:
            return error(400, "invalid_request_error", f"no cassette opens with {shown(opening(body))}")
        if request.session is not None and request.session in self._gone:
            # A CLI of an earlier round that is about to end: it must not get an answer that is meant for another.
            return error(400, "invalid_request_error", "this conversation is over", hang=-1)
        if (refused := self._refused.get(start)) is not None and refused[0] == request.session:
            return refused[1]
        self._arrived[start].append(request)
        arriving = VcrRequest("POST", f"{REAL}{request.target}", msgspec.json.encode(body), {})
        failed = "every interaction is played"
        for interaction in self._unplayed[start]:
            _, fails = matchers.get_matchers_results(
                arriving, interaction.request, [matchers.method, matchers.path, messages]
            )
            if not fails:
                self._unplayed[start].remove(interaction)
                if interaction.reply.play.again:
                    self._refused[start] = request.session, interaction.reply
                return interaction.reply
            failed = "; ".join(str(reason) for _, reason in fails)
        # Silence, not an error: what the CLI asks after the end of an answer must not change the recording.
        self._surprises[start].append(failed)
        return error(400, "invalid_request_error", "the cassette has no answer", hang=-1)

    def _asked_before(self, request: Arrived) -> str | None:
        sessions = ((start, {one.session for one in arrived}) for start, arrived in self._arrived.items())
        return next((start for start, known in sessions if request.session in known), None)

    def _start(self, body: Mapping[str, Any]) -> str | None:
        first = opening(body)
        if first in self._cassettes:
            return first
        # A CLI that puts text of its own around the user's must not stop the run: the expectation reports it.
        said = json.dumps(simplified(body)["messages"], ensure_ascii=False)
        known = [start for start in self._cassettes if json.dumps(start, ensure_ascii=False)[1:-1] in said]
        return max(known, key=len, default=None)


# ── recording the real API ──────────────────────────────────────────────────────────────────────────────────
