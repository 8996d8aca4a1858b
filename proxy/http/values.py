"""How many values a JSON text holds, before anything is made of it: small values take much more memory decoded."""

from __future__ import annotations

import re
from typing import Final

# Of one body. No model's window holds as many; decoded, so many of any kind hold up others for no longer than 0.1 s.
MAX_VALUES: Final = 250_000
_PIECE: Final = 1024 * 1024
# Never much at once: other threads run between two matches.
_TOKEN: Final = re.compile(rb'(?:[^"\\]{1,16384}|\\.){1,64}|"|\\', re.DOTALL)


def too_many(text: bytes) -> bool:
    """Whether it holds more than `MAX_VALUES` values. What is no JSON may be taken for anything."""
    if len(text) <= MAX_VALUES:
        return False
    pieces = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
    return sum(map(_separators, pieces)) > MAX_VALUES and _too_many_outside_strings(text)


def _separators(text: bytes) -> int:
    """Each value has one before it, but for the first."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _too_many_outside_strings(text: bytes) -> bool:
    found = quotes = 0
    for token in _TOKEN.finditer(text):
        if token[0] == b'"':
            quotes += 1
        elif quotes % 2 == 0:
            found += _separators(token[0])
        # Of a member both the name and the value may be strings.
        if found > MAX_VALUES or quotes > 4 * MAX_VALUES:
            return True
    return False
