"""A connection, with bounds that uvicorn leaves open: size and time of a request's head, time for what is not taken.

What is wrong with a request before it can be routed is answered in OpenAI's form too.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy.http.edge import ABORT
from proxy.protocol.failures import ErrorBody, ErrorEnvelope

# Cookies of other programs on this host come along with a browser's requests; a few kB are common.
MAX_HEAD: Final = 64 * 1024


class Connection(HttpToolsProtocol):
    """uvicorn's own, within bounds. A head must be complete within uvicorn's keep-alive time, from its first byte.

    An offer to go on in another protocol is declined: the request is served as if it were not there. Java's client and
    curl's `--http2` make one (h2c) with each request, body and all.
    """

    _head_size = 0
    _in_head = True
    _declining = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.parser is None or self.transport.is_closing():
            return
        if self._in_head:
            self._head_size += len(data)
            if self._head_timer is None:
                self._await_head()
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")
        if self._in_head and self._head_size > MAX_HEAD:
            self._refuse(431, f"The request's head is larger than {MAX_HEAD} bytes.")

    def _decline(self, rest: bytes) -> None:
        """After such an offer the parser reads no further. Another one begins where it stopped, with a head that says
        only where the body ends."""
        framing = [header for header in self.headers if header[0] in (b"content-length", b"transfer-encoding")]
        head = b"".join((b"POST / HTTP/1.1\r\n", *(b"%s: %s\r\n" % header for header in framing), b"\r\n"))
        self.parser = httptools.HttpRequestParser(self)
        self._declining = True
        self.data_received(head)
        self._declining = False
        self.data_received(rest)

    def on_headers_complete(self) -> None:
        if self._declining:
            return
        self._head_came()
        self._in_head = False
        super().on_headers_complete()
        self.scope[ABORT] = self.transport.abort  # type: ignore[typeddict-unknown-key]

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            # The parser stops here; the body may still come.
            return
        super().on_message_complete()
        self._in_head = True
        self._head_size = 0

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "This is not a valid HTTP request.")

    def timeout_keep_alive_handler(self) -> None:
        """The client is idle, or has not taken all of the last answer: closing politely would wait for that."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, message: str) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # Another answer is on its way here; what follows it cannot be answered.
            self.transport.close()
            return
        body = msgspec.json.encode(ErrorEnvelope(ErrorBody(message, "invalid_request_error", None, None)))
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
