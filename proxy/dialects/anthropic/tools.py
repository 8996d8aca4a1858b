"""Tools as the Messages API has them, and which of them are offered: deferred ones only once they have been found."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from proxy.dialects import parameters
from proxy.dialects.anthropic import request as api
from proxy.dialects.anthropic import web_search
from proxy.dialects.anthropic.known_tools import KNOWN
from proxy.dialects.choices import MODES, AutoChoice
from proxy.dialects.parameters import ToolUse
from proxy.protocol import plan
from proxy.protocol.failures import bad_request
from proxy.protocol.tools import NAMELESS, Offer

# The API's own search among deferred tools, of whatever kind and version.
_TOOL_SEARCH: Final = "tool_search_tool_"


def _searches_tools(tool: api.Tool) -> bool:
    return (tool.type or "").startswith(_TOOL_SEARCH)


def _all_at_once(tools: Sequence[api.Tool]) -> bool:
    """Whether deferred tools are offered like the others: nothing else is, or the API is to search among them."""
    return any(map(_searches_tools, tools)) or all(tool.defer_loading for tool in tools)


def without_effect(tools: Sequence[api.Tool]) -> Iterator[str]:
    """What of deferring has no effect."""
    if _all_at_once(tools) and any(tool.defer_loading for tool in tools):
        yield "tools.defer_loading"


def tool_use(asked: api.Counted, messages: Sequence[plan.Message], found: Collection[str]) -> ToolUse:
    """Tools, how they may be used, and what the model is told when it must call one. Raises Rejection.

    `found`: names of deferred tools that results of the past refer to.
    """
    offer = Offer()
    kept: list[str] = []
    search = None
    choice = asked.tool_choice or AutoChoice()
    name = choice.name if isinstance(choice, api.ToolChoice) else None
    all_at_once = _all_at_once(asked.tools or ())
    for index, tool in enumerate(asked.tools or ()):
        where = f"tools[{index}]"
        if web_search.is_search(tool):
            if search is not None:
                raise bad_request("The web can be searched in one way only.", where)
            search = web_search.search(tool, where)
            continue
        if _searches_tools(tool):
            if not tool.name:
                raise bad_request(NAMELESS, f"{where}.name")
            continue
        if (known := KNOWN.get(tool.type or "")) is not None:
            offer.add(tool.name, known.description, known.schema, where, "type")
        elif tool.type in (None, "custom"):
            offer.add(tool.name, tool.description, tool.input_schema, where, "input_schema")
        else:
            types = ", ".join(("custom", *KNOWN, "web_search_…", f"{_TOOL_SEARCH}…"))
            raise bad_request(f"Tools of type {tool.type!r} are not supported. Supported: {types}.", f"{where}.type")
        if tool.defer_loading and not all_at_once and tool.name != name and tool.name not in found:
            kept.append(tool.name)
    for deferred in kept:
        del offer.tools[deferred]
    if search is not None and name == web_search.NAME:
        return parameters.tool_use((), "required", "tool_choice", messages=messages, search=search)
    if name is not None and offer.tools and name not in offer.tools:
        raise bad_request(f"No tool has the name {name!r}.", "tool_choice.name")
    return parameters.tool_use(
        tuple(offer.tools.values()),
        "required" if name is not None else MODES[type(choice)],
        "tool_choice",
        messages=messages,
        single=bool(choice.disable_parallel_tool_use),
        name=name,
        search=None if name is not None else search,
    )
