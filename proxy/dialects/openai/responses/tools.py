"""The client's tools and what it says of their use, as the plan needs them, and how their calls go back.

Shapes: `openai.types.responses.tool_param` and the `tool_choice_*_param` of the package `openai`. A tool in a namespace
is offered under one name made of both, and its calls go back with both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct, field

from proxy.dialects import parameters
from proxy.dialects.openai.responses import web_search
from proxy.dialects.openai.responses.builtin import TOOLS, BuiltinName
from proxy.dialects.parameters import MODES, Mode, ToolUse
from proxy.dialects.undeclared import Undeclared, named, word
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Grammar, Message, Search, Tool
from proxy.protocol.tools import Offer

# Tools that OpenAI runs itself, and nothing behind this server can: an answer without them is to another question.
REFUSED: Final = frozenset((
    "file_search", "code_interpreter", "image_generation", "computer", "computer_use", "computer_use_preview", "mcp",
))  # fmt: skip
_OFFERED: Final = frozenset(("function", "custom", "namespace", "local_shell", "shell", "apply_patch"))
GRAMMAR: Final = "The input must match this {} grammar:\n\n{}"


class CallForm(Struct, frozen=True):
    """How calls of a tool go back: as items of this kind, under the client's own name."""

    kind: Literal["function", "custom"] | BuiltinName
    name: str
    namespace: str | None = None


class ResponsesToolUse(ToolUse, frozen=True):
    """Also how calls go back to the client: `forms` by the name that the model knows.

    `ignored`: tools without effect. `echo`: the tools as they are told back.
    """

    forms: dict[str, CallForm] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    echo: tuple[Raw, ...] = ()


class _Format(Struct, frozen=True):
    type: str
    syntax: str | None = None
    definition: str | None = None


class _Tool(Struct, frozen=True):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: Raw = Raw()
    format: _Format | None = None
    tools: list[Raw] | None = None
    strict: bool | None = None


class _Function(Struct, frozen=True, kw_only=True, tag_field="type", tag="function"):
    """A function as it is told back: with what was left out."""

    name: str
    description: str | None = None
    parameters: Raw = Raw(b"null")
    strict: bool | None = True


class _Choice(Struct, frozen=True):
    """A `tool_choice` that is an object; also an entry of `tools` in it."""

    type: str
    name: str | None = None
    namespace: str | None = None
    mode: str | None = None
    tools: list[Raw] | None = None


# What chat completions have in an object of their own.
_NESTED: Final = frozenset(("function", "custom", "grammar", "allowed_tools"))
_fields: Final = msgspec.json.Decoder(dict[str, Raw])
_list: Final = msgspec.json.Decoder(list[Raw])
_text: Final = msgspec.json.Decoder(str)
_tool_decoder: Final = msgspec.json.Decoder(_Tool)
_function_decoder: Final = msgspec.json.Decoder(_Function)
_choice_decoder: Final = msgspec.json.Decoder(_Choice | str)
_undeclared: Final = Undeclared(_Tool)
_undeclared_of_choice: Final = Undeclared(_Choice)


def flat(raw: Raw, depth: int = 2) -> Raw:
    """A tool or a choice in the form of this API, also where it has that of chat completions: there what stands beside
    `type` here is an object named like the type.

    `depth`: levels of tools and formats below it that are looked at; a namespace has tools, and a tool its format.
    """
    try:
        given = _fields.decode(raw)
        kind = _text.decode(given["type"])
        if kind in _NESTED and kind in given:
            inner = _fields.decode(given[kind])
            del given[kind]
            given |= {name: value for name, value in inner.items() if name != "type"}
            raw = Raw(msgspec.json.encode(given))
        if depth and "format" in given:
            given["format"] = flat(given["format"], depth - 1)
        if depth and "tools" in given:
            tools = [flat(tool, depth - 1) for tool in _list.decode(given["tools"])]
            given["tools"] = Raw(msgspec.json.encode(tools))
    except (ValueError, RecursionError, KeyError):
        # Whoever decodes it says what is wrong.
        return raw
    return Raw(msgspec.json.encode(given))


def flat_name(name: str, namespace: str | None = None) -> str:
    """The one name that stands for both."""
    return name if namespace is None else f"{namespace}__{name}"


class _Offer:
    """The tools of a request, while they are gathered."""

    def __init__(self) -> None:
        self._offer = Offer()
        self.forms: dict[str, CallForm] = {}
        self.ignored: list[str] = []
        self.search: Search | None = None

    @property
    def tools(self) -> dict[str, Tool]:
        """By the name that the model knows."""
        return self._offer.tools

    def take(self, raw: Raw, where: str, *, namespace: str | None = None, again: bool = False) -> None:
        """One tool. `again`: it may replace one of the same name. Raises Rejection."""
        tool = decoded(_tool_decoder, raw, where)
        if tool.type in _OFFERED:
            self.ignored += _undeclared(raw, named(where))
        if tool.type == "function":
            self._add(tool, "function", tool.description, tool.parameters, where, namespace, again)
        elif tool.type == "custom":
            description, grammar = _described(tool, where)
            self._add(tool, "custom", description, None, where, namespace, again, grammar)
        elif tool.type == "namespace":
            if namespace is not None:
                raise bad_request(
                    "A namespace has functions and custom tools, and no other namespace.", f"{where}.type"
                )
            if not tool.name:
                raise bad_request("A namespace needs a name.", f"{where}.name")
            for index, inner in enumerate(tool.tools or ()):
                self.take(inner, f"{where}.tools[{index}]", namespace=tool.name, again=again)
        elif tool.type in ("local_shell", "shell", "apply_patch"):
            builtin: BuiltinName = tool.type  # type: ignore[assignment]
            if builtin in self.tools and not again:
                raise bad_request(f"Two tools have the name {builtin!r}.", where)
            self.tools[builtin] = TOOLS[builtin]
            self.forms[builtin] = CallForm(builtin, builtin)
        elif tool.type in web_search.TYPES:
            search, no_effect = web_search.search(raw, where)
            if search is not None and self.search is not None and not again:
                raise bad_request("The web can be searched in one way only.", where)
            self.search = search or self.search
            self.ignored += no_effect
        elif tool.type in REFUSED:
            raise bad_request(f"Tools of type {tool.type!r} are run by OpenAI: there are none here.", f"{where}.type")
        else:
            self.ignored.append(f"tools.{word(tool.type)}")

    def _add(
        self,
        tool: _Tool,
        kind: Literal["function", "custom"],
        description: str | None,
        schema: Raw | None,
        where: str,
        namespace: str | None,
        again: bool,
        grammar: Grammar | None = None,
    ) -> None:
        if not tool.name:
            raise bad_request("A tool needs a name.", f"{where}.name")
        flat = flat_name(tool.name, namespace)
        form = CallForm(kind, tool.name, namespace)
        known = self.forms.get(flat)
        if known is not None and not (again and known == form):
            raise bad_request(f"Two tools have the name {tool.name!r}.", f"{where}.name")
        self._offer.add(flat, description, schema, where, again=known is not None, grammar=grammar)
        self.forms[flat] = form


def _described(tool: _Tool, where: str) -> tuple[str, Grammar | None]:
    """The description of a tool that takes free text, and the grammar of that, of which the model is told."""
    format, words = tool.format, tool.description or ""
    if format is None or format.type == "text":
        return words, None
    if format.type != "grammar":
        raise bad_request("Must be one of text, grammar.", f"{where}.format.type")
    if format.syntax not in ("lark", "regex"):
        raise bad_request("Must be one of lark, regex.", f"{where}.format.syntax")
    if not format.definition:
        raise bad_request("A grammar needs its definition.", f"{where}.format.definition")
    told = GRAMMAR.format("Lark" if format.syntax == "lark" else "regular", format.definition)
    grammar = Grammar("lark" if format.syntax == "lark" else "regex", format.definition, f"{where}.format")
    return f"{words}\n\n{told}".lstrip(), grammar


def _told_back(raw: Raw) -> Raw:
    """A tool as the response tells it back: functions with what was left out."""
    try:
        return Raw(msgspec.json.encode(_function_decoder.decode(raw)))
    except msgspec.ValidationError:
        return raw


def tool_use(
    raws: Sequence[Raw],
    additional: Iterable[tuple[str, Raw]],
    tool_choice: Raw | None,
    parallel: bool | None,
    messages: Sequence[Message],
    max_calls: int | None = None,
) -> ResponsesToolUse:
    """What the parameters about tools come to. Raises Rejection.

    `additional`: tools that came among the items, with their paths. `messages`: the past. `max_calls`: of tools that
    are run here, which is the search alone.
    """
    offer = _Offer()
    raws = [flat(raw) for raw in raws]
    for index, raw in enumerate(raws):
        offer.take(raw, f"tools[{index}]")
    for where, raw in additional:
        offer.take(flat(raw), where, again=True)
    where = "tool_choice"
    tools = tuple(offer.tools.values())
    mode: Mode = "auto"
    name: str | None = None
    choice = "auto" if tool_choice is None else decoded(_choice_decoder, tool_choice, where)
    if isinstance(choice, _Choice):
        offer.ignored += _undeclared_of_choice(tool_choice or Raw(), where)
        tools, mode, name = _chosen(offer, choice)
    elif choice in MODES:
        mode = MODES[choice]
    else:
        raise bad_request(f"Unknown choice {choice!r}: none, auto, required or an object.", where)
    search = _search_left(offer, choice) if max_calls is None or max_calls > 0 else None
    if search is not None:
        search = msgspec.structs.replace(search, max_uses=max_calls)
    use = parameters.tool_use(tools, mode, where, messages=messages, single=parallel is False, name=name, search=search)
    echo = tuple(_told_back(raw) for raw in raws)
    return ResponsesToolUse(
        use.tools,
        use.choice,
        use.demand,
        use.search,
        offer.forms,
        tuple(dict.fromkeys(offer.ignored)),
        echo,
    )


def _chosen(offer: _Offer, choice: _Choice) -> tuple[tuple[Tool, ...], Mode, str | None]:
    """The tools that an object as `tool_choice` leaves, how they may be used, and the one that must be called."""
    where = "tool_choice"
    if choice.type == "allowed_tools":
        if choice.mode not in ("auto", "required"):
            raise bad_request("Must be one of auto, required.", f"{where}.mode")
        wanted: set[str] = set()
        for index, raw in enumerate(choice.tools or ()):
            place = f"{where}.tools[{index}]"
            entry = decoded(_choice_decoder, raw, place)
            if isinstance(entry, str):
                raise bad_request("An allowed tool is an object.", place)
            offer.ignored += _undeclared_of_choice(raw, named(place))
            wanted |= _named(offer, entry, place)
        left = tuple(tool for name, tool in offer.tools.items() if name in wanted)
        if choice.mode == "required" and not left and _search_left(offer, choice) is None:
            raise bad_request("There are no tools to call.", f"{where}.tools")
        return left, MODES[choice.mode], None
    if _search_left(offer, choice) is not None:
        return (), "required", None
    names = _named(offer, choice, where)
    if not names:
        raise bad_request(f"Tools of type {choice.type!r} have no effect here, so none can be called.", f"{where}.type")
    if len(names) == 1:
        # The others stay on offer: what is offered stands before the conversation, so it is found in the prompt cache.
        return tuple(offer.tools.values()), "required", next(iter(names))
    return tuple(tool for name, tool in offer.tools.items() if name in names), "required", None


def _search_left(offer: _Offer, choice: _Choice | str) -> Search | None:
    """The search, unless the choice is of something else."""
    if isinstance(choice, str) or choice.type in web_search.TYPES:
        return offer.search
    if choice.type != "allowed_tools":
        return None
    entries = (msgspec.json.decode(raw, type=_Choice | str) for raw in choice.tools or ())
    allowed = any(isinstance(entry, _Choice) and entry.type in web_search.TYPES for entry in entries)
    return offer.search if allowed else None


def _named(offer: _Offer, choice: _Choice, where: str) -> set[str]:
    """The names that the model knows the tools by that an object names; none for a type that has no effect here."""
    if choice.type in ("function", "custom"):
        if choice.name is None:
            raise bad_request("The tool's name is needed.", f"{where}.name")
        found = {
            flat
            for flat, form in offer.forms.items()
            if form.kind == choice.type and form.name == choice.name and choice.namespace in (None, form.namespace)
        }
        if not found:
            raise bad_request(f"No tool has the name {choice.name!r}.", f"{where}.name")
        return found
    if choice.type == "namespace":
        return {flat for flat, form in offer.forms.items() if form.namespace == choice.name}
    if choice.type in TOOLS:
        if choice.type not in offer.tools:
            raise bad_request(f"There is no tool of type {choice.type!r}.", f"{where}.type")
        return {choice.type}
    if choice.type in REFUSED:
        raise bad_request(f"Tools of type {choice.type!r} are run by OpenAI: there are none here.", f"{where}.type")
    return set()
