"""The beginning of a TLS connection: until its handshake is done it counts among the connections, and can be closed.

asyncio's own server tells nobody of a connection before its handshake is done: silent ones could not be bounded.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

from proxy.http.connection import Connection, Connections

# Seconds.
MAX_HANDSHAKE: Final = 30.0


class _Early(asyncio.Protocol):
    """Keeps what comes together with the end of the handshake."""

    def __init__(self) -> None:
        self.data = b""
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class Handshake(asyncio.Protocol):
    """What `uvicorn` makes for a new connection; `more` is for the `Connection` that follows."""

    transport: asyncio.Transport
    waits_for_client: Final = True
    unread: Final = 0

    def __init__(self, context: ssl.SSLContext, *, server_state: Connections, **more: Any) -> None:
        self._context = context
        self._state = server_state
        self._connection = Connection(server_state=server_state, **more)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # What comes is the handshake's.
        transport.pause_reading()
        if not self._state.make_room():
            transport.abort()
            return
        self._state.heard(self)
        self._task = asyncio.get_running_loop().create_task(self._shake_hands())

    async def _shake_hands(self) -> None:
        early = _Early()
        try:
            secured = await asyncio.get_running_loop().start_tls(
                self.transport, early, self._context, server_side=True, ssl_handshake_timeout=MAX_HANDSHAKE
            )
        except OSError:
            self.transport.abort()
            return
        finally:
            self._state.lost(self)
        if secured is None or early.lost:
            return
        self._connection.below = self.transport
        secured.set_protocol(self._connection)
        self._connection.connection_made(secured)
        if early.data:
            self._connection.data_received(early.data)
