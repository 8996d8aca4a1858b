"""Which servers run with a state directory, so that they can be told to read their settings again."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy.settings.paths import make_private
from proxy.usage.servers import process_mark

FOLDER: Final = "servers"


@contextlib.contextmanager
def registered(directory: Path) -> Iterator[None]:
    """While a server of this process runs: a file with its number, and with what tells it from a later process of the
    same number. It takes SIGHUP by then. Raises OSError."""
    folder = directory / FOLDER
    make_private(folder)
    path = folder / str(os.getpid())
    path.touch(mode=0o600)
    path.write_text(process_mark(os.getpid()) or "")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def reload(directory: Path) -> int:
    """Send SIGHUP to every server of the directory; how many there are. What dead ones left is taken away."""
    told = 0
    with contextlib.suppress(FileNotFoundError):
        for path in (directory / FOLDER).iterdir():
            if not path.name.isdigit():
                continue
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if process_mark(int(path.name)) != path.read_text():
                    path.unlink()
                    continue
                os.kill(int(path.name), signal.SIGHUP)
                told += 1
    return told
