"""Ends the children of a server that was killed with SIGKILL.

A shell of a few lines waits beside the server and is told over a pipe of every child's process group. However the
server goes, the kernel closes the pipe; then the shell kills the groups that it knows, and ends. It is in a process
group of its own and deaf to what ends the server in order, so that it is the last to go. Should it be killed itself, a
second pipe, which it holds open and never writes to, tells the server, which starts another.

PR_SET_PDEATHSIG would be Linux's alone and reach the child but not what that has started; it has to be set between fork
and exec, which costs either vfork (`preexec_fn`) or a second exec for every child (`setpriv`: a small child's start
takes twice as long).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Final

SCRIPT: Final = """
cd /
groups=' '
while read -r sign group; do
  case $sign in
    +) groups="$groups$group " ;;
    -) groups="${groups%% $group *} ${groups#* $group }" ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
"""
DEAF_TO: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
# Seconds between two starts of the shell, if it does not live.
MIN_PAUSE: Final = 1.0


class Reaper:
    """Watches over process groups. Its shell is started with the first one, and anew should it have been killed.

    Within an event loop that is noticed at once, else at the next change.
    """

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._pipe: int | None = None
        # What the shell holds open, and the loop in which its end is noticed.
        self._life: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begun_at = 0.0
        self.pid = 0

    def watch(self, group: int) -> None:
        """From now on `group` does not outlive this process; if no shell can be started, from the next change on."""
        self._groups.add(group)
        self._tell(f"+ {group}\n")

    def forget(self, group: int) -> None:
        """`group` has ended."""
        if group in self._groups:
            self._groups.remove(group)
            self._tell(f"- {group}\n")

    def _tell(self, line: str) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # it is gone, or does not listen
                os.write(self._pipe, line.encode())
                return
            self.end()
        with contextlib.suppress(OSError):  # nothing more can be started: it is tried again at the next change
            self._begin()

    def _begin(self) -> None:
        reading, self._pipe = os.pipe()
        self._life, held = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            self.pid = os.posix_spawn(
                "/bin/sh", ("sh", "-c", SCRIPT), {}, setpgroup=0, setsigmask=DEAF_TO,
                file_actions=(
                    (os.POSIX_SPAWN_DUP2, reading, 0), (os.POSIX_SPAWN_DUP2, held, 1),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                ),
            )  # fmt: skip
        except OSError:
            self._close()
            raise
        finally:
            os.close(reading)
            os.close(held)
        with contextlib.suppress(RuntimeError):  # there is no loop
            self._loop = asyncio.get_running_loop()
            self._begun_at = self._loop.time()
            self._loop.add_reader(self._life, self._lost)
        os.write(self._pipe, "".join(f"+ {group}\n" for group in self._groups).encode())

    def _lost(self) -> None:
        """The shell has ended: another one takes its place, at once unless this one did not live."""
        assert self._loop is not None
        loop, begun_at = self._loop, self._begun_at
        self.end()
        loop.call_at(max(loop.time(), begun_at + MIN_PAUSE), self._begin_again, loop)

    def _begin_again(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._groups and self._pipe is None:
            try:
                self._begin()
            except OSError:
                loop.call_later(MIN_PAUSE, self._begin_again, loop)

    def _close(self) -> None:
        if self._loop is not None and self._life is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._life)
        self._loop = None
        for fd in (self._pipe, self._life):
            if fd is not None:
                os.close(fd)
        self._pipe = self._life = None

    def end(self) -> None:
        """End the shell, and leave the groups alone."""
        if self._pipe is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
        self._close()


REAPER: Final = Reaper()
