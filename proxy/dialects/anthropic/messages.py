"""`POST /v1/messages` and `/v1/messages/count_tokens`: the dialect."""

from __future__ import annotations

from functools import partial
from typing import Final

from msgspec import Struct

from proxy.dialects import CountRequest, ErrorReply, Framing, Identity, Request, Rules
from proxy.dialects.anthropic.decode import decode
from proxy.dialects.anthropic.encoder import MessageEncoder
from proxy.dialects.anthropic.errors import reply
from proxy.protocol.failures import Failure


def _encoder(thinking: bool, identity: Identity) -> MessageEncoder:
    return MessageEncoder(f"msg_{identity.token}", thinking=thinking)


class Messages:
    """The dialect."""

    name: Final = "anthropic-messages"
    framing: Final = Framing.SSE

    def decode(self, body: bytes, rules: Rules) -> Request:
        asked = decode(body, rules)
        return Request(
            asked.model, (asked.plan,), asked.stream, partial(_encoder, asked.shown), asked.stop, asked.ignored,
            to_disk=True,
        )  # fmt: skip

    def error(self, failure: Failure, now: float, request_id: str) -> ErrorReply:
        return reply(failure, now, request_id)


class TokensCount(Struct, frozen=True):
    """`anthropic.types.MessageTokensCount`."""

    input_tokens: int


class MessagesCount:
    """`POST /v1/messages/count_tokens`."""

    def decode(self, body: bytes, rules: Rules) -> CountRequest:
        asked = decode(body, rules, counting=True)
        return CountRequest(asked.model, asked.plan, asked.ignored)

    def encode(self, tokens: int) -> TokensCount:
        return TokensCount(tokens)
