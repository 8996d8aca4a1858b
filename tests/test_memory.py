"""proxy/cli/memory.py and proxy/allocation.py"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cli.memory import available, pss, read, total
from tests.outcomes import Expects
from tests.served import ROOT


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   2048000 kB\n"}, 2_048_000 << 10),
        ({"proc/meminfo": "MemAvailable: soon\n"}, None),
        ({"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "1\n"}, None),
        ({"sys/fs/cgroup/memory.max": "9\n", "sys/fs/cgroup/memory.current": "1\n"}, None),
        (
            {
                "proc/meminfo": "MemAvailable: 2048000 kB\n",
                "sys/fs/cgroup/memory.max": f"{512 << 20}\n",
                "sys/fs/cgroup/memory.current": f"{512 << 20}\n",
                "sys/fs/cgroup/memory.stat": f"anon 7\ninactive_file {400 << 20}\n",
            },
            400 << 20,
        ),
    ],
)
def test_what_is_available(tmp_path: Path, files: dict[str, str], free: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available(tmp_path) == free


def test_all_there_is(tmp_path: Path) -> None:
    whole = total(tmp_path)
    assert whole is not None
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    for limit, found in (("max", whole), (str(whole + 1), whole), (str(512 << 20), 512 << 20)):
        (group / "memory.max").write_text(f"{limit}\n")
        assert total(tmp_path) == found


def test_what_a_process_takes(tmp_path: Path) -> None:
    assert pss(7, tmp_path) is None
    (tmp_path / "proc/7").mkdir(parents=True)
    for text, found in (("", None), ("Rss: 9 kB\nPss:   40 kB\nPss_Dirty: 30 kB\n", 40 << 10), ("Pss: much\n", None)):
        (tmp_path / "proc/7/smaps_rollup").write_text(text)
        assert pss(7, tmp_path) == found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it")
def test_this_computer() -> None:
    memory = read()
    assert memory.free is not None
    assert memory.total is not None
    assert 0 < memory.free <= memory.total
    own = pss(os.getpid())
    assert own is not None
    assert 10 << 20 < own < memory.total
    assert pss(2**22 + 1) is None


_HELD = """
import os, sys
from pathlib import Path
from proxy.allocation import give_back_large_blocks
give_back_large_blocks()
LARGE = (12 << 20) + len(sys.argv)
b"x" * LARGE
blocks, between = [], []
for _ in range(20):
    blocks.append(b"x" * LARGE)
    between.append(b"x" * 100_000)
del blocks
print(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has to be told")
def test_large_blocks_go_back_to_the_system(expects: Expects) -> None:
    expects("security", "many large requests, whose memory is free again", "the system has it back")
    held = subprocess.run([sys.executable, "-c", _HELD], cwd=ROOT, check=True, capture_output=True)
    assert int(held.stdout) < 100 << 20
