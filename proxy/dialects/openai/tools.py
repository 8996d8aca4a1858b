"""The client's tools and what it says of their use, as the plan needs them.

Shapes: `openai.types.chat.chat_completion_tool_union_param` and `…_tool_choice_option_param` of the package `openai`.
The names must be such as the Messages API takes; the CLI itself drops names of more than 128 characters silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from proxy.dialects import parameters
from proxy.dialects.parameters import MODES, Mode, ToolUse
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Message, Search, Tool
from proxy.protocol.tools import Offer


class CallStyle(Struct, frozen=True):
    """How calls go back. `custom`: names whose calls are custom calls. `legacy`: the call is a `function_call`."""

    custom: frozenset[str] = frozenset()
    legacy: bool = False


PLAIN_CALLS: Final = CallStyle()
GRAMMAR: Final = "{}\n\nThe input must fit this grammar ({}):\n{}"


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


def _described(custom: _Custom, where: str) -> str:
    """The description of a tool that takes free text. A grammar for it is told to the model: nothing here can hold it
    to one."""
    description = custom.description or ""
    form = custom.format
    if form is not None and form.type == "grammar":
        grammar = form.grammar or _Grammar(form.syntax, form.definition)
        if not grammar.definition:
            raise bad_request("A grammar needs a `definition`.", f"{where}.format")
        description = GRAMMAR.format(description, grammar.syntax, grammar.definition).strip()
    elif form is not None and form.type != "text":
        raise bad_request("Must be one of text, grammar.", f"{where}.format.type")
    return description


def _offered(raws: Sequence[Raw], functions: Sequence[Raw]) -> tuple[tuple[Tool, ...], frozenset[str]]:
    """All tools of the request, and the names of the custom ones."""
    offer = Offer("tools" if raws else "functions")
    custom: set[str] = set()

    def function(given: _Function, where: str) -> None:
        offer.add(given.name, given.description, given.parameters, where)

    def free_text(given: _Custom, where: str) -> None:
        offer.add(given.name, _described(given, where), None, where)
        custom.add(given.name)

    for index, raw in enumerate(raws):
        where = f"tools[{index}]"
        tool = decoded(_tool_decoder, raw, where)
        if tool.type == "function" and tool.function is not None:
            function(tool.function, f"{where}.function")
        elif tool.type == "custom" and tool.custom is not None:
            free_text(tool.custom, f"{where}.custom")
        elif tool.name is not None and bytes(tool.input_schema) and tool.type in (None, "function", "custom"):
            offer.add(tool.name, tool.description, tool.input_schema, where, "input_schema")
        elif tool.name is not None and tool.type in (None, "function"):
            function(_Function(tool.name, tool.description, tool.parameters), where)
        elif tool.name is not None and tool.type == "custom":
            free_text(_Custom(tool.name, tool.description, tool.format), where)
        elif tool.type is None:
            raise bad_request("A tool needs a `type`.", f"{where}.type")
        elif tool.type in ("function", "custom"):
            raise bad_request(f"A tool of type {tool.type} needs `{tool.type}`.", f"{where}.{tool.type}")
        else:
            raise bad_request(f"Tools of type {tool.type!r} are not supported.", f"{where}.type")
    for index, raw in enumerate(functions):
        where = f"functions[{index}]"
        function(decoded(_function_decoder, raw, where), where)
    return tuple(offer.tools.values()), frozenset(custom)


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
    messages: Sequence[Message],
    search: Search | None = None,
) -> tuple[ToolUse, CallStyle]:
    """What the parameters about tools come to, and how calls go back. Raises Rejection.

    `messages`: the past. `search`: the model may search the web, unless it is to do something else.
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
    wanted = _wanted(tools, choice, where)
    legacy = bool(functions and not raws)
    use = parameters.tool_use(
        wanted.tools,
        wanted.mode,
        wanted.where,
        messages=messages,
        single=legacy or parallel is False,
        name=wanted.name,
        search=None if isinstance(choice, _Choice) else search,
    )
    return use, CallStyle(custom, legacy)


class _Wanted(Struct, frozen=True):
    """What a `tool_choice` leaves of the tools, and how they may be used; `name`: of the one that must be called."""

    tools: tuple[Tool, ...]
    mode: Mode
    where: str
    name: str | None = None


def _wanted(tools: tuple[Tool, ...], choice: _Choice | str | None, where: str) -> _Wanted:
    if choice is None:
        return _Wanted(tools, "auto", where)
    if isinstance(choice, str):
        if choice in MODES:
            return _Wanted(tools, MODES[choice], where)
        raise bad_request(f"Unknown choice {choice!r}: none, auto, required or an object.", where)
    if choice.type == "allowed_tools" and choice.allowed_tools is not None:
        return _allowed(tools, choice.allowed_tools, f"{where}.allowed_tools")
    if choice.type in ("function", "custom") and choice.name is not None:
        place = f"{where}.{choice.type}.name" if where == "tool_choice" else f"{where}.name"
        _only(tools, [choice.name], place)
        return _Wanted(tools, "required", where, choice.name)
    raise bad_request("An object here names a function, a custom tool or allowed tools.", where)


def _allowed(tools: tuple[Tool, ...], allowed: _Allowed, where: str) -> _Wanted:
    names = []
    for index, raw in enumerate(allowed.tools):
        place = f"{where}.tools[{index}]"
        entry = decoded(_choice_decoder, raw, place)
        if isinstance(entry, str) or entry.name is None:
            raise bad_request("An allowed tool needs type and name.", place)
        names.append(entry.name)
    if allowed.mode not in ("auto", "required"):
        raise bad_request("Must be one of auto, required.", f"{where}.mode")
    return _Wanted(_only(tools, names, f"{where}.tools"), MODES[allowed.mode], f"{where}.tools")
