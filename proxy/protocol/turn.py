"""One turn of a conversation: the CLI's lines in, deltas out.

Rules
- A completion is one upstream message that ended with a `stop_reason`. What the CLI does after that (asking again
  after `max_tokens` or a refusal) is not the client's answer: the state `FINISHED` ignores it.
- An upstream message that ends without a `stop_reason` (connection cut) is not an answer. If none of its content has
  been handed on, the CLI's next attempt takes its place; otherwise the turn fails: two attempts are never glued.
- Nothing that the CLI says itself (model `<synthetic>`, results with `is_error`) ever becomes content.
- A structured answer is the input of the CLI's own tool for it, handed on as text while it streams. The CLI checks it
  and may ask again, so the turn ends with the CLI's `result`. Words instead of it are a refusal; an attempt that is
  replaced by another is `Retracted`.
- `TRANSITIONS` is the whole machine: a pair (state, kind) that is not in it fails the turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final

from msgspec import Struct

from proxy.protocol import failures
from proxy.protocol.failures import Failure
from proxy.protocol.lines import (
    Assistant,
    BlockPiece,
    BlockStart,
    BlockStop,
    ControlRequest,
    ControlResponse,
    Garbage,
    Line,
    Malformed,
    MessageDelta,
    MessageStart,
    MessageStop,
    RateLimit,
    RateLimitInfo,
    Result,
    StreamEvent,
    System,
    TokenUsage,
    Unknown,
    User,
)
from proxy.protocol.plan import Schema
from proxy.protocol.schema import Unwrapper

SYNTHETIC: Final = "<synthetic>"
# The CLI waits this long before its own retry at most; longer waits are left to the client, which is told the time.
MAX_RETRY_WAIT: Final = 2.0
# What the CLI says when it has put a note in the place of an image or document that upstream refused, and asks again
# (fixtures media/refused): an answer to something else than the client asked.
MEDIA_REMOVED: Final = "media_removed"
# The name the CLI gives to the tool by which structured output comes (cli notes 5).
STRUCTURED_OUTPUT: Final = "StructuredOutput"


class Reason(Enum):
    """Why an answer ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


REASONS: Final[dict[str, Reason]] = {
    "end_turn": Reason.STOP,
    "stop_sequence": Reason.STOP,
    "pause_turn": Reason.STOP,
    "max_tokens": Reason.LENGTH,
    "model_context_window_exceeded": Reason.LENGTH,
    "tool_use": Reason.TOOL_CALLS,
    "refusal": Reason.CONTENT_FILTER,
}


class Tokens(Struct, frozen=True):
    """What one answer used. `input` leaves the cached tokens out, as the Messages API counts."""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.input + other.input,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
            self.output + other.output,
            self.reasoning + other.reasoning,
        )

    @property
    def prompt(self) -> int:
        """All input, as OpenAI counts `prompt_tokens`."""
        return self.input + self.cache_read + self.cache_write


class Started(Struct, frozen=True):
    """The first content (or the end of an empty answer) is here; `model` is the one that answers. Once a turn."""

    model: str


class Text(Struct, frozen=True):
    text: str


class Thinking(Struct, frozen=True):
    text: str


class ToolCall(Struct, frozen=True):
    """A call begins. `tool_index` counts the calls of the message from 0; it is not the block's index."""

    tool_index: int
    id: str
    name: str


class Arguments(Struct, frozen=True):
    """A piece of the JSON text of a call's arguments."""

    tool_index: int
    text: str


class ToolEnd(Struct, frozen=True):
    """The arguments of the call are complete."""

    tool_index: int


class Refusal(Struct, frozen=True):
    """What the model said instead of the structured answer that was asked for."""

    text: str


class Retracted(Struct, frozen=True):
    """The text so far is void: another attempt at a structured answer follows."""


class Finished(Struct, frozen=True):
    reason: Reason
    tokens: Tokens


class Failed(Struct, frozen=True):
    failure: Failure


Delta = Started | Text | Thinking | ToolCall | Arguments | ToolEnd | Refusal | Retracted | Finished | Failed


class State(Enum):
    WAITING = "waiting"
    MESSAGE = "message"
    BLOCK = "block"
    WHOLE = "whole"
    CHECKING = "checking"
    FINISHED = "finished"
    FAILED = "failed"


class What(Enum):
    """What a line is to the machine."""

    MESSAGE_START = "message_start"
    BLOCK_START = "content_block_start"
    BLOCK_PIECE = "content_block_delta"
    BLOCK_STOP = "content_block_stop"
    MESSAGE_PROGRESS = "message_delta without stop_reason"
    MESSAGE_END = "message_delta with stop_reason"
    MESSAGE_STOP = "message_stop"
    SNAPSHOT = "assistant of a model"
    WORDS = "assistant of the CLI itself"
    RETRY = "system/api_retry"
    LIMITS = "rate_limit_event"
    RESULT = "result"
    ERROR_RESULT = "result with is_error"
    PUT_IN = "result of a past message"
    NOISE = "anything else"
    MALFORMED = "malformed line"


Action = Callable[["Turn", object], State | None]
_EVENTS: Final[dict[type, What]] = {
    MessageStart: What.MESSAGE_START,
    BlockStart: What.BLOCK_START,
    BlockPiece: What.BLOCK_PIECE,
    BlockStop: What.BLOCK_STOP,
    MessageStop: What.MESSAGE_STOP,
}
_LINES: Final[dict[type, What]] = {
    RateLimit: What.LIMITS,
    User: What.NOISE,
    ControlRequest: What.NOISE,
    ControlResponse: What.NOISE,
    Unknown: What.NOISE,
    Garbage: What.NOISE,
    Malformed: What.MALFORMED,
}


def kind_of(line: Line) -> What:
    """What the line is to the machine; total over `Line`."""
    if isinstance(line, StreamEvent):
        if line.parent_tool_use_id is not None:
            return What.NOISE
        if isinstance(line.event, MessageDelta):
            return What.MESSAGE_PROGRESS if line.event.delta.stop_reason is None else What.MESSAGE_END
        return _EVENTS[type(line.event)]
    if isinstance(line, Assistant):
        if line.parent_tool_use_id is not None:
            return What.NOISE
        return What.WORDS if line.message.model == SYNTHETIC else What.SNAPSHOT
    if isinstance(line, System):
        return What.RETRY if line.subtype == "api_retry" else What.NOISE
    if isinstance(line, Result):
        if line.is_error or line.subtype != "success":
            return What.ERROR_RESULT
        return What.RESULT if line.num_turns else What.PUT_IN
    return _LINES[type(line)]


class Turn:
    """Fed with lines, returns deltas; ends with exactly one `Finished` or `Failed`, after which nothing comes.

    `limits` is the plan's state as last reported, whatever the outcome.
    """

    __slots__ = (
        "_calls", "_empty", "_error", "_json", "_json_block", "_model", "_out", "_prose", "_spent", "_started",
        "_structured", "_tokens", "_tools", "_unwrapper", "_wrapped", "limits", "state",
    )  # fmt: skip

    def __init__(self, schema: Schema | None = None) -> None:
        self.state = State.WAITING
        self.limits: RateLimitInfo | None = None
        self._out: list[Delta] = []
        self._started = False
        self._model = ""
        self._tokens = Tokens()
        # What earlier messages of a structured answer used.
        self._spent = Tokens()
        self._tools: dict[int, int] = {}
        self._empty: set[int] = set()
        self._calls = 0
        # What the CLI's own words in this message stand for; None: there are none.
        self._error: str | None = None
        self._structured = schema is not None
        self._wrapped = schema is not None and schema.wrapped
        self._unwrapper = Unwrapper()
        # The block that holds the structured answer, whether any of it has come, and words beside it.
        self._json_block: int | None = None
        self._json = False
        self._prose: list[str] = []

    @property
    def tokens(self) -> Tokens:
        """What has been used, as far as it has been said."""
        return self._spent + self._tokens

    @property
    def over(self) -> bool:
        return self.state is State.FINISHED or self.state is State.FAILED

    def feed(self, lines: Iterable[Line]) -> list[Delta]:
        for line in lines:
            what = kind_of(line)
            step = TRANSITIONS.get((self.state, what))
            if step is None:
                self._fail(
                    Failure(
                        failures.Kind.CLI_CONFUSED,
                        f"The CLI wrote an unexpected line ({what.value}) in state {self.state.value}.",
                    )
                )
                continue
            state, action = step
            if action is not None:
                state = action(self, line) or state
            self.state = state
        out, self._out = self._out, []
        return out

    def fail(self, failure: Failure) -> list[Delta]:
        """End the turn from outside (the child died, is silent, takes too long). No delta if it is over already."""
        if not self.over:
            self._fail(failure)
        out, self._out = self._out, []
        return out

    def _fail(self, failure: Failure) -> None:
        self._out.append(Failed(failure))
        self.state = State.FAILED

    def _begin(self) -> None:
        """Hand on `Started` before the first content: until then another attempt may take this one's place."""
        if not self._started:
            self._started = True
            self._out.append(Started(self._model))

    def _count(self, usage: TokenUsage) -> None:
        old = self._tokens
        details = usage.output_tokens_details
        self._tokens = Tokens(
            old.input if usage.input_tokens is None else usage.input_tokens,
            old.cache_read if usage.cache_read_input_tokens is None else usage.cache_read_input_tokens,
            old.cache_write if usage.cache_creation_input_tokens is None else usage.cache_creation_input_tokens,
            old.output if usage.output_tokens is None else usage.output_tokens,
            old.reasoning if details is None or details.thinking_tokens is None else details.thinking_tokens,
        )

    # Actions: the line has the kind of their row; what they return replaces the row's next state.

    def _open(self, line: object) -> State | None:
        assert isinstance(line, StreamEvent)
        assert isinstance(line.event, MessageStart)
        if self._started:
            return self._cut(line)
        self._prose = []
        self._read_head(line)
        return None

    def _read_head(self, line: object) -> None:
        assert isinstance(line, StreamEvent)
        assert isinstance(line.event, MessageStart)
        self._model = line.event.message.model
        self._json_block = None
        self._error = None
        self._tokens = Tokens()
        self._count(line.event.message.usage)

    def _block(self, line: object) -> State | None:
        assert isinstance(line, StreamEvent)
        assert isinstance(line.event, BlockStart)
        head = line.event.content_block
        if head.type == "tool_use" and self._structured and head.name == STRUCTURED_OUTPUT:
            self._json_block = line.event.index
            self._unwrapper = Unwrapper()
        elif head.type == "tool_use":
            self._call(line.event.index, head.id, head.name)
        return None

    def _call(self, block_index: int, id: str, name: str) -> None:
        self._begin()
        if self._prose:
            self._out.append(Text("".join(self._prose)))
            self._prose = []
        tool_index = self._calls
        self._calls += 1
        self._tools[block_index] = tool_index
        self._empty.add(tool_index)
        self._out.append(ToolCall(tool_index, id, name))

    def _piece(self, line: object) -> State | None:
        assert isinstance(line, StreamEvent)
        assert isinstance(line.event, BlockPiece)
        delta = line.event.delta
        if delta.type == "text_delta":
            if self._structured:
                self._prose.append(delta.text)
            elif delta.text:
                self._begin()
                self._out.append(Text(delta.text))
        elif delta.type == "input_json_delta" and line.event.index == self._json_block:
            self._json_text(delta.partial_json)
        elif delta.type == "input_json_delta":
            tool_index = self._tools.get(line.event.index)
            if delta.partial_json and tool_index is not None:
                self._empty.discard(tool_index)
                self._out.append(Arguments(tool_index, delta.partial_json))
        elif delta.type == "thinking_delta" and delta.thinking:
            self._begin()
            self._out.append(Thinking(delta.thinking))
        return None

    def _json_text(self, text: str) -> None:
        """A piece of the structured answer."""
        text = self._unwrapper.feed(text) if self._wrapped else text
        if text:
            self._begin()
            self._json = True
            self._out.append(Text(text))

    def _close(self, line: object) -> State | None:
        assert isinstance(line, StreamEvent)
        assert isinstance(line.event, BlockStop)
        self._close_call(line.event.index)
        return None

    def _close_call(self, block_index: int) -> None:
        tool_index = self._tools.pop(block_index, None)
        if tool_index is None:
            return
        if tool_index in self._empty:
            # A tool without arguments streams no piece at all; clients parse the text and need an object.
            self._empty.discard(tool_index)
            self._out.append(Arguments(tool_index, "{}"))
        self._out.append(ToolEnd(tool_index))

    def _progress(self, line: object) -> State | None:
        assert isinstance(line, StreamEvent)
        assert isinstance(line.event, MessageDelta)
        self._count(line.event.usage)
        return None

    def _finish(self, line: object) -> State | None:
        assert isinstance(line, StreamEvent)
        assert isinstance(line.event, MessageDelta)
        self._progress(line)
        for block_index in tuple(self._tools):
            self._close_call(block_index)
        return self._stop(line.event.delta.stop_reason)

    def _stop(self, stop_reason: str | None) -> State | None:
        """The message is over: so is the answer, unless the CLI has to look at it first."""
        reason = REASONS.get(stop_reason or "", Reason.STOP)
        if self._structured and (reason is Reason.STOP or (reason is Reason.TOOL_CALLS and not self._calls)):
            return State.CHECKING
        self._end(stop_reason)
        return None

    def _end(self, stop_reason: str | None) -> None:
        self._begin()
        if self._prose and not self._json:
            self._out.append(Text("".join(self._prose)))
        self._finished(REASONS.get(stop_reason or "", Reason.STOP))

    def _finished(self, reason: Reason) -> None:
        self._out.append(Finished(reason, self.tokens))

    def _again(self, line: object) -> State | None:
        """Another attempt at a structured answer. Words of the last one are dropped, JSON is taken back."""
        if self._json:
            self._out.append(Retracted())
            self._json = False
        self._prose = []
        self._spent += self._tokens
        self._read_head(line)
        return None

    def _checked(self, line: object) -> State | None:
        """The CLI's verdict. It may be `success` without any structured answer (fixtures schema/never_kept)."""
        assert isinstance(line, Result)
        self._begin()
        if not self._json:
            self._out.append(Refusal("".join(self._prose)))
        self._finished(Reason.STOP)
        return None

    def _unmet(self, line: object) -> State | None:
        """The CLI gave up on the structured answer, or something else went wrong."""
        assert isinstance(line, Result)
        if line.subtype == "error_max_structured_output_retries":
            words = "The model's answer does not fit the schema, and did not when it was asked again."
            self._fail(Failure(failures.Kind.SCHEMA_UNMET, words))
            return None
        return self._error_result(line)

    def _abandon(self, line: object) -> State | None:
        """The message ended without a `stop_reason` (fixtures errors/cut_*).

        When the CLI has said something in it, it does not try again: its result follows at once (errors/stream_error).
        So it does when it gives up on a structured answer, which it looks at before the message ends (schema/given_up).
        """
        if not self._started:
            return None
        return State.MESSAGE if self._error is not None or self._json else self._cut(line)

    def _cut(self, line: object) -> State:
        self._fail(Failure(failures.Kind.UPSTREAM_CUT, "The connection to the Messages API was lost in mid-answer."))
        return State.FAILED

    def _retry(self, line: object) -> State | None:
        assert isinstance(line, System)
        if self._started:
            return self._cut(line)
        return self._wait(line)

    def _wait(self, line: object) -> State | None:
        assert isinstance(line, System)
        wait = line.retry_delay_ms / 1000
        if wait <= MAX_RETRY_WAIT:
            return None
        kind = failures.BY_WORD.get(line.error or "") or failures.by_status(line.error_status)
        status = "no status" if line.error_status is None else f"status {line.error_status}"
        self._fail(
            Failure(
                kind,
                f"The Messages API asks to wait {wait:.0f} seconds ({line.error or 'unknown'}, {status}).",
                retry_after=wait,
            )
        )
        return State.FAILED

    def _snapshot(self, line: object) -> State | None:
        """A message that came without a stream: the CLI asked again without streaming (after a 404)."""
        assert isinstance(line, Assistant)
        self._model = line.message.model
        self._count(line.message.usage)
        for block in line.message.content:
            if block.type == "text" and self._structured:
                self._prose.append(block.text)
            elif block.type == "text" and block.text:
                self._begin()
                self._out.append(Text(block.text))
            elif block.type == "tool_use" and self._structured and block.name == STRUCTURED_OUTPUT:
                self._unwrapper = Unwrapper()
                self._json_text(bytes(block.input).decode())
            elif block.type == "thinking" and block.thinking:
                self._begin()
                self._out.append(Thinking(block.thinking))
            elif block.type == "tool_use":
                block_index = -1 - self._calls
                self._call(block_index, block.id, block.name)
                self._empty.discard(self._calls - 1)
                self._out.append(Arguments(self._calls - 1, bytes(block.input).decode()))
                self._close_call(block_index)
        if line.message.stop_reason is None:
            return None
        return self._stop(line.message.stop_reason) or State.FINISHED

    def _whole(self, line: object) -> State | None:
        assert isinstance(line, Result)
        return self._checked(line) if self._stop(line.stop_reason) is State.CHECKING else None

    def _words(self, line: object) -> State | None:
        assert isinstance(line, Assistant)
        self._error = line.error or ""
        if line.api_error == MEDIA_REMOVED:
            words = "The Messages API could not process an image or a document of the conversation."
            self._fail(Failure(failures.Kind.REFUSED_UPSTREAM, words))
            return State.FAILED
        return None

    def _limits(self, line: object) -> State | None:
        assert isinstance(line, RateLimit)
        self.limits = line.rate_limit_info
        return None

    def _error_result(self, line: object) -> State | None:
        assert isinstance(line, Result)
        self._fail(failures.of_result(line, self._error, self.limits))
        return None

    def _no_answer(self, line: object) -> State | None:
        self._fail(Failure(failures.Kind.CLI_CONFUSED, "The CLI ended its turn without an answer."))
        return None

    def _malformed(self, line: object) -> State | None:
        assert isinstance(line, Malformed)
        self._fail(Failure(failures.Kind.CLI_CONFUSED, f"A line of the CLI could not be read ({line.type})."))
        return None


Step = tuple[State, Action | None]


def _transitions() -> dict[tuple[State, What], Step]:
    table: dict[tuple[State, What], Step] = {
        (State.WAITING, What.MESSAGE_START): (State.MESSAGE, Turn._open),
        (State.WAITING, What.SNAPSHOT): (State.WHOLE, Turn._snapshot),
        (State.WAITING, What.RETRY): (State.WAITING, Turn._retry),
        (State.WAITING, What.PUT_IN): (State.WAITING, None),
        (State.WAITING, What.RESULT): (State.FAILED, Turn._no_answer),
        (State.MESSAGE, What.BLOCK_START): (State.BLOCK, Turn._block),
        (State.BLOCK, What.BLOCK_START): (State.BLOCK, Turn._block),
        (State.BLOCK, What.BLOCK_PIECE): (State.BLOCK, Turn._piece),
        (State.BLOCK, What.BLOCK_STOP): (State.MESSAGE, Turn._close),
        (State.CHECKING, What.SNAPSHOT): (State.CHECKING, None),
        (State.CHECKING, What.BLOCK_STOP): (State.CHECKING, None),
        (State.CHECKING, What.MESSAGE_STOP): (State.CHECKING, None),
        (State.CHECKING, What.MESSAGE_START): (State.MESSAGE, Turn._again),
        (State.CHECKING, What.RETRY): (State.CHECKING, Turn._wait),
        (State.CHECKING, What.RESULT): (State.FINISHED, Turn._checked),
        (State.WHOLE, What.SNAPSHOT): (State.WHOLE, Turn._snapshot),
        (State.WHOLE, What.RESULT): (State.FINISHED, Turn._whole),
        (State.WHOLE, What.MESSAGE_START): (State.MESSAGE, Turn._open),
        (State.WHOLE, What.RETRY): (State.WAITING, Turn._retry),
    }
    for state in (State.MESSAGE, State.BLOCK):
        table |= {
            (state, What.SNAPSHOT): (state, None),
            (state, What.MESSAGE_START): (State.MESSAGE, Turn._open),
            (state, What.MESSAGE_PROGRESS): (state, Turn._progress),
            (state, What.MESSAGE_END): (State.FINISHED, Turn._finish),
            (state, What.MESSAGE_STOP): (State.WAITING, Turn._abandon),
            (state, What.RETRY): (State.WAITING, Turn._retry),
            (state, What.RESULT): (State.FAILED, Turn._cut),
        }
    for state in (State.WAITING, State.MESSAGE, State.BLOCK, State.WHOLE, State.CHECKING):
        table |= {
            (state, What.WORDS): (state, Turn._words),
            (state, What.LIMITS): (state, Turn._limits),
            (state, What.NOISE): (state, None),
            (state, What.ERROR_RESULT): (State.FAILED, Turn._unmet),
            (state, What.MALFORMED): (State.FAILED, Turn._malformed),
        }
    for state in (State.FINISHED, State.FAILED):
        table |= dict.fromkeys(((state, what) for what in What), (state, None))
        table[state, What.LIMITS] = (state, Turn._limits)
    return table


TRANSITIONS: Final = _transitions()
