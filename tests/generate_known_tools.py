"""Adds the tools that a further CLI version knows: `python -m tests.generate_known_tools VERSION`.

Takes the output of `python -m conformance tools` on its stdin, a name a line, and rewrites
proxy/protocol/known_tools.py.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from proxy.protocol.known_tools import KNOWN_TOOLS

FILE: Final = Path(__file__).parent.parent / "proxy/protocol/known_tools.py"
_LAST: Final = re.compile(r"(?<= to )\d+\.\d+\.\d+(?=\.\n)")
_NAMES: Final = re.compile(r"(?<=frozenset\(\(\n).*?(?=^\)\))", re.DOTALL | re.MULTILINE)


def extended(text: str, version: str, names: Iterable[str]) -> str:
    """The module's text with these names, too, and the version as the newest of those that were looked at."""
    known = sorted(KNOWN_TOOLS | set(names))
    rows = textwrap.fill(" ".join(f'"{name}",' for name in known), 111, break_on_hyphens=False)
    text = _NAMES.sub(lambda _: textwrap.indent(rows, "    ") + "\n", text)
    newest = max([*_LAST.findall(text), version], key=lambda one: tuple(map(int, one.split("."))))
    return _LAST.sub(newest, text)


if __name__ == "__main__":
    FILE.write_text(extended(FILE.read_text("utf-8"), sys.argv[1], sys.stdin.read().split()), "utf-8")
