"""`claude-max-api service install | status | logs | reload | remove`: the server as a service of this user."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from proxy import files
from proxy.address import base_url, ours, spoken
from proxy.cli.find import CliProblem, look
from proxy.service.units import LABEL, NAME, agent_path, launchd_agent, log_path, systemd_unit, unit_path
from proxy.settings import SETTINGS, SettingError
from proxy.settings.paths import config_file, make_private
from proxy.settings.sources import Loaded, load

ACTIONS: Final = ("install", "status", "logs", "reload", "remove")
# Lines of the log that are shown.
LINES: Final = "50"
# The service manager starts with next to no environment; these say where programs and files are.
CARRIED: Final = ("PATH", "HOME", "LANG", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "CLAUDE_CONFIG_DIR")


class Manager(Struct, frozen=True):
    """How this system's service manager is told things. Commands, in the order in which they are run."""

    file: Path
    enable: tuple[tuple[str, ...], ...]
    disable: tuple[tuple[str, ...], ...]
    status: tuple[str, ...]
    logs: tuple[str, ...]
    reload: tuple[str, ...]
    note: str = ""


class Problem(Exception):
    """Why it cannot be done, and what helps."""


def manager(environ: Mapping[str, str], platform: str) -> Manager:
    """Raises Problem where there is none that is known."""
    home = Path(environ.get("HOME") or Path.home())
    if platform == "darwin":
        domain = f"gui/{os.getuid()}"
        file = agent_path(home)
        return Manager(
            file,
            (("launchctl", "bootstrap", domain, str(file)),),
            (("launchctl", "bootout", f"{domain}/{LABEL}"),),
            ("launchctl", "print", f"{domain}/{LABEL}"),
            ("tail", "-n", LINES, str(log_path(home))),
            ("launchctl", "kill", "SIGHUP", f"{domain}/{LABEL}"),
        )
    if shutil.which("systemctl", path=environ.get("PATH", os.defpath)) is None:
        raise Problem(
            "There is no systemd here (no systemctl on PATH). Have your service manager run `claude-max-api`; SIGTERM "
            "stops it, SIGHUP makes it read its settings again."
        )
    config = Path(environ.get("XDG_CONFIG_HOME") or "")
    control = ("systemctl", "--user")
    return Manager(
        unit_path(config if config.is_absolute() else home / ".config"),
        ((*control, "daemon-reload"), (*control, "enable", "--now", NAME), (*control, "restart", NAME)),
        ((*control, "disable", "--now", NAME),),
        (*control, "status", "--no-pager", "--lines=0", NAME),
        ("journalctl", "--user", "--no-pager", "--lines", LINES, "--unit", NAME),
        (*control, "reload", NAME),
        "To have it run while you are not logged in: loginctl enable-linger",
    )


def command_line(path: str) -> list[str]:
    """What the service runs. `path`: the configuration file, empty for the usual one."""
    return [sys.executable, "-m", "proxy", "serve", *(["--config", path] if path else [])]


def service_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What the service gets of this environment: where things are. Settings and secrets come from the file."""
    return {name: environ[name] for name in CARRIED if environ.get(name)}


def check(arguments: Mapping[str, str | None], variables: Mapping[str, str], platform: str) -> None:
    """Whether a server that has these variables only could start. Raises SettingError, CliProblem."""
    alone = load(arguments, variables, platform)
    look(alone.settings, alone.environ)


def left_behind(loaded: Loaded) -> list[str]:
    """Settings of this environment that the service will not have: they are in variables, not in the file."""
    variables = {setting.variable: setting.field for setting in SETTINGS if setting.field != "config"}
    return [f"{given.origin} (as `{variables[given.origin]}`)" for given in loaded.given.values()
            if given.origin in variables]  # fmt: skip


def _call(words: Sequence[str], environ: Mapping[str, str]) -> int:
    try:
        return subprocess.call(words, env=dict(environ))
    except OSError as error:
        raise Problem(f"{words[0]} cannot be run: {error.strerror or error}.") from None


def install(loaded: Loaded, environ: Mapping[str, str], platform: str) -> int:
    """Write the file, and have it started now and with every login. Raises Problem, CliProblem."""
    at = manager(environ, platform)
    home = Path(environ.get("HOME") or Path.home())
    if forgotten := left_behind(loaded):
        usual = config_file(environ, platform)
        raise Problem(
            f"These settings are variables of this shell, which a service does not see: {', '.join(forgotten)}. "
            f"Put them into {loaded.path or usual} (chmod 600), or unset them."
        )
    named = loaded.given.get("config")
    command = command_line(loaded.path if named else "")
    variables = service_environment(environ)
    check({"config": loaded.path} if named else {}, variables, platform)
    grace = loaded.settings.grace
    make_private(at.file.parent)
    if platform == "darwin":
        make_private(log_path(home).parent)
        files.replace(at.file, launchd_agent(command, variables, grace, log_path(home)))
    else:
        files.replace(at.file, systemd_unit(command, variables, grace).encode("utf-8", "surrogateescape"))
    print(f"Written: {at.file}")
    for words in at.enable:
        print(f"Running: {shlex.join(words)}", flush=True)
        if (code := _call(words, environ)) != 0:
            raise Problem(f"It ended with exit code {code}; the service is not running.")
    print(f"The service runs now and with every login of yours: {base_url(loaded.settings, loaded.settings.port)}/v1")
    print("\n".join(line for line in ("Its log: claude-max-api service logs", at.note) if line))
    return 0


def remove(environ: Mapping[str, str], platform: str) -> int:
    """Stop it, and take its file away. Raises Problem."""
    at = manager(environ, platform)
    if not at.file.exists():
        print("The service is not installed.")
        return 1
    for words in at.disable:
        _call(words, environ)
    at.file.unlink()
    print(f"Removed: {at.file}")
    return 0


def status(loaded: Loaded, environ: Mapping[str, str], platform: str) -> int:
    """What the service manager says, and whether the server answers; 0 if it does. Raises Problem."""
    at = manager(environ, platform)
    if not at.file.exists():
        print("The service is not installed: claude-max-api service install")
        return 1
    _call(at.status, environ)
    answers = ours(loaded.settings)
    print(f"{spoken(loaded.settings)}: {'the server answers' if answers else 'no server of this program answers'}")
    return int(not answers)


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """The command; its exit code: 1 when it cannot be done, 2 for a word that is none of `ACTIONS`."""
    try:
        loaded = load(vars(arguments), environ)
        match arguments.action:
            case "install":
                return install(loaded, environ, sys.platform)
            case "status":
                return status(loaded, environ, sys.platform)
            case "logs":
                return _call(manager(environ, sys.platform).logs, environ)
            case "reload":
                return _call(manager(environ, sys.platform).reload, environ)
            case "remove":
                return remove(environ, sys.platform)
    except SettingError as error:
        print(f"claude-max-api service: {error}", file=sys.stderr)
        return 2
    except (Problem, OSError) as error:
        print(f"claude-max-api service: {files.in_words(error)}", file=sys.stderr)
        return 1
    except CliProblem as problem:
        print(f"claude-max-api service: {problem.message}\n{problem.help}", file=sys.stderr)
        return 1
    print(f"claude-max-api service: say one of {', '.join(ACTIONS)}", file=sys.stderr)
    return 2
