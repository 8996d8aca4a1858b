"""The body of a Messages request as types; they decode it and describe it (`anthropic.types.MessageCreateParams`).

Fields that are not declared here have no effect, and are named.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Raw, Struct, field

from proxy.dialects.anthropic.blocks import Block, Mark, OfServer
from proxy.dialects.anthropic.known_tools import KNOWN
from proxy.dialects.choices import AnyChoice, AutoChoice, NoChoice, PlainChoice
from proxy.dialects.described import (
    BASE64,
    IMAGE_URL,
    Effort,
    Model,
    NoEffect,
    Share,
    ToolParameters,
    documented,
)
from proxy.dialects.parameters import Ignored
from proxy.protocol.media import IMAGE_TYPES

Visible = documented(pattern=r"\S")
Limit = Annotated[int, documented(minimum=1)]

# Content


class TextBlock(Block, frozen=True, tag="text", kw_only=True):
    """Citations of an answer of the past are taken, and not passed on: the CLI drops them."""

    text: str
    citations: Any = None


class SystemBlock(Struct, frozen=True, kw_only=True):
    """A text of the system prompt: nothing else can stand there, so its type may be left out."""

    type: Literal["text"] = "text"
    text: str
    citations: Any = None
    cache_control: Mark = None


class Citing(Struct, frozen=True):
    enabled: bool | None = None


class FileSource(Struct, frozen=True, tag="file"):
    """Known to be refused by name: there are no stored files here."""

    file_id: str = ""


class Base64Image(Struct, frozen=True, tag="base64"):
    media_type: Annotated[str, documented(enum=list(IMAGE_TYPES))]
    data: Annotated[str, documented(pattern=f"^{BASE64}$")]


class UrlImage(Struct, frozen=True, tag="url"):
    """A data URL, or an address that the Messages API fetches."""

    url: Annotated[str, documented(pattern=IMAGE_URL)]


AnyImage = Base64Image | UrlImage | FileSource


class ImageBlock(Block, frozen=True, tag="image", kw_only=True):
    source: AnyImage
    transformations: Any = None


class Base64Document(Struct, frozen=True, tag="base64"):
    """A PDF or UTF-8 text."""

    data: Annotated[str, documented(pattern=f"^{BASE64}$")]
    media_type: str | None = None


class TextDocument(Struct, frozen=True, tag="text"):
    data: Annotated[str, Visible]
    media_type: str | None = None


class UrlDocument(Struct, frozen=True, tag="url"):
    """An address that the Messages API fetches."""

    url: Annotated[str, documented(pattern="^https?://")]


_SOMETHING: Final = documented(
    "Blank texts are left out; something must be left.",
    contains={
        "anyOf": [
            {"properties": {"type": {"const": "text"}, "text": {"type": "string", "pattern": r"\S"}}},
            {"properties": {"type": {"const": "image"}}},
        ]
    },
    minItems=1,
)


class ContentDocument(Struct, frozen=True, tag="content"):
    """A document in pieces, which citations can name."""

    content: Annotated[str, Visible] | Annotated[list[TextBlock | ImageBlock], _SOMETHING]


AnyDocument = Base64Document | TextDocument | UrlDocument | ContentDocument | FileSource


class DocumentBlock(Block, frozen=True, tag="document", kw_only=True):
    source: AnyDocument
    title: str | None = None
    context: str | None = None
    citations: Citing | None = None


class SearchResultBlock(Block, frozen=True, tag="search_result", kw_only=True):
    source: str
    title: str
    content: Annotated[list[TextBlock], _SOMETHING]
    citations: Citing | None = None


class ToolUseBlock(Block, frozen=True, tag="tool_use", kw_only=True):
    """`input`: an object; null and nothing at all are an empty one."""

    id: str
    name: str
    input: Annotated[Raw, documented(anyOf=[{"type": "object"}, {"type": "null"}])] = field(default_factory=Raw)
    caller: Any = None
    toolset_name: str | None = None


class ToolReferenceBlock(Block, frozen=True, tag="tool_reference", kw_only=True):
    """What a tool that searches for tools has found: a deferred one, which can be called from there on."""

    tool_name: str


class ToolResultBlock(Block, frozen=True, tag="tool_result", kw_only=True):
    """The result of a call of the assistant's message before it. One that is an error has text alone."""

    tool_use_id: str
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None
    toolset_name: str | None = None


class ThinkingBlock(Block, frozen=True, tag="thinking", kw_only=True):
    """Left out without its signature: then it is not genuine."""

    thinking: str
    signature: str = ""


class RedactedThinkingBlock(Block, frozen=True, tag="redacted_thinking", kw_only=True):
    data: str


class CompactionBlock(Block, frozen=True, tag="compaction", kw_only=True):
    """A summary of what was before, put in as text."""

    content: str | None = None
    encrypted_content: Any = None


PartBlock = TextBlock | ImageBlock | DocumentBlock | SearchResultBlock
UserBlock = PartBlock | ToolResultBlock
ResultBlock = PartBlock | ToolReferenceBlock
AssistantBlock = TextBlock | ToolUseBlock | ThinkingBlock | RedactedThinkingBlock | CompactionBlock | OfServer
AnyBlock = UserBlock | ResultBlock | AssistantBlock

# Messages


class UserMessage(Struct, frozen=True, tag_field="role", tag="user"):
    content: str | list[UserBlock]


class AssistantMessage(Struct, frozen=True, tag_field="role", tag="assistant"):
    content: str | list[AssistantBlock]


class SystemMessage(Struct, frozen=True, tag_field="role", tag="system"):
    """`output_config`: its effort holds from there on. `clear_at`: `next_user_message` leaves the message out once one
    of the user's follows."""

    content: str | list[TextBlock] | None = None
    output_config: OutputConfig | None = None
    clear_at: str | None = None


AnyMessage = UserMessage | AssistantMessage | SystemMessage

# Tools


class Tool(Struct, frozen=True):
    """A tool that the client runs; or, with a type such as `web_search_20250305`, a search of the web, which has no
    schema, and domains and the like instead; or, with `tool_search_tool_…`, a search for tools, for which all are
    offered at once; or, with a type of `known_tools`, a tool that the client runs and of which the type says the rest.
    Of tools with other types the API knows the schema: not here.

    `defer_loading`: it is offered once a result has a `tool_reference` to it, or must be called, or no tool is offered
    from the start."""

    name: Annotated[str, documented(minLength=1)] = ""
    type: str | None = None
    description: str | None = None
    input_schema: ToolParameters = field(default_factory=Raw)
    strict: bool | None = None
    cache_control: Mark = None
    allowed_domains: list[str] | None = None
    blocked_domains: list[str] | None = None
    max_uses: int | None = None
    user_location: Any = None
    allowed_callers: list[str] | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    input_examples: list[Any] | None = None


_NOTHING: Final = [{"type": "null"}, {"type": "array", "maxItems": 0}]
_DOMAINS: Final = ("allowed_domains", "blocked_domains")
_SEARCH: Final[dict[str, Any]] = {
    "type": {"type": "string", "pattern": "^web_search_"},
    "name": {"const": "web_search"},
    "max_uses": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 1}]},
    **{one: {"anyOf": [{"type": "null"}, {"type": "array", "items": {"pattern": r"\S"}}]} for one in _DOMAINS},
}
_TOOL_FORMS: Final = documented(
    anyOf=[
        {"required": ["name"], "properties": {"type": {"enum": ["custom", None]}}},
        {"required": ["name", "type"], "properties": {"type": {"enum": list(KNOWN)}}},
        {"required": ["name", "type"], "properties": {"type": {"type": "string", "pattern": "^tool_search_tool_"}}},
        {
            "required": ["name", "type"],
            "properties": _SEARCH,
            "anyOf": [{"properties": {one: {"anyOf": _NOTHING}}} for one in _DOMAINS],
        },
    ]
)


class ToolChoice(PlainChoice, frozen=True, tag="tool", kw_only=True):
    name: str


AnyToolChoice = AutoChoice | AnyChoice | ToolChoice | NoChoice

# What the answer is to be like


class ThinkingConfig(Struct, frozen=True):
    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: int | None = None
    display: str | None = None


class PlainText(Struct, frozen=True, tag="text"):
    pass


class JsonSchema(Struct, frozen=True, tag="json_schema"):
    schema: Annotated[Raw, documented("A JSON Schema.", anyOf=[{"type": "object"}, {"type": "boolean"}])]


class OutputConfig(Struct, frozen=True):
    effort: Effort | None = None
    format: PlainText | JsonSchema | None = None
    task_budget: NoEffect = None


class Thread(Struct, frozen=True):
    """A conversation that the server is to keep (`create`, without effect). It has kept none that could `continue`."""

    type: Annotated[str, documented(enum=["create"])]
    previous_message_id: str | None = None


# The request


class Counted(Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/messages/count_tokens`."""

    model: Model
    messages: Annotated[list[AnyMessage], documented(minItems=1)]
    system: str | list[SystemBlock] | None = None
    stream: bool | None = None
    stop_sequences: list[Annotated[str, Visible]] | None = None
    temperature: Annotated[float, documented(minimum=0, maximum=1)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    tools: list[Annotated[Tool, _TOOL_FORMS]] | None = None
    tool_choice: AnyToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: PlainText | JsonSchema | None = None
    metadata: NoEffect = None
    service_tier: NoEffect = None
    context_management: NoEffect = None
    container: Annotated[Any, documented("Refused by name.", type="null")] = None
    mcp_servers: Annotated[Any, documented("Refused by name, unless it is empty.", anyOf=_NOTHING)] = None
    inference_geo: NoEffect = None
    speed: NoEffect = None
    cache_control: Mark = None
    diagnostics: NoEffect = None
    user_profile_id: NoEffect = None
    workspace_id: NoEffect = None
    billing_policy: NoEffect = None
    compaction: NoEffect = None
    fallback_credit_token: NoEffect = None
    fallbacks: NoEffect = None
    thread: Thread | None = None
    max_tokens: Limit | None = None


class MessagesRequest(Counted, frozen=True, kw_only=True):
    """The body of `POST /v1/messages`."""

    max_tokens: Limit


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
    "eager_input_streaming": (False,),
    "input_examples": ([],),
}
# Of a block of a message: likewise.
IGNORED_OF_BLOCKS: Final[Ignored] = {
    "transformations": (),
    "caller": ({"type": "direct"},),
    "toolset_name": (),
    "encrypted_content": (),
}
# Refused when they ask for something: the answer would be to another question.
REFUSED: Final[Ignored] = {"container": (), "mcp_servers": ([],)}
