"""What the process needs before it does anything: standard streams that are open, and an orderly end when it is told to
stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Final

# As the shell has it: 128 and the signal's number.
TERMINATED: Final = 128 + signal.SIGTERM


def open_standard_streams() -> None:
    """Open those that the parent has closed: otherwise a socket gets their number, and what is printed goes there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - stays open
        elif mode == "w":
            # A path may hold bytes that are no text.
            with contextlib.suppress(AttributeError):
                stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print it. Nobody may be there to read it any more: that ends neither the server nor its exit code."""
    try:
        print(text, flush=True)  # noqa: T201 - what the command says
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(TERMINATED)


@contextlib.contextmanager
def orderly_termination() -> Iterator[None]:
    """SIGTERM ends what is under way as an exception does, so that temporary files go and children are ended."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
