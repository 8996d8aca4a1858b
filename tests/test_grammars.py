"""proxy/protocol/grammars.py: whether a grammar can be used, and whether a text matches it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from proxy.protocol import grammars
from proxy.protocol.grammars import NO_LIBRARY, fault
from proxy.protocol.judging import Item, of_grammar
from proxy.protocol.plan import Grammar
from tests import hostile

# As Codex 0.171.0 sends it with its tool `apply_patch`.
APPLY_PATCH = """start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""
PATCH = """*** Begin Patch
*** Add File: a.txt
+Hällo
+
*** Update File: b.py
*** Move to: c.py
@@ def greet():
 one
-two
+zwei
 
*** End of File
*** Delete File: d.txt
*** End Patch"""
LARK = Grammar("lark", APPLY_PATCH)


def lark(definition: str) -> Grammar:
    return Grammar("lark", definition)


def regex(definition: str) -> Grammar:
    return Grammar("regex", definition)


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        (LARK, PATCH),
        (LARK, PATCH + "\n"),
        (lark('start: NUMBER (SIGN NUMBER)*\nSIGN: "+" | "-"\n%import common.NUMBER\n%ignore / +/'), "1 + 2 -3"),
        (regex("print\\(.*\\)"), "print(1)"),
        (regex("^\\d{4}-\\d\\d$"), "2026-11"),
        (regex("(?P<word>\\w+)"), "dürfen"),
        (regex("a*?b"), "aab"),
    ],
)
def test_a_text_that_matches_has_no_fault(grammar: Grammar, text: str) -> None:
    assert fault(of_grammar(grammar)) is None
    assert fault(of_grammar(grammar, text)) is None


@pytest.mark.parametrize(
    ("grammar", "text", "words"),
    [
        (LARK, PATCH.replace("*** Add", "*** Make"), "It matches up to character 20, but not from there on: 'Make"),
        (LARK, "Hällo", "It matches up to character 0, but not from there on: 'Hällo'."),
        (LARK, PATCH.removesuffix("Patch"), "It is not complete: more would have to follow."),
        (LARK, "", "It is not complete"),
        (regex("print\\(.*\\)"), "print(1);", "It is not complete: more would have to follow."),
        (regex("[0-9]+"), "12;", "It matches up to character 2, but not from there on: ';'."),
        (regex("ä+"), "ääö" + "x" * 100, "It matches up to character 2, but not from there on: 'öxxx"),
    ],
)
def test_what_does_not_match_is_said_with_its_place(grammar: Grammar, text: str, words: str) -> None:
    found = fault(of_grammar(grammar, text))
    assert found is not None
    assert found.startswith(words)
    assert len(found) < 160


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (regex("("), "regex parse error"),
        (regex("(?=a)a"), "look-around"),
        (regex("\\bfoo"), "lookarounds"),
        (lark("start: X"), 'unknown name: "X"'),
        (lark("start:: x"), "Expected"),
        (lark("%import .secret (X)\nstart: X"), "Unknown common regex"),
        (lark('start: %json {"$ref": "http://127.0.0.1:9/x"}'), "does not fetch"),
    ],
)
def test_one_that_cannot_be_used_says_why_and_lets_every_text_pass(grammar: Grammar, words: str) -> None:
    found = fault(of_grammar(grammar))
    assert found is not None
    assert "\n" not in found
    assert fault(of_grammar(grammar, "anything")) is None


def test_a_text_beyond_the_bounds_of_the_library_has_no_verdict() -> None:
    with pytest.raises(MemoryError):
        fault(of_grammar(hostile.NESTED_COUNTS, "a" * 1000))


def test_without_the_library_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(grammars, "import_module", missing)
    assert fault(of_grammar(LARK)) == NO_LIBRARY
    assert fault(of_grammar(LARK, "anything")) is None


def test_the_library_is_loaded_for_grammars_alone() -> None:
    """The worker tells a question about one by this name."""
    schema = Item("value", Raw(b'{"type":"object"}'), '{"syntax": 1}')
    assert b'"syntax":' not in msgspec.json.encode([schema])
    assert b'"syntax":' in msgspec.json.encode([schema, of_grammar(Grammar("regex", "a"), "a")])
