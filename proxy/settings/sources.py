"""Where settings come from: arguments, environment, and one TOML file of the user's.

port = 3457
models = {fast = "haiku"}
[api_keys]
laptop = "a-long-random-text"
[environment]                       # variables that reach the CLI's login when the environment does not have them
AWS_REGION = "eu-central-1"
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from proxy.keys import store
from proxy.settings import SETTINGS, File, Given, SettingError, Settings, gather, read
from proxy.settings.paths import config_file, state_dir

FIELDS: Final = {setting.field: setting for setting in SETTINGS if setting.field != "config"}
ENVIRONMENT: Final = "environment"
# How a table's entry is written as one text.
JOINED: Final = {"models": "=", "api_keys": ":"}


class Loaded(Struct, frozen=True):
    """All that a command needs to know: `environ` holds the file's variables, where the environment has none.

    `given`: what was given and where, by field. `path`: the configuration file, empty when there is none.
    `stored_keys`: those that the state directory holds.
    """

    settings: Settings
    environ: Mapping[str, str]
    given: Mapping[str, Given]
    path: str = ""
    stored_keys: tuple[store.StoredKey, ...] = ()


def _text(field: str, value: object) -> str:
    """A value of the file as the text that the environment would hold. Raises ValueError."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if any("," in str(part) for part in (*parts, *(value if isinstance(value, dict) else ()))):
        raise ValueError("must not hold commas in the texts of its list or table")
    match value:
        case bool():
            return "on" if value else "off"
        case str():
            return value
        case int() | float():
            return str(value)
        case list() if all(isinstance(each, str) for each in value):
            return ",".join(value)
        case dict() if field in JOINED and all(isinstance(each, str) for each in value.values()):
            return ",".join(f"{name}{JOINED[field]}{each}" for name, each in value.items())
    kinds = "text, a number, true or false, or a list of texts"
    raise ValueError(f"must be {kinds}{', or a table of texts' if field in JOINED else ''}")


def _environment(value: object) -> dict[str, str]:
    """Raises ValueError."""
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise ValueError("must be a table of texts")
    for name in value:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name in {each.variable for each in SETTINGS}:
            raise ValueError(f"must hold variables for the CLI only; {name!r} is none")
    return value


def parse(text: str, path: str) -> File:
    """A configuration file's text. Raises SettingError, which names the file and the line or the setting."""
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingError(f"{path} is not valid TOML: {error}.") from None
    texts: dict[str, str] = {}
    variables: dict[str, str] = {}
    for name, value in values.items():
        try:
            if name == ENVIRONMENT:
                variables = _environment(value)
            elif name in FIELDS:
                texts[name] = _text(name, value)
            else:
                close = difflib.get_close_matches(name, [*FIELDS, ENVIRONMENT], 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"is not a setting{hint}")
        except ValueError as error:
            raise SettingError(f"{name} in {path}: {error}") from None
    return File(path, texts, variables)


def _readable(path: Path) -> str | None:
    """The file's text if there is one. Raises SettingError when others could have written it, or read its secrets."""
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            text = file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if stat.S_ISREG(status.st_mode):
        if status.st_uid not in (os.geteuid(), 0):
            raise SettingError(f"{path} belongs to another user.")
        if status.st_mode & 0o077:
            raise SettingError(f"{path} is open to other users. Make it private: chmod 600 '{path}'")
    return text


def load(
    arguments: Mapping[str, str | None],
    environ: Mapping[str, str],
    platform: str = sys.platform,
    *,
    serving: bool = True,
) -> Loaded:
    """Everything, from everywhere. Raises SettingError. `serving`: keys are there, if the address needs them."""
    named = gather(arguments, environ).get("config")
    path = Path(named.text).expanduser().absolute() if named else config_file(environ, platform)
    text = _readable(path)
    if text is None and named:
        raise SettingError(f"{named.origin}: there is no file {path}.")
    file = File() if text is None else parse(text, str(path))
    variables = {**file.environment, **environ}
    settings = read(arguments, environ, file, other_keys=True)
    try:
        stored = store.read(state_dir(settings, variables, platform))
    except store.KeysUnreadable as error:
        raise SettingError(str(error)) from None
    settings = read(arguments, environ, file, other_keys=bool(stored) or not serving)
    if both := {key.name for key in settings.api_keys} & {key.name for key in stored}:
        raise SettingError(f"API_KEYS: there is another key {min(both)!r}, made with `claude-max-api keys add`.")
    return Loaded(settings, variables, gather(arguments, environ, file), file.path, stored)
