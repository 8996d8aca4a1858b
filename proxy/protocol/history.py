"""A conversation while it is put together, so that the Messages API takes it, whatever order a client sends.

There roles alternate, every call has a result in the message after it, results come first, nothing is empty, and no two
calls of the whole conversation have one id: the CLI turns a second call of an id into a note and drops its result
(fixtures tools/reused_id). A client's ids pair a call with its results within one turn of the assistant and what
follows it up to the next.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from proxy.protocol.failures import bad_request
from proxy.protocol.plan import (
    AssistantBlock,
    Block,
    Message,
    PartBlock,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserBlock,
)

# Of one request: more than any model's window holds, and not so many that they keep a processor for seconds.
MAX_MESSAGES: Final = 10_000
MAX_PARTS: Final = 10_000
# Of what these come to: a text is one block, a tool's result two and more.
MAX_BLOCKS: Final = 2 * (MAX_MESSAGES + MAX_PARTS)
# What stands for the result of a call that has none.
NO_RESULT: Final = (TextBlock("No result was given for this call."),)
# A system message after the first message: the CLI takes that role nowhere but in front.
LATER_SYSTEM: Final = "<system>\n{}\n</system>"
# What is asked when the conversation ends with the assistant's own message.
CONTINUE: Final = (
    "Continue your last message from exactly where it ends. Answer with the continuation alone: no introduction, no "
    "repetition of what is there already, no quotation marks or code fences around it."
)
_ODD_IN_ID: Final = re.compile(r"[^a-zA-Z0-9_-]")
_object_decoder: Final = msgspec.json.Decoder(dict[str, Raw])


def clean_id(call_id: str) -> str:
    """The id as the Messages API takes it (`^[a-zA-Z0-9_-]+$`); ids of its own are unchanged."""
    return _ODD_IN_ID.sub("_", call_id) or "_"


def argument_object(text: str | None) -> Raw:
    """The arguments as a JSON object. What a model wrote that is none is kept as text under one name."""
    if not text or not text.strip():
        return Raw(b"{}")
    try:
        _object_decoder.decode(text)
    except (ValueError, RecursionError):
        return Raw(msgspec.json.encode({"arguments": text}))
    return Raw(text.encode())


class PastCall(Struct, frozen=True):
    """A call as the client sends it back; `input` is a JSON object."""

    id: str
    name: str
    input: Raw


class _Turn(Struct):
    """What the assistant said and what followed, as `History` has it."""

    said: list[AssistantBlock] = []
    written_by: str | None = None
    calls: list[str] = []
    results: dict[str, ToolResultBlock] = {}
    blocks: list[UserBlock] = []
    open: dict[str, deque[str]] = {}
    waiting: dict[str, str] = {}
    answered: dict[str, str] = {}


class History:
    """Say what is to come (`expect`), add what the client sent in its order, then `finish`.

    `where`: the parameter that holds it all. Whatever was expected, no more can be added than is bounded here.
    """

    __slots__ = (
        "_added",
        "_answered",
        "_blocks",
        "_calls",
        "_gap",
        "_ids",
        "_messages",
        "_numbers",
        "_open",
        "_parts",
        "_results",
        "_said",
        "_turns",
        "_waiting",
        "_where",
        "_written_by",
        "system",
    )  # fmt: skip

    def __init__(self, where: str = "messages") -> None:
        self._where = where
        self._turns = self._parts = self._added = 0
        self.system: list[str] = []
        self._messages: list[Message] = []
        # The assistant's turn under way and its calls; what follows it: results, and the rest of the user's turn.
        self._said: list[AssistantBlock] = []
        # The turn before it, if that has calls without results: it may turn out not to have ended.
        self._gap: _Turn | None = None
        self._written_by: str | None = None
        self._calls: list[str] = []
        self._results: dict[str, ToolResultBlock] = {}
        self._blocks: list[UserBlock] = []
        # By the client's id: calls without a result, and the last one that has one.
        self._open: dict[str, deque[str]] = {}
        self._answered: dict[str, str] = {}
        # The client's id by that of each call without a result, in the order of the calls.
        self._waiting: dict[str, str] = {}
        self._ids: set[str] = set()
        # The number that was last tried for an id: many calls may have the same.
        self._numbers: dict[str, int] = {}

    @property
    def begun(self) -> bool:
        """Something other than the system prompt is there."""
        return bool(self._messages or self._gap or self._said or self._results or self._blocks)

    @property
    def ends_with_assistant(self) -> bool:
        """The assistant has the last word, and no call of its is open."""
        return bool(self._said) and not self._blocks and not self._results and not self._waiting

    @property
    def open_call(self) -> str | None:
        """The client's id of the call that has waited longest for its result."""
        return next(iter(self._waiting.values()), None)

    def expect(self, where: str, *, messages: int = 0, parts: int = 0) -> None:
        """So many messages, and content parts and calls in them, are to be looked at; it is told before they are.

        Raises Rejection, naming `where`, when there are too many in all.
        """
        self._turns += messages
        self._parts += parts
        if self._turns > MAX_MESSAGES:
            raise bad_request(f"At most {MAX_MESSAGES} messages can be given.", where)
        if self._parts > MAX_PARTS:
            raise bad_request(f"At most {MAX_PARTS} content parts and tool calls can be given in all messages.", where)

    def _add(self, count: int) -> None:
        self._added += count
        if self._added > MAX_BLOCKS:
            raise bad_request("There are too many messages and content parts.", self._where)

    def instruct(self, text: str) -> None:
        """A system message: the system prompt, or what the user's turn under way holds at this place."""
        if not text.strip():
            return
        self._add(1)
        if self.begun:
            self._blocks.append(TextBlock(LATER_SYSTEM.format(text)))
        else:
            self.system.append(text)

    def ask(self, blocks: Sequence[PartBlock]) -> None:
        """What the user says."""
        self._add(len(blocks))
        self._blocks += blocks

    def say(self, parts: Sequence[AssistantBlock | PastCall], written_by: str | None = None) -> None:
        """What the assistant said, in its order. Directly after more of the assistant's it is one turn with that.

        `written_by`: the model that wrote it, as upstream names it, if that is known.
        """
        if not parts:
            return
        self._add(len(parts))
        if self._blocks or self._results:
            self._end_gap()
            if self._waiting:
                self._gap = self._turn()
                self._take_up(_Turn())
            else:
                self._end_turn()
        self._written_by = written_by or self._written_by
        for part in parts:
            if isinstance(part, PastCall):
                wire = self._unique(clean_id(part.id))
                self._open.setdefault(part.id, deque()).append(wire)
                self._waiting[wire] = part.id
                self._calls.append(wire)
                self._said.append(ToolUseBlock(wire, part.name, part.input))
            else:
                self._said.append(part)

    def answer(self, call_id: str, content: tuple[PartBlock, ...], is_error: bool = False) -> ToolResultBlock | None:
        """The result of a call, by the client's id, as it goes into the messages. One that comes again counts in place
        of the one before it.

        Words between a call and its result, of whomever, stand around both. None when no call of the assistant's last
        turn has this id.
        """
        if not self._open.get(call_id) and self._gap is not None and self._gap.open.get(call_id):
            self._join(self._gap)
        waiting = self._open.get(call_id)
        wire = waiting.popleft() if waiting else self._answered.get(call_id)
        if wire is None:
            return None
        self._add(1 + len(content))
        self._waiting.pop(wire, None)
        self._answered[call_id] = wire
        self._results[wire] = result = ToolResultBlock(wire, content, is_error)
        return result

    def finish(self) -> tuple[str | None, tuple[Message, ...]]:
        """System prompt and messages, of which the last is the user's; no messages when there is nothing at all."""
        if self.ends_with_assistant:
            self._blocks.append(TextBlock(CONTINUE))
        self._end_gap()
        if self.begun:
            self._end_turn()
        system = "\n\n".join(self.system)
        if not self._messages and system:
            # A prompt made of system messages alone is put as the question: the Messages API needs one from the user.
            return None, (Message("user", (TextBlock(system),)),)
        return system or None, tuple(self._messages)

    def _end_turn(self) -> None:
        """The turn of the assistant and what followed become messages. A call without a result gets an error result:
        the Messages API refuses a conversation with a gap."""
        if self._said:
            self._messages.append(Message("assistant", tuple(self._said), self._written_by))
        missing = (wire for wire in self._calls if wire not in self._results)
        results: list[Block] = [
            *self._results.values(), *(ToolResultBlock(wire, NO_RESULT, is_error=True) for wire in missing)
        ]  # fmt: skip
        if results or self._blocks:
            self._messages.append(Message("user", (*results, *self._blocks)))
        self._take_up(_Turn())

    def _end_gap(self) -> None:
        """The turn before this one has ended: no result of its calls follows any more."""
        gap, self._gap = self._gap, None
        if gap is not None:
            turn = self._turn()
            self._take_up(gap)
            self._end_turn()
            self._take_up(turn)

    def _turn(self) -> _Turn:
        return _Turn(
            self._said, self._written_by, self._calls, self._results, self._blocks, self._open, self._waiting,
            self._answered,
        )  # fmt: skip

    def _take_up(self, turn: _Turn) -> None:
        self._said, self._written_by, self._calls = turn.said, turn.written_by, turn.calls
        self._results, self._blocks = turn.results, turn.blocks
        self._open, self._waiting, self._answered = turn.open, turn.waiting, turn.answered

    def _join(self, gap: _Turn) -> None:
        """Make one turn of the last two: the first had not ended. What is added to it may be little each time."""
        gap.said += self._said
        gap.written_by = gap.written_by or self._written_by
        gap.calls += self._calls
        gap.results |= self._results
        gap.blocks += self._blocks
        for call_id, waiting in self._open.items():
            gap.open.setdefault(call_id, deque()).extend(waiting)
        gap.waiting |= self._waiting
        gap.answered |= self._answered
        self._take_up(gap)
        self._gap = None

    def _unique(self, call_id: str) -> str:
        """The id, or one made from it when an earlier call has it. The same for every request with this past."""
        found, count = call_id, self._numbers.get(call_id, 1)
        while found in self._ids:
            count += 1
            found = f"{call_id}__{count}"
        self._numbers[call_id] = count
        self._ids.add(found)
        return found
