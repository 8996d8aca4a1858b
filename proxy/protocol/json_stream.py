"""JSON text whose words are translated while it streams: names of properties, and texts that are fixed values.

All other text is handed on as it came, byte for byte. Text that is no JSON is handed on as it is, too.
"""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Final

from proxy.protocol.vocabulary import Node, Words

_BETWEEN: Final = re.compile(r'[^"{}\[\],:]+')
_INSIDE: Final = re.compile(r'[^"\\]+')


class _Frame:
    """An object or array that is open. `child` is the place of the property whose value is next."""

    __slots__ = ("child", "index", "is_object", "name_next", "node")

    def __init__(self, is_object: bool, node: Node | None) -> None:
        self.is_object = is_object
        self.node = node
        self.name_next = is_object
        self.child: Node | None = None
        self.index = 0


class _Wrapping(Enum):
    """How far the one member of the object around is: its name is awaited, its value comes, it is over; or there is
    no such object."""

    AWAITED = "awaited"
    NAMED = "named"
    INSIDE = "inside"
    OVER = "over"
    NONE = "none"


class Translator:
    """Translates one JSON value. `root`: what is known of it; None: it stays as it is.

    With `wrapper`, the value is the one member of an object, which is taken off; where the text has no such object it
    is read without. Texts of any length pass without being held, unless they may be one of the fixed values.
    """

    __slots__ = (
        "_escaped",
        "_frames",
        "_held",
        "_in_text",
        "_out",
        "_root",
        "_size",
        "_there",
        "_words",
        "_wrapper",
        "_wrapping",
    )  # fmt: skip

    def __init__(self, root: Node | None, *, there: bool = False, wrapper: str | None = None) -> None:
        """`there`: from the client's words to those that are sent; else back."""
        self._root = root
        self._there = there
        self._wrapper = wrapper
        self._wrapping = _Wrapping.NONE if wrapper is None else _Wrapping.AWAITED
        self._frames: list[_Frame] = []
        self._out: list[str] = []
        self._in_text = False
        self._escaped = False
        # The text being read, if it may have to be translated, and its words.
        self._held: list[str] = []
        self._words: Words | None = None
        self._size = 0

    def feed(self, text: str) -> str:
        """What is known of the translation after this piece, as far as it has not been returned before."""
        if self._root is None and self._wrapper is None:
            return text
        at = 0
        while at < len(text):
            at = self._read_text(text, at) if self._in_text else self._read_between(text, at)
        if self._wrapping is _Wrapping.AWAITED:
            return ""
        out, self._out = "".join(self._out), []
        return out

    def close(self) -> str:
        """What is still held when the text has ended, which may be in the middle of it."""
        out, self._out = "".join((*self._out, *self._held)), []
        self._held = []
        return "" if self._wrapping is _Wrapping.OVER else out

    def _emit(self, text: str) -> None:
        if self._wrapping not in (_Wrapping.NAMED, _Wrapping.OVER):
            self._out.append(text)

    def _read_between(self, text: str, at: int) -> int:
        """Read what is outside of texts, up to the next sign that matters."""
        found = _BETWEEN.match(text, at)
        if found is not None:
            # White space around the value that is taken off is not the value's.
            outside = self._wrapping is _Wrapping.INSIDE and len(self._frames) == 1
            self._emit(found[0].strip() if outside else found[0])
            return found.end()
        sign = text[at]
        frame = self._frames[-1] if self._frames else None
        if sign == '"':
            self._open_text(frame)
            return at
        if self._wrapping is not _Wrapping.NONE and len(self._frames) == 1 and self._around(sign):
            return at + 1
        if sign in "{[":
            self._frames.append(_Frame(sign == "{", self._place()))
        elif sign in "}]":
            del self._frames[-1:]
        elif frame is not None and sign == ",":
            frame.index += 1
            frame.name_next = frame.is_object
        elif frame is not None:
            frame.name_next = False
        self._emit(sign)
        return at + 1

    def _around(self, sign: str) -> bool:
        """Whether a sign in the object around is none of the value's."""
        if self._wrapping is _Wrapping.AWAITED and sign == "}":
            self._unwrapped()
        elif self._wrapping is _Wrapping.NAMED and sign == ":":
            self._wrapping = _Wrapping.INSIDE
            self._frames[0].name_next = False
            return True
        elif self._wrapping is _Wrapping.INSIDE and sign in ",}":
            self._wrapping = _Wrapping.OVER
        return False

    def _unwrapped(self) -> None:
        """The object around is not there: what has been read is the value itself."""
        self._wrapping = _Wrapping.NONE
        self._frames[0].node = self._root

    def _place(self) -> Node | None:
        """What is known of the value that begins."""
        if not self._frames:
            return self._root if self._wrapper is None else None
        if len(self._frames) == 1 and self._wrapping is _Wrapping.INSIDE:
            return self._root
        frame = self._frames[-1]
        if frame.is_object:
            return frame.child
        return None if frame.node is None else frame.node.child(frame.index)

    def _open_text(self, frame: _Frame | None) -> None:
        self._in_text = True
        self._words = None
        if frame is not None and frame.name_next:
            frame.child = None
            if frame.node is not None:
                self._words = frame.node.names
        elif (place := self._place()) is not None and place.values.out:
            self._words = place.values
        self._size = 0

    def _read_text(self, text: str, at: int) -> int:
        """Read a text up to its end, or as far as it has come."""
        end = at
        over = False
        while end < len(text) and not over:
            found = None if self._escaped else _INSIDE.match(text, end)
            if found is not None:
                end = found.end()
                continue
            sign = text[end]
            # The first sign of a text is its quote.
            over = sign == '"' and not self._escaped and self._size + end - at > 0
            self._escaped = sign == "\\" and not self._escaped
            end += 1
        piece = text[at:end]
        self._size += len(piece)
        name = self._frames[-1] if self._frames and self._frames[-1].name_next else None
        if name is None and self._words is None:
            self._emit(piece)
        else:
            self._held.append(piece)
            if name is None and self._words is not None and self._size > self._words.longest:
                self._words = None
        if (over or (name is None and self._words is None)) and self._held:
            self._release(name, over)
        self._in_text = not over
        return end

    def _release(self, name: _Frame | None, over: bool) -> None:
        """Hand on the text that is held: whole, or too long to be one of the words."""
        raw = "".join(self._held)
        self._held.clear()
        word = None
        if over and (name is not None or self._words is not None):
            try:
                word = json.loads(raw)
            except ValueError:
                word = None
        if not isinstance(word, str):
            self._emit(raw)
            return
        if name is not None and len(self._frames) == 1 and self._wrapping is _Wrapping.AWAITED:
            if word == self._wrapper:
                self._out.clear()
                self._wrapping = _Wrapping.NAMED
                return
            self._unwrapped()
            self._words = None if name.node is None else name.node.names
        other = word if self._words is None else self._words.there(word) if self._there else self._words.back(word)
        self._emit(raw if other == word else json.dumps(other, ensure_ascii=False))
        if name is not None and name.node is not None:
            name.child = name.node.child(word if self._there else other)


def translated(text: str, root: Node | None, *, there: bool) -> str:
    """The whole text at once."""
    translator = Translator(root, there=there)
    return translator.feed(text) + translator.close()
