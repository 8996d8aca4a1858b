"""One child process: starting it, its bytes in and out, and ending it with all that it started.

- A child is the leader of its own session and process group; ending it ends the group: SIGTERM, then SIGKILL.
- It dies with the server, even when that is killed with SIGKILL: the reaper sees to it.
- A child that goes before it has read its stdin costs nothing but itself: writing to it is not an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from proxy.cli.reaper import REAPER
from proxy.cli.unproven import UNPROVEN
from proxy.protocol.line_decoder import LineDecoder
from proxy.protocol.lines import Line, label

log: Final = logging.getLogger("proxy.cli")

# Bytes of stderr kept for error messages.
STDERR_KEPT: Final = 8192
# Lines and bytes decoded but not yet taken: above either the pipe is left alone until they are (back-pressure).
MAX_LINES_UNREAD: Final = 1000
MAX_BYTES_UNREAD: Final = 256 << 10
# Bytes handed to its stdin at once.
WRITTEN_AT_ONCE: Final = 256 << 10
# What the system has none of for the moment, by the error of a start: descriptors, processes, memory.
USED_UP: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM))
# Seconds between SIGTERM and SIGKILL; an idle CLI needs 0.05 to 0.1.
STOP_GRACE: Final = 2.0
# Longest wait for the end of its stderr once it has exited: some other process may hold it open.
STDERR_WAIT: Final = 0.5
# A line that grows beyond this is no line of the CLI: it is ended.
MAX_LINE: Final = 256 << 20


class Launch(Struct, frozen=True):
    """How to start the CLI: full argument list, whole environment, working directory."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str


class Child(asyncio.SubprocessProtocol):
    """A running CLI. Made by `start`; `read` gives its lines, `write` feeds it, `stop` ends it."""

    def __init__(self) -> None:
        self._decoder = LineDecoder(UNPROVEN.watch())
        self._lines: list[Line] = []
        self._waiter: asyncio.Future[None] | None = None
        self._stderr = bytearray()
        self._unread = 0
        self._unwritten: deque[memoryview] = deque()
        self._writing_paused = False
        self._paused = False
        self._ended = False
        self._stderr_ended = False
        self._reaped = False
        self._suspended = False
        self._unwanted = False
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._stdout: asyncio.ReadTransport | None = None
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._killed_because = ""
        self.pid = 0
        self.bytes_read = 0
        # Its memory in bytes, and the loop time at which that was measured.
        self.memory: int | None = None
        self.measured_at = 0.0

    @classmethod
    async def start(cls, launch: Launch) -> Child:
        """Start the CLI. Raises OSError when it cannot be started."""
        child = cls()
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: child, *launch.argv,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=launch.env, cwd=launch.cwd, start_new_session=True,
            )  # fmt: skip
        except Exception as error:
            # It may run all the same: what failed may be to watch over it.
            child._unwanted = True
            if isinstance(error, RuntimeError):
                # Where children are watched by threads there is none left for this one.
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
            raise
        return child

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport
        self.pid = transport.get_pid()
        if self._unwanted:
            self.kill()
            # Nobody else waits for it, and it is gone at once.
            with contextlib.suppress(subprocess.TimeoutExpired):
                transport.get_extra_info("subprocess").wait(STOP_GRACE)
            transport.close()
            return
        REAPER.watch(self.pid)
        stdin, stdout = transport.get_pipe_transport(0), transport.get_pipe_transport(1)
        assert isinstance(stdin, asyncio.WriteTransport)
        assert isinstance(stdout, asyncio.ReadTransport)
        self._stdin, self._stdout = stdin, stdout

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._stderr += data
            del self._stderr[:-STDERR_KEPT]
            return
        self.bytes_read += len(data)
        self._unread += len(data)
        lines = self._decoder.feed(data)
        if lines:
            self._lines += lines
            self._wake()
            if log.isEnabledFor(logging.DEBUG):
                log.debug("child %d: %s", self.pid, ", ".join(map(label, lines)))
        if not self._lines:
            # A line that is not complete yet must be read on, or nobody would ever take it.
            if self._unread > MAX_LINE:
                self.kill()
        elif len(self._lines) > MAX_LINES_UNREAD or self._unread > MAX_BYTES_UNREAD:
            self._pause_reading()

    def _pause_reading(self) -> None:
        if not self._paused and self._stdout is not None and not self._stdout.is_closing():
            self._paused = True
            self._stdout.pause_reading()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._write_on()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 0:
            self._unwritten.clear()
        if fd == 1:
            self._lines += self._decoder.close()
            self._ended = True
            self._wake()
        if fd == 2:
            self._stderr_ended = True
            self._tell_exit()

    def process_exited(self) -> None:
        # What it left behind would hold its pipes open, and so keep the answer from ending.
        self._signal_group(signal.SIGKILL)
        self._reaped = True
        REAPER.forget(self.pid)
        self._tell_exit()
        if not self.exited.done():
            asyncio.get_running_loop().call_later(STDERR_WAIT, self._tell_exit, True)

    def _tell_exit(self, late: bool = False) -> None:
        # That it has exited may be known before its last words are read.
        if self._reaped and (self._stderr_ended or late) and not self.exited.done():
            self.exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # For the conversation.

    @property
    def alive(self) -> bool:
        """It has neither exited nor closed its stdout."""
        return not self._ended and not self._reaped

    @property
    def has_lines(self) -> bool:
        """`read` would not have to wait for lines."""
        return bool(self._lines)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return None if self._transport is None else self._transport.get_returncode()

    @property
    def stderr(self) -> str:
        """The end of what it wrote to stderr."""
        return self._stderr.decode(errors="replace").strip()

    @property
    def last_error_line(self) -> str:
        """Why it was killed, or the last line that it wrote to stderr, shortened; empty if there is neither."""
        return self._killed_because or (self.stderr.splitlines() or [""])[-1][:300]

    async def read(self) -> list[Line]:
        """The lines written since the last call, at least one; an empty list once it has closed its stdout."""
        while not self._lines and not self._ended:
            self._waiter = waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                # Another reader may have taken over when this one was cancelled.
                if self._waiter is waiter:
                    self._waiter = None
        lines, self._lines = self._lines, []
        self._unread = 0
        if self._paused and self._stdout is not None and not self._stdout.is_closing():
            self._paused = False
            self._stdout.resume_reading()
        return lines

    def write(self, data: bytes) -> None:
        """Queue bytes for its stdin. Nothing happens if it is gone: `read` will say so."""
        if self._stdin is not None and not self._stdin.is_closing():
            self._unwritten.append(memoryview(data))
            self._write_on()

    def _write_on(self) -> None:
        """As much as its pipe takes: what the transport cannot write it copies, all of it at once."""
        while self._unwritten and not self._writing_paused and self._stdin is not None and not self._stdin.is_closing():
            data = self._unwritten.popleft()
            if len(data) > WRITTEN_AT_ONCE:
                self._unwritten.appendleft(data[WRITTEN_AT_ONCE:])
            self._stdin.write(data[:WRITTEN_AT_ONCE])

    def _signal_group(self, number: signal.Signals) -> None:
        # Once it is known to have exited its number may be another's.
        if self.pid and not self._reaped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def stop(self, grace: float) -> None:
        """End the whole group: SIGTERM, after `grace` seconds SIGKILL. Returns when the child is gone."""
        if self._transport is None:
            return
        if not self.exited.done():
            self._signal_group(signal.SIGTERM)
            self.resume()
            await asyncio.wait([self.exited], timeout=grace)
        # If it did not listen. What it has left behind goes when it does.
        self._signal_group(signal.SIGKILL)
        # Not awaited itself: when this is cancelled the future must not be.
        await asyncio.wait([self.exited])
        self._transport.close()

    def pause(self) -> None:
        """Take the processor away from it until `resume`."""
        if not self._suspended:
            self._suspended = True
            self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        if self._suspended:
            self._suspended = False
            self._signal_group(signal.SIGCONT)

    def kill(self, because: str = "") -> None:
        """End the whole group at once, without waiting. `because`: for error messages."""
        self._killed_because = because
        self._signal_group(signal.SIGKILL)
