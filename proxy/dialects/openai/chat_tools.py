"""What a chat request says of tools, as types: tools, and the choice among them, in the forms that clients send.

Shapes: `openai.types.chat.chat_completion_tool_union_param` and `…_tool_choice_option_param` of the package `openai`,
and what the Responses and Messages APIs have in their place.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Raw, Struct, field

from proxy.dialects.choices import PlainChoice
from proxy.dialects.described import ToolName, ToolParameters, documented


class PlainText(Struct, frozen=True, tag="text"):
    pass


GrammarSyntax = Literal["", "lark", "regex"]


class Grammar(Struct, frozen=True):
    syntax: GrammarSyntax = ""
    definition: str = ""


class GrammarFormat(Struct, frozen=True, tag="grammar"):
    """In `grammar`, or beside `type` in the form of the Responses API; a definition and its syntax are needed."""

    grammar: Grammar | None = None
    syntax: GrammarSyntax = ""
    definition: str = ""


class FunctionDefinition(Struct, frozen=True):
    name: ToolName
    description: str | None = None
    parameters: ToolParameters = field(default_factory=Raw)
    strict: bool | None = None


class CustomDefinition(Struct, frozen=True):
    name: ToolName
    description: str | None = None
    format: PlainText | GrammarFormat | None = None


class ToolDefinition(Struct, frozen=True):
    """A function, or a custom tool, which takes free text.

    Also flat as in the Responses API, or bare as in the Messages API: Cursor sends all three.
    """

    type: str | None = None
    function: FunctionDefinition | None = None
    custom: CustomDefinition | None = None
    name: ToolName | None = None
    description: str | None = None
    parameters: ToolParameters = field(default_factory=Raw)
    input_schema: ToolParameters = field(default_factory=Raw)
    format: PlainText | GrammarFormat | None = None
    strict: bool | None = None


class Named(Struct, frozen=True):
    name: str


class FunctionChoice(Struct, frozen=True, tag="function"):
    """Also flat as in the Responses API: `name` beside `type`."""

    function: Named | None = None
    name: ToolName | None = None


class CustomChoice(Struct, frozen=True, tag="custom"):
    """Also flat as in the Responses API: `name` beside `type`."""

    custom: Named | None = None
    name: ToolName | None = None


class ToolChoice(PlainChoice, frozen=True, tag="tool", kw_only=True):
    """In the form of the Messages API."""

    name: ToolName


class AllowedTools(Struct, frozen=True):
    mode: Literal["auto", "required"]
    tools: list[FunctionChoice | CustomChoice]


class AllowedChoice(Struct, frozen=True, tag="allowed_tools"):
    """Also flat as in the Responses API: `mode` and `tools` beside `type`."""

    allowed_tools: AllowedTools | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[FunctionChoice | CustomChoice] | None = None


ChoiceWord = Annotated[str, documented(enum=["none", "auto", "required"])]
TOOL_FORMS: Final = documented(
    anyOf=[
        {"required": ["type", kind], "properties": {"type": {"const": kind}, kind: {"type": "object"}}}
        for kind in ("function", "custom")
    ]
    + [{"required": ["name"], "properties": {"type": {"enum": ["function", "custom"]}, "name": {"type": "string"}}}]
)
