"""Memory: of the system, of the container if it has a limit, and of one process; and how many of these there may be."""

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


def tasks(root: Path = Path("/")) -> int | None:
    """How many processes and threads the container, or the control group of the server, may still have; None where
    there is no limit, or none is told."""
    bases = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/pids"]
    groups = list(bases)
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "pids"):
                groups.append(bases[controllers == "pids"] / path.lstrip("/"))
    found = []
    for group in groups:
        with contextlib.suppress(OSError, ValueError):
            most, used = (int((group / name).read_text()) for name in ("pids.max", "pids.current"))
            found.append(max(0, most - used))
    return min(found, default=None)


def read() -> Memory:
    """Now."""
    return Memory(available(), total(), tasks())


def pss(pid: int, root: Path = Path("/")) -> int | None:
    """What a process takes, in bytes: its own pages, and its share of those that it has in common with others (PSS).

    None where it is not told (only Linux does), or when there is no such process. Takes some milliseconds.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / f"proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None
