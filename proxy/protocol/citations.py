"""Citations: where an answer's text names a page that a search has found.

The model writes its sources as links of Markdown, or as bare addresses. Only addresses that a search has reported are
citations: nothing is made up, and what the text does not name stays a source of its search and no more. A link does not
go beyond its line, so a line's citations are known at its end, however the text is cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from proxy.protocol.deltas import (
    BlockBreak,
    Citation,
    Delta,
    Failed,
    Finished,
    Link,
    RedactedThinking,
    Retracted,
    Searched,
    SearchFailed,
    Searching,
    Signature,
    Text,
    Thinking,
    ToolCall,
)

# Where an address can begin, and what never stands in one.
_ADDRESS: Final = re.compile(r"https?://[^\s<>\"]{1,2048}")
# What may follow an address without being of it: an address ends before one of these, or where it ends.
_AFTER: Final = frozenset(")]}*_`~|'.,;:!?\\")
# What ends a link of Markdown, after its address.
_CLOSE: Final = re.compile(r">?(?:[ \t]+(?:\"[^\"\n]*\"|'[^'\n]*'))?[ \t]*\)")
# So many characters tell which addresses may stand at a place: addresses may begin at thousands of places of a line.
_BEGINNING: Final = 16
# How far before its address a link's text may begin, in characters.
_LONGEST_LABEL: Final = 1000

_NEW_PART: Final = (BlockBreak, Thinking, Signature, RedactedThinking, ToolCall, Searching, Searched, SearchFailed)


class Pages:
    """The pages that searches have found, by address."""

    __slots__ = ("_by_url", "_lengths")

    def __init__(self) -> None:
        self._by_url: dict[str, Link] = {}
        # How long the addresses are that begin alike, with and without a slash at the end; short ones together.
        self._lengths: dict[str, set[int]] = {}

    def add(self, links: Iterable[Link]) -> None:
        for link in links:
            self._by_url.setdefault(link.url, link)
            length = len(link.url)
            beginning = link.url[:_BEGINNING] if length > _BEGINNING else ""
            self._lengths.setdefault(beginning, set()).update((length - 1, length, length + 1))

    def named(self, line: str) -> Iterator[tuple[int, int, Link]]:
        """Where in the line they are named: from, up to, and which; in order, without overlap."""
        at = 0
        while self._by_url and (found := _ADDRESS.search(line, at)):
            start = found.start()
            end, link = self._page(line, start, found.end())
            if link is None:
                # Another address may begin within what looked like one.
                at = start + 1
                continue
            begin, stop = _link_around(line, start, end)
            yield (begin, stop, link) if begin >= at else (start, end, link)
            at = stop

    def _page(self, line: str, start: int, end: int) -> tuple[int, Link | None]:
        """The longest address from `start` on that is known."""
        beginnings = (line[start : start + _BEGINNING], "")
        lengths = set[int]().union(*(self._lengths.get(beginning, ()) for beginning in beginnings))
        for stop in sorted((start + length for length in lengths), reverse=True):
            if stop > end or (stop != end and line[stop] not in _AFTER):
                continue
            address = line[start:stop]
            link = self._by_url.get(address) or self._by_url.get(
                address.removesuffix("/") if address.endswith("/") else f"{address}/"
            )
            if link is not None:
                return stop, link
        return start, None


def _link_around(line: str, start: int, end: int) -> tuple[int, int]:
    """The link of Markdown whose address this is, or else the address alone."""
    before = start - 1 if line[start - 1 : start] == "<" else start
    close = _CLOSE.match(line, end)
    if close is None or line[max(before - 2, 0) : before] != "](":
        return start, end
    depth = 0
    for at in range(before - 2, max(before - 2 - _LONGEST_LABEL, -1), -1):
        if line[at - 1 : at] == "\\":
            continue
        depth += {"]": 1, "[": -1}.get(line[at], 0)
        if depth == 0:
            return at, close.end()
    return start, end


class Joined:
    """Where the citations of an answer are in all its text, joined. Takes the deltas in their order."""

    __slots__ = ("_begun", "_length")

    def __init__(self) -> None:
        self._length = self._begun = 0

    def take(self, delta: Delta) -> None:
        if isinstance(delta, Text):
            self._length += len(delta.text)
        elif isinstance(delta, _NEW_PART):
            self._begun = self._length

    def place(self, citation: Citation) -> Citation:
        return Citation(citation.start + self._begun, citation.end + self._begun, citation.link)


class Citing:
    """Deltas in, the same out with their citations: each after the text that it is of.

    `pages`: what the conversation has found before this answer; what this one finds is added to it.
    """

    __slots__ = ("_at", "_line", "_pages")

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        # The line under way, and where in its block it begins.
        self._line: list[str] = []
        self._at = 0

    def take(self, deltas: Iterable[Delta]) -> list[Delta]:
        out: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, Text):
                out.append(delta)
                out += self._text(delta.text)
                continue
            if isinstance(delta, Retracted | Failed):
                self._line, self._at = [], 0
            elif isinstance(delta, (*_NEW_PART, Finished)):
                out += self._end_line()
                self._at = 0
            if isinstance(delta, Searched):
                self._pages.add(delta.links)
            out.append(delta)
        return out

    def _text(self, text: str) -> Iterator[Citation]:
        *lines, rest = text.split("\n")
        for line in lines:
            self._line.append(line)
            yield from self._end_line()
            self._at += 1
        if rest:
            self._line.append(rest)

    def _end_line(self) -> Iterator[Citation]:
        line, self._line = "".join(self._line), []
        for start, end, link in self._pages.named(line):
            yield Citation(self._at + start, self._at + end, link)
        self._at += len(line)
