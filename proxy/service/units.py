"""The two kinds of service files: a systemd user unit, and a launchd agent."""

from __future__ import annotations

import plistlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

NAME: Final = "claude-max-api"
LABEL: Final = "com.github.claude-max-api-proxy"


def unit_path(config_home: Path) -> Path:
    """`config_home`: the XDG configuration directory."""
    return config_home / "systemd" / "user" / f"{NAME}.service"


def agent_path(home: Path) -> Path:
    return home / "Library" / "LaunchAgents" / f"{LABEL}.plist"


def log_path(home: Path) -> Path:
    """Where launchd writes what the server says; systemd has a journal."""
    return home / "Library" / "Logs" / f"{NAME}.log"


def _quoted(word: str) -> str:
    """A word for a line of a unit: `%` and `$` mean something there, and a line break would begin another line."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + "".join(f"\\x{ord(char):02x}" if ord(char) < 32 else char for char in escaped) + '"'


def systemd_unit(command: Sequence[str], environ: Mapping[str, str], grace: float) -> str:
    """The unit. `grace`: how long answers may go on when it is stopped, seconds.

    The server's children end with it; systemd only has to send the signal to the server itself.
    """
    words = " ".join(_quoted(word).replace("$", "$$") for word in command)
    variables = "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in sorted(environ.items()))
    return f"""\
[Unit]
Description=claude-max-api: a local server on the Claude Code CLI

[Service]
Type=exec
ExecStart={words}
ExecReload=/bin/kill -HUP $MAINPID
{variables}KillMode=mixed
TimeoutStopSec={round(grace) + 15}
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2
UMask=0077
NoNewPrivileges=true

[Install]
WantedBy=default.target
"""


def launchd_agent(command: Sequence[str], environ: Mapping[str, str], grace: float, log: Path) -> bytes:
    """The agent's property list; see `systemd_unit`."""
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": list(command),
            "EnvironmentVariables": dict(environ),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 10,
            "ExitTimeOut": round(grace) + 15,
            "ProcessType": "Interactive",
            "Umask": 0o077,
            "StandardOutPath": str(log),
            "StandardErrorPath": str(log),
        },
        sort_keys=False,
    )
