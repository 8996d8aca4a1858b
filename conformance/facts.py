"""Compares what came with what was expected: a subset, with a few operators, and a readable difference."""

import json
import re
from collections.abc import Mapping
from typing import Any

_SHOWN = 300


def shown(value: object) -> str:
    """A value as one short line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    text = repr(text) if isinstance(value, str) else text
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def differences(expected: object, actual: object, path: str = "") -> list[str]:
    """What of `expected` does not hold for `actual`, one line each; empty if all holds.

    Tables compare only the keys they name, lists and scalars compare whole. A table whose single key starts
    with `$` is an operator: `$null`, `$absent`, `$contains`, `$lacks`, `$matches`, `$size`, `$json`, `$above`.
    """
    where = path or "the whole"
    if isinstance(expected, Mapping):
        if len(expected) == 1 and (operator := next(iter(expected))).startswith("$"):
            return _operator(operator, expected[operator], actual, where)
        if not isinstance(actual, Mapping):
            return [f"{where}: expected a table, got {shown(actual)}"]
        return [
            line
            for key, value in expected.items()
            for line in differences(value, actual.get(key, _ABSENT), f"{path}.{key}" if path else str(key))
        ]
    if isinstance(expected, list):
        if not isinstance(actual, list) or len(actual) != len(expected):
            return [f"{where}: expected {len(expected)} items {shown(expected)}, got {shown(actual)}"]
        return [
            line
            for index, (want, got) in enumerate(zip(expected, actual, strict=True))
            for line in differences(want, got, f"{path}[{index}]")
        ]
    if expected == actual and isinstance(expected, bool) == isinstance(actual, bool):
        return []
    return [f"{where}: expected {shown(expected)}, got {shown(actual)}"]


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


def _operator(name: str, want: Any, actual: object, where: str) -> list[str]:
    text = actual if isinstance(actual, str) else json.dumps(actual, ensure_ascii=False, default=repr)
    match name:
        case "$null":
            holds = (actual is None) == want
        case "$absent":
            holds = (actual is _ABSENT) == want
        case "$contains":
            holds = all(part in text for part in ([want] if isinstance(want, str) else want))
        case "$lacks":
            holds = not any(part in text for part in ([want] if isinstance(want, str) else want))
        case "$matches":
            holds = isinstance(actual, str) and re.search(want, actual) is not None
        case "$size":
            holds = isinstance(actual, (str, list, dict)) and len(actual) == want
        case "$above":
            holds = isinstance(actual, (int, float)) and actual > want
        case "$json":
            try:
                return differences(want, json.loads(text), f"{where} as JSON")
            except ValueError:
                holds = False
        case _:
            raise ValueError(f"{where}: there is no operator {name}")
    return [] if holds else [f"{where}: expected {name} {shown(want)}, got {shown(actual)}"]
