"""What surrounds every request: its id, its log line, what its path means, and the client that leaves.

Falcon runs a handler to its end after the client has gone. Here the connection is watched from the moment the body has
been read, and the handler is cancelled when it closes: streamed, whole, or still waiting in the queue. A client that
shuts only its own side counts as gone: until something is written to it, one looks like the other, and an answer for
nobody uses up the plan.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from proxy.http.paths import DEPLOYMENT, meant
from proxy.protocol.deltas import Tokens

log: Final = logging.getLogger("proxy.request")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Where the trace of a request is found in its ASGI scope.
TRACE: Final = "claude_max_api.trace"
# And what ends its connection at once, where the server puts it.
ABORT: Final = "claude_max_api.abort"
# Bytes a second. A slow line is faster, one that sends now and then a byte to keep a connection is not.
MIN_UPLOAD_RATE: Final = 4096


class Trace:
    """What is known of one request while it is served; the log line is made of it. Never message text or keys."""

    __slots__ = (
        "answer", "api", "at", "attempts", "began", "complete", "ended", "endpoint", "estimated", "fallback",
        "first_delta", "id", "invalid_calls", "kept", "key_name", "left", "login", "model", "not_continued", "outcome",
        "owner", "requested_model", "served", "status", "tokens", "web_searches",
    )  # fmt: skip

    def __init__(self) -> None:
        # The answer under way, ended with the request wherever that is left.
        self.answer: AsyncGenerator[Any, None] | None = None
        self.id = f"req_{uuid.uuid4().hex}"
        self.at = time.time()
        self.began = time.perf_counter()
        self.first_delta: float | None = None
        # The route, as it is declared, the name of the key, and whose it is: see `Keyring.find`.
        self.endpoint = ""
        self.key_name = ""
        self.owner = ""
        # Which API the request is written in, for the usage file: a short name such as `openai-chat`.
        self.api = ""
        self.requested_model = ""
        self.model = ""
        self.tokens: Tokens | None = None
        # About how many tokens were put to the model of which it has not said how many.
        self.estimated = 0
        # How often the CLI was asked.
        self.attempts = 0
        self.web_searches = 0
        # Calls whose arguments are not what the tool takes.
        self.invalid_calls = 0
        self.status = 0
        self.outcome = ""
        self.served = ""
        # Why it was not continued in its conversation's living process: a short word such as `expired`, or nothing.
        self.not_continued = ""
        # By what it is answered instead, when the plan is used up, and who pays then; or nothing.
        self.fallback = ""
        self.login = ""
        # What else is to be told when the request is over and its row of usage is written.
        self.ended: list[Callable[[], None]] = []
        self.left = False
        # The answer has been handed over to its last byte.
        self.complete = False
        # There is a row of usage for it.
        self.kept = False

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self.began

    def handed_over(self) -> Trace:
        """A trace that goes on where this one, of a request that is answered before its work is done, leaves off."""
        other = Trace()
        for name in ("id", "at", "began", "endpoint", "key_name", "owner", "api", "requested_model", "kept"):
            setattr(other, name, getattr(self, name))
        other.status = 200
        # There is one row of usage, and it is the other's.
        self.kept = False
        return other

    @property
    def milliseconds(self) -> int:
        return round(self.seconds * 1000)


def _printable(text: str) -> str:
    """A client's text for a log line: no line breaks or control characters, not too long."""
    return "".join(char if char.isprintable() else "?" for char in text[:120])


def write_log(trace: Trace, scope: Scope) -> None:
    """The line of a request that is over."""
    if not log.isEnabledFor(logging.INFO):
        return
    fields = [trace.id, scope["method"], _printable(scope["path"]), str(trace.status or "-"), f"{trace.milliseconds}ms"]
    if trace.requested_model:
        fields.append(f"model={_printable(trace.requested_model)}")
    if trace.model:
        fields.append(f"answered={_printable(trace.model)}")
    if trace.served:
        fields.append(trace.served)
    if trace.attempts and trace.tokens is not None:
        tokens = trace.tokens
        fields.append(f"in={tokens.prompt} cached={tokens.cache_read} out={tokens.output}")
    if trace.invalid_calls:
        fields.append(f"odd_arguments={trace.invalid_calls}")
    if trace.fallback:
        fields.append(f"fallback={trace.fallback}")
    if trace.left:
        fields.append("client left")
    if trace.outcome:
        fields.append(trace.outcome)
    log.info(" ".join(fields))


class RequestObserver(Protocol):
    """What is told of every request."""

    def headers(self, trace: Trace) -> Sequence[tuple[bytes, bytes]]:
        """For the head of the answer."""

    def ended(self, trace: Trace) -> None:
        """The request is over, however it ended."""


class _NoObserver:
    def headers(self, trace: Trace) -> Sequence[tuple[bytes, bytes]]:
        return ()

    def ended(self, trace: Trace) -> None:
        pass


_NO_OBSERVER: Final = _NoObserver()


def _nothing() -> None:
    pass


class _RequestHandler:
    """One request between client and application: what each sends is passed on, marked, and waited for only so long.

    `client_timeout`: longest time for a client to take more of the answer or to send more of the body, and for the
    whole body beyond what it takes at `MIN_UPLOAD_RATE`.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, observer: RequestObserver, client_timeout: float
    ) -> None:
        self.trace = scope[TRACE] = Trace()
        self._scope = scope
        self._receive = receive
        self._send = send
        self._observer = observer
        self._client_timeout = client_timeout
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watcher: asyncio.Task[None] | None = None
        # Since when the client has been waited for; looked at now and then, which costs less than a limit on each wait.
        self._waiting_since: float | None = None
        self._upload_began = 0.0
        self._uploaded = 0
        self._next_check: asyncio.TimerHandle | None = None

    async def run(self, app: App) -> None:
        """The application's answer, and the end of everything that belongs to it, whoever has had enough."""
        if self._client_timeout < math.inf:
            self._check_timeout()
        try:
            await app(self._understood(), self._receive_body, self._send_marked)
        except asyncio.CancelledError:
            if not self.trace.left:
                raise
            self._task.uncancel()
        finally:
            if self._next_check is not None:
                self._next_check.cancel()
            if self._watcher is not None:
                self._watcher.cancel()
            try:
                if self.trace.answer is not None:
                    await self.trace.answer.aclose()
            finally:
                write_log(self.trace, self._scope)
                self._observer.ended(self.trace)

    def _understood(self) -> Scope:
        """The scope with the path that is meant; the log has the client's own."""
        found = meant(self._scope["path"])
        if found.path == self._scope["path"]:
            return self._scope
        changes = {"path": found.path} if found.model is None else {"path": found.path, DEPLOYMENT: found.model}
        return self._scope | changes

    async def _receive_body(self) -> Mapping[str, Any]:
        if self._watcher is not None:
            await asyncio.Event().wait()
        self._waiting_since = self._loop.time()
        if not self._upload_began:
            self._upload_began = self._waiting_since
        message = await self._receive()
        self._waiting_since = None
        self._uploaded += len(message.get("body", b""))
        if message["type"] == "http.disconnect":
            self._leave()
            await asyncio.Event().wait()
        if not message.get("more_body"):
            self._watcher = self._loop.create_task(self._watch())
        return message

    async def _send_marked(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.trace.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self.trace.id.encode()),
                (b"openai-processing-ms", str(self.trace.milliseconds).encode()),
                *self._observer.headers(self.trace),
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

    def _deadline(self, now: float) -> float:
        """When what is waited for has to be there. Changes as long as there is progress."""
        deadline = (now if self._waiting_since is None else self._waiting_since) + self._client_timeout
        if self._upload_began and self._watcher is None and not self.trace.status:
            deadline = min(deadline, self._upload_began + self._client_timeout + self._uploaded / MIN_UPLOAD_RATE)
        return deadline

    def _check_timeout(self) -> None:
        now = self._loop.time()
        deadline = self._deadline(now)
        if now >= deadline:
            # What it has not taken would keep the connection open for as long as it likes.
            self._scope.get(ABORT, _nothing)()
            self._leave()
        else:
            self._next_check = self._loop.call_at(deadline, self._check_timeout)

    def _leave(self) -> None:
        self.trace.left = True
        self._task.cancel()


class Edge:
    """ASGI around ASGI. See the module. `client_timeout`: how long a client is waited for, in seconds."""

    def __init__(self, app: App, observer: RequestObserver = _NO_OBSERVER, client_timeout: float = math.inf) -> None:
        self._app = app
        self._observer = observer
        self._client_timeout = client_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _RequestHandler(scope, receive, send, self._observer, self._client_timeout).run(self._app)
        else:
            await self._app(scope, receive, send)
