"""Memory: of the system, of the container if it has a limit, and of one process."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from proxy.cli.capacity import Memory


def available(root: Path = Path("/")) -> int | None:
    """What may still be used, in bytes; None where it is not told (only Linux does).

    `root`: where `proc` and `sys` are found.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError, KeyError):
        group = root / "sys/fs/cgroup"
        most, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # Pages of files that have not been looked at lately count as used, and are given up when they are needed.
        found.append(most - used + int(stat["inactive_file"]))
    return min(found, default=None)


def total(root: Path = Path("/")) -> int | None:
    """All there is, in bytes; None where it is not told."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):
        found.append(int((root / "sys/fs/cgroup/memory.max").read_text()))
    return min(found, default=None)


def read() -> Memory:
    """Now."""
    return Memory(available(), total())


def pss(pid: int, root: Path = Path("/")) -> int | None:
    """What a process takes, in bytes: its own pages, and its share of those that it has in common with others (PSS).

    None where it is not told (only Linux does), or when there is no such process. Takes some milliseconds.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / f"proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None
