"""Between the client's tools and those that the CLI gets: names, schemas and arguments, both ways.

The CLI drops or changes in silence what it does not like in a tool. So each tool is sent in a form that passes, and
what comes back is put into the client's own words. What needs no translation is handed on as it is.

Not kept: descriptions, titles and other free text, which the CLI normalises (`aliases.normalised`), and numbers that
JavaScript cannot hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from msgspec import Raw

from proxy.protocol.aliases import tool_names
from proxy.protocol.deltas import Arguments, Delta, ToolCall, ToolEnd
from proxy.protocol.json_stream import Translator
from proxy.protocol.offered import Offered, offered
from proxy.protocol.plan import Block, Message, Plan, Tool, ToolUseBlock

# What a tool's description says when it has another name here than in what the client says of it.
ALSO_CALLED: Final = "This tool is also called `{}`."


class Translation:
    """The translation for one conversation. `tools`: as the CLI gets them, in the order given; `same`: none of it is
    any different.

    The same tools and messages give the same translation, and one more message of calls known before changes nothing.
    """

    __slots__ = ("_back", "_offered", "_there", "same", "tools")

    def __init__(self, tools: Iterable[Tool] = (), messages: Iterable[Message] = ()) -> None:
        """`messages`: the conversation so far, which may hold calls of tools that are offered no more."""
        tools = tuple(tools)
        past = (block.name for message in messages for block in message.content if isinstance(block, ToolUseBlock))
        self._there = tool_names([*(tool.name for tool in tools), *past])
        self._back = {sent: name for name, sent in self._there.items()}
        self._offered: dict[str, Offered] = {}
        sent = []
        for tool in tools:
            form = offered(tool.schema)
            if not form.same:
                self._offered[tool.name] = form
            sent.append(_tool(tool, self.name(tool.name), form.schema))
        self.tools = tuple(sent)
        self.same = not self._there and all(one is other for one, other in zip(sent, tools, strict=True))

    def name(self, name: str) -> str:
        """What a tool of the client's is called here."""
        return self._there.get(name, name)

    def call_name(self, name: str) -> str:
        """The client's name of the tool that is called."""
        return self._back.get(name, name)

    def message(self, message: Message) -> Message:
        """A message of the conversation as it is put in: the calls in it are those of the tools here."""
        if self.same:
            return message
        content = tuple(self._block(block) for block in message.content)
        return message if content == message.content else msgspec.structs.replace(message, content=content)

    def plan(self, plan: Plan) -> Plan:
        """The plan as it is carried out: with the tools as the CLI gets them."""
        if self.same:
            return plan
        messages = tuple(map(self.message, plan.messages))
        choice = plan.tool_choice
        if choice is not None and choice.name is not None:
            choice = msgspec.structs.replace(choice, name=self.name(choice.name))
        return msgspec.structs.replace(plan, tools=self.tools, messages=messages, tool_choice=choice)

    def _block(self, block: Block) -> Block:
        if not isinstance(block, ToolUseBlock):
            return block
        form = self._offered.get(block.name)
        arguments: Raw = block.input if form is None else form.there(block.input)
        return msgspec.structs.replace(block, name=self.name(block.name), input=arguments)

    def arguments(self, name: str) -> Translator | None:
        """For the arguments of one call of the tool that is called so here; None: they are the client's as they are."""
        form = self._offered.get(self.call_name(name))
        return None if form is None else form.back()


def _tool(tool: Tool, name: str, schema: Raw) -> Tool:
    if name == tool.name and schema is tool.schema:
        return tool
    words = tool.description
    if name != tool.name:
        words = f"{words}\n\n{ALSO_CALLED.format(tool.name)}".lstrip()
    return msgspec.structs.replace(tool, name=name, description=words, schema=schema)


class Heard:
    """The deltas of one answer, put into the client's words."""

    __slots__ = ("_arguments", "_translation")

    def __init__(self, translation: Translation) -> None:
        self._translation = translation
        self._arguments: dict[int, Translator | None] = {}

    def take(self, deltas: list[Delta]) -> list[Delta]:
        return deltas if self._translation.same else [one for delta in deltas for one in self._one(delta)]

    def _one(self, delta: Delta) -> Iterator[Delta]:
        if isinstance(delta, ToolCall):
            self._arguments[delta.tool_index] = self._translation.arguments(delta.name)
            delta = ToolCall(delta.tool_index, delta.id, self._translation.call_name(delta.name))
        translator = self._arguments.get(delta.tool_index) if isinstance(delta, Arguments | ToolEnd) else None
        if translator is not None and isinstance(delta, Arguments):
            text = translator.feed(delta.text)
            if text:
                yield Arguments(delta.tool_index, text)
            return
        if translator is not None and isinstance(delta, ToolEnd):
            text = translator.close()
            if text:
                yield Arguments(delta.tool_index, text)
        yield delta
