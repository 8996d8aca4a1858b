"""proxy/protocol/stop.py: the text ends before the first stop sequence, however it is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.protocol.stop import StopCutter


def cut(stops: list[str], pieces: list[str]) -> tuple[str, bool, list[str]]:
    """All that comes out, whether a stop sequence was found, and what came out piece by piece."""
    cutter = StopCutter(stops)
    out = [cutter.feed(piece) for piece in pieces]
    out.append(cutter.close())
    return "".join(out), cutter.stopped, out


def wanted(stops: list[str], text: str) -> tuple[str, bool]:
    found = [text.find(stop) for stop in stops if stop in text]
    return (text[: min(found)], True) if found else (text, False)


@pytest.mark.parametrize(
    ("stops", "pieces", "out"),
    [
        (["END"], ["one END two"], "one "),
        (["END"], ["one E", "N", "D two"], "one "),
        (["END"], ["one E", "N", "E two"], "one ENE two"),
        (["END"], ["one EN"], "one EN"),
        (["END"], ["END"], ""),
        (["END"], [], ""),
        (["aab"], ["a", "a", "a", "b"], "a"),
        (["\n\n"], ["a\n", "b\n", "\nc"], "a\nb"),
        (["🌍"], ["hello 🌍"], "hello "),
        (["x", "long stop"], ["a long stop x"], "a "),
        (["bc", "abcd"], ["abcd"], ""),
        (["bc", "abcd"], ["a", "b", "c", "d"], ""),
        (["bc", "abcd"], ["a", "b", "c", "x"], "a"),
        (["bc", "abcd"], ["a", "b", "c"], "a"),
        ([], ["as it is"], "as it is"),
    ],
)  # fmt: skip
def test_cut(stops: list[str], pieces: list[str], out: str) -> None:
    assert cut(stops, pieces)[:2] == (out, out != "".join(pieces))


def test_what_cannot_begin_a_stop_sequence_is_not_held_back() -> None:
    cutter = StopCutter(["END"])
    assert [cutter.feed(piece) for piece in ("one", " E", "a", "EN")] == ["one", " ", "Ea", ""]
    assert cutter.close() == "EN"
    assert StopCutter([]).feed("all of it") == "all of it"


@pytest.mark.parametrize("stops", [["ab"], ["ab", "abc"]])
def test_a_stop_sequence_that_is_complete_ends_it_at_once(stops: list[str]) -> None:
    cutter = StopCutter(stops)
    assert (cutter.feed("xab"), cutter.stopped) == ("x", True)


def test_after_the_end_nothing_comes() -> None:
    cutter = StopCutter(["."])
    assert (cutter.feed("a.b"), cutter.feed("c"), cutter.close()) == ("a", "", "")
    assert cutter.stopped


def test_text_that_is_all_alike_takes_no_long_time() -> None:
    stop = "a" * 20_000 + "b"
    text, stopped, _ = cut([stop], ["a" * 30] * 1000)
    assert (len(text), stopped) == (30_000, False)


SMALL = st.text("ab\n", max_size=12)


@settings(max_examples=500)
@given(
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4),
    SMALL,
    st.just(list(range(12))) | st.lists(st.integers(0, 12), max_size=5),
)
@example(["ba", "abab"], "abab", [1, 2, 3])
def test_any_text_any_stops_any_cut(stops: list[str], text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(at, len(text)) for at in cuts), len(text)]
    pieces = [text[one:other] for one, other in pairwise(edges)]
    out, stopped, sent = cut(stops, pieces)
    assert (out, stopped) == wanted(stops, text)
    # What has gone out at any time is a part of what goes out in the end: no stop sequence is begun in it.
    whole = wanted(stops, text)[0]
    for number in range(len(sent)):
        assert whole.startswith("".join(sent[: number + 1]))
