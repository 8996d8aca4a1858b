"""Whether a grammar can be used, and whether a text matches it. Needs the package `llguidance`, an extra of this one.

It is the library with which the API that these grammars were made for holds its models to them: its notation is Lark's,
and its regular expressions are Rust's. Grammars come from clients. One of a line can take any time for a text that is
short: as with schemas (`checking`), this runs where time and memory are bounded, and nothing is kept.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proxy.protocol.judging import Item

if TYPE_CHECKING:
    from llguidance import LLMatcher

NO_LIBRARY: Final = "The package `llguidance` is not installed."
# Characters of what is wrong that are told.
MAX_TOLD: Final = 60


def load() -> Any:
    """The library, which takes longer to load than most grammars to judge; None where it is not installed."""
    try:
        return import_module("llguidance")
    except ImportError:
        return None


def fault(item: Item) -> str | None:
    """What is wrong with an item whose task is a grammar's, in a sentence; None when nothing is.

    Raises MemoryError where the text cannot be judged within the library's own bounds.
    """
    library = load()
    if library is None:
        return NO_LIBRARY if item.task == "grammar" else None
    tokens = library.LLTokenizer("byte")
    matcher = _matcher(library, tokens, item)
    if matcher.is_error():
        return matcher.get_error().partition("\n")[0][:300] if item.task == "grammar" else None
    return None if item.task == "grammar" else _misfit(matcher, tokens.tokenize_str(item.text), item.text)


def _matcher(library: Any, tokens: Any, item: Item) -> LLMatcher:
    definition = msgspec.json.decode(item.schema, type=str)
    make = library.LLMatcher.grammar_from_lark if item.syntax == "lark" else library.LLMatcher.grammar_from_regex
    limits = library.LLParserLimits(verbose_errors=False)
    matcher: LLMatcher = library.LLMatcher(tokens, make(definition), log_level=0, limits=limits)
    return matcher


def _misfit(matcher: LLMatcher, text_tokens: list[int], text: str) -> str | None:
    """Why the text does not match. One token is one byte."""
    matched = matcher.try_consume_tokens(text_tokens)
    if matcher.is_error():
        raise MemoryError(matcher.get_error())
    if matched < len(text_tokens):
        before = text.encode()[:matched].decode(errors="ignore")
        return f"It matches up to character {len(before)}, but not from there on: {text[len(before) :][:MAX_TOLD]!r}."
    return None if matcher.is_accepting() else "It is not complete: more would have to follow."
