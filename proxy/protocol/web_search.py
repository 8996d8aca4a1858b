"""The CLI's own search of the web: what the model asks of it, whether it may run, and what the CLI reports of it.

The CLI runs the search itself, by a request of its own to the Messages API, and goes on with what it has found. Before
each it asks us (a hook): that is where a search is held to the client's domains, and where one too many is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from proxy.protocol.deltas import Link, Searched, SearchError, SearchFailed, Searching
from proxy.protocol.lines import User
from proxy.protocol.plan import Search

# What the CLI calls the tool; no tool of a client's has this name, see `aliases`.
WEB_SEARCH: Final = "WebSearch"
# What the model is told where it must search.
MUST_SEARCH: Final = f"You must search the web with the tool `{WEB_SEARCH}` before you answer."
TOO_MANY: Final = "No further search is allowed for this answer: go on with what you have."

_ERROR: Final = "Web search error: "
# How the CLI's text begins when it does not take the model's input.
_INVALID: Final = "InputValidationError"
_CODES: Final = {error.value: error for error in SearchError}


class _Hit(Struct, frozen=True):
    url: str
    title: str = ""


class _Hits(Struct, frozen=True):
    content: list[_Hit]


class _Found(Struct, frozen=True):
    """`results`: what each of the requests to the search engine found, what the model made of it, errors."""

    results: list[_Hits | str]


class _Outcome(Struct, frozen=True):
    """A block of a message in which the CLI tells the model how its tools have ended."""

    tool_use_id: str = ""
    is_error: bool = False


class _Outcomes(Struct, frozen=True):
    content: list[_Outcome]


class _Query(Struct, frozen=True):
    query: str = ""


_found: Final = msgspec.json.Decoder(_Found | str)
_outcomes: Final = msgspec.json.Decoder(_Outcomes)
_query: Final = msgspec.json.Decoder(_Query)
_object: Final = msgspec.json.Decoder(dict[str, Any])
_FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def outcome(result: Raw, *, is_error: bool) -> tuple[Link, ...] | SearchError:
    """What a search has found, or why it has failed, by the CLI's `tool_use_result`."""
    try:
        found = _found.decode(result)
    except _FAULTS:
        return SearchError.UNAVAILABLE if is_error else ()
    if isinstance(found, str):
        return SearchError.INVALID_INPUT if found.startswith(_INVALID) else SearchError.UNAVAILABLE
    links = dict.fromkeys(
        Link(hit.title, hit.url) for one in found.results if isinstance(one, _Hits) for hit in one.content
    )
    errors = [one.removeprefix(_ERROR) for one in found.results if isinstance(one, str) and one.startswith(_ERROR)]
    if errors and not links:
        return _CODES.get(errors[0].strip(), SearchError.UNAVAILABLE)
    return tuple(links)


def held_to(search: Search, asked: Raw) -> Raw | None:
    """What the tool is to be run with, where that is not what the model has asked; None where it is.

    The tool takes domains to allow or domains to block, never both: the client's come first, and the model may only
    narrow them.
    """
    if not search.allowed_domains and not search.blocked_domains:
        return None
    try:
        wanted = _object.decode(asked)
    except _FAULTS:
        wanted = {}
    allowed, blocked = _texts(wanted.pop("allowed_domains", None)), _texts(wanted.pop("blocked_domains", None))
    if search.allowed_domains:
        narrowed = [one for one in allowed if any(_within(one, domain) for domain in search.allowed_domains)]
        wanted["allowed_domains"] = narrowed or search.allowed_domains
    else:
        wanted["blocked_domains"] = tuple(dict.fromkeys((*search.blocked_domains, *blocked)))
    return Raw(msgspec.json.encode(wanted))


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _within(domain: str, other: str) -> bool:
    return domain == other or domain.endswith(f".{other}")


class _Search:
    """One search. `told`: its `Searching` has gone out."""

    __slots__ = ("id", "number", "pieces", "told")

    def __init__(self, id: str, number: int) -> None:
        self.id = id
        self.number = number
        self.pieces: list[str] = []
        self.told = -1


class Searches:
    """The searches of one answer. `succeeded`: how many have found something; `in_message`: the message under way has
    some."""

    __slots__ = ("_by_id", "_max_uses", "_open", "_opened", "_told", "in_message", "succeeded")

    def __init__(self, search: Search | None = None) -> None:
        self._max_uses = None if search is None else search.max_uses
        # By the index of the block that is under way; by id, those that have not ended.
        self._open: dict[int, _Search] = {}
        self._by_id: dict[str, _Search] = {}
        self._opened = 0
        self._told = 0
        self.in_message = False
        self.succeeded = 0

    @property
    def pending(self) -> bool:
        """Some have not ended."""
        return bool(self._by_id)

    def open(self, index: int, id: str) -> None:
        self._open[index] = self._by_id[id] = _Search(id, self._opened)
        self._opened += 1
        self.in_message = True

    def piece(self, index: int, text: str) -> bool:
        """Whether the block is a search's."""
        search = self._open.get(index)
        if search is not None:
            search.pieces.append(text)
        return search is not None

    def close(self, index: int) -> Iterator[Searching]:
        """What the model wants is known, unless its message was cut short."""
        search = self._open.pop(index, None)
        if search is not None:
            yield from self._tell(search)

    def close_all(self) -> Iterator[Searching]:
        for index in tuple(self._open):
            yield from self.close(index)

    def _tell(self, search: _Search) -> Iterator[Searching]:
        text = "".join(search.pieces) or "{}"
        if search.told >= 0:
            return
        try:
            query = _query.decode(text).query
        except _FAULTS:
            try:
                _object.decode(text)
            except _FAULTS:
                self._by_id.pop(search.id, None)
                return
            query = ""
        search.told = self._told
        self._told += 1
        yield Searching(search.told, search.id, query, text)

    def may_run(self, id: str) -> bool:
        """Whether the search with this id is not one too many."""
        search = self._by_id.get(id)
        return search is not None and self._allowed(search)

    def _allowed(self, search: _Search) -> bool:
        return self._max_uses is None or search.number < self._max_uses

    def ended(self, line: User) -> Iterator[Searching | Searched | SearchFailed]:
        """What the CLI reports of those that have ended."""
        if not self._by_id:
            return
        try:
            blocks = _outcomes.decode(line.message).content
        except _FAULTS:
            return
        for block in blocks:
            search = self._by_id.get(block.tool_use_id)
            if search is None:
                continue
            yield from self._tell(search)
            self._by_id.pop(search.id, None)
            if search.told < 0:
                continue
            if not self._allowed(search):
                yield SearchFailed(search.told, SearchError.MAX_USES)
                continue
            found = outcome(line.tool_use_result, is_error=block.is_error)
            if isinstance(found, SearchError):
                yield SearchFailed(search.told, found)
            else:
                self.succeeded += 1
                yield Searched(search.told, found)

    def give_up(self) -> Iterator[SearchFailed]:
        """Those that have not ended, and of which nothing will be reported any more."""
        for search in self._by_id.values():
            if search.told >= 0:
                yield SearchFailed(search.told, SearchError.UNAVAILABLE)
        self._by_id.clear()
        self._open.clear()
