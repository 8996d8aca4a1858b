"""The clients that can be set up: which files each reads, and what has to stand there.

Every client gets a provider of its own beside those it has. What it uses when nothing is chosen is set only where
nothing was: with `Default`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from proxy.setup.edits import Default, Format, Items
from proxy.setup.sizes import Size

# By which our entries are known in the clients' files.
ID: Final = "claude-max"
TITLE: Final = "Claude Max"
MODELS: Final = ("sonnet", "opus", "haiku")
# What every model takes and gives at the least, in tokens: for clients that need a number while the server says none.
CONTEXT: Final = 200_000
OUTPUT: Final = 32_000


class Target(Struct, frozen=True):
    """The server as clients reach it. `url`: without `/v1`. `key`: any text when the server needs none. `sizes`: of its
    models, as far as it has said them."""

    url: str
    key: str = "any"
    needs_key: bool = False
    sizes: Mapping[str, Size] = {}

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    def context(self, model: str) -> int | Default:
        """Tokens that the model takes in all. Where they are not known, what the client has stays."""
        return self.sizes.get(model, Size()).context_length or Default(CONTEXT)

    def output(self, model: str) -> int | Default:
        """Tokens of its longest answer; likewise."""
        return self.sizes.get(model, Size()).max_completion_tokens or Default(OUTPUT)


class Place(Struct, frozen=True):
    """Where this user's files are."""

    home: Path
    environ: Mapping[str, str]
    platform: str

    def config(self, name: str) -> Path:
        """A directory below the XDG configuration directory."""
        chosen = Path(self.environ.get("XDG_CONFIG_HOME") or "")
        return (chosen if chosen.is_absolute() else self.home / ".config") / name

    def support(self, name: str) -> Path:
        """The same for programs that follow macOS's own custom there."""
        if self.platform == "darwin":
            return self.home / "Library" / "Application Support" / name
        return self.config(name)

    def chosen(self, variable: str, otherwise: Path) -> Path:
        """A directory that a variable may name."""
        return Path(self.environ[variable]).expanduser() if self.environ.get(variable) else otherwise


class Edit(Struct, frozen=True):
    """One file, and what has to stand in it; see `edits`."""

    path: Path
    format: Format
    wanted: Any


class Client(Struct, frozen=True):
    """`surface`: the API that it speaks to this server. `programs`: by which it is known to be installed, or by the
    directory of its first file. `edits`: its files; none for a client that is set up by hand. `steps`: what is left to
    do, or to enter where, a line each."""

    name: str
    title: str
    surface: str
    programs: tuple[str, ...]
    edits: Callable[[Target, Place], tuple[Edit, ...]]
    steps: Callable[[Target], tuple[str, ...]]


def _label(model: str) -> str:
    return f"Claude {model.capitalize()} (Max)"


def _none(target: Target, place: Place) -> tuple[Edit, ...]:
    return ()


def _continue(target: Target, place: Place) -> tuple[Edit, ...]:
    models = tuple(
        {
            "name": _label(model), "provider": "openai", "model": model, "apiBase": target.v1, "apiKey": target.key,
            "roles": ["chat", "edit", "apply"], "capabilities": ["tool_use", "image_input"],
            "defaultCompletionOptions": {"contextLength": target.context(model), "maxTokens": target.output(model)},
        }
        for model in MODELS
    )  # fmt: skip
    wanted = {"name": Default("Local"), "version": Default("0.0.1"), "schema": Default("v1")}
    path = place.chosen("CONTINUE_GLOBAL_DIR", place.home / ".continue") / "config.yaml"
    return (Edit(path, "yaml", {**wanted, "models": Items("name", models)}),)


def _zed(target: Target, place: Place) -> tuple[Edit, ...]:
    abilities = {"tools": True, "images": True, "parallel_tool_calls": True, "prompt_cache_key": False}
    models = tuple(
        {
            "name": model, "display_name": _label(model), "max_tokens": target.context(model),
            "max_output_tokens": target.output(model), "capabilities": abilities,
        }
        for model in MODELS
    )  # fmt: skip
    provider = {"api_url": target.v1, "available_models": Items("name", models)}
    wanted = {
        "language_models": {"openai_compatible": {TITLE: provider}},
        "agent": {"default_model": Default({"provider": TITLE, "model": "sonnet"})},
    }
    return (Edit(place.config("zed") / "settings.json", "json", wanted),)


def _aider(target: Target, place: Place) -> tuple[Edit, ...]:
    wanted = {
        "openai-api-base": target.v1,
        "openai-api-key": target.key,
        "model": Default("openai/sonnet"),
        "weak-model": Default("openai/haiku"),
    }
    return (Edit(place.home / ".aider.conf.yml", "yaml", wanted),)


def _opencode(target: Target, place: Place) -> tuple[Edit, ...]:
    models = {
        model: {
            "name": _label(model), "attachment": True, "tool_call": True, "reasoning": True,
            "limit": {"context": target.context(model), "output": target.output(model)},
            "modalities": {"input": ["text", "image", "pdf"], "output": ["text"]},
        }
        for model in MODELS
    }  # fmt: skip
    options = {"baseURL": target.v1, "apiKey": target.key}
    provider = {"npm": "@ai-sdk/openai-compatible", "name": TITLE, "options": options, "models": models}
    wanted = {
        "$schema": Default("https://opencode.ai/config.json"),
        "provider": {ID: provider},
        "model": Default(f"{ID}/sonnet"),
        "small_model": Default(f"{ID}/haiku"),
    }
    folder = place.config("opencode")
    with_comments = folder / "opencode.jsonc"
    path = with_comments if with_comments.exists() else folder / "opencode.json"
    return (Edit(path, "json", wanted),)


def _codex(target: Target, place: Place) -> tuple[Edit, ...]:
    provider = {"name": TITLE, "base_url": target.v1, "wire_api": "responses"}
    if target.needs_key:
        provider["experimental_bearer_token"] = target.key
    folder = place.chosen("CODEX_HOME", place.home / ".codex")
    use = {"model": "sonnet", "model_provider": ID, "model_context_window": target.context("sonnet")}
    return (
        Edit(folder / "config.toml", "toml", {"model_providers": {ID: provider}}),
        Edit(folder / f"{ID}.config.toml", "toml", use),
    )


def _crush(target: Target, place: Place) -> tuple[Edit, ...]:
    models = tuple(
        {
            "id": model, "name": _label(model), "context_window": target.context(model),
            "default_max_tokens": target.output(model), "can_reason": True, "supports_attachments": True,
            "cost_per_1m_in": 0, "cost_per_1m_out": 0, "cost_per_1m_in_cached": 0, "cost_per_1m_out_cached": 0,
        }
        for model in MODELS
    )  # fmt: skip
    provider = {
        "name": TITLE, "type": "openai-compat", "base_url": target.v1, "api_key": target.key,
        "models": Items("id", models),
    }  # fmt: skip
    wanted = {"$schema": Default("https://charm.land/crush.json"), "providers": {ID: provider}}
    return (Edit(place.chosen("CRUSH_GLOBAL_CONFIG", place.config("crush")) / "crush.json", "json", wanted),)


def _qwen(target: Target, place: Place) -> tuple[Edit, ...]:
    models = tuple(
        {
            "id": model, "name": _label(model), "baseUrl": target.v1, "envKey": "CLAUDE_MAX_API_KEY",
            "generationConfig": {
                "contextWindowSize": target.context(model), "modalities": {"image": True, "pdf": True},
            },
        }
        for model in MODELS
    )  # fmt: skip
    wanted = {
        "modelProviders": {"openai": Items("id", models)},
        "env": {"CLAUDE_MAX_API_KEY": target.key},
        "security": {"auth": {"selectedType": Default("openai")}},
        "model": {"name": Default("sonnet")},
    }
    return (Edit(place.home / ".qwen" / "settings.json", "json", wanted),)


def _goose(target: Target, place: Place) -> tuple[Edit, ...]:
    provider = {
        "name": "claude_max", "engine": "openai", "display_name": TITLE,
        "description": "The Claude subscription of this computer", "api_key_env": "CLAUDE_MAX_API_KEY",
        # With its whole path, as Goose's own providers have it: it completes nothing but a plain /v1.
        "base_url": f"{target.v1}/chat/completions", "requires_auth": target.needs_key, "supports_streaming": True,
        "models": Items("name", tuple({"name": model, "context_limit": target.context(model)} for model in MODELS)),
    }  # fmt: skip
    folder = place.config("goose")
    return (
        Edit(folder / "custom_providers" / "claude_max.json", "json", provider),
        Edit(
            folder / "config.yaml", "yaml", {"GOOSE_PROVIDER": Default("claude_max"), "GOOSE_MODEL": Default("sonnet")}
        ),
    )


def _llm(target: Target, place: Place) -> tuple[Edit, ...]:
    folder = place.chosen("LLM_USER_PATH", place.support("io.datasette.llm"))
    key = {"api_key_name": ID} if target.needs_key else {}
    models = tuple(
        {
            "model_id": f"{ID}/{model}", "model_name": model, "api_base": target.v1, "aliases": [f"max-{model}"],
            "supports_schema": True, "supports_tools": True, "vision": True, **key,
        }
        for model in MODELS
    )  # fmt: skip
    edits = Edit(folder / "extra-openai-models.yaml", "yaml", Items("model_id", models))
    return (edits, Edit(folder / "keys.json", "json", {ID: target.key})) if target.needs_key else (edits,)


def _librechat(target: Target, place: Place) -> tuple[Edit, ...]:
    endpoint = {
        "name": TITLE, "apiKey": target.key, "baseURL": target.v1,
        "models": {"default": list(MODELS), "fetch": False},
        "titleConvo": True, "titleModel": "haiku", "modelDisplayLabel": TITLE,
    }  # fmt: skip
    wanted = {"version": Default("1.2.1"), "endpoints": {"custom": Items("name", (endpoint,))}}
    return (Edit(Path("librechat.yaml").absolute(), "yaml", wanted),)


def _claude_code(target: Target, place: Place) -> tuple[Edit, ...]:
    folder = place.chosen("CLAUDE_CONFIG_DIR", place.home / ".claude")
    variables = {"ANTHROPIC_BASE_URL": target.url, "ANTHROPIC_AUTH_TOKEN": target.key}
    return (Edit(folder / "settings.json", "json", {"env": variables}),)


def _pi(target: Target, place: Place) -> tuple[Edit, ...]:
    models = tuple(
        {
            "id": model, "name": _label(model), "reasoning": True, "input": ["text", "image"],
            "contextWindow": target.context(model), "maxTokens": target.output(model),
        }
        for model in MODELS
    )  # fmt: skip
    provider = {
        "baseUrl": target.v1, "api": "openai-completions", "apiKey": target.key, "models": Items("id", models)
    }  # fmt: skip
    folder = place.chosen("PI_CODING_AGENT_DIR", place.home / ".pi" / "agent")
    return (
        Edit(folder / "models.json", "json", {"providers": {ID: provider}}),
        Edit(folder / "settings.json", "json", {"defaultProvider": Default(ID), "defaultModel": Default("sonnet")}),
    )


def _export(target: Target) -> str:
    return f"export CLAUDE_MAX_API_KEY={'YOUR_KEY' if target.needs_key else target.key}"


CHAT: Final = "/v1/chat/completions"
CLIENTS: Final = (
    Client("continue", "Continue", CHAT, ("cn",), _continue, lambda target: (f"Choose {_label('sonnet')} there.",)),
    Client(
        "zed", "Zed", CHAT, ("zed", "zeditor"), _zed,
        lambda target: (f"Give Zed the key: start it with {_export(target).removeprefix('export ')}, or enter it in "
                        f"the agent panel's settings under {TITLE}.",),
    ),
    Client("aider", "aider", CHAT, ("aider",), _aider, lambda target: ("aider --model openai/sonnet",)),
    Client("opencode", "opencode", CHAT, ("opencode",), _opencode, lambda target: (f"opencode --model {ID}/sonnet",)),
    Client("codex", "Codex", "/v1/responses", ("codex",), _codex, lambda target: (f"codex --profile {ID}",)),
    Client("crush", "Crush", CHAT, ("crush",), _crush, lambda target: (f"Choose {_label('sonnet')} with Ctrl-L.",)),
    Client("qwen", "Qwen Code", CHAT, ("qwen",), _qwen, lambda target: ("qwen --model sonnet",)),
    Client(
        "goose", "Goose", CHAT, ("goose",), _goose,
        lambda target: (_export(target), "goose session --provider claude_max"),
    ),
    Client("llm", "llm", CHAT, ("llm",), _llm, lambda target: ("llm -m max-sonnet 'Say hello.'",)),
    Client(
        "open-webui", "Open WebUI", CHAT, ("open-webui",), _none,
        lambda target: (
            "Admin Panel -> Settings -> Connections -> OpenAI -> Manage -> Add New Connection:",
            f"  URL      {target.v1}",
            f"  API key  {target.key}",
            f"Or start it with OPENAI_API_BASE_URL={target.v1} and OPENAI_API_KEY={target.key}.",
            "In a container the host is host.docker.internal, and this server needs API_KEYS and --host 0.0.0.0.",
        ),
    ),
    Client(
        "librechat", "LibreChat", CHAT, (), _librechat,
        lambda target: (
            "Run this in LibreChat's directory, or name its librechat.yaml with --file. Restart LibreChat then.",
            "In a container the host is host.docker.internal (--url), and this server needs API_KEYS and "
            "--host 0.0.0.0.",
        ),
    ),
    Client(
        "claude-code", "Claude Code", "/v1/messages", ("claude",), _claude_code,
        lambda target: ("claude", "Its own login is not used while these two variables are set; --restore undoes it."),
    ),
    Client("pi", "pi", CHAT, ("pi",), _pi, lambda target: (f"pi --model {ID}/sonnet",)),
    Client(
        "n8n", "n8n", CHAT, ("n8n",), _none,
        lambda target: (
            "Credentials -> Create -> OpenAI:",
            f"  API Key   {target.key}",
            f"  Base URL  {target.v1}",
            "In the OpenAI Chat Model node choose the model by id: sonnet.",
        ),
    ),
)  # fmt: skip
