"""What is written to the CLI's stdin. Every function returns whole lines, newline included.

Rules: everything of the request goes over stdin, nothing on the command line. Every user message
is `client_composed`, or the CLI would expand `@path` and `/command` in it. The model is chosen by a setting:
`set_model` with a name that the CLI does not list costs a request of its own to the Messages API.
"""

from __future__ import annotations

import string
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from proxy.protocol.lines import ControlRequest
from proxy.protocol.plan import (
    LAUNCHED,
    SERVER,
    Block,
    Message,
    Plan,
    Search,
    TextBlock,
    Tool,
    ToolChoice,
    ToolResultBlock,
    has_thinking,
)
from proxy.protocol.web_search import TOO_MANY, WEB_SEARCH, held_to

SystemPromptMode = Literal["replace", "append"]

# Request ids need to be unique within one child only, and a child serves one conversation.
LIST_MODELS_ID: Final = "models"
INITIALIZE_ID: Final = "initialize"
SETTINGS_ID: Final = "settings"
UNBLOCK_ID: Final = "unblock"
COUNT_ID: Final = "count"
ESTIMATE_ID: Final = "estimate"
SEARCH_HOOK: Final = "search"
# The MCP version whose handshake results the CLI takes from `initialize` (2.1.272 … 2.1.330).
MCP_VERSION: Final = "2025-11-25"

_encode = msgspec.json.Encoder().encode


def _line(value: object) -> bytes:
    """One line. What clients sent may be in it as it came (`Raw`), so whatever could end the line is taken out of it:
    between JSON tokens a line break is white space, and inside a string only these two can stand unescaped.
    """
    data = _encode(value).replace(b"\n", b" ").replace(b"\r", b" ")
    return data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029") + b"\n"


class _Control(Struct, frozen=True):
    request_id: str
    request: object
    type: Literal["control_request"] = "control_request"


class _ListModels(Struct, frozen=True):
    subtype: Literal["list_models"] = "list_models"


class _ContextUsage(Struct, frozen=True):
    # `full` has the Messages API count; `summary` is estimated by the CLI.
    detail: Literal["full", "summary"]
    subtype: Literal["get_context_usage"] = "get_context_usage"


class _ServerInfo(Struct, frozen=True):
    name: str = SERVER
    version: str = "1"


class _McpCapabilities(Struct, frozen=True):
    tools: dict[str, bool] = {}


class _McpInitialized(Struct, frozen=True):
    protocolVersion: str = MCP_VERSION
    capabilities: _McpCapabilities = _McpCapabilities()
    serverInfo: _ServerInfo = _ServerInfo()


class _ToolAnnotations(Struct, frozen=True):
    # Makes the CLI issue all calls of a message at once; else the second waits for the first one's answer.
    readOnlyHint: bool = True


class _ToolMeta(Struct, frozen=True):
    # Keeps the tool from being hidden behind the CLI's tool search.
    always_load: bool = msgspec.field(default=True, name="anthropic/alwaysLoad")


class _McpTool(Struct, frozen=True):
    name: str
    description: str
    inputSchema: Raw
    annotations: _ToolAnnotations = _ToolAnnotations()
    meta: _ToolMeta = msgspec.field(default_factory=_ToolMeta, name="_meta")


class _McpTools(Struct, frozen=True):
    tools: list[_McpTool]


class _Manifest(Struct, frozen=True):
    initializeResult: _McpInitialized
    toolsListResult: _McpTools


class _Hook(Struct, frozen=True):
    """The CLI asks us before it runs a tool of its own."""

    matcher: str = WEB_SEARCH
    hookCallbackIds: tuple[str, ...] = (SEARCH_HOOK,)


class _Hooks(Struct, frozen=True):
    PreToolUse: tuple[_Hook, ...] = (_Hook(),)


class _Initialize(Struct, frozen=True, omit_defaults=True):
    subtype: str
    systemPrompt: list[str] | UnsetType = UNSET
    appendSystemPrompt: str | UnsetType = UNSET
    jsonSchema: object = UNSET
    sdkMcpServers: list[str] | UnsetType = UNSET
    sdkMcpServerManifests: dict[str, _Manifest] | UnsetType = UNSET
    hooks: _Hooks | UnsetType = UNSET


class _SettingsEnv(Struct, frozen=True, omit_defaults=True):
    CLAUDE_CODE_MAX_OUTPUT_TOKENS: str | UnsetType = UNSET
    # A JSON object, as text, that the CLI merges into the body of its request.
    CLAUDE_CODE_EXTRA_BODY: str | UnsetType = UNSET
    CLAUDE_CODE_DISABLE_THINKING: str | UnsetType = UNSET
    # Tokens from which on the CLI takes a conversation for too long and asks nobody; empty: as the model has it.
    CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE: str | UnsetType = UNSET


class _NoThinking(Struct, frozen=True):
    type: Literal["disabled"] = "disabled"


class _ExtraBody(Struct, frozen=True, omit_defaults=True):
    tool_choice: ToolChoice | UnsetType = UNSET
    thinking: _NoThinking | UnsetType = UNSET
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


class _Settings(Struct, frozen=True, omit_defaults=True):
    model: str | UnsetType = UNSET
    effortLevel: str | UnsetType = UNSET
    env: _SettingsEnv | UnsetType = UNSET


class _ApplySettings(Struct, frozen=True):
    settings: _Settings
    subtype: Literal["apply_flag_settings"] = "apply_flag_settings"


class _UserLine(Struct, frozen=True, omit_defaults=True):
    type: str
    message: Message
    client_composed: bool
    session_id: str
    parent_tool_use_id: str | UnsetType | None = UNSET
    shouldQuery: bool | UnsetType = UNSET


class _Answer(Struct, frozen=True):
    """A past answer with its thinking: without these three the CLI drops thinking without a word."""

    role: str
    content: tuple[Block, ...]
    id: str
    model: str
    type: Literal["message"] = "message"


class _AssistantLine(Struct, frozen=True):
    message: Message | _Answer
    type: Literal["assistant"] = "assistant"
    parent_tool_use_id: None = None
    session_id: str = ""


def list_models() -> bytes:
    """Asks for the models; also the sign that a child is ready. Leaves it as generic as it was."""
    return _line(_Control(LIST_MODELS_ID, _ListModels()))


def count() -> bytes:
    """Asks how many tokens all has that was put in so far."""
    return _line(_Control(COUNT_ID, _ContextUsage("full")))


def estimate() -> bytes:
    """The same, as the CLI guesses it by itself: nothing is sent to the Messages API."""
    return _line(_Control(ESTIMATE_ID, _ContextUsage("summary")))


def choose(model: str) -> bytes:
    """The model, and nothing else of a conversation."""
    return _line(_Control(SETTINGS_ID, _ApplySettings(_Settings(model))))


def _manifest(tools: tuple[Tool, ...]) -> _Manifest:
    listed = [_McpTool(tool.name, tool.description, tool.schema) for tool in tools]
    return _Manifest(_McpInitialized(), _McpTools(listed))


def initialize(plan: Plan, mode: SystemPromptMode) -> bytes:
    """The first line of a conversation. Replacing with nothing means a neutral model, not the CLI's own prompt."""
    system = plan.system or UNSET
    return _line(
        _Control(
            INITIALIZE_ID,
            _Initialize(
                "initialize",
                systemPrompt=([plan.system] if plan.system else []) if mode == "replace" else UNSET,
                appendSystemPrompt=system if mode == "append" else UNSET,
                jsonSchema=UNSET if plan.schema is None else plan.schema.offered,
                sdkMcpServers=[SERVER] if plan.tools else UNSET,
                sdkMcpServerManifests={SERVER: _manifest(plan.tools)} if plan.tools else UNSET,
                hooks=UNSET if plan.search is None else _Hooks(),
            ),
        )
    )


def settings(plan: Plan, *, blocked: bool = False) -> bytes:
    """Model, limit and effort, in one line; nothing for what a child is launched with: a line costs it 0.01 s.

    `blocked`: what is asked is not sent to the Messages API, until `unblock`.
    """
    sampling, choice = plan.sampling, plan.tool_choice
    extra = _ExtraBody(
        choice or UNSET,
        UNSET if plan.thinking else _NoThinking(),
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
    )
    # The Messages API takes no choice that forces a call together with thinking.
    thinks = plan.thinking and (choice is None or not choice.forced)
    env = _SettingsEnv(
        UNSET if plan.max_tokens is None else str(plan.max_tokens),
        UNSET if extra == _ExtraBody() else _encode(extra).decode(),
        UNSET if thinks else "1",
        "1" if blocked else UNSET,
    )
    flags = _Settings(plan.model, plan.effort or UNSET, UNSET if env == _SettingsEnv() else env)
    return b"" if flags == _Settings(LAUNCHED) else _line(_Control(SETTINGS_ID, _ApplySettings(flags)))


def unblock() -> bytes:
    """What is asked from now on is sent. The other settings stay as they are."""
    flags = _Settings(env=_SettingsEnv(CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE=""))
    return _line(_Control(UNBLOCK_ID, _ApplySettings(flags)))


# Answers that the CLI takes for its own notes on empty ones, and drops, white space around them or not.
PLACEHOLDERS: Final = frozenset(("(no content)", "[Empty text removed]"))


def is_placeholder(text: str) -> bool:
    """Whether the CLI forgets an answer that is this text and nothing else."""
    return _core(text) in PLACEHOLDERS


def _core(text: str) -> str:
    return text.strip(f"{string.whitespace}\ufeff\xa0")


def _said(message: Message) -> tuple[Block, ...]:
    """The content of an answer, so that the CLI keeps it: what it would drop comes in two blocks."""
    only = message.content[0]
    if len(message.content) == 1 and isinstance(only, TextBlock) and is_placeholder(only.text):
        core = _core(only.text)
        at = only.text.index(core) + len(core) // 2
        return TextBlock(only.text[:at]), TextBlock(only.text[at:])
    return message.content


def past(message: Message, index: int = 0, model: str = "") -> bytes:
    """A message of the past. One of the user's is answered by a `result`: wait for it before the next line.

    `index`: its place in the conversation; `model`: who wrote it, unless the message itself says so.
    """
    if message.role == "user":
        return _line(_UserLine("user", message, True, "", None, shouldQuery=False))
    if not has_thinking(message):
        return _line(_AssistantLine(Message("assistant", _said(message))))
    # No two have the same id: the CLI would join them.
    answer = _Answer("assistant", message.content, f"msg_past_{index}", message.written_by or model)
    return _line(_AssistantLine(answer))


def ask(message: Message) -> bytes:
    """The user's message that is to be answered now."""
    return _line(_UserLine("user", message, True, "", None))


class _Done(Struct, frozen=True):
    request_id: str
    subtype: Literal["success"] = "success"


class _DoneResponse(Struct, frozen=True):
    response: _Done
    type: Literal["control_response"] = "control_response"


def success(request_id: str) -> bytes:
    """That a control request has been carried out, as either side says it."""
    return _line(_DoneResponse(_Done(request_id)))


class _McpContent(Struct, frozen=True, tag="text"):
    text: str


class _McpCallResult(Struct, frozen=True):
    content: list[_McpContent]
    isError: bool


class _RpcResult(Struct, frozen=True):
    id: int | str | None
    result: object
    jsonrpc: Literal["2.0"] = "2.0"


class _McpResponse(Struct, frozen=True):
    mcp_response: _RpcResult


class _HookOutput(Struct, frozen=True):
    permissionDecision: Literal["allow", "deny"]
    permissionDecisionReason: str | UnsetType = UNSET
    updatedInput: Raw | UnsetType = UNSET
    hookEventName: Literal["PreToolUse"] = "PreToolUse"


class _HookResponse(Struct, frozen=True):
    hookSpecificOutput: _HookOutput


class _Success(Struct, frozen=True):
    request_id: str
    response: _McpResponse | _HookResponse
    subtype: Literal["success"] = "success"


class _ControlResponse(Struct, frozen=True):
    response: _Success
    type: Literal["control_response"] = "control_response"


def _rpc(request_id: str, rpc_id: int | str | None, result: object) -> bytes:
    return _line(_ControlResponse(_Success(request_id, _McpResponse(_RpcResult(rpc_id, result)))))


def call_result(request_id: str, rpc_id: int | str | None, block: ToolResultBlock) -> bytes:
    """The client's result as the answer to the call that the CLI holds (`tools/call`). Text only: see `can_answer`."""
    content = [_McpContent(part.text) for part in block.content if isinstance(part, TextBlock)]
    return _rpc(request_id, rpc_id, _McpCallResult(content, block.is_error))


def mcp_reply(ask: ControlRequest, tools: tuple[Tool, ...]) -> bytes:
    """The answer to any MCP message but `tools/call`: the handshake, where `initialize` did not settle it."""
    manifest = _manifest(tools)
    rpc = ask.request.message
    results: dict[str, object] = {
        "initialize": manifest.initializeResult,
        "tools/list": manifest.toolsListResult,
    }
    return _rpc(ask.request_id, rpc.id, results.get(rpc.method, {}))


def search_reply(ask: ControlRequest, search: Search | None) -> bytes:
    """Whether the CLI may search, and with what. `search` None: it may not."""
    if search is None:
        output = _HookOutput("deny", TOO_MANY)
    else:
        output = _HookOutput("allow", updatedInput=held_to(search, ask.request.input.tool_input) or UNSET)
    return _line(_ControlResponse(_Success(ask.request_id, _HookResponse(output))))


# Above this the CLI puts a result into a file and hands the model a preview of it (50,000 characters on 2.1.330).
MAX_HELD_RESULT: Final = 40_000
MAX_HELD_RESULTS: Final = 150_000


def can_answer(results: tuple[ToolResultBlock, ...]) -> bool:
    """Whether the held calls can be answered with these so that they reach the model as they are.

    The CLI puts words of its own in the place of a result that is empty or white space (no form of an MCP result gets
    one through), stores a large one, may shrink images, and joins the parts of an error (fixtures tools/*): those go in
    as a new conversation instead.
    """
    sizes = [sum(len(part.text) for part in block.content if isinstance(part, TextBlock)) for block in results]
    plain = all(
        all(isinstance(part, TextBlock) for part in block.content)
        and any(part.text.replace("\ufeff", "").strip() for part in block.content if isinstance(part, TextBlock))
        and not (block.is_error and len(block.content) > 1)
        for block in results
    )
    return plain and max(sizes, default=0) <= MAX_HELD_RESULT and sum(sizes) <= MAX_HELD_RESULTS
