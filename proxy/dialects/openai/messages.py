"""The messages of a chat request as a system prompt and turns that the Messages API takes.

Shapes: `openai.types.chat.ChatCompletionMessageParam` of the PyPI package `openai`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from proxy.dialects.openai import content
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.history import MAX_MESSAGES, MAX_PARTS, History, PastCall, argument_object
from proxy.protocol.media import PartBlock, images_in
from proxy.protocol.plan import Message, TextBlock
from proxy.protocol.tools import CUSTOM_ARGUMENT, NAMELESS


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


_message_decoder: Final = msgspec.json.Decoder(_InMessage)
_call_decoder: Final = msgspec.json.Decoder(_ToolCall)


def conversation(raws: Sequence[Raw]) -> tuple[str | None, tuple[Message, ...]]:
    """System prompt and messages. The last message is the user's: what is to be answered. Raises Rejection."""
    if not raws:
        raise bad_request("At least one message is needed.", "messages")
    if len(raws) > MAX_MESSAGES:
        raise bad_request(f"At most {MAX_MESSAGES} messages can be given.", "messages")
    talk = _Talk()
    messages = [decoded(_message_decoder, raw, f"messages[{index}]") for index, raw in enumerate(raws)]
    empty = [talk.take(message, index) for index, message in enumerate(messages)]
    where = f"messages[{len(messages) - 1}]"
    if messages[-1].role == "user" and empty[-1]:
        raise bad_request("The last message has no content.", f"{where}.content")
    system, turns = talk.history.finish()
    if not turns:
        raise bad_request("There is no message with content.", f"{where}.content")
    return system, turns


class _Talk:
    """A conversation while it is put together, message by message."""

    __slots__ = ("_images", "_parts", "history")

    def __init__(self) -> None:
        self.history = History()
        self._images = 0
        self._parts = 0

    def take(self, message: _InMessage, index: int) -> bool:
        """Add the message of this index; whether it is empty. Raises Rejection."""
        where = f"messages[{index}]"
        self._parts += len(message.tool_calls or ())
        self._parts += 0 if isinstance(message.content, str) else len(message.content or ())
        if self._parts > MAX_PARTS:
            raise bad_request(f"At most {MAX_PARTS} content parts and tool calls can be given in all messages.", where)
        if message.role in ("system", "developer"):
            return self._instructions(message, where)
        if message.role == "user":
            blocks = self._blocks(message, where)
            self.history.ask(blocks)
            return not blocks
        if message.role == "assistant":
            return self._answer(message, where, index)
        if message.role in ("tool", "function"):
            return self._result(message, where)
        raise bad_request(f"Unknown role {message.role!r}.", f"{where}.role")

    def _blocks(self, message: _InMessage, where: str) -> list[PartBlock]:
        blocks = content.blocks(message.content, where, images_before=self._images)
        self._images += images_in(blocks)
        return blocks

    def _instructions(self, message: _InMessage, where: str) -> bool:
        blocks = content.blocks(message.content, where, text_only=True)
        text = "\n\n".join(block.text for block in blocks if isinstance(block, TextBlock))
        self.history.instruct(text)
        return not text

    def _answer(self, message: _InMessage, where: str, index: int) -> bool:
        parts = content.blocks(message.content, where, text_only=True)
        texts = [part for part in parts if isinstance(part, TextBlock)]
        if not texts and message.refusal and message.refusal.strip():
            texts.append(TextBlock(message.refusal))
        calls = tuple(_calls(message, where, index))
        self.history.say([*texts, *calls])
        return not texts and not calls

    def _result(self, message: _InMessage, where: str) -> bool:
        """The result of one of the calls that are open."""
        if message.role == "function":
            call_id, param = self.history.open_call, f"{where}.name"
        else:
            call_id, param = message.tool_call_id, f"{where}.tool_call_id"
            if call_id is None:
                raise bad_request("A tool message needs the id of the call that it answers.", param)
        if call_id is None or not self.history.answer(call_id, tuple(self._blocks(message, where))):
            raise bad_request("No call of the assistant message before it has this id.", param)
        return False


def _calls(message: _InMessage, where: str, index: int) -> Iterator[PastCall]:
    """The calls of an assistant message."""
    called = message.function_call
    if called is not None:
        place = f"{where}.function_call"
        yield _call(f"function_{index}", called.name, argument_object(called.arguments), place)
    for at, raw in enumerate(message.tool_calls or ()):
        place = f"{where}.tool_calls[{at}]"
        call = decoded(_call_decoder, raw, place)
        if call.function is not None:
            arguments = argument_object(call.function.arguments)
            yield _call(call.id, call.function.name, arguments, f"{place}.function")
        elif call.custom is not None:
            wrapped = Raw(msgspec.json.encode({CUSTOM_ARGUMENT: call.custom.input or ""}))
            yield _call(call.id, call.custom.name, wrapped, f"{place}.custom")
        else:
            raise bad_request("A tool call needs `function` or `custom`.", place)


def _call(call_id: str, name: str, arguments: Raw, where: str) -> PastCall:
    if not name:
        raise bad_request(NAMELESS, f"{where}.name")
    return PastCall(call_id, name, arguments)
