"""Searches of the web as the Messages API has them: the tool, blocks of the answer, citations of its text.

The search is Claude Code's own. The ids of its blocks are made of those of its calls, which the model gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Raw

from proxy.dialects.anthropic import request as api
from proxy.dialects.anthropic.types import (
    SearchLocation,
    SearchResult,
    SearchResultError,
    SearchToolResult,
    ServerTool,
)
from proxy.protocol.answer import FoundPart, SearchPart
from proxy.protocol.deltas import Citation
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Search

NAME: Final = "web_search"
_TYPE: Final = "web_search_"
_LOCATION: Final = "web_search_result_location"
_CALL: Final = "toolu_"
_SERVER_CALL: Final = "srvtoolu_"


def is_search(tool: api.Tool) -> bool:
    """Whether the tool is the API's search, of whatever version."""
    return (tool.type or "").startswith(_TYPE)


def search(tool: api.Tool, where: str) -> Search:
    """What the tool asks for. Raises Rejection. `where`: its path in the request."""
    if tool.name != NAME:
        raise bad_request(f"Must be {NAME}.", f"{where}.name")
    if tool.allowed_domains and tool.blocked_domains:
        message = "Domains can be allowed or blocked, not both."
        raise bad_request(message, f"{where}.blocked_domains")
    if tool.max_uses is not None and tool.max_uses < 1:
        raise bad_request("Must be at least 1.", f"{where}.max_uses")
    for field in ("allowed_domains", "blocked_domains"):
        for index, domain in enumerate(getattr(tool, field) or ()):
            if not domain.strip():
                raise bad_request("A domain is needed.", f"{where}.{field}[{index}]")
    return Search(tuple(tool.allowed_domains or ()), tuple(tool.blocked_domains or ()), tool.max_uses)


def without_effect(tools: Iterable[api.Tool]) -> Iterator[str]:
    """What of a search has no effect."""
    for tool in tools:
        if is_search(tool) and tool.user_location is not None:
            yield "tools.user_location"


def cites_else(citations: object) -> bool:
    """Whether a text of the past cites anything but pages: their addresses stand in the text itself."""
    if not isinstance(citations, list):
        return bool(citations)
    return any(not isinstance(one, dict) or one.get("type") != _LOCATION for one in citations)


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
