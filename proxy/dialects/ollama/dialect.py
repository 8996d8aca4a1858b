"""`POST /api/chat` and `POST /api/generate`: the dialects."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from proxy.dialects import ErrorReply, Framing, Identity, Request, Rules
from proxy.dialects.ollama.decode import Decoded, decode_chat, decode_generate
from proxy.dialects.ollama.encoder import OllamaEncoder
from proxy.dialects.ollama.errors import reply
from proxy.protocol.failures import Failure


def _encoder(asked: Decoded, chat: bool, identity: Identity) -> OllamaEncoder:
    return OllamaEncoder(identity, asked.model, chat=chat, thinking=asked.thinking, unload=asked.unload)


class Ollama:
    """One of both."""

    framing: Final = Framing.NDJSON

    def __init__(self, name: str, decode: Callable[[bytes, Rules], Decoded], *, chat: bool) -> None:
        self.name: Final = name
        self._decode = decode
        self._chat = chat

    def decode(self, body: bytes, rules: Rules) -> Request:
        asked = self._decode(body, rules)
        plans = () if asked.plan is None else (asked.plan,)
        return Request(
            asked.model, plans, asked.stream, partial(_encoder, asked, self._chat), asked.stop, asked.ignored,
            to_disk=self._chat,
        )  # fmt: skip

    def error(self, failure: Failure, now: float, request_id: str) -> ErrorReply:
        return reply(failure, now)


CHAT: Final = Ollama("ollama-chat", decode_chat, chat=True)
GENERATE: Final = Ollama("ollama-generate", decode_generate, chat=False)
