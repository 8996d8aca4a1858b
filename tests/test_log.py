"""proxy/log.py: nobody waits for a reader of the log."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy import log
from proxy.log import BufferedHandler
from tests import fake_cli
from tests.conftest import chat
from tests.outcomes import Expects
from tests.served import Served, wait_for


class Pipe:
    """One that holds a page."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)

    def read_all(self) -> list[str]:
        """Every line until the other end is closed."""
        with open(self.reading, "rb", closefd=False) as file:
            return file.read().decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.reading)


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, "", 0, "%s", (text,), None)


def fill(handler: BufferedHandler, count: int) -> None:
    for number in range(count):
        handler.handle(record(f"{number:>99}"))


def end(handler: BufferedHandler, pipe: Pipe) -> None:
    handler.close()
    os.close(pipe.writing)


def test_lines_are_written_in_order(pipe: Pipe) -> None:
    handler = BufferedHandler(pipe.writing)
    fill(handler, 30)
    handler.handle(record("ä \udce4 \U0001f642"))
    end(handler, pipe)
    *lines, odd = pipe.read_all()
    assert [int(line) for line in lines] == [*range(30)]
    assert odd == "ä \\udce4 \U0001f642"


@pytest.mark.parametrize("blocking", [True, False])
def test_what_does_not_fit_is_dropped_and_counted_and_told_later(
    pipe: Pipe, blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MAX_CLOSE_WAIT", 30.0)
    os.set_blocking(pipe.writing, blocking)
    handler = BufferedHandler(pipe.writing, max_bytes=2000)
    fill(handler, 2000)  # about 200 kB
    reader = threading.Thread(target=lambda: lines.extend(pipe.read_all()))
    lines: list[str] = []
    reader.start()
    wait_for(lambda: not handler._size and not handler._dropped, 10, "all is written")
    handler.handle(record("after"))
    end(handler, pipe)
    reader.join()
    notes = [line for line in lines if "dropped" in line]
    kept = [line for line in lines if line.strip().isdigit()]
    assert notes
    assert sum(int(note.split()[0]) for note in notes) + len(kept) == 2000
    assert lines[-1] == "after"
    assert [int(line) for line in kept] == sorted(int(line) for line in kept)


def test_the_count_is_told_at_the_end_too(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_CLOSE_WAIT", 30.0)
    handler = BufferedHandler(pipe.writing, max_bytes=10)
    fill(handler, 3)
    end(handler, pipe)
    assert pipe.read_all() == ["3 log lines were dropped because stderr was not read."]


def test_a_reader_that_never_comes_holds_nothing_up(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_CLOSE_WAIT", 0.05)
    handler = BufferedHandler(pipe.writing)
    fill(handler, 1000)
    handler.close()
    assert handler._writer.is_alive()
    reader = threading.Thread(target=pipe.read_all)
    reader.start()
    handler._writer.join()
    os.close(pipe.writing)
    reader.join()


def test_a_closed_stderr_is_no_error(pipe: Pipe) -> None:
    handler = BufferedHandler(pipe.writing)
    os.close(pipe.reading)
    fill(handler, 3)
    end(handler, pipe)
    pipe.reading, _ = os.pipe()
    assert not handler._writer.is_alive()


def test_a_record_that_cannot_be_formatted_is_no_error(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler = BufferedHandler(pipe.writing)
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "%d", ("x",), None))
    handler.handle(record("next"))
    end(handler, pipe)
    assert pipe.read_all() == ["next"]


@pytest.mark.skipif(sys.platform != "linux", reason="only there a pipe can be made small")
def test_a_server_whose_log_is_not_read_serves_and_ends(tmp_path: Path, pipe: Pipe, expects: Expects) -> None:
    expects(
        "faults", "stderr to a pipe that nobody reads", "answers as ever, SIGTERM ends it; lines dropped are counted"
    )
    cli = fake_cli.write(tmp_path / "cli")
    with Served(cli, tmp_path / "state", {"LOG_LEVEL": "debug"}, stderr=pipe.writing) as server:
        os.close(pipe.writing)
        for number in range(30):  # several times what the pipe holds
            assert server.chat(chat(f"{number}")).status_code == 200
        assert server.get("/health").status_code == 200
        assert server.end(signal.SIGTERM) == 0
    assert len(os.read(pipe.reading, 1 << 16)) >= 4096 - 512, "the pipe was full: not even another line had room"
