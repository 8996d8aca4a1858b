"""All settings, read once from arguments and environment into one frozen Struct.

`SETTINGS` is the table: what each is called in the environment and on the command line, how its text is read, and what
it is for. The README's table is compared with it by a test.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct

Login = Literal["subscription", "api-key", "bedrock", "vertex"]
LogLevel = Literal["error", "warn", "info", "debug"]


class Key(Struct, frozen=True):
    """An API key and the name by which it may be spoken of."""

    name: str
    secret: str

    def __repr__(self) -> str:
        return f"Key({self.name!r})"


class ModelName(Struct, frozen=True):
    """A model name of the user's own: offered as `name`, asked of the CLI as `target`."""

    name: str
    target: str


class Settings(Struct, frozen=True):
    """Sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 3456
    api_keys: tuple[Key, ...] = ()
    models: tuple[ModelName, ...] = ()
    system_prompt_mode: Literal["replace", "append"] = "replace"
    log_level: LogLevel = "info"
    cli: str | None = None
    login: Login = "subscription"
    upstream_url: str | None = None
    max_conversations: int = 8
    waiting: int = 2
    waiting_age: float = 1800.0
    parked: int = 4
    parked_age: float = 300.0
    sampling: Literal["ignore", "forward"] = "ignore"
    strict_params: bool = False
    reasoning: bool = True
    max_queue: int = 64
    queue_wait: float = 60.0
    idle_timeout: float = 180.0
    total_timeout: float = 1800.0
    client_timeout: float = 120.0
    retries: int = 1
    grace: float = 10.0
    max_body: int = 64 * 1024 * 1024
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    state_dir: str | None = None
    usage_file: str | None = None
    usage_days: int = 365


class SettingError(Exception):
    """A setting that cannot be used. The message names it, as it was given."""


class Setting(Struct, frozen=True):
    """One row: the field, its variable, its argument (None: environment only), how to read it, what it is for.

    `read` raises ValueError with words that follow the setting's name. `secret`: its text is never shown.
    """

    field: str
    variable: str
    argument: str | None
    read: Callable[[str], Any]
    help: str
    secret: bool = False


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    wanted = f"of {least} or more" if most is None else f"between {least} and {most}"

    def read(text: str) -> int:
        # `int` alone takes digits of every script, and "1_0".
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least or (most is not None and int(text) > most):
            raise ValueError(f"must be a whole number {wanted}")
        return int(text)

    return read


def _seconds(least: int) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= 86_400 * 7:
            raise ValueError(f"must be a number of seconds, {least} at least and a week at most")
        return value

    return read


def loopback(host: str) -> bool:
    """Whether only this computer can reach a server that is bound to `host`. When in doubt: no."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(text: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*", host):
            raise ValueError("must be an address or a host name, without scheme and port") from None
        return host


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text.lower()

    return read


def _switch(text: str) -> bool:
    if text.lower() not in ("on", "off", "1", "0", "true", "false", "yes", "no"):
        raise ValueError("must be on or off")
    return text.lower() in ("on", "1", "true", "yes")


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _names_like(pattern: str, words: str) -> Callable[[str], tuple[str, ...]]:
    """Reads names that all have this form; `words`: what they must be."""

    def read(text: str) -> tuple[str, ...]:
        names = _names(text)
        if not all(re.fullmatch(pattern, name) for name in names):
            raise ValueError(words)
        return names

    return read


_origins: Final = _names_like(
    r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#*]+/?", "must be origins such as https://app.example, separated by commas"
)
_hosts: Final = _names_like(
    r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?",
    "must be host names such as nas.local, without scheme, separated by commas",
)


def _keys(text: str) -> tuple[Key, ...]:
    keys = []
    for number, part in enumerate(_names(text), 1):
        name, colon, secret = part.partition(":")
        keys.append(Key(name, secret) if colon else Key(f"key-{number}", part))
        if not re.fullmatch(r"[\w.@-]+", keys[-1].name) or not re.fullmatch(r"[!-~]+", keys[-1].secret):
            raise ValueError("must be keys of plain ASCII, separated by commas, each optionally as name:key")
    if len({key.name for key in keys}) != len(keys):
        raise ValueError("must not give one name to two keys")
    if not keys:
        raise ValueError("must hold at least one key")
    return tuple(keys)


def _models(text: str) -> tuple[ModelName, ...]:
    models = []
    for part in _names(text):
        name, _, target = (side.strip() for side in part.partition("="))
        if not name or ("=" in part and not target):
            raise ValueError("must be model names separated by commas, each optionally as name=model of Claude")
        models.append(ModelName(name, target or name))
    if len({model.name for model in models}) != len(models):
        raise ValueError("must not give one name two meanings")
    return tuple(models)


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", text):
        raise ValueError("must be an http or https URL, without a query")
    return text


SETTINGS: Final = (
    Setting("port", "CLAUDE_PROXY_PORT", "port", _whole(0, 65535), "Port to serve on; 0 takes any free one."),
    Setting("host", "CLAUDE_PROXY_HOST", "--host", _host, "Address to serve on; beyond loopback `API_KEYS` is needed."),
    Setting(
        "api_keys", "API_KEYS", None, _keys,
        "Keys that clients must send, separated by commas, each optionally as `name:key`. None: no key is needed.",
        secret=True,
    ),
    Setting(
        "models", "CLAUDE_PROXY_MODELS", "--models", _models,
        "More model names to offer, separated by commas; `name=model` maps one to a model of Claude.",
    ),
    Setting(
        "system_prompt_mode", "SYSTEM_PROMPT_MODE", "--system-prompt-mode", _one_of("replace", "append"),
        "`replace`: the client's system prompt is the only one. `append`: it follows Claude Code's own.",
    ),
    Setting(
        "log_level", "LOG_LEVEL", "--log-level", _one_of("error", "warn", "info", "debug"),
        "`error`, `warn`, `info` (a line a request) or `debug` (every line type of the CLI); no message text, no keys. "
        "`DEBUG=1` means `debug`.",
    ),
    Setting("cli", "CLAUDE_PROXY_CLI", "--cli", str, "Path of the `claude` to use. None: it is looked for."),
    Setting(
        "login", "CLAUDE_PROXY_LOGIN", "--login", _one_of("subscription", "api-key", "bedrock", "vertex"),
        "The login for the CLI to use: `subscription`, `api-key`, `bedrock` or `vertex`. API keys of the environment "
        "reach it only with `api-key`.",
    ),
    Setting(
        "upstream_url", "CLAUDE_PROXY_UPSTREAM_URL", None, _url,
        "Base URL of the Messages API for the CLI (a gateway, a test). None: Anthropic's own.",
        secret=True,
    ),
    Setting(
        "max_conversations", "CLAUDE_PROXY_MAX_CONVERSATIONS", "--max-conversations", _whole(1, 256),
        "Most requests answered at once; more wait in the queue.",
    ),
    Setting(
        "waiting", "CLAUDE_PROXY_WAITING", "--waiting", _whole(0, 64),
        "CLI processes kept started and waiting (about 190 MB each).",
    ),
    Setting(
        "waiting_age", "CLAUDE_PROXY_WAITING_AGE", None, _seconds(1),
        "Age at which a waiting process is replaced, in seconds.",
    ),
    Setting(
        "parked", "CLAUDE_PROXY_PARKED", "--parked", _whole(0, 64),
        "Most conversations kept alive with their process for a next message; 0 keeps none.",
    ),
    Setting(
        "parked_age", "CLAUDE_PROXY_PARKED_AGE", None, _seconds(1),
        "Longest time a conversation is kept alive, in seconds.",
    ),
    Setting(
        "sampling", "CLAUDE_PROXY_SAMPLING", "--sampling", _one_of("ignore", "forward"),
        "`forward` passes `temperature` and `top_p` on; newer models may refuse them. `ignore` drops them.",
    ),
    Setting(
        "strict_params", "CLAUDE_PROXY_STRICT_PARAMS", None, _switch,
        "`on` refuses requests with parameters that have no effect, instead of naming them in `x-ignored-params`.",
    ),
    Setting(
        "reasoning", "CLAUDE_PROXY_REASONING", None, _switch,
        "`off` keeps the model's thinking out of answers (`reasoning_content`).",
    ),
    Setting("max_queue", "CLAUDE_PROXY_MAX_QUEUE", "--max-queue", _whole(0), "Most requests waiting for their turn."),
    Setting("queue_wait", "CLAUDE_PROXY_QUEUE_WAIT", None, _seconds(0), "Longest wait in the queue, in seconds."),
    Setting(
        "idle_timeout", "CLAUDE_PROXY_IDLE_TIMEOUT", None, _seconds(1),
        "Longest silence of the CLI while it answers, in seconds.",
    ),
    Setting(
        "total_timeout", "CLAUDE_PROXY_TOTAL_TIMEOUT", None, _seconds(1), "Longest time for one answer, in seconds."
    ),
    Setting(
        "client_timeout", "CLAUDE_PROXY_CLIENT_TIMEOUT", None, _seconds(1),
        "Longest time for a client to take more of its answer, or to send more of its request, in seconds.",
    ),
    Setting(
        "retries", "CLAUDE_PROXY_RETRIES", None, _whole(0, 10),
        "Retries inside the CLI; OpenAI's clients retry by themselves.",
    ),
    Setting(
        "grace", "CLAUDE_PROXY_GRACE", None, _seconds(0),
        "Time that running answers get to end when the server is told to stop, in seconds.",
    ),
    Setting("max_body", "CLAUDE_PROXY_MAX_BODY", None, _whole(1024), "Largest request body, in bytes."),
    Setting(
        "origins", "CLAUDE_PROXY_ORIGINS", None, _origins,
        "Web origins that may call the server from a browser, separated by commas. None: no web page may.",
    ),
    Setting(
        "hosts", "CLAUDE_PROXY_HOSTS", None, _hosts,
        "Further host names by which clients reach the server (`Host` header), separated by commas.",
    ),
    Setting(
        "state_dir", "CLAUDE_PROXY_STATE_DIR", None, str,
        "Directory for what the server keeps. None: `claude-max-api-proxy` in the user's state directory.",
    ),
    Setting(
        "usage_file", "CLAUDE_PROXY_USAGE_FILE", None, str,
        "SQLite file of what has been used. None: `usage.sqlite3` in the directory above.",
    ),
    Setting(
        "usage_days", "CLAUDE_PROXY_USAGE_DAYS", None, _whole(0, 36500),
        "Days for which usage is kept; 0: for ever.",
    ),
)  # fmt: skip


def read(arguments: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """The settings. An argument beats a variable; empty text counts as not given. Raises SettingError."""
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    if environ.get("DEBUG", "").lower() in ("1", "true", "yes", "on"):
        values["log_level"] = "debug"
    for setting in SETTINGS:
        argument = (arguments.get(setting.field) or "").strip()
        text = argument or environ.get(setting.variable, "").strip()
        if not text:
            continue
        name = (argument and setting.argument) or setting.variable
        try:
            values[setting.field] = setting.read(text)
        except ValueError as error:
            said = "" if setting.secret else f" (given: {text!r})"
            raise SettingError(f"{name}: {error}{said}") from None
        given[setting.field] = name
    settings = Settings(**values)
    if not settings.api_keys and not loopback(settings.host):
        raise SettingError(
            f"{given['host']}: {settings.host} can be reached from other computers, which would use your login. "
            "Set API_KEYS to the keys that clients must send, or serve on 127.0.0.1."
        )
    return settings


def unknown(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Variables that look like settings of ours and are none: misspelt, most likely."""
    known = {setting.variable for setting in SETTINGS}
    return tuple(sorted(name for name in environ if name.startswith("CLAUDE_PROXY_") and name not in known))


def default(setting: Setting) -> str:
    """Its default, in words for a table; empty for none."""
    value = getattr(Settings(), setting.field)
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def state_dir(settings: Settings, environ: Mapping[str, str], platform: str) -> Path:
    """Where the server keeps things."""
    if settings.state_dir is not None:
        return Path(settings.state_dir).expanduser().absolute()
    home = Path(environ.get("HOME") or Path.home())
    if platform == "darwin":
        return home / "Library" / "Application Support" / "claude-max-api-proxy"
    state = Path(environ.get("XDG_STATE_HOME") or "")
    # The XDG specification: a path that is not absolute is invalid and ignored.
    return (state if state.is_absolute() else home / ".local" / "state") / "claude-max-api-proxy"


def usage_file(settings: Settings, environ: Mapping[str, str], platform: str) -> Path:
    """Where usage is kept."""
    if settings.usage_file is not None:
        return Path(settings.usage_file).expanduser().absolute()
    return state_dir(settings, environ, platform) / "usage.sqlite3"
