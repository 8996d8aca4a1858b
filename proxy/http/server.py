"""uvicorn as it is used here: one configuration, for users and for tests, and a server that ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import math
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final, cast

import uvicorn

from proxy.http.connection import MAX_CONNECTIONS, Connection, Connections
from proxy.http.edge import App
from proxy.http.handshake import Handshake

# The openai client drops idle connections after 5 s; a server that does so at the same moment breaks requests.
KEEP_ALIVE: Final = 75
# Connections that are accepted before others can be closed for them, and that the system keeps until they are accepted.
ACCEPTED_AT_ONCE: Final = 64
BACKLOG: Final = 2048
# After the grace the answers under way are ended; so long their clients have to take how they end.
MAX_CLOSING: Final = 5.0


def max_connections() -> int:
    """At most half of the files that may be open are connections: CLI processes need some."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, max(1, soft // 2))


class Server(uvicorn.Server):
    """Serves `app` until `stop` is called, then ends in order. Signals are left to whoever starts it.

    From `stop` on nobody can connect. Requests under way get `grace` seconds; then `end_answers` is called, for each to
    end with an error of ours, and what has not come in whole is refused. Five seconds later connections are cut.

    `listens`: from then on it can be reached. `tls`: the files of certificate and key.
    """

    def __init__(
        self,
        app: App,
        grace: float,
        end_answers: Callable[[], Awaitable[None]],
        *,
        keep_alive: int = KEEP_ALIVE,
        tls: tuple[str | None, str | None] = (None, None),
    ) -> None:
        certificate, key = tls
        super().__init__(
            uvicorn.Config(
                cast(Any, app), http=Connection, loop="asyncio", lifespan="off", ws="none", interface="asgi3",
                log_config=None, access_log=False, server_header=False, date_header=False, proxy_headers=False,
                ssl_certfile=certificate, ssl_keyfile=key, timeout_keep_alive=keep_alive,
                backlog=ACCEPTED_AT_ONCE,
                timeout_graceful_shutdown=math.ceil(grace + 2 * MAX_CLOSING),
            )
        )  # fmt: skip
        self.server_state: Connections = Connections(max_connections())
        self.config.load()
        if self.config.ssl is not None:
            # A connection is one of ours from its beginning.
            self.config.http_protocol_class = cast(Any, partial(Handshake, self.config.ssl))
            self.config.ssl = None
        self._grace = grace
        self._end_answers = end_answers
        self.listens = asyncio.Event()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End in order; at a second SIGINT at once."""
        self.handle_exit(number, None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for one in sockets or ():
            one.listen(BACKLOG)
        self.listens.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_requests())
        self.server_state.abort(begun=False)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()
            self._cut_connections()
            if self.server_state.tasks:
                await asyncio.wait(self.server_state.tasks, timeout=MAX_CLOSING)

    async def _end_requests(self) -> None:
        await asyncio.sleep(self._grace)
        for connection in self._connections():
            connection.end_upload()
        await self._end_answers()
        await asyncio.sleep(MAX_CLOSING)
        self._cut_connections()

    def _connections(self) -> list[Connection]:
        return cast(list[Connection], list(self.server_state.connections))

    def _cut_connections(self) -> None:
        self.server_state.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
