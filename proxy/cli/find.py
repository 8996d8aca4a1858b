"""Finding the CLI, and asking it who it is: its version, and the login that it would use.

It is asked in the environment that its children get, in an empty directory and without the user's settings files, so
that the answer is about what will run. Whatever it does (hang, flood, print something else), the answer comes in
bounded time and is either a value or a `CliProblem` whose `help` is a command to type.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from proxy.cli.launch import environment
from proxy.protocol.known_lines import OLDEST
from proxy.settings import Login, Settings

# The oldest CLI on which every scenario holds: that of the oldest recordings.
FLOOR: Final = OLDEST

# Where installers put it, from the home directory or from the root; `*` is any one name.
PLACES: Final = (
    "~/.local/bin/claude",
    "~/.claude/local/claude",
    "/usr/local/bin/claude",
    "/opt/homebrew/bin/claude",
    "/home/linuxbrew/.linuxbrew/bin/claude",
    "~/.npm-global/bin/claude",
    "~/.npm-packages/bin/claude",
    "~/.volta/bin/claude",
    "~/.bun/bin/claude",
    "~/.yarn/bin/claude",
    "~/.local/share/pnpm/claude",
    "~/Library/pnpm/claude",
    "~/.nvm/versions/node/*/bin/claude",
    "~/node_modules/.bin/claude",
)
# Seconds for one question. It answers within 0.3 s; the first start after an update may be a slow read from disk.
TIMEOUT: Final = 20.0
MAX_OUTPUT: Final = 65536

Version = tuple[int, int, int]


class CliProblem(Exception):
    """Why the CLI cannot be used, for the user. `help`: the command (or commands) that helps."""

    def __init__(self, message: str, help: str) -> None:
        super().__init__(message)
        self.message = message
        self.help = help


class CliMissing(CliProblem):
    """There is none, or not where the setting says."""


class CliUnusable(CliProblem):
    """It cannot be run, does not answer, or answers something that is not an answer."""


class CliTooOld(CliProblem):
    """It is older than `FLOOR`."""


class CliLoggedOut(CliProblem):
    """It has no login, or not the kind that the settings ask for."""


class LoginState(Struct, frozen=True, rename="camel"):
    """What `claude auth status --json` says. It says that a login is there, not that it works.

    `auth_method`: `claude.ai` (the login that the CLI keeps), `oauth_token` (a variable), `api_key`, `third_party`
    (Bedrock, Vertex), `none`, or what later versions add. `api_key_source`: where the key comes from.
    """

    logged_in: bool
    auth_method: str = "unknown"
    api_key_source: str | None = None
    subscription_type: str | None = None

    def __str__(self) -> str:
        method = {
            "claude.ai": "Claude subscription",
            "oauth_token": "token from the environment",
            "api_key": f"API key ({self.api_key_source or 'source unknown'}), billed per token",
            "third_party": "cloud provider; its credentials are tried by the first request",
            "none": "logged out",
            "demo": "none",
        }.get(self.auth_method, self.auth_method)
        return f"{method} ({self.subscription_type})" if self.subscription_type else method


class FoundCli(Struct, frozen=True):
    """A CLI that can be used: where it is, its version, its login. `demo`: there is none, answers are recorded."""

    path: str
    version: Version
    login: LoginState
    demo: bool = False

    @property
    def version_text(self) -> str:
        return shown(self.version)

    @property
    def login_method(self) -> str:
        return self.login.auth_method


def shown(version: Version) -> str:
    return ".".join(map(str, version))


def _bundled() -> Path | None:
    """The binary inside the PyPI package `claude-agent-sdk`, which is looked for and not imported: that takes 0.5 s."""
    # It may have been installed since the last look, into a directory that was not there when Python started.
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec("claude_agent_sdk")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        return Path(folder) / "_bundled" / "claude"
    return None


def _usual_places(environ: Mapping[str, str]) -> Iterator[Path]:
    home = environ.get("HOME") or os.path.expanduser("~")
    for place in PLACES:
        path = Path(home, place[2:]) if place.startswith("~/") else Path(place)
        if "*" not in path.parts:
            yield path
            continue
        star = path.parts.index("*")
        root, rest = Path(*path.parts[:star]), Path(*path.parts[star + 1 :])
        with contextlib.suppress(OSError):
            yield from (folder / rest for folder in sorted(root.iterdir(), reverse=True))
    if prefix := environ.get("NPM_CONFIG_PREFIX") or environ.get("npm_config_prefix"):
        yield Path(prefix, "bin", "claude")


def _runs(path: Path) -> bool:
    # Not `Path.is_file`: that raises where a folder may not be looked into.
    return os.path.isfile(path) and os.access(path, os.X_OK)


def find(settings: Settings, environ: Mapping[str, str]) -> str:
    """The CLI's absolute path: by the setting, PATH, the usual places, the PyPI package. Raises CliMissing.

    Links are not followed: an update moves them.
    """
    if settings.cli is not None:
        chosen = Path(settings.cli).expanduser().absolute()
        if not _runs(chosen):
            why = "is no program that may be run" if os.path.exists(chosen) else "does not exist"
            raise CliMissing(
                f"CLAUDE_PROXY_CLI (or --cli) names {chosen}, which {why}.",
                "Name the path of claude there, or leave the setting out to have it looked for.",
            )
        return str(chosen)
    # `which` takes PATH from the process when it is given none.
    on_path = shutil.which("claude", path=environ.get("PATH", os.defpath))
    if on_path is not None:
        return os.path.abspath(on_path)
    bundled = _bundled()
    for place in (*_usual_places(environ), *([bundled] if bundled else ())):
        if _runs(place):
            return str(place)
    raise CliMissing(
        "The Claude Code CLI is not installed: no `claude` on PATH, in the usual places, or in the Python package "
        "claude-agent-sdk.",
        f"{_install('claude-agent-sdk')}\nor, with npm: npm install -g @anthropic-ai/claude-code",
    )


def install_command(*what: str) -> list[str]:
    """The command that installs into this environment; those that uv makes have no pip of their own."""
    pip = [sys.executable, "-m", "pip", "install"]
    uv = ["uv", "pip", "install", "--python", sys.executable]
    return [*(pip if importlib.util.find_spec("pip") else uv), *what]


def _install(*what: str) -> str:
    return shlex.join(install_command(*what))


def update_command(path: str) -> str:
    """The command that updates the CLI at `path`, by how it was installed."""
    real = os.path.realpath(path)
    if "_bundled" in Path(real).parts:
        return _install("--upgrade", "claude-agent-sdk")
    if "node_modules" in Path(real).parts:
        return "npm install -g @anthropic-ai/claude-code@latest"
    return f"{command(path)} update"


def command(path: str) -> str:
    """How to type the CLI's name: short when that finds the same one."""
    found = shutil.which("claude")
    return "claude" if found is not None and os.path.abspath(found) == path else shlex.quote(path)


def _ask(argv: Sequence[str], env: Mapping[str, str]) -> tuple[int | None, str, str]:
    """Run a command to its end: exit code, stdout, stderr. None: it took too long, or said too much. Raises OSError."""
    with tempfile.TemporaryDirectory(prefix="claude-max-api-") as scratch, selectors.DefaultSelector() as selector:
        empty = os.path.join(scratch, "empty")
        os.mkdir(empty)
        own = {**env, "TMPDIR": scratch, "XDG_CACHE_HOME": os.path.join(scratch, "cache")}
        process = subprocess.Popen(
            argv, env=own, cwd=empty, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        said = {process.stdout: bytearray(), process.stderr: bytearray()}
        end = time.monotonic() + TIMEOUT
        try:
            for pipe in said:
                selector.register(pipe, selectors.EVENT_READ, said[pipe])
            while selector.get_map() and (left := end - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    data = os.read(key.fd, MAX_OUTPUT)
                    key.data.extend(data)
                    if not data:
                        selector.unregister(key.fileobj)
                if sum(map(len, said.values())) > MAX_OUTPUT:
                    break
            code = None
            if not selector.get_map():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(max(0.0, end - time.monotonic()))
        finally:
            # Not `kill`: what it started goes too.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
            process.stderr.close()
    out, err = (bytes(text).decode(errors="replace").strip() for text in said.values())
    return code, out, err


def _unusable(path: str, what: str, out: str, err: str) -> CliUnusable:
    lines = (err or out).splitlines()
    said = f" It said: {lines[-1][:200]!r}" if lines else ""
    return CliUnusable(f"The Claude Code CLI at {path} {what}.{said}", f"{command(path)} --version")


def version_of(text: str) -> Version | None:
    """The version that `text` begins with."""
    match = re.match(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?![\d.])", text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def version(path: str, env: Mapping[str, str]) -> Version:
    """Its version. Raises CliUnusable, CliTooOld."""
    try:
        code, out, err = _ask([path, "--version"], env)
    except OSError as error:
        raise _unusable(path, f"cannot be started ({error.strerror or error})", "", "") from None
    if code is None:
        raise _unusable(path, f"did not say its version within {TIMEOUT:g} seconds", out, err)
    found = version_of(out)
    if code != 0 or found is None:
        raise _unusable(path, f"did not say its version (exit code {code})", out, err)
    if found < FLOOR:
        raise CliTooOld(
            f"The Claude Code CLI at {path} is version {shown(found)}; {shown(FLOOR)} or newer is needed.",
            update_command(path),
        )
    return found


def login(path: str, env: Mapping[str, str]) -> LoginState:
    """The login that its children will use, which may be none. Raises CliUnusable."""
    try:
        code, out, err = _ask([path, "--setting-sources", "", "auth", "status", "--json"], env)
    except OSError as error:
        raise _unusable(path, f"cannot be started ({error.strerror or error})", "", "") from None
    if code is None:
        raise _unusable(path, f"did not say within {TIMEOUT:g} seconds whether it is logged in", out, err)
    try:
        return msgspec.json.decode(out, type=LoginState)
    except (msgspec.MsgspecError, RecursionError):
        raise _unusable(path, f"did not say whether it is logged in (exit code {code})", out, err) from None


def login_command(path: str) -> str:
    return f"{command(path)} auth login"


def check_login(state: LoginState, wanted: Login, path: str) -> None:
    """Raises CliLoggedOut unless the login is there and is of the kind that the settings ask for."""
    to_log_in = login_command(path)
    token = f"or, with a token that lasts: {command(path)} setup-token, then export CLAUDE_CODE_OAUTH_TOKEN=that token"
    if wanted == "subscription":
        if not state.logged_in:
            raise CliLoggedOut("The Claude Code CLI is logged out.", f"{to_log_in}\n{token}")
        if state.auth_method.startswith("api_key"):
            raise CliLoggedOut(
                "The Claude Code CLI is logged in with an API key, which is billed per token, and CLAUDE_PROXY_LOGIN "
                "asks for the subscription.",
                f"{to_log_in}\nor, to be billed per token: set CLAUDE_PROXY_LOGIN=api-key",
            )
    elif wanted == "api-key":
        if not state.logged_in:
            raise CliLoggedOut(
                "CLAUDE_PROXY_LOGIN is api-key, and there is no key.",
                f"export ANTHROPIC_API_KEY=your key\nor, for a key that the CLI keeps: {to_log_in} --console",
            )
        if state.auth_method == "claude.ai":
            raise CliLoggedOut(
                "CLAUDE_PROXY_LOGIN is api-key, there is no key, and the CLI would use its subscription.",
                "export ANTHROPIC_API_KEY=your key\nor, for the subscription: unset CLAUDE_PROXY_LOGIN",
            )
    elif state.auth_method != "third_party":
        raise CliLoggedOut(
            f"CLAUDE_PROXY_LOGIN is {wanted}, and the CLI says that its login is: {state}.",
            f"{command(path)} auth status",
        )


def look(settings: Settings, environ: Mapping[str, str]) -> FoundCli:
    """The CLI to use, found and asked. Raises CliProblem."""
    path = find(settings, environ)
    env = environment(settings, environ)
    found = FoundCli(path, version(path, env), login(path, env))
    check_login(found.login, settings.login, path)
    return found
