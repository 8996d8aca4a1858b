"""Schemas and grammars that stopped the server, or took its memory, when it judged them itself."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from proxy.protocol.judging import Item, Limit, of_grammar
from proxy.protocol.plan import Grammar


def nested(keyword: str, unevaluated: str = "unevaluatedProperties", depth: int = 26) -> dict[str, Any]:
    """A schema of about a kilobyte that is looked at 2^depth times for one value."""
    schema: dict[str, Any] = {"type": "object"} if unevaluated == "unevaluatedProperties" else {"type": "array"}
    schema |= {"properties": {"a": True}, "prefixItems": [True]}
    for _ in range(depth):
        schema = {keyword: [schema], unevaluated: False}
    return schema


def patterns(count: int) -> dict[str, Any]:
    """200 take seconds and a gigabyte to compile, 600 three gigabytes."""
    return {"type": "object", "properties": {f"a{n}": {"pattern": rf"\p{{L}}{{100}}{n}"} for n in range(count)}}


# Each match comes close to the bound of the pattern library, which knows no bound on their number.
DEAR_MATCHES: Final[dict[str, Any]] = {"type": "array", "items": {"not": {"pattern": "^(a|aa)+(?!a)$"}}}
DEAR_STRINGS: Final = msgspec.json.encode(["a" * 24 + "!"] * 2000).decode()
# Data takes many times its own size when it is decoded.
MUCH_DATA: Final[dict[str, Any]] = {"enum": [{"x": [n]} for n in range(200_000)]}


def _item(schema: Any, text: str | None = None) -> Item:
    raw = Raw(msgspec.json.encode(schema))
    return Item("format", raw) if text is None else Item("value", raw, text)


# Every text has more parses than can be counted.
AMBIGUOUS: Final = Grammar("lark", 'start: s\ns: s s s | s s | "a" |')
# It has more symbols than there is memory for.
MANY_RULES: Final = Grammar(
    "lark", f"start: {' '.join(f'r{n}' for n in range(100_000))}\n" + "\n".join(f'r{n}: "x"' for n in range(100_000))
)
# Each is within the library's bounds for a pattern, and meets them when it is matched.
NESTED_COUNTS: Final = Grammar("regex", "((a{1,500}){1,500}){1,500}")

ITEMS: Final[dict[str, tuple[Item, set[Limit]]]] = {
    "nested allOf": (_item(nested("allOf", depth=40), '{"a":1}'), {Limit.TIME}),
    "nested anyOf": (_item(nested("anyOf", depth=40), '{"a":1}'), {Limit.TIME}),
    "nested oneOf": (_item(nested("oneOf", depth=40), '{"a":1}'), {Limit.TIME}),
    "nested allOf over items": (_item(nested("allOf", "unevaluatedItems", 40), "[1]"), {Limit.TIME}),
    "dear patterns": (_item(patterns(200)), {Limit.TIME, Limit.MEMORY}),
    "more dear patterns": (_item(patterns(600)), {Limit.TIME, Limit.MEMORY}),
    "many dear matches": (_item(DEAR_MATCHES, DEAR_STRINGS), {Limit.TIME}),
    "ambiguous grammar": (of_grammar(AMBIGUOUS, "a" * 3000), {Limit.TIME, Limit.MEMORY}),
    "grammar of many rules": (of_grammar(MANY_RULES), {Limit.TIME, Limit.MEMORY}),
    "nested counts": (of_grammar(NESTED_COUNTS, "a" * 1000), {Limit.TIME, Limit.MEMORY}),
    "much data": (_item(MUCH_DATA), {Limit.TIME, Limit.MEMORY}),
}
