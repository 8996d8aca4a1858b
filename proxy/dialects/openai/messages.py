"""The messages of a chat request as a system prompt and turns that the Messages API takes.

Shapes: `openai.types.chat.ChatCompletionMessageParam` of the PyPI package `openai`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from proxy.dialects.marks import CacheControl, Marks
from proxy.dialects.openai import content, signed
from proxy.dialects.openai.chat_body import (
    AnyMessage,
    AnyPart,
    AssistantMessage,
    FunctionMessage,
    RedactedThinkingPart,
    SystemMessage,
    ThinkingPart,
    ToolMessage,
    ToolResultPart,
    ToolUsePart,
    UserMessage,
)
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


class Conversation(Struct, frozen=True):
    """System prompt and messages, of which the last is the user's. `ignored`: fields of messages without effect;
    `marks`: for the prompt cache."""

    system: str | None
    messages: tuple[Message, ...]
    marks: Marks
    ignored: tuple[str, ...] = ()


def conversation(messages: Sequence[AnyMessage]) -> Conversation:
    """What the messages come to. Raises Rejection."""
    if not messages:
        raise bad_request("At least one message is needed.", "messages")
    history = History()
    history.expect("messages", messages=len(messages))
    speakers = [message for message in messages if isinstance(message, UserMessage | AssistantMessage)]
    names = {message.name for message in speakers if message.name}
    talk = _Talk(history, tell_names=len(names) > 1)
    empty = [talk.take(message, index) for index, message in enumerate(messages)]
    where = f"messages[{len(messages) - 1}]"
    if isinstance(messages[-1], UserMessage) and empty[-1]:
        raise bad_request("The last message has no content.", f"{where}.content")
    system, turns = talk.history.finish()
    if not turns:
        raise bad_request("There is no message with content.", f"{where}.content")
    talk.marks.at_ends(talk.system_marks)
    talk.ignored += ["messages.name"] if len(names) == 1 else []
    return Conversation(system, turns, talk.marks, tuple(talk.ignored))


class _Talk:
    """A conversation while it is put together, message by message."""

    __slots__ = ("_images", "_tell_names", "history", "ignored", "marks", "system_marks")

    def __init__(self, history: History, *, tell_names: bool) -> None:
        self._tell_names = tell_names
        self.history = history
        self._images = 0
        self.marks = Marks()
        self.ignored: list[str] = []
        self.system_marks: list[CacheControl | None] = []

    def take(self, message: AnyMessage, index: int) -> bool:
        """Add the message of this index; whether it is empty. Raises Rejection."""
        where = f"messages[{index}]"
        calls = message.tool_calls or () if isinstance(message, AssistantMessage) else ()
        parts = 0 if isinstance(message.content, str) else len(message.content or ())
        self.history.expect(where, parts=parts + len(calls))
        if isinstance(message, UserMessage):
            return self._question(message, where)
        if isinstance(message, AssistantMessage):
            return self._answer(message, where, index)
        if isinstance(message, SystemMessage):
            return self._instructions(message, where)
        return self._result(message, where)

    def _blocks(self, found: Sequence[tuple[AnyPart, str]], marks: Marks | None = None) -> list[PartBlock]:
        blocks = content.blocks(found, images_before=self._images, marks=marks)
        self._images += images_in(blocks)
        return blocks

    def _question(self, message: UserMessage, where: str) -> bool:
        """What the user says; results in the form of the Messages API may stand among it."""
        said: list[tuple[AnyPart, str]] = []
        answered = False
        for part, place in content.parts(message.content, where):
            if not isinstance(part, ToolResultPart):
                said.append((part, place))
                continue
            blocks = tuple(self._blocks(content.parts(part.content, place)))
            result = self.history.answer(part.tool_use_id, blocks, bool(part.is_error))
            if result is None:
                raise bad_request(NO_CALL, f"{place}.tool_use_id")
            self.marks.on(result, part.cache_control or _within(part.content))
            answered = True
        blocks_said = self._blocks(said, self.marks)
        self.marks.on(blocks_said[-1] if blocks_said else None, message.cache_control)
        self.history.ask([*self._named(message, bool(blocks_said)), *blocks_said])
        return not blocks_said and not answered

    def _named(self, message: UserMessage, speaks: bool) -> list[TextBlock]:
        """Who speaks, where several do."""
        return [TextBlock(SPEAKER.format(message.name))] if self._tell_names and message.name and speaks else []

    def _instructions(self, message: SystemMessage, where: str) -> bool:
        mark = message.cache_control or _within(message.content)
        if self.history.begun:
            self.marks.on(None, mark)
        else:
            self.system_marks.append(mark)
        blocks = content.blocks(content.parts(message.content, where))
        text = "\n\n".join(block.text for block in blocks if isinstance(block, TextBlock))
        self.history.instruct(text)
        return not text

    def _answer(self, message: AssistantMessage, where: str, index: int) -> bool:
        self.marks.on(None, message.cache_control or _within(message.content))
        said: list[AssistantBlock | PastCall] = []
        for part, place in content.parts(message.content, where):
            if isinstance(part, ToolUsePart):
                said.append(_call(part.id, part.name, _object(part.input, f"{place}.input"), place))
            elif isinstance(part, ThinkingPart):
                # Without its signature it is not genuine, and the Messages API would refuse it.
                said += [ThinkingBlock(part.thinking, part.signature)] if part.signature else []
                self.ignored += [] if part.signature else ["messages.thinking"]
            elif isinstance(part, RedactedThinkingPart):
                said.append(RedactedThinkingBlock(part.data))
            else:
                blocks = content.blocks([(part, place)])
                said += [block for block in blocks if isinstance(block, TextBlock)]
        if not said and message.refusal and message.refusal.strip():
            said.append(TextBlock(message.refusal))
        if self._tell_names and message.name and said:
            said.insert(0, TextBlock(SPEAKER.format(message.name)))
        sent = list(signed.blocks(message.thinking_blocks or ()))
        if not sent:
            sent = list(signed.blocks(message.reasoning_details or ()))
        if not sent:
            self.ignored += ["messages.thinking_blocks"] if message.thinking_blocks else []
            self.ignored += ["messages.reasoning_details"] if message.reasoning_details else []
        said += _calls(message, where, index)
        self.history.say([*sent, *said] if said else ())
        return not said

    def _result(self, message: ToolMessage | FunctionMessage, where: str) -> bool:
        """The result of one of the calls that are open."""
        call_id = self.history.open_call if isinstance(message, FunctionMessage) else message.tool_call_id
        param = f"{where}.name" if isinstance(message, FunctionMessage) else f"{where}.tool_call_id"
        if call_id is None:
            raise bad_request(NO_CALL, param)
        result = self.history.answer(call_id, tuple(self._blocks(content.parts(message.content, where))))
        if result is None:
            raise bad_request(NO_CALL, param)
        own = message.cache_control if isinstance(message, ToolMessage) else None
        self.marks.on(result, own or _within(message.content))
        return False


def _within(given: str | Sequence[AnyPart] | None) -> CacheControl | None:
    """The last mark in a content that becomes one block."""
    parts = () if given is None or isinstance(given, str) else given
    return next((mark for mark in map(content.mark_of, reversed(parts)) if mark is not None), None)


def _calls(message: AssistantMessage, where: str, index: int) -> Iterator[PastCall]:
    """The calls of an assistant message."""
    called = message.function_call
    if called is not None:
        place = f"{where}.function_call"
        yield _call(f"function_{index}", called.name, _arguments(called.arguments), place)
    for at, call in enumerate(message.tool_calls or ()):
        place = f"{where}.tool_calls[{at}]"
        if call.function is not None:
            arguments = _arguments(call.function.arguments)
            yield _call(call.id, call.function.name, arguments, f"{place}.function")
        elif call.custom is not None:
            wrapped = Raw(msgspec.json.encode({CUSTOM_ARGUMENT: call.custom.input or ""}))
            yield _call(call.id, call.custom.name, wrapped, f"{place}.custom")
        else:
            raise bad_request("A tool call needs `function` or `custom`.", place)


def _arguments(given: str | dict[str, Raw] | None) -> Raw:
    return Raw(msgspec.json.encode(given)) if isinstance(given, dict) else argument_object(given)


def _object(value: Raw, where: str) -> Raw:
    if bytes(value) in (b"", b"null"):
        return EMPTY_OBJECT
    if bytes(value)[:1] != b"{":
        raise bad_request("Must be an object.", where)
    return value


def _call(call_id: str, name: str, arguments: Raw, where: str) -> PastCall:
    if not name:
        raise bad_request(NAMELESS, f"{where}.name")
    return PastCall(call_id, name, arguments)
