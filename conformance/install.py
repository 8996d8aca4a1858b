"""Puts a released CLI, or another package, into a cache, from npm or PyPI.

Several processes may ask for the same at once: one fetches it, the others wait. What is there is complete.
"""

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    _once(target, lambda: _binary(target) is not None, lambda new: _from_npm(PACKAGE, version, new))
    if (cli := _binary(target)) is None:
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
    there = target / "node_modules" / package / "package.json"
    _once(target, there.exists, lambda new: _from_npm(package, version, new))
    return target / "node_modules"


def environment(*packages: str) -> Path:
    """The `bin` of a virtual environment with these packages of PyPI (`name==1.2.3`), made if it is not there yet.

    They come as wheels, and nothing is built. Raises NotInstalled, with uv's own words. With CONFORMANCE_CLIENTS=latest
    in the environment the newest versions are taken instead, once in a process.
    """
    newest = os.environ.get("CONFORMANCE_CLIENTS") == "latest"
    if newest:
        packages = tuple(package.partition("==")[0] for package in packages)
    target = cache() / "environments" / "+".join(packages).replace("==", "-")
    _once(target, lambda: target in _made if newest else target.exists(), lambda new: _from_pypi(packages, new))
    _made.add(target)
    return target / "bin"


_made: set[Path] = set()


def remove(version: str) -> None:
    """Takes a version out of the cache again."""
    shutil.rmtree(cache() / version, ignore_errors=True)


def has(version: str) -> bool:
    """Whether it is in the cache."""
    return _binary(cache() / version) is not None


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """No other process is at this target meanwhile. The lock goes with the process that holds it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _once(target: Path, complete: Callable[[], bool], fill: Callable[[Path], None]) -> None:
    """Makes the directory unless it is complete. `fill` makes it under another name, so that it is whole or not there.
    Raises what `fill` does."""
    if complete():
        return
    with _alone(target):
        if complete():
            return
        new = target.with_name(f"{target.name}.new")
        for old in (new, target):
            shutil.rmtree(old, ignore_errors=True)
        new.mkdir()
        fill(new)
        new.rename(target)


def _from_pypi(packages: Sequence[str], target: Path) -> None:
    # Relocatable: it is moved to its place when it is complete.
    uv("venv", "--quiet", "--relocatable", "--python", sys.executable, str(target))
    uv("pip", "install", "--quiet", "--no-build", "--python", str(target / "bin" / "python"), *packages)


def _from_npm(package: str, version: str, target: Path) -> None:
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
    return _said(program, *arguments)


def uv(*arguments: str) -> str:
    """What uv writes to its stdout. Raises NotInstalled, with uv's own words."""
    return _said(sys.executable, "-m", "uv", *arguments)


def _said(*command: str) -> str:
    words = " ".join(command)
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{words} took longer than 15 minutes") from None
    if ran.returncode:
        raise NotInstalled(f"{words} failed:\n{ran.stderr.strip()[-2000:]}")
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
