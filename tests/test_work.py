"""Work in proportion to what comes in: what grew with its square kept a processor for seconds."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from proxy.protocol.aliases import Aliases, normalised, tool_names
from proxy.protocol.citations import Pages
from proxy.protocol.deltas import Link
from proxy.protocol.history import MAX_PARTS, History, PastCall
from proxy.protocol.offered import offered
from proxy.protocol.plan import TextBlock, ToolResultBlock, ToolUseBlock
from proxy.protocol.prose import Prose
from tests.outcomes import Expects

NOTHING = Raw(b"{}")


@contextmanager
def no_more_than(seconds: float) -> Iterator[None]:
    """Of the processor; each of these took much more, and takes a tenth now."""
    began = time.thread_time()
    yield
    assert time.thread_time() - began < seconds


def calls(name: Callable[[int], str], count: int) -> list[PastCall]:
    return [PastCall(name(number), "f", NOTHING) for number in range(count)]


def test_calls_that_all_have_one_id(expects: Expects) -> None:
    expects("security", "10,000 past calls of one id", "each gets its own, in time that grows with their number alone")
    history = History()
    history.ask([TextBlock("a")])
    with no_more_than(2.5):
        history.say(calls(lambda _: "c", MAX_PARTS))
    _, messages = history.finish()
    ids = [block.id for block in messages[1].content if isinstance(block, ToolUseBlock)]
    assert ids[:3] == ["c", "c__2", "c__3"]
    assert ids[-1] == f"c__{MAX_PARTS}"


def test_results_that_come_one_by_one_between_words(expects: Expects) -> None:
    expects("security", "results of 6,000 calls, with words between any two", "put together once, not once for each")
    history, count = History(), 6000
    history.ask([TextBlock("a")])
    history.say(calls("c{}".format, count))
    with no_more_than(2.5):
        for number in range(count):
            history.ask([TextBlock("u")])
            history.say([TextBlock("s")])
            assert history.answer(f"c{number}", (TextBlock(str(number)),)) is not None
        _, messages = history.finish()
    assert [message.role for message in messages] == ["user", "assistant", "user"]
    results = [block for block in messages[2].content if isinstance(block, ToolResultBlock)]
    assert [block.content for block in results] == [(TextBlock(str(number)),) for number in range(count)]
    assert len(messages[1].content) == 2 * count


def test_results_without_ids() -> None:
    history = History()
    history.ask([TextBlock("a")])
    history.say(calls("c{}".format, MAX_PARTS))
    with no_more_than(2.5):
        for number in range(MAX_PARTS):
            found = history.open_call
            assert found == f"c{number}"
            history.answer(found, ())
    assert history.open_call is None


def test_long_names_that_are_alike_but_for_their_ends(expects: Expects) -> None:
    expects("security", "a tool of 10,000 long properties in pairs", "their aliases are found in time that is bounded")
    names = [f"{'x' * 59}{number:05}{sign}" for number in range(5000) for sign in "!?"]
    aliases = Aliases()
    with no_more_than(2.5):
        aliases.take((), [(name, name[:64]) for name in names], longest=64)
    assert len(set(aliases.out.values())) == len(names)
    assert max(map(len, aliases.out.values())) == 64


def test_white_space_in_a_fence(expects: Expects) -> None:
    expects("security", "a model that ends JSON in a fence with 200,000 line breaks", "read once, as prose")
    ended, broken = Prose(wrapped=True), Prose(wrapped=True)
    ended.feed("```json\n[1]" + "\n" * 200_000)
    broken.feed("```json\n[1" + "\n" * 20_000 + "x" + " " * 20_000 + "]")
    with no_more_than(2.5):
        assert ended.whole() == ("[1]",)
        assert broken.whole() == ()


def test_beginnings_of_addresses() -> None:
    pages, page = Pages(), Link("t", "https://example.com/" + "a" * 2000)
    pages.add([page])
    with no_more_than(2.5):
        found = list(pages.named("https://" * 30_000 + page.url))
    assert [link for _, _, link in found] == [page]


def test_marks_on_one_letter(expects: Expects) -> None:
    expects("security", "200,000 accents on one letter, in a tool's name or value", "ordered in time that is bounded")
    marks = "\u0323\u0301"
    with no_more_than(4):
        assert normalised("a" + marks * 100_000) == "\u1ea1" + "\u0323" * 99_999 + "\u0301" * 100_000
        assert len(normalised("\u0f73" * 50_000)) == 100_000
        # Of a name that is no word any more not all is read.
        name = "\u00e9" * 3_000_000
        assert tool_names([name, name + "x"]) == {name: "tool", name + "x": "tool_2"}


@given(
    st.text(
        st.sampled_from("ae\u1ea5\u0344\u0f73\uac00\u1100\u1161\u11a8\u212b\u0323\u0301\u0308\u3099\u0334"), max_size=20
    )
)
def test_long_texts_are_normalised_as_short_ones_are(text: str) -> None:
    long = "\xa0x" * 101 + text
    assert normalised(long) == unicodedata.normalize("NFKC", long)


def test_places_of_a_schema_with_many_alternatives(expects: Expects) -> None:
    expects(
        "security", "a schema with 8,000 alternatives, and arguments with as many names",
        "translated in time that is bounded",
    )  # fmt: skip
    count = 8000
    odd = {"５": {"enum": ["５"]}}
    constants = {"enum": [{f"p{number}": "５"} for number in range(count)]}
    branches = {"anyOf": [{"properties": {f"p{number}": {"properties": odd}}} for number in range(count)]}
    arguments = msgspec.json.encode({f"p{number}": {"５": "５"} for number in range(count)})
    for schema in (constants, branches):
        with no_more_than(4):
            form = offered(Raw(msgspec.json.encode({"type": "object", **schema})))
            sent = form.there(Raw(arguments))
            back = form.back()
            assert msgspec.json.decode(back.feed(bytes(sent).decode()) + back.close()) == msgspec.json.decode(arguments)
        assert bytes(sent) != arguments
