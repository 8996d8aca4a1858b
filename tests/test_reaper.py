"""proxy/cli/reaper.py: what is left of a server that was killed, and of a reaper that was."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.cli import reaper as reapers
from proxy.cli.reaper import Reaper
from tests.conftest import alive, until
from tests.outcomes import Expects
from tests.served import wait_for

# Deaf to everything but SIGKILL, and so is what it starts.
DEAF = "trap '' TERM HUP INT PIPE; (while :; do sleep 0.05; done) & echo $!; while :; do sleep 0.05; done"


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    reaper = Reaper()
    yield reaper
    reaper.end()


@pytest.fixture
def sleepers() -> Iterator[list[int]]:
    """Process groups of one sleeper each."""
    processes = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(4)]
    yield [process.pid for process in processes]
    for process in processes:
        process.kill()
        process.wait()


def close(reaper: Reaper) -> None:
    """What the kernel does when the server dies."""
    assert reaper._pipe is not None
    os.close(reaper._pipe)
    reaper._pipe = None
    os.waitpid(reaper.pid, 0)


def test_what_is_watched_ends_with_the_pipe_and_nothing_else(reaper: Reaper, sleepers: list[int]) -> None:
    kept, ended, forgotten, unknown = sleepers
    for group in (kept, ended, forgotten):
        reaper.watch(group)
    reaper.forget(forgotten)
    reaper.forget(unknown)
    close(reaper)
    wait_for(lambda: not alive(kept) and not alive(ended), 2, "both are killed")
    assert alive(forgotten)
    assert alive(unknown)


def test_a_reaper_that_was_killed_is_followed_by_another(reaper: Reaper, sleepers: list[int]) -> None:
    first, second, *_ = sleepers
    reaper.watch(first)
    killed = reaper.pid
    os.kill(killed, signal.SIGKILL)
    os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
    reaper.watch(second)
    assert reaper.pid != killed
    with pytest.raises(ChildProcessError):
        os.waitpid(killed, os.WNOHANG)  # it is no zombie
    close(reaper)
    wait_for(lambda: not alive(first) and not alive(second), 2, "the new one knows all")


def test_a_reaper_that_does_not_listen_is_replaced(reaper: Reaper, sleepers: list[int]) -> None:
    reaper.watch(sleepers[0])
    stopped = reaper.pid
    os.kill(stopped, signal.SIGSTOP)
    for _ in range(10_000):
        reaper.watch(sleepers[1])
        reaper.forget(sleepers[1])
    assert reaper.pid != stopped
    close(reaper)
    wait_for(lambda: not alive(sleepers[0]), 2, "the new one knows it")
    assert alive(sleepers[1])


def test_where_no_shell_can_be_started_it_is_tried_again(
    reaper: Reaper, sleepers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    with monkeypatch.context() as patched:
        patched.setattr("os.posix_spawn", lambda *_, **__: os.open("/nowhere/at/all", 0))
        reaper.watch(sleepers[0])
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == before
    reaper.watch(sleepers[1])
    close(reaper)
    wait_for(lambda: not alive(sleepers[0]) and not alive(sleepers[1]), 2, "both are killed")


def _start_server(tmp_path: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A server with one child that has one itself; and the pids of the two and of the reaper."""
    program = f"""
        import asyncio, os
        from proxy.cli import process, reaper
        async def main():
            child = await process.Child.start(process.Launch(
                ("/bin/sh", "-c", {DEAF!r}), {{"PATH": os.environ["PATH"]}}, {str(tmp_path)!r}))
            said, *_ = await child.read()
            print(child.pid, int(said.start), reaper.REAPER.pid, flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
    """
    server = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert server.stdout is not None
    with server.stdout as out:
        return server, [*map(int, out.readline().split())]


@pytest.mark.parametrize("whole_group", [False, True])
def test_a_server_killed_with_sigkill_leaves_nothing(tmp_path: Path, whole_group: bool) -> None:
    server, pids = _start_server(tmp_path)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(pids[-1], number)  # as a terminal or a service manager may, before it kills
    assert all(map(alive, pids))
    if whole_group:
        os.killpg(server.pid, signal.SIGKILL)
    else:
        server.kill()
    server.wait()
    wait_for(lambda: not any(map(alive, pids)), 2, "children and reaper ended with the server")


def _shells_of(server: int) -> list[int]:
    """The reapers of this server."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == server and (entry / "cmdline").read_bytes().startswith(b"sh\0-c\0\ncd /\n"):
                found.append(int(entry.name))
    return [pid for pid in found if alive(pid)]


def test_killed_itself_before_the_server_it_is_followed_by_one_that_knows_all_children(
    tmp_path: Path, expects: Expects
) -> None:
    expects("faults", "SIGKILL of the reaper, twice, then of the server", "another reaper at once; no child left")
    server, (*children, reaper) = _start_server(tmp_path)
    for _ in range(2):
        os.kill(reaper, signal.SIGKILL)
        wait_for(lambda: [pid for pid in _shells_of(server.pid) if pid != reaper], 5, "another one")  # noqa: B023
        (reaper,) = _shells_of(server.pid)
    assert all(map(alive, children))
    server.kill()
    server.wait()
    wait_for(lambda: not any(map(alive, children)), 2, "the children ended with the server")


async def test_one_that_cannot_be_started_again_is_tried_again(
    reaper: Reaper, sleepers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reapers, "MIN_PAUSE", 0.01)
    reaper.watch(sleepers[0])
    killed = reaper.pid
    tries: list[object] = []

    def fail(*arguments: object, **_: object) -> int:
        tries.append(arguments)
        raise OSError("no more processes")

    with monkeypatch.context() as patched:
        patched.setattr("os.posix_spawn", fail)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: len(tries) > 2, 5, "it was tried")
    await until(lambda: reaper.pid != killed and reaper._pipe is not None, 5, "another one")
    close(reaper)
    wait_for(lambda: not alive(sleepers[0]), 2, "it knows all")


async def test_without_children_no_other_is_started(
    reaper: Reaper, sleepers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reapers, "MIN_PAUSE", 0.0)
    reaper.watch(sleepers[0])
    reaper.forget(sleepers[0])
    os.kill(reaper.pid, signal.SIGKILL)
    await until(lambda: reaper._pipe is None, 5, "its end is noticed")
    await asyncio.sleep(0.05)
    assert reaper._pipe is None
