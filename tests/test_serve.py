"""proxy/serve.py: the server as a process, told to stop and killed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.__main__ import DEMO_CLI
from proxy.serve import _serve, configure_logging
from proxy.settings.sources import Loaded
from tests import fake_cli
from tests.conftest import base_settings, chat, children_of, until

ROOT = Path(__file__).parent.parent


class Process:
    """`python -m proxy` on a fake CLI."""

    def __init__(self, directory: Path, settings: dict[str, str]) -> None:
        self.directory = directory / "cli"
        path = fake_cli.write(self.directory)
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(ROOT), "CLAUDE_PROXY_CLI": str(path),
            "CLAUDE_PROXY_STATE_DIR": str(directory / "state"), "CLAUDE_PROXY_WAITING": "1", "CLAUDE_PROXY_GRACE": "5",
        }  # fmt: skip
        # A coverage run follows the server, too.
        environment |= {name: value for name, value in os.environ.items() if name.startswith("COV")}
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "proxy", "0"], env=environment | settings, cwd=directory,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.url = ""
        end = time.monotonic() + 30
        while not self.url:
            assert self.popen.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.02)
            for line in self.said().splitlines():
                if line.strip().startswith("Address"):
                    self.url = line.split()[-1]

    def said(self) -> str:
        return self.log.read_text()

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()

    async def ended(self, seconds: float) -> int:
        """Its exit code, and nothing of it left."""
        await until(lambda: self.popen.poll() is not None, seconds, f"the server ended:\n{self.said()}")
        assert children_of(self.directory) == []
        return int(self.popen.returncode)


@pytest.fixture
def process(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Process]:
    """A server; parametrised indirectly with settings."""
    running = Process(tmp_path, getattr(request, "param", {}))
    yield running
    running.end()


def client(process: Process) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=process.url, timeout=20, trust_env=False)


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
async def test_told_to_stop_it_ends_well_and_leaves_nothing(process: Process, number: signal.Signals) -> None:
    await until(lambda: len(children_of(process.directory)) == 1, 10, "a child waits")
    async with client(process) as http:
        assert (await http.get("/health")).status_code == 200
    process.popen.send_signal(number)
    assert await process.ended(10) == 0
    assert "Traceback" not in process.said()


async def test_an_answer_under_way_is_finished_first(process: Process) -> None:
    begun = asyncio.Event()
    async with client(process) as http:
        steps: list[list[Any]] = [["say", "first"], ["sleep", 0.8], ["say", "last"], ["end"]]
        reading = asyncio.create_task(read_stream(http, steps, begun))
        await asyncio.wait_for(begun.wait(), 10)
        process.popen.terminate()
        await asyncio.sleep(0.2)
        with pytest.raises(httpx.ConnectError):
            await httpx.AsyncClient(trust_env=False).get(f"{process.url}/health")
        text = await asyncio.wait_for(reading, 10)
    assert '"last"' in text
    assert text.endswith("data: [DONE]\n\n")
    assert await process.ended(10) == 0


@pytest.mark.parametrize("process", [{"CLAUDE_PROXY_GRACE": "1"}], indirect=True)
async def test_an_answer_that_outlasts_the_grace_is_cut(process: Process) -> None:
    begun = asyncio.Event()
    async with client(process) as http:
        reading = asyncio.create_task(read_stream(http, [["say", "first"], ["hang"]], begun))
        await asyncio.wait_for(begun.wait(), 10)
        process.popen.terminate()
        text = await asyncio.wait_for(reading, 10)
    assert "[DONE]" not in text
    error = json.loads(text.split("data: ")[-1])["error"]
    assert error["code"] == "shutting_down"
    assert await process.ended(10) == 0
    assert "Traceback" not in process.said()


async def test_killed_it_leaves_no_child(process: Process) -> None:
    begun = asyncio.Event()
    async with client(process) as http:
        reading = asyncio.create_task(read_stream(http, [["say", "first"], ["hang"]], begun))
        await asyncio.wait_for(begun.wait(), 10)
        await until(lambda: len(children_of(process.directory)) == 2, 10, "one answers, one waits")
        process.popen.kill()
        process.popen.wait()
        await until(lambda: not children_of(process.directory), 1, "the children ended with the server")
        await asyncio.wait([reading])
        assert not reading.cancelled()


@pytest.mark.parametrize("process", [{"LOG_LEVEL": "debug", "API_KEYS": "alice:sk-secret"}], indirect=True)
async def test_the_log_has_a_line_a_request_and_never_text_or_keys(process: Process) -> None:
    async with client(process) as http:
        head = {"authorization": "Bearer sk-secret"}
        answer = await http.post("/v1/chat/completions", json=chat("my secret question"), headers=head)
        assert answer.json()["choices"][0]["message"]["content"] == "echo: my secret question"
    line = f"{answer.headers['x-request-id']} POST /v1/chat/completions 200"
    await until(lambda: line in process.said(), 5, "the log line")
    assert "secret" not in process.said()


async def test_the_child_gets_a_private_empty_directory_and_no_text_on_its_command_line(process: Process) -> None:
    await until(lambda: len(children_of(process.directory)) == 1, 10, "a child waits")
    (child,) = children_of(process.directory)
    cwd = Path(f"/proc/{child}/cwd").resolve()
    assert list(cwd.iterdir()) == []
    assert stat.S_IMODE(cwd.stat().st_mode) == 0o700
    begun = asyncio.Event()
    async with client(process) as http:
        reading = asyncio.create_task(read_stream(http, [["say", "needle-in-text"], ["hang"]], begun))
        await asyncio.wait_for(begun.wait(), 10)
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
        await asyncio.wait_for(_serve(loaded, DEMO_CLI, sock, announce, lambda: loaded), 10)
    assert reached == [0]


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
