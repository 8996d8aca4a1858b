"""Real clients, from npm and PyPI, started with what `setup` has written: each asks the server and shows its answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from conformance import install
from proxy.doctor import NEWEST_PROVEN
from proxy.setup.clients import CLIENTS
from tests import fake_cli
from tests.served import ROOT, Served

pytestmark = pytest.mark.clients

# How each is started without a person: the package, its version, the program in it, and its words.
NPM = {
    "continue": ("@continuedev/cli", "1.5.47", "dist/cn.js", ["-p", "hello"]),
    "qwen": ("@qwen-code/qwen-code", "0.15.10", "cli.js", ["--model", "sonnet", "-p", "hello"]),
    "pi": ("@mariozechner/pi-coding-agent", "0.73.1", "dist/cli.js", ["--model", "claude-max/sonnet", "-p", "hello"]),
    "codex": (
        "@openai/codex", "0.171.0", "bin/codex.js",
        ["exec", "--skip-git-repo-check", "--profile", "claude-max", "hello"],
    ),
}  # fmt: skip
# LibreChat needs a database; what it reads its configuration with is a package.
LIBRECHAT = ("librechat-data-provider", "0.8.524")
PYPI = {
    "llm": ("llm==0.36", ["-m", "max-sonnet", "hello"]),
    "aider": (
        "aider-chat==0.86.2",
        ["--no-git", "--yes-always", "--no-check-update", "--analytics-disable", "--no-show-model-warnings",
         "--message", "hello"],
    ),
}  # fmt: skip


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """One that needs a key, as the clients are told."""
    with Served(fake_cli.write(tmp_path / "cli"), tmp_path / "state", {"API_KEYS": "me:sesame"}) as served:
        yield served


def set_up(name: str, server: Served, home: Path) -> dict[str, str]:
    """Set the client up as a user would, in an empty home; the environment to start it in."""
    home.mkdir()
    environ = {"HOME": str(home), "PATH": os.environ["PATH"], "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    # Python takes what it compiled for a file of the same size and second: an agent that edits and tests twice in a
    # second would be shown the first edit's result again.
    environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "LANG"):
        if variable in os.environ:
            environ[variable] = os.environ[variable]
    subprocess.run(
        [sys.executable, "-m", "proxy", "setup", name, "--yes", "--url", server.url],
        env={**environ, "API_KEYS": "me:sesame"}, check=True, capture_output=True, cwd=home,
    )  # fmt: skip
    del environ["PYTHONPATH"]
    return environ


def started(command: list[str], environ: dict[str, str], home: Path) -> str:
    ran = subprocess.run(
        command, env=environ, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    return ran.stdout + ran.stderr


def answered(server: Served, name: str) -> bool:
    """The client's request came to the surface that `setup` names, with the key, and was answered."""
    (surface,) = (client.surface for client in CLIENTS if client.name == name)
    recent = server.get("/v1/usage/recent", headers={"authorization": "Bearer sesame"}).json()["data"]
    rows = [row for row in recent if row["endpoint"] == surface]
    return any((row["outcome"], row["key"]) == ("ok", "me") for row in rows)


@pytest.mark.parametrize("name", NPM)
def test_a_client_from_npm(name: str, server: Served, tmp_path: Path) -> None:
    package, version, program, words = NPM[name]
    home = tmp_path / "home"
    environ = set_up(name, server, home)
    path = install.modules(package, version) / package / program
    said = started(["node", str(path), *words], environ, home)
    assert "echo:" in said, said[-3000:]
    assert answered(server, name)


def test_opencode(server: Served, tmp_path: Path) -> None:
    home = tmp_path / "home"
    environ = set_up("opencode", server, home)
    modules = install.modules("opencode-linux-x64", "1.18.33")
    program = str(modules / "opencode-linux-x64" / "bin" / "opencode")
    said = started([program, "run", "--model", "claude-max/sonnet", "hello"], environ, home)
    assert "echo: " in said, said[-3000:]
    assert answered(server, "opencode")


def test_claude_code(server: Served, tmp_path: Path) -> None:
    """The real one, without a login of its own."""
    home = tmp_path / "home"
    environ = set_up("claude-code", server, home)
    said = started([str(install.install(NEWEST_PROVEN)), "-p", "hello"], environ, home)
    assert "echo: " in said, said[-3000:]
    assert answered(server, "claude-code")


def test_librechat_takes_its_file(server: Served, tmp_path: Path) -> None:
    home = tmp_path / "home"
    environ = set_up("librechat", server, home)
    values = json.dumps(YAML(typ="safe").load(home / "librechat.yaml"))
    script = (
        "const {configSchema} = require(process.argv[1]);"
        "const read = configSchema.strict().safeParse(JSON.parse(process.argv[2]));"
        "console.log(read.success, JSON.stringify(read.success ? read.data.endpoints.custom : read.error.issues))"
    )
    package = install.modules(*LIBRECHAT) / LIBRECHAT[0]
    said = started(["node", "-e", script, str(package), values], environ, home)
    assert said.startswith("true "), said[-3000:]
    (endpoint,) = json.loads(said.removeprefix("true "))
    assert (endpoint["baseURL"], endpoint["apiKey"]) == (f"{server.url}/v1", "sesame")


@pytest.mark.parametrize("name", PYPI)
def test_a_client_from_pypi(name: str, server: Served, tmp_path: Path) -> None:
    package, words = PYPI[name]
    home = tmp_path / "home"
    environ = set_up(name, server, home)
    said = started([str(install.environment(package) / name), *words], environ, home)
    assert "hello" in said, said[-3000:]
    assert answered(server, name)
