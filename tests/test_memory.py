"""proxy/cli/memory.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.cli.memory import available


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
