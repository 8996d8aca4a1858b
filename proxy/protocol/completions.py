"""OpenAI's legacy text completion (`POST /v1/completions`), for editors that complete as you type.

Claude has no such mode: the prompt is put as a message, with an instruction to go on with it and nothing else. Shapes:
`openai.types.completion_create_params` and `openai.types.completion` of the package `openai`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from proxy.protocol.chat import Identity, Usage, usage_of
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Message, Plan, TextBlock
from proxy.protocol.request import (
    ABSENT,
    MAX_CHOICES,
    RULES,
    Rules,
    StreamOptions,
    count_of,
    given,
    ignored_of,
    limit_of,
    sampling_of,
    stops_of,
)
from proxy.protocol.turn import Delta, Finished, Reason, Refusal, Started, Text, Tokens

CONTINUE: Final = (
    "Continue the text that the user gives, from exactly where it ends. Answer with the continuation alone: no "
    "introduction, no repetition, no quotation marks or code fences around it."
)
FILL: Final = (
    "The user gives two pieces of a text with a gap between them. Answer with what belongs into the gap alone: no "
    "introduction, no repetition of either piece, no quotation marks or code fences around it."
)


class CompletionRequest(Struct, frozen=True):
    """The body, field by field; unknown fields are skipped."""

    model: str
    prompt: Raw = ABSENT
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: Raw = ABSENT
    logit_bias: Raw = ABSENT
    logprobs: Raw = ABSENT
    presence_penalty: Raw = ABSENT
    seed: Raw = ABSENT
    user: Raw = ABSENT


IGNORED: Final = (
    "temperature", "top_p", "frequency_penalty", "logit_bias", "logprobs", "presence_penalty", "seed", "user",
)  # fmt: skip


class Completions(Struct, frozen=True):
    """A request: one plan for every choice, prompt by prompt."""

    plans: tuple[Plan, ...]
    model: str
    stream: bool
    include_usage: bool
    ignored: tuple[str, ...]
    stop: tuple[str, ...]


_request_decoder: Final = msgspec.json.Decoder(CompletionRequest)
_prompt_decoder: Final = msgspec.json.Decoder(str | list[str])


def decode(body: bytes, rules: Rules = RULES) -> Completions:
    """The request that `body` holds, under the server's rules. Raises `Rejection`."""
    asked = decoded(_request_decoder, body, "")
    if not asked.model.strip():
        raise bad_request("A model must be named.", "model")
    if not given(asked.prompt):
        raise bad_request("A prompt is needed.", "prompt")
    prompts = decoded(_prompt_decoder, asked.prompt, "prompt")
    if asked.echo:
        raise bad_request("The prompt cannot be given back with the answer.", "echo")
    n = count_of(asked.n)
    if asked.best_of is not None and asked.best_of > n:
        raise bad_request("Answers beyond `n` cannot be made and compared.", "best_of")
    texts = [prompts] if isinstance(prompts, str) else prompts
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
        ignored=ignored_of(asked, IGNORED, rules),
        stop=stops_of(asked.stop),
    )


def _plan(asked: CompletionRequest, text: str, rules: Rules) -> Plan:
    pieces = [text, asked.suffix] if asked.suffix and asked.suffix.strip() else [text]
    return Plan(
        model=rules.model_for(asked.model),
        system=FILL if len(pieces) > 1 else CONTINUE,
        messages=(Message("user", tuple(map(TextBlock, pieces))),),
        max_tokens=limit_of(None, asked.max_tokens),
        sampling=sampling_of(asked.temperature, asked.top_p, rules),
    )


TextReason = Literal["stop", "length", "content_filter"]
# No tools are offered here, so no answer ends with calls.
REASONS: Final[dict[Reason, TextReason]] = {
    Reason.STOP: "stop",
    Reason.LENGTH: "length",
    Reason.CONTENT_FILTER: "content_filter",
    Reason.TOOL_CALLS: "stop",
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
    identity: Identity, model: str, choices: tuple[TextChoice, ...], usage: Usage | UnsetType | None
) -> TextCompletion:
    return TextCompletion(
        id=identity.id,
        created=identity.created,
        model=model,
        system_fingerprint=identity.fingerprint,
        choices=choices,
        usage=usage,
    )


class TextChunks:
    """Deltas of one choice in, chunks out, up to the one with the `finish_reason`."""

    __slots__ = ("_choice_index", "_identity", "model")

    def __init__(self, identity: Identity, choice_index: int) -> None:
        self._identity = identity
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
        return _completion(self._identity, self.model, (choice,), None if self._identity.with_usage else UNSET)


def text_usage_chunk(identity: Identity, model: str, tokens: Tokens) -> TextCompletion:
    """The chunk after the last choice, for clients that asked for it."""
    return _completion(identity, model, (), usage_of(tokens))


def fold_text(identity: Identity, chunks: Sequence[TextCompletion], tokens: Tokens) -> TextCompletion:
    """The completion that the chunks of one answer (all its choices) add up to. Needs at least one chunk."""
    texts: dict[int, list[str]] = {}
    reasons: dict[int, TextReason] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts.setdefault(choice.index, []).append(choice.text)
            if choice.finish_reason is not None:
                reasons[choice.index] = choice.finish_reason
    choices = tuple(
        TextChoice("".join(parts), index, None, reasons.get(index, "stop")) for index, parts in sorted(texts.items())
    )
    return _completion(identity, chunks[0].model, choices, usage_of(tokens))
