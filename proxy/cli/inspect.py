"""Children whose lines can be looked at: only for a server whose owner has switched that on."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Literal, Protocol

from proxy.cli.process import Child


class LineSink(Protocol):
    """Takes what crosses between the server and a child, in pieces as they come."""

    def line(self, to: Literal["cli", "proxy"], data: bytes) -> None: ...


# The request under way in this task, if it wants to be told.
SINK: ContextVar[LineSink | None] = ContextVar("SINK", default=None)


class InspectedChild(Child):
    """Tells the request that last wrote to it what it is told and what it says. A child serves one request at a time;
    what it writes before the first is told to nobody."""

    _sink: LineSink | None = None

    def write(self, data: bytes) -> None:
        self._sink = SINK.get() or self._sink
        if self._sink is not None:
            self._sink.line("cli", data)
        super().write(data)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1 and self._sink is not None:
            self._sink.line("proxy", data)
        super().pipe_data_received(fd, data)
