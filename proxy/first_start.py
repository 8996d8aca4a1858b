"""The first start at a terminal: what is missing is offered right there, and the start goes on.

Without a terminal nothing is asked and nothing is run: the problem says what to do.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from proxy.cli import find
from proxy.cli.launch import environment
from proxy.settings import Settings

# What a program that opens a browser at somebody's desk needs, beyond what the CLI gets as a server's child.
AT_A_DESK: Final = (
    "TERM", "COLORTERM", "NO_COLOR", "SHELL", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR",
    "XDG_CURRENT_DESKTOP", "XDG_SESSION_TYPE", "XDG_DATA_DIRS", "DBUS_SESSION_BUS_ADDRESS", "BROWSER", "SSH_CONNECTION",
    "SSH_TTY", "WSL_DISTRO_NAME", "WSL_INTEROP",
)  # fmt: skip


class _Offer(Struct, frozen=True):
    question: str
    argv: Sequence[str]
    environ: Mapping[str, str]


def at_a_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()


def _offer(problem: find.CliProblem, settings: Settings, environ: Mapping[str, str]) -> _Offer | None:
    """What can be run here to solve the problem; None when that is for the user to decide elsewhere."""
    if isinstance(problem, find.CliMissing) and settings.cli is None:
        return _Offer(
            "Install it with the Python package claude-agent-sdk now? It is a large download, the CLI is inside.",
            find.install_command("claude-agent-sdk"),
            environ,
        )
    if isinstance(problem, find.CliLoggedOut) and settings.login == "subscription":
        desk = {name: environ[name] for name in AT_A_DESK if name in environ}
        return _Offer(
            "Log in now? The CLI opens your browser.",
            (find.find(settings, environ), "auth", "login"),
            environment(settings, environ) | desk,
        )
    return None


def _agreed(question: str) -> bool:
    """An empty line is a yes; the end of the input a no."""
    try:
        return input(f"{question} [Y/n] ").strip().lower() in ("", "y", "yes")
    except EOFError:
        print()
        return False


def _run(offer: _Offer) -> bool:
    print(f"Running: {shlex.join(offer.argv)}", flush=True)
    try:
        return subprocess.call(offer.argv, env=dict(offer.environ)) == 0
    except OSError as error:
        print(f"It cannot be run: {error.strerror or error}.", flush=True)
        return False


def look(settings: Settings, environ: Mapping[str, str], terminal: bool) -> find.FoundCli:
    """The CLI to use. Each kind of problem is offered to be solved once, at a terminal only. Raises CliProblem."""
    offered: set[type[find.CliProblem]] = set()
    while True:
        try:
            return find.look(settings, environ)
        except find.CliProblem as problem:
            offer = _offer(problem, settings, environ) if terminal and type(problem) not in offered else None
            if offer is None:
                raise
            offered.add(type(problem))
            print(problem.message, flush=True)
            if not _agreed(offer.question) or not _run(offer):
                raise
