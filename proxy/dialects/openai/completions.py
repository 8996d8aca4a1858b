"""OpenAI's legacy text completion (`POST /v1/completions`), for editors that complete as you type.

Claude has no such mode: the prompt is put as a message, with an instruction to go on with it and nothing else. Shapes:
`openai.types.completion_create_params` and `openai.types.completion` of the package `openai`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from proxy.dialects import RULES, ErrorReply, Framing, Identity, Request, Rules, parameters
from proxy.dialects.described import Model, NoEffect, Share, Temperature, TokenLimit, documented
from proxy.dialects.openai.chat_body import MAX_CHOICES, Count, Stop, StreamOptions
from proxy.dialects.openai.chat_request import HOTTEST, count_of, limit_of, stops_of
from proxy.dialects.openai.chat_types import AnswerHead, Usage, usage_of
from proxy.dialects.openai.errors import reply
from proxy.dialects.openai.stream import PARAMS, ChunkEncoder
from proxy.dialects.parameters import Ignored
from proxy.dialects.undeclared import Undeclared
from proxy.protocol.answer import Answer
from proxy.protocol.decoding import decoded
from proxy.protocol.deltas import Delta, Finished, Reason, Refusal, Started, Text, Tokens
from proxy.protocol.failures import Failure, bad_request
from proxy.protocol.plan import Message, Plan, TextBlock

COMPLETE: Final = (
    "Continue the text that the user gives, from exactly where it ends. Answer with the continuation alone: no "
    "introduction, no repetition, no quotation marks or code fences around it."
)
FILL: Final = (
    "The user gives two pieces of a text with a gap between them. Answer with what belongs into the gap alone: no "
    "introduction, no repetition of either piece, no quotation marks or code fences around it."
)


_Text = Annotated[str, documented(minLength=1)]
_Texts = Annotated[list[Annotated[str, documented(pattern=r"\S")]], documented(minItems=1, maxItems=MAX_CHOICES)]


class CompletionRequest(Struct, frozen=True):
    """The body, field by field; unknown fields are named as ignored."""

    model: Model
    prompt: _Text | _Texts
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenLimit | None = None
    n: Count | None = None
    best_of: Annotated[int, documented("Not above `n`.", maximum=1)] | None = None
    echo: Annotated[bool, documented(const=False)] | None = None
    stop: Stop | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    frequency_penalty: NoEffect = None
    logit_bias: NoEffect = None
    logprobs: NoEffect = None
    presence_penalty: NoEffect = None
    seed: NoEffect = None
    user: NoEffect = None


IGNORED: Final[Ignored] = {
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "presence_penalty": (0,),
    "seed": (),
    "user": (),
}


class Completions(Struct, frozen=True):
    """A request: one plan for every choice, prompt by prompt."""

    plans: tuple[Plan, ...]
    model: str
    stream: bool
    include_usage: bool
    ignored: tuple[str, ...]
    stop: tuple[str, ...]


_request_decoder: Final = msgspec.json.Decoder(CompletionRequest)
_undeclared: Final = Undeclared(CompletionRequest, {"stream_options.include_obfuscation": (False,)})


def decode(body: bytes, rules: Rules = RULES) -> Completions:
    """The request that `body` holds, under the server's rules. Raises `Rejection`."""
    asked = decoded(_request_decoder, body, "")
    if not asked.model.strip():
        raise bad_request("A model must be named.", "model")
    if asked.echo:
        raise bad_request("The prompt cannot be given back with the answer.", "echo")
    n = count_of(asked.n)
    if asked.best_of is not None and asked.best_of > n:
        raise bad_request("Answers beyond `n` cannot be made and compared.", "best_of")
    texts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if not texts or not all(text.strip() for text in texts):
        raise bad_request("A prompt must not be empty.", "prompt")
    if len(texts) * n > MAX_CHOICES:
        raise bad_request(f"At most {MAX_CHOICES} choices can be asked for at once.", "prompt")
    options = asked.stream_options
    return Completions(
        plans=tuple(_plan(asked, text, rules) for text in texts for _ in range(n)),
        model=asked.model,
        stream=bool(asked.stream),
        include_usage=bool(asked.stream and options is not None and options.include_usage),
        ignored=parameters.told((*parameters.without_effect(asked, IGNORED, rules), *_undeclared(body)), rules),
        stop=stops_of(asked.stop),
    )


def _plan(asked: CompletionRequest, text: str, rules: Rules) -> Plan:
    pieces = [text, asked.suffix] if asked.suffix and asked.suffix.strip() else [text]
    return parameters.plan_of(
        rules,
        parameters.model_of(rules, asked.model),
        FILL if len(pieces) > 1 else COMPLETE,
        (Message("user", tuple(map(TextBlock, pieces))),),
        max_tokens=limit_of(None, asked.max_tokens),
        sampling=parameters.sampling(rules, asked.temperature, asked.top_p, hottest=HOTTEST),
    )


TextReason = Literal["stop", "length", "content_filter"]
# No tools are offered here, so no answer ends with calls.
REASONS: Final[dict[Reason, TextReason]] = {
    Reason.END_TURN: "stop",
    Reason.STOP_SEQUENCE: "stop",
    Reason.PAUSE_TURN: "stop",
    Reason.MAX_TOKENS: "length",
    Reason.CONTEXT_WINDOW: "length",
    Reason.REFUSAL: "content_filter",
    Reason.TOOL_USE: "stop",
}


class TextChoice(Struct, frozen=True):
    text: str
    index: int
    logprobs: None = None
    finish_reason: TextReason | None = None


class TextCompletion(Struct, frozen=True, kw_only=True):
    """A whole answer, and a chunk of a streamed one: OpenAI has one type for both."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[TextChoice, ...]
    usage: Usage | UnsetType | None = UNSET


def _completion(
    head: AnswerHead, model: str, choices: tuple[TextChoice, ...], usage: Usage | UnsetType | None
) -> TextCompletion:
    return TextCompletion(
        id=head.id,
        created=head.created,
        model=model,
        system_fingerprint=head.fingerprint,
        choices=choices,
        usage=usage,
    )


class TextChunks:
    """Deltas of one choice in, chunks out, up to the one with the `finish_reason`."""

    __slots__ = ("_choice_index", "_head", "model")

    def __init__(self, head: AnswerHead, choice_index: int) -> None:
        self._head = head
        self._choice_index = choice_index
        self.model = ""

    def feed(self, deltas: Iterable[Delta]) -> list[TextCompletion]:
        out: list[TextCompletion] = []
        for delta in deltas:
            if isinstance(delta, Text | Refusal):
                out.append(self._chunk(TextChoice(delta.text, self._choice_index)))
            elif isinstance(delta, Started):
                self.model = delta.model
            elif isinstance(delta, Finished):
                out.append(self._chunk(TextChoice("", self._choice_index, None, REASONS[delta.reason])))
        return out

    def _chunk(self, choice: TextChoice) -> TextCompletion:
        return _completion(self._head, self.model, (choice,), None if self._head.with_usage else UNSET)


def text_usage_chunk(head: AnswerHead, model: str, tokens: Tokens) -> TextCompletion:
    """The chunk after the last choice, for clients that asked for it."""
    return _completion(head, model, (), usage_of(tokens))


class TextEncoder(ChunkEncoder):
    """One request's answer, all its choices."""

    def __init__(self, head: AnswerHead) -> None:
        super().__init__(head, lambda choice: TextChunks(head, choice))

    def _usage_chunk(self, model: str, tokens: Tokens) -> TextCompletion:
        return text_usage_chunk(self._head, model, tokens)

    def whole(self, answers: Sequence[Answer], tokens: Tokens) -> TextCompletion:
        choices = (
            TextChoice(answer.text + (answer.refusal or ""), index, None, REASONS[answer.reason or Reason.END_TURN])
            for index, answer in enumerate(answers)
        )
        return _completion(self._head, answers[0].model, tuple(choices), usage_of(tokens))


def _encoder(include_usage: bool, identity: Identity) -> TextEncoder:
    return TextEncoder(
        AnswerHead(f"cmpl-{identity.token}", identity.created, identity.fingerprint, with_usage=include_usage)
    )


class LegacyCompletions:
    """The dialect."""

    name: Final = "openai-completions"
    framing: Final = Framing.SSE

    def decode(self, body: bytes, rules: Rules) -> Request:
        asked = decode(body, rules)
        return Request(
            asked.model, asked.plans, asked.stream, partial(_encoder, asked.include_usage), asked.stop, asked.ignored
        )

    def error(self, failure: Failure, now: float, request_id: str) -> ErrorReply:
        return reply(failure, now, PARAMS)
