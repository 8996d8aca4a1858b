"""The list of models as the Messages API gives it (`anthropic.types.ModelInfo`), page by page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from proxy.protocol.failures import bad_request
from proxy.protocol.lines import ListedModel
from proxy.protocol.models import FAMILIES

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 1000
# The API's own word for a date that is not known.
UNKNOWN_DATE: Final = "1970-01-01T00:00:00Z"


class Support(Struct, frozen=True):
    supported: bool


YES: Final = Support(True)
NO: Final = Support(False)


class ContextManagement(Support, frozen=True):
    """Edits of the conversation by the API: a client's own are not passed on."""

    clear_thinking_20251015: Support = NO
    clear_tool_uses_20250919: Support = NO
    compact_20260112: Support = NO


class EffortLevels(Support, frozen=True):
    low: Support
    medium: Support
    high: Support
    xhigh: Support
    max: Support


class ServerTools(Support, frozen=True):
    web_search: Support
    code_execution: Support = NO


class ThinkingTypes(Struct, frozen=True):
    """With `enabled` there is thinking, but not with the budget that it names."""

    adaptive: Support
    disabled: Support
    enabled: Support = NO
    between_tools: Support = NO


class ThinkingSupport(Support, frozen=True):
    types: ThinkingTypes


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a model can be asked for here. All models that the CLI offers read images and PDFs."""

    batch: Support = NO
    citations: Support = YES
    code_execution: Support = NO
    context_management: ContextManagement = ContextManagement(False)
    effort: EffortLevels
    image_input: Support = YES
    pdf_input: Support = YES
    server_tools: ServerTools
    structured_outputs: Support = YES
    thinking: ThinkingSupport


def capabilities_of(listed: ListedModel, *, web_search: bool) -> Capabilities:
    """Those of a model that the CLI lists. `web_search`: the server has the web searched."""
    levels = (Support(level in listed.supportedEffortLevels) for level in ("low", "medium", "high", "xhigh", "max"))
    adaptive, off = listed.supportsAdaptiveThinking, listed.supportsThinkingOff
    return Capabilities(
        effort=EffortLevels(bool(listed.supportedEffortLevels), *levels),
        server_tools=ServerTools(web_search, Support(web_search)),
        thinking=ThinkingSupport(adaptive, ThinkingTypes(Support(adaptive), Support(off))),
    )


class ModelInfo(Struct, frozen=True, kw_only=True, tag_field="type", tag="model"):
    """Sizes in tokens; None until the CLI has said them. `capabilities`: None of a model that it does not list."""

    id: str
    display_name: str
    created_at: str = UNKNOWN_DATE
    max_input_tokens: int | None = None
    max_tokens: int | None = None
    capabilities: Capabilities | None = None
    lifecycle: Literal["active"] = "active"
    line: Literal[FAMILIES] | None = None  # type: ignore[valid-type]
    deprecated_at: None = None
    retires_at: None = None


class ModelPage(Struct, frozen=True):
    """`has_more`: there are others in the direction in which the page was asked for."""

    data: tuple[ModelInfo, ...]
    has_more: bool
    first_id: str | None
    last_id: str | None


def line_of(model: str) -> str | None:
    """The line that a model's name says."""
    return next((family for family in FAMILIES if family in model), None)


def page(
    models: Sequence[ModelInfo], *, before_id: str | None = None, after_id: str | None = None, limit: str | None = None
) -> ModelPage:
    """The models of one page; the parameters are those of the query. Raises Rejection."""
    size = DEFAULT_LIMIT
    if limit is not None:
        if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:5]) <= MAX_LIMIT):
            raise bad_request(f"Must be an integer between 1 and {MAX_LIMIT}.", "limit")
        size = int(limit)
    if before_id is not None and after_id is not None:
        raise bad_request("Only one of `before_id` and `after_id` can be given.", "before_id")
    found = list(models)
    if after_id is not None:
        found = found[_place(found, after_id, "after_id") + 1 :]
    elif before_id is not None:
        found = found[: _place(found, before_id, "before_id")]
    shown = found[-size:] if before_id is not None else found[:size]
    return ModelPage(
        tuple(shown), len(shown) < len(found), shown[0].id if shown else None, shown[-1].id if shown else None
    )


def _place(models: Sequence[ModelInfo], id: str, name: str) -> int:
    place = next((index for index, model in enumerate(models) if model.id == id), None)
    if place is None:
        raise bad_request("No model of the list has this id.", name)
    return place
