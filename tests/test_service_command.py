"""The server as a service: what the service managers are given, and what they are told."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.__main__ import main
from proxy.service import command
from proxy.service.units import LABEL, agent_path, launchd_agent, systemd_unit
from proxy.settings.sources import load
from tests.cli_script import LOGGED_OUT, cli_script

ANALYZE = shutil.which("systemd-analyze")
VARIABLES = {"PATH": "/usr/bin:/a b", "ODD": 'a "quoted" 100% $HOME \\ ü'}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A computer with a logged-in CLI, and with systemctl, journalctl, launchctl and tail that only note their words
    in the file `told`."""
    for name in list(os.environ):
        if name not in ("LANG", "PYTHONPATH", "COVERAGE_PROCESS_START"):
            monkeypatch.delenv(name)
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("systemctl", "journalctl", "launchctl", "tail"):
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/told\n')
        path.chmod(0o755)
    cli_script(folder / "claude")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path


def told(home: Path) -> list[str]:
    return (home / "told").read_text().splitlines()


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is part of systemd, which is not on every computer")
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "a folder" / "python 100%"
    program.parent.mkdir()
    program.symlink_to("/bin/true")
    path = tmp_path / "claude-max-api.service"
    path.write_text(systemd_unit([str(program), "-m", "proxy", "$x"], VARIABLES, 10))
    ran = subprocess.run([str(ANALYZE), "verify", str(path)], capture_output=True, text=True, check=False)
    assert (ran.stdout + ran.stderr, ran.returncode) == ("", 0)
    # It would have found one.
    path.write_text(path.read_text().replace("Type=exec", "Type=nonsense"))
    ran = subprocess.run([str(ANALYZE), "verify", str(path)], capture_output=True, text=True, check=False)
    assert "nonsense" in ran.stderr


def test_what_the_unit_says() -> None:
    unit = systemd_unit(["/opt/python", "-m", "proxy"], {"PATH": "/bin"}, 30).splitlines()
    for line in (
        'ExecStart="/opt/python" "-m" "proxy"', "ExecReload=/bin/kill -HUP $MAINPID", 'Environment="PATH=/bin"',
        "Restart=on-failure", "RestartPreventExitStatus=2", "TimeoutStopSec=45", "KillMode=mixed",
    ):  # fmt: skip
        assert line in unit


def test_the_agent_is_a_property_list(tmp_path: Path) -> None:
    agent = plistlib.loads(launchd_agent(["/opt/python", "-m", "proxy"], VARIABLES, 10, tmp_path / "log & more"))
    assert agent["Label"] == LABEL
    assert agent["ProgramArguments"] == ["/opt/python", "-m", "proxy"]
    assert agent["EnvironmentVariables"] == VARIABLES
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["RunAtLoad"] is True
    assert agent["StandardErrorPath"] == str(tmp_path / "log & more")


def test_install_and_remove_with_systemd(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tools / ".config" / "systemd" / "user" / "claude-max-api.service"
    assert main(["service", "install"]) == 0
    unit = path.read_text()
    assert f'ExecStart="{sys.executable}" "-m" "proxy" "serve"\n' in unit
    assert f'Environment="HOME={tools}"' in unit
    assert told(tools) == [
        "systemctl --user daemon-reload", "systemctl --user enable --now claude-max-api",
        "systemctl --user restart claude-max-api",
    ]  # fmt: skip
    assert "loginctl enable-linger" in capsys.readouterr().out
    assert main(["service", "logs"]) == 0
    assert main(["service", "reload"]) == 0
    assert told(tools)[-2:] == [
        "journalctl --user --no-pager --lines 50 --unit claude-max-api", "systemctl --user reload claude-max-api"
    ]  # fmt: skip
    assert main(["service", "remove"]) == 0
    assert told(tools)[-1] == "systemctl --user disable --now claude-max-api"
    assert not path.exists()
    assert main(["service", "remove"]) == 1


def test_install_with_launchd(tools: Path) -> None:
    environ = dict(os.environ)
    assert command.install(load({}, environ, "darwin"), environ, "darwin") == 0
    agent = plistlib.loads(agent_path(tools).read_bytes())
    assert agent["ProgramArguments"] == [sys.executable, "-m", "proxy", "serve"]
    assert told(tools) == [f"launchctl bootstrap gui/{os.getuid()} {agent_path(tools)}"]
    assert command.remove(environ, "darwin") == 0
    assert told(tools)[-1] == f"launchctl bootout gui/{os.getuid()}/{LABEL}"
    assert not agent_path(tools).exists()


def test_a_configuration_file_that_is_named_is_the_services(tools: Path) -> None:
    path = tools / "mine.toml"
    path.write_text("port = 3999\n")
    path.chmod(0o600)
    assert main(["service", "install", "--config", str(path)]) == 0
    unit = (tools / ".config" / "systemd" / "user" / "claude-max-api.service").read_text()
    assert f'"serve" "--config" "{path}"\n' in unit


def test_settings_of_the_shell_are_not_left_behind_in_silence(
    tools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_KEYS", "sesame")
    monkeypatch.setenv("CLAUDE_PROXY_PORT", "4000")
    assert main(["service", "install"]) == 1
    said = capsys.readouterr().err
    assert "CLAUDE_PROXY_PORT (as `port`), API_KEYS (as `api_keys`)" in said
    assert f"{tools}/.config/claude-max-api-proxy/config.toml" in said
    assert "sesame" not in said
    assert not (tools / "told").exists()


def test_what_could_not_start_is_not_installed(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli_script(tools / "bin" / "claude", login=LOGGED_OUT, code=1)
    assert main(["service", "install"]) == 1
    assert "auth login" in capsys.readouterr().err
    assert not (tools / "told").exists()


def test_a_manager_that_fails_is_said(tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tools / "bin" / "systemctl").write_text("#!/bin/sh\nexit 4\n")
    assert main(["service", "install"]) == 1
    assert "exit code 4; the service is not running" in capsys.readouterr().err


def test_without_a_known_manager(
    tools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tools))
    assert main(["service", "install"]) == 1
    assert "no systemctl on PATH" in capsys.readouterr().err


def test_status_says_whether_the_server_answers(
    tools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "status"]) == 1
    assert "not installed" in capsys.readouterr().out
    assert main(["service", "install"]) == 0
    for answers in (True, False):
        monkeypatch.setattr(command, "ours", lambda settings, answers=answers: answers)
        assert main(["service", "status"]) == int(not answers)
        assert told(tools)[-1] == "systemctl --user status --no-pager --lines=0 claude-max-api"
    assert "127.0.0.1, port 3456: no server of this program answers" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["start"]])
def test_words_that_mean_nothing(words: list[str], tools: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["service", *words]) == 2
    assert "say one of install, status, logs, reload, remove" in capsys.readouterr().err
