"""Which server a row belongs to, and whether it still lives."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


def process_mark(pid: int) -> str | None:
    """What tells a process from a later one of the same number; None when there is none of this number."""
    if _BOOT.exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            return None if fields[0] in ("Z", "X") else f"{fields[19]}@{_BOOT.read_text().strip()}"
        except OSError:
            return None
    said = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return said.stdout.strip() or None


def this_server() -> str:
    """What rows that this process opens are marked with."""
    return f"{os.getpid()} {process_mark(os.getpid())}"


def gone(server: str) -> bool:
    """Whether the process of this mark is no more."""
    pid, _, mark = server.partition(" ")
    return not pid.isdecimal() or process_mark(int(pid)) != mark
