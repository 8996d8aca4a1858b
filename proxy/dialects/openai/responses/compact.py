"""`POST /v1/responses/compact`: a long conversation becomes a short one, which later requests begin with.

The model is asked for a summary; the answer is all messages but the assistant's, what sets how to answer, and one
compaction item that holds the summary. Shapes: `openai.types.responses.response_compact_params` and
`compacted_response` of the package `openai`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw, Struct

from proxy.dialects import Comment, Event, Identity, Request, Rules, parameters
from proxy.dialects.openai.responses import request
from proxy.dialects.openai.responses.dialect import Responses
from proxy.dialects.openai.responses.kept import listed
from proxy.dialects.openai.responses.reasoning import Seal, Summary
from proxy.dialects.openai.responses.types import ResponseUsage, usage_of
from proxy.dialects.parameters import Ignored
from proxy.dialects.undeclared import Undeclared
from proxy.protocol.answer import Answer
from proxy.protocol.deltas import Delta, Reason, Tokens
from proxy.protocol.failures import Failure, Kind, Rejection, bad_request
from proxy.protocol.plan import TextBlock

SUMMARISE: Final = (
    "Write a summary of our conversation so far, to stand in its place: whoever goes on from it will see nothing "
    "else of what was said and done, but the user's own messages. Say what the user wants, what has been decided and "
    "why, what has been done and found, with names, paths, numbers and code that are still needed, what was tried in "
    "vain, the state of things now, and what is to be done next. Do not go on with the task itself, and do not address "
    "the user."
)
NO_SUMMARY: Final = "The model did not write a whole summary ({})."
IGNORED: Final[Ignored] = {
    "prompt_cache_key": (), "prompt_cache_retention": (), "prompt_cache_options": (), "image": (),
    "service_tier": ("auto", "default"),
}  # fmt: skip


class CompactRequest(Struct, frozen=True):
    """The body of `POST /v1/responses/compact`."""

    model: str
    input: str | list[Raw] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    image: Any = None
    service_tier: Any = None


class CompactionItem(Struct, frozen=True, tag_field="type", tag="compaction"):
    """`encrypted_content`: the summary, as this server knows it again."""

    id: str
    encrypted_content: str


class CompactedResponse(Struct, frozen=True):
    """`output`: messages as they were sent, and a `CompactionItem`."""

    id: str
    created_at: int
    output: tuple[Raw, ...]
    usage: ResponseUsage
    object: Literal["response.compaction"] = "response.compaction"


_decoder: Final = msgspec.json.Decoder(CompactRequest)
_undeclared: Final = Undeclared(CompactRequest)


class _Kind(Struct, frozen=True):
    type: str | None = None
    role: str | None = None


_kind: Final = msgspec.json.Decoder(_Kind)


def _stays(raw: Raw) -> bool:
    """It is a message, and not the assistant's; or it says how to answer from now on."""
    item = _kind.decode(raw)
    return item.type in (None, "message", "configuration_update") and item.role != "assistant"


class CompactEncoder:
    """It has no stream."""

    def __init__(self, items: tuple[Raw, ...], seal: Seal, identity: Identity) -> None:
        self._items = items
        self._seal = seal
        self._identity = identity

    def open(self) -> Sequence[Event]:
        return ()

    def idle(self) -> Comment:
        return Comment("")

    def feed(self, choice: int, deltas: Sequence[Delta]) -> Sequence[Event]:
        return ()

    def close(self, tokens: Tokens) -> Sequence[Event]:
        return ()

    def fail(self, failure: Failure) -> Sequence[Event]:
        return ()

    def whole(self, answers: Sequence[Answer], tokens: Tokens) -> Struct:
        answer, token = answers[0], self._identity.token
        if answer.reason is not Reason.END_TURN or answer.refusal is not None or not answer.text.strip():
            reason = "it said nothing" if answer.reason in (None, Reason.END_TURN) else answer.reason.value
            raise Rejection(Failure(Kind.UPSTREAM_ERROR, NO_SUMMARY.format(reason)))
        item = CompactionItem(f"cmp_{token}", self._seal.close(answer.model, Summary(answer.text)))
        output = (*(item.data for item in listed(self._items, token)), Raw(msgspec.json.encode(item)))
        return CompactedResponse(f"resp_{token}", self._identity.created, output, usage_of(tokens))


class Compaction(Responses):
    """The dialect."""

    def decode(self, body: bytes, rules: Rules) -> Request:
        asked = request.fields(_decoder, body)
        items = request.items_of(asked.input)
        talk = request.talk_of(asked.instructions, asked.previous_response_id, None, items, rules)
        if not talk.history.begun:
            raise bad_request("There is no input with content.", "input")
        talk.history.ask([TextBlock(SUMMARISE)])
        system, messages = talk.history.finish()
        sampling = parameters.sampling(rules, None, None)
        plan = parameters.plan_of(rules, parameters.model_of(rules, asked.model), system, messages, sampling=sampling)
        ignored = (
            *parameters.without_effect(asked, IGNORED, rules), *_undeclared(body), *talk.ignored
        )  # fmt: skip
        encoder = partial(CompactEncoder, tuple(filter(_stays, talk.all)), talk.seal)
        return Request(asked.model, (plan,), False, encoder, ignored=request.told(ignored, talk, rules))
