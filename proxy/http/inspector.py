"""The latest requests, looked at from inside: headers, timings, how they were served and why; texts if asked for.

In memory only, and bounded. Keys and cookies are never kept. Bodies and the lines exchanged with the CLI are kept only
by a server that was started with `--inspect`. Where keys are needed, each sees the requests of its own.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, Literal

import falcon
import falcon.asgi
import msgspec
from msgspec import Struct

from proxy.cli.inspect import SINK
from proxy.http.accounts import outcome
from proxy.http.edge import TRACE, App, Receive, Scope, Send, Trace
from proxy.protocol.failures import Failure, Kind, Rejection

# Requests kept.
MAX_KEPT: Final = 100
# Bytes kept of each body, and of all lines of a request.
MAX_TEXT: Final = 256 * 1024
MAX_LINES: Final = 512 * 1024
# What is in the names of headers whose values are secrets.
SECRET: Final = re.compile(
    r"(?!idempotency-)(?:.*[-_])?(?:auth\w*|(?:api)?key|token|secret|password|cookie2?|credentials?)(?:[-_].*)?"
)
HIDDEN: Final = "(not kept)"
# Anybody can send such requests: they would take the places of others.
TURNED_AWAY: Final = frozenset((Kind.NO_KEY.value, Kind.BAD_KEY.value, Kind.FORBIDDEN.value))


class CliLine(Struct, frozen=True):
    """What crossed. `at`: seconds since the request came."""

    at: float
    to: Literal["cli", "proxy"]
    text: str


class Inspected(Struct, frozen=True):
    """One request. `state` running: the answer is under way. Times in seconds; `began` since 1970.

    `served`: how it met its process; `not_continued`: why not in the one that held its conversation.
    `fallback`: by what it was answered, the plan being used up. `ignored`: names
    of parameters without effect.
    """

    id: str
    began: float
    state: Literal["running", "ended"]
    method: str
    path: str
    key: str | None
    model_asked: str | None
    model: str | None
    status: int | None
    outcome: str | None
    served: str | None
    not_continued: str | None
    fallback: str | None
    ignored: tuple[str, ...]
    first_delta: float | None
    duration: float
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None


class InspectedList(Struct, frozen=True, kw_only=True):
    """Newest first. `texts`: whether bodies and lines are kept."""

    object: Literal["list"] = "list"
    texts: bool
    data: tuple[Inspected, ...]


class InspectedRequest(Struct, frozen=True, kw_only=True):
    """All that is kept of one. Bodies null: they are not kept. `cut`: some text was longer than what is kept of it."""

    object: Literal["request"] = "request"
    request: Inspected
    request_headers: tuple[tuple[str, str], ...]
    response_headers: tuple[tuple[str, str], ...]
    request_body: str | None
    response_body: str | None
    lines: tuple[CliLine, ...] | None
    cut: bool


class _Text:
    """Bytes up to a bound."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._data = bytearray()
        self.cut = False

    def add(self, data: bytes) -> None:
        room = self._bound - len(self._data)
        self.cut |= len(data) > room
        self._data += data[:room]

    def __str__(self) -> str:
        return self._data.decode(errors="replace")


class Exchange:
    """What is kept of a request, while it is served and after. `texts`: bodies and lines, too."""

    def __init__(self, scope: Scope, *, texts: bool) -> None:
        self._scope = scope
        self._began = time.perf_counter()
        self._at = time.time()
        self._seconds: float | None = None
        self._texts = texts
        self._response_headers: list[tuple[str, str]] = []
        self._request, self._response = _Text(MAX_TEXT), _Text(MAX_TEXT)
        self._room = MAX_LINES
        self._lines: list[CliLine] = []
        self._open = {"cli": b"", "proxy": b""}
        self._cut = False

    @property
    def trace(self) -> Trace | None:
        found: Trace | None = self._scope.get(TRACE)
        return found

    @property
    def owner(self) -> str:
        return self.trace.owner if self.trace is not None else ""

    # What comes by.

    def received(self, message: Any) -> None:
        if self._texts:
            self._request.add(message.get("body", b""))

    def sent(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._response_headers = list(_headers(message.get("headers", ())))
        elif self._texts:
            self._response.add(message.get("body", b""))

    def line(self, to: Literal["cli", "proxy"], data: bytes) -> None:
        if len(data) > MAX_LINES:
            # One line, of which nothing could be kept.
            self._cut = True
            return
        *whole, self._open[to] = (self._open[to] + data).split(b"\n")
        if len(self._open[to]) > MAX_LINES:
            self._open[to] = b""
            self._cut = True
        for each in whole:
            self._room -= len(each)
            if self._room < 0:
                self._cut = True
                return
            self._lines.append(CliLine(time.perf_counter() - self._began, to, each.decode(errors="replace")))

    def ended(self) -> None:
        self._seconds = time.perf_counter() - self._began

    # What is shown.

    def summary(self) -> Inspected:
        trace = self.trace or Trace()
        running = self._seconds is None
        tokens = trace.tokens
        ignored = dict(self._response_headers).get("x-ignored-params", "")
        return Inspected(
            trace.id, self._at, "running" if running else "ended", self._scope["method"], self._scope["path"],
            trace.key_name or None, trace.requested_model or None, trace.model or None, trace.status or None,
            None if running else outcome(trace), trace.served or None, trace.not_continued or None,
            trace.fallback or None,
            tuple(filter(None, map(str.strip, ignored.split(",")))), trace.first_delta,
            time.perf_counter() - self._began if self._seconds is None else self._seconds,
            *((tokens.prompt, tokens.cache_read, tokens.output) if tokens is not None else (None, None, None)),
        )  # fmt: skip

    def whole(self) -> InspectedRequest:
        return InspectedRequest(
            request=self.summary(),
            request_headers=tuple(_headers(self._scope["headers"])),
            response_headers=tuple(self._response_headers),
            request_body=str(self._request) if self._texts else None,
            response_body=str(self._response) if self._texts else None,
            lines=tuple(self._lines) if self._texts else None,
            cut=self._cut or self._request.cut or self._response.cut,
        )


def _headers(raw: Any) -> Iterator[tuple[str, str]]:
    for name, value in raw:
        shown = name.decode("latin-1").lower()
        yield shown, HIDDEN if SECRET.fullmatch(shown) else value.decode("latin-1")


class Inspector:
    """One per server; ASGI around ASGI by `around`. Only what is posted is kept: that is put to the model; nothing of
    requests that were turned away."""

    def __init__(self, *, texts: bool = False) -> None:
        self.texts = texts
        self._ended: deque[Exchange] = deque(maxlen=MAX_KEPT)
        self._running: set[Exchange] = set()

    def around(self, app: App) -> App:
        async def inspected(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["method"] != "POST":
                await app(scope, receive, send)
                return
            exchange = Exchange(scope, texts=self.texts)

            async def receiving() -> Any:
                message = await receive()
                exchange.received(message)
                return message

            async def sending(message: dict[str, Any]) -> None:
                exchange.sent(message)
                await send(message)

            self._running.add(exchange)
            token = SINK.set(exchange if self.texts else None)
            try:
                await app(scope, receiving, sending)
            finally:
                SINK.reset(token)
                exchange.ended()
                self._running.discard(exchange)
                if exchange.trace is None or exchange.trace.outcome not in TURNED_AWAY:
                    self._ended.append(exchange)

        return inspected

    def of(self, owner: str) -> list[Exchange]:
        """The requests that this key sent, newest first; those without a key, where none is needed."""
        found = sorted((*self._running, *self._ended), key=lambda exchange: exchange.summary().began, reverse=True)
        return [exchange for exchange in found if exchange.owner == owner]

    @property
    def under_way(self) -> int:
        return len(self._running)


class InspectorList:
    """The resource of the list."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        data = tuple(exchange.summary() for exchange in self._inspector.of(req.context.owner))
        resp.data = msgspec.json.encode(InspectedList(texts=self._inspector.texts, data=data))
        resp.content_type = falcon.MEDIA_JSON

    on_head = on_get


class InspectorRequest:
    """The resource of one."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, request_id: str) -> None:
        for exchange in self._inspector.of(req.context.owner):
            if exchange.summary().id == request_id:
                resp.data = msgspec.json.encode(exchange.whole())
                resp.content_type = falcon.MEDIA_JSON
                return
        words = f"No request {request_id!r} is kept: the latest {MAX_KEPT} are."
        raise Rejection(Failure(Kind.UNKNOWN_PATH, words))

    on_head = on_get
