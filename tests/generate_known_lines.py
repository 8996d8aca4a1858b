"""What the fixtures hold of CLI versions and of the CLI's lines: `python -m tests.generate_known_lines`.

Written to proxy/protocol/known_lines.py, by which a server tells whether it gets on with its CLI, and what of the CLI's
lines no recording has.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from proxy.protocol.line_decoder import decode_line
from proxy.protocol.lines import Line, label

ROOT: Final = Path(__file__).parent.parent
FILE: Final = ROOT / "proxy/protocol/known_lines.py"
TRANSCRIPTS: Final = ROOT / "fixtures/transcripts"
JUDGED: Final = ROOT / "fixtures/versions.jsonl"
_HEAD: Final = '''"""What the fixtures hold of the CLI: made by `python -m tests.generate_known_lines`."""

from typing import Final
'''


def recorded() -> Iterator[tuple[Line, dict[str, object]]]:
    """Every line that a CLI of any recorded version wrote."""
    for path in sorted(TRANSCRIPTS.rglob("*.jsonl")):
        for row in path.read_bytes().split(b"\n")[1:]:
            said = json.loads(row) if row else {}
            if said.get("to") == "proxy" and isinstance(said["line"], dict):
                yield decode_line(json.dumps(said["line"]).encode()), said["line"]


def versions() -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The versions that there are recordings of, and those that were judged and get on with the server."""
    recorded = [folder.name for folder in TRANSCRIPTS.iterdir() if folder.is_dir()]
    rows = [json.loads(row) for row in JUDGED.read_bytes().splitlines()]
    judged = [row["version"] for row in rows if row["verdict"] != "broken"]
    return _in_order(recorded), _in_order({*judged, *recorded})


def _in_order(names: Iterable[str]) -> list[tuple[int, ...]]:
    return sorted(tuple(map(int, name.split("."))) for name in names)


def text() -> str:
    """The file's content."""
    # Without what is generated: an empty table must be enough to make it from.
    from proxy.protocol.unproven import paths, word

    tested, judged = versions()
    fields: dict[str, set[str]] = {}
    words: dict[str, set[str]] = {}
    for line, table in recorded():
        fields.setdefault(label(line), set()).update(paths(table))
        if (told := word(line)) is not None:
            words.setdefault(told[0], set()).add(told[1])
    return (
        f"{_HEAD}\n# The oldest and the newest version with recordings; the newest that was judged and is not broken.\n"
        f"OLDEST: Final = {tested[0]}\nNEWEST: Final = {tested[-1]}\nNEWEST_JUDGED: Final = {judged[-1]}\n"
        f"# By type of line: the names of its fields.\nFIELDS: Final = {{\n{_rows(fields)}}}  # fmt: skip\n"
        f"# Words of lists that may grow.\nWORDS: Final = {{\n{_rows(words)}}}  # fmt: skip\n"
    )


def _rows(table: Mapping[str, Collection[str]]) -> str:
    return "".join(
        f'    "{name}": frozenset((\n{_names(sorted(found))}    )),\n' for name, found in sorted(table.items())
    )


def _names(names: Iterable[str]) -> str:
    words = " ".join(f'"{name}",' for name in names)
    return textwrap.indent(textwrap.fill(words, 108, break_long_words=False, break_on_hyphens=False), " " * 8) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
