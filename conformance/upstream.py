"""A Messages API on loopback: answers from cassettes or from a function, and keeps what arrived.

Cassettes are vcrpy's format, read and matched with vcrpy. What it has no place for goes into one extra key of a
response, `play`, a table of whole numbers, all optional:

    before   milliseconds of silence before the first byte
    between  milliseconds between two chunks
    size     bytes of one chunk; without it one SSE event is one chunk, one write
    cut      close the connection after that many chunks; 0: after the headers, -1: before them
    hang     the same, but the connection stays open and silent
    again    1: what the same process asks after that gets the same answer, and does not count as arrived: how often
             the CLI asks again after a refusal depends on its version

A header's value such as `+18000` is the time so many seconds after it is sent, in seconds since 1970: the CLI drops
windows of the plan that end long ago, or more than a year ahead.
"""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import yaml
from vcr import matchers  # type: ignore[import-untyped]
from vcr.request import Request as VcrRequest  # type: ignore[import-untyped]
from vcr.serialize import deserialize  # type: ignore[import-untyped]
from vcr.serializers import yamlserializer  # type: ignore[import-untyped]

from conformance.facts import shown
from conformance.web_search import is_search

REAL = "https://api.anthropic.com"
MESSAGES = "/v1/messages"
COUNTING = "/v1/messages/count_tokens"
_BODY_LIMIT = 64 << 20


class Play(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a response is played; see the module's text."""

    before: int = 0
    between: int = 0
    size: int | None = None
    cut: int | None = None
    hang: int | None = None
    again: int = 0


class Reply(msgspec.Struct, frozen=True):
    """One HTTP response, in the chunks in which it is written."""

    status: int
    headers: tuple[tuple[str, str], ...]
    chunks: tuple[bytes, ...]
    play: Play = Play()


class Arrived(msgspec.Struct, frozen=True):
    """One request as it came; `credentials` are the headers that only Live looks at, and nobody keeps."""

    at: float
    target: str
    headers: Mapping[str, str]
    credentials: Mapping[str, str]
    body: dict[str, Any]
    number: int

    @property
    def session(self) -> str | None:
        """The CLI's own name for the conversation, if it was the CLI that asked."""
        return self.headers.get("x-claude-code-session-id")


Answer = Callable[[Arrived], Reply | Awaitable[Reply]]


# ── building answers ────────────────────────────────────────────────────────────────────────────────────────


def sse(event: Mapping[str, Any]) -> bytes:
    """One event of a stream, as the Messages API writes it."""
    return f"event: {event['type']}\ndata: {msgspec.json.encode(event).decode()}\n\n".encode()


def stream(events: Iterable[Mapping[str, Any]], headers: Mapping[str, str] | None = None, **play: int) -> Reply:
    """A streamed answer, one chunk an event."""
    return Reply(
        200,
        (
            ("content-type", "text/event-stream; charset=utf-8"),
            ("request-id", "req_01"),
            *(headers or {}).items(),
        ),
        tuple(map(sse, events)),
        Play(**play),
    )


def error(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None, **play: int) -> Reply:
    """An error as the Messages API words it."""
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_01"}
    return Reply(
        status,
        (("content-type", "application/json"), ("request-id", "req_01"), *(headers or {}).items()),
        (msgspec.json.encode(body),),
        Play(**play),
    )


def counted(body: Mapping[str, Any]) -> Reply:
    """A count: the more the request says the larger, and never what the CLI guesses by itself."""
    tokens = 7 + len(json.dumps(simplified(body)["messages"])) + len(json.dumps(body.get("tools", [])))
    return Reply(200, (("content-type", "application/json"),), (msgspec.json.encode({"input_tokens": tokens}),))


def text(*pieces: str) -> dict[str, Any]:
    """A text block that arrives in these pieces."""
    return {
        "start": {"type": "text", "text": ""},
        "deltas": [{"type": "text_delta", "text": piece} for piece in pieces],
    }


def tool_use(identifier: str, name: str, *pieces: str) -> dict[str, Any]:
    """A tool call whose arguments arrive in these pieces of JSON."""
    return {
        "start": {"type": "tool_use", "id": identifier, "name": name, "input": {}},
        "deltas": [{"type": "input_json_delta", "partial_json": piece} for piece in pieces],
    }


def thinking(*pieces: str, signature: str = "c2lnbmF0dXJl") -> dict[str, Any]:
    """A thinking block that arrives in these pieces, signed at its end."""
    return {
        "start": {"type": "thinking", "thinking": "", "signature": ""},
        "deltas": [
            *({"type": "thinking_delta", "thinking": piece} for piece in pieces),
            {"type": "signature_delta", "signature": signature},
        ],
    }


def message(
    *blocks: Mapping[str, Any],
    stop: str = "end_turn",
    model: str = "claude-opus-5-5",
    usage: Mapping[str, int] | None = None,
    identifier: str = "msg_01",
    stop_sequence: str | None = None,
) -> list[dict[str, Any]]:
    """The events of one whole message."""
    counted = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 5,
        "cache_read_input_tokens": 7,
        "output_tokens": 12,
    }
    counted |= usage or {}
    events: list[dict[str, Any]] = [
        {
            "type": "message_start",
            "message": {
                "id": identifier, "type": "message", "role": "assistant", "model": model, "content": [],
                "stop_reason": None, "stop_sequence": None,
                "usage": counted | {"output_tokens": 1, "service_tier": "standard"},
            },
        }
    ]  # fmt: skip
    for index, block in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block["start"]})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in block["deltas"]]
        events.append({"type": "content_block_stop", "index": index})
    events.append(
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop, "stop_sequence": stop_sequence},
            "usage": counted,
        }
    )
    events.append({"type": "message_stop"})
    return events


# ── what a request says, without what differs from run to run ────────────────────────────────────────────────


def simplified(body: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a request that its sender decides.

    Cache marks, the billing line, the CLI's own one-line identity and what it says of its environment (a message of
    its own, in older versions a block in the first message) are left out; a content of one text block is that text,
    `system` is a list of texts.
    """
    plain: dict[str, Any] = {key: value for key, value in body.items() if key != "metadata"}
    plain["messages"] = [
        {"role": entry["role"], "content": _content(entry["content"])}
        for entry in body.get("messages", [])
        if entry["role"] != "system"
    ]
    system = body.get("system") or []
    texts = [system] if isinstance(system, str) else [block["text"] for block in system]
    plain["system"] = [
        line
        for line in texts
        if not line.startswith(("x-anthropic-billing-header:", "You are a Claude agent, built on"))
    ]
    plain["tools"] = [unmarked(tool) for tool in body.get("tools") or []]
    return plain


_CONTEXT = "<system-reminder>\nAs you answer the user's questions, you can use the following context:"


def _content(content: Any) -> Any:
    if isinstance(content, str):
        return content
    blocks = [unmarked(block) for block in content if not block.get("text", "").startswith(_CONTEXT)]
    if len(blocks) == 1 and blocks[0]["type"] == "text":
        return blocks[0]["text"]
    return blocks


def unmarked(value: Any) -> Any:
    """The value without cache marks, however deep."""
    if isinstance(value, dict):
        return {key: unmarked(inner) for key, inner in value.items() if key != "cache_control"}
    return [unmarked(inner) for inner in value] if isinstance(value, list) else value


def opening(body: Mapping[str, Any]) -> str:
    """The first text a user said, by which a conversation is known."""
    for entry in body.get("messages", []):
        if entry["role"] == "user":
            content = entry["content"]
            if isinstance(content, str):
                return content
            for block in content:
                if block.get("type") == "text" and not block["text"].startswith(_CONTEXT):
                    return str(block["text"])
    return ""


# ── cassettes ───────────────────────────────────────────────────────────────────────────────────────────────


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
    return Reply(response["status"]["code"], headers, tuple(_chunks(body, headers, play)), play)


def _chunks(body: bytes, headers: Sequence[tuple[str, str]], play: Play) -> Iterable[bytes]:
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

_KEPT_HEADERS = ("content-type", "retry-after", "anthropic-ratelimit-unified-")
_PLAN_RESET = re.compile(r"anthropic-ratelimit-unified-(\w+-)?reset")
_HOP = {"host", "connection", "content-length", "accept-encoding", "transfer-encoding"}


def _from_now(name: str, value: str) -> str:
    """A header as a cassette keeps it: when the plan's windows end counted from the answer, in whole minutes."""
    if not _PLAN_RESET.fullmatch(name) or not value.isdecimal():
        return value
    return f"+{max(0, round((int(value) - time.time()) / 60) * 60)}"


class Live:
    """Forwards every request to the real API and keeps the pairs, ready to be saved as a cassette.

    The answer is handed on when it is complete. Only an allow-list of headers is kept, request ids are numbered,
    and of a request only what its sender decides (`simplified`): no credential, device, account or host data.
    """

    def __init__(self, target: str = REAL) -> None:
        self.target = target.rstrip("/")
        self.pairs: list[tuple[dict[str, Any], Reply]] = []

    async def __call__(self, request: Arrived) -> Reply:
        import httpx

        async with httpx.AsyncClient(timeout=600) as client:
            headers = {name: value for name, value in request.headers.items() if name not in _HOP}
            answer = await client.post(
                self.target + request.target,
                headers=headers | dict(request.credentials),
                content=msgspec.json.encode(request.body),
            )
        kept = tuple(
            (name.lower(), _from_now(name.lower(), value))
            for name, value in answer.headers.items()
            if name.lower().startswith(_KEPT_HEADERS)
        )
        shown_headers = (*kept, ("request-id", f"req_{len(self.pairs) + 1:02}"))
        reply = Reply(answer.status_code, shown_headers, tuple(_chunks(answer.content, shown_headers, Play())))
        self.pairs.append((simplified(request.body), reply))
        return reply


# ── the server ──────────────────────────────────────────────────────────────────────────────────────────────

_CREDENTIALS = {"authorization", "x-api-key", "cookie"}


class Upstream:
    """`async with Upstream(answer) as up`: serves on `up.url`; what arrived is in `up.requests`.

    `answer` is a function of the request, a Library or a Live. Anything but POST to MESSAGES or COUNTING is a 404 and
    lands in `up.others`.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.url = ""
        self.requests: list[Arrived] = []
        self.others: list[str] = []
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        serving = list(filter(None, self._open.values()))
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*serving, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = asyncio.current_task()
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left, as it may
        finally:
            del self._open[writer]
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        length = int(headers.get("content-length", 0))
        if length > _BODY_LIMIT or "transfer-encoding" in headers:
            await _write(writer, error(413, "request_too_large", "more than this loopback takes"))
            return False
        content = await reader.readexactly(length)
        if method != "POST" or target.partition("?")[0] not in (MESSAGES, COUNTING):
            self.others.append(f"{method} {target}")
            return await _write(writer, error(404, "not_found_error", target))
        request = Arrived(
            asyncio.get_running_loop().time(),
            target,
            {name: value for name, value in headers.items() if name not in _CREDENTIALS},
            {name: value for name, value in headers.items() if name in _CREDENTIALS},
            json.loads(content),
            len(self.requests),
        )
        self.requests.append(request)
        answer = self.answer(request)
        reply = answer if isinstance(answer, Reply) else await answer
        goes_on = await _write(writer, reply)
        if reply.play.hang is not None:
            await reader.read(1)  # until the client gives up
        return goes_on


def _dated(value: str) -> str:
    return str(round(time.time()) + int(value)) if re.fullmatch(r"\+\d+", value) else value


async def _write(writer: asyncio.StreamWriter, reply: Reply) -> bool:
    """Plays a reply; False when the connection is not to be used again."""
    play = reply.play
    end = play.hang if play.cut is None else play.cut
    await asyncio.sleep(play.before / 1000)
    if end == -1:
        return False
    headers = (f"{name}: {_dated(value)}" for name, value in reply.headers)
    lines = [f"HTTP/1.1 {reply.status} Scripted", *headers]
    writer.write(("\r\n".join([*lines, "transfer-encoding: chunked"]) + "\r\n\r\n").encode("latin-1"))
    await writer.drain()
    for number, chunk in enumerate(reply.chunks):
        if number:
            await asyncio.sleep(play.between / 1000)
        if number == end:
            break
        writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        await writer.drain()
    if end is not None:
        return False
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True
