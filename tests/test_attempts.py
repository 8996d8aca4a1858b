"""proxy/protocol/turn.py: attempts of the CLI that come to nothing, and what it does then."""

from __future__ import annotations

import pytest

from proxy.protocol.deltas import Finished, Reason, Started, Text, Tokens
from proxy.protocol.failures import Kind
from proxy.protocol.turn import MAX_RETRY_WAIT, Turn
from tests import cli_lines as say
from tests.test_turn import STANDARD, ends, failure, fed, text


def test_a_cut_before_content_makes_way_for_the_next_attempt() -> None:
    deltas = fed(
        say.start("first", {"input_tokens": 99, "output_tokens": 1, "cache_read_input_tokens": 99}), say.opened(),
        say.closed(), say.stopped(), say.retry(1000, None, "unknown"),
        *say.message("second attempt", model="second"),
    )  # fmt: skip
    assert deltas == [
        Started("second", "msg_01", Tokens(10, 7, 5, 1), STANDARD), Text("second attempt"),
        Finished(Reason.END_TURN, Tokens(10, 7, 5, 12), remarks=STANDARD),
    ]  # fmt: skip


CUT = [say.start(), say.opened(), say.piece("half")]


@pytest.mark.parametrize(
    "after",
    [
        [say.closed(), say.stopped()],
        [say.retry(10)],
        [say.start()],
        [say.result()],
    ],
)  # fmt: skip
def test_two_attempts_are_never_glued(after: list[say.Table]) -> None:
    deltas = fed(*CUT, *after, *say.message("second attempt"))
    assert text(deltas) == "half"
    assert failure(deltas).kind is Kind.UPSTREAM_CUT
    assert ends(deltas) == 1


def test_a_cut_is_told_at_once_and_not_when_the_next_attempt_comes() -> None:
    deltas = fed(*CUT, say.closed(), say.stopped())
    assert failure(deltas).kind is Kind.UPSTREAM_CUT


def test_an_error_event_in_mid_answer_is_what_its_result_says() -> None:
    """As 2.1.330 wrote it (errors/stream_error): its words come first, the end of the message, then the result."""
    turn = Turn()
    begun = [say.start(), say.opened(), say.piece("Half "), say.words("API Error: Overloaded", "unknown")]
    end = [say.closed(), say.end(None), say.stopped()]
    assert turn.feed(say.lines(*begun, *end))[-1] == Text("Half ")
    found = failure(turn.feed(say.lines(say.error_result("API Error: Overloaded", api_error_status=529))))
    assert (found.kind, found.message) == (Kind.OVERLOADED, "API Error: Overloaded")


@pytest.mark.parametrize(
    "after",
    [say.start(), say.retry(10), say.result(), say.snapshot(say.text_block("Another."), stop_reason="end_turn")],
)
def test_nothing_is_glued_on_after_words_either(after: say.Table) -> None:
    turn = Turn()
    turn.feed(say.lines(say.start(), say.opened(), say.piece("Half "), say.words("Oh."), say.closed(), say.stopped()))
    deltas = turn.feed(say.lines(after, say.error_result(api_error="connection_failed")))
    assert len(deltas) == 1
    assert failure(deltas).kind is Kind.UPSTREAM_CUT


def test_words_before_the_message_do_not_delay_a_cut() -> None:
    begun = [say.words("Hm."), say.start(), say.opened(), say.piece("Half "), say.closed()]
    assert failure(fed(*begun, say.stopped())).kind is Kind.UPSTREAM_CUT


def test_a_cut_after_thinking_alone_is_a_cut_too() -> None:
    deltas = fed(
        say.start(), say.opened(0, type="thinking"), say.thought("hm"), say.closed(), say.stopped(),
        *say.message("second attempt"),
    )  # fmt: skip
    assert text(deltas) == ""
    assert failure(deltas).kind is Kind.UPSTREAM_CUT


def test_a_cut_after_a_call_is_a_cut_too() -> None:
    deltas = fed(
        say.start(), say.opened(0, type="tool_use", id="toolu_1", name="get"), say.stopped(), *say.message("again")
    )  # fmt: skip
    assert failure(deltas).kind is Kind.UPSTREAM_CUT


def test_short_retries_are_waited_for() -> None:
    turn = Turn()
    assert turn.feed(say.lines(say.retry(MAX_RETRY_WAIT * 1000))) == []
    assert text(turn.feed(say.lines(*say.message("later")))) == "later"


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (429, "rate_limit", Kind.RATE_LIMIT),
        (529, "overloaded", Kind.OVERLOADED),
        (401, "authentication_failed", Kind.NOT_LOGGED_IN),
        (529, "unknown", Kind.OVERLOADED),
        (None, "unknown", Kind.UPSTREAM_CUT),
        (500, None, Kind.UPSTREAM_ERROR),
        (418, "unknown", Kind.REFUSED_UPSTREAM),
    ],
)
def test_long_retries_are_told_to_the_client(status: int | None, error: str | None, kind: Kind) -> None:
    found = failure(fed(say.retry(MAX_RETRY_WAIT * 1000 + 1, status, error)))
    assert found.kind is kind
    assert found.retry_after == pytest.approx(MAX_RETRY_WAIT + 0.001)


def test_an_answer_without_the_clients_image_is_none() -> None:
    """As 2.1.330 wrote it (media/refused): it has put a note in the image's place, and asks again."""
    words = say.words("API Error: an image in the conversation could not be processed and was removed.")
    deltas = fed(words | {"error": "invalid_request", "api_error": "media_removed"}, *say.message("What image?"))
    assert text(deltas) == ""
    assert failure(deltas).kind is Kind.REFUSED_UPSTREAM
