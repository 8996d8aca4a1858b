"""JSON with comments, edited in place: everything else stays, byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.setup.jsonc import parse, put

SETTINGS = """\
// Zed settings
{
  "theme": "One Dark", // mine
  /* fonts */ "buffer_font_size": 15,
  "features": {"copilot": false},
  "lists": [1, 2,], // trailing
  "url": "http://x//y", // not a comment inside
}
"""


def without_comments(text: str) -> Any:
    return parse(text).value


def test_comments_and_trailing_commas_are_read() -> None:
    assert without_comments(SETTINGS) == {
        "theme": "One Dark", "buffer_font_size": 15, "features": {"copilot": False}, "lists": [1, 2],
        "url": "http://x//y",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "changed"),
    [
        (("theme",), "Ayu", ('"One Dark"', '"Ayu"')),
        (("features", "copilot"), True, ("false", "true")),
        (("features", "x"), 1, ('{"copilot": false}', '{"copilot": false, "x": 1}')),
        (("lists", 1), 3, ("[1, 2,]", "[1, 3,]")),
        (("lists", 2), 3, ("[1, 2,]", "[1, 2, 3,]")),
        (("new",), {"a": []}, ('inside\n', 'inside\n  "new": {\n    "a": []\n  },\n')),
        (("theme",), "One Dark", ("", "")),
        (("features",), {"copilot": False, "y": None}, ('{"copilot": false}', '{"copilot": false, "y": null}')),
        (("buffer_font_size",), 15.0, ("15", "15.0")),
    ],
)  # fmt: skip
def test_only_what_is_put_changes(path: tuple[Any, ...], value: Any, changed: tuple[str, str]) -> None:
    assert put(SETTINGS, path, value) == SETTINGS.replace(*changed, 1)


def test_a_missing_comma_is_set_before_the_comment() -> None:
    text = '{\n\t"a": 1 // one\n}\n'
    assert put(text, ("b",), 2) == '{\n\t"a": 1, // one\n\t"b": 2\n}\n'


def test_windows_line_ends_stay() -> None:
    text = '{\r\n  "a": 1, // one\r\n  "c": 3\r\n}\r\n'
    new = put(text, ("b",), 2)
    assert new.startswith('{\r\n  "a": 1, // one\r\n  "c": 3,')
    assert without_comments(new) == {"a": 1, "c": 3, "b": 2}


@pytest.mark.parametrize("text", ["{}", "{ }\n", "{\n  // nothing yet\n}\n", "// a\n{}\n"])
def test_an_empty_object_gets_its_first_member(text: str) -> None:
    new = put(text, ("a", "b"), [1])
    assert without_comments(new) == {"a": {"b": [1]}}
    assert ("// nothing yet" in new) == ("// nothing yet" in text)


@pytest.mark.parametrize("text", ["", "{", '{"a" 1}', "{'a': 1}", '{"a": }', "{} {}", '{"a": 1 "b": 2}', "nope", "[1"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line 1 is not valid JSON"):
        put(text, ("a",), 1)


NAMES = st.sampled_from(["a", "b", 'q"', "ü"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(NAMES, VALUES, max_size=3),
    st.lists(NAMES, min_size=1, max_size=3),
    VALUES,
    st.sampled_from([None, 1, 4]),
)
def test_what_is_put_is_there_and_the_rest_is_as_before(
    before: dict[str, Any], path: list[str], value: Any, indent: int | None
) -> None:
    text = f"// first\n{json.dumps(before, indent=indent)} // last\n"
    new = put(text, tuple(path), value)
    expected: Any = json.loads(json.dumps(before))
    here = expected
    for name in path[:-1]:
        if not isinstance(here.get(name), dict):
            here[name] = {}
        here = here[name]
    if isinstance(here.get(path[-1]), dict) and isinstance(value, dict):
        _merge(here[path[-1]], value)
    else:
        here[path[-1]] = value
    assert parse(new).value == expected
    assert new.startswith("// first\n")
    assert new.endswith(" // last\n")


def _merge(there: dict[str, Any], value: dict[str, Any]) -> None:
    for name, each in value.items():
        if isinstance(each, dict) and isinstance(there.get(name), dict):
            _merge(there[name], each)
        else:
            there[name] = each
