"""JSON with comments and trailing commas, edited in place: what is not changed stays as it is, byte for byte.

Editors' settings are written by hand. A library that reads and writes them anew would lose their comments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

_SPACE: Final = re.compile(r"(?:[ \t\r\n\ufeff]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_PLAIN: Final = re.compile(r"[-+.\w]+")


class Node(Struct, frozen=True):
    """A value in the text, from `start` up to `end`. `members`: those of an object, by name, or of an array, by index;
    None for a value that has none. `tail`: where the last member ends, comma aside."""

    start: int
    end: int
    value: Any
    members: dict[Any, Node] | None = None

    @property
    def tail(self) -> int:
        return max((member.end for member in (self.members or {}).values()), default=self.start + 1)


def parse(text: str) -> Node:
    """The whole text's value. Raises ValueError."""
    node = _value(text, _skip(text, 0))
    if _skip(text, node.end) != len(text):
        raise _wrong(text, node.end)
    return node


def _wrong(text: str, at: int) -> ValueError:
    return ValueError(f"line {text.count(chr(10), 0, at) + 1} is not valid JSON")


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _value(text: str, at: int) -> Node:
    if text[at : at + 1] in ("{", "["):
        return _container(text, at, "}" if text[at] == "{" else "]")
    found = _STRING.match(text, at) or _PLAIN.match(text, at)
    if found is None:
        raise _wrong(text, at)
    try:
        return Node(at, found.end(), json.loads(found[0], strict=False))
    except ValueError:
        raise _wrong(text, at) from None


def _container(text: str, start: int, close: str) -> Node:
    members: dict[Any, Node] = {}
    at = _skip(text, start + 1)
    while text[at : at + 1] != close:
        name: Any = len(members)
        if close == "}":
            key = _STRING.match(text, at)
            if key is None:
                raise _wrong(text, at)
            name = json.loads(key[0], strict=False)
            at = _skip(text, key.end())
            if text[at : at + 1] != ":":
                raise _wrong(text, at)
            at = _skip(text, at + 1)
        members[name] = _value(text, at)
        at = _skip(text, members[name].end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != close:
            raise _wrong(text, at)
    values = {name: node.value for name, node in members.items()}
    return Node(start, at + 1, values if close == "}" else list(values.values()), members)


def _line_indent(text: str, at: int) -> str:
    """The white space with which the line of `at` begins."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip())]


def _step(text: str) -> str:
    """How the file indents: by what its first indented line begins with."""
    found = re.search(r"\n([ \t]+)\S", text)
    return found[1] if found else "  "


def _dumped(text: str, value: Any, indent: str) -> str:
    step = _step(text)
    lines = json.dumps(value, indent=step if "\t" in step else len(step), ensure_ascii=False).splitlines()
    return f"\n{indent}".join(lines)


def _insert(text: str, node: Node, name: str | None, value: Any) -> str:
    """A new last member of an object (by name) or array. It gets a line of its own, unless the container is on one."""
    key = "" if name is None else f"{json.dumps(name, ensure_ascii=False)}: "
    outer = _line_indent(text, node.start)
    several = "\n" in text[node.start : node.end] or not node.members
    indent = outer + _step(text)
    if node.members:
        first = min(member.start for member in node.members.values())
        indent = _line_indent(text, first) if several else outer
    new = key + _dumped(text, value, indent)
    after = _skip_to_comma(text, node.tail) if node.members else None
    if node.members and after is None:
        # No comma yet: it goes right behind the value, before any comment on that line.
        text = f"{text[: node.tail]},{text[node.tail :]}"
        after = node.tail + 1
        closing = ""
    else:
        closing = "," if node.members else ""
    if not node.members:
        inner = text[node.start + 1 : node.end - 1].rstrip()
        return f"{text[: node.start + 1]}{inner}\n{indent}{new}\n{outer}{text[node.end - 1 :]}"
    assert after is not None
    if not several:
        return f"{text[:after]} {new}{closing}{text[after:]}"
    # Behind what the line says of the last member: a comment there is about that one.
    rest = re.match(r"[ \t]*(//[^\n]*|/\*[^\n]*?\*/[ \t]*)?(?=\r?\n)", text[after:])
    after += rest.end() if rest else 0
    return f"{text[:after]}\n{indent}{new}{closing}{text[after:]}"


def _skip_to_comma(text: str, at: int) -> int | None:
    """Behind the comma that follows the value that ends at `at`; None if there is none."""
    at = _skip(text, at)
    return at + 1 if text[at : at + 1] == "," else None


def _replace(text: str, node: Node, value: Any) -> str:
    return text[: node.start] + _dumped(text, value, _line_indent(text, node.start)) + text[node.end :]


def _find(root: Node, path: tuple[Any, ...]) -> Node:
    for name in path:
        assert root.members is not None
        root = root.members[name]
    return root


def put(text: str, path: tuple[Any, ...], value: Any) -> str:
    """The text with this value at this path (names of members, indices of arrays), all on the way to it made as
    needed; an index that is the array's length appends. Values that are there already stay as they are written.
    Raises ValueError for a text that is not JSON."""
    root = parse(text)
    for depth, name in enumerate(path):
        node = _find(root, path[:depth])
        rest = value
        for outer in reversed(path[depth + 1 :]):
            rest = {outer: rest}
        if node.members is None or isinstance(node.value, list) != isinstance(name, int):
            return _replace(text, node, {name: rest})
        if name not in node.members:
            return _insert(text, node, None if isinstance(name, int) else name, rest)
    node = _find(root, path)
    if isinstance(value, Mapping) and isinstance(node.value, dict):
        for name, each in value.items():
            text = put(text, (*path, name), each)
        return text
    same = node.value == value and type(node.value) is type(value)
    return text if same else _replace(text, node, value)
