"""What tells one conversation from another: a hash over whose it is, its settings and every message in it.

A conversation that is kept alive is found by the fingerprint of all that it holds; a request that extends exactly that
conversation has the same fingerprint over all but its last message. Clients echo the model's messages in slightly
different shapes, so the assistant's are compared by what they say: text joined, arguments as JSON values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec import Raw

from proxy.protocol.messages import argument_object, clean_id
from proxy.protocol.plan import Block, Message, Plan, TextBlock, ToolUseBlock
from proxy.protocol.turn import Arguments, Delta, Retracted, Text, ToolCall

_encode: Final = msgspec.json.Encoder(order="sorted").encode


def _same_json(raw: Raw) -> Raw:
    """The value written in one way. What cannot be read as a value (a number too large, say) stays as it is written."""
    try:
        return Raw(_encode(msgspec.json.decode(raw)))
    except (ValueError, RecursionError):
        return raw


def _normal(message: Message) -> Message:
    if message.role == "user":
        return message
    text = "".join(block.text for block in message.content if isinstance(block, TextBlock))
    blocks: list[Block] = [TextBlock(text)] if text else []
    for block in message.content:
        if isinstance(block, ToolUseBlock):
            blocks.append(ToolUseBlock(block.id, block.name, _same_json(block.input)))
    return Message("assistant", tuple(blocks))


def extend(fingerprint: bytes, message: Message) -> bytes:
    """The fingerprint of a conversation with one more message."""
    return hashlib.sha256(fingerprint + _encode(_normal(message))).digest()


def of(plan: Plan, owner: str, messages: Sequence[Message]) -> bytes:
    """The fingerprint of `messages` under the plan's settings, for the API key named `owner`."""
    settings = msgspec.structs.replace(plan, messages=())
    fingerprint = hashlib.sha256(_encode((owner, settings))).digest()
    for message in messages:
        fingerprint = extend(fingerprint, message)
    return fingerprint


class Echo:
    """Collects an answer's deltas, and gives the message that a client will echo."""

    __slots__ = ("_arguments", "_calls", "_text")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._calls: list[ToolCall] = []
        self._arguments: list[list[str]] = []

    def take(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            if isinstance(delta, Text):
                self._text.append(delta.text)
            elif isinstance(delta, Retracted):
                self._text.clear()
            elif isinstance(delta, ToolCall):
                self._calls.append(delta)
                self._arguments.append([])
            elif isinstance(delta, Arguments):
                self._arguments[delta.tool_index].append(delta.text)

    def forget(self) -> None:
        """Let the text and the arguments go. What stays is which calls there were."""
        self._text = []
        self._arguments = [[] for _ in self._calls]

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def call_ids(self) -> frozenset[str]:
        return frozenset(call.id for call in self._calls)

    @property
    def calls(self) -> tuple[tuple[str, str], ...]:
        """Name and arguments of each call, as they were written."""
        return tuple((call.name, "".join(pieces)) for call, pieces in zip(self._calls, self._arguments, strict=True))

    def message(self) -> Message | None:
        """None for an answer without content: there is nothing to echo, nor to go on from."""
        text = self.text
        blocks: list[Block] = [TextBlock(text)] if text.strip() else []
        for call, pieces in zip(self._calls, self._arguments, strict=True):
            blocks.append(ToolUseBlock(clean_id(call.id), call.name, argument_object("".join(pieces))))
        return Message("assistant", tuple(blocks)) if blocks else None
