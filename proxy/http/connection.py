"""A connection, with bounds that uvicorn leaves open: what a request may hold beside its body, how long it may take to
come, how much may come ahead of its turn.

While an answer is under way the connection is still read: that is how a client is noticed that leaves. Requests that
come meanwhile wait for their turn, within bounds. What is wrong with a request before it can be routed is answered in
OpenAI's form, after the answers to what came before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, Protocol

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from proxy.dialects.openai.errors import ErrorBody, ErrorEnvelope, envelope
from proxy.http.edge import ABORT
from proxy.protocol.failures import SHUTTING_DOWN

# Everything of a request that is not its body: head, sizes and extensions of chunks, trailers. Framing counts only as
# far as it is larger than what it frames. Cookies of other programs on this host come along with a browser's requests.
MAX_HEAD: Final = 64 * 1024
# Header fields of a request, and what each takes beside its text: small ones take many times as much as they are long.
MAX_FIELDS: Final = 256
FIELD_OVERHEAD: Final = 128
# Requests that wait for the answers before them, and bytes of all that they hold.
MAX_PIPELINED: Final = 100
MAX_PIPELINED_BYTES: Final = 256 * 1024
# Connections at once, whoever they are from: a key is asked for later.
MAX_CONNECTIONS: Final = 1024
# What is still taken of a request after its answer, so that the client comes to read it.
MAX_DISCARDED: Final = 64 * 1024 * 1024
# Bytes of answers that clients have not taken, all together; and what one may leave whatever the others do: a stream is
# written in smaller pieces, each when the one before it has been taken.
MAX_UNREAD: Final = 512 * 1024 * 1024
MAX_UNREAD_EACH: Final = 512 * 1024
INVALID: Final = "Invalid HTTP request."
VERSIONS: Final = ("1.0", "1.1")
# Where the size of a head that waits is found in its ASGI scope.
_HEAD: Final = "claude_max_api.head"

ASGI = Callable[[Any, Any, Any], Awaitable[None]]


class _Refused(Exception):
    """Nothing more is read from this connection."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = ErrorBody(message, "invalid_request_error", None, None)


class Closable(Protocol):
    """A connection that can be closed for a new one while it waits for its client."""

    @property
    def transport(self) -> asyncio.Transport: ...
    @property
    def waits_for_client(self) -> bool: ...
    @property
    def unread(self) -> int:
        """Bytes that are written and that the client has not taken."""


class Connections(ServerState):
    """The connections of a server, at most `most`. For a new one that is closed whose client has been silent for the
    longest time, of those that wait for their client: for a request, for the rest of one, or to take what is written.
    """

    def __init__(self, most: int = MAX_CONNECTIONS) -> None:
        super().__init__()
        self._most = most
        self._heard: dict[Closable, None] = {}

    def heard(self, connection: Closable) -> None:
        self._heard.pop(connection, None)
        self._heard[connection] = None

    def lost(self, connection: Closable) -> None:
        self._heard.pop(connection, None)

    def make_room(self) -> bool:
        """Whether there is room for one more."""
        while len(self._heard) >= self._most:
            least = next((connection for connection in self._heard if connection.waits_for_client), None)
            if least is None:
                return False
            del self._heard[least]
            least.transport.abort()
        return True

    def bound_unread(self) -> None:
        """Close some of those whose clients have left much of an answer, if it is too much together."""
        left = {connection: connection.unread for connection in self._heard}
        size = sum(left.values())
        for connection, each in left.items():
            if size <= MAX_UNREAD:
                return
            if each > MAX_UNREAD_EACH:
                size -= each
                connection.transport.abort()

    def abort(self, *, begun: bool = True) -> None:
        """Close all at once; or those alone whose handshake is not done."""
        for connection in tuple(self._heard):
            if begun or not isinstance(connection, Connection):
                connection.transport.abort()


class Connection(HttpToolsProtocol):
    """uvicorn's own, within bounds. One time limit, uvicorn's keep-alive time, holds whenever a client is waited for
    outside of an answer: for a head, from its first byte to its last; for the next one; and for the rest of a request
    that is answered already.

    An offer to go on in another protocol is declined: the request is served as if it were not there. Java's client and
    curl's `--http2` make one (h2c) with each request, body and all.
    """

    # The request whose turn it is, or was last. `cycle` is the one that was read last.
    _served: RequestResponseCycle | None = None
    # No request has been begun, or only its head.
    _in_head = True
    _head_size = 0
    _discarded = 0
    _declining = False
    # What carries the transport, where that is TLS: what is written is waiting there.
    below: asyncio.Transport | None = None
    # What is to be said once everything before it has been answered; nothing is read from then on.
    _refusal: _Refused | None = None
    server_state: Connections

    @property
    def _answering(self) -> bool:
        return self._served is not None and not self._served.response_complete

    @property
    def waits_for_client(self) -> bool:
        """Nothing is done here until the client does something."""
        served = self._served
        if served is None or served.response_complete or served.more_body:
            return True
        return self.unread > 0

    @property
    def unread(self) -> int:
        size = self.transport.get_write_buffer_size()
        return size if self.below is None else size + self.below.get_write_buffer_size()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._restart_timeout()
        if not self.server_state.make_room():
            self._tell_refusal(_Refused(503, "Too many connections are open."))
        self.server_state.heard(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.lost(self)
        self._unset_keepalive_if_required()
        if self._served is not None:
            _disconnect(self._served)
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.parser is None or self.transport.is_closing():
            return
        self.server_state.heard(self)
        answered = not self._answering and not self._in_head
        if answered or self._refusal is not None:
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED:
                self.transport.abort()
                return
        if self._refusal is not None:
            return
        if self._in_head and not self._head_size and not self._answering:
            self._restart_timeout()
        self._head_size += len(data)
        try:
            self._parse(memoryview(data))
            if self._head_size > MAX_HEAD:
                raise _Refused(431, f"The request's header fields and framing exceed {MAX_HEAD} bytes.")
        except _Refused as refusal:
            self._refuse(refusal)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, _Refused) else _Refused(400, INVALID))
        except httptools.HttpParserError:
            self._refuse(_Refused(400, INVALID))

    def _parse(self, data: memoryview) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self._decline()
            else:
                return

    def _decline(self) -> None:
        """After such an offer the parser reads no further. Another one begins where it stopped, with a head that says
        only where the body ends."""
        framing = [header for header in self.headers if header[0] in (b"content-length", b"transfer-encoding")]
        head = b"".join((b"POST / HTTP/1.1\r\n", *(b"%s: %s\r\n" % header for header in framing), b"\r\n"))
        self.parser = httptools.HttpRequestParser(self)
        self._declining = True
        self.parser.feed_data(head)
        self._declining = False

    def on_message_begin(self) -> None:
        if not self._declining:
            super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers and the head of a declined offer say nothing new.
        if self._in_head:
            if len(self.headers) >= MAX_FIELDS:
                raise _Refused(431, f"The request has more than {MAX_FIELDS} header fields.")
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._declining:
            return
        if self.parser.get_http_version() not in VERSIONS:
            raise _Refused(505, "Only HTTP/1.1 and HTTP/1.0 are supported.")
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _Refused(400, f"At most {MAX_PIPELINED} requests can be pipelined.")
        super().on_headers_complete()
        self._in_head = False
        if self.cycle is not self._served:
            size = len(self.url) + sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in self.headers)
            self.scope[_HEAD] = size  # type: ignore[typeddict-unknown-key]
            self._check_pipelined()
        self._discarded = 0
        self.scope[ABORT] = self.transport.abort  # type: ignore[typeddict-unknown-key]
        # uvicorn does not read on when a request has to wait.
        self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        self._unset_keepalive_if_required()
        if cycle.scope["http_version"] == "1.0":
            cycle.waiting_for_100_continue = False
            app = _without_chunks(cycle, app)
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        # Once for itself, once for the framing of its own length that it may have.
        self._head_size = max(0, self._head_size - 2 * len(body))
        super().on_body(body)
        if self.cycle is not self._served:
            self.flow.resume_reading()
            self._check_pipelined()

    def _check_pipelined(self) -> None:
        size = sum(cycle.scope[_HEAD] + len(cycle.body) for cycle, _ in self.pipeline)  # type: ignore[typeddict-item]
        if size > MAX_PIPELINED_BYTES:
            raise _Refused(413, f"Pipelined requests exceed {MAX_PIPELINED_BYTES} bytes.")

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            # The parser stops here; the body may still come.
            return
        super().on_message_complete()
        self._in_head = True
        self._head_size = 0

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.unread > MAX_UNREAD_EACH:
            self.server_state.bound_unread()
        if self.transport.is_closing():
            # It does so when the client has taken all of the answer.
            self._restart_timeout()
        if self._refusal is not None and not self._answering:
            self._tell_refusal(self._refusal)

    def shutdown(self) -> None:
        """The answer under way is the last one."""
        if self._served is not None and self._answering:
            self._served.keep_alive = False
        else:
            self.transport.close()

    def end_upload(self) -> None:
        """Refuse a request that has not come in whole, as the server is about to end."""
        if self._refusal is None and not self._in_head:
            refusal = _Refused(503, SHUTTING_DOWN.message)
            refusal.error = envelope(SHUTTING_DOWN).error
            self._refuse(refusal)

    def timeout_keep_alive_handler(self) -> None:
        """The client is idle, or has not taken all of the last answer: closing politely would wait for that."""
        if self.unread:
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def _restart_timeout(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _refuse(self, refusal: _Refused) -> None:
        """Nothing more is read. A request that was not yet complete gets this answer, if it can still get one."""
        self._refusal = refusal
        if self._in_head:
            pass
        elif self.cycle is not self._served:
            self.pipeline.popleft()
        else:
            begun = self.cycle.response_started
            _disconnect(self.cycle)
            if begun:
                self.transport.close()
                self._restart_timeout()
            else:
                self._tell_refusal(refusal)
            return
        if not self._answering:
            self._tell_refusal(refusal)

    def _tell_refusal(self, refusal: _Refused) -> None:
        body = msgspec.json.encode(ErrorEnvelope(refusal.error))
        head = (
            f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Tell the application that the client is gone, if it still answers."""
    if not cycle.response_complete:
        cycle.disconnected = True
    cycle.message_event.set()


def _without_chunks(cycle: RequestResponseCycle, app: ASGI) -> ASGI:
    """For a client of HTTP/1.0, which knows no chunks: an answer of unknown length ends with the connection."""

    async def unchunked(scope: Any, receive: Any, send: Any) -> None:
        measured = False

        async def send_unchunked(message: dict[str, Any]) -> None:
            nonlocal measured
            if message["type"] == "http.response.start":
                measured = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                if not measured:
                    # What uvicorn has already decided: no chunks. Then each part has to be as long as is expected.
                    cycle.chunked_encoding = False
            elif not measured:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unchunked)

    return unchunked
