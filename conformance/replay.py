"""Plays recordings against a running proxy: the player's executable, the proxy as a process, the requests."""

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from conformance import launch, transcript
from conformance.apis import Api
from conformance.player import build_index
from conformance.recorder import executable
from conformance.scenario import Mode, Scenario

FIXTURES = Path(__file__).parent.parent / "fixtures"
TRANSCRIPTS = FIXTURES / "transcripts"
NEWEST = (transcript.versions(TRANSCRIPTS) or [""])[-1]


def transcripts(version: str = NEWEST) -> Iterator[tuple[str, transcript.Transcript]]:
    """Every recording of a CLI version, with the name it has: `chat/plain`, `tools/loop.2`, …"""
    for path in transcript.every(TRANSCRIPTS / version):
        yield path.relative_to(TRANSCRIPTS / version).with_suffix("").as_posix(), transcript.read(path)


def player_shim(
    directory: Path,
    version: str = NEWEST,
    *,
    recordings: Mapping[str, Path] | None = None,
    asides: Path | None = None,
    die: int | str | None = None,
    cut: int | str | None = None,
    garbage: int | str | None = None,
    big: int | str | None = None,
    silence: int | str | None = None,
    unknown: int = 0,
    chunk: int = 0,
    slow_start: float = 0,
    exit_at_start: bool = False,
    exit_code: int = 1,
    stubborn: bool = False,
    stderr: int = 0,
    logged_in: bool = True,
) -> Path:
    """Writes an executable into `directory` that plays the recordings of a CLI version; give it to the proxy.

    A place is a number of lines written (0: before the first) or a kind of line, such as
    `stream_event/content_block_delta`, which then holds at each of them.

    die        exits with `exit_code` after that line
    cut        exits in the middle of that line, within a character if it has a wide one
    garbage    writes a line that is neither JSON nor UTF-8 after it
    big        writes an unknown line of 6 MB after it
    silence    writes nothing after it, and stays
    unknown    writes a line of an unknown type after every that many lines
    chunk      writes that many bytes at a time
    slow_start seconds before it reads anything; exit_at_start: reads nothing and exits
    stubborn   ignores SIGTERM and the end of its stdin
    stderr     writes that many bytes there first
    logged_in  what `auth status` says

    What the player was sent and did not expect is in `directory / "differences.txt"`.
    """
    apart = ("directory", "version", "recordings", "asides")
    settings: dict[str, object] = {name: value for name, value in locals().items() if name not in (*apart, "apart")}
    directory.mkdir(parents=True, exist_ok=True)
    root = TRANSCRIPTS / version
    if recordings is None:
        recordings = {path.relative_to(root).with_suffix("").as_posix(): path for path in transcript.every(root)}
    asides = asides or root / transcript.ASIDE_FILE
    kept = launch.load(asides.parent)
    index = build_index(
        version,
        {name: str(path) for name, path in recordings.items()},
        str(asides) if asides.exists() else None,
        launch.fields_of(kept.initialize) if kept else "",
    )
    (directory / "index.json").write_text(json.dumps(index, ensure_ascii=False), "utf-8")
    return executable(directory, "player", settings | {"directory": str(directory)})


# Seconds within which a proxy gets ready: a second, on a machine that has nothing else to do.
_READY = 120


class Server:
    """`with Server(cli, settings) as server`: the proxy as a process of its own, ready at `server.url`.

    `settings` are variables of its environment; with `login` the CLI finds the user's own. Raises RuntimeError, with
    the end of the server's log, if it does not get ready.
    """

    def __init__(self, cli: Path, settings: Mapping[str, str], *, login: bool = False) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = (sys.executable, "-m", "proxy", str(self.port))
        self._scratch = tempfile.TemporaryDirectory(prefix="conformance-")
        self._log = Path(self._scratch.name) / "server.log"
        self.last_words = ""
        home = Path(self._scratch.name) / "home"
        home.mkdir()
        scripted = {"HOME": str(home), "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-anything"}
        own = {name: os.environ[name] for name in scripted if name in os.environ}
        self._environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "PYTHONPATH": str(FIXTURES.parent),
            "TMPDIR": self._scratch.name,
            "CLAUDE_PROXY_CLI": str(cli),
            "CLAUDE_PROXY_RETRIES": "1",
            "CLAUDE_PROXY_WAITING": "0",
            # One scenario that ends at a limit of the plan is not to be all others' end.
            "CLAUDE_PROXY_LIMIT_RETRY": "0",
            **(own if login else scripted),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._scratch.name,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + _READY
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self.__exit__(None, None, None)
                raise RuntimeError(f"the server did not get ready:\n{self.last_words}")
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.last_words = self.log()[-4000:]
        self._scratch.cleanup()

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """What the server has written so far."""
        return self._log.read_text("utf-8", "replace")

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2, trust_env=False, verify=tls()).status_code == 200
        except httpx.TransportError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ── asking ──────────────────────────────────────────────────────────────────────────


async def drive(scenario: Scenario, mode: Mode, url: str, *, waiting: bool = False) -> list[str]:
    """Sends the requests of a scenario one after the other; what of its facts does not hold.

    `waiting`: each after its time, as for a recording; what a recording is played to need not wait.
    """
    problems: list[str] = []
    for number, exchange in enumerate(scenario.request, 1):
        if waiting:
            await asyncio.sleep(exchange.after)
        try:
            came = await ask(url, exchange.speaks, exchange.request(mode))
        except (httpx.HTTPError, ValueError) as fault:
            return [*problems, f"request {number}: {type(fault).__name__} {fault}"]
        problems += [f"request {number}: {line}" for line in exchange.differences(came, mode)]
    return problems


async def ask(url: str, api: Api, body: Mapping[str, Any], *, timeout: float = 30) -> dict[str, Any]:
    """Sends one request of that API; what came, as `conformance.scenario.Facts` names it.

    A stream is folded; `done` says whether it ended as a good one does.
    """
    async with httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False, verify=tls()) as client:
        answer = await client.post(api.PATH, json=body, headers=api.headers(None))
    came: dict[str, Any] = {"status": answer.status_code, "headers": dict(answer.headers)}
    if api.is_streamed(body) and answer.status_code == 200:
        return came | api.read_stream(answer.text)
    return came | api.read(answer.json())


@cache
def tls() -> ssl.SSLContext:
    """Made once: a client without one reads all certificates of the system."""
    return ssl.create_default_context()
