"""Ends the children of a server that was killed with SIGKILL.

A shell of a few lines waits beside the server and is told over a pipe of every child's process group. However the
server goes, the kernel closes the pipe; then the shell kills the groups that it knows, and ends. It is in a process
group of its own and deaf to what ends the server in order, so that it is the last to go.

PR_SET_PDEATHSIG would be Linux's alone and reach the child but not what that has started; it has to be set between fork
and exec, which costs either vfork (`preexec_fn`) or a second exec for every child (`setpriv`: a small child's start
takes twice as long).
"""

from __future__ import annotations

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


class Reaper:
    """Watches over process groups. Its shell is started with the first one, and anew should it have been killed."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._pipe: int | None = None
        self.pid = 0

    def watch(self, group: int) -> None:
        """From now on `group` does not outlive this process; if no shell can be started, from the next word on."""
        self._groups.add(group)
        self._tell(f"+ {group}\n")

    def forget(self, group: int) -> None:
        """`group` has ended."""
        if group in self._groups:
            self._groups.remove(group)
            self._tell(f"- {group}\n")

    def _tell(self, words: str) -> None:
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # it is gone, or does not listen
                os.write(self._pipe, words.encode())
                return
            self.end()
        with contextlib.suppress(OSError):  # nothing more can be started: it is tried again at the next word
            self._begin()

    def _begin(self) -> None:
        reading, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        nowhere = ((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2))
        try:
            self.pid = os.posix_spawn(
                "/bin/sh", ("sh", "-c", SCRIPT), {}, setpgroup=0, setsigmask=DEAF_TO,
                file_actions=((os.POSIX_SPAWN_DUP2, reading, 0), *nowhere),
            )  # fmt: skip
        except OSError:
            os.close(self._pipe)
            self._pipe = None
            raise
        finally:
            os.close(reading)
        os.write(self._pipe, "".join(f"+ {group}\n" for group in self._groups).encode())

    def end(self) -> None:
        """End the shell, without a word to the groups."""
        if self._pipe is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            os.close(self._pipe)
            self._pipe = None


REAPER: Final = Reaper()
