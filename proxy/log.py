"""Log lines on their way to stderr. Whoever logs never waits: stderr may be a pipe that nobody reads for a while.

Lines go into a bounded buffer, and a thread writes them. When the buffer is full lines are dropped and counted; the
next line that finds room is preceded by one that tells how many.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections import deque
from typing import Final

MAX_BYTES: Final = 1 << 20
# At the end the lines that are left get this long (seconds) to be written.
MAX_CLOSE_WAIT: Final = 1.0


class BufferedHandler(logging.Handler):
    """Writes records to a file descriptor from a thread. `max_bytes`: the size of the buffer."""

    def __init__(self, fd: int = 2, max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self._fd = fd
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._closing = False
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._run, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 (a line that cannot be made is no reason to fail; as in logging's own handlers)
            self.handleError(record)
            return
        with self._changed:
            if self._size + len(line) > self._max_bytes:
                self._dropped += 1
                return
            if self._dropped:
                self._append(self._note())
            self._append(line)
            self._changed.notify()

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)

    def _note(self) -> bytes:
        dropped, self._dropped = self._dropped, 0
        return f"{dropped} log lines were dropped because stderr was not read.\n".encode()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._lines or self._dropped or self._closing):
                    self._changed.wait()
                if not self._lines and self._dropped:
                    self._append(self._note())
                if not self._lines:
                    return
                line = self._lines.popleft()
            # One that cannot be written (stderr is closed) is lost: there is nobody to tell.
            with contextlib.suppress(OSError):
                self._write(line)
            with self._changed:
                self._size -= len(line)

    def _write(self, line: bytes) -> None:
        while line:
            try:
                line = line[os.write(self._fd, line) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()

    def close(self) -> None:
        """Write what is left, as far as it can be written at once."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._writer.join(MAX_CLOSE_WAIT)
        super().close()
