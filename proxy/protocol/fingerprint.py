"""What tells one conversation from another: a hash over whose it is, its settings and every message in it.

A conversation that is kept alive is found by the fingerprint of all that it holds; a request that extends exactly that
conversation has the same fingerprint over all but its last message. Clients echo the model's messages in slightly
different shapes, so the assistant's are compared by what they say: text joined, arguments as JSON values, no thinking.
Calls and their results are told by their place: some clients drop the ids of calls, or give them ids of their own.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from msgspec import Raw

from proxy.protocol.answer import Answer, CallPart, RedactedPart, SearchPart, TextPart, ThinkingPart
from proxy.protocol.history import argument_object, clean_id
from proxy.protocol.pieces import in_pieces
from proxy.protocol.plan import (
    Block,
    Message,
    Plan,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    call_ids,
    with_ids,
)

_encode: Final = msgspec.json.Encoder(order="sorted").encode


def _same_json(raw: Raw) -> Raw:
    """The value written in one way. What cannot be read as a value (a number too large, say) stays as it is written."""
    try:
        return Raw(_encode(msgspec.json.decode(raw)))
    except (ValueError, RecursionError):
        return raw


def _normal(message: Message, before: Message | None) -> Message:
    if message.role == "user":
        ids = () if before is None else call_ids(before)
        return with_ids(message, {id: str(place) for place, id in enumerate(ids)})
    text = "".join(block.text for block in message.content if isinstance(block, TextBlock))
    blocks: list[Block] = [TextBlock(text)] if text else []
    calls = (block for block in message.content if isinstance(block, ToolUseBlock))
    blocks += (ToolUseBlock(str(place), call.name, _same_json(call.input)) for place, call in enumerate(calls))
    return Message("assistant", tuple(blocks))


def digest(value: object, before: bytes = b"") -> bytes:
    """The hash of the value's JSON, behind these bytes."""
    found = hashlib.sha256(before)
    for piece in in_pieces(value, _encode):
        found.update(piece)
    return found.digest()


def start(owner: str) -> bytes:
    """The fingerprint of no message yet, for the API key of this owner."""
    return hashlib.sha256(owner.encode()).digest()


def extend(fingerprint: bytes, message: Message, before: Message | None = None) -> bytes:
    """The fingerprint of messages with one more. `before`: the last of them, whose calls it may have results of."""
    return digest(_normal(message, before), fingerprint)


def under(plan: Plan, fingerprint: bytes) -> bytes:
    """The fingerprint of messages that were answered under the plan's settings."""
    return digest(msgspec.structs.replace(plan, messages=(), caching=None), fingerprint)


def of_all(plan: Plan, owner: str) -> tuple[bytes, tuple[bytes, ...]]:
    """That of a conversation which the plan's last message can go on, and those of its messages up to each of them."""
    keys = [start(owner)]
    for before, message in zip((None, *plan.messages), plan.messages, strict=False):
        keys.append(extend(keys[-1], message, before))
    return under(plan, keys[-2]), tuple(keys[1:])


def echo(answer: Answer) -> Message | None:
    """The message that a client will send back for this answer. None for one without content: there is nothing to
    send back, nor to go on from."""
    blocks: list[Block] = [TextBlock(answer.text)] if answer.text.strip() else []
    for call in answer.calls:
        blocks.append(ToolUseBlock(clean_id(call.id), call.name, argument_object(call.arguments)))
    return Message("assistant", tuple(blocks)) if blocks else None


def full(answer: Answer) -> Message | None:
    """The message as the model wrote it, with its thinking; None where `echo` gives None, or says as much.

    So it does of an answer with searches: that was several messages, and is put in again as one, without thinking.
    """
    if any(isinstance(part, SearchPart) for part in answer.parts):
        return None
    shown = echo(answer)
    blocks: list[Block] = []
    for part in answer.parts:
        if isinstance(part, ThinkingPart):
            blocks += [ThinkingBlock(part.text, part.signature)] if part.signature else []
        elif isinstance(part, RedactedPart):
            blocks.append(RedactedThinkingBlock(part.data))
        elif isinstance(part, CallPart):
            blocks.append(ToolUseBlock(clean_id(part.id), part.name, argument_object(part.arguments)))
        elif isinstance(part, TextPart) and part.text.strip():
            blocks.append(TextBlock(part.text))
    if shown is None or tuple(blocks) == shown.content:
        return None
    return Message("assistant", tuple(blocks), answer.model)
