"""`POST /v1/responses/input_tokens`: how many tokens a request has, without an answer to it."""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct

from proxy.dialects import CountRequest, Rules
from proxy.dialects.openai.responses.request import decode

# What is counted for where no model is named.
MODEL: Final = Raw(b'"opus"')
_fields: Final = msgspec.json.Decoder(dict[str, Raw])


def _named(body: bytes) -> bytes:
    """The body with a model; what is no JSON object is left to whoever decodes it."""
    try:
        fields = _fields.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body
    named = bytes(fields.get("model", b"null")) != b"null"
    return body if named else msgspec.json.encode(fields | {"model": MODEL})


class InputTokens(Struct, frozen=True):
    """`openai.types.responses.InputTokenCountResponse`."""

    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


class ResponsesCount:
    """The dialect. Parameters of a request that change no count are read all the same."""

    def decode(self, body: bytes, rules: Rules) -> CountRequest:
        asked = decode(_named(body), rules)
        return CountRequest(asked.model, asked.plan, asked.ignored)

    def encode(self, tokens: int) -> InputTokens:
        return InputTokens(tokens)
