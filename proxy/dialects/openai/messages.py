"""The messages of a chat request as a system prompt and turns that the Messages API takes.

Shapes: `openai.types.chat.ChatCompletionMessageParam` of the PyPI package `openai`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from proxy.dialects.openai import content, signed
from proxy.dialects.openai.content import Part
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.history import History, PastCall, argument_object
from proxy.protocol.media import PartBlock, images_in
from proxy.protocol.plan import (
    EMPTY_OBJECT,
    AssistantBlock,
    Message,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
)
from proxy.protocol.tools import CUSTOM_ARGUMENT, NAMELESS

# Stands before what one of several speakers says.
NO_CALL: Final = "No call of the assistant message before it has this id."
SPEAKER: Final = "[{}]:"


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
    thinking_blocks: list[Raw] | None = None
    reasoning_details: list[Raw] | None = None


_message_decoder: Final = msgspec.json.Decoder(_InMessage)
_call_decoder: Final = msgspec.json.Decoder(_ToolCall)


class Conversation(Struct, frozen=True):
    """System prompt and messages, of which the last is the user's. `ignored`: fields of messages without effect."""

    system: str | None
    messages: tuple[Message, ...]
    ignored: tuple[str, ...] = ()


def conversation(raws: Sequence[Raw]) -> Conversation:
    """What the messages come to. Raises Rejection."""
    if not raws:
        raise bad_request("At least one message is needed.", "messages")
    history = History()
    history.expect("messages", messages=len(raws))
    messages = [decoded(_message_decoder, raw, f"messages[{index}]") for index, raw in enumerate(raws)]
    names = {message.name for message in messages if message.name and message.role in ("user", "assistant")}
    talk = _Talk(history, tell_names=len(names) > 1)
    empty = [talk.take(message, index) for index, message in enumerate(messages)]
    where = f"messages[{len(messages) - 1}]"
    if messages[-1].role == "user" and empty[-1]:
        raise bad_request("The last message has no content.", f"{where}.content")
    system, turns = talk.history.finish()
    if not turns:
        raise bad_request("There is no message with content.", f"{where}.content")
    return Conversation(system, turns, ("messages.name",) if len(names) == 1 else ())


class _Talk:
    """A conversation while it is put together, message by message."""

    __slots__ = ("_images", "_tell_names", "history")

    def __init__(self, history: History, *, tell_names: bool) -> None:
        self._tell_names = tell_names
        self.history = history
        self._images = 0

    def take(self, message: _InMessage, index: int) -> bool:
        """Add the message of this index; whether it is empty. Raises Rejection."""
        where = f"messages[{index}]"
        parts = 0 if isinstance(message.content, str) else len(message.content or ())
        self.history.expect(where, parts=parts + len(message.tool_calls or ()))
        if message.role in ("system", "developer"):
            return self._instructions(message, where)
        if message.role == "user":
            return self._question(message, where)
        if message.role == "assistant":
            return self._answer(message, where, index)
        if message.role in ("tool", "function"):
            return self._result(message, where)
        raise bad_request(f"Unknown role {message.role!r}.", f"{where}.role")

    def _blocks(self, found: Sequence[tuple[Part, str]]) -> list[PartBlock]:
        blocks = content.blocks(found, images_before=self._images)
        self._images += images_in(blocks)
        return blocks

    def _question(self, message: _InMessage, where: str) -> bool:
        """What the user says; results in the form of the Messages API may stand among it."""
        said: list[tuple[Part, str]] = []
        answered = False
        for part, place in content.parts(message.content, where):
            if part.type != "tool_result":
                said.append((part, place))
                continue
            blocks = tuple(self._blocks(content.parts(part.content, place)))
            if not self.history.answer(part.tool_use_id, blocks, bool(part.is_error)):
                raise bad_request(NO_CALL, f"{place}.tool_use_id")
            answered = True
        blocks_said = self._blocks(said)
        self.history.ask([*self._named(message, bool(blocks_said)), *blocks_said])
        return not blocks_said and not answered

    def _named(self, message: _InMessage, speaks: bool) -> list[TextBlock]:
        """Who speaks, where several do."""
        return [TextBlock(SPEAKER.format(message.name))] if self._tell_names and message.name and speaks else []

    def _instructions(self, message: _InMessage, where: str) -> bool:
        blocks = content.blocks(content.parts(message.content, where), text_only=True)
        text = "\n\n".join(block.text for block in blocks if isinstance(block, TextBlock))
        self.history.instruct(text)
        return not text

    def _answer(self, message: _InMessage, where: str, index: int) -> bool:
        said: list[AssistantBlock | PastCall] = []
        for part, place in content.parts(message.content, where):
            if part.type == "tool_use":
                said.append(_call(part.id, part.name, _object(part.input), place))
            elif part.type == "thinking":
                # Without its signature it is not genuine, and the Messages API would refuse it.
                said += [ThinkingBlock(part.thinking, part.signature)] if part.signature else []
            elif part.type == "redacted_thinking":
                said.append(RedactedThinkingBlock(part.data))
            else:
                blocks = content.blocks([(part, place)], text_only=True)
                said += [block for block in blocks if isinstance(block, TextBlock)]
        if not said and message.refusal and message.refusal.strip():
            said.append(TextBlock(message.refusal))
        if self._tell_names and message.name and said:
            said.insert(0, TextBlock(SPEAKER.format(message.name)))
        sent = list(signed.blocks(message.thinking_blocks or (), f"{where}.thinking_blocks"))
        if not sent:
            sent = list(signed.blocks(message.reasoning_details or (), f"{where}.reasoning_details"))
        said += _calls(message, where, index)
        self.history.say([*sent, *said] if said else ())
        return not said

    def _result(self, message: _InMessage, where: str) -> bool:
        """The result of one of the calls that are open."""
        if message.role == "function":
            call_id, param = self.history.open_call, f"{where}.name"
        else:
            call_id, param = message.tool_call_id, f"{where}.tool_call_id"
            if call_id is None:
                raise bad_request("A tool message needs the id of the call that it answers.", param)
        if call_id is None or not self.history.answer(
            call_id, tuple(self._blocks(content.parts(message.content, where)))
        ):
            raise bad_request(NO_CALL, param)
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


def _object(value: Raw) -> Raw:
    return value if bytes(value).lstrip()[:1] == b"{" else EMPTY_OBJECT


def _call(call_id: str, name: str, arguments: Raw, where: str) -> PastCall:
    if not name:
        raise bad_request(NAMELESS, f"{where}.name")
    return PastCall(call_id, name, arguments)
