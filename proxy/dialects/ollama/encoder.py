"""Deltas → lines of Ollama's stream, and the whole answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import UNSET, Struct

from proxy.dialects import Event, Identity
from proxy.dialects.ollama.errors import error
from proxy.dialects.ollama.types import Call, ChatLine, DoneReason, Function, GenerateLine, Message
from proxy.protocol.answer import Answer, CallPart
from proxy.protocol.deltas import (
    Arguments,
    Delta,
    Finished,
    Reason,
    Refusal,
    Started,
    Text,
    Thinking,
    Tokens,
    ToolCall,
    ToolEnd,
)
from proxy.protocol.failures import Failure
from proxy.protocol.history import argument_object

DONE_REASONS: Final[dict[Reason, DoneReason]] = {
    Reason.END_TURN: "stop",
    Reason.STOP_SEQUENCE: "stop",
    Reason.PAUSE_TURN: "stop",
    Reason.TOOL_USE: "stop",
    Reason.MAX_TOKENS: "length",
    Reason.CONTEXT_WINDOW: "length",
    Reason.REFUSAL: "refusal",
}


def moment(seconds: float) -> str:
    """A time, given in seconds since 1970, in RFC 3339 with a fraction."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class OllamaEncoder:
    """One request's answer. `chat`: it has messages, and no `response`; `model`: as the client named it.

    `thinking`: it is shown. `unload`: an answer without any of the model says that it was unloaded, not loaded.
    """

    def __init__(self, identity: Identity, model: str, *, chat: bool, thinking: bool, unload: bool = False) -> None:
        self._timing = identity.timing
        self._model = model
        self._chat = chat
        self._thinking = thinking
        self._unload = unload
        self._answering = ""
        # The call under way, with the pieces of its arguments: calls go out whole.
        self._call: tuple[ToolCall, list[str]] | None = None
        self._reason = Reason.END_TURN

    def open(self) -> Sequence[Event]:
        return ()

    def idle(self) -> Event:
        """A line that says nothing, as Ollama sends them."""
        return self._line()

    def feed(self, choice: int, deltas: Sequence[Delta]) -> Sequence[Event]:
        out: list[Event] = []
        for delta in deltas:
            if isinstance(delta, Text | Refusal):
                out.append(self._line(delta.text))
            elif isinstance(delta, Thinking):
                if self._thinking:
                    out.append(self._line(thinking=delta.text))
            elif isinstance(delta, Arguments):
                if self._call is not None:
                    self._call[1].append(delta.text)
            elif isinstance(delta, ToolCall):
                self._end_call(out)
                self._call = (delta, [])
            elif isinstance(delta, ToolEnd):
                self._end_call(out)
            elif isinstance(delta, Started):
                self._answering = delta.model
            elif isinstance(delta, Finished):
                self._end_call(out)
                self._reason = delta.reason
        return out

    def close(self, tokens: Tokens) -> Sequence[Event]:
        return (self._line(**self._ending(tokens, self._reason)),)

    def fail(self, failure: Failure) -> Sequence[Event]:
        return (Event(error(failure)),)

    def whole(self, answers: Sequence[Answer], tokens: Tokens) -> Struct:
        """Without an answer the model was only to be loaded: there is nothing to measure or count."""
        if not answers:
            return self._value("", "", (), done=True, done_reason="unload" if self._unload else "load")
        (answer,) = answers
        self._answering = answer.model
        return self._value(
            answer.text + (answer.refusal or ""),
            answer.thinking if self._thinking else "",
            tuple(_call(index, call) for index, call in enumerate(answer.calls)),
            **self._ending(tokens, answer.reason or Reason.END_TURN),
        )

    def _end_call(self, out: list[Event]) -> None:
        """A line for each call, as Ollama sends them: some clients take what is in one line for one call."""
        if self._call is not None:
            call, pieces = self._call
            self._call = None
            whole = _call(call.tool_index, CallPart(call.id, call.name, "".join(pieces)))
            out.append(self._line(calls=(whole,)))

    def _line(self, text: str = "", thinking: str = "", calls: tuple[Call, ...] = (), **ending: Any) -> Event:
        return Event(self._value(text, thinking, calls, **{"done": False, **ending}))

    def _value(self, text: str, thinking: str, calls: tuple[Call, ...], **rest: Any) -> ChatLine | GenerateLine:
        timing = self._timing()
        head: dict[str, Any] = {
            "model": self._model,
            "remote_model": self._answering or UNSET,
            "created_at": moment(timing.began + timing.seconds),
        }
        if not self._chat:
            return GenerateLine(response=text, thinking=thinking or UNSET, **head, **rest)
        message = Message(content=text, thinking=thinking or UNSET, tool_calls=calls or UNSET)
        return ChatLine(message=message, **head, **rest)

    def _ending(self, tokens: Tokens, reason: Reason) -> dict[str, Any]:
        timing = self._timing()
        first = timing.seconds if timing.first is None else timing.first
        return {
            "done": True,
            "done_reason": DONE_REASONS[reason],
            "total_duration": _nanoseconds(timing.seconds),
            "load_duration": 0,
            "prompt_eval_count": tokens.prompt,
            "prompt_eval_duration": _nanoseconds(first),
            "eval_count": tokens.output,
            "eval_duration": _nanoseconds(timing.seconds - first),
        }


def _nanoseconds(seconds: float) -> int:
    """Never nothing: clients divide by it."""
    return max(1, round(seconds * 1e9))


def _call(index: int, call: CallPart) -> Call:
    return Call(call.id, index, Function(index, call.name, argument_object(call.arguments)))
