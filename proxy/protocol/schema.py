"""Structured output: what the client's schema becomes for the CLI, and whether an answer fits it.

- The CLI offers the schema to the model as a tool and checks the answer itself. It takes only schemas of an object, and
  drops a schema silently that its validator does not like (an unknown keyword, a broken `$schema`; fixtures schema/*).
  So it gets a copy without anything doubtful, and another root is wrapped into an object with one member.
- The client's own schema, as it came, is what the answer is checked against here.
- References are never fetched from anywhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, Literal

import jsonschema_rs
import msgspec
from msgspec import Raw, Struct

from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Schema

# The member of the object that a root of another type is wrapped into.
WRAPPER: Final = "value"
FREE: Final = Schema(Raw(b'{"type":"object","additionalProperties":true}'), Raw(b'{"type":"object"}'), wrapped=False)

# Keywords that the CLI's validator takes, by what stands under them.
_PLAIN: Final = frozenset((
    "type", "enum", "const", "required", "minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "title",
    "description", "default", "examples",
))  # fmt: skip
_SCHEMA: Final = frozenset(("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else"))
_SCHEMAS: Final = frozenset(("anyOf", "oneOf", "allOf"))
_NAMED: Final = frozenset(("properties", "$defs", "definitions", "patternProperties"))


class _JsonSchema(Struct, frozen=True):
    name: str = ""
    schema: Raw = Raw()


class _Format(Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


# The drafts that need not be fetched.
_DRAFTS: Final = frozenset((
    "http://json-schema.org/draft-04/schema", "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-07/schema", "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
))  # fmt: skip
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
        elif keyword in _PLAIN:
            clean[keyword] = value
        elif keyword in _SCHEMA and isinstance(value, dict | bool):
            clean[keyword] = _clean(value, root)
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


def _is_object(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "object"


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
        path = "".join(f"[{step!r}]" for step in wrong.instance_path)
        return f"At the root{path}: {wrong.message[:300]}."
    return None


@lru_cache(maxsize=64)
def _validator(source: bytes) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(msgspec.json.decode(source), validate_formats=True, offline=True)


def response_format(raw: Raw) -> Schema | None:
    """The schema that a `response_format` asks for; None for text. Raises Rejection."""
    where = "response_format"
    format = decoded(_format_decoder, raw, where)
    if format.type == "text":
        return None
    if format.type == "json_object":
        return FREE
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
        _validator(source)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"This is not a JSON Schema that can be used: {str(error)[:300]}", where) from None
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
    validator = _validator(source)
    try:
        # Not `iter_errors`: it collects all of them first, and a schema can be made that has millions.
        validator.validate(value)
    except jsonschema_rs.ValidationError as wrong:
        path = "".join(f"[{step!r}]" for step in wrong.instance_path)
        return f"At the root{path}: {wrong.message[:300]}."
    return None


class Unwrapper:
    """Takes the one value out of `{"value": …}` while it streams, however the text is cut."""

    __slots__ = ("_depth", "_escaped", "_in_string", "_over", "_seen_colon")

    def __init__(self) -> None:
        self._seen_colon = False
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
