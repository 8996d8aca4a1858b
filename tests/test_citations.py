"""proxy/protocol/citations.py: where a text names the pages that were found, and nothing else."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol.answer import Fold
from proxy.protocol.citations import Citing, Joined, Pages
from proxy.protocol.deltas import (
    BlockBreak,
    Citation,
    Delta,
    Finished,
    Link,
    Reason,
    Retracted,
    Searched,
    Text,
    Thinking,
    Tokens,
    ToolCall,
)

A = Link("A page", "https://a.example/x")
PARENTHESES = Link("Python", "https://en.example/wiki/Python_(language)")
SLASH = Link("Downloads", "https://py.example/downloads/")
PAGES = (A, PARENTHESES, SLASH)
END = Finished(Reason.END_TURN, Tokens())


def cited(text: str, *pages: Link) -> list[tuple[str, Link]]:
    """What of the text is cited, and which page."""
    found = Citing(Pages()).take([Searched(0, pages or PAGES), Text(text), END])
    return [(text[one.start : one.end], one.link) for one in found if isinstance(one, Citation)]


@pytest.mark.parametrize(
    ("text", "part", "page"),
    [
        ("See [the page](https://a.example/x).", "[the page](https://a.example/x)", A),
        ("([A](https://a.example/x))", "[A](https://a.example/x)", A),
        ("[a [b] c](https://a.example/x)", "[a [b] c](https://a.example/x)", A),
        (r"[a \] c](https://a.example/x)", r"[a \] c](https://a.example/x)", A),
        ('[t](<https://a.example/x> "title")', '[t](<https://a.example/x> "title")', A),
        (
            "[P](https://en.example/wiki/Python_(language)).",
            "[P](https://en.example/wiki/Python_(language))",
            PARENTHESES,
        ),
        ("at https://a.example/x, or", "https://a.example/x", A),
        ("<https://a.example/x>", "https://a.example/x", A),
        ("**https://a.example/x**", "https://a.example/x", A),
        ("- [D](https://py.example/downloads)", "[D](https://py.example/downloads)", SLASH),
        ("no label](https://a.example/x)", "https://a.example/x", A),
        ("ünïcödé 🦊 [q](https://a.example/x)", "[q](https://a.example/x)", A),
    ],
)
def test_a_page_that_is_named_is_cited(text: str, part: str, page: Link) -> None:
    assert cited(text) == [(part, page)]


@pytest.mark.parametrize(
    "text",
    [
        "[other](https://b.example/)",
        "https://a.example/xy",
        "https://a.example/x/y",
        "https://a.example",
        "a.example/x",
        "[A page]",
        "",
    ],
)
def test_what_was_not_found_is_not_cited(text: str) -> None:
    assert cited(text) == []


def test_two_on_a_line_do_not_overlap() -> None:
    text = (
        "[a](https://a.example/x)[b](https://py.example/downloads/) [c [d](https://a.example/x) e](https://a.example/x)"
    )
    assert [part for part, _ in cited(text)] == [
        "[a](https://a.example/x)",
        "[b](https://py.example/downloads/)",
        "[d](https://a.example/x)",
        "https://a.example/x",
    ]


def test_before_a_search_nothing_is_cited() -> None:
    found = Citing(Pages()).take([Text("https://a.example/x\n"), Searched(0, PAGES), Text("none"), END])
    assert not any(isinstance(one, Citation) for one in found)


def test_what_is_taken_back_is_not_cited() -> None:
    found = Citing(Pages()).take([Searched(0, PAGES), Text("https://a.example/x"), Retracted(), Text("{}"), END])
    assert not any(isinstance(one, Citation) for one in found)


def test_many_addresses_in_one_word_take_time_by_their_number() -> None:
    text = "https://" * 20_000
    assert cited(text) == []


PIECES = st.lists(
    st.sampled_from(
        ["https://a.example/x", "https://py.example/downloads", "[", "](", ")", "](https://a.example/x)", "\n", " ",
         "é", "word", "<", ">", '"', "\\", "https://b.example"]
    ),
    max_size=12,
).map("".join)  # fmt: skip
TEXTS = st.lists(PIECES, min_size=1, max_size=3)


def _cut(text: str, places: list[int]) -> list[Delta]:
    marks = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [Text(text[one:other]) for one, other in pairwise(marks)]


@given(
    TEXTS,
    st.lists(st.integers(0, 200), max_size=6),
    st.sampled_from([BlockBreak(), Thinking("t"), ToolCall(0, "c", "f")]),
)
def test_however_the_text_is_cut_its_citations_are_the_same(
    texts: list[str], places: list[int], between: Delta
) -> None:
    def answer(*, cut: bool) -> Fold:
        fold, citing = Fold(), Citing(Pages())
        batches: list[list[Delta]] = [[Searched(0, PAGES)]]
        for text in texts:
            batches += [[one] for one in _cut(text, places)] if cut else [[Text(text)]] if text else []
            batches.append([between])
        batches.append([END])
        for batch in batches:
            fold.take(citing.take(batch))
        return fold

    whole, pieces = answer(cut=False).answer(), answer(cut=True).answer()
    assert pieces == whole
    for one in whole.citations:
        assert one.link in PAGES
        assert one.link.url.rstrip("/") in whole.text[one.start : one.end]
    assert all(one.end <= other.start for one, other in pairwise(whole.citations))


@given(TEXTS)
def test_a_stream_places_them_where_the_whole_answer_does(texts: list[str]) -> None:
    deltas: list[Delta] = [Searched(0, PAGES)]
    for text in texts:
        deltas += [Text(text), BlockBreak()] if text else []
    deltas = Citing(Pages()).take([*deltas, END])
    fold, joined, placed = Fold(), Joined(), []
    fold.take(deltas)
    for delta in deltas:
        joined.take(delta)
        if isinstance(delta, Citation):
            placed.append(joined.place(delta))
    assert tuple(placed) == fold.answer().citations


def test_what_was_found_for_an_earlier_answer_is_cited_in_a_later() -> None:
    pages = Pages()
    Citing(pages).take([Searched(0, PAGES), END])
    found = Citing(pages).take([Text("https://a.example/x"), END])
    assert found[1] == Citation(0, len(A.url), A)
