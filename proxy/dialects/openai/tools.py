"""The client's tools and what it says of their use, as the plan needs them.

Shapes: `openai.types.chat.chat_completion_tool_union_param` and `…_tool_choice_option_param` of the package `openai`.
The names must be such as the Messages API takes; the CLI itself drops names of more than 128 characters silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from proxy.dialects import choices, parameters
from proxy.dialects.choices import AnyChoice, AutoChoice, NoChoice, PlainChoice
from proxy.dialects.openai.chat_body import ChatRequest
from proxy.dialects.openai.chat_tools import (
    AllowedChoice,
    AllowedTools,
    CustomChoice,
    CustomDefinition,
    FunctionChoice,
    FunctionDefinition,
    Grammar,
    GrammarFormat,
    Named,
    ToolChoice,
    ToolDefinition,
)
from proxy.dialects.parameters import MODES, Mode, ToolUse
from proxy.protocol import plan
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Message, Search, Tool
from proxy.protocol.tools import Offer


class CallStyle(Struct, frozen=True):
    """How calls go back. `custom`: names whose calls are custom calls. `legacy`: the call is a `function_call`."""

    custom: frozenset[str] = frozenset()
    legacy: bool = False


PLAIN_CALLS: Final = CallStyle()


def without_effect(chat: ChatRequest) -> tuple[str, ...]:
    """Fields of tools that ask for what nothing here does: to hold arguments to their schema while they are written."""
    tools = chat.tools or ()
    strict = any(tool.strict or (tool.function is not None and tool.function.strict) for tool in tools)
    legacy = any(function.strict for function in chat.functions or ())
    return (*(("tools.strict",) if strict else ()), *(("functions.strict",) if legacy else ()))


GRAMMAR: Final = "{}\n\nThe input must fit this grammar ({}):\n{}"


def _described(custom: CustomDefinition, where: str) -> tuple[str, plan.Grammar | None]:
    """The description of a tool that takes free text, and the grammar of that, of which the model is told."""
    description, form = custom.description or "", custom.format
    if not isinstance(form, GrammarFormat):
        return description, None
    grammar = form.grammar or Grammar(form.syntax, form.definition)
    where = f"{where}.format"
    if not grammar.definition:
        raise bad_request("A grammar needs a `definition`.", where)
    if not grammar.syntax:
        raise bad_request("A grammar needs a `syntax`: lark or regex.", where)
    told = GRAMMAR.format(description, grammar.syntax, grammar.definition).strip()
    return told, plan.Grammar(grammar.syntax, grammar.definition, where)


def _offered(
    tools: Sequence[ToolDefinition], functions: Sequence[FunctionDefinition]
) -> tuple[tuple[Tool, ...], frozenset[str]]:
    """All tools of the request, and the names of the custom ones."""
    offer = Offer("tools" if tools else "functions")
    custom: set[str] = set()

    def function(given: FunctionDefinition, where: str) -> None:
        offer.add(given.name, given.description, given.parameters, where)

    def free_text(given: CustomDefinition, where: str) -> None:
        description, grammar = _described(given, where)
        offer.add(given.name, description, None, where, grammar=grammar)
        custom.add(given.name)

    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if tool.type == "function" and tool.function is not None:
            function(tool.function, f"{where}.function")
        elif tool.type == "custom" and tool.custom is not None:
            free_text(tool.custom, f"{where}.custom")
        elif tool.name is not None and bytes(tool.input_schema) and tool.type in (None, "function", "custom"):
            offer.add(tool.name, tool.description, tool.input_schema, where, "input_schema")
        elif tool.name is not None and tool.type in (None, "function"):
            function(FunctionDefinition(tool.name, tool.description, tool.parameters), where)
        elif tool.name is not None and tool.type == "custom":
            free_text(CustomDefinition(tool.name, tool.description, tool.format), where)
        elif tool.type is None:
            raise bad_request("A tool needs a `type`.", f"{where}.type")
        elif tool.type in ("function", "custom"):
            raise bad_request(f"A tool of type {tool.type} needs `{tool.type}`.", f"{where}.{tool.type}")
        else:
            raise bad_request(f"Tools of type {tool.type!r} are not supported.", f"{where}.type")
    for index, given in enumerate(functions):
        function(given, f"functions[{index}]")
    return tuple(offer.tools.values()), frozenset(custom)


def _only(tools: tuple[Tool, ...], names: Sequence[str], where: str) -> tuple[Tool, ...]:
    known, wanted = {tool.name for tool in tools}, set(names)
    for name in names:
        if name not in known:
            raise bad_request(f"No tool has the name {name!r}.", where)
    return tuple(tool for tool in tools if tool.name in wanted)


def tool_use(chat: ChatRequest, messages: Sequence[Message], search: Search | None = None) -> tuple[ToolUse, CallStyle]:
    """What the parameters about tools come to, and how calls go back. Raises Rejection.

    `messages`: the past. `search`: the model may search the web, unless it is to do something else.
    """
    tools, custom = _offered(chat.tools or (), chat.functions or ())
    where: str = "tool_choice"
    choice: Choice = chat.tool_choice
    if choice is None and chat.function_call is not None:
        where, choice = "function_call", chat.function_call
    wanted = _wanted(tools, choice, where)
    legacy = bool(chat.functions and not chat.tools)
    use = parameters.tool_use(
        wanted.tools,
        wanted.mode,
        wanted.where,
        messages=messages,
        single=legacy or chat.parallel_tool_calls is False or _one_at_a_time(choice),
        name=wanted.name,
        search=search if choice is None or isinstance(choice, str) else None,
    )
    return use, CallStyle(custom, legacy)


class _Wanted(Struct, frozen=True):
    """What a `tool_choice` leaves of the tools, and how they may be used; `name`: of the one that must be called."""

    tools: tuple[Tool, ...]
    mode: Mode
    where: str
    name: str | None = None


OneTool = Named | FunctionChoice | CustomChoice | ToolChoice
Choice = str | OneTool | AllowedChoice | AutoChoice | AnyChoice | NoChoice | None


def _wanted(tools: tuple[Tool, ...], choice: Choice, where: str) -> _Wanted:
    if choice is None:
        return _Wanted(tools, "auto", where)
    if isinstance(choice, str):
        if choice in MODES:
            return _Wanted(tools, MODES[choice], where)
        raise bad_request(f"Unknown choice {choice!r}: none, auto, required or an object.", where)
    if isinstance(choice, AllowedChoice):
        allowed, place = _allowed(choice, where)
        names = [_named(entry, f"{place}[{index}]")[0] for index, entry in enumerate(allowed.tools)]
        return _Wanted(_only(tools, names, place), MODES[allowed.mode], place)
    if isinstance(choice, AutoChoice | AnyChoice | NoChoice):
        return _Wanted(tools, choices.MODES[type(choice)], where)
    name, path = _named(choice, where)
    _only(tools, [name], path)
    return _Wanted(tools, "required", where, name)


def _one_at_a_time(choice: Choice) -> bool:
    return isinstance(choice, PlainChoice) and bool(choice.disable_parallel_tool_use)


def _allowed(choice: AllowedChoice, where: str) -> tuple[AllowedTools, str]:
    """What is allowed, and where its tools stand. Raises Rejection."""
    where_nested = f"{where}.allowed_tools"
    if choice.allowed_tools is not None:
        return choice.allowed_tools, f"{where_nested}.tools"
    if choice.mode is None or choice.tools is None:
        flat = choice.mode is not None or choice.tools is not None
        field = (f"{where}.mode" if choice.mode is None else f"{where}.tools") if flat else where_nested
        raise bad_request(f"`{field}` is needed.", field)
    return AllowedTools(choice.mode, choice.tools), f"{where}.tools"


def _named(choice: OneTool, where: str) -> tuple[str, str]:
    """The name of a tool, and where it stands. `where`: of the choice. Raises Rejection."""
    if isinstance(choice, FunctionChoice):
        nested, field = choice.function, "function"
    elif isinstance(choice, CustomChoice):
        nested, field = choice.custom, "custom"
    else:
        return choice.name, f"{where}.name"
    if nested is not None:
        return nested.name, f"{where}.{field}.name"
    if choice.name is None:
        raise bad_request(f"`{where}.{field}` is needed.", f"{where}.{field}")
    return choice.name, f"{where}.name"
