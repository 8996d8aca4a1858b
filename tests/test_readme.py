"""The README says what is so: its table is the settings', its commands are CI's, its examples run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.cli.find import FLOOR, shown
from proxy.http.routes import ROUTES
from proxy.settings import SETTINGS, Settings, default, read
from proxy.settings.sources import parse
from proxy.setup.clients import CLIENTS
from tests import fake_cli
from tests.served import Served

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()
BASE = "http://127.0.0.1:3456"


def blocks(language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def table() -> str:
    """The settings' table, as it has to stand in the README."""
    rows = ["| Variable | Argument | Default | Meaning |", "|---|---|---|---|"]
    for setting in SETTINGS:
        argument = f"`{setting.argument.upper() if setting.argument == 'port' else setting.argument}`"
        value = f"`{default(setting)}`" if default(setting) else ""
        cells = (f"`{setting.variable}`", argument if setting.argument else "", value, setting.help)
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |"))
    return "\n".join(rows)


def test_the_table_is_that_of_the_settings() -> None:
    assert table() in README


def test_every_variable_of_ours_that_is_named_exists() -> None:
    named = set(re.findall(r"CLAUDE_PROXY_\w+", README))
    assert named == {setting.variable for setting in SETTINGS if setting.variable.startswith("CLAUDE_PROXY_")}


def test_the_endpoints_are_those_of_the_application() -> None:
    routes = {re.sub(r"{\w+}", "{id}", route.path) for route in ROUTES}
    assert set(re.findall(r"^\| `(?:GET|POST) (/\S*)` \|", README, re.MULTILINE)) == routes


def test_the_floor_is_the_codes() -> None:
    assert f"Claude Code CLI {shown(FLOOR)} or newer" in README


@pytest.mark.parametrize("command", [block for block in blocks("sh") if not block.startswith("curl")])
def test_the_two_commands_are_those_of_ci(command: str) -> None:
    assert command.count("\n") == 1
    assert f"\n{command}" in CI


def test_links_lead_somewhere() -> None:
    pictures = re.findall(r' (?:src|srcset)="([^"]+)"', README)
    assert len(pictures) == 2
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README) + pictures:
        assert (ROOT / target).exists(), target
    headings = {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in README.splitlines()}
    for target in re.findall(r"\]\(#([^)]+)\)", README):
        assert target in headings


def test_the_clients_are_those_of_setup() -> None:
    rows = re.findall(r"^\| ([^|]+) \| (?:`([a-z-]+)`|by hand) \| `(/v1/\S+)` \|", README, re.MULTILINE)
    assert [(title, surface) for title, _, surface in rows] == [(client.title, client.surface) for client in CLIENTS]
    assert all(name in ("", client.name) for (_, name, _), client in zip(rows, CLIENTS, strict=True))


def test_configurations_can_be_read() -> None:
    read: list[Any] = [json.loads(block) for block in blocks("json")]
    read += [yaml.safe_load(block) for block in blocks("yaml")]
    assert len(read) == 3
    assert all(f"{BASE}/v1" in str(value) for value in read)


@pytest.mark.parametrize("text", blocks("toml"))
def test_the_configuration_file_can_be_read(text: str) -> None:
    file = parse(text, "config.toml")
    assert read({}, {}, file) != Settings()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server as the README has it started, on a CLI that repeats what it is told; its base URL."""
    home = tmp_path_factory.mktemp("home")
    with Served(fake_cli.write(home / "cli"), home / "state", {"LOG_LEVEL": "warn"}) as running:
        yield running.url


@pytest.mark.parametrize("line", [line for line in "".join(blocks("sh")).splitlines() if line.startswith("curl")])
def test_the_curl_lines(line: str, server: str) -> None:
    _, url, *rest = shlex.split(line.replace(BASE, server))
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    headers = dict([options["-H"].split(": ")]) if "-H" in options else {}
    request = urllib.request.Request(url, options["-d"].encode() if "-d" in options else None, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        body = json.loads(answer.read())
    assert body.get("object") in ("chat.completion", "list") or body["status"] == "ok"


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_examples(code: str, server: str) -> None:
    if "langchain" in code or "agents" in code:
        compile(code, "README.md", "exec")
        return
    ran = subprocess.run(
        [sys.executable, "-c", code.replace(BASE, server)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert ran.stdout.startswith("echo: ")


def test_bash_can_read_ci() -> None:
    assert subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=False).returncode == 0
