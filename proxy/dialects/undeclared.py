"""What a request says in fields that its types do not declare: nothing here knows what to do with it, so it is named.

A name is the path of the field without the places in lists: `tools.function.x`, `messages.content.x`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, field, inspect

from proxy.dialects import marks
from proxy.protocol.decoding import decoded

_WORD: Final = re.compile(r"[^a-zA-Z0-9_.-]")
_INDEX: Final = re.compile(r"\[\d+\]")
_any: Final = msgspec.json.Decoder(Any)
# Values that ask for nothing, whatever the field.
_NOTHING: Final[tuple[Any, ...]] = (None, [], {})


def named(place: str) -> str:
    """The name of a place in a request: its path without the places in lists."""
    return _INDEX.sub("", place)


def word(text: str) -> str:
    """A client's word, fit for a header."""
    return _WORD.sub("_", text[:60]) or "_"


class _Shape(Struct, frozen=True):
    """What may stand in a place. `objects`: by the value of `tag` (None: there is no tag), the fields and what may
    stand in them; `items`: what may stand in a list."""

    objects: dict[Any, dict[str, _Shape | None]] = field(default_factory=dict)
    tag: str | None = None
    items: _Shape | None = None


def _shape(type: inspect.Type) -> _Shape | None:
    """None: nothing is declared of what is in there, so it may hold anything."""
    if isinstance(type, inspect.Metadata):
        return _shape(type.type)
    if isinstance(type, inspect.ListType):
        items = _shape(type.item_type)
        return None if items is None else _Shape(items=items)
    if isinstance(type, inspect.StructType):
        fields = {one.encode_name: _shape(one.type) for one in type.fields}
        if type.tag_field is not None:
            fields[type.tag_field] = None
        return _Shape({type.tag: fields}, type.tag_field)
    if isinstance(type, inspect.UnionType):
        found = [shape for shape in map(_shape, type.types) if shape is not None]
        objects = {tag: fields for shape in found for tag, fields in shape.objects.items()}
        tag = next((shape.tag for shape in found if shape.tag is not None), None)
        items = next((shape.items for shape in found if shape.items is not None), None)
        return _Shape(objects, tag, items) if found else None
    return None


class Undeclared:
    """Finds the undeclared fields of JSON texts of a type.

    `neutral`: by name, values that ask for what is done anyway.
    """

    def __init__(self, type: Any, neutral: Mapping[str, Collection[Any]] | None = None) -> None:
        self._shape = _shape(inspect.type_info(type))
        self._neutral = neutral or {}

    def __call__(self, raw: bytes | Raw, path: str = "") -> Iterator[str]:
        """Their names. `raw` has been decoded as the type before; `path`: the name of its own place, if any."""
        if self._shape is not None:
            yield from self._found(decoded(_any, raw, path), self._shape, path)

    def _found(self, value: Any, shape: _Shape, path: str) -> Iterator[str]:
        if isinstance(value, list) and shape.items is not None:
            for item in value:
                yield from self._found(item, shape.items, path)
        elif isinstance(value, dict) and shape.objects:
            tag = None if shape.tag is None else value.get(shape.tag)
            # A tag may be left out where only one can stand.
            fields = shape.objects.get(tag) or next(iter(shape.objects.values()))
            for name, inner in value.items():
                if name in fields:
                    further = fields[name]
                    if further is not None:
                        yield from self._found(inner, further, f"{path}.{name}" if path else name)
                elif inner not in _NOTHING:
                    # Marks for the prompt cache are named as one, wherever they stand.
                    place = marks.NAME if name == marks.NAME else f"{path}.{word(name)}" if path else word(name)
                    if inner not in self._neutral.get(place, ()):
                        yield place
