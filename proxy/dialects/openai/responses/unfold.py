"""The deltas that an answer was made of: a whole response is told by the same way as a stream."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.protocol.answer import Answer, FoundPart, RedactedPart, SearchPart, TextPart, ThinkingPart
from proxy.protocol.deltas import (
    Arguments,
    BlockBreak,
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
    ToolCall,
    ToolEnd,
)


def deltas_of(answer: Answer) -> Iterator[Delta]:
    """The deltas that an answer was made of."""
    yield Started(answer.model, answer.message_id)
    calls = 0
    for part in answer.parts:
        if isinstance(part, TextPart):
            yield BlockBreak()
            yield Text(part.text)
            yield from part.citations
        elif isinstance(part, ThinkingPart):
            yield BlockBreak()
            if part.text:
                yield Thinking(part.text)
            if part.signature:
                yield Signature(part.signature)
        elif isinstance(part, RedactedPart):
            yield RedactedThinking(part.data)
        elif isinstance(part, SearchPart):
            yield Searching(part.search_index, part.id, part.query, part.input)
        elif isinstance(part, FoundPart):
            yield (
                Searched(part.search_index, part.links)
                if part.error is None
                else SearchFailed(part.search_index, part.error)
            )
        else:
            yield ToolCall(calls, part.id, part.name)
            yield Arguments(calls, part.arguments)
            yield ToolEnd(calls)
            calls += 1
    if answer.refusal is not None:
        yield Refusal(answer.refusal)
    yield Finished(answer.reason or Reason.END_TURN, answer.tokens, answer.stop_sequence, answer.details)
