"""Puts a released CLI, or another package, into a cache, from npm."""

import argparse
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

PACKAGE = "@anthropic-ai/claude-code"


class NotInstalled(Exception):
    """The version cannot be had, and why."""


def cache() -> Path:
    """Where CLIs are kept: CONFORMANCE_CACHE, else the user's cache directory."""
    given = os.environ.get("CONFORMANCE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "claude-max-api-proxy" / "cli"


def latest() -> str:
    """The newest released version. Raises NotInstalled."""
    return npm("view", PACKAGE, "version").strip()


def install(version: str) -> Path:
    """The binary of that version, installed if it is not there yet. Raises NotInstalled, with npm's own words."""
    target = cache() / version
    if (cli := _binary(target)) is None:
        _fetch(PACKAGE, version, target)
        cli = _binary(target)
    if cli is None:
        raise NotInstalled(f"{PACKAGE}@{version} was installed, but holds no binary for this machine")
    if (found := version_of(cli)) != version:
        raise NotInstalled(f"the cache says {version}, the binary says {found}: remove {target} and try again")
    return cli


def modules(package: str, version: str) -> Path:
    """The `node_modules` with that package, installed if it is not there yet. Raises NotInstalled, as above.

    With CONFORMANCE_CLIENTS=latest in the environment the newest version is taken instead.
    """
    if os.environ.get("CONFORMANCE_CLIENTS") == "latest":
        version = npm("view", package, "version").strip()
    target = cache() / f"{package}-{version}"
    if not (target / "node_modules" / package / "package.json").exists():
        _fetch(package, version, target)
    return target / "node_modules"


def remove(version: str) -> None:
    """Takes a version out of the cache again."""
    shutil.rmtree(cache() / version, ignore_errors=True)


def has(version: str) -> bool:
    """Whether it is in the cache."""
    return _binary(cache() / version) is not None


def _fetch(package: str, version: str, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    npm(
        "install", "--prefix", str(target), "--no-save", "--no-audit", "--no-fund", "--ignore-scripts",
        f"{package}@{version}",
    )  # fmt: skip


def version_of(cli: Path) -> str:
    """What `--version` of a CLI says. Raises NotInstalled if it does not run."""
    try:
        ran = subprocess.run([cli, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as fault:
        raise NotInstalled(f"{cli} --version failed: {fault}") from fault
    return ran.stdout.split(" ")[0].strip()


def _binary(target: Path) -> Path | None:
    # The package with the native binary is a dependency named after the machine; the post-install script that would
    # copy it is not run. Older releases have a script for node instead.
    modules = target / "node_modules" / "@anthropic-ai"
    native = [path for path in sorted(modules.glob("claude-code-*/claude")) if os.access(path, os.X_OK)]
    script = modules / "claude-code" / "cli.js"
    return native[0] if native else script if script.exists() else None


def npm(*arguments: str) -> str:
    """What npm writes to its stdout. Raises NotInstalled, with npm's own words."""
    program = shutil.which("npm")
    if program is None:
        raise NotInstalled("npm is not on the PATH; it is needed to install a CLI")
    try:
        ran = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"npm {' '.join(arguments)} took longer than 15 minutes") from None
    if ran.returncode:
        raise NotInstalled(f"npm {' '.join(arguments)} failed:\n{ran.stderr.strip()[-2000:]}")
    return ran.stdout


def main(arguments: Sequence[str]) -> int:
    """`install`: prints the binary's path."""
    parser = argparse.ArgumentParser(prog="python -m conformance install", description=__doc__)
    parser.add_argument("version", help="a version or `latest`")
    wanted = parser.parse_args(arguments).version
    try:
        print(install(latest() if wanted == "latest" else wanted))
    except NotInstalled as fault:
        print(fault)
        return 1
    return 0
