"""What tells one conversation from another: a hash over whose it is, its settings and every message in it.

A conversation that is kept alive is found by the fingerprint of all that it holds; a request that extends exactly that
conversation has the same fingerprint over all but its last message. Clients echo the model's messages in slightly
different shapes, so the assistant's are compared by what they say: text joined, without white space around it;
arguments as JSON values, without what their tool's schema names as the default anyway; no thinking. An answer has
further fingerprints for clients that send it back otherwise (`echoes`): many frameworks keep its calls alone, and some
put its thinking in front of the text, in the tags in which other models write it.
Calls and their results are told by their place: some clients drop the ids of calls, or give them ids of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

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
    Tool,
    ToolUseBlock,
    call_ids,
    with_ids,
)

_encode: Final = msgspec.json.Encoder(order="sorted").encode
_THINKS: Final = re.compile(r"\s*+<think>")
_THOUGHT: Final = "</think>"
# So many characters are looked at in about a millisecond.
STEP: Final = 64 * 1024


class _Member(Struct):
    default: Any | UnsetType = UNSET


class _Schema(Struct):
    properties: dict[str, Raw] = {}


_schema_decoder: Final = msgspec.json.Decoder(_Schema)
_member_decoder: Final = msgspec.json.Decoder(_Member)
# By tool, by member of its arguments: the value that leaving it out means, as JSON.
Defaults = Mapping[str, Mapping[str, bytes]]
NO_DEFAULTS: Final[Defaults] = {}


def defaults(tools: Sequence[Tool], messages: Iterable[Message]) -> Defaults:
    """What the schemas of the tools that are called in these messages name as defaults."""
    called = {block.name for message in messages for block in message.content if isinstance(block, ToolUseBlock)}
    return {tool.name: found for tool in tools if tool.name in called and (found := _defaults(tool.schema))}


def _defaults(schema: Raw) -> Mapping[str, bytes]:
    found = {}
    with contextlib.suppress(ValueError, RecursionError):
        for name, raw in _schema_decoder.decode(schema).properties.items():
            with contextlib.suppress(msgspec.ValidationError):
                member = _member_decoder.decode(raw)
                if member.default is not UNSET:
                    found[name] = _encode(member.default)
    return found


def _same_call(call: ToolUseBlock, known: Defaults) -> Raw:
    """The arguments in one way. What cannot be read as a value (a number too large, say) stays as it is written."""
    try:
        value = msgspec.json.decode(call.input)
        for name, default in known.get(call.name, {}).items():
            if name in value and _encode(value[name]) == default:
                del value[name]
        return Raw(_encode(value))
    except (ValueError, RecursionError):
        return call.input


def _thought(text: str) -> tuple[str, int]:
    """The thinking that stands in tags in front of the text, and where that ends. Clients write white space between it
    as they like: it is left out.

    By steps: while one is under way no other thread goes on.
    """
    pieces: list[str] = []
    end = 0
    while (begun := _THINKS.match(text, end)) and (found := text.find(_THOUGHT, begun.end())) >= 0:
        for at in range(begun.end(), found, STEP):
            pieces.append("".join(text[at : min(at + STEP, found)].split()))
        end = found + len(_THOUGHT)
    return "".join(pieces), end


def _normal(message: Message, before: Message | None, known: Defaults) -> Message:
    if message.role == "user":
        ids = () if before is None else call_ids(before)
        return with_ids(message, {id: str(place) for place, id in enumerate(ids)})
    text = "".join(block.text for block in message.content if isinstance(block, TextBlock))
    thought, end = _thought(text)
    text = _tagged(thought, text[end:].strip())
    blocks: list[Block] = [TextBlock(text)] if text else []
    calls = (block for block in message.content if isinstance(block, ToolUseBlock))
    blocks += (ToolUseBlock(str(place), call.name, _same_call(call, known)) for place, call in enumerate(calls))
    return Message("assistant", tuple(blocks))


def _tagged(thought: str, text: str) -> str:
    return f"<think>{thought}</think>{text}" if thought else text


def digest(value: object, before: bytes = b"") -> bytes:
    """The hash of the value's JSON, behind these bytes."""
    found = hashlib.sha256(before)
    for piece in in_pieces(value, _encode):
        found.update(piece)
    return found.digest()


def start(owner: str) -> bytes:
    """The fingerprint of no message yet, for the API key of this owner."""
    return hashlib.sha256(owner.encode()).digest()


def extend(fingerprint: bytes, message: Message, before: Message | None = None, known: Defaults = NO_DEFAULTS) -> bytes:
    """The fingerprint of messages with one more. `before`: the last of them, whose calls it may have results of;
    `known`: defaults of the tools that it may call."""
    return digest(_normal(message, before, known), fingerprint)


def alone(answer: Message, owner: str, known: Defaults = NO_DEFAULTS) -> bytes:
    """That of an answer, whatever it is an answer to."""
    return extend(start(owner), answer, known=known)


def of_last_answer(plan: Plan, owner: str) -> bytes:
    """That of the plan's last answer alone. The plan has one."""
    answer = plan.messages[-2]
    return alone(answer, owner, defaults(plan.tools, (answer,)))


def under(plan: Plan, fingerprint: bytes) -> bytes:
    """The fingerprint of messages that were answered under the plan's settings."""
    return digest(msgspec.structs.replace(plan, messages=(), caching=None), fingerprint)


def of_all(plan: Plan, owner: str) -> tuple[bytes, tuple[bytes, ...]]:
    """That of a conversation which the plan's last message can go on, and those of its messages up to each of them."""
    keys = [start(owner)]
    known = defaults(plan.tools, plan.messages)
    for before, message in zip((None, *plan.messages), plan.messages, strict=False):
        keys.append(extend(keys[-1], message, before, known))
    return under(plan, keys[-2]), tuple(keys[1:])


def echo(answer: Answer) -> Message | None:
    """The message that a client will send back for this answer. None for one without content: there is nothing to
    send back, nor to go on from."""
    blocks: list[Block] = [TextBlock(answer.text)] if answer.text.strip() else []
    for call in answer.calls:
        blocks.append(ToolUseBlock(clean_id(call.id), call.name, argument_object(call.arguments)))
    return Message("assistant", tuple(blocks)) if blocks else None


def echoes(answer: Answer) -> tuple[Message, ...]:
    """The messages that clients send back for this answer: `echo`; its calls, without what is said beside them; all of
    it with its thinking as text. None for one without content."""
    shown = echo(answer)
    if shown is None:
        return ()
    calls = tuple(block for block in shown.content if isinstance(block, ToolUseBlock))
    found = [shown]
    if 0 < len(calls) < len(shown.content):
        found.append(Message("assistant", calls))
    if thought := "".join(part.text for part in answer.parts if isinstance(part, ThinkingPart)):
        found.append(Message("assistant", (TextBlock(_tagged(thought, answer.text)), *calls)))
    return tuple(found)


def of_echoes(before: bytes, echoes: Iterable[Message], known: Defaults) -> tuple[bytes, ...]:
    """The fingerprints of messages with each of these behind them, each once: two may come to the same. `before`: that
    of the messages."""
    return tuple(dict.fromkeys(extend(before, echo, known=known) for echo in echoes))


def full(answer: Answer, known: Defaults = NO_DEFAULTS) -> Message | None:
    """The message as the model wrote it, with its thinking; None where `echo` gives None, or every client sends it so.

    So it does of an answer with searches: that was several messages, and is put in again as one, without thinking.
    `known`: defaults of the tools that it calls.
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
    if shown is None or (tuple(blocks) == shown.content and all(_comes_back(block, known) for block in blocks)):
        return None
    return Message("assistant", tuple(blocks), answer.model)


def _comes_back(block: Block, known: Defaults) -> bool:
    """Whether all clients send it back alike: some strip texts, sort the members of arguments, or add defaults."""
    if isinstance(block, TextBlock):
        return block.text == block.text.strip()
    if not isinstance(block, ToolUseBlock):
        return True
    try:
        value = msgspec.json.decode(block.input)
        return msgspec.json.encode(value) == _encode(value) and block.name not in known
    except (ValueError, RecursionError):
        return True
