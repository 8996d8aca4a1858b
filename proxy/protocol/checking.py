"""Whether a JSON Schema can be used, and whether a value fits it.

Schemas come from clients, and references are never fetched. One that is sure to cost too much is refused, but what is
left may still take any time and memory: this runs where both are bounded, and nothing is kept from one to the next.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import jsonschema_rs
import msgspec
from msgspec import Struct

from proxy.protocol.judging import MAX_SCHEMAS, TOO_DEEP, Item

# The drafts that need not be fetched.
_DRAFTS: Final = frozenset((
    "http://json-schema.org/draft-04/schema", "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-07/schema", "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
))  # fmt: skip
# So many reasons why an answer does not fit are gathered at most to tell the first of them.
MAX_REASONS: Final = 20_000
_DATA: Final = ("enum", "const", "default", "examples")
_MAPS: Final = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas", "dependencies")
# Under these a schema is about the same value as the schema that they stand in.
_SAME_VALUE: Final = frozenset(
    ("anyOf", "allOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies")
)
_ESCAPED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


def fault(item: Item) -> str | None:
    """What is wrong with the item, in a sentence; None when nothing is. See `Item` for the tasks."""
    source = bytes(item.schema)
    if item.task == "tool":
        return _flaw(source)
    return _unusable(source) if item.task == "format" else _misfit(source, item.text)


def _flaw(source: bytes) -> str | None:
    """Why this is no JSON Schema, of the draft that it names or else the latest; None when it is one, as far as its
    form goes. References and patterns are not looked at: the Messages API decides on those."""
    try:
        schema = _nameless(msgspec.json.decode(source))
        named = schema.get("$schema")
        if isinstance(named, str) and named.removesuffix("#") not in _DRAFTS:
            schema = {keyword: value for keyword, value in schema.items() if keyword != "$schema"}
        jsonschema_rs.meta.validate(schema)
    except jsonschema_rs.ValidationError as wrong:
        return _words(wrong)
    except (ValueError, RecursionError):
        return TOO_DEEP
    return None


def _nameless(schema: Any) -> Any:
    """The schema without a name of its own, which nothing refers to, and for which some clients have plain words."""
    if isinstance(schema, dict) and isinstance(schema.get("$id"), str):
        return {keyword: value for keyword, value in schema.items() if keyword != "$id"}
    return schema


def _words(wrong: jsonschema_rs.ValidationError) -> str:
    path = "".join(f"[{step!r}]" for step in wrong.instance_path)
    return f"At the root{path[:300]}: {wrong.message[:300]}."


class _Checker(Struct, frozen=True):
    """`reasons`: how many the validator may gather for each member of a value that does not fit."""

    validator: jsonschema_rs.Validator
    reasons: float


def _target(root: Any, reference: str) -> Any:
    if reference[:2] not in ("#", "#/"):
        raise ValueError(f"the reference {reference[:100]!r}: those of the form `#` and `#/...` are followed.")
    plain = _ESCAPED.sub(lambda octet: bytes.fromhex(octet[1].decode()), reference.encode()).decode()
    at = root
    for step in plain.split("/")[1:]:
        at = at[int(step) if isinstance(at, list) and step.isdecimal() else step.replace("~1", "/").replace("~0", "~")]
    return at


def _inner(schema: dict[str, Any]) -> Iterator[tuple[bool, Any]]:
    """The schemas in a schema, but for references, each with whether it is about the same value."""
    for keyword, value in schema.items():
        if keyword not in _DATA:
            some = value.values() if keyword in _MAPS and isinstance(value, dict) else value
            for one in some if isinstance(some, Iterable) and not isinstance(some, str | dict) else (some,):
                if isinstance(one, dict):
                    yield keyword in _SAME_VALUE, one


def _reasons(root: Any) -> float:
    """See `_Checker`. Raises ValueError for a schema that costs too much, LookupError for a reference to nothing."""
    counted: dict[tuple[int, bool], float] = {}

    def reached(schema: Any, everywhere: bool) -> float:
        """How many schemas are looked at for one value, or also for all that is in it; infinite where they recur."""
        if not isinstance(schema, dict):
            return 0
        key = (id(schema), everywhere)
        if key not in counted:
            counted[key] = math.inf
            inner = [one for same, one in _inner(schema) if same or everywhere]
            inner += [_target(root, schema[name]) for name in _REFERENCES if isinstance(schema.get(name), str)]
            counted[key] = 1 + sum([reached(one, everywhere) for one in inner])
        return counted[key]

    left, seen, unions = [root], 0, False
    while left:
        schema = left.pop()
        if not isinstance(schema, dict):
            continue
        left += [one for _, one in _inner(schema)]
        seen += 1
        unions = unions or "anyOf" in schema or "oneOf" in schema
        if math.isinf(reached(schema, False)):
            raise ValueError("a reference in it leads back to itself.")
        if max(seen, reached(schema, False)) > MAX_SCHEMAS:
            raise ValueError(f"it has more than {MAX_SCHEMAS} schemas, references followed.")
    return reached(root, True) if unions else 0


def _checker(source: bytes) -> _Checker:
    """Raises ValueError when the schema cannot be used."""
    schema = _nameless(msgspec.json.decode(source))
    try:
        reasons = _reasons(schema)
    except (LookupError, TypeError):
        raise ValueError("a reference in it leads to nothing.") from None
    except RecursionError:
        raise ValueError("it is nested too deeply.") from None
    return _Checker(jsonschema_rs.validator_for(schema, validate_formats=True, offline=True), reasons)


def _unusable(source: bytes) -> str | None:
    """Why answers cannot be checked against this schema, in words; None when they can."""
    try:
        _checker(source)
    except jsonschema_rs.ValidationError as wrong:
        return _words(wrong)
    except (ValueError, RecursionError) as error:
        return str(error)[:300]
    return None


def _misfit(source: bytes, text: str) -> str | None:
    """Why `text` does not fit the schema, in a sentence. A schema that cannot be used lets all JSON pass."""
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        return f"It is not valid JSON: {error}."
    try:
        checker = _checker(source)
    except (ValueError, RecursionError):
        return None
    try:
        if checker.validator.is_valid(value):
            return None
        if checker.reasons * (1 + text.count(",")) <= MAX_REASONS:
            # Not `iter_errors`: it collects all of them first, and a schema can be made that has millions.
            checker.validator.validate(value)
    except jsonschema_rs.ValidationError as wrong:
        return _words(wrong)
    except ValueError:
        return TOO_DEEP
    return "It is no value that the schema allows."
