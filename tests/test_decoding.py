"""proxy/protocol/decoding.py: what is wrong with a part of a request is named as its client would name it."""

from __future__ import annotations

import re
import tracemalloc
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Raw, Struct

from proxy.protocol import decoding
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import Kind, Rejection


class Inner(Struct):
    kind: Literal["a", "b"]
    size: int = 0


class Outer(Struct):
    name: str
    inner: Inner | None = None
    many: list[Inner] = []
    by_name: dict[str, Inner] = {}


class X(Struct, tag="x"):
    word: Literal["on", "off"] | None = None


class Y(Struct, tag="y"):
    word: str = ""


class Choosing(Struct):
    many: list[Inner] | None = None
    one: Annotated[Inner, Meta(description="one")] | None = None
    either: list[X | Y] = []
    named: dict[str, X] = {}


DECODER = msgspec.json.Decoder(Outer)
NUMBERS = msgspec.json.Decoder(list[list[int]])
ANY = msgspec.json.Decoder(Any)


def refused(decoder: msgspec.json.Decoder[Any], text: bytes, where: str) -> tuple[str | None, str]:
    with pytest.raises(Rejection) as caught:
        decoded(decoder, text, where)
    assert caught.value.failure.kind is Kind.BAD_REQUEST
    assert caught.value.__suppress_context__
    return caught.value.failure.param, caught.value.failure.message


def test_what_is_right_is_decoded() -> None:
    assert decoded(DECODER, Raw(b'{"name":"x"}'), "") == Outer("x")


@pytest.mark.parametrize(
    ("text", "param"),
    [
        (b"5", None),
        (b"[]", None),
        (b"{}", "name"),
        (b'{"name":5}', "name"),
        (b'{"name":"x","inner":5}', "inner"),
        (b'{"name":"x","inner":{}}', "inner.kind"),
        (b'{"name":"x","inner":{"kind":"c"}}', "inner.kind"),
        (b'{"name":"x","inner":{"kind":"a","size":"1"}}', "inner.size"),
        (b'{"name":"x","many":[5]}', "many[]"),
        (b'{"name":"x","many":[{"kind":"a"},{}]}', "many[].kind"),
    ],
)
def test_the_place_is_named(text: bytes, param: str | None) -> None:
    found, words = refused(DECODER, text, "")
    # msgspec gives the number of the element.
    assert (found and found.replace("[0]", "[]").replace("[1]", "[]")) == param
    assert f"`{found or 'the body'}`" in words
    assert "$" not in words


@pytest.mark.parametrize(
    ("text", "param"),
    [
        (b"5", "messages[3]"),
        (b"{}", "messages[3].name"),
        (b'{"name":"x","inner":{"kind":"c"}}', "messages[3].inner.kind"),
        (b'{"name":"x","many":[{"kind":"a"},{}]}', "messages[3].many[1].kind"),
    ],
)
def test_below_the_place_where_it_stands(text: bytes, param: str) -> None:
    assert refused(DECODER, text, "messages[3]")[0] == param


def test_it_is_said_what_is_needed() -> None:
    """In words for whoever wrote the request, not in those of a library."""
    assert refused(DECODER, b"{}", "messages[3]")[1] == "`messages[3].name` is needed."
    assert refused(DECODER, b'{"name":5}', "")[1] == "Expected `str`, got `int`: `name`."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"many":[{"kind":"c"}]}', "a, b: `many[0].kind`"),
        (b'{"one":{"kind":"c"}}', "a, b: `one.kind`"),
        (b'{"either":[{"type":"z"}]}', "x, y: `either[0].type`"),
        (b'{"either":[{"type":"x","word":"q"}]}', "off, on: `either[0].word`"),
        (b'{"named":{"n":{"type":"q"}}}', "x: `named[...].type`"),
    ],
)
def test_it_is_said_what_there_is_to_choose_from(text: bytes, words: str) -> None:
    found = refused(msgspec.json.Decoder(Choosing), text, "")[1]
    assert found.endswith(f", must be one of {words}.")


def test_lists_in_lists() -> None:
    assert refused(NUMBERS, b'[[1],[2,"3"]]', "prompt")[0] == "prompt[1][1]"
    assert refused(NUMBERS, b'[[1],[2,"3"]]', "")[0] == "[1][1]"


def test_members_by_any_name_are_no_path() -> None:
    found, _ = refused(DECODER, b'{"name":"x","by_name":{"ja":{}}}', "")
    assert found is not None
    assert found.startswith("by_name")


@pytest.mark.parametrize("text", [b"", b"{", b"nope", b"\xff", b'"\xff"', b"[" * 100_000, b"{} {}"])
@pytest.mark.parametrize("where", ["", "tools[0]"])
def test_what_is_no_json(text: bytes, where: str) -> None:
    found, words = refused(ANY, text, where)
    assert found == (where or None)
    assert words.startswith("The body is not valid JSON")


# What an escape is, read from left to right.
ESCAPES = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\.")
_text: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)


@given(
    st.lists(st.sampled_from((r"\\", r"\ud83d", r"\uDE00", r"\uDBFF", r"\udfff", r"\"", r"\n", "u", "d83d", "é"))),
    st.sampled_from((7, 13, 1 << 20)),
)
def test_half_characters_are_replaced_and_no_others(pieces: list[str], at_once: int) -> None:
    text = "".join(pieces)
    mended = ESCAPES.sub(lambda found: r"\ufffd" if len(found[0]) == 6 else found[0], text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_AT_ONCE", at_once)
        assert decoded(_text, f'"{text}"'.encode(), "") == _text.decode(f'"{mended}"')


def test_a_half_character_among_many_escapes_costs_little() -> None:
    raw = b'"' + rb"\\" * 300_000 + rb'\ud83d"'
    tracemalloc.start()
    try:
        assert decoded(_text, raw, "") == "\\" * 300_000 + "\ufffd"
        assert tracemalloc.get_traced_memory()[1] < 8 * len(raw)
    finally:
        tracemalloc.stop()


def test_so_many_half_characters_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_ESCAPES", 3)
    assert decoded(_text, rb'"\ud83d\ud83d\ud83d"', "") == "\ufffd" * 3
    with pytest.raises(Rejection):
        decoded(_text, rb'"\ud83d\ud83d\ud83d\ud83d"', "")
