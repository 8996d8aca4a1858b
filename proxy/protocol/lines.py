"""The lines that the CLI writes to its stdout.

A line is one JSON object with a `type`. Types and fields follow `sdk.d.ts` of the npm package
`@anthropic-ai/claude-agent-sdk`; only what the proxy reads is declared, everything else is skipped.
"""

from __future__ import annotations

from typing import Final

from msgspec import Raw, Struct, field


class OutputDetails(Struct, frozen=True):
    thinking_tokens: int | None = None


class CacheCreation(Struct, frozen=True):
    """Tokens written to the prompt cache, by how long they are kept."""

    ephemeral_1h_input_tokens: int = 0


class TokenUsage(Struct, frozen=True):
    """Token counts of one upstream message, and how it was served. None, or empty: not said here (the other event of
    the message says it)."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None
    cache_creation: CacheCreation | None = None
    service_tier: Raw = Raw(b"")
    inference_geo: Raw = Raw(b"")
    speed: Raw = Raw(b"")
    iterations: Raw = Raw(b"")


class MessageHead(Struct, frozen=True):
    model: str
    id: str = ""
    usage: TokenUsage = TokenUsage()
    container: Raw = Raw(b"")
    diagnostics: Raw = Raw(b"")


class BlockHead(Struct, frozen=True):
    """A content block as it opens. `id` and `name` are set for `tool_use`, `data` for `redacted_thinking`; any `type`
    may come."""

    type: str
    id: str = ""
    name: str = ""
    data: str = ""


# By the type of a piece: the field that it must have, or a part of the answer would be lost without a word.
_PIECE: Final = {
    "text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json",
    "signature_delta": "signature",
}  # fmt: skip


class BlockDelta(Struct, frozen=True):
    """One piece of a block; the field that matters depends on `type` (`text_delta`, `thinking_delta`, …)."""

    type: str
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    signature: str | None = None
    citation: Raw = Raw(b"")

    def __post_init__(self) -> None:
        if self.type in _PIECE and getattr(self, _PIECE[self.type]) is None:
            raise ValueError(f"{self.type} without {_PIECE[self.type]}")


class StopDetails(Struct, frozen=True):
    """More about a refusal, as the Messages API says it."""

    type: str = "refusal"
    category: str | None = None
    explanation: str | None = None


class StopDelta(Struct, frozen=True):
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None
    container: Raw = Raw(b"")


class MessageStart(Struct, frozen=True, tag="message_start"):
    message: MessageHead


class BlockStart(Struct, frozen=True, tag="content_block_start"):
    index: int
    content_block: BlockHead


class BlockPiece(Struct, frozen=True, tag="content_block_delta"):
    index: int
    delta: BlockDelta


class BlockStop(Struct, frozen=True, tag="content_block_stop"):
    index: int


class MessageDelta(Struct, frozen=True, tag="message_delta"):
    delta: StopDelta
    usage: TokenUsage = TokenUsage()
    context_management: Raw = Raw(b"")


class MessageStop(Struct, frozen=True, tag="message_stop"):
    pass


Event = MessageStart | BlockStart | BlockPiece | BlockStop | MessageDelta | MessageStop


class StreamEvent(Struct, frozen=True, tag="stream_event"):
    """One event of the Messages API's stream. `parent_tool_use_id` is set for a subagent's: never ours."""

    event: Event
    parent_tool_use_id: str | None = None


class SnapshotBlock(Struct, frozen=True):
    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    signature: str = ""
    data: str = ""
    input: Raw = Raw(b"{}")
    citations: list[Raw] | None = None


class SnapshotMessage(Struct, frozen=True):
    model: str
    id: str = ""
    content: list[SnapshotBlock] = field(default_factory=list)
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: TokenUsage = TokenUsage()
    container: Raw = Raw(b"")
    diagnostics: Raw = Raw(b"")
    context_management: Raw = Raw(b"")


class Assistant(Struct, frozen=True, tag="assistant"):
    """The CLI's copy of a message, one line a block. Model `<synthetic>`: the CLI's own words, never the model's."""

    message: SnapshotMessage
    error: str | None = None
    api_error: str | None = None
    parent_tool_use_id: str | None = None


class User(Struct, frozen=True, tag="user"):
    """An echo of something put in, a message the CLI made up itself, or the result of a tool that it has run.

    `tool_use_result`: of a tool, in a form of each tool's own; an error is a text.
    """

    message: Raw = Raw()
    tool_use_result: Raw = Raw()
    parent_tool_use_id: str | None = None


class System(Struct, frozen=True, tag="system"):
    """`init`, `status`, `api_retry` and many more; the fields of `api_retry` and `init` are read."""

    subtype: str = ""
    error_status: int | None = None
    error: str | None = None
    retry_delay_ms: float = 0
    tools: list[str] | None = None
    model: str = ""


class Window(Struct, frozen=True):
    """One window of the plan: share used (1 = all), end as seconds since 1970."""

    utilization: float | None = None
    resetsAt: float | None = None
    status: str | None = None


class RateLimitInfo(Struct, frozen=True):
    status: str = ""
    resetsAt: float | None = None
    rateLimitType: str | None = None
    utilization: float | None = None
    unifiedWindows: dict[str, Window] = field(default_factory=dict)


class RateLimit(Struct, frozen=True, tag="rate_limit_event"):
    rate_limit_info: RateLimitInfo


class ModelUse(Struct, frozen=True):
    """What the CLI says of a model that it has used; sizes in tokens."""

    contextWindow: int | None = None
    maxOutputTokens: int | None = None


class Result(Struct, frozen=True, tag="result"):
    """The end of the CLI's turn. `is_error` may go with `subtype: "success"`; then `result` is an error's text.

    With another subtype there is no `result`, and the words are in `errors`.
    """

    subtype: str = ""
    is_error: bool = False
    result: str = ""
    num_turns: int = 0
    stop_reason: str | None = None
    api_error_status: int | None = None
    api_error_type: str | None = None
    api_error: str | None = None
    terminal_reason: str | None = None
    total_cost_usd: float | None = None
    usage: TokenUsage = TokenUsage()
    modelUsage: dict[str, ModelUse] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


class ToolMeta(Struct, frozen=True):
    tool_use_id: str = field(default="", name="claudecode/toolUseId")


class RpcParams(Struct, frozen=True):
    arguments: Raw = Raw(b"{}")
    meta: ToolMeta = field(default=ToolMeta(), name="_meta")


class Rpc(Struct, frozen=True):
    """A JSON-RPC message of MCP. Without `id` it is a notification."""

    method: str = ""
    id: int | str | None = None
    params: RpcParams = RpcParams()


class HookInput(Struct, frozen=True):
    """What the CLI is about to do with a tool of its own."""

    tool_name: str = ""
    tool_input: Raw = Raw(b"{}")
    tool_use_id: str = ""


class ControlAsk(Struct, frozen=True):
    subtype: str
    message: Rpc = Rpc()
    input: HookInput = HookInput()


class ControlRequest(Struct, frozen=True, tag="control_request"):
    """The CLI asks something of us: `mcp_message` carries MCP for a server that we declared, `hook_callback` wants to
    know whether, and how, a tool of the CLI's own may run."""

    request_id: str
    request: ControlAsk


class ListedModel(Struct, frozen=True):
    """A model as the CLI reports it. `value` is what it is asked for by, `resolvedModel` what answers.

    `displayName`: for people.
    """

    value: str
    resolvedModel: str = ""
    supportedEffortLevels: list[str] = field(default_factory=list)
    supportsThinkingOff: bool = False
    supportsAdaptiveThinking: bool = False
    displayName: str = ""


class ContextCategory(Struct, frozen=True):
    """A part of what the model is given, in tokens. `kind` is `used` for what a request holds."""

    name: str
    tokens: int = 0
    kind: str = ""


class ControlResult(Struct, frozen=True):
    """What any control request of ours is answered with: `models` the list of models, the rest the use of context."""

    models: list[ListedModel] = field(default_factory=list)
    categories: list[ContextCategory] = field(default_factory=list)
    totalTokens: int | None = None
    maxTokens: int | None = None
    model: str = ""


class ControlReply(Struct, frozen=True):
    subtype: str
    request_id: str
    error: str = ""
    response: ControlResult | None = None


class ControlResponse(Struct, frozen=True, tag="control_response"):
    response: ControlReply


class Unknown(Struct, frozen=True):
    """A line, or an event, of a type that is not declared here: ignored by every state."""

    type: str


class Garbage(Struct, frozen=True):
    """Not a JSON object at all, such as a warning of the runtime: ignored by every state."""

    start: bytes


class Malformed(Struct, frozen=True):
    """A line of a declared type that does not have its shape. Fails the turn."""

    type: str
    reason: str


Known = StreamEvent | Assistant | User | System | RateLimit | Result | ControlRequest | ControlResponse
Line = Known | Unknown | Garbage | Malformed


def label(line: Line) -> str:
    """What sort of line this is, for a log: `stream_event/message_stop`, `system/init`. Nothing of what it says."""
    if isinstance(line, Garbage):
        return "(not JSON)"
    if isinstance(line, Unknown | Malformed):
        return line.type
    name = str(line.__struct_config__.tag)
    if isinstance(line, StreamEvent):
        return f"{name}/{line.event.__struct_config__.tag}"
    part = line.request if isinstance(line, ControlRequest) else line
    return f"{name}/{part.subtype}" if isinstance(part, System | Result | ControlAsk) else name
