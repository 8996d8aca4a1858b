"""What all blocks of messages have, and the blocks of past answers that are not put in again.

Those say what the API's own servers did for the model: what came of it stands in the text of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct, field

from proxy.dialects.marks import CacheControl

Mark = CacheControl | None


class Block(Struct, frozen=True, tag_field="type"):
    cache_control: Mark = None


class ServerToolUseBlock(Block, frozen=True, tag="server_tool_use", kw_only=True):
    """What a server was asked for: a search of the web, say. Its result follows, and is named."""

    id: str = ""
    name: str = ""
    input: Any = None


class ServerResultBlock(Block, frozen=True, kw_only=True):
    tool_use_id: str = ""
    content: Any = None


class WebSearchToolResultBlock(ServerResultBlock, frozen=True, tag="web_search_tool_result"):
    pass


class WebFetchToolResultBlock(ServerResultBlock, frozen=True, tag="web_fetch_tool_result"):
    pass


class ToolSearchToolResultBlock(ServerResultBlock, frozen=True, tag="tool_search_tool_result"):
    pass


class CodeExecutionToolResultBlock(ServerResultBlock, frozen=True, tag="code_execution_tool_result"):
    pass


class BashCodeExecutionToolResultBlock(ServerResultBlock, frozen=True, tag="bash_code_execution_tool_result"):
    pass


class EditorCodeExecutionToolResultBlock(ServerResultBlock, frozen=True, tag="text_editor_code_execution_tool_result"):
    pass


class AdvisorToolResultBlock(ServerResultBlock, frozen=True, tag="advisor_tool_result"):
    pass


class McpToolUseBlock(ServerToolUseBlock, frozen=True, tag="mcp_tool_use"):
    server_name: str = ""


class McpToolResultBlock(ServerResultBlock, frozen=True, tag="mcp_tool_result"):
    is_error: bool | None = None


class McpToolListingBlock(Block, frozen=True, tag="mcp_tool_listing", kw_only=True):
    mcp_server_name: str = ""
    tools: Any = None


class FallbackBlock(Block, frozen=True, tag="fallback", kw_only=True):
    """Another model answered from there on. The API itself makes nothing of it."""

    to: Any = None
    from_: Any = field(default=None, name="from")
    trigger: Any = None


OfServer = (
    ServerToolUseBlock
    | WebSearchToolResultBlock
    | WebFetchToolResultBlock
    | ToolSearchToolResultBlock
    | CodeExecutionToolResultBlock
    | BashCodeExecutionToolResultBlock
    | EditorCodeExecutionToolResultBlock
    | AdvisorToolResultBlock
    | McpToolUseBlock
    | McpToolResultBlock
    | McpToolListingBlock
    | FallbackBlock
)
# What is named as ignored. A call has its result beside it.
_TOLD: Final[tuple[type[Block], ...]] = (*ServerResultBlock.__subclasses__(), McpToolListingBlock)
NAMED: Final[Mapping[type[Block], str]] = {kind: f"messages.{kind.__struct_config__.tag}" for kind in _TOLD}
