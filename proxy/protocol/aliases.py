"""Names that the CLI or the Messages API does not take as they are, and what stands in for them.

The CLI changes every text of a tool on its way: see `normalised`. The Messages API takes only plain names for tools
and for their arguments. An alias is chosen so that it passes both unchanged and is unlike all others.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import groupby
from typing import Final

from proxy.protocol.known_tools import KNOWN_TOOLS

TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")
# What the Messages API takes for a property of a tool's root; further down any name will do.
LONGEST_ARGUMENT: Final = 64
ARGUMENT_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
# A property of this name is lost where JavaScript copies an object.
_LOST: Final = "__proto__"
_DROPPED: Final = frozenset(("Cf", "Co", "Cs"))
# Python orders the marks on one letter by insertion and lets no other thread run meanwhile: thousands of them take
# minutes. Longer texts are ordered here first.
_ORDERED_BY_PYTHON: Final = 200
# So much of a tool's name goes into its alias: names come in any length.
_READ_OF_NAME: Final = 1000
# Characters of a mark at most: so many fewer than an alias may have are kept of a name.
_ROOM_FOR_MARK: Final = 8
# A character outside ASCII, with the backslash before it if there is one; or any other escape.
_FOREIGN: Final = re.compile(r"\\?([^\x00-\x7f])|\\.")


def _ordered(text: str) -> str:
    """The text with its characters taken apart and their marks in order: form NFKD, in time that the length bounds."""
    apart = {char: unicodedata.normalize("NFKD", char) for char in set(text)}
    text = "".join(map(apart.__getitem__, text))
    rank = {char: unicodedata.combining(char) for char in set(text)}
    runs = groupby(text, lambda char: rank[char] > 0)
    return "".join("".join(sorted(run, key=rank.__getitem__) if marks else run) for marks, run in runs)


def _normal(text: str, dropped: frozenset[str]) -> str:
    if text.isascii():
        return text
    while True:
        before = text
        text = unicodedata.normalize("NFKC", _ordered(text) if len(text) > _ORDERED_BY_PYTHON else text)
        text = "".join(char for char in text if unicodedata.category(char) not in dropped)
        if text == before:
            return text


def normalised(text: str) -> str:
    """What the CLI makes of a text of a tool: form NFKC without characters that are invisible, private or unassigned.

    Which characters are assigned depends on the version of Unicode; the CLI's is newer than that of older Pythons, so
    two texts are compared in this form, and what is sent is `plain`.
    """
    return _normal(text, _DROPPED | {"Cn"})


def plain(text: str) -> str:
    """The text in a form that the CLI leaves alone, with all the characters that some version of Unicode may know."""
    return _normal(text, _DROPPED)


class Aliases:
    """A one-to-one map from names to what is sent for them; names that may be sent as they are stay out of it.

    `out` has the names that are changed, in the order given. No two are alike once the CLI has normalised them.
    """

    __slots__ = ("_number", "_taken", "out")

    def __init__(self) -> None:
        self.out: dict[str, str] = {}
        self._taken: set[str] = set()
        # The number that was last tried for an alias: many names may want the same.
        self._number: dict[str, int] = {}

    def take(
        self, names: Iterable[str], wanted: Iterable[tuple[str, str]], mark: str = "_{}", longest: int = 0
    ) -> None:
        """`names` stay as they are. `wanted`: others, each once, with its alias, or one is made of that by `mark`."""
        self._taken.update(names)
        for name, alias in wanted:
            unlike = alias
            while normalised(unlike) in self._taken:
                # Long ones are cut for their marks: those that are alike up to there share their numbers.
                stem = alias[: longest - _ROOM_FOR_MARK] if longest else alias
                self._number[stem] = number = self._number.get(stem, 1) + 1
                end = mark.format(number)
                unlike = (alias[: longest - len(end)] if longest else alias) + end
            self._taken.add(normalised(unlike))
            self.out[name] = unlike


def tool_names(names: Iterable[str]) -> dict[str, str]:
    """The aliases of those names of tools that cannot be sent as they are: the same names give the same aliases."""
    wanted = dict.fromkeys(names)
    same = {name for name in wanted if TOOL_NAME.fullmatch(name) and name not in KNOWN_TOOLS}
    if len(same) == len(wanted):
        return {}
    aliases = Aliases()
    others = [(name, _tool_alias(name)) for name in wanted if name not in same]
    aliases.take(same | KNOWN_TOOLS, others, longest=128)
    return aliases.out


def _tool_alias(name: str) -> str:
    return f"{name}_tool" if name in KNOWN_TOOLS else _cleaned(plain(name[:_READ_OF_NAME]), TOOL_NAME, 128) or "tool"


def _cleaned(name: str, rule: re.Pattern[str], longest: int) -> str:
    if rule.fullmatch(name):
        return name
    return re.sub(r"[^a-zA-Z0-9_.-]+" if rule is ARGUMENT_NAME else r"[^a-zA-Z0-9_-]+", "_", name).strip("_")[:longest]


def passes(name: str, *, argument: bool) -> bool:
    """Whether a property's name can be sent as it is. `argument`: it is one of the root."""
    if name == _LOST or (argument and not ARGUMENT_NAME.fullmatch(name)):
        return False
    return normalised(name) == name


def property_alias(name: str, *, argument: bool) -> str:
    """What a property is called instead, unless another is called so already."""
    if argument or name == _LOST:
        return _cleaned(plain(name).replace(_LOST, "proto"), ARGUMENT_NAME, LONGEST_ARGUMENT) or "property"
    return plain(name)


def escaped(pattern: str) -> str:
    """A regular expression that means the same and that the CLI leaves alone: what it would change, as `\\uXXXX`."""
    return pattern if normalised(pattern) == pattern else _FOREIGN.sub(_units, pattern)


def _units(found: re.Match[str]) -> str:
    if found[1] is None:
        return found[0]
    code = found[1].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{code[at : at + 2].hex()}" for at in range(0, len(code), 2))
