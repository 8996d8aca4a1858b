"""Deltas → events of the Messages API, and the whole message."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET
from msgspec.structs import replace

from proxy.dialects import Event
from proxy.dialects.anthropic.errors import envelope
from proxy.dialects.anthropic.types import (
    AnswerBlock,
    AnswerMessage,
    BlockDelta,
    BlockPiece,
    BlockStart,
    BlockStop,
    CitationsDelta,
    InputDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    SignatureDelta,
    Stop,
    StreamedEvent,
    TextDelta,
    ThinkingDelta,
    ToolUse,
    delta_usage_of,
    details_of,
    said,
    usage_of,
)
from proxy.dialects.anthropic.types import RedactedThinking as RedactedOut
from proxy.dialects.anthropic.types import Text as TextOut
from proxy.dialects.anthropic.types import Thinking as ThinkingOut
from proxy.dialects.anthropic.web_search import asked, found, location
from proxy.protocol.answer import Answer, CallPart, FoundPart, RedactedPart, SearchPart, TextPart
from proxy.protocol.deltas import (
    Arguments,
    BlockBreak,
    Citation,
    Cited,
    Delta,
    Finished,
    Reason,
    RedactedThinking,
    Refusal,
    Searched,
    SearchFailed,
    Searching,
    Signature,
    Started,
    Text,
    Thinking,
    Tokens,
    ToolCall,
)
from proxy.protocol.failures import Failure
from proxy.protocol.history import argument_object
from proxy.protocol.plan import EMPTY_OBJECT


def event(value: StreamedEvent) -> Event:
    """Named after its type, as the API does."""
    return Event(value, str(value.__struct_config__.tag))


class MessageEncoder:
    """One request's answer. `thinking`: it is shown; `message_id`: for a message that has none from upstream."""

    def __init__(self, message_id: str, *, thinking: bool = True) -> None:
        self._message_id = message_id
        self._thinking = thinking
        # The block under way and its kind; blocks are numbered as they go out.
        self._index = -1
        self._kind = ""
        self._searches: dict[int, str] = {}
        self._finished: Finished | None = None

    def open(self) -> Sequence[Event]:
        return ()

    def idle(self) -> Event:
        return event(Ping())

    def feed(self, choice: int, deltas: Sequence[Delta]) -> Sequence[Event]:
        out: list[Event] = []
        for delta in deltas:
            if isinstance(delta, Text):
                self._piece(out, "text", TextOut(""), TextDelta(delta.text))
            elif isinstance(delta, Cited):
                self._piece(out, "text", TextOut(""), CitationsDelta(delta.citation))
            elif isinstance(delta, Arguments):
                out.append(event(BlockDelta(self._index, InputDelta(delta.text))))
            elif isinstance(delta, Thinking):
                if self._thinking:
                    self._piece(out, "thinking", ThinkingOut("", ""), ThinkingDelta(delta.text))
            elif isinstance(delta, Signature):
                self._piece(out, "thinking", ThinkingOut("", ""), SignatureDelta(delta.text))
            elif isinstance(delta, RedactedThinking):
                self._start(out, "redacted", RedactedOut(delta.data))
            elif isinstance(delta, ToolCall):
                self._start(out, "tool_use", ToolUse(delta.id, delta.name, EMPTY_OBJECT))
            elif isinstance(delta, Citation):
                out.append(event(BlockDelta(self._index, CitationsDelta(location(delta)))))
            elif isinstance(delta, Searching | Searched | SearchFailed):
                self._search(out, delta)
            elif isinstance(delta, BlockBreak):
                self._stop(out)
            elif isinstance(delta, Refusal):
                self._piece(out, "text", TextOut(""), TextDelta(delta.text))
            elif isinstance(delta, Started):
                out.append(event(MessageStart(self._head(delta))))
            elif isinstance(delta, Finished):
                self._stop(out)
                self._finished = delta
        return out

    def close(self, tokens: Tokens) -> Sequence[Event]:
        finished = self._finished or Finished(Reason.END_TURN, tokens)
        remarks = finished.remarks
        stop = Stop(
            finished.reason.value, finished.stop_sequence, details_of(finished.details), said(remarks.container)
        )
        delta = MessageDelta(stop, delta_usage_of(tokens, remarks), said(remarks.context_management) or UNSET)
        return event(delta), event(MessageStop())

    def fail(self, failure: Failure) -> Sequence[Event]:
        return (Event(envelope(failure, None), "error"),)

    def whole(self, answers: Sequence[Answer], tokens: Tokens) -> AnswerMessage:
        (answer,) = answers
        content = self._blocks(answer)
        if answer.refusal:
            content.append(TextOut(answer.refusal))
        return AnswerMessage(
            id=answer.message_id or self._message_id,
            model=answer.model,
            content=tuple(content),
            stop_reason=(answer.reason or Reason.END_TURN).value,
            stop_sequence=answer.stop_sequence,
            stop_details=details_of(answer.details),
            container=said(answer.remarks.container),
            diagnostics=said(answer.remarks.diagnostics),
            context_management=said(answer.remarks.context_management) or UNSET,
            usage=usage_of(tokens, answer.remarks),
        )

    def _search(self, out: list[Event], delta: Searching | Searched | SearchFailed) -> None:
        if isinstance(delta, Searching):
            self._searches[delta.search_index] = delta.id
            part = asked(SearchPart(delta.search_index, delta.id, delta.query, delta.input))
            self._start(out, "server_tool_use", replace(part, input=EMPTY_OBJECT))
            out.append(event(BlockDelta(self._index, InputDelta(delta.input))))
            return
        links = delta.links if isinstance(delta, Searched) else ()
        error = delta.error if isinstance(delta, SearchFailed) else None
        ended = FoundPart(delta.search_index, links, error)
        self._start(out, "web_search_tool_result", found(ended, self._searches[delta.search_index]))

    def _blocks(self, answer: Answer) -> list[AnswerBlock]:
        blocks: list[AnswerBlock] = []
        for part in answer.parts:
            if isinstance(part, TextPart):
                blocks.append(TextOut(part.text, (*map(location, part.citations), *part.cited) or UNSET))
            elif isinstance(part, CallPart):
                blocks.append(ToolUse(part.id, part.name, argument_object(part.arguments)))
            elif isinstance(part, RedactedPart):
                blocks.append(RedactedOut(part.data))
            elif isinstance(part, SearchPart):
                self._searches[part.search_index] = part.id
                blocks.append(asked(part))
            elif isinstance(part, FoundPart):
                blocks.append(found(part, self._searches[part.search_index]))
            else:
                blocks.append(ThinkingOut(part.text if self._thinking else "", part.signature))
        return blocks

    def _head(self, started: Started) -> AnswerMessage:
        remarks = started.remarks
        return AnswerMessage(
            id=started.message_id or self._message_id,
            model=started.model,
            container=said(remarks.container),
            diagnostics=said(remarks.diagnostics),
            usage=usage_of(started.tokens, remarks),
        )

    def _piece(self, out: list[Event], kind: str, block: AnswerBlock, piece: BlockPiece) -> None:
        if kind != self._kind:
            self._start(out, kind, block)
        out.append(event(BlockDelta(self._index, piece)))

    def _start(self, out: list[Event], kind: str, block: AnswerBlock) -> None:
        self._stop(out)
        self._index += 1
        self._kind = kind
        out.append(event(BlockStart(self._index, block)))

    def _stop(self, out: list[Event]) -> None:
        if self._kind:
            self._kind = ""
            out.append(event(BlockStop(self._index)))
