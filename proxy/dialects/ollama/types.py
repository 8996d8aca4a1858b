"""Ollama's answers as types: a line of a stream, and the whole answer, which has the same form."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Raw, Struct, UnsetType

DoneReason = Literal["stop", "length", "refusal", "load", "unload"]


class Function(Struct, frozen=True):
    """`arguments` is a JSON object."""

    index: int
    name: str
    arguments: Raw


class Call(Struct, frozen=True):
    """`index`: as the function's; some clients look for it here, and else count the calls within a line."""

    id: str
    index: int
    function: Function


class Message(Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: tuple[Call, ...] | UnsetType = UNSET


class Line(Struct, frozen=True, kw_only=True):
    """`model`: as the client named it; `remote_model`: the one that answers. `created_at`: RFC 3339.

    Only the end has the rest. Durations in nanoseconds: of all, of the wait for the first of the answer
    (`prompt_eval`), of the answer (`eval`); counts in tokens.
    """

    model: str
    remote_model: str | UnsetType = UNSET
    created_at: str
    done: bool
    done_reason: DoneReason | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class ChatLine(Line, frozen=True, kw_only=True):
    """A line of a streamed chat, or all of one that is not streamed."""

    message: Message


class GenerateLine(Line, frozen=True, kw_only=True):
    """The same of an answer to a prompt."""

    response: str
    thinking: str | UnsetType = UNSET


class ErrorLine(Struct, frozen=True):
    """An error: as a body with its status, or the last line of a stream that failed."""

    error: str
