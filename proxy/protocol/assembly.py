"""The content of one answer while it comes: upstream messages and their blocks in, deltas out."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from proxy.protocol.deltas import (
    Arguments,
    BlockBreak,
    Cited,
    Delta,
    Finished,
    Proposed,
    Reason,
    RedactedThinking,
    Refusal,
    Remarks,
    Retracted,
    Signature,
    Started,
    Text,
    Thinking,
    Tokens,
    ToolCall,
    ToolEnd,
)
from proxy.protocol.lines import BlockDelta, BlockHead, SnapshotBlock, StopDetails, TokenUsage, User
from proxy.protocol.plan import Schema, Search
from proxy.protocol.prose import Prose
from proxy.protocol.schema import Unwrapper
from proxy.protocol.web_search import WEB_SEARCH, Searches

# The name the CLI gives to the tool by which structured output comes (fixtures schema/*).
STRUCTURED_OUTPUT: Final = "StructuredOutput"


# About as many as there are, in English and in code. Who is told a number by this is told the best that is known.
BYTES_PER_TOKEN: Final = 4


NOTHING: Final = Raw(b"")


def joined(one: Raw, other: Raw) -> Raw:
    """Two JSON lists as one."""
    inner = [bytes(each).strip()[1:-1].strip() for each in (one, other)]
    return Raw(b"[" + b",".join(filter(None, inner)) + b"]")


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class Assembly:
    """Deltas gather in `out`. With a schema the answer is the input of the CLI's own tool, handed on as text."""

    __slots__ = (
        "_announced", "_block_index", "_block_kind", "_calls", "_counted", "_empty", "_json_block", "_message_id",
        "_model", "_prose", "_remarks", "_search", "_searches", "_spent", "_structured", "_tokens", "_tools",
        "_uncounted", "_unwrapper", "_wrapped", "attempts", "has_json", "out", "started",
    )  # fmt: skip

    def __init__(self, schema: Schema | None, search: Search | None = None) -> None:
        self.out: list[Delta] = []
        # Something of this message has been handed on: no other attempt may take its place.
        self.started = False
        self._announced = False
        self._search = search is not None
        self._searches = Searches(search)
        # How many messages a structured answer has taken so far, and what the earlier ones used.
        self.attempts = 1
        self._spent = Tokens()
        # Some of a structured answer has been handed on.
        self.has_json = False
        self._model = ""
        self._message_id = ""
        self._tokens = Tokens()
        self._remarks: dict[str, Raw] = {}
        # How much output there was when it was last said, and how many bytes have come since.
        self._counted = 0
        self._uncounted = 0
        # Calls under way by block index; those without arguments so far; how many there have been.
        self._tools: dict[int, int] = {}
        self._empty: set[int] = set()
        self._calls = 0
        # The block whose content went out last.
        self._block_index = -1
        self._block_kind = ""
        self._structured = schema is not None
        self._wrapped = schema is not None and schema.wrapped
        self._unwrapper = Unwrapper()
        # The block that holds the structured answer, and prose beside it.
        self._json_block: int | None = None
        self._prose = self._no_prose()

    @property
    def tokens(self) -> Tokens:
        """What has been used, as far as it has been said; the output by what has come, until it is said."""
        return self._spent + self._used + Tokens(searches=self._searches.succeeded)

    @property
    def _used(self) -> Tokens:
        """Of the message under way."""
        output = max(self._tokens.output, self._counted + -(-self._uncounted // BYTES_PER_TOKEN))
        return self._tokens if output == self._tokens.output else msgspec.structs.replace(self._tokens, output=output)

    @property
    def goes_on(self) -> bool:
        """A message that has ended with calls has searches, for which the CLI goes on, or is still at work.

        Where there are calls of the client's beside them, it goes on when it has their results.
        """
        searches = self._searches
        return searches.in_message and not self.has_json and (searches.pending or not self._calls)

    @property
    def has_calls(self) -> bool:
        return self._calls > 0

    @property
    def searching(self) -> bool:
        return self._searches.pending

    def may_search(self, id: str) -> bool:
        """Whether the CLI may run the search with this id."""
        return self._searches.may_run(id)

    def head(self, model: str, message_id: str, usage: TokenUsage) -> None:
        """A message begins, in the place of any before it that came to nothing."""
        self._model = model
        self._message_id = message_id
        self._prose = self._no_prose()
        self._json_block = None
        self._tokens = Tokens()
        self.count(usage)
        # At its head it is said how much has been written before anything of it comes.
        self._counted = 0

    def again(self) -> None:
        """Another attempt at a structured answer follows. What has been handed on of the last one is taken back."""
        if self.has_json or self._prose.handed:
            self.out.append(Retracted())
            self.has_json = False
        self._spent += self._used
        self.attempts += 1

    def go_on(self) -> None:
        """Another message of the same answer follows, after a search. With a schema words before it are no answer."""
        if self._prose.handed:
            self.out.append(Retracted())
        self.out += self._searches.give_up()
        self._searches.in_message = False
        self._spent += self._used
        self.started = False

    def found(self, line: User) -> None:
        """What has become of searches."""
        self.out += self._searches.ended(line)

    def remark(self, said: object) -> None:
        """What an event, or the usage in it, says beside content and tokens. Later words count, but lists add up."""
        for name in Remarks.__struct_fields__:
            value = getattr(said, name, NOTHING)
            if bytes(value) in (b"", b"null"):
                continue
            if name in self._remarks and name == "iterations":
                value = joined(self._remarks[name], value)
            self._remarks[name] = value

    @property
    def remarks(self) -> Remarks:
        return Remarks(**self._remarks)

    def count(self, usage: TokenUsage) -> None:
        self.remark(usage)
        if usage.output_tokens is not None:
            self._counted, self._uncounted = usage.output_tokens, 0
        details = usage.output_tokens_details
        said = {
            "input": usage.input_tokens,
            "cache_read": usage.cache_read_input_tokens,
            "cache_write": usage.cache_creation_input_tokens,
            "output": usage.output_tokens,
            "reasoning": None if details is None else details.thinking_tokens,
            "cache_write_1h": None if usage.cache_creation is None else usage.cache_creation.ephemeral_1h_input_tokens,
        }
        counts = {name: max(count, 0) for name, count in said.items() if count is not None}
        self._tokens = msgspec.structs.replace(self._tokens, **counts)

    def begin(self) -> None:
        """Hand on `Started`, before the first content."""
        self.started = True
        if not self._announced:
            self._announced = True
            self.out.append(Started(self._model, self._message_id, self.tokens, self.remarks))

    def open(self, index: int, block: BlockHead) -> None:
        if block.type == "tool_use" and self._structured and block.name == STRUCTURED_OUTPUT:
            if not self._given:
                self._json_block = index
                self._unwrapper = Unwrapper()
        elif block.type == "tool_use" and self._search and block.name == WEB_SEARCH:
            self._open_search(index, block.id)
        elif block.type == "tool_use":
            self._call(index, block.id, block.name)
        elif block.type == "redacted_thinking":
            self._piece("redacted", index, RedactedThinking(block.data))

    def _open_search(self, index: int, id: str) -> None:
        self.begin()
        self._block_kind = "search"
        self._searches.open(index, id)

    def piece(self, index: int, delta: BlockDelta) -> None:
        self._hand_on(index, delta)
        self._uncounted += sum(map(_bytes, filter(None, (delta.text, delta.partial_json, delta.thinking))))

    def _hand_on(self, index: int, delta: BlockDelta) -> None:
        if delta.type == "text_delta" and delta.text:
            if self._structured:
                self._said(delta.text)
            else:
                self._piece("text", index, Text(delta.text))
        elif delta.type == "citations_delta" and bytes(delta.citation) and not self._structured:
            self._piece("text", index, Cited(delta.citation))
        elif delta.type == "input_json_delta" and delta.partial_json:
            if index == self._json_block:
                self._json_text(delta.partial_json)
                return
            tool_index = None if self._searches.piece(index, delta.partial_json) else self._tools.get(index)
            if tool_index is not None:
                self._empty.discard(tool_index)
                self.out.append(Arguments(tool_index, delta.partial_json))
        elif delta.type == "thinking_delta" and delta.thinking:
            self._piece("thinking", index, Thinking(delta.thinking))
        elif delta.type == "signature_delta" and delta.signature:
            self._piece("thinking", index, Signature(delta.signature))

    def close(self, index: int) -> None:
        """The block is complete."""
        self.out += self._searches.close(index)
        tool_index = self._tools.pop(index, None)
        if tool_index is None:
            return
        if tool_index in self._empty:
            # A tool without arguments streams no piece at all; clients parse the text and need an object.
            self._empty.discard(tool_index)
            self.out.append(Arguments(tool_index, "{}"))
        self.out.append(ToolEnd(tool_index))

    def close_all(self) -> None:
        for index in tuple(self._tools):
            self.close(index)
        self.out += self._searches.close_all()

    def whole(self, block: SnapshotBlock) -> None:
        """A block that came without a stream."""
        # Every block has a line of its own there, without an index.
        index = self._block_index + 1
        if block.type == "text" and self._structured:
            self._said(block.text)
        elif block.type == "text" and block.text:
            self._piece("text", index, Text(block.text))
            for citation in block.citations or ():
                self._piece("text", index, Cited(citation))
        elif block.type == "tool_use" and self._structured and block.name == STRUCTURED_OUTPUT:
            if not self._given:
                self._unwrapper = Unwrapper()
                self._json_text(bytes(block.input).decode())
        elif block.type == "thinking":
            if block.thinking:
                self._piece("thinking", index, Thinking(block.thinking))
            if block.signature:
                self._piece("thinking", index, Signature(block.signature))
        elif block.type == "redacted_thinking":
            self._piece("redacted", index, RedactedThinking(block.data))
        elif block.type == "tool_use" and self._search and block.name == WEB_SEARCH:
            self._open_search(index, block.id)
            self._searches.piece(index, bytes(block.input).decode())
            self.close(index)
        elif block.type == "tool_use":
            call_index = -1 - self._calls
            self._call(call_index, block.id, block.name)
            self._empty.discard(self._calls - 1)
            self.out.append(Arguments(self._calls - 1, bytes(block.input).decode()))
            self.close(call_index)

    def needs_check(self, complete: bool, tool_use: bool) -> bool:
        """Whether the CLI looks at the structured answer before it is one."""
        return self._structured and (complete or (tool_use and not self._calls))

    def finish(self, reason: Reason, stop_sequence: str | None, details: StopDetails | None = None) -> None:
        self.begin()
        self.out += self._searches.give_up()
        if self._prose.rest and not self.has_json and not self._calls:
            self.out.append(Text(self._prose.rest))
        self.out.append(Finished(reason, self.tokens, stop_sequence, details, self.remarks))

    def propose(self) -> None:
        """The message has ended: JSON that was written as prose may be the answer."""
        texts = self._prose.whole()
        if texts and not self.has_json and not self._calls:
            self.begin()
            self.out.append(Proposed(texts, self._prose.handed, self.tokens))

    def checked(self) -> None:
        """The CLI has nothing against the structured answer. Prose in its place is a refusal, unless it is JSON."""
        self.begin()
        self.out += self._searches.give_up()
        texts = self._prose.whole()
        if not self.has_json and not texts:
            if self._prose.handed:
                self.out.append(Retracted())
            self.out.append(Refusal(self._prose.text))
        elif not self.has_json and not self._prose.handed:
            self.out.append(Text(texts[0]))
        self.out.append(Finished(Reason.END_TURN, self.tokens, remarks=self.remarks))

    @property
    def _given(self) -> bool:
        """The answer has gone out as prose already: the tool's input says it once more."""
        return self._prose.handed and bool(self._prose.whole())

    def _no_prose(self) -> Prose:
        return Prose(wrapped=self._wrapped)

    def _said(self, text: str) -> None:
        """Words where the structured answer was to come by the CLI's tool."""
        text = self._prose.feed(text)
        if text and not self.has_json:
            self.begin()
            self.out.append(Text(text))

    def _call(self, block_index: int, id: str, name: str) -> None:
        self.begin()
        # Words before a call are no part of an answer that has a form: clients parse all that is said.
        self._prose = self._no_prose()
        tool_index = self._calls
        self._calls += 1
        self._tools[block_index] = tool_index
        self._empty.add(tool_index)
        self._block_kind = "tool_use"
        self.out.append(ToolCall(tool_index, id, name))

    def _json_text(self, text: str) -> None:
        """A piece of the structured answer."""
        text = self._unwrapper.feed(text) if self._wrapped else text
        if text:
            self.begin()
            if self._prose.handed and not self.has_json:
                self.out.append(Retracted())
            self.has_json = True
            self.out.append(Text(text))

    def _piece(self, kind: str, index: int, delta: Delta) -> None:
        """Hand on a piece of a block of text or thinking."""
        self.begin()
        if kind == self._block_kind and index != self._block_index:
            self.out.append(BlockBreak())
        self._block_kind, self._block_index = kind, index
        self.out.append(delta)
