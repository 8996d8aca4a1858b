"""Which fields of the CLI's lines the server reads: `python -m tests.generate_relied_on`.

Written to fixtures/relied_on.json, by which a comparison of two CLI versions says whether a field that has gone
matters. `[]` stands for any item of a list, `*` for any key of a table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec.inspect as inspect

from proxy.protocol import lines

FILE: Final = Path(__file__).parent.parent / "fixtures" / "relied_on.json"


def fields(kind: inspect.Type, path: str) -> Iterator[str]:
    """The paths below a value of this type, its own first unless it is a whole line."""
    if isinstance(kind, inspect.StructType):
        for field in kind.fields:
            yield from fields(field.type, f"{path}.{field.encode_name}" if path else field.encode_name)
        if path and not kind.fields:
            yield path
    elif isinstance(kind, inspect.UnionType):
        inner = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        yield from fields(inner[0], path)
    elif isinstance(kind, inspect.ListType):
        yield from fields(kind.item_type, f"{path}[]")
    elif isinstance(kind, inspect.DictType):
        yield from fields(kind.value_type, f"{path}.*")
    else:
        yield path


def relied_on() -> dict[str, list[str]]:
    """Paths by the type of line; a stream event has its own type after a slash."""
    found: dict[str, list[str]] = {}
    for line in lines.Known.__args__:
        tag = str(line.__struct_config__.tag)
        if line is not lines.StreamEvent:
            found[tag] = list(fields(inspect.type_info(line), ""))
            continue
        outer = [f"event.{path}" for path in ("type",)]
        for event in lines.Event.__args__:
            inner = list(fields(inspect.type_info(event), "event"))
            found[f"{tag}/{event.__struct_config__.tag}"] = [
                *outer, "parent_tool_use_id", *(path for path in inner if path != "event"),
            ]  # fmt: skip
    return {tag: list(dict.fromkeys(("type", *paths))) for tag, paths in sorted(found.items())}


def text() -> str:
    """The file's content."""
    return json.dumps(relied_on(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
