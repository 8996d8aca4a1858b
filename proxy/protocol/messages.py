"""The messages of a chat request as a system prompt and turns that the Messages API takes.

There roles alternate, every call has a result in the message after it, results come first, and nothing is empty.
Shapes: `openai.types.chat.ChatCompletionMessageParam` of the PyPI package `openai`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct

from proxy.protocol import content
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Block, Message, TextBlock, ToolResultBlock, ToolUseBlock
from proxy.protocol.tools import CUSTOM_ARGUMENT, NAME, NAME_RULE

# What stands for the result of a call that has none.
NO_RESULT: Final = (TextBlock("No result was given for this call."),)


class _FunctionCall(Struct, frozen=True):
    name: str
    arguments: str | None = None


class _CustomCall(Struct, frozen=True):
    name: str
    input: str | None = None


class _ToolCall(Struct, frozen=True):
    id: str
    function: _FunctionCall | None = None
    custom: _CustomCall | None = None


class _InMessage(Struct, frozen=True):
    role: str
    content: str | list[Raw] | None = None
    refusal: str | None = None
    tool_calls: list[Raw] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    function_call: _FunctionCall | None = None


_ODD_IN_ID: Final = re.compile(r"[^a-zA-Z0-9_-]")
_message_decoder: Final = msgspec.json.Decoder(_InMessage)
_call_decoder: Final = msgspec.json.Decoder(_ToolCall)
_object_decoder: Final = msgspec.json.Decoder(dict[str, Raw])


def conversation(raws: Sequence[Raw]) -> tuple[str | None, tuple[Message, ...]]:
    """System prompt and messages. The last message is the user's: what is to be answered. Raises Rejection."""
    if not raws:
        raise bad_request("At least one message is needed.", "messages")
    talk = _Talk()
    messages = [decoded(_message_decoder, raw, f"messages[{index}]") for index, raw in enumerate(raws)]
    taken = [talk.take(message, index) for index, message in enumerate(messages)]
    talk.answer_open_calls()
    where = f"messages[{len(messages) - 1}]"
    system = "\n\n".join(talk.system)
    if not talk.turns and system:
        # A prompt made of system messages alone is put as the question: the Messages API needs one from the user.
        return None, (Message("user", (TextBlock(system),)),)
    if not talk.turns:
        raise bad_request("There is no message with content.", f"{where}.content")
    if talk.turns[-1][0] == "assistant":
        raise bad_request(
            "The last message with content is the assistant's: Claude cannot go on from the middle of its own answer. "
            "End the messages with one of role user or tool.",
            where,
        )
    if messages[-1].role == "user" and not taken[-1]:
        raise bad_request("The last message has no content.", f"{where}.content")
    return system or None, tuple(Message(role, tuple(blocks)) for role, blocks in talk.turns)


class _Talk:
    """A conversation while it is put together, message by message; `answer_open_calls` at its end."""

    __slots__ = ("_images", "_open_calls", "system", "turns")

    def __init__(self) -> None:
        self.system: list[str] = []
        self.turns: list[tuple[Literal["user", "assistant"], list[Block]]] = []
        # The ids of calls without a result yet: a set that keeps their order.
        self._open_calls: dict[str, None] = {}
        self._images = 0

    def take(self, message: _InMessage, index: int) -> Sequence[Block]:
        """Add the message of this index; the blocks that it comes to. Raises Rejection."""
        where = f"messages[{index}]"
        if message.role in ("system", "developer"):
            return self._instructions(message, where)
        if message.role == "user":
            return self._question(message, where)
        if message.role == "assistant":
            return self._answer(message, where, index)
        if message.role in ("tool", "function"):
            return self._result(message, where)
        raise bad_request(f"Unknown role {message.role!r}.", f"{where}.role")

    def answer_open_calls(self) -> None:
        """A call without a result gets an error result: the Messages API refuses a conversation with a gap."""
        self._append("user", [ToolResultBlock(call_id, NO_RESULT, is_error=True) for call_id in self._open_calls])
        self._open_calls.clear()

    def _append(self, role: Literal["user", "assistant"], blocks: Sequence[Block]) -> None:
        """Roles alternate: what follows in the same role becomes further blocks of one message."""
        if blocks and self.turns and self.turns[-1][0] == role:
            self.turns[-1][1].extend(blocks)
        elif blocks:
            self.turns.append((role, list(blocks)))

    def _instructions(self, message: _InMessage, where: str) -> Sequence[Block]:
        blocks = content.blocks(message.content, where, text_only=True)
        text = "".join(block.text for block in blocks if isinstance(block, TextBlock))
        if text:
            self.system.append(text)
        return blocks

    def _question(self, message: _InMessage, where: str) -> Sequence[Block]:
        self.answer_open_calls()
        blocks = content.blocks(message.content, where, images_before=self._images)
        self._images += content.images_in(blocks)
        self._append("user", blocks)
        return blocks

    def _answer(self, message: _InMessage, where: str, index: int) -> Sequence[Block]:
        self.answer_open_calls()
        blocks: list[Block] = list(content.blocks(message.content, where, text_only=True))
        if not blocks and message.refusal and message.refusal.strip():
            blocks.append(TextBlock(message.refusal))
        for place, call in _calls(message, where, index):
            if call.id in self._open_calls:
                raise bad_request(f"Two calls have the id {call.id!r}.", f"{place}.id")
            self._open_calls[call.id] = None
            blocks.append(call)
        self._append("assistant", blocks)
        return blocks

    def _result(self, message: _InMessage, where: str) -> Sequence[Block]:
        """The result of one of the calls that are open; takes it off them."""
        if message.role == "function":
            call_id = next(iter(self._open_calls), "")
            param = f"{where}.name"
        else:
            if message.tool_call_id is None:
                raise bad_request("A tool message needs the id of the call that it answers.", f"{where}.tool_call_id")
            call_id = clean_id(message.tool_call_id)
            param = f"{where}.tool_call_id"
        if call_id not in self._open_calls:
            words = "No call of the assistant message before it has this id, or it has a result already."
            raise bad_request(words, param)
        del self._open_calls[call_id]
        blocks = content.blocks(message.content, where, images_before=self._images)
        self._images += content.images_in(blocks)
        result = ToolResultBlock(call_id, tuple(blocks))
        self._append("user", [result])
        return [result]


def clean_id(call_id: str) -> str:
    """The id as the Messages API takes it (`^[a-zA-Z0-9_-]+$`); ids of its own are unchanged."""
    return _ODD_IN_ID.sub("_", call_id) or "_"


def _calls(message: _InMessage, where: str, index: int) -> Iterator[tuple[str, ToolUseBlock]]:
    """The calls of an assistant message, each with its place."""
    called = message.function_call
    if called is not None:
        place = f"{where}.function_call"
        yield place, _call(f"function_{index}", called.name, argument_object(called.arguments), place)
    for at, raw in enumerate(message.tool_calls or ()):
        place = f"{where}.tool_calls[{at}]"
        call = decoded(_call_decoder, raw, place)
        if call.function is not None:
            arguments = argument_object(call.function.arguments)
            yield place, _call(clean_id(call.id), call.function.name, arguments, f"{place}.function")
        elif call.custom is not None:
            wrapped = Raw(msgspec.json.encode({CUSTOM_ARGUMENT: call.custom.input or ""}))
            yield place, _call(clean_id(call.id), call.custom.name, wrapped, f"{place}.custom")
        else:
            raise bad_request("A tool call needs `function` or `custom`.", place)


def _call(call_id: str, name: str, arguments: Raw, where: str) -> ToolUseBlock:
    if not NAME.fullmatch(name):
        raise bad_request(NAME_RULE, f"{where}.name")
    return ToolUseBlock(call_id, name, arguments)


def argument_object(text: str | None) -> Raw:
    """The arguments as a JSON object. What a model wrote that is none is kept as text under one name."""
    if not text or not text.strip():
        return Raw(b"{}")
    try:
        _object_decoder.decode(text)
    except (ValueError, RecursionError):
        return Raw(msgspec.json.encode({"arguments": text}))
    return Raw(text.encode())
