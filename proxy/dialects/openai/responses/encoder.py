"""Deltas → the events of a streamed response, and the whole response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from proxy.dialects import Comment, Event, Identity
from proxy.dialects.openai.responses import types, web_search
from proxy.dialects.openai.responses.builtin import TOOLS
from proxy.dialects.openai.responses.ending import INCOMPLETE, Ended, ended, error_code, named, now
from proxy.dialects.openai.responses.request import AskedResponse
from proxy.dialects.openai.responses.tools import CallForm
from proxy.dialects.openai.responses.types import (
    CustomCallItem,
    FunctionCallItem,
    ItemStatus,
    OutputItem,
    OutputMessage,
    OutputRefusal,
    OutputText,
    ReasoningItem,
    Response,
    ResponseEvent,
    SummaryText,
)
from proxy.dialects.openai.responses.under_way import UnderWay, item_of_call
from proxy.dialects.openai.responses.unfold import deltas_of
from proxy.dialects.openai.stream import KEEP_ALIVE
from proxy.protocol.answer import Answer
from proxy.protocol.deltas import (
    Arguments,
    BlockBreak,
    Citation,
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
from proxy.protocol.plan import RedactedThinkingBlock, ThinkingBlock

_OPENING: Final = 2


class ResponsesEncoder:
    """One response. `ended`: what is to be kept of it, once it has ended, in whatever way."""

    def __init__(self, asked: AskedResponse, identity: Identity) -> None:
        self._asked = asked
        self._identity = identity
        self._base = replace(asked.template, id=f"resp_{identity.token}", created_at=identity.created)
        self._number = _OPENING
        self._items = 0
        self._shown: list[OutputItem] = []
        self._kept: list[OutputItem] = []
        self._out: list[Event] = []
        # What is under way: of these three at most one, and calls by their index.
        self._reasoning: UnderWay | None = None
        self._message: UnderWay | None = None
        self._refusal: UnderWay | None = None
        self._calls: dict[int, UnderWay] = {}
        # Searches under way by their index: the item, and its place among those shown and kept.
        self._searches: dict[int, tuple[UnderWay, web_search.WebSearchCallItem, int, int]] = {}
        self._indices = 0
        self._model = ""
        self._reason = Reason.END_TURN
        # In the background it is told as soon as it is asked for, and begins later.
        self._queued = asked.template.background
        self.ended: Ended | None = None

    @property
    def response(self) -> Response:
        """As it is at this moment."""
        if self.ended is not None:
            return self.ended.response
        status = "queued" if self._queued else "in_progress"
        return replace(self._base, status=status, output=tuple(self._shown))

    def open(self) -> Sequence[Event]:
        if self._queued:
            queued = self.response
            return (
                named(types.ResponseCreated(sequence_number=0, response=queued)),
                named(types.ResponseQueued(sequence_number=1, response=queued)),
            )
        return (
            named(types.ResponseCreated(sequence_number=0, response=self._base)),
            named(types.ResponseInProgress(sequence_number=1, response=self._base)),
        )

    def idle(self) -> Comment:
        return KEEP_ALIVE

    def feed(self, choice: int, deltas: Sequence[Delta]) -> Sequence[Event]:
        for delta in deltas:
            if self._queued:
                self._queued = False
                self._emit(types.ResponseInProgress, response=self.response)
            self._take(delta)
        return self._told()

    def close(self, tokens: Tokens) -> Sequence[Event]:
        response = self._end(tokens)
        kind = types.ResponseCompleted if response.status == "completed" else types.ResponseIncomplete
        self._emit(kind, response=response)
        return self._told()

    def fail(self, failure: Failure) -> Sequence[Event]:
        # In the place of its end, where that could not be kept: nobody has been told.
        self._number -= self.ended is not None
        error = types.ResponseError(error_code(failure.kind), failure.message)
        self._emit(types.ResponseFailed, response=self._cut("failed", error))
        return self._told()

    def cancel(self) -> Sequence[Event]:
        """What ends a stream that the client has cancelled: the API has no event of its own for that."""
        self._emit(types.ResponseIncomplete, response=self._cut("cancelled"))
        return self._told()

    def whole(self, answers: Sequence[Answer], tokens: Tokens) -> Struct:
        self.feed(0, list(deltas_of(answers[0])))
        return self._end(tokens)

    def _cut(self, status: types.ResponseStatus, error: types.ResponseError | None = None) -> Response:
        """The response as it is now that nothing more comes.

        What is under way is told in it alone: a client would take a call that is cut for a whole one.
        """
        number = self._number
        self._close_all("incomplete")
        for index in tuple(self._searches):
            self._end_search(index, None)
        self._number, self._out = number, []
        response = replace(self._base, status=status, error=error, output=tuple(self._shown))
        self.ended = ended(response, self._asked.items, tuple(self._kept), self._asked.most)
        return self.ended.response

    def _end(self, tokens: Tokens) -> Response:
        """The response as it is now that its answer is complete."""
        details = INCOMPLETE.get(self._reason)
        response = replace(
            self._base,
            status="completed" if details is None else "incomplete",
            completed_at=now(self._identity) if details is None else None,
            incomplete_details=details,
            output=tuple(self._shown),
            usage=types.usage_of(tokens),
        )
        self.ended = ended(response, self._asked.items, tuple(self._kept), self._asked.most)
        return self.ended.response

    def _take(self, delta: Delta) -> None:
        if isinstance(delta, Text):
            self._text(delta.text)
        elif isinstance(delta, Arguments):
            self._arguments(delta)
        elif isinstance(delta, Thinking | Signature):
            self._think(delta)
        elif isinstance(delta, RedactedThinking):
            self._close_all("completed")
            self._reasoning = self._open("rs")
            self._reasoning.redacted = delta.data
            self._show_reasoning(self._reasoning)
            self._close_all("completed")
        elif isinstance(delta, BlockBreak):
            self._end_reasoning("completed")
            if self._message is not None:
                self._message.begun = len(self._message.text)
        elif isinstance(delta, Citation):
            self._cite(delta)
        elif isinstance(delta, Searching):
            self._begin_search(delta)
        elif isinstance(delta, Searched | SearchFailed):
            self._end_search(delta.search_index, delta)
        elif isinstance(delta, ToolCall):
            self._begin_call(delta)
        elif isinstance(delta, Refusal):
            self._refuse(delta.text)
        elif isinstance(delta, Started):
            self._base = replace(self._base, model=delta.model)
            self._model = delta.model
        elif isinstance(delta, Finished):
            self._reason = delta.reason
            self._close_all("incomplete" if delta.reason in INCOMPLETE else "completed")

    # Text

    def _text(self, text: str) -> None:
        open = self._message
        if open is None:
            self._close_all("completed")
            open = self._message = self._open("msg")
            open.index = self._next_index()
            self._added(open, OutputMessage(id=open.id, status="in_progress"))
            self._emit(types.ContentPartAdded, open, part=OutputText(text=""))
        open.pieces.append(text)
        self._emit(types.OutputTextDelta, open, delta=text)

    def _end_message(self, status: ItemStatus) -> None:
        open, self._message = self._message, None
        if open is None:
            return
        part = OutputText(text=open.text, annotations=tuple(open.cited))
        self._emit(types.OutputTextDone, open, text=open.text)
        self._emit(types.ContentPartDone, open, part=part)
        self._done(open, OutputMessage(id=open.id, status=status, content=(part,)))

    def _cite(self, citation: Citation) -> None:
        open = self._message
        if open is not None:
            found = web_search.annotation(citation, open.begun)
            self._emit(types.AnnotationAdded, open, annotation=found, annotation_index=len(open.cited))
            open.cited.append(found)

    def _refuse(self, text: str) -> None:
        open = self._refusal
        if open is None:
            self._close_all("completed")
            open = self._refusal = self._open("msg")
            open.index = self._next_index()
            self._added(open, OutputMessage(id=open.id, status="in_progress"))
            self._emit(types.ContentPartAdded, open, part=OutputRefusal(""))
        open.pieces.append(text)
        self._emit(types.RefusalDelta, open, delta=text)

    def _end_refusal(self, status: ItemStatus) -> None:
        open, self._refusal = self._refusal, None
        if open is None:
            return
        part = OutputRefusal(open.text)
        self._emit(types.RefusalDone, open, refusal=open.text)
        self._emit(types.ContentPartDone, open, part=part)
        self._done(open, OutputMessage(id=open.id, status=status, content=(part,)))

    # Thinking

    def _think(self, delta: Thinking | Signature) -> None:
        open = self._reasoning
        if open is None:
            self._close_all("completed")
            open = self._reasoning = self._open("rs")
        if isinstance(delta, Signature):
            open.signature.append(delta.text)
            return
        if self._asked.thinking:
            if not open.pieces:
                self._show_reasoning(open)
                self._emit(types.SummaryPartAdded, open, part=SummaryText(""))
            self._emit(types.SummaryTextDelta, open, delta=delta.text)
        open.pieces.append(delta.text)

    def _show_reasoning(self, open: UnderWay) -> None:
        """The client is shown the item, if there is anything in it for the client."""
        if open.index is None and (self._asked.encrypted or (self._asked.thinking and open.redacted is None)):
            open.index = self._next_index()
            self._added(open, ReasoningItem(id=open.id, status="in_progress"))

    def _end_reasoning(self, status: ItemStatus) -> None:
        open, self._reasoning = self._reasoning, None
        if open is None:
            return
        summary: tuple[SummaryText, ...] = ()
        if open.pieces and self._asked.thinking:
            summary = (SummaryText(open.text),)
            self._emit(types.SummaryTextDone, open, text=open.text)
            self._emit(types.SummaryPartDone, open, part=summary[0])
        sealed = self._sealed(open)
        if sealed is not None and self._asked.encrypted:
            self._show_reasoning(open)
        item = ReasoningItem(id=open.id, summary=summary, encrypted_content=sealed, status=status)
        shown = item if self._asked.encrypted else replace(item, encrypted_content=None)
        self._done(open, shown, item)

    def _sealed(self, open: UnderWay) -> str | None:
        """The block as it can be put in again; None for one without a signature, which cannot."""
        if open.redacted is not None:
            return self._asked.seal.close(self._model, RedactedThinkingBlock(open.redacted))
        if not open.signature:
            return None
        return self._asked.seal.close(self._model, ThinkingBlock(open.text, "".join(open.signature)))

    # Calls

    def _begin_call(self, call: ToolCall) -> None:
        self._close_all("completed")
        form = self._asked.forms.get(call.name) or CallForm("function", call.name)
        open = self._open("ctc" if form.kind == "custom" else "fc", call, form)
        self._calls[call.tool_index] = open
        if form.kind in TOOLS:
            # It is shown when its arguments are there: its item has no others.
            return
        open.index = self._next_index()
        self._added(open, item_of_call(open, "", "in_progress"))

    def _arguments(self, arguments: Arguments) -> None:
        open = self._calls[arguments.tool_index]
        open.pieces.append(arguments.text)
        if open.form is not None and open.form.kind == "function":
            self._emit(types.ArgumentsDelta, open, delta=arguments.text)

    def _end_call(self, tool_index: int, status: ItemStatus) -> None:
        open = self._calls.pop(tool_index, None)
        if open is None or open.form is None:
            return
        # Whether it is whole or was cut is known by what follows: a limit ends its block like any other (`ToolEnd`).
        item = item_of_call(open, open.text, "completed" if status == "completed" or open.is_object else "incomplete")
        if open.index is None:
            open.index = self._next_index()
            if isinstance(item, FunctionCallItem):
                self._added(open, replace(item, arguments="", status="in_progress"))
                self._emit(types.ArgumentsDelta, open, delta=item.arguments)
            else:
                self._added(open, replace(item, status="in_progress"))
        if isinstance(item, CustomCallItem):
            self._emit(types.CustomInputDelta, open, delta=item.input)
            self._emit(types.CustomInputDone, open, input=item.input)
        elif isinstance(item, FunctionCallItem):
            self._emit(types.ArgumentsDone, open, name=item.name, arguments=item.arguments)
        self._done(open, item)

    def _begin_search(self, search: Searching) -> None:
        self._close_all("completed")
        open = self._open("ws")
        open.index = self._next_index()
        item = web_search.begun(open.id, search)
        self._searches[search.search_index] = open, item, len(self._shown), len(self._kept)
        # Other items may end before it does.
        self._shown.append(item)
        self._kept.append(item)
        self._added(open, item)
        self._emit(types.SearchInProgress, open)
        self._emit(types.SearchSearching, open)

    def _end_search(self, index: int, end: Searched | SearchFailed | None) -> None:
        self._close_all("completed")
        open, item, shown, kept = self._searches.pop(index)
        item = web_search.ended(item, end, sources=self._asked.sources)
        self._shown[shown] = self._kept[kept] = item
        if isinstance(end, Searched):
            self._emit(types.SearchCompleted, open)
        self._event(types.OutputItemDone(sequence_number=self._next(), output_index=open.index or 0, item=item))

    # Items

    def _open(self, prefix: str, call: ToolCall | None = None, form: CallForm | None = None) -> UnderWay:
        number, self._items = self._items, self._items + 1
        return UnderWay(f"{prefix}_{self._identity.token}{number:04x}", None, call, form)

    def _next_index(self) -> int:
        index, self._indices = self._indices, self._indices + 1
        return index

    def _close_all(self, status: ItemStatus) -> None:
        self._end_reasoning(status)
        self._end_message(status)
        self._end_refusal(status)
        for index in tuple(self._calls):
            self._end_call(index, status)

    def _added(self, open: UnderWay, item: OutputItem) -> None:
        self._event(types.OutputItemAdded(sequence_number=self._next(), output_index=open.index or 0, item=item))

    def _done(self, open: UnderWay, item: OutputItem, kept: OutputItem | None = None) -> None:
        self._kept.append(kept or item)
        if open.index is not None:
            self._shown.append(item)
            self._event(types.OutputItemDone(sequence_number=self._next(), output_index=open.index, item=item))

    def _emit(self, event: Any, open: UnderWay | None = None, **fields: Any) -> None:
        """One event; of an item that the client is not shown, none."""
        if open is None:
            self._event(event(sequence_number=self._next(), **fields))
        elif open.index is not None:
            self._event(event(sequence_number=self._next(), item_id=open.id, output_index=open.index, **fields))

    def _event(self, event: ResponseEvent) -> None:
        self._out.append(named(event))

    def _told(self) -> Sequence[Event]:
        """What there is to tell by now."""
        out, self._out = self._out, []
        return out

    def _next(self) -> int:
        number, self._number = self._number, self._number + 1
        return number
