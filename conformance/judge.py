"""What every answer of OpenAI's completions has to satisfy: shapes from the `openai` package's types, and stream laws.

Unknown fields are forbidden, but for the `EXTENSIONS` that are declared here. What the types leave optional but the
real API always sends, and clients read, is in `ALWAYS`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from openai.pagination import SyncPage
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from conformance.shapes import Shapes

URL_CITATION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"const": "url_citation"},
        "url_citation": {
            "type": "object",
            "properties": {
                "start_index": {"type": "integer"},
                "end_index": {"type": "integer"},
                "title": {"type": "string"},
                "url": {"type": "string"},
            },
            "required": ["start_index", "end_index", "title", "url"],
            "additionalProperties": False,
        },
    },
    "required": ["type", "url_citation"],
    "additionalProperties": False,
}
# What may be sent beyond the types, by the type's name, and who reads it.
EXTENSIONS: dict[str, dict[str, Any]] = {
    "ChatCompletionMessage": {"reasoning_content": {"type": "string"}},
    # OpenAI's models that search send annotations in their streams, as those of a whole message; clients read them.
    "ChoiceDelta": {"reasoning_content": {"type": "string"}, "annotations": {"type": "array", "items": URL_CITATION}},
    # The package has no type for a piece of a custom call; it follows that of the whole call.
    "ChoiceDeltaToolCall": {
        "type": {"enum": ["function", "custom"]},
        "custom": {"properties": {"name": {"type": "string"}, "input": {"type": "string"}}},
    },
    "Model": {"context_length": {"type": "integer"}, "max_completion_tokens": {"type": "integer"}},
}
# Fields that api.openai.com always sends, although the types do not require them.
ALWAYS = {
    "ChatCompletionMessage": ["content", "refusal", "annotations"],
    "ChatCompletion": ["usage", "system_fingerprint"],
    "CompletionUsage": ["prompt_tokens_details", "completion_tokens_details"],
    "ChatCompletionChunk": ["system_fingerprint"],
    "ChatCompletionMessageFunctionToolCall": ["id", "function", "type"],
}
ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string", "minLength": 1},
                "type": {"type": "string", "minLength": 1},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
        }
    },
    "required": ["error"],
    "additionalProperties": False,
}
TYPES: dict[str, Any] = {
    "completion": ChatCompletion,
    "chunk": ChatCompletionChunk,
    "text completion": Completion,
    "text chunk": Completion,
    "model": Model,
    "models": SyncPage[Model],
}


class _Openai(Shapes):
    def schema(self, kind: str) -> dict[str, Any]:
        whole = super().schema(kind)
        if kind == "text chunk":
            # One type for both, but only the last chunk of a choice has a reason.
            choice = whole["$defs"]["CompletionChoice"]["properties"]
            choice["finish_reason"] = {"anyOf": [choice["finish_reason"], {"type": "null"}]}
        return whole


SHAPES = _Openai(TYPES, extensions=EXTENSIONS, always=ALWAYS, schemas={"error": ERROR})
misshapen = SHAPES.misshapen


class Stream(msgspec.Struct, frozen=True):
    """An event stream as it came: its lines, the values of its `data` lines, and whether `[DONE]` came."""

    lines: tuple[str, ...]
    chunks: tuple[dict[str, Any], ...]
    done: bool

    @property
    def error(self) -> dict[str, Any] | None:
        """The error that ended it, if one did."""
        last = self.chunks[-1] if self.chunks else {}
        found: dict[str, Any] | None = last.get("error")
        return found


def read_stream(text: str) -> tuple[Stream, list[str]]:
    """The stream that a body holds, and what of it is not as an event stream has to be."""
    wrong: list[str] = []
    chunks: list[dict[str, Any]] = []
    done = False
    lines = tuple(text.split("\n"))
    for line in lines:
        if line.startswith(":") or not line:
            continue
        if not line.startswith("data: "):
            wrong.append(f"a line that is neither data nor comment: {line[:80]!r}")
        elif done:
            wrong.append(f"something after [DONE]: {line[:80]!r}")
        elif line == "data: [DONE]":
            done = True
        else:
            try:
                value = json.loads(line[6:])
            except ValueError:
                value = None
            if isinstance(value, dict):
                chunks.append(value)
            else:
                wrong.append(f"an event that is no JSON object: {line[:80]!r}")
    if not text.endswith("\n\n"):
        wrong.append("the last event is not ended by an empty line")
    return Stream(lines, tuple(chunks), done), wrong


def unlawful(stream: Stream, *, usage: bool, kind: str = "chunk") -> list[str]:
    """What of a stream breaks the laws. `usage`: it was asked for."""
    wrong = list(_chunks(stream, kind))
    good = [chunk for chunk in stream.chunks if not misshapen(kind, chunk)]
    if stream.error is not None:
        wrong += misshapen("error", stream.chunks[-1])
        if stream.done:
            wrong.append("[DONE] after an error")
    elif not stream.done:
        wrong.append("no [DONE] at the end")
    for key in ("id", "created", "model", "system_fingerprint"):
        if len({json.dumps(chunk.get(key)) for chunk in good}) > 1:
            wrong.append(f"{key} changes from chunk to chunk")
    wrong += _usage(good, usage, complete=stream.error is None)
    for index in sorted({choice["index"] for chunk in good for choice in chunk["choices"]}):
        choices = [choice for chunk in good for choice in chunk["choices"] if choice["index"] == index]
        reasons = [choice.get("finish_reason") for choice in choices]
        wrong += _reasons(index, reasons, complete=stream.error is None)
        if kind == "chunk":
            wrong += _deltas(index, [choice["delta"] for choice in choices])
    return wrong


def _chunks(stream: Stream, kind: str) -> Iterator[str]:
    if not stream.chunks:
        yield "no event at all"
    for number, chunk in enumerate(stream.chunks):
        if "error" in chunk:
            if number != len(stream.chunks) - 1:
                yield f"events after the error in event {number}"
            continue
        yield from (f"event {number}: {line}" for line in misshapen(kind, chunk))


def _usage(chunks: Sequence[Mapping[str, Any]], asked: bool, *, complete: bool) -> Iterator[str]:
    said = [chunk for chunk in chunks if chunk.get("usage")]
    empty = [chunk for chunk in chunks if not chunk["choices"]]
    if asked and complete:
        if [chunk for chunk in chunks[-1:] if chunk.get("usage") and not chunk["choices"]] != said or said != empty:
            yield "usage is not in one last chunk without choices, and there alone"
    elif not asked and (said or empty):
        yield "usage, or a chunk without choices, that nobody asked for"


def _reasons(index: int, reasons: Sequence[str | None], *, complete: bool) -> Iterator[str]:
    given = [reason for reason in reasons if reason]
    if complete and (len(given) != 1 or not reasons[-1]):
        yield f"choice {index}: finish_reason is not in its last chunk, and there alone: {reasons}"
    elif not complete and given and index == 0 and reasons[-1] != given[-1]:
        yield f"choice {index}: content after finish_reason"


def _deltas(index: int, deltas: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    roles = [delta.get("role") for delta in deltas]
    if roles[0] != "assistant" or any(roles[1:]):
        yield f"choice {index}: the role is not in the first chunk, and there alone"
    if not any(key in deltas[0] for key in ("content", "tool_calls", "function_call")):
        yield f"choice {index}: the first chunk has neither content nor a call"
    seen: dict[int, str] = {}
    for delta in deltas:
        for piece in delta.get("tool_calls") or ():
            yield from _piece(index, piece, seen)


def _piece(index: int, piece: Mapping[str, Any], seen: dict[int, str]) -> Iterator[str]:
    """A piece of a call: the first has id, type and name, no other has."""
    at, sort = piece["index"], piece.get("type") or seen.get(piece["index"], "")
    inner = piece.get(sort) or {}
    if at not in seen:
        if at != len(seen):
            yield f"choice {index}: calls are not counted from 0: {at} after {sorted(seen)}"
        if not (piece.get("id") and piece.get("type") and inner.get("name")):
            yield f"choice {index}, call {at}: the first piece has no id, type or name"
        seen[at] = sort
    elif piece.get("id") or "type" in piece or inner.get("name"):
        yield f"choice {index}, call {at}: id, type or name are said again"


def whole_arguments(calls: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Calls of functions whose arguments are not the text of a JSON object."""
    for call in calls:
        text = (call.get("function") or {}).get("arguments", "{}")
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            yield f"the arguments are not a JSON object: {text[:80]!r}"
