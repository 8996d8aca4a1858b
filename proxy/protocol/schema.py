"""Structured output: what the client's schema becomes for the CLI, and the answer that comes out of it.

- The CLI offers the schema to the model as a tool and checks the answer itself. It takes only schemas of an object, and
  drops a schema silently that its validator does not like (an unknown keyword, a broken `$schema`; fixtures schema/*).
  So it gets a copy without anything doubtful, and another root is wrapped into an object with one member. What would
  change the answer is then told to the model in words: an answer is refused for nothing that it was not told.
- The client's own schema, as it came, is what the answer is checked against, and is judged before (`judging`). What is
  done with it here takes time in proportion to its size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw

from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.judging import MAX_SCHEMAS, TOO_DEEP
from proxy.protocol.plan import Schema

# Bytes of a schema as it comes.
MAX_BYTES: Final = 1 << 20
# The member of the object that a root of another type is wrapped into.
WRAPPER: Final = "value"
FREE: Final = Schema(Raw(b'{"type":"object","additionalProperties":true}'), Raw(b'{"type":"object"}'), wrapped=False)

# Keywords that the CLI's validator takes, by what stands under them. What is dropped lets more pass; so nothing may
# stay that would then let less pass (`not`, `if`).
_PLAIN: Final = frozenset((
    "type", "enum", "const", "required", "minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "format",
    "title", "description", "default", "examples",
))  # fmt: skip
_SCHEMA: Final = frozenset(("items", "additionalProperties", "contains", "propertyNames"))
_SCHEMAS: Final = frozenset(("anyOf", "allOf"))
# Keywords that mean more when one that is dropped does not stand beside them.
_NEEDED: Final = {"items": "prefixItems", "contains": "minContains"}
_NAMED: Final = frozenset(("properties", "$defs", "definitions", "patternProperties"))
# Keywords that say what an answer may be and that the CLI does not get, or not always: the model is told of them.
_TOLD: Final = frozenset((
    "pattern", "exclusiveMinimum", "exclusiveMaximum", "not", "oneOf", "if", "then", "else", "items", "prefixItems",
    "additionalItems", "unevaluatedItems", "contains", "minContains", "maxContains", "dependencies",
    "dependentRequired", "dependentSchemas", "unevaluatedProperties",
))  # fmt: skip
TOLD: Final = "Must also fit this JSON Schema: {}"

# Patterns that JavaScript is sure to take with the flag `u`, as the CLI's validator sets it: no escape without a
# meaning, no lone brace, no class as the end of a range, nothing of Python's or Perl's own.
_ESCAPE: Final = r"\\[dDwWsStnrfv^$\\.*+?()\[\]{}|/]"
_IN_CLASS: Final = r"(?:[^\\\[\]-]|\\[tnrfv^$\\.*+?()\[\]{}|/-])"
_CLASS: Final = rf"\[\^?-?(?:{_IN_CLASS}(?:-{_IN_CLASS})?|\\[dDwWsS])*+-?\]"
_PATTERN: Final = re.compile(
    r"(?:\((?:\?(?:[:=!]|<[=!]))?|[\^$|]|\\[bB]"
    rf"|(?:[^\\()\[\]{{}}*+?^$|]|\)|{_ESCAPE}|{_CLASS})(?:[*+?]\??|\{{\d+(?:,\d*)?\}}\??)?+)*+"
)


_ARGUMENT: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_any_decoder: Final = msgspec.json.Decoder(Any)


class _TooMany(Exception):
    """More than `MAX_SCHEMAS`."""


def _clean(schema: Any, root: str) -> Any:
    """The schema with only such keywords as the CLI's validator is sure to take. `root`: where its root will stand.

    Raises _TooMany, and RecursionError.
    """
    return _cleaned(schema, root, iter(range(MAX_SCHEMAS)))


def _cleaned(schema: Any, root: str, left: Iterator[int]) -> Any:
    """`left`: has a value for every schema that may still come."""
    if not isinstance(schema, dict):
        return schema
    if next(left, None) is None:
        raise _TooMany
    clean: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword == "$ref" and isinstance(value, str):
            clean[keyword] = _moved(value, root)
        elif keyword in _PLAIN and _plain(keyword, value):
            clean[keyword] = value
        elif keyword in _SCHEMA and isinstance(value, dict | bool) and _NEEDED.get(keyword) not in schema:
            clean[keyword] = _cleaned(value, root, left)
        elif keyword == "oneOf" and isinstance(value, list) and "anyOf" not in schema:
            # Two that differ in what is dropped are one too many.
            clean["anyOf"] = [_cleaned(one, root, left) for one in value]
        elif keyword in _SCHEMAS and isinstance(value, list):
            clean[keyword] = [_cleaned(one, root, left) for one in value]
        elif keyword in _NAMED and isinstance(value, dict):
            clean[keyword] = {name: _cleaned(one, root, left) for name, one in value.items()}
        elif keyword in _TOLD:
            told[keyword] = value
    if told:
        words = TOLD.format(msgspec.json.encode(told).decode())
        clean["description"] = f"{schema['description']} {words}" if schema.get("description") else words
    return clean


def _plain(keyword: str, value: Any) -> bool:
    """Whether the CLI's validator takes this value, which is that of a keyword that it knows."""
    if keyword == "pattern":
        return isinstance(value, str) and _PATTERN.fullmatch(value) is not None
    return not (keyword.startswith("exclusive") and isinstance(value, bool))


def _moved(reference: str, root: str) -> str:
    """A reference into a schema whose root will stand at `root`; definitions will stand where they stood."""
    pointer = reference.removeprefix("#")
    if pointer == reference or pointer[:1] not in ("", "/") or pointer.split("/")[1:2] in (["$defs"], ["definitions"]):
        return reference
    return f"#{root}{pointer}"


def check_size(raw: Raw, where: str) -> None:
    """Raises Rejection for a schema that is too large to be looked at. `where`: its path."""
    if len(bytes(raw)) > MAX_BYTES:
        raise bad_request(f"A JSON Schema has at most {MAX_BYTES} bytes.", where)


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


def answer_schema(raw: Raw, where: str, description: str | None = None) -> Schema:
    """The form of an answer that the client's JSON Schema asks for. Raises Rejection. `where`: its path.

    `description`: what the model is told of it, if the schema itself says nothing at its root. Whether it is a JSON
    Schema at all is left to be judged.
    """
    check_size(raw, where)
    schema = decoded(_any_decoder, raw, where)
    if not isinstance(schema, dict | bool):
        raise bad_request("A JSON Schema is an object.", where)
    wrap = not _is_object(schema)
    try:
        clean = _clean(schema, f"/properties/{WRAPPER}" if wrap else "")
        shown = _wrapped(clean) if wrap else clean
        if description:
            shown = {"description": description} | shown
        source, offered = map(msgspec.json.encode, (schema, shown))
    except _TooMany:
        raise bad_request(f"It has more than {MAX_SCHEMAS} schemas.", where) from None
    except RecursionError:
        raise bad_request(TOO_DEEP, where) from None
    return Schema(Raw(offered), Raw(source), wrap, where)


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
