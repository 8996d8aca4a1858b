"""What is answered to the CLI's own requests, on its stdin: as an MCP server for the client's tools, and as a hook for
the one tool of its own that it may run. Every function returns whole lines, newline included.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from proxy.protocol.lines import ControlRequest
from proxy.protocol.pieces import in_pieces
from proxy.protocol.plan import SERVER, Search, TextBlock, Tool, ToolResultBlock
from proxy.protocol.web_search import TOO_MANY, held_to

# The MCP version whose handshake results the CLI takes from `initialize` (2.1.272 … 2.1.330).
MCP_VERSION: Final = "2025-11-25"


_encode = msgspec.json.Encoder().encode


def encoded(value: object) -> bytes:
    """One line. What clients sent may be in it as it came (`Raw`), so whatever could end the line is taken out of it:
    between JSON tokens a line break is white space, and inside a string only these two can stand unescaped.
    """
    return b"".join((*map(_unbroken, in_pieces(value, _encode)), b"\n"))


def _unbroken(piece: bytes) -> bytes:
    data = piece.replace(b"\n", b" ").replace(b"\r", b" ")
    return data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")


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


class Manifest(Struct, frozen=True):
    initializeResult: _McpInitialized
    toolsListResult: _McpTools


def manifest(tools: tuple[Tool, ...]) -> Manifest:
    """The client's tools, as an MCP server lists them."""
    listed = [_McpTool(tool.name, tool.description, tool.schema) for tool in tools]
    return Manifest(_McpInitialized(), _McpTools(listed))


class _Done(Struct, frozen=True):
    request_id: str
    subtype: Literal["success"] = "success"


class _DoneResponse(Struct, frozen=True):
    response: _Done
    type: Literal["control_response"] = "control_response"


def success(request_id: str) -> bytes:
    """That a control request has been carried out, as either side says it."""
    return encoded(_DoneResponse(_Done(request_id)))


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
    return encoded(_ControlResponse(_Success(request_id, _McpResponse(_RpcResult(rpc_id, result)))))


class _Refused(Struct, frozen=True):
    request_id: str
    error: str
    subtype: Literal["error"] = "error"


class _RefusedResponse(Struct, frozen=True):
    response: _Refused
    type: Literal["control_response"] = "control_response"


def refusal(ask: ControlRequest) -> bytes:
    """The answer to a request of a kind that is not known here: the CLI may wait for one."""
    return encoded(_RefusedResponse(_Refused(ask.request_id, "This kind of request is not supported.")))


def call_result(request_id: str, rpc_id: int | str | None, block: ToolResultBlock) -> bytes:
    """The client's result as the answer to the call that the CLI holds (`tools/call`). Text only: see `can_answer`."""
    content = [_McpContent(part.text) for part in block.content if isinstance(part, TextBlock)]
    return _rpc(request_id, rpc_id, _McpCallResult(content, block.is_error))


def mcp_reply(ask: ControlRequest, tools: tuple[Tool, ...]) -> bytes:
    """The answer to any MCP message but `tools/call`: the handshake, where `initialize` did not settle it."""
    listed = manifest(tools)
    rpc = ask.request.message
    results: dict[str, object] = {
        "initialize": listed.initializeResult,
        "tools/list": listed.toolsListResult,
    }
    return _rpc(ask.request_id, rpc.id, results.get(rpc.method, {}))


def search_reply(ask: ControlRequest, search: Search | None) -> bytes:
    """Whether the CLI may search, and with what. `search` None: it may not."""
    if search is None:
        output = _HookOutput("deny", TOO_MANY)
    else:
        output = _HookOutput("allow", updatedInput=held_to(search, ask.request.input.tool_input) or UNSET)
    return encoded(_ControlResponse(_Success(ask.request_id, _HookResponse(output))))


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
