"""`POST /v1/responses/input_tokens`: how many tokens a request has, without an answer to it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from proxy.dialects import CountRequest, Rules
from proxy.dialects.openai.responses.request import decode


class InputTokens(Struct, frozen=True):
    """`openai.types.responses.InputTokenCountResponse`."""

    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


class ResponsesCount:
    """The dialect. Parameters of a request that change no count are read all the same."""

    def decode(self, body: bytes, rules: Rules) -> CountRequest:
        asked = decode(body, rules, counting=True)
        return CountRequest(asked.model, asked.plan, asked.ignored)

    def encode(self, tokens: int) -> InputTokens:
        return InputTokens(tokens)
