"""What surrounds every request: its id, its log line, and the client that leaves.

Falcon runs a handler to its end after the client has gone (wire notes, "Falcon, uvicorn, msgspec"). Here the
connection is watched from the moment the body has been read, and the handler is cancelled when it closes: streamed,
whole, or still waiting in the queue. A client that shuts only its own side counts as gone: until something is written
to it, one looks like the other, and an answer for nobody uses up the plan.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from proxy.protocol.turn import Tokens

log: Final = logging.getLogger("proxy.request")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Where the trace of a request is found in its ASGI scope.
TRACE: Final = "claude_max_api.trace"
# And what ends its connection at once, where the server puts it.
ABORT: Final = "claude_max_api.abort"


class Trace:
    """What is known of one request while it is served; the log line is made of it. Never message text or keys."""

    __slots__ = (
        "answer", "api", "asked", "asks", "at", "began", "complete", "endpoint", "first_delta", "id", "kept",
        "key_name", "left", "model", "not_continued", "odd_calls", "outcome", "served", "status", "tokens",
        "web_searches",
    )  # fmt: skip

    def __init__(self) -> None:
        # The answer under way, ended with the request wherever that is left.
        self.answer: AsyncGenerator[Any, None] | None = None
        self.id = f"req_{uuid.uuid4().hex}"
        self.at = time.time()
        self.began = time.perf_counter()
        self.first_delta: float | None = None
        # The route, as it is declared, and the name of the key.
        self.endpoint = ""
        self.key_name = ""
        # Which API the request is written in, for the usage file: a short name such as `openai-chat`.
        self.api = ""
        self.asked = ""
        self.model = ""
        self.tokens: Tokens | None = None
        # How often the CLI was asked.
        self.asks = 0
        self.web_searches = 0
        # Calls whose arguments are not what the tool takes.
        self.odd_calls = 0
        self.status = 0
        self.outcome = ""
        self.served = ""
        # Why it was not continued in its conversation's living process: a short word such as `expired`, or nothing.
        self.not_continued = ""
        self.left = False
        # The answer has been handed over to its last byte.
        self.complete = False
        # There is a row of usage for it.
        self.kept = False

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self.began

    @property
    def milliseconds(self) -> int:
        return round(self.seconds * 1000)


def _printable(text: str) -> str:
    """A client's text for a log line: no line breaks or control characters, not too long."""
    return "".join(char if char.isprintable() else "?" for char in text[:120])


def _write_log(trace: Trace, scope: Scope) -> None:
    if not log.isEnabledFor(logging.INFO):
        return
    words = [trace.id, scope["method"], _printable(scope["path"]), str(trace.status or "-"), f"{trace.milliseconds}ms"]
    if trace.asked:
        words.append(f"model={_printable(trace.asked)}")
    if trace.model:
        words.append(f"answered={_printable(trace.model)}")
    if trace.served:
        words.append(trace.served)
    if trace.asks and trace.tokens is not None:
        tokens = trace.tokens
        words.append(f"in={tokens.prompt} cached={tokens.cache_read} out={tokens.output}")
    if trace.odd_calls:
        words.append(f"odd_arguments={trace.odd_calls}")
    if trace.left:
        words.append("client left")
    if trace.outcome:
        words.append(trace.outcome)
    log.info(" ".join(words))


class Books(Protocol):
    """Who keeps account of requests."""

    def headers(self, trace: Trace) -> Sequence[tuple[bytes, bytes]]:
        """For the head of the answer."""

    def ended(self, trace: Trace) -> None:
        """The request is over, however it ended."""


class _NoBooks:
    def headers(self, trace: Trace) -> Sequence[tuple[bytes, bytes]]:
        return ()

    def ended(self, trace: Trace) -> None:
        pass


_NO_BOOKS: Final = _NoBooks()


def _nothing() -> None:
    pass


class _Watched:
    """One request between client and application: what each sends is passed on, marked, and waited for only so long."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, books: Books, patience: float) -> None:
        self.trace = scope[TRACE] = Trace()
        self._scope = scope
        self._receive = receive
        self._send = send
        self._books = books
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        handler = asyncio.current_task()
        assert handler is not None
        self._handler = handler
        self._watcher: asyncio.Task[None] | None = None
        # Since when the client has been waited for; looked at now and then, which costs less than a limit on each wait.
        self._waiting_since: float | None = None
        self._look: asyncio.TimerHandle | None = None

    async def run(self, app: App) -> None:
        """The application's answer, and the end of everything that belongs to it, whoever has had enough."""
        if self._patience < math.inf:
            self._look_after()
        try:
            await app(self._scope, self._receive_body, self._send_marked)
        except asyncio.CancelledError:
            if not self.trace.left:
                raise
            self._handler.uncancel()
        finally:
            if self._look is not None:
                self._look.cancel()
            if self._watcher is not None:
                self._watcher.cancel()
            try:
                if self.trace.answer is not None:
                    await self.trace.answer.aclose()
            finally:
                _write_log(self.trace, self._scope)
                self._books.ended(self.trace)

    async def _receive_body(self) -> Mapping[str, Any]:
        if self._watcher is not None:
            await asyncio.Event().wait()
        self._waiting_since = self._loop.time()
        message = await self._receive()
        self._waiting_since = None
        if message["type"] == "http.disconnect":
            self.trace.left = True
        elif not message.get("more_body"):
            self._watcher = self._loop.create_task(self._watch())
        return message

    async def _send_marked(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.trace.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self.trace.id.encode()),
                (b"openai-processing-ms", str(self.trace.milliseconds).encode()),
                *self._books.headers(self.trace),
            ]
        self._waiting_since = self._loop.time()
        await self._send(message)
        self._waiting_since = None
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.trace.complete = True

    async def _watch(self) -> None:
        """The body is there: what the client does next is to leave."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.trace.complete:
            self._leave()

    def _look_after(self) -> None:
        now = self._loop.time()
        since = now if self._waiting_since is None else self._waiting_since
        if now - since >= self._patience:
            # What it has not taken would keep the connection open for as long as it likes.
            self._scope.get(ABORT, _nothing)()
            self._leave()
        else:
            self._look = self._loop.call_at(since + self._patience, self._look_after)

    def _leave(self) -> None:
        self.trace.left = True
        self._handler.cancel()


class Edge:
    """ASGI around ASGI. See the module. `patience`: longest time for a client to take or send something, seconds."""

    def __init__(self, app: App, books: Books = _NO_BOOKS, patience: float = math.inf) -> None:
        self._app = app
        self._books = books
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Watched(scope, receive, send, self._books, self._patience).run(self._app)
        else:
            await self._app(scope, receive, send)
