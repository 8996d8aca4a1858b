"""The first start at a terminal: a real pseudo-terminal, the whole command, and a CLI that can be logged in."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from proxy import first_start
from proxy.cli import find
from proxy.settings import Settings
from tests import fake_cli
from tests.cli_script import LOGGED_OUT, SUBSCRIPTION, cli_script

ROOT = Path(__file__).parent.parent


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "0", "--waiting", "0", "--log-level", "warn"],
            env={**environ, "PYTHONPATH": str(ROOT)}, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.said = ""

    def until(self, pattern: str, seconds: float = 20.0) -> None:
        """Read until the pattern has been said since the last time."""
        end = time.monotonic() + seconds
        begin = len(self.said)
        while not re.search(pattern, self.said[begin:]):
            left = end - time.monotonic()
            assert left > 0, f"not said within {seconds} s: {pattern}\n{self.said}"
            if select.select([self._master], [], [], left)[0]:
                try:
                    data = os.read(self._master, 65536)
                except OSError:
                    data = b""
                assert data, f"ended without {pattern}:\n{self.said}"
                self.said += data.decode()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def ended(self, number: signal.Signals | None = None) -> int:
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 65536):
                self.said += data.decode()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


Start = Callable[[], Terminal]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Start]:
    """Starts the command on a computer whose CLI is logged out until its `auth login` has read the line `code`."""
    cli = tmp_path / "claude"
    real = fake_cli.write(tmp_path / "cli")
    (tmp_path / "out").write_text(LOGGED_OUT)
    cli_script(cli)
    cli.write_text(
        f"""#!/bin/sh
case "$*" in
--version) echo '2.1.330 (Claude Code)' ;;
"--setting-sources  auth status --json") cat {tmp_path}/out; grep -q true {tmp_path}/out ;;
"auth login") env > {tmp_path}/login.env; test -t 0 && test -t 1 || exit 9
  printf 'Paste code here: '; read code; [ "$code" = code ] || exit 1; echo '{SUBSCRIPTION}' > {tmp_path}/out ;;
*) exec {real} "$@" ;;
esac
"""
    )
    environ = {
        "HOME": str(tmp_path), "PATH": os.environ["PATH"], "CLAUDE_PROXY_CLI": str(cli), "TERM": "dumb",
        "DISPLAY": ":7", "ANTHROPIC_API_KEY": "sesame", "CLAUDE_PROXY_GRACE": "1",
    }  # fmt: skip
    opened: list[Terminal] = []

    def start() -> Terminal:
        opened.append(Terminal(environ))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_the_login_is_offered_and_the_server_goes_on(terminal: Start, tmp_path: Path) -> None:
    at = terminal()
    at.until(r"logged out\.\r\nLog in now\? .*\[Y/n\] ")
    at.type("\n")
    at.until("Paste code here: ")
    at.type("code\n")
    at.until(r"Press Ctrl-C to stop\.")
    assert "Claude subscription (max)" in at.said
    assert at.ended(signal.SIGTERM) == 0
    seen = (tmp_path / "login.env").read_text()
    assert "DISPLAY=:7" in seen
    assert "sesame" not in seen


@pytest.mark.parametrize("answer", ["n\n", "\x04"])
def test_who_declines_is_told_what_to_do(terminal: Start, tmp_path: Path, answer: str) -> None:
    at = terminal()
    at.until(r"\[Y/n\] ")
    at.type(answer)
    assert at.ended() == 2
    assert "cannot start. The Claude Code CLI is logged out." in at.said
    assert f"{tmp_path}/claude auth login" in at.said
    assert not (tmp_path / "login.env").exists()


def test_a_login_that_fails_is_not_offered_again(terminal: Start) -> None:
    at = terminal()
    at.until(r"\[Y/n\] ")
    at.type("y\n")
    at.until("Paste code here: ")
    at.type("wrong\n")
    assert at.ended() == 2
    assert at.said.count("[Y/n]") == 1
    assert "cannot start." in at.said


# Without a terminal, and what is offered.


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions and commands, in order; every question is answered with yes, and no command does anything."""
    seen: list[str] = []

    def ask(question: str) -> str:
        seen.append(question)
        return "y"

    def call(argv: list[str], env: Mapping[str, str]) -> int:
        seen.append(" ".join(argv))
        return 0

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr(subprocess, "call", call)
    return seen


def test_without_a_terminal_nothing_is_asked(tmp_path: Path, asked: list[str]) -> None:
    cli = cli_script(tmp_path / "claude", login=LOGGED_OUT, code=1)
    with pytest.raises(find.CliLoggedOut):
        first_start.look(Settings(cli=str(cli)), {"HOME": str(tmp_path)}, terminal=False)
    assert asked == []


def test_a_missing_cli_is_offered_to_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(find, "PLACES", ())
    monkeypatch.setattr(find, "_bundled", lambda: None)
    with pytest.raises(find.CliMissing):
        first_start.look(Settings(), {"HOME": str(tmp_path), "PATH": str(tmp_path)}, terminal=True)
    question, command = asked
    assert question.startswith("Install it")
    assert command.endswith("install claude-agent-sdk") or "uv pip install" in command
    said = capsys.readouterr().out
    assert "The Claude Code CLI is not installed" in said
    assert f"Running: {command}" in said


@pytest.mark.parametrize(
    "settings",
    [Settings(cli="/nowhere/claude"), Settings(login="api-key"), Settings(login="bedrock")],
    ids=["named", "api-key", "bedrock"],
)
def test_what_only_the_user_can_decide_is_not_offered(settings: Settings, tmp_path: Path, asked: list[str]) -> None:
    if settings.cli is None:
        cli_script(tmp_path / "claude", login=LOGGED_OUT, code=1)
    with pytest.raises(find.CliProblem):
        first_start.look(settings, {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}, terminal=True)
    assert asked == []
