"""What a model says where it was to use the CLI's tool for its structured answer: JSON for all that, or other words.

JSON counts when it is all that is said: bare, or in one fence of Markdown.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

import msgspec
from msgspec import Raw

from proxy.protocol.schema import WRAPPER

# What an object begins with, and what may still become that.
_FENCE: Final = r"```[A-Za-z0-9_+-]*\s*"
_OPENING: Final = re.compile(rf'\s*(?P<fence>{_FENCE})?(?=\{{\s*["}}])')
_MAYBE_OPENING: Final = re.compile(rf"\s*(?:`{{1,2}}|{_FENCE})?(?:\{{\s*)?")
_BETWEEN: Final = re.compile(r'[^"{}\[\]]+')
_INSIDE: Final = re.compile(r'[^"\\]+')
# What may stand behind it: in a fence, and without one.
_CLOSING: Final = {True: re.compile(r"\s*(?:`{1,3}\s*)?"), False: re.compile(r"\s*")}
# So many characters of it are read, before it and behind it; white space has an end.
_MAX_AROUND: Final = 500
_FENCED: Final = re.compile(_FENCE)
_members: Final = msgspec.json.Decoder(dict[str, Raw])
_any: Final = msgspec.json.Decoder(object)


class _State(Enum):
    BEFORE = "before"
    INSIDE = "inside"
    AFTER = "after"
    NONE = "none"


class Prose:
    """All of it, in `text`. An object is told apart, and handed on while it comes, unless `wrapped`: then the CLI's
    tool takes an object around the answer, and which of the two this is shows in the end."""

    __slots__ = (
        "_depth", "_escaped", "_fenced", "_handed", "_in_text", "_pieces", "_rest", "_state", "_told", "_wrapped",
    )  # fmt: skip

    def __init__(self, *, wrapped: bool = False) -> None:
        self._wrapped = wrapped
        self._state = _State.NONE if wrapped else _State.BEFORE
        self._pieces: list[str] = []
        self._handed: list[str] = []
        # What is still to be read, and how much of the text has been handed on or only stood before that.
        self._rest = ""
        self._told = 0
        self._depth = 0
        self._in_text = False
        self._escaped = False
        self._fenced = False

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def handed(self) -> bool:
        """Some of it has been handed on."""
        return bool(self._handed)

    @property
    def rest(self) -> str:
        """What of it has not been handed on; nothing when that only stands around an object."""
        return "" if self._state is _State.AFTER else self.text[self._told :]

    def feed(self, text: str) -> str:
        """What of an object there is more now."""
        self._pieces.append(text)
        if self._state is _State.NONE:
            return ""
        self._rest += text
        if self._state is _State.BEFORE:
            self._begin()
        inside = self._take() if self._state is _State.INSIDE else ""
        odd = self._state is _State.AFTER and not _CLOSING[self._fenced].fullmatch(self._rest)
        if odd or (self._state is not _State.INSIDE and len(self._rest) > _MAX_AROUND):
            self._state = _State.NONE
        if inside:
            self._handed.append(inside)
            self._told += len(inside)
        return inside

    def whole(self) -> tuple[str, ...]:
        """The JSON that has been said, most likely meaning first; none if what was said is not just that."""
        if not self._wrapped:
            return ("".join(self._handed),) if self._state is _State.AFTER else ()
        text = self.text.strip()
        fence = _FENCED.match(text)
        if fence is not None:
            text = text[fence.end() :].removesuffix("```").rstrip()
        try:
            _any.decode(text)
        except (ValueError, RecursionError):
            return ()
        try:
            members = _members.decode(text)
        except (ValueError, RecursionError):
            return (text,)
        return (bytes(members[WRAPPER]).decode(), text) if members.keys() == {WRAPPER} else (text,)

    def _begin(self) -> None:
        opening = _OPENING.match(self._rest)
        if opening is not None:
            self._state = _State.INSIDE
            self._fenced = opening["fence"] is not None
            self._rest = self._rest[opening.end() :]
            self._told = opening.end()
        elif not _MAYBE_OPENING.fullmatch(self._rest):
            self._state = _State.NONE

    def _take(self) -> str:
        """What of the rest is the object's; the state says whether it has ended with that."""
        text, at = self._rest, 0
        while at < len(text) and self._state is _State.INSIDE:
            found = None if self._escaped else (_INSIDE if self._in_text else _BETWEEN).match(text, at)
            if found is not None:
                at = found.end()
                continue
            sign = text[at]
            at += 1
            if self._in_text:
                self._in_text = self._escaped or sign != '"'
                self._escaped = sign == "\\" and not self._escaped
            elif sign == '"':
                self._in_text = True
            else:
                self._depth += 1 if sign in "{[" else -1
                if self._depth == 0:
                    self._state = _State.AFTER
        self._rest = text[at:]
        return text[:at]
