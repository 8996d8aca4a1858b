"""Decoding a part of a request so that what is wrong with it names its parameter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw, inspect

from proxy.protocol.failures import bad_request

T = TypeVar("T")
_PATH: Final = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_STEP: Final = re.compile(r"[^.\[\]]+|\[[^\]]*\]")
_NO_CHOICE: Final = re.compile(r"^Invalid (?:enum )?value ")
_MISSING: Final = re.compile(r"missing required field `(?P<name>[^`]*)`")


# An escape for half of a character, as far as its backslash is not escaped itself.
_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_HALF: Final = len(rb"\ud83d")
_LOW: Final = b"cdefCDEF"
# A body with more of them is not mended.
MAX_ESCAPES: Final = 100_000
# Bytes that are searched in one call: other threads wait for it.
_AT_ONCE: Final = 1 << 20
# The value of a member, a whole number with a fraction.
_FRACTION: Final = re.compile(rb"\A(\s*+:\s*+-?\d++)\.0++(?=\s*+[,}])")
_ANY_INDEX: Final = re.compile(r"\[[^\]]*\]")
# Characters of a path for which it is looked up what could stand there.
MAX_PATH: Final = 200
_NOT_WHOLE: Final = re.compile(r"^Expected `int\b[^`]*`, got `float`")
# So many fields of one body may hold a whole number that is written with a fraction.
MAX_FRACTIONS: Final = 32


def _found(pattern: re.Pattern[bytes], raw: bytes, longest: int) -> Iterator[re.Match[bytes]]:
    """What the pattern, which matches no more than `longest` bytes, finds in `raw`."""
    for at in range(0, len(raw), _AT_ONCE):
        for match in pattern.finditer(raw, at, at + _AT_ONCE + longest - 1):
            if match.start() < at + _AT_ONCE:
                yield match


def _mended(raw: bytes) -> bytes:
    """Half characters (`\\ud83d` alone: clients cut text anywhere) as U+FFFD, unless there are too many escapes."""
    found = list(islice(_found(_ESCAPE, raw, _HALF), MAX_ESCAPES + 1))
    if len(found) > MAX_ESCAPES:
        return raw
    halves: list[int] = []
    # Where the last half ended that may be the first of a pair.
    open_at = at = -1
    for match in found:
        start = match.start()
        before = raw[max(at, 0) : start]
        at = match.end()
        if (len(before) - len(before.rstrip(b"\\"))) % 2:
            continue
        low = raw[start + 3] in _LOW
        if low and open_at == start:
            halves.pop()
        else:
            halves.append(start)
        open_at = -1 if low else at
    places = [0, *(place for start in halves for place in (start, start + _HALF)), len(raw)]
    return b"\\ufffd".join(raw[begin:end] for begin, end in zip(places[::2], places[1::2], strict=True))


def _whole(raw: bytes, field: str) -> bytes:
    """`100.0` as `100` wherever this field holds it: JSON knows one kind of number."""
    name = b'"%s"' % field.rpartition(".")[2].partition("[")[0].encode()
    # Pieces, each of which begins behind the name: a search for plain text is quick.
    first, *rest = raw.split(name)
    return name.join((first, *(_FRACTION.sub(rb"\1", piece, count=1) for piece in rest)))


def _decode(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    """Decode, tolerant of half characters and of whole numbers that are written with a fraction."""
    for _ in range(MAX_FRACTIONS):
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError as error:
            found = _PATH.search(str(error))
            mended = _whole(raw, found["path"]) if found and _NOT_WHOLE.match(str(error)) else raw
            if mended == raw:
                raise
        except msgspec.DecodeError:
            mended = _mended(raw)
            if mended == raw:
                raise
        raw = mended
    return decoder.decode(raw)


def _inner(type: inspect.Type, step: str) -> Iterator[inspect.Type]:
    """What may stand under a member of this name, or in a list (`[0]`), or be the value that is no union."""
    if isinstance(type, inspect.Metadata):
        yield from _inner(type.type, step)
    elif isinstance(type, inspect.UnionType):
        for one in type.types:
            yield from _inner(one, step)
    elif isinstance(type, inspect.StructType):
        yield from (field.type for field in type.fields if field.encode_name == step)
        if type.tag_field == step:
            yield inspect.LiteralType((type.tag,))
    elif isinstance(type, inspect.ListType) and step[:1] == "[":
        yield type.item_type
    elif isinstance(type, inspect.DictType) and step[:1] == "[":
        yield type.value_type
    elif isinstance(type, inspect.LiteralType) and not step:
        yield type


@lru_cache(256)
def _choices(decoder: msgspec.json.Decoder[Any], path: str) -> str:
    """The words that can stand at a path in a value of the decoder's type."""
    types = [inspect.type_info(decoder.type)]
    for step in (*_STEP.findall(path), ""):
        types = [inner for one in types for inner in _inner(one, step)]
    words = (str(value) for one in types if isinstance(one, inspect.LiteralType) for value in one.values)
    return ", ".join(dict.fromkeys(words))


def decoded(decoder: msgspec.json.Decoder[T], raw: bytes | Raw, where: str) -> T:
    """Decode, or raise a Rejection. `where`: the path of `raw` in the body, empty for the body itself."""
    try:
        return _decode(decoder, bytes(raw))
    except msgspec.ValidationError as error:
        text = str(error)
        found = _PATH.search(text)
        missing = _MISSING.search(text)
        inner = [found["path"] if found else "", missing["name"] if missing else ""]
        param = ".".join(filter(None, (where, *inner))).replace(".[", "[")
        words = _PATH.sub("", text)
        if found and _NO_CHOICE.match(text) and len(found["path"]) < MAX_PATH:
            words += f", must be one of {_choices(decoder, _ANY_INDEX.sub('[]', found['path']))}"
        words = f"`{param}` is needed." if missing else f"{words}: `{param or 'the body'}`."
        raise bad_request(words, param or None) from None
    except (ValueError, RecursionError) as error:
        # Too deep a nesting is bad input like any other, not a fault of ours.
        raise bad_request(f"The body is not valid JSON: {error}.", where or None) from None
