"""An answer as one value, and the one place where deltas are folded into it."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Raw, Struct

from proxy.protocol.deltas import (
    NO_REMARKS,
    Arguments,
    BlockBreak,
    Citation,
    Cited,
    Delta,
    Finished,
    Link,
    Reason,
    RedactedThinking,
    Refusal,
    Remarks,
    Retracted,
    Searched,
    SearchError,
    SearchFailed,
    Searching,
    Signature,
    Started,
    Text,
    Thinking,
    Tokens,
    ToolCall,
)
from proxy.protocol.lines import StopDetails


class TextPart(Struct, frozen=True):
    """`citations`: of what a search has found; `cited`: of the request, in the Messages API's own form."""

    text: str
    citations: tuple[Citation, ...] = ()
    cited: tuple[Raw, ...] = ()


class ThinkingPart(Struct, frozen=True):
    text: str
    signature: str = ""


class RedactedPart(Struct, frozen=True):
    data: str


class CallPart(Struct, frozen=True):
    """`arguments`: the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


class SearchPart(Struct, frozen=True):
    """A search of the web. `search_index` counts them from 0; `input`: the JSON text of what the model wants of it."""

    search_index: int
    id: str
    query: str
    input: str


class FoundPart(Struct, frozen=True):
    """What that search has found, or why it has failed."""

    search_index: int
    links: tuple[Link, ...] = ()
    error: SearchError | None = None


Part = TextPart | ThinkingPart | RedactedPart | CallPart | SearchPart | FoundPart


class Answer(Struct, frozen=True):
    """`parts` in the order in which they came. `refusal`: what was said instead of a structured answer, if that was.

    `reason` None: the answer has not ended. `tokens`: of this answer alone.
    """

    model: str = ""
    message_id: str = ""
    parts: tuple[Part, ...] = ()
    refusal: str | None = None
    reason: Reason | None = None
    stop_sequence: str | None = None
    tokens: Tokens = Tokens()
    details: StopDetails | None = None
    remarks: Remarks = NO_REMARKS

    @property
    def text(self) -> str:
        """All text, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def thinking(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, ThinkingPart))

    @property
    def calls(self) -> tuple[CallPart, ...]:
        return tuple(part for part in self.parts if isinstance(part, CallPart))

    @property
    def citations(self) -> tuple[Citation, ...]:
        """Those of all text, counted in all text, joined."""
        found: list[Citation] = []
        before = 0
        for part in self.parts:
            if isinstance(part, TextPart):
                found += (Citation(one.start + before, one.end + before, one.link) for one in part.citations)
                before += len(part.text)
        return tuple(found)


class _Open:
    """A part under way."""

    __slots__ = ("call", "citations", "cited", "kind", "pieces", "signature", "whole")

    def __init__(self, kind: type[Part], call: ToolCall | None = None, whole: Part | None = None) -> None:
        self.kind = kind
        self.call = call
        # A part that came all at once.
        self.whole = whole
        self.pieces: list[str] = []
        self.signature: list[str] = []
        self.citations: list[Citation] = []
        self.cited: list[Raw] = []

    def part(self) -> Part:
        if self.whole is not None:
            return self.whole
        text = "".join(self.pieces)
        if self.call is not None:
            return CallPart(self.call.id, self.call.name, text)
        if self.kind is ThinkingPart:
            return ThinkingPart(text, "".join(self.signature))
        if self.kind is RedactedPart:
            return RedactedPart(text)
        return TextPart(text, tuple(self.citations), tuple(self.cited))


class Fold:
    """Takes deltas; `answer` is what they come to so far."""

    __slots__ = ("_break", "_calls", "_ended", "_parts", "_refusal", "_searched", "_started")

    def __init__(self) -> None:
        self._started = Started("")
        self._parts: list[_Open] = []
        self._calls: list[_Open] = []
        self._searched = False
        self._refusal: list[str] = []
        self._break = False
        self._ended: Finished | None = None

    def take(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            if isinstance(delta, Text):
                self._open(TextPart).pieces.append(delta.text)
            elif isinstance(delta, Cited):
                self._open(TextPart).cited.append(delta.citation)
            elif isinstance(delta, Arguments):
                self._calls[delta.tool_index].pieces.append(delta.text)
            elif isinstance(delta, Thinking):
                self._open(ThinkingPart).pieces.append(delta.text)
            elif isinstance(delta, Signature):
                self._open(ThinkingPart).signature.append(delta.text)
            elif isinstance(delta, RedactedThinking):
                self._break = True
                self._open(RedactedPart).pieces.append(delta.data)
            elif isinstance(delta, BlockBreak):
                self._break = True
            elif isinstance(delta, ToolCall):
                self._calls.append(_Open(CallPart, delta))
                self._parts.append(self._calls[-1])
            elif isinstance(delta, Searching):
                self._searched = True
                self._add(SearchPart(delta.search_index, delta.id, delta.query, delta.input))
            elif isinstance(delta, Searched):
                self._add(FoundPart(delta.search_index, delta.links))
            elif isinstance(delta, SearchFailed):
                self._add(FoundPart(delta.search_index, error=delta.error))
            elif isinstance(delta, Citation):
                self._open(TextPart).citations.append(delta)
            elif isinstance(delta, Refusal):
                self._refusal.append(delta.text)
            elif isinstance(delta, Retracted):
                self._parts = [part for part in self._parts if part.kind is not TextPart]
            elif isinstance(delta, Started):
                self._started = delta
            elif isinstance(delta, Finished):
                self._ended = delta

    def _open(self, kind: type[Part]) -> _Open:
        if self._break or not self._parts or self._parts[-1].kind is not kind:
            self._parts.append(_Open(kind))
        self._break = False
        return self._parts[-1]

    def _add(self, part: Part) -> None:
        self._parts.append(_Open(type(part), whole=part))

    def forget(self) -> None:
        """Let the content go. What stays is which calls there were."""
        for call in self._calls:
            call.pieces = []
        self._parts = list(self._calls)
        self._refusal = []

    @property
    def text(self) -> str:
        return "".join(piece for part in self._parts if part.kind is TextPart for piece in part.pieces)

    @property
    def call_ids(self) -> frozenset[str]:
        return frozenset(call.call.id for call in self._calls if call.call is not None)

    @property
    def called(self) -> bool:
        """The model has called a tool, or has searched the web."""
        return self._searched or bool(self._calls)

    def answer(self) -> Answer:
        started, ended = self._started, self._ended
        return Answer(
            started.model,
            started.message_id,
            tuple(part.part() for part in self._parts),
            "".join(self._refusal) if self._refusal else None,
            None if ended is None else ended.reason,
            None if ended is None else ended.stop_sequence,
            started.tokens if ended is None else ended.tokens,
            None if ended is None else ended.details,
            started.remarks if ended is None or ended.remarks == NO_REMARKS else ended.remarks,
        )
