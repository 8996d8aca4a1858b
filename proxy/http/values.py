"""What a JSON text holds, before anything is made of it: small values take much more memory decoded, and a text is
decoded in one go, while all other threads wait."""

from __future__ import annotations

import codecs
import re
from typing import Final

# Of one body. No model's window holds as many; decoded, so many of any kind hold up others for no longer than 0.1 s.
MAX_VALUES: Final = 250_000
# Bytes of text in one body: several times what a window of a million tokens holds. Media may be larger.
MAX_TEXT: Final = 12 * 1024 * 1024
_PIECE: Final = 1024 * 1024
# What base64 is made of, line breaks in it aside. Of text more than this share is something else.
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_\\"
_OTHER_SHARE: Final = 0.02
# Escapes stand in base64 for line breaks, and before its slashes; text can be nothing else.
_ESCAPED_SHARE: Final = 0.05
_BASE64_PIECE: Final = 64 * 1024
# Never much at once: other threads run between two matches.
_TOKEN: Final = re.compile(rb'(?:[^"\\]{1,16384}|\\.){1,64}|"|\\', re.DOTALL)


def too_many(text: bytes) -> bool:
    """Whether it holds more than `MAX_VALUES` values. What is no JSON may be taken for anything."""
    if len(text) <= MAX_VALUES:
        return False
    pieces = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
    return sum(map(separators, pieces)) > MAX_VALUES and _too_many_outside_strings(text)


def separators(text: bytes) -> int:
    """How many characters there are that stand before a value, also those in texts: each value has one, but for the
    first."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _too_many_outside_strings(text: bytes) -> bool:
    found = quotes = 0
    for token in _TOKEN.finditer(text):
        if token[0] == b'"':
            quotes += 1
        elif quotes % 2 == 0:
            found += separators(token[0])
        # Of a member both the name and the value may be strings.
        if found > MAX_VALUES or quotes > 4 * MAX_VALUES:
            return True
    return False


def too_much_text(text: bytes) -> bool:
    """Whether it holds more than `MAX_TEXT` bytes that are not base64, in which media come."""
    if len(text) <= MAX_TEXT:
        return False
    found = 0
    for at in range(0, len(text), _BASE64_PIECE):
        piece = text[at : at + _BASE64_PIECE]
        others, escapes = len(piece.translate(None, _BASE64)), piece.count(b"\\")
        if others > len(piece) * _OTHER_SHARE or escapes > len(piece) * _ESCAPED_SHARE:
            found += len(piece)
    return found > MAX_TEXT


def is_utf8(text: bytes) -> bool:
    """Whether it is. What is handed on as it stands is not looked at again."""
    if text.isascii():
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(text), _PIECE):
            decoder.decode(text[at : at + _PIECE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
