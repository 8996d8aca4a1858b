"""What tells one conversation from another: a hash over whose it is, its settings and every message in it.

A conversation that is kept alive is found by the fingerprint of all that it holds; a request that extends exactly that
conversation has the same fingerprint over all but its last message. Clients echo the model's messages in slightly
different shapes, so the assistant's are compared by what they say: text joined, arguments as JSON values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw

from proxy.protocol.answer import Answer
from proxy.protocol.history import argument_object, clean_id
from proxy.protocol.plan import Block, Message, Plan, TextBlock, ToolUseBlock

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


def of_all(plan: Plan, owner: str) -> tuple[bytes, bytes]:
    """The fingerprints of the plan's messages without the last one, and with it."""
    before = of(plan, owner, plan.messages[:-1])
    return before, extend(before, plan.messages[-1])


def echo(answer: Answer) -> Message | None:
    """The message that a client will send back for this answer. None for one without content: there is nothing to
    send back, nor to go on from."""
    blocks: list[Block] = [TextBlock(answer.text)] if answer.text.strip() else []
    for call in answer.calls:
        blocks.append(ToolUseBlock(clean_id(call.id), call.name, argument_object(call.arguments)))
    return Message("assistant", tuple(blocks)) if blocks else None
