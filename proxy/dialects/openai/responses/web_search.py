"""Searches of the web in the Responses API: the tool, the item of a search, citations of its text.

Shapes: `openai.types.responses.web_search_tool_param`, `web_search_preview_tool_param`, `response_function_web_search`
and `response_output_text` of the package `openai`. The search is Claude Code's own, which knows no place and no size of
context: these are named as ignored.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from proxy.dialects.undeclared import Undeclared
from proxy.protocol.decoding import decoded
from proxy.protocol.deltas import Citation, Searched, SearchFailed, Searching
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Search

TYPES: Final = frozenset(("web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11"))
# What `include` calls the pages that a search has found.
SOURCES: Final = "web_search_call.action.sources"

Status = Literal["in_progress", "searching", "completed", "failed", "incomplete"]


class UrlCitation(Struct, frozen=True, kw_only=True, tag_field="type", tag="url_citation"):
    """A page, and where the text names it: from `start_index` up to `end_index`, in characters."""

    end_index: int
    start_index: int
    title: str
    url: str


class Source(Struct, frozen=True, kw_only=True):
    type: Literal["url"] = "url"
    url: str


class SearchAction(Struct, frozen=True, kw_only=True, tag_field="type", tag="search"):
    """`sources`: only where the client has asked for them."""

    query: str
    queries: tuple[str, ...]
    sources: tuple[Source, ...] | UnsetType = UNSET


class WebSearchCallItem(Struct, frozen=True, kw_only=True, tag_field="type", tag="web_search_call"):
    id: str
    status: Status
    action: SearchAction


class Filters(Struct, frozen=True):
    allowed_domains: list[str] | None = None
    blocked_domains: list[str] | None = None


class WebSearchTool(Struct, frozen=True):
    """`external_web_access` false: nothing is fetched, so nothing is searched here."""

    type: str
    filters: Filters | None = None
    search_context_size: Literal["low", "medium", "high"] | None = None
    user_location: dict[str, str | None] | None = None
    external_web_access: bool | None = None


_tool: Final = msgspec.json.Decoder(WebSearchTool)
_undeclared: Final = Undeclared(WebSearchTool)


def search(raw: Raw, where: str) -> tuple[Search | None, tuple[str, ...]]:
    """What the tool at that path asks for, and what of it has no effect. Raises Rejection."""
    tool = decoded(_tool, raw, where)
    if tool.external_web_access is False:
        return None, (f"tools.{tool.type}",)
    filters = tool.filters or Filters()
    if filters.allowed_domains and filters.blocked_domains:
        message = "Domains can be allowed or blocked, not both."
        raise bad_request(message, f"{where}.filters.blocked_domains")
    sized = tool.search_context_size not in (None, "medium")
    place = any(value for name, value in (tool.user_location or {}).items() if name != "type")
    return Search(tuple(filters.allowed_domains or ()), tuple(filters.blocked_domains or ())), (
        *((f"tools.{tool.type}.search_context_size",) if sized else ()),
        *((f"tools.{tool.type}.user_location",) if place else ()),
        *_undeclared(raw, f"tools.{tool.type}"),
    )


def begun(id: str, search: Searching) -> WebSearchCallItem:
    """The item of a search that begins."""
    return WebSearchCallItem(
        id=id, status="in_progress", action=SearchAction(query=search.query, queries=(search.query,))
    )


def ended(item: WebSearchCallItem, end: Searched | SearchFailed | None, *, sources: bool) -> WebSearchCallItem:
    """The item when the search has ended; `end` None: the answer has, before it. `sources`: they are told."""
    status: Status = "incomplete" if end is None else "completed" if isinstance(end, Searched) else "failed"
    action = item.action
    if sources:
        pages = end.links if isinstance(end, Searched) else ()
        action = msgspec.structs.replace(action, sources=tuple(Source(url=link.url) for link in pages))
    return msgspec.structs.replace(item, status=status, action=action)


def annotation(citation: Citation, before: int) -> UrlCitation:
    """`before`: how much of the text stands before the block that cites."""
    link = citation.link
    return UrlCitation(
        start_index=citation.start + before, end_index=citation.end + before, title=link.title, url=link.url
    )
