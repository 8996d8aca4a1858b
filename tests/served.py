"""The server as a process of its own, on a fake CLI, for tests that kill it, fill its disk or look at its files."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.conftest import PATIENCE, children_of

ROOT = Path(__file__).parent.parent


class Served:
    """`with Served(cli, state) as server`: ready at `server.url`. `settings`: variables of its environment.

    `wrapper`: a command to put before the server's, such as one that limits it; `arguments`: more of the server's own.
    `stderr`: a descriptor to log to. `port`: where it is to listen; 0: anywhere.
    """

    def __init__(
        self,
        cli: Path,
        state: Path,
        settings: Mapping[str, str] | None = None,
        *,
        wrapper: tuple[str, ...] = (),
        arguments: tuple[str, ...] = (),
        stderr: int | None = None,
        port: int = 0,
    ) -> None:
        self.cli = cli
        self.state = state
        self.usage = state / "usage.sqlite3"
        self._log = state.parent / f"{state.name}.log"
        self._command = (*wrapper, sys.executable, "-m", "proxy", str(port), *arguments)
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(state.parent),
            "PYTHONPATH": str(ROOT),
            "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-anything",
            "CLAUDE_PROXY_CLI": str(cli),
            "CLAUDE_PROXY_STATE_DIR": str(state),
            "CLAUDE_PROXY_WAITING": "1",
            "CLAUDE_PROXY_GRACE": "1",
            # A coverage run follows the server, too.
            **{name: value for name, value in os.environ.items() if name.startswith("COV")},
            **(settings or {}),
        }
        self._stderr = stderr
        self.url = f"http://127.0.0.1:{port}" if port else ""

    def start(self) -> None:
        """Start it, and do not wait for more."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, cwd=self.state.parent, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=log if self._stderr is None else self._stderr, text=True,
            )  # fmt: skip

    def __enter__(self) -> Self:
        self.start()
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "Address" in line:
                self.url = line.split()[-1]
            if line.startswith("Press Ctrl-C"):
                return self
        self.__exit__(None, None, None)
        raise RuntimeError(f"the server does not start:\n{self.log()[-2000:]}")

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(signal.SIGTERM)

    def end(self, number: signal.Signals, seconds: float = PATIENCE) -> int:
        """Send the signal and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()

    def children(self) -> list[int]:
        """Processes of its CLI that are alive."""
        return children_of(self.cli.parent)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def get(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=PATIENCE, trust_env=False, **more)

    def chat(self, body: Mapping[str, Any], **more: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=PATIENCE, trust_env=False, **more)

    def rows(self, limit: int = 100) -> list[dict[str, Any]]:
        """The latest requests, also those that are under way."""
        found: list[dict[str, Any]] = self.get(f"/v1/usage/recent?limit={limit}").json()["data"]
        return found

    def recent(self, limit: int = 100) -> list[dict[str, Any]]:
        """The latest requests, once all have ended: for its client an answer ends before its row is complete."""
        found: list[dict[str, Any]] = []

        def complete() -> bool:
            found[:] = self.rows(limit)
            return all(row["outcome"] != "running" for row in found)

        wait_for(complete, PATIENCE, "every row is complete")
        return found

    def recent_of(self, secret: str) -> list[dict[str, Any]]:
        """The latest requests, asked for with a key."""
        answer = self.get("/v1/usage/recent", headers={"authorization": f"Bearer {secret}"})
        found: list[dict[str, Any]] = answer.json()["data"]
        return found

    def memory(self) -> float:
        """Resident, in MB."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def entries(directory: Path) -> Iterator[tuple[Path, int, bytes]]:
    """The directory and all that is below it: path, mode, and the content of files.

    What is gone when it is looked at is left out: a server's processes and database have files that come and go.
    """
    for path in (directory, *directory.rglob("*")):
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            yield path, mode, path.read_bytes() if stat.S_ISREG(mode) else b""


def wait_for(condition: Any, seconds: float, what: str) -> None:
    """Wait until it holds; fails after so many seconds (at least `PATIENCE`)."""
    seconds = max(seconds, PATIENCE)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processor, its children aside."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
