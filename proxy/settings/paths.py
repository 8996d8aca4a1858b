"""Where the server keeps things, and where its configuration is looked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from proxy.settings import Settings

NAME: Final = "claude-max-api-proxy"


def _directory(environ: Mapping[str, str], platform: str, variable: str, usual: str) -> Path:
    home = Path(environ.get("HOME") or Path.home())
    if platform == "darwin":
        return home / "Library" / "Application Support" / NAME
    chosen = Path(environ.get(variable) or "")
    # The XDG specification: a path that is not absolute is invalid and ignored.
    return (chosen if chosen.is_absolute() else home / usual) / NAME


def config_file(environ: Mapping[str, str], platform: str) -> Path:
    """The configuration file that is read when no other is named."""
    return _directory(environ, platform, "XDG_CONFIG_HOME", ".config") / "config.toml"


def state_dir(settings: Settings, environ: Mapping[str, str], platform: str) -> Path:
    """Where the server keeps things."""
    if settings.state_dir is not None:
        return Path(settings.state_dir).expanduser().absolute()
    return _directory(environ, platform, "XDG_STATE_HOME", ".local/state")


def usage_file(settings: Settings, environ: Mapping[str, str], platform: str) -> Path:
    """Where usage is kept."""
    if settings.usage_file is not None:
        return Path(settings.usage_file).expanduser().absolute()
    return state_dir(settings, environ, platform) / "usage.sqlite3"


def store_file(settings: Settings, environ: Mapping[str, str], platform: str) -> Path:
    """Where responses are stored, if on disk."""
    return state_dir(settings, environ, platform) / "responses.sqlite3"


def answers_file(settings: Settings, environ: Mapping[str, str], platform: str) -> Path:
    """Where what the model wrote is kept beside them."""
    return state_dir(settings, environ, platform) / "answers.sqlite3"


def make_private(directory: Path) -> None:
    """Make it, and what is missing above it, for this user alone; what is there stays as it is. Raises OSError."""
    for each in (*reversed(directory.parents), directory):
        if not each.is_dir():
            each.mkdir(0o700, exist_ok=True)
