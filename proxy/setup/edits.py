"""Changes to configuration files of other programs: comments, order and everything else stay as they are.

What is wanted is said once, as nested values, for all formats:

    {"model": Default("sonnet"), "models": Items("name", ({"name": "Claude", "apiKey": "any"},))}
"""

from __future__ import annotations

import io
import json
import re
import tomllib
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence
from typing import Any, Final, Literal

from msgspec import Struct

from proxy.setup import jsonc

Format = Literal["json", "toml", "yaml"]


class Items(Struct, frozen=True):
    """Members of a list, each known by its value of `key`: one that is there is changed, one that is not is added."""

    key: str
    items: tuple[Mapping[str, Any], ...]


class Default(Struct, frozen=True):
    """A value that is set only where there is none."""

    value: Any


class Unreadable(Exception):
    """The file is not what its format asks for, or is built in another way; it is left alone. Says why."""


def merged(value: Any, wanted: Any) -> Any:
    """Plain values with what is wanted: what `edited` makes of a text, as a value. Raises Unreadable where a list or
    table is wanted and something else is there."""
    match wanted:
        case Default():
            return wanted.value if value is None else value
        case Items() if value is None or isinstance(value, list):
            found = [dict(each) if isinstance(each, Mapping) else each for each in value or ()]
            for item in wanted.items:
                at = _index(found, wanted.key, item)
                found[at : at + 1] = [merged(found[at] if at < len(found) else None, item)]
            return found
        case Mapping() if value is None or isinstance(value, Mapping):
            kept = dict(value or {})
            return kept | {name: merged(kept.get(name), each) for name, each in wanted.items()}
        case Items() | Mapping():
            raise Unreadable(f"it holds {json.dumps(value, default=str)[:40]} where something else is expected")
        case _:
            return wanted


def _index(members: Any, key: str, item: Mapping[str, Any]) -> int:
    """Where the member with the item's key is; the length if there is none."""
    for index, each in enumerate(members):
        if isinstance(each, Mapping) and each.get(key) == item[key]:
            return index
    return len(members)


def _into(container: Any, wanted: Any) -> None:
    """Change a round-trip document in place, where it is not as wanted."""
    if isinstance(wanted, Items):
        for item in wanted.items:
            at = _index(container, wanted.key, item)
            if at == len(container):
                container.append(merged(None, item))
            else:
                _into(container[at], item)
        return
    for name, each in wanted.items():
        there = container.get(name)
        fits = isinstance(there, MutableMapping if isinstance(each, Mapping) else MutableSequence)
        if fits and isinstance(each, Mapping | Items):
            _into(there, each)
        elif merged(there, each) != there:
            container[name] = merged(None if isinstance(each, Mapping | Items) else there, each)


def _put(text: str, path: tuple[str | int, ...], there: Any, wanted: Any) -> str:
    """The JSON text with what is wanted at this path, where `there` is the value now."""
    if isinstance(wanted, Items) and isinstance(there, list):
        now = list(there)
        for item in wanted.items:
            at = _index(now, wanted.key, item)
            text = _put(text, (*path, at), now[at] if at < len(now) else None, item)
            now[at : at + 1] = [item]
        return text
    if isinstance(wanted, Mapping) and isinstance(there, Mapping):
        for name, each in wanted.items():
            text = _put(text, (*path, name), there.get(name), each)
        return text
    return jsonc.put(text, path, merged(there, wanted))


def _json(text: str, wanted: Any) -> str:
    try:
        text = text if text.strip() else "{}\n"
        return _put(text, (), jsonc.parse(text).value, wanted)
    except ValueError as error:
        raise Unreadable(str(error)) from None


# The editors' libraries take 4 MB, which a server that sets nothing up need not hold: they are imported when they are
# used.


def _toml(text: str, wanted: Any) -> str:
    import tomlkit
    import tomlkit.exceptions

    try:
        document = tomlkit.parse(text)
    except tomlkit.exceptions.ParseError as error:
        raise Unreadable(str(error)) from None
    _into(document, wanted)
    return tomlkit.dumps(document)


def _yaml(text: str, wanted: Any) -> str:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    # Whether lists are indented below their key, as the file has it.
    inner = re.search(r"^( *)[^\s#-][^\n]*:[ \t]*\n(?:[ \t]*(?:#[^\n]*)?\n)*( *)- ", text, re.MULTILINE)
    flat = isinstance(wanted, Items) if inner is None else len(inner[2]) <= len(inner[1])
    offset = 0 if flat else 2
    yaml.indent(mapping=2, sequence=2 + offset, offset=offset)
    try:
        document = yaml.load(text)
    except YAMLError as error:
        raise Unreadable(" ".join(str(error).split())) from None
    if document is None:
        # Nothing but comments, perhaps: they stay.
        out = io.StringIO()
        yaml.dump(merged(None, wanted), out)
        return text + ("\n" if text and not text.endswith("\n") else "") + out.getvalue()
    _into(document, wanted)
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


EDITORS: Final[dict[Format, Callable[[str, Any], str]]] = {"json": _json, "toml": _toml, "yaml": _yaml}


def read(format: Format, text: str) -> Any:
    """The text's value; None for an empty one. Raises Unreadable."""
    if format == "yaml":
        return _yaml_value(text)
    try:
        if format == "json":
            return jsonc.parse(text).value if text.strip() else None
        return tomllib.loads(text)
    except ValueError as error:
        raise Unreadable(" ".join(str(error).split())) from None


def _yaml_value(text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load(text)
    except (ValueError, YAMLError) as error:
        raise Unreadable(" ".join(str(error).split())) from None


def _canonical(value: Any) -> str:
    """By which values are compared: `1` is not `true`, the order of names does not matter."""
    return json.dumps(value, default=str, sort_keys=True)


def edited(format: Format, text: str, wanted: Any) -> str:
    """The text with what is wanted; the same text if it holds that already. Raises Unreadable."""
    before = read(format, text)
    goal = merged(before, wanted)
    if before == goal:
        return text
    new = EDITORS[format](text, wanted)
    if _canonical(read(format, new)) != _canonical(goal):
        raise Unreadable("it is built in a way that cannot be changed safely")
    return new
