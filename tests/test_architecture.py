"""How the code is laid out, beside what `lint-imports` holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for room in ("proxy", "conformance") for path in (ROOT / room).rglob("*.py"))
MAX_LINES = 400
# What nobody outside this workplace could look up.
REFERENCES = re.compile(r"cli[ -]notes|wire[ -]notes|\bissue #?\d|pitfalls\.md", re.IGNORECASE)


def test_no_module_is_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert len(lengths) > 100
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


@pytest.mark.parametrize("room", ["proxy/protocol", "proxy/cli"])
def test_the_core_and_the_process_edge_know_no_api(room: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for line in path.read_text("utf-8").splitlines()
        if re.search(r"\b(openai|ollama)\b|\bchat\b|proxy\.dialects", line, re.IGNORECASE)
    ]
    assert found == []


def test_comments_refer_to_nothing_outside_the_repository() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (*MODULES, *sorted((ROOT / "tests").rglob("*.py")), *ROOT.glob("*.md"))
        if path != Path(__file__)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if REFERENCES.search(line)
    ]
    assert found == []
