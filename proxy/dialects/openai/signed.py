"""Thinking with its signature in chat: the forms of LiteLLM and of OpenRouter, as they are handed out and come back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import UNSET, Struct, UnsetType

from proxy.dialects import SignedForm
from proxy.dialects.openai.chat_body import PastThinking
from proxy.dialects.openai.chat_types import ReasoningDetail, ThinkingBlock
from proxy.protocol import plan
from proxy.protocol.answer import Answer, RedactedPart, ThinkingPart
from proxy.protocol.deltas import Delta, RedactedThinking, Signature, Thinking


class Pieces(Struct, frozen=True):
    """In one of the two forms."""

    thinking_blocks: tuple[ThinkingBlock, ...] | UnsetType = UNSET
    reasoning_details: tuple[ReasoningDetail, ...] | UnsetType = UNSET


class Signed:
    """Counts the blocks of one choice, of which OpenRouter's form says the number."""

    __slots__ = ("_form", "_index")

    def __init__(self, form: SignedForm | None) -> None:
        self._form = form
        self._index = 0

    def piece(self, delta: Delta) -> Pieces | None:
        """What a delta of the thinking comes to; None for any other, or where no form is wanted."""
        if self._form is None:
            return None
        if isinstance(delta, Thinking):
            return self._text(delta.text, UNSET)
        if isinstance(delta, Signature):
            signed = self._text("", delta.text)
            self._index += 1
            return signed
        if isinstance(delta, RedactedThinking):
            hidden = self._hidden(delta.data)
            self._index += 1
            return hidden
        return None

    def whole(self, answer: Answer) -> Pieces:
        """All thinking of an answer."""
        blocks: list[ThinkingBlock] = []
        details: list[ReasoningDetail] = []
        for part in answer.parts if self._form is not None else ():
            if isinstance(part, ThinkingPart):
                made = self._text(part.text, part.signature or UNSET)
            elif isinstance(part, RedactedPart):
                made = self._hidden(part.data)
            else:
                continue
            self._index += 1
            blocks += made.thinking_blocks or ()
            details += made.reasoning_details or ()
        return Pieces(tuple(blocks) or UNSET, tuple(details) or UNSET)

    def _text(self, text: str, signature: str | UnsetType) -> Pieces:
        if self._form == "thinking_blocks":
            return Pieces(thinking_blocks=(ThinkingBlock("thinking", text, signature),))
        return Pieces(reasoning_details=(ReasoningDetail("reasoning.text", self._index, text, signature),))

    def _hidden(self, data: str) -> Pieces:
        if self._form == "thinking_blocks":
            return Pieces(thinking_blocks=(ThinkingBlock("redacted_thinking", data=data),))
        return Pieces(reasoning_details=(ReasoningDetail("reasoning.encrypted", self._index, data=data),))


def blocks(entries: Sequence[PastThinking]) -> Iterable[plan.ThinkingBlock | plan.RedactedThinkingBlock]:
    """What a client sends back of thinking.

    It may be whole, or the pieces of a stream one after the other: a signature ends a block. What has none is not
    genuine to the Messages API, which would refuse it; other kinds of entries say nothing to it.
    """
    text = ""
    for entry in entries:
        if entry.type in ("redacted_thinking", "reasoning.encrypted"):
            if entry.data:
                yield plan.RedactedThinkingBlock(entry.data)
        elif entry.type in ("thinking", "reasoning.text"):
            text += entry.thinking or entry.text or ""
            if entry.signature:
                yield plan.ThinkingBlock(text, entry.signature)
                text = ""
