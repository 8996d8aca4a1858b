"""Searches of the web as the Messages API has them: blocks of the answer, and citations of its text.

The search is Claude Code's own. The ids of its blocks are made of those of its calls, which the model gave.
"""

from __future__ import annotations

from typing import Final

from msgspec import Raw

from proxy.dialects.anthropic.types import (
    SearchLocation,
    SearchResult,
    SearchResultError,
    SearchToolResult,
    ServerTool,
)
from proxy.protocol.answer import FoundPart, SearchPart
from proxy.protocol.deltas import Citation

_CALL: Final = "toolu_"
_SERVER_CALL: Final = "srvtoolu_"


def server_id(id: str) -> str:
    """The id of a search, with the beginning that clients know searches by."""
    return _SERVER_CALL + id.removeprefix(_CALL)


def asked(part: SearchPart) -> ServerTool:
    return ServerTool(server_id(part.id), Raw(part.input.encode()))


def found(part: FoundPart, id: str) -> SearchToolResult:
    """`id`: of the search."""
    content: tuple[SearchResult, ...] | SearchResultError
    if part.error is not None:
        content = SearchResultError(part.error.value)
    else:
        content = tuple(SearchResult(title=link.title, url=link.url) for link in part.links)
    return SearchToolResult(server_id(id), content)


def location(citation: Citation) -> SearchLocation:
    return SearchLocation(title=citation.link.title or None, url=citation.link.url)
