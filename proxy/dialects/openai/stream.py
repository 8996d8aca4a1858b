"""What the streams of chat and text completions share: chunks of every choice, a chunk with the usage, `[DONE]`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from msgspec import Struct

from proxy.dialects import Comment, Event
from proxy.dialects.openai.chat_types import AnswerHead
from proxy.dialects.openai.errors import envelope
from proxy.protocol.answer import Answer
from proxy.protocol.deltas import Delta, Tokens
from proxy.protocol.failures import About, Failure

PARAMS: Final = {
    About.MODEL: "model",
    About.SCHEMA: "response_format.json_schema.schema",
    About.TOOLS: "tools",
    About.SEARCH: "web_search_options",
}
DONE: Final = Event("[DONE]")
# Any other line than `data:` and comments breaks clients.
KEEP_ALIVE: Final = Comment("keep-alive")


class ChoiceChunks(Protocol):
    """Makes the chunks of one choice. `model`: as upstream names it, once that is known."""

    @property
    def model(self) -> str: ...

    def feed(self, deltas: Iterable[Delta]) -> Sequence[Struct]: ...


class ChunkEncoder(ABC):
    """One request's answer, all its choices. `chunks`: makes what makes the chunks of the choice of that number."""

    def __init__(self, head: AnswerHead, chunks: Callable[[int], ChoiceChunks]) -> None:
        self._head = head
        self._chunks = chunks
        self._choices: dict[int, ChoiceChunks] = {}

    def open(self) -> Sequence[Event]:
        return ()

    def idle(self) -> Comment:
        return KEEP_ALIVE

    def feed(self, choice: int, deltas: Sequence[Delta]) -> Sequence[Event]:
        if choice not in self._choices:
            self._choices[choice] = self._chunks(choice)
        return [Event(chunk) for chunk in self._choices[choice].feed(deltas)]

    def close(self, tokens: Tokens) -> Sequence[Event]:
        if not self._head.with_usage:
            return (DONE,)
        model = next(iter(self._choices.values())).model
        return Event(self._usage_chunk(model, tokens)), DONE

    def fail(self, failure: Failure) -> Sequence[Event]:
        return (Event(envelope(failure, PARAMS)),)

    @abstractmethod
    def _usage_chunk(self, model: str, tokens: Tokens) -> Struct:
        """The chunk after the last choice, for clients that asked with `stream_options.include_usage`."""

    @abstractmethod
    def whole(self, answers: Sequence[Answer], tokens: Tokens) -> Any: ...
