"""How the C library keeps memory that is free again."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

# glibc's `M_MMAP_THRESHOLD`, and the bytes of a block from which on it comes from the system by itself.
_MMAP_THRESHOLD: Final = -3
LARGE: Final = 1024 * 1024


def give_back_large_blocks() -> None:
    """Have blocks of a megabyte or more go back to the system when they are free, where that can be said (glibc).

    By itself glibc does so up to the first that is freed, and takes others of that size from its heap from then on: one
    hour with large bodies would be remembered in gigabytes for ever.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, LARGE)
