"""The words of one tool's schema: the names of properties and the fixed values, as the client has them and as sent.

A word that cannot be sent as it is has one alias in the whole tool, so no two words are ever confused. It is translated
where the schema declares it, and nowhere else: a free text that happens to be like an alias stays what it is. Where a
place takes declared words and free ones as well, a word like an alias is read as the declared one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from proxy.protocol.aliases import LONGEST_ARGUMENT, Aliases, normalised, passes, plain, property_alias

# So many schemas and words in them are looked at for one tool's translation. Beyond that words are translated wherever
# they stand.
MOST_LOOKED_AT: Final = 50_000
# And so many times one of them is looked at for what it says of a property or an item.
MOST_LOOKS: Final = 250_000

_ONE: Final = frozenset((
    "items", "additionalItems", "additionalProperties", "unevaluatedItems", "unevaluatedProperties", "contains",
    "propertyNames", "not", "if", "then", "else",
))  # fmt: skip
LISTS: Final = frozenset(("allOf", "anyOf", "oneOf", "prefixItems", "items"))
DEFINED: Final = frozenset(("$defs", "definitions"))
BY_NAME: Final = frozenset(("properties", "dependentSchemas", "dependencies"))
MAPS: Final = BY_NAME | DEFINED | {"patternProperties"}
# Under these a schema is about the same value as the schema that they stand in.
_SAME: Final = frozenset(("allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas", "dependencies"))
_REST: Final = ("additionalProperties", "unevaluatedProperties")
_FIRST: Final = ("prefixItems", "items")
_REST_ITEMS: Final = ("items", "additionalItems", "unevaluatedItems", "contains")

# A JSON Schema that is an object, as it is read.
Schema = Mapping[str, Any]


def inner(schema: Schema) -> Iterator[tuple[str, str | int | None, Schema]]:
    """The schemas in a schema: the keyword, the name or index under it if there is one, and the schema."""
    for keyword, value in schema.items():
        if isinstance(value, dict) and keyword in _ONE:
            yield keyword, None, value
        elif isinstance(value, dict) and keyword in MAPS:
            for name, one in value.items():
                if isinstance(one, dict):
                    yield keyword, name, one
        elif isinstance(value, list) and keyword in LISTS:
            for index, one in enumerate(value):
                if isinstance(one, dict):
                    yield keyword, index, one


def constants(schema: Schema) -> list[Any]:
    """The values that `enum` and `const` name."""
    found = list(schema["enum"]) if isinstance(schema.get("enum"), list) else []
    return [*found, schema["const"]] if "const" in schema else found


def named(schema: Schema) -> Iterator[str]:
    """The names of properties that the schema itself names."""
    for keyword in ("properties", "dependentSchemas", "dependencies", "dependentRequired"):
        if isinstance(schema.get(keyword), dict):
            yield from schema[keyword]
    for keyword in ("dependencies", "dependentRequired"):
        if isinstance(schema.get(keyword), dict):
            for names in schema[keyword].values():
                yield from _texts(names)
    yield from _texts(schema.get("required"))
    if isinstance(schema.get("propertyNames"), dict):
        yield from _texts(constants(schema["propertyNames"]))
    for value in constants(schema):
        if isinstance(value, dict):
            yield from value


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _leaves(value: Any) -> Iterator[tuple[list[str], str | None]]:
    """What is in a constant: the names of each object in it, and each text."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield list(one), None
            left += one.values()
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str):
            yield [], one


class Vocabulary:
    """The words of a schema. `names` and `values`: those that are changed, with what is sent for them; `definitions`:
    the same for the names of definitions. `declared`: all names of properties.

    `argument`: the root's properties are the arguments themselves, so their names must be such as the API takes.
    """

    __slots__ = ("_budget", "_looks", "_nodes", "declared", "definitions", "everywhere", "names", "source", "values")

    def __init__(self, source: Schema, *, argument: bool) -> None:
        self.source = source
        self._nodes: dict[frozenset[int], Node] = {}
        self._budget = MOST_LOOKED_AT
        self._looks = MOST_LOOKS
        names: dict[str, None] = {}
        values: dict[str, None] = {}
        definitions: dict[str, None] = {}
        left = [source]
        while left:
            schema = left.pop()
            names.update(dict.fromkeys(named(schema)))
            for constant in constants(schema):
                for keys, text in _leaves(constant):
                    names.update(dict.fromkeys(keys))
                    if text is not None:
                        values[text] = None
            for keyword, name, one in inner(schema):
                if keyword in DEFINED and isinstance(name, str):
                    definitions[name] = None
                left.append(one)
        root = source.get("properties")
        first = frozenset(root) if argument and isinstance(root, dict) else frozenset[str]()
        self.declared = frozenset(names)
        self.names = _names(names, first)
        self.values = _values(values)
        self.definitions = _values(definitions)
        # For words wherever they stand.
        self.everywhere = Node(self, None)

    @property
    def changed(self) -> bool:
        return bool(self.names or self.values)

    def node(self, *schemas: Schema) -> Node:
        """What is known of a value to which these schemas apply."""
        key = frozenset(map(id, schemas))
        found = self._nodes.get(key)
        if found is None:
            closed = self._closed(schemas)
            found = self._nodes[key] = self.everywhere if closed is None else Node(self, closed)
        return found

    def may_look(self, count: int) -> bool:
        """Whether so many more may be looked at, which are counted then."""
        if self._looks < count:
            return False
        self._looks -= count
        return True

    def _closed(self, schemas: tuple[Schema, ...]) -> list[Schema] | None:
        """These schemas and all that apply to the same value, alternatives included; None: there are too many."""
        seen: dict[int, Schema] = {}
        left = list(schemas)
        while left:
            schema = left.pop()
            if id(schema) in seen:
                continue
            seen[id(schema)] = schema
            self._budget -= 1 + sum(len(value) for value in schema.values() if isinstance(value, list | dict))
            if self._budget < 0:
                return None
            left += [one for keyword, _, one in inner(schema) if keyword in _SAME]
            target = self.target(schema)
            if target is not None:
                left.append(target)
        return list(seen.values())

    def target(self, schema: Schema) -> Schema | None:
        """What its `$ref` leads to; None where there is none, or it leads to nothing, or out of the schema."""
        at: Any = self.source
        steps = pointer(schema.get("$ref"))
        if steps is None:
            return None
        for step in steps:
            if isinstance(at, list) and _INDEX.fullmatch(step) and int(step) < len(at):
                at = at[int(step)]
            elif isinstance(at, dict) and step in at:
                at = at[step]
            else:
                return None
        return at if isinstance(at, dict) else None


def _names(names: dict[str, None], first: frozenset[str]) -> dict[str, str]:
    same = {name for name in names if passes(name, argument=name in first)}
    others = [(name, property_alias(name, argument=name in first)) for name in names if name not in same]
    aliases = Aliases()
    aliases.take(same, others, longest=LONGEST_ARGUMENT if first else 0)
    return aliases.out


def _values(values: dict[str, None]) -> dict[str, str]:
    same = {value for value in values if normalised(value) == value}
    aliases = Aliases()
    aliases.take(same, [(value, plain(value)) for value in values if value not in same], mark=" ({})")
    return aliases.out


_INDEX: Final = re.compile(r"[0-9]{1,9}")
_PERCENT: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


def pointer(reference: Any) -> list[str] | None:
    """The steps of a reference within the schema (`#/$defs/x`); None for any other."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return None
    try:
        text = _PERCENT.sub(lambda octet: bytes.fromhex(octet[1].decode()), reference.encode()).decode()
    except UnicodeError:
        return None
    return [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]


class Words:
    """Words of one place, both ways. `same`: words that stay as they are."""

    __slots__ = ("_back", "_like", "longest", "out")

    def __init__(self, out: dict[str, str], same: set[str]) -> None:
        self.out = out
        self._back = {sent: word for word, sent in out.items()}
        self._back.update((word, word) for word in same)
        self._like = {normalised(sent): word for word, sent in out.items()}
        # Longer in JSON than any of these words can be written.
        self.longest = max((len(word) + len(sent) for word, sent in out.items()), default=0) * 12 + 2

    def there(self, word: str) -> str:
        return self.out.get(word, word)

    def back(self, word: str) -> str:
        """The client's word, also for one that the model has written as the client does, or nearly."""
        found = self._back.get(word)
        if found is not None:
            return found
        return word if word in self.out else self._like.get(normalised(word), word)


class Node:
    """What the schema says of the value at one place. `names` and `values`: the words declared there."""

    __slots__ = ("_children", "_first", "_keys", "_made", "_schemas", "_size", "_vocabulary", "names", "values")

    def __init__(self, vocabulary: Vocabulary, schemas: list[Schema] | None) -> None:
        """`schemas`: all that apply to the value; None: it may be any of the vocabulary."""
        self._vocabulary = vocabulary
        self._schemas = schemas
        self._children: dict[str | int | None, Node | None] = {}
        # Schemas made for the parts of constants: they live as long as their ids are in use.
        self._made: list[Schema] = []
        if schemas is None:
            self.names = Words(vocabulary.names, set())
            self.values = Words(vocabulary.values, set())
            return
        found = [constant for schema in schemas for constant in constants(schema)]
        self.names = _declared(vocabulary.names, (name for schema in schemas for name in named(schema)))
        self.values = _declared(vocabulary.values, (value for value in found if isinstance(value, str)))
        # What is looked at for each of them.
        patterns = (schema.get("patternProperties") for schema in schemas)
        self._size = len(schemas) + len(found) + sum(len(one) for one in patterns if isinstance(one, dict))
        # The properties, and the number of the first items, that have a schema of their own.
        self._keys: set[str] = set()
        self._first = 0
        for one in (*found, *(schema.get("properties") for schema in schemas)):
            if isinstance(one, dict):
                self._keys.update(one)
        for one in (*found, *(schema.get(keyword) for schema in schemas for keyword in _FIRST)):
            if isinstance(one, list):
                self._first = max(self._first, len(one))

    def child(self, step: str | int) -> Node | None:
        """The place under a property, by the client's name, or under an index; None where nothing is known of it."""
        if self._schemas is None:
            return self
        own = step in self._keys if isinstance(step, str) else step < self._first
        key = step if own else None if isinstance(step, str) else -1
        if key not in self._children and not self._vocabulary.may_look(self._size):
            return self._vocabulary.everywhere
        if key not in self._children:
            below = [one for one in self._below(step, self._schemas) if isinstance(one, dict)]
            self._children[key] = self._vocabulary.node(*below) if below else None
        return self._children[key]

    def _below(self, step: str | int, schemas: list[Schema]) -> Iterator[Any]:
        for schema in schemas:
            yield from _property(schema, step) if isinstance(step, str) else _item(schema, step)
            for constant in constants(schema):
                part: list[Any] = []
                if isinstance(step, str) and isinstance(constant, dict) and step in constant:
                    part = [constant[step]]
                elif isinstance(step, int) and isinstance(constant, list):
                    part = constant[step : step + 1]
                for one in part:
                    self._made.append({"const": one})
                    yield self._made[-1]


def _declared(words: dict[str, str], declared: Iterator[str]) -> Words:
    found = set(declared)
    return Words({word: words[word] for word in found if word in words}, {word for word in found if word not in words})


def _property(schema: Schema, name: str) -> list[Any]:
    properties = schema.get("properties")
    if isinstance(properties, dict) and name in properties:
        return [properties[name]]
    patterns = schema.get("patternProperties")
    rest = list(patterns.values()) if isinstance(patterns, dict) else []
    return [*rest, *(schema.get(keyword) for keyword in _REST)]


def _item(schema: Schema, index: int) -> list[Any]:
    for keyword in _FIRST:
        first = schema.get(keyword)
        if isinstance(first, list) and index < len(first):
            return [first[index]]
    return [schema.get(keyword) for keyword in _REST_ITEMS]
