"""Searches of the web: the CLI makes each by a request of its own, with the API's `web_search` server tool."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

# How the tool's versions are called.
_TYPE = "web_search_"


def is_search(body: Mapping[str, Any]) -> bool:
    """Whether a request to the Messages API is such a search."""
    return any(str(tool.get("type") or "").startswith(_TYPE) for tool in body.get("tools") or ())


def asks(query: str) -> dict[str, Any]:
    """The body of such a request, as far as a cassette matches it."""
    return {"messages": [{"role": "user", "content": f"Perform a web search for the query: {query}"}]}


def search(identifier: str, query: str) -> dict[str, Any]:
    """The block in which the API says what it searches for."""
    return {
        "start": {"type": "server_tool_use", "id": identifier, "name": "web_search", "input": {}},
        "deltas": [{"type": "input_json_delta", "partial_json": msgspec.json.encode({"query": query}).decode()}],
    }


def results(identifier: str, pages: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The block with the pages that it has found: title and address of each."""
    found = [
        {"type": "web_search_result", "title": title, "url": url, "encrypted_content": "ZW5j", "page_age": None}
        for title, url in pages
    ]
    return {"start": {"type": "web_search_tool_result", "tool_use_id": identifier, "content": found}, "deltas": []}


def failed(identifier: str, code: str) -> dict[str, Any]:
    """The block that says why it has found nothing."""
    content = {"type": "web_search_tool_result_error", "error_code": code}
    return {"start": {"type": "web_search_tool_result", "tool_use_id": identifier, "content": content}, "deltas": []}
