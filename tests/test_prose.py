"""proxy/protocol/prose.py and what becomes of it: JSON that the model writes where it was to use the CLI's tool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from proxy.cli.exchange import Exchange
from proxy.protocol.answer import Fold
from proxy.protocol.assembly import STRUCTURED_OUTPUT
from proxy.protocol.deltas import Delta, Failed, Finished, Proposed, Reason, Refusal, Retracted, Text, Tokens
from proxy.protocol.failures import Kind
from proxy.protocol.plan import Message, Plan, Schema, TextBlock
from proxy.protocol.prose import Prose
from proxy.protocol.turn import Turn
from tests import cli_lines as say
from tests.scripted import BEGUN, USED, Scripted, ScriptedPool, calls, end

PERSON = Schema(Raw(b"{}"), Raw(b'{"type":"object","required":["name"]}'), wrapped=False)
NUMBERS = Schema(Raw(b"{}"), Raw(b'{"type":"array","items":{"type":"integer"}}'), wrapped=True)


def said(text: str, *, wrapped: bool = False) -> Prose:
    prose = Prose(wrapped=wrapped)
    prose.feed(text)
    return prose


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ('{"a": 1}', '{"a": 1}'), (' \n{"a": 1}\n ', '{"a": 1}'), ("{}", "{}"),
        ('{ "a": {"b": [1, {}]}}', '{ "a": {"b": [1, {}]}}'),
        ('```json\n{"a": 1}\n```', '{"a": 1}'), ('```\n{"a": 1}```\n', '{"a": 1}'), ('```json\n{"a": 1}', '{"a": 1}'),
        (r'{"a": "}\" ``` {"}', r'{"a": "}\" ``` {"}'),
        # Prose around it, two of them, a fence that is none, and what is not finished.
        ('Here: {"a": 1}', None), ('{"a": 1} Enjoy!', None), ('{"a": 1}{"a": 2}', None), ('{"a": 1}\n```', None),
        ('```json\n{"a": 1}\n```\nEnjoy!', None), ('```json\n{"a": 1}\n```\n```json\n{"a": 2}\n```', None),
        ('{"a": 1', None),
        ("{a: 1}", None), ("[1]", None), ("I would rather not.", None), ("", None), ("{", None), ('{"a": "', None),
    ],
)  # fmt: skip
def test_an_object_that_is_all_that_is_said(text: str, whole: str | None) -> None:
    assert said(text).whole() == (() if whole is None else (whole,))


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("[1, 2]", ("[1, 2]",)), ("```json\n[1]\n```", ("[1]",)), ('"x"', ('"x"',)), ("3", ("3",)),
        ('{"value": [1]}', ("[1]", '{"value": [1]}')), ('{"value": 1, "b": 2}', ('{"value": 1, "b": 2}',)),
        ("One: [1]", ()), ("[1", ()), ("", ()), ("[" * 100_000, ()),
    ],
)  # fmt: skip
def test_another_value_shows_in_the_end(text: str, whole: tuple[str, ...]) -> None:
    assert said(text, wrapped=True).whole() == whole


def test_white_space_is_not_waited_out() -> None:
    prose = Prose()
    for _ in range(10_000):
        prose.feed(" ")
    assert prose.feed('{"a": 1}') == ""


@given(
    text=st.one_of(
        st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(), max_size=3).map(json.dumps),
        st.text(alphabet='{}[]":,\\` \njson1', max_size=30),
    ),
    fence=st.sampled_from(["", "```json\n", "```\n"]),
    cuts=st.lists(st.integers(0, 60), max_size=5),
)
def test_any_cut_hands_on_the_same(text: str, fence: str, cuts: list[int]) -> None:
    text = fence + text + ("\n```" if fence else "")
    at_once, pieces = Prose(), Prose()
    once = at_once.feed(text)
    places = [0, *sorted(cuts), len(text)]
    cut = "".join(pieces.feed(text[a:b]) for a, b in zip(places, places[1:], strict=False))  # noqa: RUF007
    assert (cut, pieces.whole(), pieces.rest, pieces.text) == (once, at_once.whole(), at_once.rest, text)
    # Nothing is lost, and nothing but what stands around it is left out.
    assert once + pieces.rest in text


# In a turn


def fed(*tables: say.Table, schema: Schema = PERSON) -> list[Delta]:
    return Turn(schema).feed(say.lines(*tables))


def form(text: str, index: int = 0) -> list[say.Table]:
    """A message in which the CLI's tool is used."""
    return [say.start(), *say.call(index, "toolu_5", STRUCTURED_OUTPUT, text), say.end("tool_use"), say.stopped()]


def client_has(deltas: Sequence[Delta]) -> str:
    fold = Fold()
    fold.take(deltas)
    return fold.text


def test_it_is_proposed_when_its_message_ends_and_has_been_handed_on() -> None:
    deltas = fed(*say.message('{"name"', ': "Bob"}'))
    assert deltas[1:] == [Text('{"name"'), Text(': "Bob"}'), Proposed(('{"name": "Bob"}',), True, Tokens(10, 7, 5, 12))]


def test_a_value_that_would_be_wrapped_is_proposed_in_both_readings() -> None:
    deltas = fed(*say.message('{"value": [1]}'), schema=NUMBERS)
    assert deltas[1:] == [Proposed(("[1]", '{"value": [1]}'), False, Tokens(10, 7, 5, 12))]


@pytest.mark.parametrize("second", [form('{"name":"B"}'), say.message('{"name":"B"}')], ids=["tool", "prose"])
def test_another_attempt_takes_its_place(second: list[say.Table]) -> None:
    deltas = fed(*say.message('{"a": 1}'), *second, say.result())
    assert Retracted() in deltas
    assert client_has(deltas) == '{"name":"B"}'
    assert isinstance(deltas[-1], Finished)


@pytest.mark.parametrize("schema", [PERSON, NUMBERS], ids=["object", "wrapped"])
def test_where_nobody_judges_it_stands_in_the_end(schema: Schema) -> None:
    deltas = fed(*say.message("Sure!"), *say.message('{"a": [1]}'), say.result(), schema=schema)
    assert client_has(deltas) == '{"a": [1]}'
    assert not any(isinstance(delta, Refusal) for delta in deltas)


def test_an_object_with_words_behind_it_is_a_refusal_in_the_end() -> None:
    prose = '{"a": 1} is what I would say.'
    deltas = fed(*say.message("Sure!"), *say.message(prose), say.result())
    assert client_has(deltas) == ""
    assert deltas[-2] == Refusal(prose)
    assert not any(isinstance(delta, Proposed) for delta in deltas)


def test_the_tool_that_says_it_once_more_adds_nothing() -> None:
    words = [say.start(), say.opened(0), say.piece('{"name": "B"}'), say.closed(0)]
    deltas = fed(*words, *form('{"name":"B"}', index=1)[1:], say.result())
    assert client_has(deltas) == '{"name": "B"}'
    assert Retracted() not in deltas


def test_the_tool_takes_the_place_of_an_object_with_words_behind_it() -> None:
    words = [say.start(), say.opened(0), say.piece('{"a": 1}, or'), say.closed(0)]
    assert client_has(fed(*words, *form('{"name":"B"}', index=1)[1:], say.result())) == '{"name":"B"}'


@pytest.mark.parametrize("words", ['{"a": 1', '{"a": 1} and mo', "I wo", '```json\n{"a'])
def test_what_the_limit_cuts_goes_out_as_far_as_it_came(words: str) -> None:
    deltas = fed(*say.message(words, reason="max_tokens"))
    assert client_has(deltas) == words.removeprefix("```json\n")
    assert isinstance(deltas[-1], Finished)
    assert deltas[-1].reason is Reason.MAX_TOKENS


def test_before_a_call_only_an_object_is_text() -> None:
    use = [*say.call(1, "toolu_1", "get", "{}"), say.end("tool_use"), say.stopped()]
    words = [say.start(), say.opened(0), say.piece('{"a": 1} first'), say.closed(0)]
    deltas = fed(*words, *use)
    assert client_has(deltas) == '{"a": 1}'
    assert not any(isinstance(delta, Proposed) for delta in deltas)


# In an exchange


PLAN = Plan("opus", None, (Message("user", (TextBlock("hi"),)),))
LATER: list[Delta] = [Retracted(), Text('{"name": "Eve"}'), end()]


def proposes(text: str, *, handed_on: bool = True) -> list[Delta]:
    return [BEGUN, *([Text(text)] if handed_on else []), Proposed((text,), handed_on, USED)]


async def exchanged(*batches: list[Delta], schema: Schema = PERSON, **more: Any) -> tuple[Scripted, list[Delta]]:
    conversation = Scripted(batches)
    pool = ScriptedPool(conversation)
    plan = msgspec.structs.replace(PLAN, schema=schema, must_call=more.pop("must_call", False))
    deltas = [one for some in [some async for some in Exchange(pool, plan, "", **more).deltas(5)] for one in some]
    assert not any(isinstance(delta, Proposed) for delta in deltas)
    # The CLI's conversation ends otherwise than the client's.
    assert pool.kept == [conversation.judged[-1:] == [False]]
    return conversation, deltas


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("later", [[], LATER], ids=["the end", "with more behind it"])
async def test_what_fits_is_the_answer(streamed: bool, later: list[Delta]) -> None:
    conversation, deltas = await exchanged([*proposes('{"name": "Bob"}'), *later], streamed=streamed)
    assert deltas == [BEGUN, Text('{"name": "Bob"}'), Finished(Reason.END_TURN, USED)]
    assert conversation.judged == [True]


@pytest.mark.parametrize("streamed", [True, False])
async def test_of_two_readings_the_first_that_fits_is_the_answer(streamed: bool) -> None:
    proposed = Proposed(('{"value": 1}', "[1]"), False, USED)
    _, deltas = await exchanged([BEGUN], [proposed], schema=NUMBERS, streamed=streamed)
    assert deltas == [BEGUN, Text("[1]"), Finished(Reason.END_TURN, USED)]


async def test_what_does_not_fit_is_asked_for_again() -> None:
    conversation, deltas = await exchanged([*proposes('{"a": 1}')], LATER, streamed=False)
    assert deltas == [BEGUN, Text('{"name": "Eve"}'), end()]
    assert (conversation.judged, len(conversation.asked)) == ([False], 1)


async def test_the_second_of_one_batch_is_judged_too() -> None:
    second: list[Delta] = [Retracted(), Text('{"name": "Eve"}'), Proposed(('{"name": "Eve"}',), True, USED + USED)]
    conversation, deltas = await exchanged([*proposes('{"a": 1}'), *second], streamed=False)
    assert deltas == [BEGUN, Text('{"name": "Eve"}'), Finished(Reason.END_TURN, USED + USED)]
    assert conversation.judged == [True]


async def test_what_does_not_fit_and_has_gone_out_is_a_failure() -> None:
    batches = proposes('{"a": 1}')
    conversation, deltas = await exchanged(batches[:2], batches[2:])
    assert isinstance(deltas[-1], Failed)
    assert deltas[-1].failure.kind is Kind.SCHEMA_UNMET
    assert conversation.judged == [True]


async def test_where_nothing_has_gone_out_a_stream_goes_on() -> None:
    second: list[Delta] = [Text("[1]"), end()]
    _, deltas = await exchanged([*proposes('["a"]', handed_on=False)], second, schema=NUMBERS)
    assert deltas == [BEGUN, Text("[1]"), end()]


async def test_it_is_no_call() -> None:
    conversation, deltas = await exchanged(
        proposes('{"name": "Bob"}'), [Retracted(), *calls()[1:]], must_call=True, streamed=False
    )
    assert isinstance(deltas[-1], Finished)
    assert deltas[-1].reason is Reason.TOOL_USE
    assert conversation.judged == [False]
