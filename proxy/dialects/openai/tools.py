"""The client's tools and what it says of their use, as the plan needs them.

Shapes: `openai.types.chat.chat_completion_tool_union_param` and `…_tool_choice_option_param` of the package `openai`.
The names must be such as the Messages API takes; the CLI itself drops names of more than 128 characters silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct

from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Tool, ToolChoice
from proxy.protocol.tools import CUSTOM_SCHEMA, MAX_TOOLS, MUST_CALL_ANY, MUST_CALL_ONE, checked_name, parameters


class CallStyle(Struct, frozen=True):
    """How calls go back. `custom`: names whose calls are custom calls. `legacy`: the call is a `function_call`."""

    custom: frozenset[str] = frozenset()
    legacy: bool = False


PLAIN_CALLS: Final = CallStyle()
GRAMMAR: Final = "{}\n\nThe input must fit this grammar ({}):\n{}"


class ToolUse(Struct, frozen=True):
    """What is offered, and how calls go back to the client.

    `demand`: what the model is told when it must call and `choice` cannot say so; None when it may do as it likes.
    """

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice | None = None
    style: CallStyle = PLAIN_CALLS
    demand: str | None = None


class _Function(Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: Raw = Raw()
    strict: bool | None = None


class _Grammar(Struct, frozen=True):
    syntax: str = ""
    definition: str = ""


class _Format(Struct, frozen=True):
    """`grammar`: in `grammar`, or beside `type` in the form of the Responses API."""

    type: str
    grammar: _Grammar | None = None
    syntax: str = ""
    definition: str = ""


class _Custom(Struct, frozen=True):
    name: str
    description: str | None = None
    format: _Format | None = None


class _Tool(Struct, frozen=True):
    """Of chat completions, or flat as in the Responses API, or bare as in the Messages API: Cursor sends all three."""

    type: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None
    name: str | None = None
    description: str | None = None
    parameters: Raw = Raw()
    input_schema: Raw = Raw()
    format: _Format | None = None


class _Name(Struct, frozen=True):
    name: str


class _Allowed(Struct, frozen=True):
    mode: str
    tools: list[Raw]


class _Choice(Struct, frozen=True):
    """A `tool_choice` that is an object; also an entry of `allowed_tools.tools`."""

    type: str
    function: _Name | None = None
    custom: _Name | None = None
    allowed_tools: _Allowed | None = None

    @property
    def name(self) -> str | None:
        named = self.function or self.custom
        return None if named is None else named.name


_tool_decoder: Final = msgspec.json.Decoder(_Tool)
_function_decoder: Final = msgspec.json.Decoder(_Function)
_choice_decoder: Final = msgspec.json.Decoder(_Choice | str)
_name_decoder: Final = msgspec.json.Decoder(_Name | str)


def _function_tool(function: _Function, where: str, seen: set[str]) -> Tool:
    name = checked_name(function.name, f"{where}.name", seen)
    place = f"{where}.parameters"
    return Tool(name, function.description or "", parameters(function.parameters, place), place)


def _custom_tool(custom: _Custom, where: str, seen: set[str]) -> Tool:
    """A tool that takes free text. A grammar for it is told to the model: nothing here can hold it to one."""
    name = checked_name(custom.name, f"{where}.name", seen)
    description = custom.description or ""
    form = custom.format
    if form is not None and form.type == "grammar":
        grammar = form.grammar or _Grammar(form.syntax, form.definition)
        if not grammar.definition:
            raise bad_request("A grammar needs a `definition`.", f"{where}.format")
        description = GRAMMAR.format(description, grammar.syntax, grammar.definition).strip()
    elif form is not None and form.type != "text":
        raise bad_request("Must be one of text, grammar.", f"{where}.format.type")
    return Tool(name, description, CUSTOM_SCHEMA)


def _offered(raws: Sequence[Raw], functions: Sequence[Raw]) -> tuple[tuple[Tool, ...], frozenset[str]]:
    """All tools of the request, and the names of the custom ones."""
    if len(raws) + len(functions) > MAX_TOOLS:
        raise bad_request(f"At most {MAX_TOOLS} tools can be given.", "tools" if raws else "functions")
    seen: set[str] = set()
    custom: set[str] = set()
    tools: list[Tool] = []
    for index, raw in enumerate(raws):
        where = f"tools[{index}]"
        tool = decoded(_tool_decoder, raw, where)
        if tool.type == "function" and tool.function is not None:
            tools.append(_function_tool(tool.function, f"{where}.function", seen))
        elif tool.type == "custom" and tool.custom is not None:
            tools.append(_custom_tool(tool.custom, f"{where}.custom", seen))
            custom.add(tool.custom.name)
        elif tool.name is not None and bytes(tool.input_schema) and tool.type in (None, "function", "custom"):
            schema = parameters(tool.input_schema, f"{where}.input_schema")
            tools.append(Tool(checked_name(tool.name, f"{where}.name", seen), tool.description or "", schema))
        elif tool.name is not None and tool.type in (None, "function"):
            flat = _Function(tool.name, tool.description, tool.parameters)
            tools.append(_function_tool(flat, where, seen))
        elif tool.name is not None and tool.type == "custom":
            tools.append(_custom_tool(_Custom(tool.name, tool.description, tool.format), where, seen))
            custom.add(tool.name)
        elif tool.type is None:
            raise bad_request("A tool needs a `type`.", f"{where}.type")
        elif tool.type in ("function", "custom"):
            raise bad_request(f"A tool of type {tool.type} needs `{tool.type}`.", f"{where}.{tool.type}")
        else:
            raise bad_request(f"Tools of type {tool.type!r} are not supported.", f"{where}.type")
    for index, raw in enumerate(functions):
        where = f"functions[{index}]"
        tools.append(_function_tool(decoded(_function_decoder, raw, where), where, seen))
    return tuple(tools), frozenset(custom)


def _only(tools: tuple[Tool, ...], names: Sequence[str], where: str) -> tuple[Tool, ...]:
    known, wanted = {tool.name for tool in tools}, set(names)
    for name in names:
        if name not in known:
            raise bad_request(f"No tool has the name {name!r}.", where)
    return tuple(tool for tool in tools if tool.name in wanted)


def tool_use(
    raws: Sequence[Raw] | None,
    functions: Sequence[Raw] | None,
    tool_choice: Raw | None,
    function_call: Raw | None,
    parallel: bool | None,
    past_calls: bool,
) -> ToolUse:
    """What the parameters about tools come to. Raises Rejection.

    `past_calls`: the messages contain calls. The Messages API wants tools to be declared then, so `none` forbids
    their use there instead of leaving them out.
    """
    tools, custom = _offered(raws or (), functions or ())
    where = "tool_choice"
    choice: _Choice | str | None = None
    if tool_choice is not None:
        choice = decoded(_choice_decoder, tool_choice, where)
    elif function_call is not None:
        where = "function_call"
        named = decoded(_name_decoder, function_call, where)
        choice = _Choice("function", function=named) if isinstance(named, _Name) else named
    demand = name = None
    if isinstance(choice, _Choice):
        tools, name, demand = _chosen(tools, choice, where)
    elif choice == "required":
        demand = MUST_CALL_ANY
        if not tools:
            raise bad_request("There are no tools to call.", where)
    elif choice == "none":
        forbidden = ToolChoice("none") if past_calls and tools else None
        return ToolUse(tools if forbidden else (), forbidden)
    elif choice not in (None, "auto"):
        raise bad_request(f"Unknown choice {choice!r}: none, auto, required or an object.", where)
    legacy = bool(functions and not raws)
    one_at_a_time = bool(tools) and (legacy or parallel is False)
    kind: Literal["auto", "any", "tool"] = "auto" if demand is None else "any" if name is None else "tool"
    wanted = ToolChoice(kind, one_at_a_time, name) if one_at_a_time or demand is not None else None
    return ToolUse(tools, wanted, CallStyle(custom, legacy), demand)


def _chosen(tools: tuple[Tool, ...], choice: _Choice, where: str) -> tuple[tuple[Tool, ...], str | None, str | None]:
    """The tools that an object as `tool_choice` leaves, the one that must be called, what the model is told of it."""
    if choice.type == "allowed_tools" and choice.allowed_tools is not None:
        names = []
        for index, raw in enumerate(choice.allowed_tools.tools):
            place = f"{where}.allowed_tools.tools[{index}]"
            entry = decoded(_choice_decoder, raw, place)
            if isinstance(entry, str) or entry.name is None:
                raise bad_request("An allowed tool needs type and name.", place)
            names.append(entry.name)
        if choice.allowed_tools.mode not in ("auto", "required"):
            raise bad_request("Must be one of auto, required.", f"{where}.allowed_tools.mode")
        left = _only(tools, names, f"{where}.allowed_tools.tools")
        if choice.allowed_tools.mode == "required" and not left:
            raise bad_request("There are no tools to call.", f"{where}.allowed_tools.tools")
        return left, None, MUST_CALL_ANY if choice.allowed_tools.mode == "required" else None
    if choice.type in ("function", "custom") and choice.name is not None:
        place = f"{where}.{choice.type}.name" if where == "tool_choice" else f"{where}.name"
        _only(tools, [choice.name], place)
        return tools, choice.name, MUST_CALL_ONE.format(choice.name)
    raise bad_request("An object here names a function, a custom tool or allowed tools.", where)
