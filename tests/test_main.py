"""The command as a user meets it: what is printed where, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

import proxy
from proxy import serve
from proxy.__main__ import CANNOT_START, COMMANDS, main, welcome
from proxy.cli.find import FoundCli, LoginState
from proxy.protocol.lines import ListedModel
from proxy.settings import SETTINGS, Key, ModelName, Settings, default
from proxy.settings.sources import Loaded
from tests import fake_cli
from tests.cli_script import LOGGED_OUT, cli_script

CLI = FoundCli("/opt/claude", (2, 1, 330), LoginState(True, "claude.ai", None, "max"))
MODELS = (ListedModel("default", "claude-opus-5-5"), ListedModel("opus"), ListedModel("sonnet[1m]"))


@pytest.fixture(autouse=True)
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer with a logged-in CLI, and nothing else that matters here."""
    for name in list(os.environ):
        if name not in ("PATH", "LANG", "PYTHONPATH", "COVERAGE_PROCESS_START"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLAUDE_PROXY_CLI", str(cli_script(tmp_path / "claude")))
    monkeypatch.setenv("CLAUDE_PROXY_PORT", "0")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings with which the server was run; it is replaced by one that announces itself and ends."""
    seen: list[Settings] = []

    def run(
        loaded: Loaded,
        cli: FoundCli,
        sockets: list[socket.socket],
        announce: Callable[[tuple[ListedModel, ...]], None],
        reload: Callable[[], Loaded],
        inspect: bool,
    ) -> int:
        seen.append(loaded.settings)
        assert reload().settings == loaded.settings
        for sock in sockets:
            sock.listen()
        announce(MODELS)
        return 0

    monkeypatch.setattr(serve, "run", run)
    return seen


@pytest.mark.parametrize("words", [[], ["serve"]])
def test_it_serves_and_says_so(words: list[str], served: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--log-level", "warn"]) == 0
    said = capsys.readouterr()
    assert [settings.log_level for settings in served] == ["warn"]
    assert re.search(r"Base URL  (http://127\.0\.0\.1:[1-9]\d*)/v1\n            \1 for Anthropic's API\n", said.out)
    assert "Note:" not in said.out
    assert said.err == ""


def test_the_port_is_the_argument(served: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_PROXY_PORT", "1")
    assert main(["0"]) == 0
    assert [settings.port for settings in served] == [0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            Settings(),
            ["http://127.0.0.1:8/v1", "any text; none is needed", "2.1.330, /opt/claude", "Claude subscription (max)"],
        ),
        (Settings(host="::1"), ["http://[::1]:8/v1"]),
        (
            Settings(host="0.0.0.0", api_keys=(Key("a", "sesame"),)),
            ["http://127.0.0.1:8/v1", "one of this server's keys", "-H 'Authorization: Bearer YOUR_KEY'"],
        ),
        (
            Settings(uds="/run/c d.sock"),
            ["Address   /run/c d.sock\n", "curl --unix-socket '/run/c d.sock' http://localhost/v1"],
        ),
        (Settings(ollama_port=9), ["Address   http://127.0.0.1:8\n  Ollama    http://127.0.0.1:9\n"]),
        (Settings(tls_cert="c", tls_key="k"), ["https://127.0.0.1:8/v1"]),
        (Settings(models=(ModelName("fast", "haiku"),)), ["Models    fast, opus, fable, sonnet, haiku, sonnet[1m]\n"]),
    ],
)
def test_what_is_said(settings: Settings, expected: list[str]) -> None:
    said = welcome(settings, CLI, 8, MODELS)
    for text in expected:
        assert text in said
    assert "sesame" not in said
    assert "YOUR_KEY" in welcome(settings, CLI, 8, MODELS, stored_keys=True)
    assert f"claude-max-api {proxy.__version__} is ready" in said


def test_demo_needs_no_cli(
    served: list[Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLAUDE_PROXY_CLI", "/nowhere")
    assert main(["--demo"]) == 0
    said = capsys.readouterr().out
    assert "is ready, in DEMO MODE." in said
    assert "recorded answers, no Claude model is asked" in said
    assert len(served) == 1


def test_the_curl_line_is_a_request() -> None:
    line = next(line for line in welcome(Settings(), CLI, 8, ()).splitlines() if "curl" in line)
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {line.partition('curl ')[2]}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words[0] == "http://127.0.0.1:8/v1/chat/completions"
    assert set(json.loads(words[-1])) == {"model", "messages"}


@pytest.mark.parametrize(
    ("arguments", "variables", "message", "helps"),
    [
        (["99999"], {}, "port: must be a whole number between 0 and 65535 (given: '99999')", "--help"),
        ([], {"CLAUDE_PROXY_GRACE": "x"}, "CLAUDE_PROXY_GRACE: must be", "--help"),
        (["--host", "0.0.0.0"], {}, "--host: 0.0.0.0 can be reached from other computers", "--help"),
        (["--cli", "/nowhere/claude"], {}, "/nowhere/claude, which does not exist", ""),
        (["--cli", "{old}"], {}, "is version 2.1.0; 2.1.292 or newer is needed", "{old} update"),
        (["--cli", "{out}"], {}, "logged out", "{out} auth login"),
        (["--host", "192.0.2.1"], {"API_KEYS": "a"}, "192.0.2.1, port 0, cannot be served on", "CLAUDE_PROXY_HOST"),
        ([], {"CLAUDE_PROXY_STATE_DIR": "/dev/null/x"}, "/dev/null", "CLAUDE_PROXY_STATE_DIR"),
    ],
)
def test_what_keeps_it_from_starting(
    arguments: list[str],
    variables: dict[str, str],
    message: str,
    helps: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    served: list[Settings],
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {
        "{old}": str(cli_script(tmp_path / "old", "echo 2.1.0")),
        "{out}": str(cli_script(tmp_path / "out", login=LOGGED_OUT, code=1)),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main([places.get(word, word) for word in arguments]) == CANNOT_START
    said = capsys.readouterr()
    assert said.out == ""
    for mark, path in places.items():
        helps = helps.replace(mark, path)
    first, *rest = said.err.splitlines()
    assert first.startswith("claude-max-api cannot start. ")
    assert message in first
    assert helps in "\n".join(rest)
    assert served == []


def test_a_port_in_use_is_one_line(
    served: list[Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # It would be asked whether it is ours, and does not answer.
    monkeypatch.setattr("proxy.address.ours", lambda settings: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main([str(port)]) == CANNOT_START
    assert f"cannot start. Port {port} is in use by another program.\n" in capsys.readouterr().err


def test_the_second_port_in_use_is_named(
    served: list[Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("proxy.address.ours", lambda settings: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main(["--ollama-port", str(port)]) == CANNOT_START
    said = capsys.readouterr().err
    assert f"cannot start. Port {port} is in use by another program.\n" in said
    assert "Ollama itself, most likely" in said
    assert served == []


def test_notes_come_before_anything_that_may_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sesame")
    monkeypatch.setenv("CLAUDE_PROXY_CLI", str(tmp_path / "none"))
    assert main([]) == CANNOT_START
    said = capsys.readouterr()
    assert said.out.startswith("Note: ANTHROPIC_API_KEY is set and is kept from the CLI")
    assert "sesame" not in said.out + said.err


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["doctor", "--help"]])
def test_help_lists_all_settings_and_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for setting in SETTINGS:
        assert setting.variable in said
        assert setting.help.replace("`", "") in said
        if default(setting):
            assert f"{setting.variable}, default {default(setting)}" in said
    for name, command in COMMANDS.items():
        assert f"{name} {command.help}" in said


def test_usage_names_the_settings_that_matter_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["usage", "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    named = {setting.variable for setting in SETTINGS if setting.variable in said}
    assert named == {"CLAUDE_PROXY_STATE_DIR", "CLAUDE_PROXY_USAGE_FILE", "CLAUDE_PROXY_CONFIG"}


def test_a_command_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["docter", "--live"])
    assert caught.value.code == 2
    assert "no command 'docter', but serve, doctor, usage" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"claude-max-api {proxy.__version__}\n"


@pytest.mark.parametrize("words", [["--log", "warn"], ["--nonsense"], ["1", "2"], ["--live"], ["--api-keys", "a"]])
def test_arguments_that_do_not_exist(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: claude-max-api" in capsys.readouterr().err


def test_doctor_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--waiting", "0", "--max-conversations", "1"]) == 0
    assert "All checks passed." in capsys.readouterr().out
    monkeypatch.setenv("CLAUDE_PROXY_CLI", "/nowhere")
    assert main(["doctor"]) == 1


def test_ctrl_c_while_it_starts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> FoundCli:
        raise KeyboardInterrupt

    monkeypatch.setattr("proxy.cli.find.look", interrupted)
    assert main([]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_whole_command(number: signal.Signals, tmp_path: Path) -> None:
    fake_cli.write(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-m", "proxy", "0", "--waiting", "1", "--log-level", "warn"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Press Ctrl-C"):
                break
        base = next(line for line in said if "Base URL" in line).split()[-1]
        with urllib.request.urlopen(f"{base}/models", timeout=60) as answer:
            assert "opus" in answer.read().decode()
        process.send_signal(number)
        assert process.wait(60) == 0
        assert process.stdout.read() == ""
        assert process.stderr.read() == ""


def test_it_starts_where_texts_are_not_utf_8() -> None:
    """As in a locale without UTF-8: its own files are read as what they are."""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    told = subprocess.run(
        [sys.executable, "-m", "proxy", "--version"],
        env=os.environ | plain,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.strip().endswith(proxy.__version__)
