"""Memory that may still be used: that of the system, and of the container if it has a limit. Linux tells it."""

from __future__ import annotations

import contextlib
from pathlib import Path


def available(root: Path = Path("/")) -> int | None:
    """In bytes; None where it is not told. `root`: where `proc` and `sys` are found."""
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
