"""What the bench starts: the upstream, the server, CLIs driven directly. Each is ended with all that it started."""

import asyncio
import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--print", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose",
    "--include-partial-messages", "--setting-sources", "", "--strict-mcp-config", "--disable-slash-commands",
    "--tools", "", "--no-session-persistence", "--permission-mode", "dontAsk",
    "--allowedTools", "mcp__client", "--model", "opus",
)  # fmt: skip
_CHILD = {
    "CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1",
    "ENABLE_TOOL_SEARCH": "false",
    "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
    "CLAUDE_CODE_MAX_RETRIES": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
}
# The runtime collects garbage while it idles, which may hit a first delta: the best that can be had is compared.
_IDLE = {"BUN_GC_TIMER_INTERVAL": "30000"}
_PATIENCE = 60.0


class BenchError(Exception):
    """A measurement that could not be made, and why."""


class Place(msgspec.Struct, frozen=True):
    """Where things run: the CLI, a home that all children share, an empty working directory, the upstream's port.

    `code`: the directory with the server's package; `before`: with another one, to be measured beside it.
    """

    cli: str
    home: Path
    empty: Path
    upstream: int
    code: Path = ROOT
    before: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What server and children have in common."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.home),
            "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-anything",
        }

    @property
    def child(self) -> dict[str, str]:
        """The environment of a CLI that is started directly."""
        return self.environment | _CHILD | {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{self.upstream}"}


# ── lines for a CLI ─────────────────────────────────────────────────────────────────────────────────────────


def lines(*values: Mapping[str, Any]) -> bytes:
    """Lines as the CLI reads them."""
    return b"".join(msgspec.json.encode(value) + b"\n" for value in values)


def ask(text: str) -> bytes:
    """A user's message that wants an answer."""
    return lines(
        {
            "type": "user",
            "message": {"role": "user", "content": text},
            "parent_tool_use_id": None,
            "session_id": "",
            "client_composed": True,
        }
    )


def begin(text: str) -> bytes:
    """All that a new conversation needs, in one write: initialize, the user's message."""
    initialize = {"subtype": "initialize", "systemPrompt": ["Be brief."]}
    return lines({"type": "control_request", "request_id": "r0", "request": initialize}) + ask(text)


class Direct:
    """A CLI driven without any server. Started at once; `end` it. `idle`: one that is to wait, or to live on."""

    def __init__(self, place: Place, idle: bool = False) -> None:
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [place.cli, *FLAGS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=place.child | (_IDLE if idle else {}), cwd=place.empty, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def turn(self, data: bytes, since: float | None = None) -> float:
        """Seconds from writing `data` (or from `since`) to the first text delta; returns when the turn is over.

        Raises BenchError.
        """
        assert self._process.stdin is not None
        started = since or time.perf_counter()
        self._process.stdin.write(data)
        self._process.stdin.flush()
        came = b""
        first = None
        for part in self._parts(started + _PATIENCE):
            came += part
            if first is None and b'"text_delta"' in came:
                first = time.perf_counter() - started
            if first is not None and b'"type":"result"' in came:
                return first
        raise BenchError(f"the CLI gave no answer: {came[-300:]!r}")

    def _parts(self, until: float) -> Iterator[bytes]:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while (left := until - time.perf_counter()) > 0:
            if select.select([pipe], [], [], left)[0]:
                if not (part := os.read(pipe, 1 << 20)):
                    return
                yield part

    def end(self) -> None:
        """Kill it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


class _Run(asyncio.SubprocessProtocol):
    """Started, fed, read up to its result, killed: no more than that."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._tail = b""
        self._answered = False
        self._process: asyncio.SubprocessTransport | None = None
        self.over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._process = transport
        stdin = transport.get_pipe_transport(0)
        assert isinstance(stdin, asyncio.WriteTransport)
        stdin.write(self._data)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if not self._answered and b'"type":"result"' in self._tail + data:
            self._answered = True
            assert self._process is not None
            self._process.kill()
        self._tail = data[-20:]

    def process_exited(self) -> None:
        self.over.set_result(self._answered)


async def _run_many(place: Place, data: bytes, count: int, at_once: int) -> None:
    loop = asyncio.get_running_loop()
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            transport, run = await loop.subprocess_exec(
                lambda: _Run(data), place.cli, *FLAGS,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=place.child, cwd=place.empty, start_new_session=True,
            )  # fmt: skip
            answered = await run.over
            transport.close()
            if not answered:
                raise BenchError("a CLI ended without an answer")

    await asyncio.gather(*(worker() for _ in range(at_once)))


def start_each(place: Place, data: bytes, count: int, at_once: int) -> float:
    """Answers a second of a bare loop that starts the CLI for each, feeds and reads it, so many at once."""
    started = time.perf_counter()
    asyncio.run(_run_many(place, data, count, at_once))
    return count / (time.perf_counter() - started)


# ── upstream and server ─────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def upstream(log: Path | None = None) -> Iterator[int]:
    """The port of a Messages API that runs while the context is open.

    With `log` it accounts for the prompt cache, and appends what it counted for each request.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", "from conformance.bench.messages_api import main; main()", *filter(None, [log])],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


class Server:
    """A running `python -m proxy`, known by its port and process id only."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid

    def health(self) -> dict[str, Any]:
        """What GET /health says. Raises OSError while nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        finally:
            connection.close()

    def rest(self, waiting: int, least: float = 0.3) -> None:
        """Wait until its children are started: then nothing of ours takes processor time."""
        time.sleep(least)
        until = time.perf_counter() + 15
        while time.perf_counter() < until:
            children = self.health().get("children", {})
            if children.get("waiting", waiting) >= waiting and not children.get("starting"):
                return
            time.sleep(0.1)

    def processor_seconds(self) -> float:
        """User and system time of the server alone, without its children. Linux only. Raises OSError."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Its resident memory in MB. Linux only. Raises OSError."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextlib.contextmanager
def server(
    place: Place, *, waiting: int = 2, conversations: int = 8, more: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A server while the context is open, ready and at rest. `more`: further environment. Raises BenchError."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = place.environment | {
        "CLAUDE_PROXY_CLI": place.cli,
        "CLAUDE_PROXY_UPSTREAM_URL": f"http://127.0.0.1:{place.upstream}",
        "CLAUDE_PROXY_WAITING": str(waiting),
        "CLAUDE_PROXY_MAX_CONVERSATIONS": str(conversations),
        "LOG_LEVEL": "error",
        **(more or {}),
    }
    said = (place.home / "server.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", str(port)], env=environment, cwd=place.code,
        stdin=subprocess.DEVNULL, stdout=said, stderr=said,
    )  # fmt: skip
    running = Server(port, process.pid)
    try:
        until = time.perf_counter() + 30
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                running.health()
                break
            if process.poll() is not None or time.perf_counter() > until:
                log = Path(said.name).read_text(errors="replace")
                raise BenchError(f"the server does not answer:\n{log[-1500:]}")
            time.sleep(0.05)
        running.rest(waiting)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        said.close()
