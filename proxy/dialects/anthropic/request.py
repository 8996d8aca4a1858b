"""The body of a Messages request as types; they decode it and describe it (`anthropic.types.MessageCreateParams`).

Fields that are not declared here are skipped, as the API's clients expect of one that is older than they are.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Raw, Struct

from proxy.dialects.parameters import Ignored


class Block(Struct, frozen=True, tag_field="type"):
    """`cache_control` is taken: the CLI sets its own marks."""

    cache_control: Any = None


class TextBlock(Block, frozen=True, tag="text", kw_only=True):
    """Citations of an answer of the past are taken, and not passed on: the CLI drops them."""

    text: str
    citations: Any = None


class SystemBlock(Struct, frozen=True, kw_only=True):
    """A text of the system prompt: nothing else can stand there, so its type may be left out."""

    type: Literal["text"] = "text"
    text: str
    citations: Any = None
    cache_control: Any = None


class Citing(Struct, frozen=True):
    enabled: bool | None = None


class Source(Struct, frozen=True):
    """Of an image or document: `base64` and `text` with `data`, `url` with `url`, `content` with `content`."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    content: str | list[TextBlock | ImageBlock] | None = None
    file_id: str | None = None


class ImageBlock(Block, frozen=True, tag="image", kw_only=True):
    source: Source
    transformations: Any = None


class DocumentBlock(Block, frozen=True, tag="document", kw_only=True):
    source: Source
    title: str | None = None
    context: str | None = None
    citations: Citing | None = None


class SearchResultBlock(Block, frozen=True, tag="search_result", kw_only=True):
    source: str
    title: str
    content: list[TextBlock]
    citations: Citing | None = None


class ToolUseBlock(Block, frozen=True, tag="tool_use", kw_only=True):
    id: str
    name: str
    input: Raw
    caller: Any = None
    toolset_name: str | None = None


class ToolResultBlock(Block, frozen=True, tag="tool_result", kw_only=True):
    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock] | None = None
    is_error: bool | None = None
    toolset_name: str | None = None


class ThinkingBlock(Block, frozen=True, tag="thinking", kw_only=True):
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Block, frozen=True, tag="redacted_thinking", kw_only=True):
    data: str


class ServerToolUseBlock(Block, frozen=True, tag="server_tool_use", kw_only=True):
    """A search of the web in a past answer. It is not put in again."""

    id: str = ""
    name: str = ""
    input: Any = None


class WebSearchToolResultBlock(Block, frozen=True, tag="web_search_tool_result", kw_only=True):
    """What that search found."""

    tool_use_id: str = ""
    content: Any = None


AnyBlock = (
    TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock
    | RedactedThinkingBlock | ServerToolUseBlock | WebSearchToolResultBlock
)  # fmt: skip


class InMessage(Struct, frozen=True):
    """`output_config`: of a system message, whose effort holds from there on."""

    role: Literal["user", "assistant", "system"]
    content: str | list[AnyBlock]
    output_config: OutputConfig | None = None


class Tool(Struct, frozen=True):
    """A tool that the client runs; or, with a type such as `web_search_20250305`, a search of the web, which has no
    schema and the last four fields. Of tools with other types the API knows the schema: not here."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: Any = None
    allowed_domains: list[str] | None = None
    blocked_domains: list[str] | None = None
    max_uses: int | None = None
    user_location: Any = None
    allowed_callers: list[str] | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    input_examples: list[Any] | None = None


class ToolChoice(Struct, frozen=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct, frozen=True):
    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: int | None = None
    display: str | None = None


class Format(Struct, frozen=True):
    type: str
    schema: Any = None


class OutputConfig(Struct, frozen=True):
    effort: str | None = None
    format: Format | None = None
    task_budget: Any = None


class Thread(Struct, frozen=True):
    """A conversation that the server is to keep (`create`), or has kept (`continue`). None is kept here."""

    type: str
    previous_message_id: str | None = None


class MessagesRequest(Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/messages`."""

    model: str
    messages: list[InMessage]
    max_tokens: int | None = None
    system: str | list[SystemBlock] | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    metadata: Any = None
    service_tier: Any = None
    context_management: Any = None
    container: Any = None
    mcp_servers: Any = None
    inference_geo: Any = None
    speed: Any = None
    cache_control: Any = None
    diagnostics: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None
    billing_policy: Any = None
    compaction: Any = None
    fallback_credit_token: Any = None
    fallbacks: Any = None
    thread: Thread | None = None


# Accepted, without effect, and named in the response header; values that ask for what is done anyway.
IGNORED: Final[Ignored] = {
    "metadata": ({},),
    "service_tier": ("auto", "standard_only"),
    "context_management": ({},),
    "inference_geo": (),
    "speed": ("standard",),
    "diagnostics": (),
    "user_profile_id": (),
    "workspace_id": (),
    "billing_policy": (),
    "compaction": (),
    "fallback_credit_token": (),
    "fallbacks": ([],),
    "thread": (),
}
# Of a tool: likewise.
IGNORED_OF_TOOLS: Final[Ignored] = {
    "strict": (False,),
    "allowed_callers": (["direct"],),
    "defer_loading": (False,),
    "eager_input_streaming": (False,),
    "input_examples": ([],),
}
# Of a block of a message: likewise.
IGNORED_OF_BLOCKS: Final[Ignored] = {
    "transformations": (),
    "caller": ({"type": "direct"},),
    "toolset_name": (),
}
# Refused when they ask for something: the answer would be to another question.
REFUSED: Final[Ignored] = {"container": (), "mcp_servers": ([],)}
