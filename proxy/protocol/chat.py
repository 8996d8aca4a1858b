"""OpenAI's chat completion as types; deltas → chunks, and chunks → completion.

The whole answer is the fold of the streamed one: both are made here, and nowhere else.
Key order and presence follow what api.openai.com sends (wire notes, "Chat completions: what the real API sends").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from proxy.protocol.plan import PLAIN_CALLS, CallStyle
from proxy.protocol.turn import (
    Arguments,
    Delta,
    Finished,
    Refusal,
    Started,
    Text,
    Thinking,
    Tokens,
    ToolCall,
    ToolEnd,
)


class PromptDetails(Struct, frozen=True):
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    audio_tokens: int = 0


class CompletionDetails(Struct, frozen=True):
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(Struct, frozen=True):
    """`prompt_tokens` is all input; `cached_tokens` the part read from the cache, `cache_write_tokens` put into it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


def usage_of(tokens: Tokens) -> Usage:
    return Usage(
        tokens.prompt,
        tokens.output,
        tokens.prompt + tokens.output,
        PromptDetails(cached_tokens=tokens.cache_read, cache_write_tokens=tokens.cache_write),
        CompletionDetails(reasoning_tokens=tokens.reasoning),
    )


class FunctionPiece(Struct, frozen=True):
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class CustomPiece(Struct, frozen=True):
    name: str | UnsetType = UNSET
    input: str | UnsetType = UNSET


class CallPiece(Struct, frozen=True):
    """A piece of one call. Only the first has `id`, `type` and the name: clients double what is said again."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function", "custom"] | UnsetType = UNSET
    function: FunctionPiece | UnsetType = UNSET
    custom: CustomPiece | UnsetType = UNSET


class ChunkDelta(Struct, frozen=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    refusal: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    function_call: FunctionPiece | UnsetType = UNSET
    tool_calls: tuple[CallPiece, ...] | UnsetType = UNSET


FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class ChunkChoice(Struct, frozen=True):
    index: int
    delta: ChunkDelta
    logprobs: None = None
    finish_reason: FinishReason | None = None


class Chunk(Struct, frozen=True, kw_only=True):
    """One `chat.completion.chunk`. `choices` is empty in the usage chunk alone."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    service_tier: Literal["default"] = "default"
    system_fingerprint: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | UnsetType | None = UNSET


class Function(Struct, frozen=True):
    name: str
    arguments: str


class Custom(Struct, frozen=True):
    name: str
    input: str


class Call(Struct, frozen=True):
    """`function` or `custom`, as `type` says."""

    id: str
    type: Literal["function", "custom"]
    function: Function | UnsetType = UNSET
    custom: Custom | UnsetType = UNSET


class Message(Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    annotations: tuple[()] = ()
    reasoning_content: str | UnsetType = UNSET
    function_call: Function | UnsetType = UNSET
    tool_calls: tuple[Call, ...] | UnsetType = UNSET


class Choice(Struct, frozen=True):
    index: int
    message: Message
    logprobs: None
    finish_reason: FinishReason


class Completion(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    service_tier: Literal["default"] = "default"
    system_fingerprint: str
    choices: tuple[Choice, ...]
    usage: Usage


class Identity(Struct, frozen=True):
    """What all chunks of one answer share; made once, at the HTTP edge. `created`: seconds since 1970."""

    id: str
    created: int
    fingerprint: str
    with_usage: bool = False


_ROLE: Final = ChunkDelta(role="assistant", content="", refusal=None)


class _CustomInput(Struct, frozen=True):
    input: str


_custom_input: Final = msgspec.json.Decoder(_CustomInput)


def custom_input(arguments: str) -> str:
    """The free text of a custom call. What a model wrote that is not of the tool's shape is handed on as it is."""
    try:
        return _custom_input.decode(arguments).input
    except (ValueError, RecursionError):
        return arguments


class Chunks:
    """Deltas of one choice in, chunks out, up to the one with the `finish_reason`.

    A `Failed` delta makes no chunk: what is said of it depends on what has gone out.
    """

    __slots__ = ("_choice_index", "_custom", "_fresh", "_identity", "_style", "_thinking", "model")

    def __init__(
        self, identity: Identity, choice_index: int = 0, style: CallStyle = PLAIN_CALLS, *, thinking: bool = True
    ) -> None:
        self._identity = identity
        self._choice_index = choice_index
        self._style = style
        self._thinking = thinking
        self._fresh = True
        # Arguments of custom calls under way, which go out unwrapped when they are complete.
        self._custom: dict[int, list[str]] = {}
        self.model = ""

    def feed(self, deltas: Iterable[Delta]) -> list[Chunk]:
        out: list[Chunk] = []
        for delta in deltas:
            if isinstance(delta, Text):
                self._head(out)
                out.append(self._chunk(ChunkDelta(content=delta.text)))
            elif isinstance(delta, Arguments):
                self._arguments(delta, out)
            elif isinstance(delta, Thinking) and self._thinking:
                self._head(out)
                out.append(self._chunk(ChunkDelta(reasoning_content=delta.text)))
            elif isinstance(delta, ToolCall):
                self._call(delta, out)
            elif isinstance(delta, ToolEnd):
                if delta.tool_index in self._custom:
                    text = custom_input("".join(self._custom.pop(delta.tool_index)))
                    piece = CallPiece(delta.tool_index, custom=CustomPiece(input=text))
                    out.append(self._chunk(ChunkDelta(tool_calls=(piece,))))
            elif isinstance(delta, Refusal):
                self._refusal(delta.text, out)
            elif isinstance(delta, Started):
                self.model = delta.model
            elif isinstance(delta, Finished):
                self._head(out)
                reason: FinishReason = delta.reason.value
                if self._style.legacy and reason == "tool_calls":
                    reason = "function_call"
                out.append(self._chunk(ChunkDelta(), reason))
        return out

    def _call(self, call: ToolCall, out: list[Chunk]) -> None:
        """The first piece of a call; when nothing went before it, in one delta with the role."""
        role: Literal["assistant"] | UnsetType = "assistant" if self._fresh else UNSET
        content = None if self._fresh else UNSET
        self._fresh = False
        if self._style.legacy:
            if call.tool_index == 0:
                head = FunctionPiece(call.name, "")
                out.append(self._chunk(ChunkDelta(role=role, content=content, function_call=head)))
            return
        if call.name in self._style.custom:
            self._custom[call.tool_index] = []
            piece = CallPiece(call.tool_index, call.id, "custom", custom=CustomPiece(call.name, ""))
        else:
            piece = CallPiece(call.tool_index, call.id, "function", FunctionPiece(call.name, ""))
        out.append(self._chunk(ChunkDelta(role=role, content=content, tool_calls=(piece,))))

    def _arguments(self, arguments: Arguments, out: list[Chunk]) -> None:
        if arguments.tool_index in self._custom:
            self._custom[arguments.tool_index].append(arguments.text)
            return
        function = FunctionPiece(arguments=arguments.text)
        if not self._style.legacy:
            piece = CallPiece(arguments.tool_index, function=function)
            out.append(self._chunk(ChunkDelta(tool_calls=(piece,))))
        elif arguments.tool_index == 0:
            out.append(self._chunk(ChunkDelta(function_call=function)))

    def _refusal(self, text: str, out: list[Chunk]) -> None:
        if self._fresh:
            self._fresh = False
            out.append(self._chunk(ChunkDelta(role="assistant", content=None, refusal="")))
        out.append(self._chunk(ChunkDelta(refusal=text)))

    def _head(self, out: list[Chunk]) -> None:
        if self._fresh:
            self._fresh = False
            out.append(self._chunk(_ROLE))

    def _chunk(self, delta: ChunkDelta, finish_reason: FinishReason | None = None) -> Chunk:
        choice = ChunkChoice(self._choice_index, delta, None, finish_reason)
        return _chunk(self._identity, self.model, (choice,), None)


def _chunk(identity: Identity, model: str, choices: tuple[ChunkChoice, ...], usage: Usage | None) -> Chunk:
    return Chunk(
        id=identity.id,
        created=identity.created,
        model=model,
        system_fingerprint=identity.fingerprint,
        choices=choices,
        usage=usage if identity.with_usage else UNSET,
    )


def usage_chunk(identity: Identity, model: str, tokens: Tokens) -> Chunk:
    """The chunk after the last choice, for clients that asked with `stream_options.include_usage`."""
    return _chunk(identity, model, (), usage_of(tokens))


class _WholeCall:
    """One call while it is folded."""

    __slots__ = ("id", "name", "pieces", "type")

    def __init__(self, id: str, type: Literal["function", "custom"], name: str) -> None:
        self.id = id
        self.type: Literal["function", "custom"] = type
        self.name = name
        self.pieces: list[str] = []

    def call(self) -> Call:
        text = "".join(self.pieces)
        if self.type == "custom":
            return Call(self.id, "custom", custom=Custom(self.name, text))
        return Call(self.id, "function", Function(self.name, text))


class _Whole:
    """One choice while it is folded."""

    __slots__ = ("calls", "content", "finish_reason", "legacy", "refusal", "thinking")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.refusal: list[str] = []
        self.thinking: list[str] = []
        self.calls: list[_WholeCall] = []
        self.legacy: _WholeCall | None = None
        self.finish_reason: FinishReason = "stop"

    def take(self, delta: ChunkDelta) -> None:
        if delta.content:
            self.content.append(delta.content)
        if delta.refusal:
            self.refusal.append(delta.refusal)
        if delta.reasoning_content:
            self.thinking.append(delta.reasoning_content)
        if delta.function_call:
            if self.legacy is None:
                self.legacy = _WholeCall("", "function", delta.function_call.name or "")
            self.legacy.pieces.append(delta.function_call.arguments or "")
        for piece in delta.tool_calls or ():
            function, custom = piece.function or FunctionPiece(), piece.custom or CustomPiece()
            if piece.id:
                self.calls.append(_WholeCall(piece.id, piece.type or "function", function.name or custom.name or ""))
            self.calls[piece.index].pieces.append(function.arguments or custom.input or "")

    def choice(self, index: int) -> Choice:
        text = "".join(self.content)
        message = Message(
            content=None if (self.calls or self.legacy or self.refusal) and not text else text,
            refusal="".join(self.refusal) if self.refusal else None,
            reasoning_content="".join(self.thinking) if self.thinking else UNSET,
            function_call=(self.legacy and self.legacy.call().function) or UNSET,
            tool_calls=tuple(call.call() for call in self.calls) or UNSET,
        )
        return Choice(index, message, None, self.finish_reason)


def fold(chunks: Iterable[Chunk], tokens: Tokens) -> Completion:
    """The completion that the chunks of one answer (all its choices) add up to. Needs at least one chunk."""
    whole: dict[int, _Whole] = {}
    first: Chunk | None = None
    for chunk in chunks:
        first = first or chunk
        for choice in chunk.choices:
            part = whole.setdefault(choice.index, _Whole())
            part.take(choice.delta)
            if choice.finish_reason is not None:
                part.finish_reason = choice.finish_reason
    assert first is not None
    return Completion(
        id=first.id,
        created=first.created,
        model=first.model,
        system_fingerprint=first.system_fingerprint,
        choices=tuple(part.choice(index) for index, part in sorted(whole.items())),
        usage=usage_of(tokens),
    )
