"""What a request says in fields that its types do not declare: nothing here knows what to do with it, so it is named.

A name is the path of the field without the places in lists: `tools.function.x`, `messages.content.x`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache, reduce
from operator import or_
from typing import Any, ClassVar, Final, Literal

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
        return _of_struct(type.cls)
    if isinstance(type, inspect.UnionType):
        found = [shape for shape in map(_shape, type.types) if shape is not None]
        objects = {tag: fields for shape in found for tag, fields in shape.objects.items()}
        tag = next((shape.tag for shape in found if shape.tag is not None), None)
        items = next((shape.items for shape in found if shape.items is not None), None)
        return _Shape(objects, tag, items) if found else None
    return None


@cache
def _of_struct(cls: Any) -> _Shape:
    type = inspect.type_info(cls)
    assert isinstance(type, inspect.StructType)
    fields = {one.encode_name: _shape(one.type) for one in type.fields}
    if type.tag_field is not None:
        fields[type.tag_field] = None
    return _Shape({type.tag: fields}, type.tag_field)


class _Strict:
    """Makes types that take what a shape has, and refuse objects with any other field. What is in a field of which
    nothing is declared is passed over.

    `neutral`: as of `Undeclared`; of its values, texts alone are taken here.
    """

    # By the fields of the object (they are kept as long as the program runs), and their path where that matters.
    _made: ClassVar[dict[tuple[int, Any, str], Any]] = {}

    def __init__(self, neutral: Mapping[str, Collection[Any]]) -> None:
        self._neutral = {
            name: texts for name, values in neutral.items() if (texts := tuple(v for v in values if isinstance(v, str)))
        }

    def type(self, shape: _Shape | None, path: str = "") -> Any:
        if shape is None:
            return Raw
        kinds: list[Any] = [bool, int, float, str, None]
        if shape.items is not None:
            kinds.append(list[self.type(shape.items, path)])  # type: ignore[misc]
        kinds += (self._object(shape.tag, tag, fields, path) for tag, fields in shape.objects.items())
        return reduce(or_, kinds)

    def _object(self, tag_field: str | None, tag: Any, fields: Mapping[str, _Shape | None], path: str) -> Any:
        beside = {name: values for name, values in self._neutral.items() if name.rpartition(".")[0] == path}
        within = any(f"{name}.".startswith(path) for name in self._neutral)
        key = id(fields), tag, path if within else "-"
        if key not in self._made:
            types = {name: self.type(one, f"{path}.{name}" if path else name) for name, one in fields.items()}
            types |= {name.rpartition(".")[2]: Literal[values] | None for name, values in beside.items()}
            names = [name for name in types if name != tag_field]
            self._made[key] = msgspec.defstruct(
                "Strict",
                [(f"f{place}", types[name], None) for place, name in enumerate(names)],
                rename={f"f{place}": name for place, name in enumerate(names)},
                tag_field=tag_field,
                tag=tag,
                forbid_unknown_fields=True,
            )
        return self._made[key]


class Undeclared:
    """Finds the undeclared fields of JSON texts of a type.

    `neutral`: by name, values that ask for what is done anyway.
    """

    def __init__(self, type: Any, neutral: Mapping[str, Collection[Any]] | None = None) -> None:
        self._shape = _shape(inspect.type_info(type))
        self._neutral = neutral or {}
        # Made when it is first needed.
        self._strict: msgspec.json.Decoder[Any] | None = None

    def __call__(self, raw: bytes | Raw, path: str = "") -> Iterator[str]:
        """Their names. `raw` has been decoded as the type before; `path`: the name of its own place, if any."""
        if self._shape is not None and not self._is_declared(raw, self._shape):
            yield from self._found(decoded(_any, raw, path), self._shape, path)

    def _is_declared(self, raw: bytes | Raw, shape: _Shape) -> bool:
        """Whether nothing in it can be undeclared: told many times quicker than what is."""
        self._strict = self._strict or msgspec.json.Decoder(_Strict(self._neutral).type(shape))
        try:
            self._strict.decode(raw)
        except (ValueError, RecursionError):
            return False
        return True

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
