"""The pieces of an answer: the vocabulary between the CLI's turn and the dialects.

An answer is one `Started`, its content in order, and one `Finished`; or it ends with `Failed`, at any point. Content
blocks are told apart by their kind; between two blocks of one kind stands a `BlockBreak`. What a search has found is a
block, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from msgspec import Raw, Struct

from proxy.protocol.failures import Failure
from proxy.protocol.lines import StopDetails


class Reason(Enum):
    """Why an answer ended, as the Messages API says it (`anthropic.types.StopReason`)."""

    END_TURN = "end_turn"
    STOP_SEQUENCE = "stop_sequence"
    PAUSE_TURN = "pause_turn"
    MAX_TOKENS = "max_tokens"
    CONTEXT_WINDOW = "model_context_window_exceeded"
    TOOL_USE = "tool_use"
    REFUSAL = "refusal"


REASONS: Final[dict[str, Reason]] = {reason.value: reason for reason in Reason}
# The model has said what it had to say: a further message can follow.
COMPLETE: Final = frozenset((Reason.END_TURN, Reason.STOP_SEQUENCE, Reason.PAUSE_TURN))


class Tokens(Struct, frozen=True):
    """What one answer used. `input` leaves the cached tokens out, as the Messages API counts.

    `searches`: searches of the web. What these take in tokens is not among the other numbers: the CLI tells it of all
    its answers together, as part of what they cost.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    searches: int = 0
    # Of `cache_write`: what is kept for an hour.
    cache_write_1h: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.input + other.input,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
            self.output + other.output,
            self.reasoning + other.reasoning,
            self.searches + other.searches,
            self.cache_write_1h + other.cache_write_1h,
        )

    @property
    def prompt(self) -> int:
        """All input, cached or not."""
        return self.input + self.cache_read + self.cache_write


class Remarks(Struct, frozen=True):
    """What the Messages API says of an answer beside its content and tokens, in its own form; empty: nothing.

    `iterations`: a list, of all messages that the answer took.
    """

    service_tier: Raw = Raw(b"")
    inference_geo: Raw = Raw(b"")
    speed: Raw = Raw(b"")
    iterations: Raw = Raw(b"")
    container: Raw = Raw(b"")
    diagnostics: Raw = Raw(b"")
    context_management: Raw = Raw(b"")


NO_REMARKS: Final = Remarks()


class Started(Struct, frozen=True):
    """The first content (or the end of an empty answer) is here. Once a turn.

    `model`: the one that answers; `message_id`: the upstream message's; `tokens`: what it has used so far; `remarks`:
    what has been said of it so far.
    """

    model: str
    message_id: str = ""
    tokens: Tokens = Tokens()
    remarks: Remarks = NO_REMARKS


class Text(Struct, frozen=True):
    text: str


class Thinking(Struct, frozen=True):
    text: str


class Signature(Struct, frozen=True):
    """What makes the thinking block under way genuine to the Messages API; it may be all there is of the block."""

    text: str


class RedactedThinking(Struct, frozen=True):
    """A block of thinking that only the Messages API can read."""

    data: str


class Cited(Struct, frozen=True):
    """What of the request the text block under way rests on, as the Messages API says it (`CitationsDelta`)."""

    citation: Raw


class BlockBreak(Struct, frozen=True):
    """What follows is of the same kind as what was before, and a block of its own."""


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


class Searching(Struct, frozen=True):
    """A search of the web begins. `search_index` counts the searches of the answer from 0; `input`: all that the model
    wants of it, a JSON object."""

    search_index: int
    id: str
    query: str
    input: str


class Link(Struct, frozen=True):
    """A page that a search has found."""

    title: str
    url: str


class Searched(Struct, frozen=True):
    """What the search has found, in order."""

    search_index: int
    links: tuple[Link, ...]


class SearchError(Enum):
    """Why a search has failed, as the Messages API says it (`anthropic.types.WebSearchToolResultErrorCode`)."""

    INVALID_INPUT = "invalid_tool_input"
    UNAVAILABLE = "unavailable"
    MAX_USES = "max_uses_exceeded"
    TOO_MANY_REQUESTS = "too_many_requests"
    QUERY_TOO_LONG = "query_too_long"
    REQUEST_TOO_LARGE = "request_too_large"


class SearchFailed(Struct, frozen=True):
    """The search has come to nothing; the model goes on without."""

    search_index: int
    error: SearchError


class Citation(Struct, frozen=True):
    """The text under way names a page that a search has found: in its characters from `start` up to `end`.

    Characters are counted from the beginning of the block of text.
    """

    start: int
    end: int
    link: Link


class Refusal(Struct, frozen=True):
    """What the model said instead of the structured answer that was asked for."""

    text: str


class Retracted(Struct, frozen=True):
    """The text so far is void: another attempt at a structured answer follows."""


class Proposed(Struct, frozen=True):
    """The model has written JSON where it was to use the CLI's tool for a structured answer, of which the CLI takes no
    notice: it asks again. The first of `texts` that fits the schema is the answer; if none does the answer goes on.

    `handed_on`: it has come as `Text`, and there is only this one. `tokens`: what it has used.
    """

    texts: tuple[str, ...]
    handed_on: bool
    tokens: Tokens


class Finished(Struct, frozen=True):
    """`stop_sequence`: the one that ended the answer, where one did and it is known. `details`: of a refusal."""

    reason: Reason
    tokens: Tokens
    stop_sequence: str | None = None
    details: StopDetails | None = None
    remarks: Remarks = NO_REMARKS


class Failed(Struct, frozen=True):
    failure: Failure


Delta = (
    Started | Text | Cited | Thinking | Signature | RedactedThinking | BlockBreak | ToolCall | Arguments | ToolEnd
    | Searching | Searched | SearchFailed | Citation | Refusal | Retracted | Proposed | Finished | Failed
)  # fmt: skip


def standing(deltas: Sequence[Delta]) -> list[Delta]:
    """What is left of them when all is gone that has been retracted."""
    after = max((at + 1 for at, delta in enumerate(deltas) if isinstance(delta, Retracted)), default=0)
    return [delta for at, delta in enumerate(deltas) if at >= after or isinstance(delta, Started)]


def last_of(deltas: Sequence[Delta]) -> Delta | None:
    return deltas[-1] if deltas else None
