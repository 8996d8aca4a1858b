"""`.ci/cli-release`, which judges a new release of the CLI and proposes what comes of it: against a made-up registry.

The registry is a server on loopback. The releases that it has are the real CLI under other version numbers, behind a
filter: one writes the same, the other has a field renamed that the server reads. `gh` is a script that notes what it is
asked.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from proxy.doctor import NEWEST_PROVEN

pytestmark = pytest.mark.real_cli

ROOT = Path(__file__).parent.parent
COPIED = ("proxy", "conformance", "fixtures", "tests", ".ci", "COMPATIBILITY.md", "PROTOCOL.md", "pyproject.toml")
PACKAGE = "@anthropic-ai/claude-code"
# By version: what becomes of every line that the CLI writes, as text to be replaced and its replacement.
RELEASES = {
    "2.1.998": ("", ""),
    "2.1.999": ('"type":"text_delta","text":', '"type":"text_delta","words":'),
}
FILTER = """\
#!{python}
import signal, subprocess, sys
cli = subprocess.Popen([{cli!r}, *sys.argv[1:]], stdout=subprocess.PIPE, text=True, encoding="utf-8")
signal.signal(signal.SIGTERM, lambda *_: cli.terminate())
for line in cli.stdout:
    line = line.replace({proven!r}, {version!r})
    print(line.replace({old!r}, {new!r}) if {old!r} else line, end="", flush=True)
sys.exit(abs(cli.wait()))
"""


def packed(version: str, old: str, new: str) -> bytes:
    """The package of a release, as npm packs it."""
    program = FILTER.format(
        python=sys.executable, cli=os.environ["CLAUDE_CLI"], proven=NEWEST_PROVEN, version=version, old=old, new=new
    )
    described = {"name": PACKAGE, "version": version, "bin": {"claude": "cli.js"}}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in (("package.json", json.dumps(described)), ("cli.js", program)):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size, entry.mode = len(text), 0o755
            archive.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


class Registry(BaseHTTPRequestHandler):
    """As much of npm's registry as `npm view` and `npm install` ask for."""

    packages: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        version = self.path.rpartition("/")[2].removesuffix(".tgz")
        if version in self.packages:
            return self._answer(200, self.packages[version])
        if self.path.split("?")[0].lower() not in (f"/{PACKAGE}", f"/{PACKAGE.replace('/', '%2f')}"):
            return self._answer(404, b"{}")
        host = self.headers["host"]
        described: dict[str, Any] = {}
        for version, package in self.packages.items():
            described[version] = {
                "name": PACKAGE, "version": version, "bin": {"claude": "cli.js"},
                "dist": {
                    "tarball": f"http://{host}/{PACKAGE}/-/{version}.tgz",
                    "integrity": f"sha512-{b64encode(hashlib.sha512(package).digest()).decode()}",
                },
            }  # fmt: skip
        times = dict.fromkeys(self.packages, "2026-12-01T00:00:00.000Z")
        document = {
            "name": PACKAGE, "dist-tags": {"latest": max(described)}, "versions": described,
            "time": times | {"created": "2026-12-01T00:00:00.000Z", "modified": "2026-12-01T00:00:00.000Z"},
        }  # fmt: skip
        return self._answer(200, json.dumps(document).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    Registry.packages = {version: packed(version, *change) for version, change in RELEASES.items()}
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def git(folder: Path, *arguments: str) -> str:
    name = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    return subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


class Repository:
    """A clone of its own, with a remote, and what `gh` was asked."""

    def __init__(self, home: Path, registry: str) -> None:
        self.path = home / "checkout"
        self.remote = home / "remote"
        self._asked = home / "asked"
        self.path.mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.path / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, self.path)
        git(home, "init", "--quiet", "--bare", str(self.remote))
        git(self.path, "init", "--quiet", "--initial-branch", "main")
        git(self.path, "add", "--all")
        git(self.path, "commit", "--quiet", "--message", "x")
        git(self.path, "remote", "add", "origin", str(self.remote))
        git(self.path, "push", "--quiet", "origin", "main")
        programs = home / "bin"
        programs.mkdir()
        # It knows of no open issue.
        gh = programs / "gh"
        gh.write_text(f'#!/bin/sh\n[ "$2" = list ] || printf "%s\\n" "$@" >>"{self._asked}"\n')
        gh.chmod(0o755)
        self._environ = os.environ | {
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CONFORMANCE_CACHE": str(home / "cache"),
            "npm_config_registry": registry, "npm_config_cache": str(home / "npm"),
        }  # fmt: skip

    def run(self, *arguments: str) -> str:
        ran = subprocess.run(
            [self.path / ".ci" / "cli-release", *arguments], cwd=self.path, env=self._environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout
        return ran.stdout

    @property
    def asked(self) -> str:
        return self._asked.read_text() if self._asked.exists() else ""


@pytest.fixture
def repository(tmp_path: Path, registry: str) -> Repository:
    return Repository(tmp_path, registry)


def test_a_release_that_holds_becomes_one_pull_request(repository: Repository, tmp_path: Path) -> None:
    found = str(tmp_path / "found")
    repository.run("judge", "2.1.998", found, "chat/plain")
    git(repository.path, "reset", "--quiet", "--hard")
    repository.run("propose", found)
    title, _, body = repository.asked.partition("--body\n")
    assert title.split("\n")[:2] == ["pr", "create"]
    assert "2.1.998 is compatible" in title
    assert "VERDICT: 2.1.998 is compatible" in body
    changed = git(repository.remote, "diff", "--name-only", "main", "cli-2.1.998").split()
    assert {"fixtures/versions.jsonl", "fixtures/transcripts/2.1.998/chat/plain.jsonl"} <= set(changed)
    known = git(repository.remote, "show", "cli-2.1.998:proxy/protocol/known_lines.py")
    assert "NEWEST: Final = (2, 1, 998)" in known
    git(repository.path, "switch", "--quiet", "main")
    once = repository.asked
    assert "has been proposed" in repository.run("propose", found)
    assert repository.asked == once


def test_a_release_that_breaks_becomes_an_issue(repository: Repository, tmp_path: Path) -> None:
    found = str(tmp_path / "found")
    repository.run("judge", "latest", found, "chat/plain")
    repository.run("propose", found)
    title, _, body = repository.asked.partition("--body\n")
    assert title.split("\n")[:2] == ["issue", "create"]
    assert "2.1.999 is broken" in title
    assert "chat/plain" in body
    assert git(repository.remote, "branch", "--list").split() == ["main"]


def test_a_release_that_has_been_judged_is_let_be(repository: Repository, tmp_path: Path) -> None:
    found = str(tmp_path / "found")
    assert "has been judged" in repository.run("judge", NEWEST_PROVEN, found)
    repository.run("propose", found)
    assert repository.asked == ""
