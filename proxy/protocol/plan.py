"""What a request comes to, in the CLI's terms: the vocabulary between the dialects and `commands`.

Blocks and messages are the Messages API's own (PyPI package `anthropic`, `types/*_block_param.py`): encoded as they
stand here, they are what arrives there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct

# The MCP server under which the client's tools are offered; `--allowedTools mcp__client` permits exactly these.
SERVER: Final = "client"
# The model that every child is launched with.
LAUNCHED: Final = "opus"


EMPTY_OBJECT: Final = Raw(b"{}")


class TextBlock(Struct, frozen=True, tag="text"):
    text: str


class Base64Source(Struct, frozen=True, tag="base64"):
    media_type: str
    data: str


class UrlSource(Struct, frozen=True, tag="url"):
    """Fetched by the Messages API, never by us."""

    url: str


class TextSource(Struct, frozen=True, tag="text"):
    data: str
    media_type: Literal["text/plain"] = "text/plain"


class ImageBlock(Struct, frozen=True, tag="image"):
    source: Base64Source | UrlSource


class ContentSource(Struct, frozen=True, tag="content"):
    """A document of several parts, each of which can be cited."""

    content: str | tuple[TextBlock | ImageBlock, ...]


class Citing(Struct, frozen=True):
    """Whether an answer is to cite what it says this of."""

    enabled: bool


class DocumentBlock(Struct, frozen=True, tag="document", omit_defaults=True):
    source: Base64Source | UrlSource | TextSource | ContentSource
    title: str | None = None
    context: str | None = None
    citations: Citing | None = None


class SearchResultBlock(Struct, frozen=True, tag="search_result", omit_defaults=True):
    source: str
    title: str
    content: tuple[TextBlock, ...]
    citations: Citing | None = None


PartBlock = TextBlock | ImageBlock | DocumentBlock | SearchResultBlock


class ToolUseBlock(Struct, frozen=True, tag="tool_use"):
    """`input` is a JSON object."""

    id: str
    name: str
    input: Raw


class ToolResultBlock(Struct, frozen=True, tag="tool_result", omit_defaults=True):
    tool_use_id: str
    content: tuple[PartBlock, ...]
    is_error: bool = False


class ThinkingBlock(Struct, frozen=True, tag="thinking"):
    """Thinking of a past answer; genuine by its signature."""

    thinking: str
    signature: str


class RedactedThinkingBlock(Struct, frozen=True, tag="redacted_thinking"):
    data: str


AssistantBlock = TextBlock | ToolUseBlock | ThinkingBlock | RedactedThinkingBlock
UserBlock = PartBlock | ToolResultBlock
Block = AssistantBlock | UserBlock


class Message(Struct, frozen=True, omit_defaults=True):
    """One message; never without content, and never two of one role in a row.

    `written_by`: the model that an answer is by, as upstream names it; None: not known. Thinking reaches only the model
    that wrote it.
    """

    role: Literal["user", "assistant"]
    content: tuple[Block, ...]
    written_by: str | None = None


def call_ids(message: Message) -> tuple[str, ...]:
    """Those of the calls in it, in their order."""
    return tuple(block.id for block in message.content if isinstance(block, ToolUseBlock))


def with_ids(message: Message, ids: Mapping[str, str]) -> Message:
    """The message with other ids of calls, its own and those that it has results of."""
    if all(id == other for id, other in ids.items()):
        return message
    return msgspec.structs.replace(message, content=tuple(_with_id(block, ids) for block in message.content))


def _with_id(block: Block, ids: Mapping[str, str]) -> Block:
    if isinstance(block, ToolUseBlock):
        return msgspec.structs.replace(block, id=ids.get(block.id, block.id))
    if isinstance(block, ToolResultBlock):
        return msgspec.structs.replace(block, tool_use_id=ids.get(block.tool_use_id, block.tool_use_id))
    return block


def _size_of(block: Block) -> int:
    if isinstance(block, ToolResultBlock | SearchResultBlock):
        return sum(map(_size_of, block.content))
    if isinstance(block, ImageBlock | DocumentBlock):
        source = block.source
        if isinstance(source, ContentSource):
            parts = source.content
            return len(parts) if isinstance(parts, str) else sum(map(_size_of, parts))
        return len(source.url if isinstance(source, UrlSource) else source.data)
    if isinstance(block, ToolUseBlock):
        return len(bytes(block.input))
    if isinstance(block, RedactedThinkingBlock):
        return len(block.data)
    return len(block.text if isinstance(block, TextBlock) else block.thinking)


def size_of(messages: Iterable[Message]) -> int:
    """About how many characters these messages have."""
    return sum(_size_of(block) for message in messages for block in message.content)


# What a picture takes at most, in tokens; bytes to a token, few rather than many, of text and of a PDF in base64.
_IMAGE_TOKENS: Final = 1600
_TEXT_TOKEN: Final = 3
_PDF_TOKEN: Final = 30


def _tokens(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass")) // _TEXT_TOKEN


def _tokens_of(block: Block) -> int:
    if isinstance(block, ToolResultBlock):
        return sum(map(_tokens_of, block.content))
    if isinstance(block, TextBlock):
        return _tokens(block.text)
    if isinstance(block, ImageBlock):
        return _IMAGE_TOKENS
    if isinstance(block, DocumentBlock):
        source = block.source
        if isinstance(source, ContentSource) and not isinstance(source.content, str):
            return sum(map(_tokens_of, source.content))
        if isinstance(source, UrlSource):
            return _IMAGE_TOKENS
        return _size_of(block) // (_PDF_TOKEN if isinstance(source, Base64Source) else _TEXT_TOKEN)
    return _size_of(block) // _TEXT_TOKEN


def has_thinking(message: Message) -> bool:
    return any(isinstance(block, ThinkingBlock | RedactedThinkingBlock) for block in message.content)


class Grammar(Struct, frozen=True):
    """What the text that a tool takes must match, all of it. `definition`: in Lark's notation, or a regular expression;
    `where`: its path in the request."""

    syntax: Literal["lark", "regex"]
    definition: str
    where: str = ""


class Tool(Struct, frozen=True):
    """A tool of the client's. `schema` is a JSON Schema whose type is object; `where`: its path in the request.

    `grammar`: of a tool that takes free text (`tools.CUSTOM_SCHEMA`), if its text is to be checked.
    """

    name: str
    description: str
    schema: Raw
    where: str = ""
    grammar: Grammar | None = None


class Schema(Struct, frozen=True):
    """The form of an answer. `offered`: the object's schema that the CLI gets; `source`: the client's own.

    `wrapped`: the client's value is the one member of the object. `where`: the client's schema's path in the request.
    """

    offered: Raw
    source: Raw
    wrapped: bool
    where: str = ""


class Sampling(Struct, frozen=True, omit_defaults=True):
    """As the Messages API takes it; a model may refuse it (`native`)."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


class ToolChoice(Struct, frozen=True, omit_defaults=True):
    """The Messages API's `tool_choice`. `name`: of the tool, with `tool`."""

    type: Literal["auto", "none", "any", "tool"]
    disable_parallel_tool_use: bool = False
    name: str | None = None

    @property
    def forced(self) -> bool:
        """The model has to call. That does not go together with thinking, and a model may refuse it (`native`)."""
        return self.type in ("any", "tool")


class Search(Struct, frozen=True):
    """The CLI's own search of the web, which the model may use; the CLI runs it and goes on.

    Every search is held to the domains; at most one of the two is given. `max_uses`: searches in one answer at the
    most; None: as many as the model likes.
    """

    allowed_domains: tuple[str, ...] = ()
    blocked_domains: tuple[str, ...] = ()
    max_uses: int | None = None


CacheLife = Literal["5m", "1h"]


class Caching(Struct, frozen=True):
    """How long upstream keeps the conversation in its prompt cache after a use, wherever it is marked.

    `mark`: the message, and the block of it, up to which it is marked beside where the CLI does so.
    """

    ttl: CacheLife
    mark: tuple[int, int] | None = None


class Plan(Struct, frozen=True):
    """One conversation and the question to be put to it. `messages` ends with a user's message.

    `model` is what the CLI is asked for. `max_tokens` None: the CLI's own limit. `effort` None: its default; `thinking`
    False: none at all. `must_call`: an answer without a tool call is asked for again; `demand`: what the model is told
    of that where `tool_choice` cannot say it. `schema`: the answer is JSON. `search`: the model may search the web; it
    takes a process that was started for that. A search counts as a tool call. `caching` None: as the CLI does it; it
    has no part in what the conversation is, and effect only where one begins in a process.
    """

    model: str
    system: str | None
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    must_call: bool = False
    demand: str | None = None
    max_tokens: int | None = None
    effort: str | None = None
    thinking: bool = True
    schema: Schema | None = None
    sampling: Sampling = Sampling()
    search: Search | None = None
    caching: Caching | None = None

    @property
    def ending(self) -> tuple[Message, ...]:
        """The question, and then the answer before it, if there is one."""
        return self.messages[:-3:-1]


def tokens_of_plan(plan: Plan) -> int:
    """About how many tokens the model is sent of it, rather too many than too few."""
    texts = [plan.system or "", *(tool.name + tool.description for tool in plan.tools)]
    schemas = [tool.schema for tool in plan.tools] + ([] if plan.schema is None else [plan.schema.offered])
    said = sum(_tokens_of(block) for message in plan.messages for block in message.content)
    return said + sum(map(_tokens, texts)) + sum(len(bytes(schema)) // _TEXT_TOKEN for schema in schemas)


# Schemas are taken apart and put together again, which takes longer than texts do. So does each message, block and tool
# by itself, however short: as long as a text of so many characters.
_SCHEMA_COST: Final = 4
_MESSAGE_COST: Final = 500
_BLOCK_COST: Final = 20
_TOOL_COST: Final = 1000


def size_of_plan(plan: Plan) -> int:
    """About how many characters of text take as long as all that the CLI is sent of it."""
    schemas = sum(len(tool.name) + len(tool.description) + len(bytes(tool.schema)) for tool in plan.tools)
    if plan.schema is not None:
        schemas += len(bytes(plan.schema.source)) + len(bytes(plan.schema.offered))
    messages, blocks = len(plan.messages), sum(len(message.content) for message in plan.messages)
    pieces = _MESSAGE_COST * messages + _BLOCK_COST * blocks + _TOOL_COST * len(plan.tools)
    return size_of(plan.messages) + len(plan.system or "") + _SCHEMA_COST * schemas + pieces
