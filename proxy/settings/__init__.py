"""All settings, read once from arguments, environment and configuration file into one frozen Struct.

`SETTINGS` is the table: what each is called in the environment and on the command line, how its text is read, and what
it is for. The README's table is compared with it by a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from proxy.settings.values import (
    Key,
    ModelName,
    address,
    dollars,
    fallback,
    host_list,
    key_list,
    loopback,
    model_list,
    one_of,
    or_auto,
    origin_list,
    seconds,
    switch,
    url,
    whole,
)

__all__ = [
    "SETTINGS", "File", "Given", "Key", "Login", "ModelName", "Setting", "SettingError", "Settings", "default",
    "gather", "loopback", "read", "unknown",
]  # fmt: skip

Login = Literal["subscription", "api-key", "bedrock", "vertex"]
LogLevel = Literal["error", "warn", "info", "debug"]


class Settings(Struct, frozen=True):
    """Sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 3456
    ollama_port: int | None = None
    api_keys: tuple[Key, ...] = ()
    models: tuple[ModelName, ...] = ()
    system_prompt_mode: Literal["replace", "append"] = "replace"
    log_level: LogLevel = "info"
    cli: str | None = None
    login: Login = "subscription"
    upstream_url: str | None = None
    max_conversations: int = 8
    waiting: int | Literal["auto"] = "auto"
    waiting_age: float = 1800.0
    parked: int | Literal["auto"] = "auto"
    parked_age: float = 3600.0
    native: bool = True
    strict_params: bool = False
    reasoning: bool = True
    reasoning_format: Literal["text", "thinking_blocks", "reasoning_details"] = "text"
    web_search: bool = True
    max_queue: int = 64
    queue_wait: float = 60.0
    limit_retry: float = 60.0
    idle_timeout: float = 180.0
    total_timeout: float = 1800.0
    client_timeout: float = 120.0
    retries: int = 1
    grace: float = 10.0
    max_body: int = 32 * 1024 * 1024
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    state_dir: str | None = None
    usage_file: str | None = None
    usage_days: int = 365
    store: Literal["memory", "file", "off"] = "memory"
    store_entries: int = 10_000
    store_bytes: int = 128 * 1024 * 1024
    store_days: int = 30
    uds: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    config: str | None = None
    fallback: str | None = None
    fallback_usd: float = 5.0


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


SETTINGS: Final = (
    Setting("port", "CLAUDE_PROXY_PORT", "port", whole(0, 65535), "Port to serve on; 0 takes any free one."),
    Setting(
        "ollama_port", "CLAUDE_PROXY_OLLAMA_PORT", "--ollama-port", whole(1, 65535),
        "A second port to serve on, for clients of Ollama whose address is fixed: 11434. None: no second port.",
    ),
    Setting(
        "host", "CLAUDE_PROXY_HOST", "--host", address, "Address to serve on; beyond loopback `API_KEYS` is needed."
    ),
    Setting(
        "api_keys", "API_KEYS", None, key_list,
        "Keys that clients must send, separated by commas, each optionally as `name:key`. None: no key is needed.",
        secret=True,
    ),
    Setting(
        "models", "CLAUDE_PROXY_MODELS", "--models", model_list,
        "More model names to offer, separated by commas; `name=model` maps one to a model of Claude.",
    ),
    Setting(
        "system_prompt_mode", "SYSTEM_PROMPT_MODE", "--system-prompt-mode", one_of("replace", "append"),
        "`replace`: the client's system prompt is the only one. `append`: it follows Claude Code's own.",
    ),
    Setting(
        "log_level", "LOG_LEVEL", "--log-level", one_of("error", "warn", "info", "debug"),
        "`error`, `warn`, `info` (a line a request) or `debug` (every line type of the CLI); no message text, no keys. "
        "`DEBUG=1` means `debug`.",
    ),
    Setting("cli", "CLAUDE_PROXY_CLI", "--cli", str, "Path of the `claude` to use. None: it is looked for."),
    Setting(
        "login", "CLAUDE_PROXY_LOGIN", "--login", one_of("subscription", "api-key", "bedrock", "vertex"),
        "The login for the CLI to use: `subscription`, `api-key`, `bedrock` or `vertex`. API keys of the environment "
        "reach it only with `api-key`.",
    ),
    Setting(
        "upstream_url", "CLAUDE_PROXY_UPSTREAM_URL", None, url,
        "Base URL of the Messages API for the CLI (a gateway, a test). None: Anthropic's own.",
        secret=True,
    ),
    Setting(
        "max_conversations", "CLAUDE_PROXY_MAX_CONVERSATIONS", "--max-conversations", whole(1, 256),
        "Most requests answered at once; more wait in the queue.",
    ),
    Setting(
        "waiting", "CLAUDE_PROXY_WAITING", "--waiting", or_auto(whole(0, 64)),
        "CLI processes kept started and waiting for a request. `auto`: 2 to 4, by use; one after ten quiet minutes.",
    ),
    Setting(
        "waiting_age", "CLAUDE_PROXY_WAITING_AGE", None, seconds(1),
        "Age at which a waiting process is replaced, in seconds.",
    ),
    Setting(
        "parked", "CLAUDE_PROXY_PARKED", "--parked", or_auto(whole(0, 64)),
        "Most conversations kept alive with their process for a next message; 0 keeps none. `auto`: up to 32, by the "
        "memory that is free.",
    ),
    Setting(
        "parked_age", "CLAUDE_PROXY_PARKED_AGE", None, seconds(1),
        "Longest time a conversation is kept alive, in seconds.",
    ),
    Setting(
        "native", "CLAUDE_PROXY_NATIVE", None, switch,
        "`on` asks for tool calls that must be, no thinking, `temperature` and `top_p` in the Messages API's own "
        "fields, and learns which of them a model refuses. `off` emulates or ignores them.",
    ),
    Setting(
        "strict_params", "CLAUDE_PROXY_STRICT_PARAMS", None, switch,
        "`on` refuses requests with parameters that have no effect, instead of naming them in `x-ignored-params`.",
    ),
    Setting(
        "reasoning", "CLAUDE_PROXY_REASONING", None, switch,
        "`off` keeps the model's thinking out of answers (`reasoning_content`).",
    ),
    Setting(
        "reasoning_format", "CLAUDE_PROXY_REASONING_FORMAT", None,
        one_of("text", "thinking_blocks", "reasoning_details"),
        "`thinking_blocks` (as LiteLLM) or `reasoning_details` (as OpenRouter): chat answers also carry the thinking "
        "in this form, with its signature, so that clients can send it back.",
    ),
    Setting(
        "web_search", "CLAUDE_PROXY_WEB_SEARCH", None, switch,
        "`off` refuses requests for a web search. `on` lets the model search where a client asks for it, through "
        "Claude Code's own tool.",
    ),
    Setting("max_queue", "CLAUDE_PROXY_MAX_QUEUE", "--max-queue", whole(0), "Most requests waiting for their turn."),
    Setting("queue_wait", "CLAUDE_PROXY_QUEUE_WAIT", None, seconds(0), "Longest wait in the queue, in seconds."),
    Setting(
        "limit_retry", "CLAUDE_PROXY_LIMIT_RETRY", None, seconds(0),
        "While the plan is used up: after so many seconds one request may try again, all others are answered at once; "
        "`0`: all try.",
    ),
    Setting(
        "idle_timeout", "CLAUDE_PROXY_IDLE_TIMEOUT", None, seconds(1),
        "Longest silence of the CLI while it answers, in seconds.",
    ),
    Setting(
        "total_timeout", "CLAUDE_PROXY_TOTAL_TIMEOUT", None, seconds(1), "Longest time for one answer, in seconds."
    ),
    Setting(
        "client_timeout", "CLAUDE_PROXY_CLIENT_TIMEOUT", None, seconds(1),
        "Longest time for a client to take more of its answer, or to send more of its request, in seconds.",
    ),
    Setting(
        "retries", "CLAUDE_PROXY_RETRIES", None, whole(0, 10),
        "Retries inside the CLI; OpenAI's clients retry by themselves.",
    ),
    Setting(
        "grace", "CLAUDE_PROXY_GRACE", None, seconds(0),
        "Time that running answers get to end when the server is told to stop, in seconds.",
    ),
    Setting(
        "max_body", "CLAUDE_PROXY_MAX_BODY", None, whole(1024),
        "Largest request body, in bytes; the Messages API takes no more.",
    ),
    Setting(
        "origins", "CLAUDE_PROXY_ORIGINS", None, origin_list,
        "Web origins that may call the server from a browser, separated by commas. None: no web page may.",
    ),
    Setting(
        "hosts", "CLAUDE_PROXY_HOSTS", None, host_list,
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
        "usage_days", "CLAUDE_PROXY_USAGE_DAYS", None, whole(0, 36500),
        "Days for which usage is kept; 0: for ever.",
    ),
    Setting(
        "store", "CLAUDE_PROXY_STORE", "--store", one_of("memory", "file", "off"),
        "Where responses and conversations of the Responses API are stored for later requests: `memory`, `file` "
        "(`responses.sqlite3` in the state directory, with all texts; readable by your user alone) or nowhere (`off`). "
        "With `file`, what the model wrote in other APIs is kept for an hour, too, thinking included "
        "(`answers.sqlite3`).",
    ),
    Setting(
        "store_entries", "CLAUDE_PROXY_STORE_ENTRIES", None, whole(1, 10_000_000),
        "Most responses and conversations stored; those used least recently go.",
    ),
    Setting("store_bytes", "CLAUDE_PROXY_STORE_BYTES", None, whole(1024), "Most bytes of all of them."),
    Setting(
        "store_days", "CLAUDE_PROXY_STORE_DAYS", None, whole(1, 36500),
        "Days for which one is stored after its last use.",
    ),
    Setting(
        "uds", "CLAUDE_PROXY_UDS", "--uds", str,
        "Path of a Unix socket to serve on instead of an address and port; only your user can connect to it.",
    ),
    Setting(
        "tls_cert", "CLAUDE_PROXY_TLS_CERT", "--tls-cert", str,
        "Certificate file (PEM, with its chain): the server then speaks HTTPS. Needs the key file as well.",
    ),
    Setting("tls_key", "CLAUDE_PROXY_TLS_KEY", "--tls-key", str, "File of the certificate's private key (PEM)."),
    Setting(
        "fallback", "CLAUDE_PROXY_FALLBACK", "--fallback", fallback,
        "What answers when the plan is used up: `api-key`, `bedrock`, `vertex` (another login of yours) or a smaller "
        "model, `model:haiku`. None: the client gets the 429.",
    ),
    Setting(
        "fallback_usd", "CLAUDE_PROXY_FALLBACK_USD", None, dollars,
        "Most that a login by `CLAUDE_PROXY_FALLBACK` may cost in a day, in dollars at list price.",
    ),
    Setting(
        "config", "CLAUDE_PROXY_CONFIG", "--config", str,
        "Configuration file. None: `claude-max-api-proxy/config.toml` in the user's configuration directory.",
    ),
)  # fmt: skip


class File(Struct, frozen=True):
    """What a configuration file holds: texts of settings by field, and variables for the CLI. `path` empty: none."""

    path: str = ""
    settings: Mapping[str, str] = {}
    environment: Mapping[str, str] = {}


class Given(Struct, frozen=True):
    """A setting's text, and where it was given: `--host`, `CLAUDE_PROXY_HOST`, `host in /path/config.toml`."""

    text: str
    origin: str


def gather(
    arguments: Mapping[str, str | None], environ: Mapping[str, str], file: File | None = None
) -> dict[str, Given]:
    """What is given, by field. Arguments take precedence over variables, variables over the file; empty text counts
    as not given."""
    found: dict[str, Given] = {}
    file = file or File()
    for setting in SETTINGS:
        field = setting.field
        debug = environ.get("DEBUG", "").lower() in ("1", "true", "yes", "on") and field == "log_level"
        for text, origin in (
            (arguments.get(field) or "", setting.argument or setting.variable),
            (environ.get(setting.variable, ""), setting.variable),
            ("debug" if debug else "", "DEBUG"),
            (file.settings.get(field, ""), f"{field} in {file.path}"),
        ):
            if text.strip():
                found[field] = Given(text.strip(), origin)
                break
    return found


def read(
    arguments: Mapping[str, str | None],
    environ: Mapping[str, str],
    file: File | None = None,
    *,
    other_keys: bool = False,
) -> Settings:
    """The settings; see `gather`. `other_keys`: whether there are keys beside them. Raises SettingError."""
    values: dict[str, Any] = {}
    given = gather(arguments, environ, file)
    for setting in SETTINGS:
        if setting.field not in given:
            continue
        text, origin = given[setting.field].text, given[setting.field].origin
        try:
            values[setting.field] = setting.read(text)
        except ValueError as error:
            said = "" if setting.secret else f" (given: {text!r})"
            raise SettingError(f"{origin}: {error}{said}") from None
    settings = Settings(**values)
    for one, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if one in given and other not in given:
            wanted = next(setting.argument for setting in SETTINGS if setting.field == other)
            raise SettingError(f"{given[one].origin}: TLS needs a certificate and its key; give {wanted} as well.")
    if settings.fallback is not None and settings.login != "subscription":
        raise SettingError(
            f"{given['fallback'].origin}: only a subscription has a plan that can be used up, and "
            f"CLAUDE_PROXY_LOGIN is {settings.login}."
        )
    if settings.ollama_port == settings.port and settings.uds is None:
        raise SettingError(f"{given['ollama_port'].origin}: {settings.port} is the port that is served on already.")
    on_a_port = settings.uds is None or settings.ollama_port is not None
    if on_a_port and not (settings.api_keys or other_keys) and not loopback(settings.host):
        raise SettingError(
            f"{given['host'].origin}: {settings.host} can be reached from other computers, which would use your login. "
            "Set API_KEYS to the keys that clients must send, or make one with `claude-max-api keys add NAME`, or "
            "serve on 127.0.0.1."
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
