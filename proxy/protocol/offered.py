"""A client's tool in the form in which it passes through the CLI unchanged and the Messages API takes it."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec
from msgspec import Raw, Struct

from proxy.protocol.aliases import ARGUMENT_NAME, escaped, plain
from proxy.protocol.json_stream import Translator, translated
from proxy.protocol.vocabulary import DEFINED, LISTS, MAPS, Node, Schema, Vocabulary, inner, pointer

# The member of the object that a schema is wrapped into, unless the schema has a property of that name.
WRAPPER: Final = "arguments"


class _Head(Struct, frozen=True):
    """What matters at a schema's root. The Messages API takes no alternatives there: the CLI merges their branches into
    one, or drops the tool."""

    properties: dict[str, Raw] = {}
    anyOf: Raw = Raw()
    oneOf: Raw = Raw()
    allOf: Raw = Raw()


# A schema that is being changed.
_Writable = dict[str, Any]
_head_decoder: Final = msgspec.json.Decoder(_Head)
_schema_decoder: Final = msgspec.json.Decoder(dict[str, Any])


class Offered(Struct, frozen=True):
    """A schema as it is sent, and what leads from its words to the client's.

    `vocabulary` None: the words are the same. `wrapper`: the arguments are the member of that name.
    """

    schema: Raw
    vocabulary: Vocabulary | None = None
    wrapper: str | None = None

    @property
    def _root(self) -> Node | None:
        return None if self.vocabulary is None else self.vocabulary.node(self.vocabulary.source)

    @property
    def same(self) -> bool:
        """Whether arguments need no translation."""
        return self.vocabulary is None and self.wrapper is None

    def there(self, arguments: Raw) -> Raw:
        """Arguments of the client's, a JSON object, as they are sent."""
        text = translated(bytes(arguments).decode(), self._root, there=True)
        return Raw(
            (text if self.wrapper is None else f"{{{msgspec.json.encode(self.wrapper).decode()}:{text}}}").encode()
        )

    def back(self) -> Translator:
        """For the arguments of one call, as the model writes them."""
        return Translator(self._root, wrapper=self.wrapper)


def offered(schema: Raw) -> Offered:
    """The form of a tool's schema that passes; the schema itself where that does, which costs next to nothing."""
    try:
        head = _head_decoder.decode(schema)
        if _passes(bytes(schema), head):
            return Offered(schema)
        source = _schema_decoder.decode(schema)
        return _translated(source, bool(head.anyOf or head.oneOf or head.allOf))
    except (msgspec.MsgspecError, RecursionError):
        # Not the form of a schema, or too deep for one: it is for the Messages API to say so.
        return Offered(schema)


def _passes(text: bytes, head: _Head) -> bool:
    return (
        text.isascii()
        and b"\\u" not in text
        and b"__proto__" not in text
        and not (head.anyOf or head.oneOf or head.allOf)
        and all(map(ARGUMENT_NAME.fullmatch, head.properties))
        and not any(bytes(one) in (b"true", b"false") for one in head.properties.values())
    )


def _translated(source: Schema, wrapped: bool) -> Offered:
    vocabulary = Vocabulary(source, argument=not wrapped)
    wrapper = None
    if wrapped:
        wrapper = WRAPPER
        while wrapper in vocabulary.declared:
            wrapper += "_"
    schema = _Rewriting(vocabulary, wrapper).schema()
    return Offered(Raw(msgspec.json.encode(schema)), vocabulary if vocabulary.changed else None, wrapper)


class _Rewriting:
    """Makes of a schema the one that is sent."""

    __slots__ = ("_vocabulary", "_wrapper")

    def __init__(self, vocabulary: Vocabulary, wrapper: str | None) -> None:
        self._vocabulary = vocabulary
        self._wrapper = wrapper

    def schema(self) -> _Writable:
        source = self._vocabulary.source
        root: _Writable = msgspec.json.decode(msgspec.json.encode(source))
        left: list[tuple[Schema, _Writable, bool]] = [(source, root, False)]
        while left:
            old, new, of_names = left.pop()
            pairs = zip(inner(old), inner(new), strict=True)
            left += [
                (one, cast("_Writable", other), keyword == "propertyNames")
                for (keyword, _, one), (_, _, other) in pairs
            ]
            self._change(old, new, of_names)
        properties = root.get("properties")
        if isinstance(properties, dict) and self._wrapper is None:
            self._arguments(properties)
        return root if self._wrapper is None else _wrapped(root, self._wrapper)

    def _change(self, old: Schema, new: _Writable, of_names: bool) -> None:
        """Change what the schema itself says; schemas in it are changed by themselves."""
        names = self._vocabulary.names
        for keyword in MAPS | {"dependentRequired"}:
            if isinstance(new.get(keyword), dict):
                new[keyword] = {self._key(keyword, name): _renamed(one, names) for name, one in new[keyword].items()}
        if isinstance(new.get("required"), list):
            new["required"] = _renamed(new["required"], names)
        if isinstance(new.get("pattern"), str):
            new["pattern"] = escaped(new["pattern"])
        if isinstance(new.get("$ref"), str):
            new["$ref"] = self._reference(new["$ref"])
        words = names if of_names else self._vocabulary.values
        if isinstance(new.get("enum"), list):
            new["enum"] = [self._value(one, old, words) for one in new["enum"]]
        if "const" in new:
            new["const"] = self._value(new["const"], old, words)
        if isinstance(new.get("examples"), list):
            new["examples"] = [self._value(one, old) for one in new["examples"]]
        if "default" in new:
            new["default"] = self._value(new["default"], old)

    def _key(self, keyword: str, name: str) -> str:
        if keyword in DEFINED:
            return self._vocabulary.definitions.get(name, name)
        return escaped(name) if keyword == "patternProperties" else self._vocabulary.names.get(name, name)

    def _value(self, value: Any, schema: Schema, words: dict[str, str] | None = None) -> Any:
        """A value that the schema shows, in the words that are sent for it: `words` for a text if they are known."""
        if isinstance(value, str) and words is not None:
            return words.get(value, value)
        if not isinstance(value, str | dict | list) or not self._vocabulary.changed:
            return value
        text = translated(msgspec.json.encode(value).decode(), self._vocabulary.node(schema), there=True)
        return msgspec.json.decode(text)

    def _reference(self, reference: str) -> str:
        """The same reference where names have changed, or the root stands elsewhere."""
        steps = pointer(reference)
        if steps is None:
            return reference
        changed: list[str] = []
        under: str | None = None
        for step in steps:
            if under is None or (under == "items" and not step.isdecimal()):
                changed.append(step)
                under = step if step in MAPS or step in LISTS else None
            else:
                changed.append(step if under in LISTS else self._key(under, step))
                under = None
        if self._wrapper is not None and not (steps and steps[0] in DEFINED):
            changed = ["properties", self._wrapper, *changed]
        if changed == steps:
            return reference
        return "#" + "".join("/" + step.replace("%", "%25").replace("~", "~0").replace("/", "~1") for step in changed)

    def _arguments(self, properties: _Writable) -> None:
        """The root's properties: those whose name says less now get the client's as their title."""
        for name, sent in self._vocabulary.names.items():
            one = properties.get(sent)
            if sent != plain(name) and isinstance(one, dict):
                one.setdefault("title", name)
        for name, one in properties.items():
            # Older CLIs drop all tools where one has a property like that.
            if isinstance(one, bool):
                properties[name] = {} if one else {"not": {}}


def _renamed(names: Any, aliases: dict[str, str]) -> Any:
    """A list of names of properties; anything else stays as it is."""
    if not isinstance(names, list):
        return names
    return [aliases.get(name, name) if isinstance(name, str) else name for name in names]


def _wrapped(root: _Writable, wrapper: str) -> _Writable:
    """An object around the schema. Definitions move to the new root, where references look for them."""
    outer: _Writable = {"type": "object"}
    outer |= {keyword: root.pop(keyword) for keyword in (*DEFINED, "$schema") if keyword in root}
    return outer | {"properties": {wrapper: root}, "required": [wrapper], "additionalProperties": False}
