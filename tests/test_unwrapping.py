"""proxy/protocol/schema.py: what a client gets of an answer that was wrapped into an object."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.protocol.failures import Rejection
from proxy.protocol.schema import Unwrapper
from tests.test_schema import JSON, SCHEMAS, made, misfit

SPACE = st.text(" \n\t\r", max_size=3)


def unwrapped(pieces: list[str]) -> str:
    unwrapper = Unwrapper()
    return "".join(map(unwrapper.feed, pieces))


@settings(max_examples=500)
@given(SCHEMAS, JSON)
def test_any_value_that_fits_the_schema_fits_what_the_cli_gets(schema: Any, value: Any) -> None:
    try:
        found = made(schema)
    except Rejection:
        return
    if misfit(found, json.dumps(value)) is None:
        wrapped = {"value": value} if found.wrapped else value
        jsonschema_rs.validator_for(json.loads(bytes(found.offered))).validate(wrapped)


@settings(max_examples=500)
@given(JSON, st.tuples(*[SPACE] * 6), st.booleans(), st.lists(st.integers(0, 80), max_size=6) | st.none())
@example('"}:{', ("", "", "", "", "", ""), False, None)
@example({"value": {"value": "\\"}}, ("", "", "", " ", "", "\n"), False, None)
def test_the_value_comes_out_however_it_is_cut(
    value: Any, space: tuple[str, ...], ascii: bool, cuts: list[int] | None
) -> None:
    a, b, c, d, e, f = space
    inner = json.dumps(value, ensure_ascii=ascii)
    text = f'{a}{{{b}"value"{c}:{d}{inner}{e}}}{f}'
    edges = range(len(text) + 1) if cuts is None else [0, *sorted(min(at, len(text)) for at in cuts), len(text)]
    out = unwrapped([text[one:other] for one, other in pairwise(edges)])
    assert out == f"{inner}{e}"
    assert json.loads(out) == value


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ('{"value":1,"other":2}', "1"),
        ('{"value":"a","other":2}', '"a"'),
        ('{"value":[1,{"a":"}"}],"b":1}', '[1,{"a":"}"}]'),
        ('{"value":"\\\\"}', '"\\\\"'),
        ('{"value":"\\""}', '"\\""'),
        ('{"value":[1,', "[1,"),
        ('{"val', ""),
        ("", ""),
        ('{"value":1} and more', "1"),
    ],
)
def test_other_texts(text: str, out: str) -> None:
    assert unwrapped([text]) == unwrapped(re.findall(".", text)) == out
