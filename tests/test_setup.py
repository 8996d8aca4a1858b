"""Setting clients up: every writer on a configuration as that client's users have it, and the way there and back."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.__main__ import main
from proxy.http.routes import ROUTES
from proxy.setup import command
from proxy.setup.clients import CLIENTS, Edit, Place, Target
from proxy.setup.command import BEFORE, CREATED, apply, listing, planned, restore, undone
from proxy.setup.edits import Default, Format, Items, Unreadable, edited, read
from proxy.setup.sizes import Size
from tests import fake_cli
from tests.served import Served

TARGET = Target("http://127.0.0.1:3456")
SIZES = {"sonnet": Size(1_000_000, 64_000), "opus": Size(400_000), "haiku": Size(300_000, 8_000)}
KEYED = Target("https://box:8443", "sesame", needs_key=True, sizes=SIZES)

# By client and file name: what was there before. Settings of every kind, with comments where the format has them.
FILES: dict[tuple[str, str], str] = {
    ("continue", "config.yaml"): """\
name: My config # the name shown
version: 1.0.0
schema: v1

models:
  # Local
  - name: Llama
    provider: ollama
    model: llama3.1:8b
    roles:
      - chat
  - name: Codestral
    provider: mistral
    model: codestral-latest
    apiKey: "${{ secrets.MISTRAL }}"
    roles: [autocomplete]

context:
  - provider: code
  - provider: diff # the working tree
rules:
  - Always answer in English
""",
    ("zed", "settings.json"): """\
// Zed settings
//
// For information on how to configure Zed, see the Zed
// documentation: https://zed.dev/docs/configuring-zed
{
  "agent": {
    "default_model": {
      "provider": "zed.dev",
      "model": "claude-sonnet-4",
    },
    "tool_permissions": { "default": "confirm" },
  },
  "ui_font_size": 16, // on the laptop
  "theme": {
    "mode": "system",
    "light": "One Light",
    "dark": "One Dark",
  },
  /* "vim_mode": true, */
  "lsp": { "rust-analyzer": { "initialization_options": { "check": { "command": "clippy" } } } },
}
""",
    ("aider", ".aider.conf.yml"): """\
##########################################################
# Sample .aider.conf.yml
# This file lists *all* the valid configuration entries.

## show this help message and exit
#help: xxx

#############
# Main model:

## Specify the model to use for the main chat
#model: xxx

dark-mode: true
auto-commits: false   # I commit myself
read:
  - CONVENTIONS.md
  - docs/STYLE.md

## Specify multiple values like this:
#alias: [xxx,yyyy,zzz]
""",
    ("opencode", "opencode.json"): """\
{
  "$schema": "https://opencode.ai/config.json",
  "theme": "tokyonight",
  "provider": {
    "ollama": {
      "npm": "@ai-sdk/openai-compatible",
      "options": { "baseURL": "http://localhost:11434/v1" },
      "models": { "llama2": { "name": "Llama 2" } }
    }
  },
  "mcp": {}
}
""",
    ("codex", "config.toml"): """\
# Mine
model = "gpt-5.2-codex"   # the usual one
model_reasoning_effort = "high"
notify = ["python3", "/home/me/notify.py"]

[model_providers.azure]
name = "Azure"
base_url = "https://me.openai.azure.com/openai"
env_key = "AZURE_OPENAI_API_KEY"
query_params = { api-version = "2025-04-01-preview" }

[mcp_servers.docs]
command = "npx" # slow at first
args = ["-y", "docs-mcp"]

[projects."/home/me/work"]
trust_level = "trusted"
""",
    ("codex", "claude-max.config.toml"): "",
    ("crush", "crush.json"): """\
{
  "$schema": "https://charm.land/crush.json",
  "lsp": {
    "go": { "command": "gopls" }
  },
  "providers": {
    "deepseek": {
      "type": "openai-compat",
      "base_url": "https://api.deepseek.com/v1",
      "api_key": "$DEEPSEEK_API_KEY",
      "models": [{ "id": "deepseek-chat", "name": "Deepseek V3", "context_window": 64000 }]
    }
  }
}
""",
    ("qwen", "settings.json"): """\
{
  "security": {
    "auth": {
      "selectedType": "qwen-oauth"
    }
  },
  "ui": { "theme": "Qwen Dark" }, // easier on the eyes
  "modelProviders": {
    "openai": [
      { "id": "qwen3-coder", "baseUrl": "https://dashscope.aliyuncs.com/compatible-mode/v1", "envKey": "DASHSCOPE" }
    ]
  },
  "$version": 4
}
""",
    ("goose", "claude_max.json"): "",
    ("goose", "config.yaml"): """\
GOOSE_PROVIDER: openai
GOOSE_MODEL: gpt-5
GOOSE_MODE: smart_approve
extensions:
  developer:
    enabled: true
    type: builtin
    name: developer
    timeout: 300
    # bundled with goose
    bundled: true
""",
    ("llm", "extra-openai-models.yaml"): """\
- model_id: orca-openai-compat
  model_name: orca-mini-3b.ggmlv3
  api_base: "http://localhost:8080" # llama.cpp
  aliases: [orca]
""",
    ("llm", "keys.json"): """\
{
  "// Note": "This file stores secret API credentials. Do not share!",
  "openai": "sk-mine"
}
""",
    ("librechat", "librechat.yaml"): """\
# Configuration version (required)
version: 1.3.1
cache: true

interface:
  # MCP Servers UI configuration
  mcpServers:
    placeholder: 'MCP Servers'
  privacyPolicy:
    externalUrl: 'https://librechat.ai/privacy-policy'
    openNewTab: true

endpoints:
  # assistants:
  #   disableBuilder: false
  custom:
    # Groq Example
    - name: 'groq'
      apiKey: '${GROQ_API_KEY}'
      baseURL: 'https://api.groq.com/openai/v1/'
      models:
        default:
          - 'llama3-70b-8192'
          - 'llama3-8b-8192'
        fetch: false
      titleConvo: true
      modelDisplayLabel: 'groq'
# fileConfig:
#   serverFileSizeLimit: 100 # MB
""",
    ("claude-code", "settings.json"): """\
{
  "permissions": {
    "allow": ["Bash(npm run test:*)"]
  },
  "env": {
    "FOO": "bar"
  },
  "model": "opus"
}
""",
    ("pi", "models.json"): """\
{
  "providers": {
    "ollama": {
      "baseUrl": "http://localhost:11434/v1",
      "api": "openai-completions",
      "apiKey": "ollama",
      "models": [
        { "id": "llama3.1:8b" }
      ]
    }
  }
}
""",
    (
        "pi",
        "settings.json",
    ): '{\n  "lastChangelogVersion": "0.73.1",\n  "defaultProvider": "ollama",\n  "defaultModel": "x"\n}\n',
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory that is also the current one, and no variables that matter."""
    for name in list(os.environ):
        if name not in ("PATH", "LANG", "PYTHONPATH", "COVERAGE_PROCESS_START"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edits_of(name: str, home: Path, target: Target = TARGET) -> tuple[Edit, ...]:
    client = next(client for client in CLIENTS if client.name == name)
    return client.edits(target, Place(home, {}, "linux"))


WRITERS = [client.name for client in CLIENTS if client.name not in ("open-webui", "n8n")]


def test_there_is_a_configuration_of_every_client_with_a_file(home: Path) -> None:
    named = {(name, edit.path.name) for name in WRITERS for edit in edits_of(name, home, KEYED)}
    assert named == set(FILES)


@pytest.mark.parametrize("target", [TARGET, KEYED], ids=["no key", "key"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_configuration_keeps_everything_and_gets_ours(name: str, target: Target, home: Path) -> None:
    for edit in edits_of(name, home, target):
        before = FILES[name, edit.path.name]
        after = edited(edit.format, before, edit.wanted)
        kept = [line for line in before.splitlines() if line.strip()]
        left = iter(after.splitlines())
        # Every line is still there, in order; a comma may have come to an end.
        for line in kept:
            assert any(line.rstrip(",") == new.rstrip(",") or _same(line, new) for new in left), f"{line!r}\n{after}"
        values: Any = read(edit.format, after)
        assert _holds(values, edit.wanted), after
        assert edited(edit.format, after, edit.wanted) == after
    assert any(target.v1 in str(edit.wanted) or target.url in str(edit.wanted) for edit in edits_of(name, home, target))


def _same(line: str, new: str) -> bool:
    """The line with a comma set behind its value, before its comment."""
    return new.replace(",", "", 1).replace(" ", "") == line.replace(",", "", 1).replace(" ", "")


def _holds(values: Any, wanted: Any) -> bool:
    if isinstance(wanted, Default):
        return values is not None
    if isinstance(wanted, Items):
        return all(any(_holds(each, item) for each in values) for item in wanted.items)
    if isinstance(wanted, dict):
        return all(name in values and _holds(values[name], each) for name, each in wanted.items())
    return bool(values == wanted)


def sizes_in(value: Any) -> set[int]:
    """All numbers from 8,000 up: nothing else in the files is as large."""
    match value:
        case dict():
            return set().union(*map(sizes_in, value.values()))
        case list():
            return set().union(*map(sizes_in, value))
        case int() if value >= 8000:
            return {value}
    return set()


@pytest.mark.parametrize(
    ("name", "known", "unknown"),
    [
        ("continue", {1_000_000, 400_000, 300_000, 64_000, 32_000, 8_000}, {200_000, 32_000}),
        ("zed", {1_000_000, 400_000, 300_000, 64_000, 32_000, 8_000}, {200_000, 32_000}),
        ("opencode", {1_000_000, 400_000, 300_000, 64_000, 32_000, 8_000}, {200_000, 32_000}),
        ("codex", {1_000_000}, {200_000}),
        ("crush", {1_000_000, 400_000, 300_000, 64_000, 32_000, 8_000}, {200_000, 32_000}),
        ("qwen", {1_000_000, 400_000, 300_000}, {200_000}),
        ("goose", {1_000_000, 400_000, 300_000}, {200_000}),
        ("pi", {1_000_000, 400_000, 300_000, 64_000, 32_000, 8_000}, {200_000, 32_000}),
    ],
)
def test_sizes_are_those_of_the_server_and_stay_while_it_is_away(
    name: str, known: set[int], unknown: set[int], home: Path
) -> None:
    def written(texts: list[str], target: Target) -> list[str]:
        edits = edits_of(name, home, target)
        return [edited(edit.format, text, edit.wanted) for edit, text in zip(edits, texts, strict=True)]

    def sizes(texts: list[str]) -> set[int]:
        return set().union(
            *(
                sizes_in(read(edit.format, text))
                for edit, text in zip(edits_of(name, home, KEYED), texts, strict=True)
                if edit.path.name != "settings.json" or name != "pi"
            )
        )

    away = msgspec.structs.replace(KEYED, sizes={})
    first = written(["" for _ in edits_of(name, home, KEYED)], away)
    assert sizes(first) == unknown
    then = written(first, KEYED)
    assert sizes(then) == known
    assert written(then, away) == then


# Without one of them Crush's own schema refuses the model.
CRUSH_NEEDS = {
    "id", "name", "cost_per_1m_in", "cost_per_1m_out", "cost_per_1m_in_cached", "cost_per_1m_out_cached",
    "context_window", "default_max_tokens", "can_reason", "supports_attachments",
}  # fmt: skip


def test_crush_gets_all_that_its_schema_requires(home: Path) -> None:
    (edit,) = edits_of("crush", home)
    models = read("json", edited("json", "", edit.wanted))["providers"]["claude-max"]["models"]
    assert all(set(model) == CRUSH_NEEDS for model in models)


def test_goose_gets_the_whole_path_behind_any_address(home: Path) -> None:
    provider, _ = edits_of("goose", home, Target("https://box/claude", "sesame", needs_key=True))
    assert read("json", edited("json", "", provider.wanted))["base_url"] == "https://box/claude/v1/chat/completions"


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_used_by_default_stays_the_users_choice(name: str, home: Path) -> None:
    for edit in edits_of(name, home):
        before, after = (
            read(edit.format, text)
            for text in (FILES[name, edit.path.name], edited(edit.format, FILES[name, edit.path.name], edit.wanted))
        )
        for key in ("model", "GOOSE_PROVIDER", "GOOSE_MODEL", "defaultProvider", "agent", "security", "name"):
            if isinstance(before, dict) and key in before:
                assert after[key] == before[key]


@pytest.mark.parametrize("name", WRITERS)
def test_there_and_back(name: str, home: Path) -> None:
    for edit in edits_of(name, home, KEYED):
        text = FILES[name, edit.path.name]
        if text:
            edit.path.parent.mkdir(parents=True, exist_ok=True)
            edit.path.write_text(text)
            edit.path.chmod(0o640)
    for edit in edits_of(name, home, KEYED):
        apply(planned(edit))
        mode = stat.S_IMODE(edit.path.stat().st_mode)
        assert mode == (0o640 if FILES[name, edit.path.name] else 0o600)
        assert planned(edit).old == planned(edit).new
    # Set up once more, for another address: what is kept is still the first.
    for edit in edits_of(name, home, TARGET):
        apply(planned(edit))
    for edit in edits_of(name, home, KEYED):
        restore(undone(edit))
    for edit in edits_of(name, home, KEYED):
        text = FILES[name, edit.path.name]
        assert (edit.path.read_text() if edit.path.exists() else "") == text
        assert not [path for path in edit.path.parent.iterdir() if path.name.endswith((BEFORE, CREATED))]


def test_a_link_to_nothing_leads_to_nothing_again(home: Path) -> None:
    link, real = home / ".aider.conf.yml", home / "dotfiles.yml"
    link.symlink_to(real)
    (edit,) = edits_of("aider", home)
    apply(planned(edit))
    assert real.exists()
    restore(undone(edit))
    assert link.is_symlink()
    assert not real.exists()


def test_a_link_stays_a_link(home: Path) -> None:
    (home / "dotfiles").mkdir()
    real = home / "dotfiles" / "aider.yml"
    real.write_text("dark-mode: true\n")
    (home / ".aider.conf.yml").symlink_to(real)
    (edit,) = edits_of("aider", home)
    apply(planned(edit))
    assert (home / ".aider.conf.yml").is_symlink()
    assert "openai-api-base: http://127.0.0.1:3456/v1" in real.read_text()


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("json", "{'a': 1}"),
        ("json", "[]"),
        ("toml", "a = "),
        ("yaml", "a: [1"),
        ("yaml", "- a\n"),
        ("yaml", "just words\n"),
        ("yaml", "model: [1]\n"),
        ("json", '{"model": "mine"}'),
        ("toml", "[a]\nb = 1\n[[a.c]]\nx = 1\n[a.c.d]\n[a]\n"),
    ],
)
def test_a_file_that_cannot_be_read_is_left_alone(format: Format, text: str) -> None:
    with pytest.raises(Unreadable):
        edited(format, text, {"model": {"name": "x"}})


# The command.


def test_the_list_says_what_is_there(home: Path) -> None:
    (home / ".continue").mkdir()
    for edit in edits_of("pi", home):
        apply(planned(edit))
    (home / ".qwen").mkdir()
    (home / ".qwen" / "settings.json").write_text("{")
    lines = {line.split()[0]: line.split()[1:3] for line in listing(TARGET, Place(home, {"PATH": ""}, "linux")) if line}
    assert lines["continue"] == ["yes", "no"]
    assert lines["pi"] == ["yes", "yes"]
    assert lines["qwen"] == ["yes", "unreadable"]
    assert lines["aider"] == ["no", "no"]
    assert lines["n8n"] == ["no", "by"]
    assert set(lines) >= {client.name for client in CLIENTS}


def test_setup_alone_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["setup"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n{client.name} " in said for client in CLIENTS)


def test_print_only_shows(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "me:sesame")
    assert main(["setup", "pi", "--print", "--url", "http://box:1"]) == 0
    said = capsys.readouterr().out
    assert '+      "baseUrl": "http://box:1/v1",' in said
    assert "sesame" not in said
    assert not (home / ".pi").exists()


def test_yes_writes_and_restore_undoes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / ".qwen" / "settings.json"
    assert main(["setup", "qwen", "--yes"]) == 0
    assert "http://127.0.0.1:3456/v1" in path.read_text()
    assert "--restore" in capsys.readouterr().out
    assert main(["setup", "qwen", "--yes"]) == 0
    assert "set up already" in capsys.readouterr().out
    assert main(["setup", "qwen", "--restore", "--yes"]) == 0
    assert not path.exists()
    assert main(["setup", "qwen", "--restore", "--yes"]) == 1
    assert "nothing to restore" in capsys.readouterr().out


def test_without_a_terminal_nothing_is_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["setup", "codex"]) == 2
    said = capsys.readouterr()
    assert "+[model_providers.claude-max]" in said.out
    assert "--yes" in said.err
    assert not (home / ".codex").exists()


@pytest.mark.parametrize(("answer", "code"), [("", 0), ("y", 0), ("n", 1), ("x", 1)])
def test_it_asks(answer: str, code: int, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert main(["setup", "codex"]) == code
    assert (home / ".codex" / "config.toml").exists() == (code == 0)


@pytest.mark.parametrize("words", [(), ("--restore",)])
def test_what_changes_while_it_asks_is_not_overwritten(
    words: tuple[str, ...], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / ".config/opencode/opencode.json"
    if words:
        assert main(["setup", "opencode", "--yes"]) == 0

    def answer(_: str) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"theme": "dark"}')
        return "y"

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", answer)
    assert main(["setup", "opencode", *words]) == 1
    assert path.read_text() == '{"theme": "dark"}'
    assert "has just been changed" in capsys.readouterr().err


def test_another_file_can_be_named(home: Path) -> None:
    (home / "chat").mkdir()
    path = home / "chat" / "librechat.yaml"
    path.write_text(FILES["librechat", "librechat.yaml"])
    assert main(["setup", "librechat", "--yes", "--file", str(path)]) == 0
    assert "Claude Max" in path.read_text()
    assert not (home / "librechat.yaml").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vim"], "there is no client 'vim', but continue, zed"),
        (["n8n", "--file", "x"], "n8n has no file"),
        (["pi", "--url", "box"], "must be an http or https URL"),
        (["pi", "--uds", "/run/x"], "name the server's address with --url"),
        (["pi", "--host", "0.0.0.0"], "API_KEYS"),
    ],
)
def test_what_it_cannot_use(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["setup", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_running_server_is_asked_what_its_models_take(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also with a key; a server that does not say is named."""
    with Served(fake_cli.write(home / "cli", window=543_210), home / "state", {"API_KEYS": "me:sesame"}) as server:
        assert main(["setup", "opencode", "--print", "--url", server.url]) == 0
        assert "200,000 tokens are assumed" in capsys.readouterr().out
        monkeypatch.setenv("API_KEYS", "me:sesame")
        assert main(["setup", "opencode", "--print", "--url", server.url]) == 0
    said = capsys.readouterr().out
    assert said.count('"context": 543210') == 3
    assert "assumed" not in said


def test_a_file_that_is_not_understood_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".aider.conf.yml").write_text("- a list\n")
    assert main(["setup", "aider", "--yes"]) == 1
    assert f"{home}/.aider.conf.yml is left alone" in capsys.readouterr().err
    assert (home / ".aider.conf.yml").read_text() == "- a list\n"


def test_a_surface_that_is_not_served_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for routes, said in (((), True), (ROUTES, False)):
        monkeypatch.setattr(command, "ROUTES", routes)
        assert main(["setup", "pi", "--print"]) == 0
        assert ("does not serve /v1/chat/completions yet" in capsys.readouterr().out) == said


@pytest.mark.parametrize("name", ["open-webui", "n8n"])
def test_those_without_a_file_are_told_in_words(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["setup", name]) == 0
    said = capsys.readouterr().out
    assert "http://127.0.0.1:3456/v1" in said
    assert "API" in said
