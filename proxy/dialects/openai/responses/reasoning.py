"""Signed thinking in `encrypted_content`: out with an answer, back in with a later request.

The text is opaque to clients, has a version, and is authenticated with a key of the server's own: what comes back is
what went out, to the same owner. It is not secret: its content is what the client was shown, or cannot read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

import msgspec
from msgspec import Struct

from proxy.protocol.failures import bad_request
from proxy.protocol.plan import RedactedThinkingBlock, ThinkingBlock

VERSION: Final = "cmr1."
_MAC: Final = hashlib.sha256().digest_size


class Summary(Struct, frozen=True, tag="summary"):
    """What a long conversation comes to: the content of a compaction item."""

    text: str


SealedBlock = ThinkingBlock | RedactedThinkingBlock | Summary


class Sealed(Struct, frozen=True, array_like=True):
    """`model`: the one that wrote it, as upstream names it. Thinking is of use to that one alone."""

    model: str
    block: SealedBlock


_decoder: Final = msgspec.json.Decoder(Sealed)


class Seal:
    """Closes and opens `encrypted_content` for one owner. `secret`: the server's own, at least 16 random bytes."""

    __slots__ = ("_key",)

    def __init__(self, secret: bytes, owner: str) -> None:
        self._key = hmac.digest(secret, b"encrypted_content\0" + owner.encode(), hashlib.sha256)

    def close(self, model: str, block: SealedBlock) -> str:
        content = msgspec.json.encode(Sealed(model, block))
        return VERSION + base64.urlsafe_b64encode(self._mac(content) + content).decode()

    def open(self, text: str, where: str) -> Sealed:
        """What was closed. Raises Rejection for anything that this server did not make for this owner."""
        try:
            if not text.startswith(VERSION):
                raise ValueError
            data = base64.urlsafe_b64decode(text.removeprefix(VERSION))
            if not hmac.compare_digest(data[:_MAC], self._mac(data[_MAC:])):
                raise ValueError
            return _decoder.decode(data[_MAC:])
        except (ValueError, binascii.Error):
            raise bad_request("This was not made by this server for this API key: leave the item out.", where) from None

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, hashlib.sha256)
