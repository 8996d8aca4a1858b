"""What the tests share: hypothesis that repeats itself, and servers on the fake CLI that leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from hypothesis import HealthCheck as Check
from hypothesis import settings as hypothesis_settings

from proxy.cli.launch import launch
from proxy.cli.pool import Pool
from proxy.cli.process import Launch
from proxy.http.app import create_app
from proxy.http.edge import App
from proxy.http.server import KEEP_ALIVE, Server
from proxy.http.service import Service
from proxy.settings import Settings
from tests import fake_cli
from tests.outcomes import expects, pytest_terminal_summary

__all__ = ["expects", "pytest_terminal_summary"]

# One for all clients of the tests: to make it reads the certificates of the system, and takes longer than most tests.
ssl.create_default_context = cast(Any, cache(ssl.create_default_context))

hypothesis_settings.register_profile(
    "project", derandomize=True, deadline=None, database=None, max_examples=100, suppress_health_check=[Check.too_slow]
)
hypothesis_settings.load_profile("project")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Schemathesis makes its cases when they are collected, wanted or not."""
    unwanted = "not ci" in config.option.markexpr
    return True if unwanted and collection_path.name == "test_schemathesis.py" else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: a good part of the tests waits for processes and time limits."""
    return (os.cpu_count() or 1) + 1


def alive(pid: int) -> bool:
    """The process runs: neither gone nor a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def children_of(directory: Path) -> list[int]:
    """The processes that run the fake CLI of this directory; found by their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, NotADirectoryError):
            if entry.name.isdigit() and f"{directory}/".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


# No wait that is meant to succeed ends sooner, so that a machine under load fails nothing.
PATIENCE = 60.0


async def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until it holds. Fails after so many seconds (at least `PATIENCE`), naming what was waited for."""
    loop = asyncio.get_running_loop()
    seconds = max(seconds, PATIENCE)
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.005)


def base_settings(**changes: Any) -> Settings:
    """Settings for a test: nothing waits, short limits."""
    return Settings(
        **{"waiting": 0, "parked": 4, "idle_timeout": 60.0, "total_timeout": 120.0, "queue_wait": 60.0, "grace": 1.0}
        | changes
    )


def launch_of(path: Path, settings: Settings | None = None) -> Launch:
    """How the fake CLI is started: as the real one."""
    cwd = path.parent / "empty"
    cwd.mkdir(exist_ok=True)
    return launch(str(path), settings or base_settings(), {"PATH": os.environ["PATH"]}, str(cwd))


class Running:
    """A server in this process: on a socket of its own, or (`port` 0) called without one."""

    def __init__(self, service: Service, directory: Path, app: App, port: int) -> None:
        self.service = service
        self.pool = service.pool
        self.directory = directory
        self.port = port
        self.url = f"http://127.0.0.1:{port or 3456}"
        self._app = app

    def client(self) -> httpx.AsyncClient:
        transport = None if self.port else httpx.ASGITransport(app=cast(Any, self._app))
        return httpx.AsyncClient(transport=transport, base_url=self.url, timeout=PATIENCE, trust_env=False)

    def children(self) -> list[int]:
        """The children that are alive, started long ago or just now."""
        return children_of(self.directory)

    async def idle(self, seconds: float = 5.0) -> None:
        """Wait until no answer is under way and the child of none is alive."""
        await until(lambda: not self.pool.counts.busy and not self.children(), seconds, "everything ended")


Serve = Callable[..., Awaitable[Running]]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost and 127.0.0.1, signed by itself, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
         "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@contextlib.asynccontextmanager
async def listening(
    app: App, *, keep_alive: int = KEEP_ALIVE, tls: tuple[str | None, str | None] = (None, None)
) -> AsyncIterator[int]:
    """`app` behind the server's own uvicorn, on a socket of its own; the port. `tls`: files of certificate and key."""

    async def nothing() -> None:
        pass

    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = Server(app, 0.3, nothing, keep_alive=keep_alive, tls=tls)
        task = asyncio.create_task(server.serve(sockets=[sock]))
        await asyncio.wait_for(server.listens.wait(), PATIENCE)
        try:
            yield sock.getsockname()[1]
        finally:
            server.stop()
            await task


async def _running(directory: Path, cli: dict[str, Any] | None, changes: dict[str, Any]) -> tuple[Service, App]:
    settings = base_settings(**changes)
    pool = Pool(settings, launch_of(fake_cli.write(directory, **(cli or {})), settings))
    await pool.start()
    service = Service(settings, pool, "2.1.330", "oauth_token")
    return service, create_app(service)


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Serve]:
    """`await local(cli={fault: …}, setting=…)`: a server on a fake CLI that is called in-process, without a socket.

    A stream comes to the client when it is complete. After the test no child is alive.
    """
    running: list[Running] = []

    async def start(cli: dict[str, Any] | None = None, **changes: Any) -> Running:
        directory = tmp_path / f"cli-{len(running)}"
        service, app = await _running(directory, cli, changes)
        running.append(Running(service, directory, app, 0))
        return running[-1]

    yield start
    for found in running:
        await found.pool.close()
        assert found.children() == []


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """As `local`, with a real socket and uvicorn."""
    running: list[Running] = []
    async with contextlib.AsyncExitStack() as servers:

        async def start(cli: dict[str, Any] | None = None, *, keep_alive: int = KEEP_ALIVE, **changes: Any) -> Running:
            directory = tmp_path / f"cli-{len(running)}"
            service, app = await _running(directory, cli, changes)
            port = await servers.enter_async_context(listening(app, keep_alive=keep_alive))
            running.append(Running(service, directory, app, port))
            return running[-1]

        yield start
    for found in running:
        await found.pool.close()
        assert found.children() == []


def chat(text: Any = "hi", **more: Any) -> dict[str, Any]:
    """A chat request whose last message is this text, or these steps of the fake CLI."""
    content = text if isinstance(text, str) else json.dumps(text)
    return {"model": "opus", "messages": [{"role": "user", "content": content}]} | more
