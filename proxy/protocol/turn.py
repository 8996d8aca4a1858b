"""One turn of a conversation: the CLI's lines in, deltas out.

Rules
- A completion is one upstream message that ended with a `stop_reason`; or several, where the CLI searches the web
  between them (`SEARCHING`: the message is over, the answer is not). What the CLI does after that (asking again
  after `max_tokens` or a refusal) is not the client's answer: no state after `FINISHED` makes a delta.
- An upstream message that ends without a `stop_reason` (connection cut) is not an answer. If none of its content has
  been handed on, the CLI's next attempt takes its place; otherwise the turn fails: two attempts are never glued.
- A message with searches and calls of the client's ends the answer once the searches have ended: the calls go out, and
  the CLI goes on with the results of both.
- Nothing that the CLI says itself (model `<synthetic>`, results with `is_error`) ever becomes content.
- A structured answer is the input of the CLI's own tool for it, handed on as text while it streams. The CLI checks it
  and may ask again, so the turn ends with the CLI's `result`. JSON that is written as prose instead is `Proposed`;
  other prose is a refusal. An attempt that is replaced by another is `Retracted`.
- After the answer the states say what the CLI does: it stops (`STOPPED`), waits for the next message (`IDLE`), or goes
  on by itself (`DIVERGED`).
- `TRANSITIONS` is the whole machine: a pair (state, kind) that is not in it fails the turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final, TypeVar

from proxy.protocol import failures, kinds
from proxy.protocol.assembly import Assembly
from proxy.protocol.deltas import COMPLETE, REASONS, Delta, Failed, Reason, Tokens
from proxy.protocol.failures import Failure
from proxy.protocol.kinds import Kind, classify
from proxy.protocol.lines import (
    Assistant,
    BlockPiece,
    BlockStart,
    BlockStop,
    Line,
    Malformed,
    MessageDelta,
    MessageStart,
    RateLimit,
    RateLimitInfo,
    Result,
    StopDetails,
    System,
    User,
)
from proxy.protocol.plan import Schema, Search

# The CLI waits this long before its own retry at most; longer waits are left to the client, which is told the time.
MAX_RETRY_WAIT: Final = 2.0
# What the CLI says when it has put a note in the place of an image or document that upstream refused, and asks again
# (fixtures media/refused): an answer to something else than the client asked.
MEDIA_REMOVED: Final = "media_removed"


class State(Enum):
    """Where the turn is: before and in the answer, then what the CLI does after it."""

    WAITING = "waiting"
    MESSAGE = "message"
    BLOCK = "block"
    WHOLE = "whole"
    CHECKING = "checking"
    SEARCHING = "searching"
    FINISHED = "finished"
    STOPPED = "stopped"
    IDLE = "idle"
    DIVERGED = "diverged"
    FAILED = "failed"


OPEN: Final = (State.WAITING, State.MESSAGE, State.BLOCK, State.WHOLE, State.CHECKING, State.SEARCHING)
OVER: Final = tuple(state for state in State if state not in OPEN)
_OVER: Final = frozenset(OVER)


class Turn:
    """Takes lines, gives deltas; ends with exactly one `Finished` or `Failed`, after which no delta comes.

    `limits` is the plan's state as last reported, whatever the outcome.
    """

    __slots__ = ("_content", "_error", "_stopped", "limits", "state")

    def __init__(self, schema: Schema | None = None, search: Search | None = None) -> None:
        self.state = State.WAITING
        self.limits: RateLimitInfo | None = None
        self._content = Assembly(schema, search)
        # The message that the CLI searches for has been said to have stopped.
        self._stopped = False
        # What the CLI's own message, if there is one, says of the error.
        self._error: str | None = None

    @property
    def tokens(self) -> Tokens:
        """What has been used, as far as it has been said."""
        return self._content.tokens

    @property
    def over(self) -> bool:
        """The answer has ended."""
        return self.state in _OVER

    def may_search(self, id: str) -> bool:
        """Whether the CLI may run the search with this id: it is this turn's, and not one too many."""
        return not self.over and self._content.may_search(id)

    def take(self, kind: Kind[Any], payload: Any) -> None:
        """One classified line."""
        step = TRANSITIONS.get((self.state, kind))
        if step is None:
            message = f"The CLI wrote an unexpected line ({kind.name}) in state {self.state.value}."
            self._fail(Failure(failures.Kind.CLI_CONFUSED, message))
            return
        state, action = step
        if action is not None:
            state = action(self, payload) or state
        self.state = state

    def drain(self) -> list[Delta]:
        """The deltas of what has been taken since the last call."""
        out, self._content.out = self._content.out, []
        return out

    def feed(self, lines: Iterable[Line]) -> list[Delta]:
        """The deltas that the lines make."""
        for line in lines:
            self.take(*classify(line))
        return self.drain()

    def reject(self, failure: Failure) -> None:
        """End the turn from outside, unless it is over already."""
        if not self.over:
            self._fail(failure)

    def fail(self, failure: Failure) -> list[Delta]:
        """The same, with the deltas so far."""
        self.reject(failure)
        return self.drain()

    def _fail(self, failure: Failure) -> None:
        self._content.out.append(Failed(failure))
        self.state = State.FAILED

    # Actions. What they return replaces the row's next state.

    def _open(self, event: MessageStart) -> State | None:
        if self._content.started:
            return self._cut(event)
        self._read_head(event)
        return None

    def _read_head(self, event: MessageStart) -> None:
        self._error = None
        self._content.head(event.message.model, event.message.id, event.message.usage)
        self._content.remark(event.message)

    def _block(self, event: BlockStart) -> None:
        self._content.open(event.index, event.content_block)

    def _piece(self, event: BlockPiece) -> None:
        self._content.piece(event.index, event.delta)

    def _close(self, event: BlockStop) -> None:
        self._content.close(event.index)

    def _progress(self, event: MessageDelta) -> None:
        self._content.count(event.usage)
        self._content.remark(event)
        self._content.remark(event.delta)

    def _finish(self, event: MessageDelta) -> State | None:
        self._progress(event)
        self._content.close_all()
        return self._stop(event.delta.stop_reason, event.delta.stop_sequence, event.delta.stop_details)

    def _stop(
        self, stop_reason: str | None, stop_sequence: str | None = None, details: StopDetails | None = None
    ) -> State | None:
        """The message is over: so is the answer, unless the CLI has to look at it first."""
        reason = REASONS.get(stop_reason or "", Reason.END_TURN)
        if reason is Reason.TOOL_USE and self._content.goes_on:
            self._stopped = False
            return State.SEARCHING
        if self._content.needs_check(reason in COMPLETE, reason is Reason.TOOL_USE):
            self._content.propose()
            return State.CHECKING
        self._content.finish(reason, stop_sequence, details)
        return None

    def _message_stopped(self, _: object) -> None:
        self._stopped = True

    def _found(self, line: User) -> State | None:
        """A tool of the CLI's own has ended; if it was the last of the message, so has an answer with calls."""
        self._content.found(line)
        if self._content.searching:
            return None
        if self.state is State.WHOLE and self._content.goes_on:
            return State.SEARCHING
        if self.state is not State.SEARCHING or not self._content.has_calls:
            return None
        self._content.finish(Reason.TOOL_USE, None)
        return State.STOPPED if self._stopped else State.FINISHED

    def _go_on(self, event: MessageStart) -> None:
        self._content.go_on()
        self._read_head(event)

    def _go_on_whole(self, line: Assistant) -> State | None:
        self._content.go_on()
        self._content.head(line.message.model, line.message.id, line.message.usage)
        return self._snapshot(line)

    def _again(self, event: MessageStart) -> None:
        self._content.again()
        self._read_head(event)

    def _checked(self, _: Result) -> State | None:
        """The CLI's verdict. It may be `success` without any structured answer (fixtures schema/never_kept)."""
        self._content.checked()
        # The CLI's conversation holds the attempts that the client's does not.
        return State.DIVERGED if self._content.attempts > 1 else None

    def _error_result(self, result: Result) -> None:
        if result.subtype == "error_max_structured_output_retries":
            message = "The model's answer does not fit the schema, and did not when it was asked again."
            self._fail(Failure(failures.Kind.SCHEMA_UNMET, message))
        else:
            self._fail(failures.of_result(result, self._error, self.limits))

    def _abandon(self, event: object) -> State | None:
        """The message ended without a `stop_reason` (fixtures errors/cut_*).

        When the CLI has said something in it, it does not try again: its result follows at once (errors/stream_error).
        So it does when it gives up on a structured answer, which it looks at before the message ends (schema/given_up).
        """
        if not self._content.started:
            return None
        return State.MESSAGE if self._error is not None or self._content.has_json else self._cut(event)

    def _cut(self, _: object) -> State:
        self._fail(Failure(failures.Kind.UPSTREAM_CUT, "The connection to the Messages API was lost in mid-answer."))
        return State.FAILED

    def _retry(self, line: System) -> State | None:
        return self._cut(line) if self._content.started else self._wait(line)

    def _wait(self, line: System) -> State | None:
        wait = line.retry_delay_ms / 1000
        if wait <= MAX_RETRY_WAIT:
            return None
        kind = failures.BY_WORD.get(line.error or "") or failures.by_status(line.error_status)
        status = "no status" if line.error_status is None else f"status {line.error_status}"
        message = f"The Messages API asks to wait {wait:.0f} seconds ({line.error or 'unknown'}, {status})."
        self._fail(Failure(kind, message, retry_after=wait))
        return State.FAILED

    def _snapshot(self, line: Assistant) -> State | None:
        """A message that came without a stream: the CLI asked again without streaming (after a 404)."""
        message = line.message
        if self.state is State.WAITING:
            self._content.head(message.model, message.id, message.usage)
        else:
            self._content.count(message.usage)
        self._content.remark(message)
        for block in message.content:
            self._content.whole(block)
        if message.stop_reason is None:
            return None
        return self._stop(message.stop_reason, message.stop_sequence) or State.FINISHED

    def _whole(self, result: Result) -> State | None:
        after = self._stop(result.stop_reason)
        if after is State.SEARCHING:
            self._no_answer(result)
            return State.FAILED
        return (self._checked(result) or State.IDLE) if after is State.CHECKING else None

    def _cli_message(self, line: Assistant) -> State | None:
        self._error = line.error or ""
        if line.api_error == MEDIA_REMOVED:
            message = "The Messages API could not process an image or a document of the conversation."
            self._fail(Failure(failures.Kind.REFUSED_UPSTREAM, message))
            return State.FAILED
        return None

    def _limits(self, line: RateLimit) -> None:
        self.limits = line.rate_limit_info

    def _no_answer(self, _: Result) -> None:
        self._fail(Failure(failures.Kind.CLI_CONFUSED, "The CLI ended its turn without an answer."))

    def _malformed(self, line: Malformed) -> None:
        self._fail(Failure(failures.Kind.CLI_CONFUSED, f"A line of the CLI could not be read ({line.type})."))


Step = tuple[State, Callable[[Turn, Any], State | None] | None]
Table = dict[tuple[State, Kind[Any]], Step]
P = TypeVar("P")


def _transitions() -> Table:
    table: Table = {}

    def on(
        states: Iterable[State],
        kind: Kind[P],
        state: State | None = None,
        action: Callable[[Turn, P], State | None] | None = None,
    ) -> None:
        """In these states a line of this kind leads to `state` (None: leaves it), by way of `action`."""
        for before in states:
            table[before, kind] = (state or before, action)

    waiting, block = (State.WAITING,), (State.BLOCK,)
    whole, checking, streaming = (State.WHOLE,), (State.CHECKING,), (State.MESSAGE, State.BLOCK)
    searching = (State.SEARCHING,)
    on(waiting, kinds.MESSAGE_START, State.MESSAGE, Turn._open)
    on(waiting, kinds.SNAPSHOT, State.WHOLE, Turn._snapshot)
    on(waiting, kinds.RETRY, None, Turn._retry)
    on(waiting, kinds.HISTORY_ACKNOWLEDGED)
    on(waiting, kinds.RESULT, State.FAILED, Turn._no_answer)
    on(streaming, kinds.BLOCK_START, State.BLOCK, Turn._block)
    on(block, kinds.BLOCK_PIECE, State.BLOCK, Turn._piece)
    on(block, kinds.BLOCK_STOP, State.MESSAGE, Turn._close)
    on(streaming, kinds.SNAPSHOT)
    on(streaming, kinds.MESSAGE_START, State.MESSAGE, Turn._open)
    on(streaming, kinds.MESSAGE_PROGRESS, None, Turn._progress)
    on(streaming, kinds.MESSAGE_END, State.FINISHED, Turn._finish)
    on(streaming, kinds.MESSAGE_STOP, State.WAITING, Turn._abandon)
    on(streaming, kinds.RETRY, State.WAITING, Turn._retry)
    on(streaming, kinds.RESULT, State.FAILED, Turn._cut)
    on(checking, kinds.SNAPSHOT)
    on(checking, kinds.BLOCK_STOP)
    on(checking, kinds.MESSAGE_STOP)
    on(checking, kinds.MESSAGE_START, State.MESSAGE, Turn._again)
    on(checking, kinds.RETRY, None, Turn._wait)
    on(checking, kinds.RESULT, State.IDLE, Turn._checked)
    on(searching, kinds.BLOCK_STOP)
    on(searching, kinds.MESSAGE_STOP, None, Turn._message_stopped)
    on(searching, kinds.MESSAGE_START, State.MESSAGE, Turn._go_on)
    on(searching, kinds.SNAPSHOT, State.WHOLE, Turn._go_on_whole)
    on(searching, kinds.RETRY, None, Turn._wait)
    on(searching, kinds.RESULT, State.FAILED, Turn._no_answer)
    on(whole, kinds.SNAPSHOT, None, Turn._snapshot)
    on(whole, kinds.RESULT, State.IDLE, Turn._whole)
    on(whole, kinds.MESSAGE_START, State.MESSAGE, Turn._open)
    on(whole, kinds.RETRY, State.WAITING, Turn._retry)
    on(OPEN, kinds.CLI_MESSAGE, None, Turn._cli_message)
    on(OPEN, kinds.INIT)
    on(OPEN, kinds.CONTROL_REQUEST)
    on(OPEN, kinds.CONTROL_RESPONSE)
    on(OPEN, kinds.OTHER)
    on(OPEN, kinds.TOOL_RESULT, None, Turn._found)
    on(OPEN, kinds.ERROR_RESULT, State.FAILED, Turn._error_result)
    on(OPEN, kinds.MALFORMED, State.FAILED, Turn._malformed)
    # After the answer nothing is an error of it any more.
    for kind in kinds.KINDS:
        on(OVER, kind)
    after = (State.FINISHED, State.STOPPED)
    on(after, kinds.MESSAGE_STOP, State.STOPPED)
    on(after, kinds.RESULT, State.IDLE)
    on((*after, State.IDLE), kinds.MESSAGE_START, State.DIVERGED)
    on((*after, State.IDLE), kinds.ERROR_RESULT, State.DIVERGED)
    on(tuple(State), kinds.LIMITS, None, Turn._limits)
    return table


TRANSITIONS: Final = _transitions()
