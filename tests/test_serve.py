"""proxy/serve.py: the server as a process, told to stop and killed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.__main__ import DEMO_CLI
from proxy.serve import _serve, configure_logging
from proxy.settings.sources import Loaded
from tests import fake_cli
from tests.conftest import base_settings, chat, until
from tests.served import Served, entries

ROOT = Path(__file__).parent.parent


@pytest.fixture
def process(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server; parametrised indirectly with settings."""
    settings = {"CLAUDE_PROXY_GRACE": "5"} | getattr(request, "param", {})
    with Served(fake_cli.write(tmp_path / "cli"), tmp_path / "state", settings) as running:
        yield running


async def ended(process: Served, seconds: float) -> int:
    """Its exit code, and nothing of it left."""
    await until(lambda: process.process.poll() is not None, seconds, f"the server ended:\n{process.log()}")
    assert process.children() == []
    return int(process.process.returncode)


def client(process: Served) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=process.url, timeout=60, trust_env=False)


async def read_stream(http: httpx.AsyncClient, steps: Any, begun: asyncio.Event) -> str:
    """The whole stream, as far as it comes."""
    text = ""
    async with http.stream("POST", "/v1/chat/completions", json=chat(steps, stream=True)) as answer:
        try:
            async for piece in answer.aiter_text():
                text += piece
                begun.set()
        except httpx.RemoteProtocolError:
            text += "(cut)"
    return text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_told_to_stop_it_ends_well_and_leaves_nothing(process: Served, number: signal.Signals) -> None:
    await until(lambda: len(process.children()) == 1, 10, "a child waits")
    async with client(process) as http:
        assert (await http.get("/health")).status_code == 200
    process.process.send_signal(number)
    assert await ended(process, 10) == 0
    assert "Traceback" not in process.log()


async def test_an_answer_under_way_is_finished_first(process: Served) -> None:
    begun = asyncio.Event()
    async with client(process) as http:
        steps: list[list[Any]] = [["say", "first"], ["sleep", 0.8], ["say", "last"], ["end"]]
        reading = asyncio.create_task(read_stream(http, steps, begun))
        await asyncio.wait_for(begun.wait(), 60)
        process.process.terminate()
        await asyncio.sleep(0.2)
        with pytest.raises(httpx.ConnectError):
            await httpx.AsyncClient(trust_env=False).get(f"{process.url}/health")
        text = await asyncio.wait_for(reading, 60)
    assert '"last"' in text
    assert text.endswith("data: [DONE]\n\n")
    assert await ended(process, 10) == 0


@pytest.mark.parametrize("process", [{"CLAUDE_PROXY_GRACE": "1"}], indirect=True)
async def test_an_answer_that_outlasts_the_grace_is_cut(process: Served) -> None:
    begun = asyncio.Event()
    async with client(process) as http:
        reading = asyncio.create_task(read_stream(http, [["say", "first"], ["hang"]], begun))
        await asyncio.wait_for(begun.wait(), 60)
        process.process.terminate()
        text = await asyncio.wait_for(reading, 60)
    assert "[DONE]" not in text
    error = json.loads(text.split("data: ")[-1])["error"]
    assert error["code"] == "shutting_down"
    assert await ended(process, 10) == 0
    assert "Traceback" not in process.log()


async def test_killed_it_leaves_no_child(process: Served) -> None:
    begun = asyncio.Event()
    async with client(process) as http:
        reading = asyncio.create_task(read_stream(http, [["say", "first"], ["hang"]], begun))
        await asyncio.wait_for(begun.wait(), 60)
        await until(lambda: len(process.children()) == 2, 10, "one answers, one waits")
        process.process.kill()
        process.process.wait()
        await until(lambda: not process.children(), 1, "the children ended with the server")
        await asyncio.wait([reading])
        assert not reading.cancelled()


@pytest.mark.parametrize("process", [{"LOG_LEVEL": "debug", "API_KEYS": "alice:sk-secret"}], indirect=True)
async def test_the_log_has_a_line_a_request_and_never_text_or_keys(process: Served) -> None:
    async with client(process) as http:
        head = {"authorization": "Bearer sk-secret"}
        answer = await http.post("/v1/chat/completions", json=chat("my secret question"), headers=head)
        assert answer.json()["choices"][0]["message"]["content"] == "echo: my secret question"
    line = f"{answer.headers['x-request-id']} POST /v1/chat/completions 200"
    await until(lambda: line in process.log(), 5, "the log line")
    assert "secret" not in process.log()


async def test_the_child_gets_a_private_empty_directory_and_no_text_on_its_command_line(process: Served) -> None:
    await until(lambda: len(process.children()) == 1, 10, "a child waits")
    (child,) = process.children()
    cwd = Path(f"/proc/{child}/cwd").resolve()
    assert list(cwd.iterdir()) == []
    assert stat.S_IMODE(cwd.stat().st_mode) == 0o700
    begun = asyncio.Event()
    async with client(process) as http:
        reading = asyncio.create_task(read_stream(http, [["say", "needle-in-text"], ["hang"]], begun))
        await asyncio.wait_for(begun.wait(), 60)
        assert b"needle" not in Path(f"/proc/{child}/cmdline").read_bytes()
        reading.cancel()
        await asyncio.wait([reading])


async def test_it_says_that_it_is_ready_when_it_can_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    reached: list[int] = []

    def announce(models: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        with socket.socket() as client:
            reached.append(client.connect_ex(sock.getsockname()))

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        settings = base_settings(waiting=0, state_dir=str(tmp_path / "state"))
        loaded = Loaded(settings, {}, {})
        await asyncio.wait_for(_serve(loaded, DEMO_CLI, [sock], announce, lambda: loaded), 60)
    assert reached == [0]


def raw(process: Served, data: bytes) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", process.port), timeout=60)
    sock.sendall(data)
    return sock


UPLOAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize("process", [{"CLAUDE_PROXY_GRACE": "1"}], indirect=True)
@pytest.mark.parametrize(
    "begun", [UPLOAD + b'content-length: 1000\r\n\r\n{"model"', b"POST /v1/ch"], ids=["body", "head"]
)
async def test_an_upload_that_outlasts_the_grace_is_told_so(process: Served, begun: bytes) -> None:
    with raw(process, begun) as sock:
        await asyncio.to_thread(process.get, "/health")
        process.process.terminate()
        assert await ended(process, 15) == 0, process.log()
        came = sock.recv(65536)
    assert (b" 503 " in came and b'"shutting_down"' in came) if b"length" in begun else came == b""
    assert "Traceback" not in process.log()


@pytest.mark.parametrize("process", [{"CLAUDE_PROXY_GRACE": "1"}], indirect=True)
async def test_at_a_second_ctrl_c_it_ends_at_once(process: Served) -> None:
    begun = asyncio.Event()
    async with client(process) as http:
        reading = asyncio.create_task(read_stream(http, [["say", "first"], ["hang"]], begun))
        await asyncio.wait_for(begun.wait(), 60)
        with raw(process, UPLOAD + b'content-length: 1000\r\n\r\n{"model"'):
            await asyncio.to_thread(process.get, "/health")
            process.process.send_signal(signal.SIGINT)
            await until(lambda: refused(process), 5, "it stops")
            process.process.send_signal(signal.SIGINT)
            assert await ended(process, 10) == 0
        await asyncio.wait([reading])
    assert "Traceback" not in process.log()


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return [""]


def refused(process: Served) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", process.port)) != 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("slow", ["--version", "auth", "stream-json"])
async def test_told_to_stop_while_it_starts_it_leaves_nothing(
    tmp_path: Path, number: signal.Signals, slow: str
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    real = fake_cli.write(tmp_path / "cli" / "real")
    path = tmp_path / "cli" / "claude"
    path.write_text(f'#!/bin/sh\ncase "$*" in *{slow}*) sleep 5;; esac\nexec {real} "$@"\n')
    path.chmod(0o755)
    process = Served(path, tmp_path / "state", {"TMPDIR": str(scratch)})
    process.start()
    try:
        await until(lambda: any(slow in command_line(pid) for pid in process.children()), 20, "the CLI runs")
        process.process.send_signal(number)
        await until(lambda: process.process.poll() is not None, 10, "the server ended")
        assert process.process.returncode in (0, 128 + number)
        # A command that the signal met at its very start is left to itself: it only tells a version or a login.
        await until(lambda: process.children() == [], 10, "the CLI ended")
    finally:
        process.end(signal.SIGKILL)
    assert list(scratch.iterdir()) == []
    assert "Traceback" not in process.log()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ""])
async def test_it_serves_without_standard_streams(tmp_path: Path, closed: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shell = ("sh", "-c", f'exec "$@" {closed}', "sh")
    process = Served(fake_cli.write(tmp_path / "cli"), tmp_path / "state", wrapper=shell, port=port)
    process.start()
    assert process.process.stdout is not None
    # Nobody reads what it says, where it can say something.
    process.process.stdout.close()
    try:
        await until(lambda: not refused(process), 20, "it can be reached")
        answer = await asyncio.to_thread(process.chat, chat("Hi."))
        assert answer.json()["choices"][0]["message"]["content"] == "echo: Hi."
        streams = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)]
        assert not any(stream.startswith("socket") for stream in streams)
        process.process.terminate()
        assert await ended(process, 10) == 0
    finally:
        process.end(signal.SIGKILL)
    assert "Traceback" not in process.log()
    assert "Error" not in process.log()


async def test_whatever_the_umask_what_it_makes_is_private(tmp_path: Path) -> None:
    places = {
        "CLAUDE_PROXY_STATE_DIR": str(tmp_path / "a" / "b" / "state"),
        "CLAUDE_PROXY_USAGE_FILE": str(tmp_path / "u" / "v" / "usage.sqlite3"),
    }
    wrapper = ("sh", "-c", 'umask 0; exec "$@"', "sh")
    with Served(fake_cli.write(tmp_path / "cli"), tmp_path / "state", places, wrapper=wrapper) as process:
        await asyncio.to_thread(process.chat, chat("Hi."))
        await until((tmp_path / "u" / "v" / "usage.sqlite3").exists, 5, "the usage file")
    for path, mode, _ in (*entries(tmp_path / "a"), *entries(tmp_path / "u")):
        assert mode in (stat.S_IFDIR | 0o700, stat.S_IFREG | 0o600), path


# Pieces


@pytest.mark.parametrize(("level", "number"), [("error", logging.ERROR), ("debug", logging.DEBUG)])
def test_the_log_level_is_ours_alone(level: str, number: int) -> None:
    before = logging.getLogger("proxy").level
    try:
        configure_logging(base_settings(log_level=level))
        assert logging.getLogger("proxy").level == number
        assert logging.getLogger("uvicorn").getEffectiveLevel() >= logging.WARNING
    finally:
        logging.getLogger("proxy").setLevel(before)
