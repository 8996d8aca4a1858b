"""What OpenAI's clients say of a web search, as the plan needs it.

Shape: `WebSearchOptions` in `openai.types.chat.completion_create_params` of the package `openai`. The search is Claude
Code's own, which knows no place and no size of context: these are named as ignored.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from proxy.protocol.plan import Search


class Place(Struct, frozen=True):
    city: str | None = None
    country: str | None = None
    region: str | None = None
    timezone: str | None = None


class UserLocation(Struct, frozen=True):
    type: Literal["approximate"]
    approximate: Place


class WebSearchOptions(Struct, frozen=True):
    search_context_size: Literal["low", "medium", "high"] | None = None
    user_location: UserLocation | None = None


def web_search_options(options: WebSearchOptions | None) -> tuple[Search | None, tuple[str, ...]]:
    """The search, and what of the options has no effect."""
    if options is None:
        return None, ()
    # `medium` is what is meant where nothing is said.
    sized = options.search_context_size not in (None, "medium")
    return Search(), (
        *(("web_search_options.search_context_size",) if sized else ()),
        *(("web_search_options.user_location",) if options.user_location is not None else ()),
    )
