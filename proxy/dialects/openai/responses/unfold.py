"""The deltas that an answer was made of: a whole response is told by the same way as a stream."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.protocol.answer import Answer, CallPart, RedactedPart, TextPart, ThinkingPart
from proxy.protocol.deltas import (
    Arguments,
    BlockBreak,
    Delta,
    Finished,
    Reason,
    RedactedThinking,
    Refusal,
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
            yield Text(part.text)
        elif isinstance(part, ThinkingPart):
            yield BlockBreak()
            if part.text:
                yield Thinking(part.text)
            if part.signature:
                yield Signature(part.signature)
        elif isinstance(part, RedactedPart):
            yield RedactedThinking(part.data)
        elif isinstance(part, CallPart):
            yield ToolCall(calls, part.id, part.name)
            yield Arguments(calls, part.arguments)
            yield ToolEnd(calls)
            calls += 1
    if answer.refusal is not None:
        yield Refusal(answer.refusal)
    yield Finished(answer.reason or Reason.END_TURN, answer.tokens, answer.stop_sequence)
