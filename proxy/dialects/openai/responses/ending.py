"""How a response ends: what there is to keep of it, the words for an end before its time, and its events' names."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from proxy.dialects import Event, Identity
from proxy.dialects.openai.responses import types
from proxy.dialects.openai.responses.types import OutputItem, Response, ResponseEvent
from proxy.protocol.deltas import Reason
from proxy.protocol.failures import Kind

# Bytes that storing an item takes beside its text, at most.
_OVERHEAD: Final = 500

INCOMPLETE: Final = {
    Reason.MAX_TOKENS: types.IncompleteDetails("max_output_tokens"),
    Reason.CONTEXT_WINDOW: types.IncompleteDetails("max_output_tokens"),
    Reason.REFUSAL: types.IncompleteDetails("content_filter"),
}


class Ended(Struct, frozen=True):
    """What there is to keep of a response that has ended.

    `response`: as the client was told. `input`: the items of its request alone. `output`: the items of the answer, with
    their `encrypted_content`, whether or not the client was shown it.
    """

    response: Response
    input: tuple[Raw, ...]
    output: tuple[OutputItem, ...]

    @property
    def store(self) -> bool:
        """The client wants it kept."""
        return self.response.store


def ended(response: Response, input: tuple[Raw, ...], output: tuple[OutputItem, ...], most: int) -> Ended:
    """It ends so; as one that is not stored, if it has more than `most` bytes."""
    if response.store:
        size = len(msgspec.json.encode((response, output))) + sum(len(bytes(raw)) for raw in input)
        response = replace(response, store=size + _OVERHEAD * (1 + len(input) + len(output)) <= most)
    return Ended(response, input, output)


def error_code(kind: Kind) -> Any:
    """The code of a response that failed; OpenAI has few of them."""
    if kind in (Kind.RATE_LIMIT, Kind.PLAN_LIMIT, Kind.KEY_LIMIT, Kind.KEY_RATE, Kind.QUEUE_FULL, Kind.QUEUE_WAIT):
        return "rate_limit_exceeded"
    refused = (Kind.BAD_REQUEST, Kind.PROMPT_TOO_LONG, Kind.REFUSED_UPSTREAM, Kind.BODY_TOO_LARGE)
    return "invalid_prompt" if kind in refused else "server_error"


def now(identity: Identity) -> int:
    """Seconds since 1970; never before the response was created."""
    timing = identity.timing()
    return max(identity.created, int(timing.began + timing.seconds))


def named(event: ResponseEvent) -> Event:
    """The event, called by its type."""
    return Event(event, types.event_name(event))
