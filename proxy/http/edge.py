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
        "answer", "asked", "asks", "at", "began", "complete", "endpoint", "first_delta", "id", "kept", "key_name",
        "left", "model", "odd_calls", "outcome", "served", "status", "tokens",
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
        self.asked = ""
        self.model = ""
        self.tokens: Tokens | None = None
        # How often the CLI was asked.
        self.asks = 0
        # Calls whose arguments are not what the tool takes.
        self.odd_calls = 0
        self.status = 0
        self.outcome = ""
        self.served = ""
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


class Edge:
    """ASGI around ASGI. See the module. `patience`: longest time for a client to take or send something, seconds."""

    def __init__(self, app: App, books: Books = _NO_BOOKS, patience: float = math.inf) -> None:
        self._app = app
        self._books = books
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace = scope[TRACE] = Trace()
        loop = asyncio.get_running_loop()
        handler = asyncio.current_task()
        assert handler is not None
        watcher: asyncio.Task[None] | None = None
        # Since when the client has been waited for; looked at now and then, which costs less than a limit on each wait.
        waiting_since: float | None = None
        look: asyncio.TimerHandle | None = None

        def leave() -> None:
            trace.left = True
            handler.cancel()

        def look_after() -> None:
            nonlocal look
            if waiting_since is not None and loop.time() - waiting_since >= self._patience:
                # What it has not taken would keep the connection open for as long as it likes.
                scope.get(ABORT, _nothing)()
                leave()
                return
            since = loop.time() if waiting_since is None else waiting_since
            look = loop.call_at(since + self._patience, look_after)

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not trace.complete:
                leave()

        async def receive_body() -> Mapping[str, Any]:
            nonlocal watcher, waiting_since
            if watcher is not None:
                await asyncio.Event().wait()
            waiting_since = loop.time()
            message = await receive()
            waiting_since = None
            if message["type"] == "http.disconnect":
                trace.left = True
            elif not message.get("more_body"):
                watcher = loop.create_task(watch())
            return message

        async def send_marked(message: dict[str, Any]) -> None:
            nonlocal waiting_since
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", trace.id.encode()),
                    (b"openai-processing-ms", str(trace.milliseconds).encode()),
                    *self._books.headers(trace),
                ]
            waiting_since = loop.time()
            await send(message)
            waiting_since = None
            if message["type"] == "http.response.body" and not message.get("more_body"):
                trace.complete = True

        if self._patience < math.inf:
            look_after()
        try:
            await self._app(scope, receive_body, send_marked)
        except asyncio.CancelledError:
            if not trace.left:
                raise
            handler.uncancel()
        finally:
            if look is not None:
                look.cancel()
            if watcher is not None:
                watcher.cancel()
            try:
                if trace.answer is not None:
                    await trace.answer.aclose()
            finally:
                _write_log(trace, scope)
                self._books.ended(trace)
