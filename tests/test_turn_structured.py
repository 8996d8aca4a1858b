"""proxy/protocol/turn.py: answers that must have a form."""

from __future__ import annotations

import json

import pytest

from proxy.protocol.assembly import STRUCTURED_OUTPUT
from proxy.protocol.deltas import (
    REASONS,
    Arguments,
    Finished,
    Reason,
    Refusal,
    Retracted,
    Started,
    Text,
    Tokens,
    ToolCall,
    ToolEnd,
)
from proxy.protocol.failures import Kind
from proxy.protocol.plan import Schema
from proxy.protocol.turn import MAX_RETRY_WAIT, TRANSITIONS, State, Turn
from tests import cli_lines as say
from tests.test_turn import FORM, WRAPPED, calls, ends, failure, fed, text


def form(*pieces: str, index: int = 0) -> list[say.Table]:
    """The message of a structured answer, up to the CLI's verdict."""
    return [
        say.start(),
        *say.call(index, "toolu_5", STRUCTURED_OUTPUT, *pieces),
        say.end("tool_use"),
        say.stopped(),
    ]


def test_a_structured_answer_is_text_while_it_streams() -> None:
    turn = Turn(FORM)
    deltas = turn.feed(say.lines(*form('{"a":', "1}")))
    assert [delta.text for delta in deltas if isinstance(delta, Text)] == ['{"a":', "1}"]
    assert ends(deltas) == 0
    last = turn.feed(say.lines(say.result(structured_output={"a": 1})))[-1]
    assert isinstance(last, Finished)
    assert last.reason is Reason.END_TURN


def test_a_wrapped_answer_is_unwrapped() -> None:
    deltas = fed(*form('{"va', 'lue":[1,', "2]}"), say.result(), schema=WRAPPED)
    assert json.loads(text(deltas)) == [1, 2]
    assert Text("") not in deltas


def test_words_instead_of_the_form_are_a_refusal() -> None:
    deltas = fed(*say.message("I would rather not."), say.result(), schema=FORM)
    assert text(deltas) == ""
    assert Refusal("I would rather not.") in deltas
    assert isinstance(deltas[-1], Finished)


@pytest.mark.parametrize("first", [say.message("Sure!"), form('{"a":"x"}')], ids=["words", "a form"])
def test_words_at_last_are_the_only_refusal(first: list[say.Table]) -> None:
    deltas = fed(*first, *say.message("No."), say.result(), schema=FORM)
    assert [delta for delta in deltas if isinstance(delta, Refusal)] == [Refusal("No.")]


def test_words_before_the_form_are_no_part_of_it() -> None:
    words = [say.start(), say.opened(0), say.piece("Sure!"), say.closed(0)]
    deltas = fed(*words, *form('{"a":1}', index=1)[1:], say.result(), schema=FORM)
    assert text(deltas) == '{"a":1}'
    assert not any(isinstance(delta, Refusal) for delta in deltas)


@pytest.mark.parametrize("behind", [[], [say.opened(2), say.piece("That was it."), say.closed(2)]])
def test_words_beside_a_call_are_no_part_of_a_form(behind: list[say.Table]) -> None:
    """Clients parse all text of an answer for which they have asked for a form, also beside calls."""
    use = [*say.call(1, "toolu_1", "get", "{}"), *behind, say.end("tool_use"), say.stopped()]
    deltas = fed(say.start(), say.opened(0), say.piece("Let me."), say.closed(0), *use, schema=FORM)
    assert [type(delta) for delta in deltas] == [Started, ToolCall, Arguments, ToolEnd, Finished]


def test_words_of_an_attempt_that_was_cut_are_forgotten() -> None:
    cut = [say.start(), say.opened(), say.piece("half of "), say.closed(), say.stopped(), say.retry()]
    deltas = fed(*cut, *say.message("all"), say.result(), schema=FORM)
    assert Refusal("all") in deltas


def test_words_and_then_a_second_try_that_fits() -> None:
    thought = say.END_USAGE | {"output_tokens_details": {"thinking_tokens": 5}}
    words = [*say.message("Sure!")[:-2], say.end("end_turn", thought), say.stopped()]
    deltas = fed(*words, *form('{"a":1}'), say.result(), schema=FORM)
    assert text(deltas) == '{"a":1}'
    assert Retracted() not in deltas
    last = deltas[-1]
    assert isinstance(last, Finished)
    assert (last.tokens.output, last.tokens.reasoning) == (24, 5), "both messages are paid, each once"


@pytest.mark.parametrize(("schema", "frame"), [(FORM, "%s"), (WRAPPED, '{"value":%s}')], ids=["plain", "wrapped"])
def test_a_form_that_the_cli_asks_for_again_is_taken_back(schema: Schema, frame: str) -> None:
    deltas = fed(*form(frame % '{"a":"x"}'), *form(frame % '{"a":1}'), say.result(), schema=schema)
    at = deltas.index(Retracted())
    assert text(deltas[:at]) == '{"a":"x"}'
    assert text(deltas[at:]) == '{"a":1}'


def test_a_form_that_never_fits_is_a_failure() -> None:
    unmet = say.result(subtype="error_max_structured_output_retries", is_error=True)
    assert failure(fed(*form('{"a":"x"}'), unmet, schema=FORM)).kind is Kind.SCHEMA_UNMET
    # The CLI looks at the form before the message has ended, and ends the message itself (fixtures schema/given_up).
    given_up = *form('{"a":"x"}')[:-2], say.end(None), say.stopped(), unmet
    found = fed(*form('{"a":"y"}'), *given_up, schema=FORM)
    assert failure(found).kind is Kind.SCHEMA_UNMET
    assert text(found) == '{"a":"y"}{"a":"x"}'


@pytest.mark.parametrize("after", [say.retry(), say.start(), say.result()])
def test_a_form_that_is_cut_is_a_failure(after: say.Table) -> None:
    found = fed(*form('{"a":"x"}')[:-2], say.stopped(), after, schema=FORM)
    assert text(found) == '{"a":"x"}'
    assert failure(found).kind is Kind.UPSTREAM_CUT


def test_another_error_after_a_form_is_that_error() -> None:
    found = failure(fed(*form("{}"), say.error_result("no", api_error_status=529), schema=FORM))
    assert found.kind is Kind.OVERLOADED


@pytest.mark.parametrize(("reason", "expected"), [("max_tokens", Reason.MAX_TOKENS), ("refusal", Reason.REFUSAL)])
def test_a_form_that_was_cut_off_is_not_waited_for(reason: str, expected: Reason) -> None:
    words = [say.opened(0), say.piece("Sure!"), say.closed(0)]
    opened = say.opened(1, type="tool_use", id="t", name=STRUCTURED_OUTPUT, input={})
    deltas = fed(say.start(), *words, opened, say.arguments('{"a":', 1), say.end(reason), schema=FORM)
    assert text(deltas) == '{"a":'
    last = deltas[-1]
    assert isinstance(last, Finished)
    assert last.reason is expected


def test_words_that_were_cut_off_are_what_there_is() -> None:
    deltas = fed(*say.message("Let me th", reason="max_tokens"), schema=FORM)
    assert text(deltas) == "Let me th"


def test_a_real_call_beside_a_form_ends_the_answer() -> None:
    deltas = fed(
        say.start(), say.opened(0), say.piece("let me"), say.closed(0), *say.call(1, "toolu_1", "get", "{}"),
        say.end("tool_use"), schema=FORM,
    )  # fmt: skip
    assert text(deltas) == ""
    assert calls(deltas) == [("toolu_1", "get", "{}")]
    last = deltas[-1]
    assert isinstance(last, Finished)
    assert last.reason is Reason.TOOL_USE


def test_a_form_nobody_asked_for_is_a_call() -> None:
    assert calls(fed(*form('{"a":1}'))) == [("toolu_5", STRUCTURED_OUTPUT, '{"a":1}')]


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [(529, "overloaded", Kind.OVERLOADED), (None, "authentication_failed", Kind.NOT_LOGGED_IN),
     (429, None, Kind.RATE_LIMIT)],
)  # fmt: skip
def test_a_long_retry_while_a_form_is_checked_ends_it(status: int | None, error: str | None, kind: Kind) -> None:
    long = say.retry(MAX_RETRY_WAIT * 1000 + 1, status, error)
    assert failure(fed(*form("{}"), long, schema=FORM)).kind is kind
    assert isinstance(fed(*form("{}"), say.retry(10), say.result(), schema=FORM)[-1], Finished)


def test_what_has_been_used_is_known_at_any_time() -> None:
    turn = Turn(FORM)
    turn.feed(say.lines(*form("{}"), say.start()))
    assert (turn.tokens.prompt, turn.tokens.output) == (44, 13)


def test_every_state_is_reached_and_left_in_the_table() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State)
    assert {state for state, _ in TRANSITIONS.values()} == set(State)
    assert REASONS["tool_use"] is Reason.TOOL_USE


@pytest.mark.parametrize("stop_reason", [None, "tool_use"])
def test_a_structured_answer_that_was_not_streamed_is_json_too(stop_reason: str | None) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "StructuredOutput", "input": {"a": 1}}
    deltas = fed(say.snapshot(use, stop_reason=stop_reason), say.result(stop_reason="tool_use"), schema=FORM)
    assert (json.loads(text(deltas)), calls(deltas)) == ({"a": 1}, [])
    last = deltas[-1]
    assert isinstance(last, Finished)
    assert last.reason is Reason.END_TURN


def test_words_that_were_not_streamed_are_a_refusal_of_the_form() -> None:
    assert Refusal("No.") in fed(say.snapshot(say.text_block("No.")), say.result(), schema=FORM)


# What has been used before it is said


def used(*tables: say.Table, schema: Schema | None = None) -> Tokens:
    turn = Turn(schema)
    turn.feed(say.lines(*tables))
    return turn.tokens


@pytest.mark.parametrize(
    "pieces",
    [
        [say.piece("x" * 400)], [say.piece("x" * 10)] * 40, [say.thought("x" * 200), say.piece("x" * 200, 1)],
        [say.piece("\u00e9" * 200)], [say.piece("\U0001f30d" * 100)],
    ],
)  # fmt: skip
def test_until_it_is_said_output_is_counted_by_what_has_come(pieces: list[say.Table]) -> None:
    assert used(say.start(), say.opened(), *pieces) == Tokens(10, 7, 5, 100)


def test_arguments_and_structured_answers_count() -> None:
    call = say.call(0, "toolu_1", "get", '{"a":"' + "x" * 392 + '"}')
    assert used(say.start(), *call).output == 100
    assert used(*form('{"a":"' + "x" * 392 + '"}')[:-2], schema=FORM).output == 100


def test_what_is_said_is_what_counts() -> None:
    assert used(*say.message("x" * 400)[:-2], say.end("end_turn")) == Tokens(10, 7, 5, 12)
    assert used(say.start(), say.opened(), say.piece("x" * 400), say.end(None), say.piece("x" * 400)).output == 112
    head = {"input_tokens": 10, "output_tokens": 30}
    assert used(say.start(usage=head), say.opened(), say.piece("x" * 40)).output == 30


def test_what_was_given_up_was_used() -> None:
    gone = [say.start(), say.opened(), say.piece("{" + "x" * 399), say.end("end_turn", {}), say.stopped()]
    assert used(*gone, *form('{"a":1}'), schema=FORM).output == 112
