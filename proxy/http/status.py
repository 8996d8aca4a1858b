"""`GET /v1/status`: the server at this moment, for the page at `/`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Final, Literal

import falcon
import falcon.asgi
import msgspec
from msgspec import Struct

from proxy.cli.memory import available
from proxy.http.health import Health, health
from proxy.http.service import Service

PROC: Final = Path("/proc")


class Memory(Struct, frozen=True):
    """Bytes; null where the system does not tell. `processes`: the CLI's, pages that they share counted in each."""

    server: int | None
    processes: int | None
    available: int | None


class Status(Struct, frozen=True, kw_only=True):
    """`now`, `started_at`: seconds since 1970. `keys_needed`: whether clients have to send a key."""

    object: Literal["status"] = "status"
    now: float
    started_at: float
    keys_needed: bool
    under_way: int
    health: Health
    memory: Memory


def _resident(pid: int | str) -> int:
    return int((PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory() -> Memory:
    """Of this process and its children, where the system tells (Linux)."""
    server = processes = None
    with contextlib.suppress(OSError, ValueError):
        server = _resident("self")
        children = [pid for path in (PROC / "self" / "task").glob("*/children") for pid in path.read_text().split()]
        processes = 0
        for pid in children:
            with contextlib.suppress(OSError, ValueError, IndexError):
                processes += _resident(pid)
    return Memory(server, processes, available())


class StatusNow:
    """The resource."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._started_at = time.time()

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        service = self._service
        status = Status(
            now=time.time(), started_at=self._started_at, keys_needed=bool(service.keyring),
            under_way=service.inspector.under_way, health=health(service), memory=await asyncio.to_thread(memory),
        )  # fmt: skip
        resp.data = msgspec.json.encode(status)
        resp.content_type = falcon.MEDIA_JSON

    on_head = on_get
