"""Structured output: what the client's schema becomes for the CLI, and whether an answer fits it.

- The CLI offers the schema to the model as a tool and checks the answer itself. It takes only schemas of an object, and
  drops a schema silently that its validator does not like (an unknown keyword, a broken `$schema`; fixtures schema/*).
  So it gets a copy without anything doubtful, and another root is wrapped into an object with one member.
- The client's own schema, as it came, is what the answer is checked against here.
- References are never fetched from anywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final

import jsonschema_rs
import msgspec
from msgspec import Raw, Struct

from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Schema

# The member of the object that a root of another type is wrapped into.
WRAPPER: Final = "value"
FREE: Final = Schema(Raw(b'{"type":"object","additionalProperties":true}'), Raw(b'{"type":"object"}'), wrapped=False)

# Keywords that the CLI's validator takes, by what stands under them. What is dropped lets more pass; so nothing may
# stay that would then let less pass (`not`, `if`).
_PLAIN: Final = frozenset((
    "type", "enum", "const", "required", "minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "title",
    "description", "default", "examples",
))  # fmt: skip
_SCHEMA: Final = frozenset(("items", "additionalProperties", "contains", "propertyNames"))
_SCHEMAS: Final = frozenset(("anyOf", "allOf"))
# Keywords that mean more when one that is dropped does not stand beside them.
_NEEDED: Final = {"items": "prefixItems", "contains": "minContains"}
_NAMED: Final = frozenset(("properties", "$defs", "definitions", "patternProperties"))


class _JsonSchema(Struct, frozen=True):
    name: str = ""
    schema: Raw = Raw()


class _Format(Struct, frozen=True):
    type: str
    json_schema: _JsonSchema | None = None


# The drafts that need not be fetched.
_DRAFTS: Final = frozenset((
    "http://json-schema.org/draft-04/schema", "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-07/schema", "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
))  # fmt: skip
_ARGUMENT: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_format_decoder: Final = msgspec.json.Decoder(_Format)
_any_decoder: Final = msgspec.json.Decoder(Any)


def _clean(schema: Any, root: str) -> Any:
    """The schema with only such keywords as the CLI's validator is sure to take. `root`: where its root will stand."""
    if not isinstance(schema, dict):
        return schema
    clean: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword == "$ref" and isinstance(value, str):
            clean[keyword] = _moved(value, root)
        elif keyword in _PLAIN and not (keyword.startswith("exclusive") and isinstance(value, bool)):
            clean[keyword] = value
        elif keyword in _SCHEMA and isinstance(value, dict | bool) and _NEEDED.get(keyword) not in schema:
            clean[keyword] = _clean(value, root)
        elif keyword == "oneOf" and isinstance(value, list) and "anyOf" not in schema:
            # Two that differ in what is dropped are one too many.
            clean["anyOf"] = [_clean(one, root) for one in value]
        elif keyword in _SCHEMAS and isinstance(value, list):
            clean[keyword] = [_clean(one, root) for one in value]
        elif keyword in _NAMED and isinstance(value, dict):
            clean[keyword] = {name: _clean(one, root) for name, one in value.items()}
    return clean


def _moved(reference: str, root: str) -> str:
    """A reference into a schema whose root will stand at `root`; definitions will stand where they stood."""
    pointer = reference.removeprefix("#")
    if pointer == reference or pointer[:1] not in ("", "/") or pointer.split("/")[1:2] in (["$defs"], ["definitions"]):
        return reference
    return f"#{root}{pointer}"


def odd_property(schema: dict[str, Any]) -> str | None:
    """A name in it that the Messages API does not take for an argument of a tool. Names further down may be any."""
    named = schema.get("properties")
    return next((name for name in named if not _ARGUMENT.fullmatch(name)), None) if isinstance(named, dict) else None


def _is_object(schema: Any) -> bool:
    """Whether a tool can have this schema: the Messages API refuses one that begins with alternatives."""
    alone = isinstance(schema, dict) and schema.get("type") == "object"
    return alone and not schema.keys() & {"anyOf", "oneOf", "allOf"} and odd_property(schema) is None


def _wrapped(schema: Any) -> Any:
    """An object around the schema, which is the member's. Definitions move to the new root: references lead there."""
    inner = schema
    outer: dict[str, Any] = {"type": "object"}
    if isinstance(schema, dict):
        inner = dict(schema)
        outer |= {keyword: inner.pop(keyword) for keyword in ("$defs", "definitions") if keyword in inner}
    return outer | {"properties": {WRAPPER: inner}, "required": [WRAPPER], "additionalProperties": False}


def flaw(schema: dict[str, Any]) -> str | None:
    """Why this is no JSON Schema, of the draft that it names or else the latest; None when it is one, as far as its
    form goes. References and patterns are not looked at: the Messages API decides on those."""
    named = schema.get("$schema")
    if isinstance(named, str) and named.removesuffix("#") not in _DRAFTS:
        schema = {keyword: value for keyword, value in schema.items() if keyword != "$schema"}
    try:
        jsonschema_rs.meta.validate(schema)
    except jsonschema_rs.ValidationError as wrong:
        return _words(wrong)
    return None


def _words(wrong: jsonschema_rs.ValidationError) -> str:
    path = "".join(f"[{step!r}]" for step in wrong.instance_path)
    return f"At the root{path[:300]}: {wrong.message[:300]}."


# A schema of a few lines can lead to 2^n schemas by its references, and one of many kilobytes exhausts the validator's
# stack, which ends the server: so many are looked at for one value at most, and so many a schema may have.
MOST_SCHEMAS: Final = 10_000
# So many reasons why an answer does not fit are gathered at most to tell the first of them.
MOST_REASONS: Final = 20_000
_DATA: Final = ("enum", "const", "default", "examples")
_MAPS: Final = (*_NAMED, "dependentSchemas", "dependencies")
# Under these a schema is about the same value as the schema that they stand in.
_SAME_VALUE: Final = frozenset((*_SCHEMAS, "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"))
_ESCAPED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")


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
        if max(seen, reached(schema, False)) > MOST_SCHEMAS:
            raise ValueError(f"it has more than {MOST_SCHEMAS} schemas, references followed.")
    return reached(root, True) if unions else 0


@lru_cache(maxsize=64)
def _checker(source: bytes) -> _Checker:
    """Raises ValueError when the schema cannot be used."""
    schema = msgspec.json.decode(source)
    try:
        reasons = _reasons(schema)
    except (LookupError, TypeError):
        raise ValueError("a reference in it leads to nothing.") from None
    except RecursionError:
        raise ValueError("it is nested too deeply.") from None
    return _Checker(jsonschema_rs.validator_for(schema, validate_formats=True, offline=True), reasons)


def response_format(raw: Raw) -> Schema | None:
    """The schema that a `response_format` asks for; None for text. Raises Rejection."""
    where = "response_format"
    format = decoded(_format_decoder, raw, where)
    if format.type == "text":
        return None
    if format.type == "json_object":
        return FREE
    if format.type != "json_schema":
        raise bad_request("Must be one of text, json_object, json_schema.", f"{where}.type")
    where = "response_format.json_schema"
    if format.json_schema is None:
        raise bad_request("A schema is needed.", where)
    if bytes(format.json_schema.schema) in (b"", b"null"):
        return FREE
    where += ".schema"
    schema = decoded(_any_decoder, format.json_schema.schema, where)
    if not isinstance(schema, dict | bool):
        raise bad_request("A JSON Schema is an object.", where)
    source = msgspec.json.encode(schema)
    try:
        _checker(source)
    except (ValueError, RecursionError) as error:
        words = _words(error) if isinstance(error, jsonschema_rs.ValidationError) else str(error)[:300]
        raise bad_request(f"This is not a JSON Schema that can be used: {words}", where) from None
    wrap = not _is_object(schema)
    clean = _clean(schema, f"/properties/{WRAPPER}" if wrap else "")
    return Schema(Raw(msgspec.json.encode(_wrapped(clean) if wrap else clean)), Raw(source), wrapped=wrap)


def misfit(schema: Schema, text: str) -> str | None:
    """Why `text` is no answer to `schema`, in a sentence; None when it is one."""
    return _misfit(bytes(schema.source), text)


def odd_arguments(schema: Raw, text: str) -> bool:
    """Whether `text` is not what a tool with this schema takes. A schema that cannot be used lets all JSON pass."""
    try:
        return _misfit(bytes(schema), text) is not None
    except (ValueError, RecursionError):
        return False


def _misfit(source: bytes, text: str) -> str | None:
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        return f"It is not valid JSON: {error}."
    checker = _checker(source)
    try:
        if checker.validator.is_valid(value):
            return None
        if checker.reasons * (1 + text.count(",")) <= MOST_REASONS:
            # Not `iter_errors`: it collects all of them first, and a schema can be made that has millions.
            checker.validator.validate(value)
    except jsonschema_rs.ValidationError as wrong:
        return _words(wrong)
    except ValueError:
        return "It is nested too deeply."
    return "It is no value that the schema allows."


class Unwrapper:
    """Takes the one value out of `{"value": …}` while it streams, however the text is cut."""

    __slots__ = ("_begun", "_depth", "_escaped", "_in_string", "_over", "_seen_colon")

    def __init__(self) -> None:
        self._seen_colon = False
        self._begun = False
        self._in_string = False
        self._escaped = False
        self._depth = 0
        self._over = False

    def feed(self, text: str) -> str:
        out: list[str] = []
        for char in text:
            if self._over:
                break
            if not self._seen_colon:
                # Before the colon stand a brace, the member's name in quotes, and white space.
                self._seen_colon = char == ":"
                continue
            if not self._begun and char in " \n\t\r":
                continue
            self._begun = True
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._in_string = False
            elif char == '"':
                self._in_string = True
            elif char in "[{":
                self._depth += 1
            elif char in "]}":
                if self._depth == 0:
                    self._over = True
                    break
                self._depth -= 1
            elif char == "," and self._depth == 0:
                self._over = True
                break
            out.append(char)
        return "".join(out)
