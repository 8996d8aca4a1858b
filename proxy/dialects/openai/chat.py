"""`POST /v1/chat/completions`: deltas → chunks, and the whole answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final, Literal

from msgspec import UNSET, Struct, UnsetType

from proxy.dialects import ErrorReply, Framing, Identity, Request, Rules, SignedForm
from proxy.dialects.openai import chat_by_responses, chat_request
from proxy.dialects.openai.chat_types import (
    Annotation,
    AnswerHead,
    Call,
    CallPiece,
    Choice,
    Chunk,
    ChunkChoice,
    ChunkDelta,
    Completion,
    Custom,
    CustomPiece,
    FinishReason,
    Function,
    FunctionPiece,
    Message,
    Usage,
    annotation,
    usage_of,
)
from proxy.dialects.openai.errors import reply
from proxy.dialects.openai.signed import Pieces, Signed
from proxy.dialects.openai.stream import PARAMS, ChunkEncoder
from proxy.dialects.openai.tools import PLAIN_CALLS, CallStyle
from proxy.protocol.answer import Answer, CallPart
from proxy.protocol.citations import Joined
from proxy.protocol.deltas import (
    Arguments,
    Citation,
    Delta,
    Finished,
    Reason,
    RedactedThinking,
    Refusal,
    Signature,
    Started,
    Text,
    Thinking,
    Tokens,
    ToolCall,
    ToolEnd,
)
from proxy.protocol.failures import Failure, Rejection
from proxy.protocol.tools import custom_input

FINISH_REASONS: Final[dict[Reason, Literal["stop", "length", "tool_calls", "content_filter"]]] = {
    Reason.END_TURN: "stop",
    Reason.STOP_SEQUENCE: "stop",
    Reason.PAUSE_TURN: "stop",
    Reason.MAX_TOKENS: "length",
    Reason.CONTEXT_WINDOW: "length",
    Reason.TOOL_USE: "tool_calls",
    Reason.REFUSAL: "content_filter",
}
_ROLE: Final = ChunkDelta(role="assistant", content="", refusal=None)


def finish_reason(reason: Reason, style: CallStyle) -> FinishReason:
    if reason is Reason.TOOL_USE and style.legacy:
        return "function_call"
    return FINISH_REASONS[reason]


class Chunks:
    """Deltas of one choice in, chunks out, up to the one with the `finish_reason`.

    A `Failed` delta makes no chunk: what is said of it depends on what has gone out.
    """

    __slots__ = (
        "_choice_index",
        "_cited",
        "_custom",
        "_fresh",
        "_joined",
        "_shared",
        "_signed",
        "_style",
        "_thinking",
        "model",
    )

    def __init__(
        self,
        head: AnswerHead,
        choice_index: int = 0,
        style: CallStyle = PLAIN_CALLS,
        *,
        thinking: bool = True,
        signed: SignedForm | None = None,
    ) -> None:
        self._shared = head
        self._choice_index = choice_index
        self._style = style
        self._thinking = thinking
        self._signed = Signed(signed if thinking else None)
        self._fresh = True
        self._joined = Joined()
        self._cited: list[Annotation] = []
        # Arguments of custom calls under way, which go out unwrapped when they are complete.
        self._custom: dict[int, list[str]] = {}
        self.model = ""

    def feed(self, deltas: Iterable[Delta]) -> list[Chunk]:
        out: list[Chunk] = []
        for delta in deltas:
            self._joined.take(delta)
            if isinstance(delta, Text):
                self._head(out)
                out.append(self._chunk(ChunkDelta(content=delta.text)))
            elif isinstance(delta, Arguments):
                self._arguments(delta, out)
            elif isinstance(delta, Thinking | Signature | RedactedThinking):
                self._thought(delta, out)
            elif isinstance(delta, ToolCall):
                self._call(delta, out)
            elif isinstance(delta, ToolEnd):
                if delta.tool_index in self._custom:
                    text = custom_input("".join(self._custom.pop(delta.tool_index)))
                    piece = CallPiece(delta.tool_index, custom=CustomPiece(input=text))
                    out.append(self._chunk(ChunkDelta(tool_calls=(piece,))))
            elif isinstance(delta, Citation):
                self._cited.append(annotation(self._joined.place(delta)))
            elif isinstance(delta, Refusal):
                self._refusal(delta.text, out)
            elif isinstance(delta, Started):
                self.model = delta.model
            elif isinstance(delta, Finished):
                self._head(out)
                if self._cited:
                    # All at once: OpenAI's client cannot fold a list that comes in pieces.
                    out.append(self._chunk(ChunkDelta(annotations=tuple(self._cited))))
                out.append(self._chunk(ChunkDelta(), finish_reason(delta.reason, self._style)))
        return out

    def _thought(self, delta: Thinking | Signature | RedactedThinking, out: list[Chunk]) -> None:
        pieces = self._signed.piece(delta) or Pieces()
        text = delta.text if self._thinking and isinstance(delta, Thinking) else UNSET
        if text is UNSET and pieces == Pieces():
            return
        self._head(out)
        piece = ChunkDelta(
            reasoning_content=text,
            thinking_blocks=pieces.thinking_blocks,
            reasoning_details=pieces.reasoning_details,
        )
        out.append(self._chunk(piece))

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
        return _chunk(self._shared, self.model, (choice,), None)


def _chunk(head: AnswerHead, model: str, choices: tuple[ChunkChoice, ...], usage: Usage | None) -> Chunk:
    return Chunk(
        id=head.id,
        created=head.created,
        model=model,
        system_fingerprint=head.fingerprint,
        choices=choices,
        usage=usage if head.with_usage else UNSET,
    )


def usage_chunk(head: AnswerHead, model: str, tokens: Tokens) -> Chunk:
    """The chunk after the last choice, for clients that asked with `stream_options.include_usage`."""
    return _chunk(head, model, (), usage_of(tokens))


def whole_message(
    answer: Answer, style: CallStyle = PLAIN_CALLS, *, thinking: bool = True, signed: SignedForm | None = None
) -> Message:
    """The message of one choice."""
    calls = answer.calls
    pieces = Signed(signed if thinking else None).whole(answer)
    legacy = Function(calls[0].name, calls[0].arguments) if style.legacy and calls else UNSET
    return Message(
        content=answer.text or (None if calls or answer.refusal else ""),
        refusal=answer.refusal or None,
        annotations=tuple(map(annotation, answer.citations)),
        reasoning_content=(thinking and answer.thinking) or UNSET,
        thinking_blocks=pieces.thinking_blocks,
        reasoning_details=pieces.reasoning_details,
        function_call=legacy,
        tool_calls=UNSET if style.legacy or not calls else tuple(_whole_call(call, style) for call in calls),
    )


def _whole_call(call: CallPart, style: CallStyle) -> Call:
    if call.name in style.custom:
        return Call(call.id, "custom", custom=Custom(call.name, custom_input(call.arguments)))
    return Call(call.id, "function", Function(call.name, call.arguments))


class ChatEncoder(ChunkEncoder):
    """One request's answer, all its choices."""

    def __init__(
        self,
        head: AnswerHead,
        style: CallStyle = PLAIN_CALLS,
        *,
        thinking: bool = True,
        signed: SignedForm | None = None,
    ) -> None:
        super().__init__(head, lambda choice: Chunks(head, choice, style, thinking=thinking, signed=signed))
        self._style = style
        self._thinking = thinking
        self._signed: SignedForm | None = signed

    def _usage_chunk(self, model: str, tokens: Tokens) -> Chunk:
        return usage_chunk(self._head, model, tokens)

    def whole(self, answers: Sequence[Answer], tokens: Tokens) -> Struct:
        choices = (
            Choice(
                index,
                whole_message(answer, self._style, thinking=self._thinking, signed=self._signed),
                None,
                finish_reason(answer.reason or Reason.END_TURN, self._style),
            )
            for index, answer in enumerate(answers)
        )
        return Completion(
            id=self._head.id,
            created=self._head.created,
            model=answers[0].model,
            system_fingerprint=self._head.fingerprint,
            choices=tuple(choices),
            usage=usage_of(tokens),
        )


def _encoder(request: chat_request.ChatPlan, rules: Rules, identity: Identity) -> ChatEncoder:
    head = AnswerHead(
        f"chatcmpl-{identity.token}", identity.created, identity.fingerprint, with_usage=request.include_usage
    )
    return ChatEncoder(head, request.style, thinking=rules.reasoning and request.shown, signed=rules.signed)


def _asked(body: bytes, rules: Rules) -> chat_request.ChatPlan:
    """The request, in either of OpenAI's forms. Raises Rejection."""
    try:
        return chat_request.decode(body, rules)
    except Rejection:
        asked = chat_by_responses.decode(body, rules)
        if asked is None:
            raise
        return asked


class Chat:
    """The dialect."""

    name: Final = "openai-chat"
    framing: Final = Framing.SSE

    def decode(self, body: bytes, rules: Rules) -> Request:
        asked = _asked(body, rules)
        return Request(
            asked.model,
            (asked.plan,) * asked.n,
            asked.stream,
            partial(_encoder, asked, rules),
            asked.stop,
            asked.ignored,
            to_disk=asked.to_disk,
        )

    def error(self, failure: Failure, now: float, request_id: str) -> ErrorReply:
        return reply(failure, now, PARAMS)
