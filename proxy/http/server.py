"""uvicorn as it is used here: one configuration, for users and for tests, and a server that ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, cast

import uvicorn

from proxy.http.connection import Connection
from proxy.http.edge import App

# The openai client drops idle connections after 5 s; a server that does so at the same moment breaks requests.
KEEP_ALIVE: Final = 75


def configuration(
    app: App, *, keep_alive: int = KEEP_ALIVE, shutdown_timeout: int, tls: tuple[str | None, str | None] = (None, None)
) -> uvicorn.Config:
    """How uvicorn serves `app`.

    `shutdown_timeout`: seconds after which what is under way is cancelled. `tls`: the files of certificate and key.
    """
    certificate, key = tls
    return uvicorn.Config(
        cast(Any, app), http=Connection, loop="asyncio", lifespan="off", ws="none", interface="asgi3",
        log_config=None, access_log=False, server_header=False, date_header=False, proxy_headers=False,
        timeout_keep_alive=keep_alive, timeout_graceful_shutdown=shutdown_timeout,
        ssl_certfile=certificate, ssl_keyfile=key,
    )  # fmt: skip


class Server(uvicorn.Server):
    """uvicorn, told to stop by SIGINT and SIGTERM if `signals`, and then ending normally instead of by the signal.

    `listens`: from then on it can be reached.
    `end_answers` is called `grace` seconds after it was told to stop, if any are under way still.
    """

    def __init__(
        self, config: uvicorn.Config, grace: float, end_answers: Callable[[], Awaitable[None]], *, signals: bool = True
    ) -> None:
        super().__init__(config)
        self._grace = grace
        self._end_answers = end_answers
        self._signals = (signal.SIGINT, signal.SIGTERM) if signals else ()
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        async def after_grace() -> None:
            await asyncio.sleep(self._grace)
            await self._end_answers()

        ending = asyncio.create_task(after_grace())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in self._signals:
                loop.remove_signal_handler(number)
