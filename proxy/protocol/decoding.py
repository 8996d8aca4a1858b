"""Decoding a part of a request so that what is wrong with it names its parameter."""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec
from msgspec import Raw

from proxy.protocol.failures import bad_request

T = TypeVar("T")
_PATH: Final = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_MISSING: Final = re.compile(r"missing required field `(?P<name>[^`]*)`")


def decoded(decoder: msgspec.json.Decoder[T], raw: bytes | Raw, where: str) -> T:
    """Decode, or raise a Rejection. `where`: the path of `raw` in the body, empty for the body itself."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        text = str(error)
        found = _PATH.search(text)
        missing = _MISSING.search(text)
        inner = [found["path"] if found else "", missing["name"] if missing else ""]
        param = ".".join(filter(None, (where, *inner))).replace(".[", "[")
        words = f"`{param}` is needed." if missing else f"{_PATH.sub('', text)}: `{param or 'the body'}`."
        raise bad_request(words, param or None) from None
    except (ValueError, RecursionError) as error:
        # Too deep a nesting is bad input like any other, not a fault of ours.
        raise bad_request(f"The body is not valid JSON: {error}.", where or None) from None
