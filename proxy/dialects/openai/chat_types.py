"""OpenAI's chat completion as types.

Key order and presence follow what api.openai.com sends.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from proxy.protocol.deltas import Citation, Tokens


class PromptDetails(Struct, frozen=True):
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    audio_tokens: int = 0


class CompletionDetails(Struct, frozen=True):
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(Struct, frozen=True):
    """`prompt_tokens` is all input; `cached_tokens` the part read from the cache, `cache_write_tokens` put into it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


def usage_of(tokens: Tokens) -> Usage:
    return Usage(
        tokens.prompt,
        tokens.output,
        tokens.prompt + tokens.output,
        PromptDetails(cached_tokens=tokens.cache_read, cache_write_tokens=tokens.cache_write),
        CompletionDetails(reasoning_tokens=tokens.reasoning),
    )


class FunctionPiece(Struct, frozen=True):
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class CustomPiece(Struct, frozen=True):
    name: str | UnsetType = UNSET
    input: str | UnsetType = UNSET


class CallPiece(Struct, frozen=True):
    """A piece of one call. Only the first has `id`, `type` and the name: clients double what is said again."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function", "custom"] | UnsetType = UNSET
    function: FunctionPiece | UnsetType = UNSET
    custom: CustomPiece | UnsetType = UNSET


class ThinkingBlock(Struct, frozen=True):
    """Thinking as LiteLLM hands it out, or a piece of it. `redacted_thinking` has nothing but `data`."""

    type: Literal["thinking", "redacted_thinking"]
    thinking: str | UnsetType = UNSET
    signature: str | UnsetType = UNSET
    data: str | UnsetType = UNSET


class ReasoningDetail(Struct, frozen=True):
    """The same as OpenRouter hands it out. Pieces of one block have one `index`; `encrypted` has nothing but `data`."""

    type: Literal["reasoning.text", "reasoning.encrypted"]
    index: int
    text: str | UnsetType = UNSET
    signature: str | UnsetType = UNSET
    data: str | UnsetType = UNSET
    format: Literal["anthropic-claude-v1"] = "anthropic-claude-v1"


class UrlCitation(Struct, frozen=True):
    """A page, and where the text names it: from `start_index` up to `end_index`, in characters."""

    end_index: int
    start_index: int
    title: str
    url: str


class Annotation(Struct, frozen=True, tag_field="type", tag="url_citation"):
    url_citation: UrlCitation


def annotation(citation: Citation) -> Annotation:
    link = citation.link
    return Annotation(UrlCitation(citation.end, citation.start, link.title, link.url))


class ChunkDelta(Struct, frozen=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    thinking_blocks: tuple[ThinkingBlock, ...] | UnsetType = UNSET
    reasoning_details: tuple[ReasoningDetail, ...] | UnsetType = UNSET
    function_call: FunctionPiece | UnsetType = UNSET
    tool_calls: tuple[CallPiece, ...] | UnsetType = UNSET
    annotations: tuple[Annotation, ...] | UnsetType = UNSET


FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class ChunkChoice(Struct, frozen=True):
    index: int
    delta: ChunkDelta
    logprobs: None = None
    finish_reason: FinishReason | None = None


class Chunk(Struct, frozen=True, kw_only=True):
    """One `chat.completion.chunk`. `choices` is empty in the usage chunk alone."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    service_tier: Literal["default"] = "default"
    system_fingerprint: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | UnsetType | None = UNSET


class Function(Struct, frozen=True):
    name: str
    arguments: str


class Custom(Struct, frozen=True):
    name: str
    input: str


class Call(Struct, frozen=True):
    """`function` or `custom`, as `type` says."""

    id: str
    type: Literal["function", "custom"]
    function: Function | UnsetType = UNSET
    custom: Custom | UnsetType = UNSET


class Message(Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    annotations: tuple[Annotation, ...] = ()
    reasoning_content: str | UnsetType = UNSET
    thinking_blocks: tuple[ThinkingBlock, ...] | UnsetType = UNSET
    reasoning_details: tuple[ReasoningDetail, ...] | UnsetType = UNSET
    function_call: Function | UnsetType = UNSET
    tool_calls: tuple[Call, ...] | UnsetType = UNSET


class Choice(Struct, frozen=True):
    index: int
    message: Message
    logprobs: None
    finish_reason: FinishReason


class Completion(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    service_tier: Literal["default"] = "default"
    system_fingerprint: str
    choices: tuple[Choice, ...]
    usage: Usage


class AnswerHead(Struct, frozen=True):
    """What all chunks of one answer share. `created`: seconds since 1970; `with_usage`: the client asked for usage."""

    id: str
    created: int
    fingerprint: str
    with_usage: bool = False
