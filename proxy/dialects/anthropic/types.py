"""The Messages API's answer as types: whole, and event by event (`anthropic.types` of the PyPI package `anthropic`)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from proxy.dialects.described import documented
from proxy.protocol import lines
from proxy.protocol.deltas import Remarks, Tokens


class OutputTokensDetails(Struct, frozen=True):
    thinking_tokens: int


class ServerToolUse(Struct, frozen=True):
    web_search_requests: int
    web_fetch_requests: int = 0


class CacheCreation(Struct, frozen=True):
    """`cache_creation_input_tokens` by how long they are kept."""

    ephemeral_1h_input_tokens: int
    ephemeral_5m_input_tokens: int


# What upstream says, as it says it.
Word = Annotated[Raw | None, documented(anyOf=[{"type": "string"}, {"type": "null"}])]
Table = Annotated[Raw | None, documented(anyOf=[{"type": "object"}, {"type": "null"}])]
# Left out unless upstream says it.
IfSaid = Raw | UnsetType


class Usage(Struct, frozen=True, kw_only=True):
    """`input_tokens` leaves the cached ones out. What the CLI does not say is null."""

    cache_creation: CacheCreation
    inference_geo: Word = None
    speed: Word = None
    iterations: IfSaid = UNSET
    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    server_tool_use: ServerToolUse | None = None
    service_tier: Word = None


class DeltaUsage(Struct, frozen=True):
    """The same at the end of a stream."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    server_tool_use: ServerToolUse | None = None
    iterations: IfSaid = UNSET


def said(value: Raw) -> Raw | None:
    return value if bytes(value) else None


def usage_of(tokens: Tokens, remarks: Remarks) -> Usage:
    return Usage(
        inference_geo=said(remarks.inference_geo),
        speed=said(remarks.speed),
        service_tier=said(remarks.service_tier),
        iterations=said(remarks.iterations) or UNSET,
        input_tokens=tokens.input,
        cache_creation=CacheCreation(tokens.cache_write_1h, tokens.cache_write - tokens.cache_write_1h),
        cache_creation_input_tokens=tokens.cache_write,
        cache_read_input_tokens=tokens.cache_read,
        output_tokens=tokens.output,
        output_tokens_details=OutputTokensDetails(tokens.reasoning),
        server_tool_use=ServerToolUse(tokens.searches) if tokens.searches else None,
    )


def delta_usage_of(tokens: Tokens, remarks: Remarks) -> DeltaUsage:
    return DeltaUsage(
        tokens.input,
        tokens.cache_write,
        tokens.cache_read,
        tokens.output,
        OutputTokensDetails(tokens.reasoning),
        ServerToolUse(tokens.searches) if tokens.searches else None,
        said(remarks.iterations) or UNSET,
    )


class SearchLocation(Struct, frozen=True, kw_only=True, tag_field="type", tag="web_search_result_location"):
    """A page that the text names. What the text takes from it, and where in it that stands, is not known here."""

    cited_text: str = ""
    encrypted_index: str = ""
    title: str | None
    url: str


class Text(Struct, frozen=True, tag_field="type", tag="text"):
    """`citations` in the API's own form; left out if there are none, as clients take them for a list."""

    text: str
    citations: tuple[SearchLocation | Raw, ...] | UnsetType = UNSET


class Thinking(Struct, frozen=True, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class RedactedThinking(Struct, frozen=True, tag_field="type", tag="redacted_thinking"):
    data: str


class Caller(Struct, frozen=True, tag_field="type", tag="direct"):
    """The model called the tool itself."""


class ToolUse(Struct, frozen=True, tag_field="type", tag="tool_use"):
    """`input` is a JSON object."""

    id: str
    name: str
    input: Raw
    caller: Caller = Caller()


class ServerTool(Struct, frozen=True, tag_field="type", tag="server_tool_use"):
    """A search that was made for the model. `input` is a JSON object."""

    id: str
    input: Raw
    name: Literal["web_search"] = "web_search"
    caller: Caller = Caller()


class SearchResult(Struct, frozen=True, kw_only=True, tag_field="type", tag="web_search_result"):
    """A page that was found. Its content is not known here."""

    encrypted_content: str = ""
    page_age: str | None = None
    title: str
    url: str


class SearchResultError(Struct, frozen=True, tag_field="type", tag="web_search_tool_result_error"):
    error_code: str


class SearchToolResult(Struct, frozen=True, tag_field="type", tag="web_search_tool_result"):
    tool_use_id: str
    content: tuple[SearchResult, ...] | SearchResultError
    caller: Caller = Caller()


AnswerBlock = Text | Thinking | RedactedThinking | ToolUse | ServerTool | SearchToolResult
StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal", "model_context_window_exceeded"
]


class RefusalDetails(Struct, frozen=True, tag_field="type", tag="refusal"):
    category: str | None
    explanation: str | None


def details_of(details: lines.StopDetails | None) -> RefusalDetails | None:
    return None if details is None else RefusalDetails(details.category, details.explanation)


class AnswerMessage(Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """The whole answer, and the head of a streamed one."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: tuple[AnswerBlock, ...] = ()
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    stop_details: RefusalDetails | None = None
    container: Table = None
    diagnostics: Table = None
    context_management: IfSaid = UNSET
    usage: Usage


class MessageStart(Struct, frozen=True, tag_field="type", tag="message_start"):
    message: AnswerMessage


class BlockStart(Struct, frozen=True, tag_field="type", tag="content_block_start"):
    index: int
    content_block: AnswerBlock


class TextDelta(Struct, frozen=True, tag_field="type", tag="text_delta"):
    text: str


class ThinkingDelta(Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureDelta(Struct, frozen=True, tag_field="type", tag="signature_delta"):
    signature: str


class InputDelta(Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    partial_json: str


class CitationsDelta(Struct, frozen=True, tag_field="type", tag="citations_delta"):
    """`citation`: of what a search has found, or of the request in the API's own form."""

    citation: SearchLocation | Raw


BlockPiece = TextDelta | CitationsDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockDelta(Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    index: int
    delta: BlockPiece


class BlockStop(Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    index: int


class Stop(Struct, frozen=True):
    stop_reason: StopReason
    stop_sequence: str | None = None
    stop_details: RefusalDetails | None = None
    container: Table = None


class MessageDelta(Struct, frozen=True, tag_field="type", tag="message_delta"):
    delta: Stop
    usage: DeltaUsage
    context_management: IfSaid = UNSET


class MessageStop(Struct, frozen=True, tag_field="type", tag="message_stop"):
    pass


class Ping(Struct, frozen=True, tag_field="type", tag="ping"):
    pass


StreamedEvent = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping
