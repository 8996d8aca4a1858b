"""proxy/protocol/turn.py: lines to deltas, and one end for every turn."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from proxy.protocol import kinds
from proxy.protocol.assembly import Assembly
from proxy.protocol.deltas import (
    Arguments,
    BlockBreak,
    Cited,
    Delta,
    Failed,
    Finished,
    Reason,
    RedactedThinking,
    Remarks,
    Signature,
    Started,
    Text,
    Thinking,
    Tokens,
    ToolCall,
    ToolEnd,
)
from proxy.protocol.failures import Failure, Kind
from proxy.protocol.kinds import Kind as LineKind
from proxy.protocol.kinds import classify
from proxy.protocol.lines import Garbage, Line, Malformed, StopDetails, TokenUsage, Unknown
from proxy.protocol.plan import Schema, Search
from proxy.protocol.turn import OVER, TRANSITIONS, State, Turn
from tests import cli_lines as say

# One line of every kind, and what the machine should take it for.
KINDS: dict[LineKind[Any], Line] = {
    kinds.MESSAGE_START: say.lines(say.start())[0],
    kinds.BLOCK_START: say.lines(say.opened())[0],
    kinds.BLOCK_PIECE: say.lines(say.piece("x"))[0],
    kinds.BLOCK_STOP: say.lines(say.closed())[0],
    kinds.MESSAGE_PROGRESS: say.lines(say.end(None))[0],
    kinds.MESSAGE_END: say.lines(say.end())[0],
    kinds.MESSAGE_STOP: say.lines(say.stopped())[0],
    kinds.SNAPSHOT: say.lines(say.snapshot(say.text_block("x")))[0],
    kinds.CLI_MESSAGE: say.lines(say.words("API Error"))[0],
    kinds.RETRY: say.lines(say.retry())[0],
    kinds.LIMITS: say.lines(say.limits())[0],
    kinds.RESULT: say.lines(say.result())[0],
    kinds.ERROR_RESULT: say.lines(say.error_result())[0],
    kinds.TOOL_RESULT: say.lines(say.found("toolu_01"))[0],
    kinds.HISTORY_ACKNOWLEDGED: say.lines(say.put_in())[0],
    kinds.INIT: say.lines(say.system("init", tools=[]))[0],
    kinds.CONTROL_REQUEST: say.lines(
        {"type": "control_request", "request_id": "r", "request": {"subtype": "can_use_tool"}}
    )[0],
    kinds.CONTROL_RESPONSE: say.lines(say.reply("initialize"))[0],
    kinds.OTHER: say.lines(say.system("status"))[0],
    kinds.MALFORMED: Malformed("assistant", "why"),
}
# The lines that lead to each state that is not over.
TO_STATE: dict[State, list[say.Table]] = {
    State.WAITING: [],
    State.MESSAGE: [say.start()],
    State.BLOCK: [say.start(), say.opened()],
    State.WHOLE: [say.snapshot(say.text_block("whole"))],
    State.CHECKING: [say.start(), say.end()],
    State.SEARCHING: [say.start(), *say.search(0, "toolu_01", "news"), say.end("tool_use")],
    State.FINISHED: say.message("x")[:-1],
    State.STOPPED: say.message("x"),
    State.IDLE: say.answer("x"),
    State.DIVERGED: [*say.message("x"), say.start()],
    State.FAILED: [say.error_result()],
}


FORM = Schema(Raw(b'{"type":"object"}'), Raw(b'{"type":"object"}'), wrapped=False)
WRAPPED = Schema(FORM.offered, FORM.source, wrapped=True)


def fed(*tables: say.Table, schema: Schema | None = None) -> list[Delta]:
    return Turn(schema).feed(say.lines(*tables))


def led_to(state: State) -> Turn:
    """A turn in this state."""
    turn = Turn(FORM if state is State.CHECKING else None, Search())
    turn.feed(say.lines(*TO_STATE[state]))
    assert turn.state is state
    return turn


STANDARD = Remarks(service_tier=Raw(b'"standard"'))
STARTED = Started(say.OPUS, "msg_01", Tokens(10, 7, 5, 1), STANDARD)


def failure(deltas: list[Delta]) -> Failure:
    """The failure that the deltas end with."""
    assert isinstance(deltas[-1], Failed)
    return deltas[-1].failure


def text(deltas: Iterable[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, Text))


def calls(deltas: Iterable[Delta]) -> list[tuple[str, str, str]]:
    """Id, name and arguments of each call; its index is its place."""
    found: list[tuple[str, str, str]] = []
    for delta in deltas:
        if isinstance(delta, ToolCall):
            assert delta.tool_index == len(found)
            found.append((delta.id, delta.name, ""))
        elif isinstance(delta, Arguments):
            id, name, before = found[delta.tool_index]
            found[delta.tool_index] = (id, name, before + delta.text)
    return found


def ends(deltas: Iterable[Delta]) -> int:
    return sum(isinstance(delta, Finished | Failed) for delta in deltas)


# The table


@pytest.mark.parametrize("kind", kinds.KINDS, ids=str)
def test_every_kind_of_line_is_known_for_what_it_is(kind: LineKind[Any]) -> None:
    assert classify(KINDS[kind])[0] is kind


@pytest.mark.parametrize("kind", kinds.KINDS, ids=str)
@pytest.mark.parametrize("state", State)
def test_every_pair_is_in_the_table_or_fails_the_turn(state: State, kind: LineKind[Any]) -> None:
    turn = led_to(state)
    deltas = turn.feed([KINDS[kind]])
    if (state, kind) in TRANSITIONS:
        assert not any(isinstance(delta, Failed) and "unexpected line" in delta.failure.message for delta in deltas)
    else:
        assert turn.state is State.FAILED
        found = failure(deltas)
        assert found.kind is Kind.CLI_CONFUSED
        assert kind.name in found.message
        assert state.value in found.message


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("line", [Unknown("new"), Garbage(b"x"), *say.lines(say.system("new"), say.reply("x"))])
def test_what_is_unknown_changes_nothing(state: State, line: Line) -> None:
    turn = led_to(state)
    assert turn.feed([line]) == []
    assert turn.state is state


@pytest.mark.parametrize("over", OVER)
def test_after_the_end_nothing_comes(over: State) -> None:
    turn = led_to(over)
    assert turn.over
    assert turn.feed(KINDS.values()) == []
    assert turn.fail(Failure(Kind.CLI_DIED, "late")) == []
    assert turn.over


@pytest.mark.parametrize(
    ("before", "line", "after"),
    [
        (State.FINISHED, say.stopped(), State.STOPPED), (State.FINISHED, say.result(), State.IDLE),
        (State.STOPPED, say.result(), State.IDLE), (State.STOPPED, say.start(), State.DIVERGED),
        (State.IDLE, say.start(), State.DIVERGED), (State.STOPPED, say.error_result(), State.DIVERGED),
        (State.STOPPED, say.error_result(num_turns=0), State.DIVERGED), (State.STOPPED, say.put_in(), State.STOPPED),
        (State.STOPPED, say.result(subtype="error_during_execution", num_turns=0), State.DIVERGED),
        (State.DIVERGED, say.result(), State.DIVERGED), (State.FAILED, say.result(), State.FAILED),
    ],
)  # fmt: skip
def test_what_the_cli_does_after_the_answer(before: State, line: say.Table, after: State) -> None:
    turn = led_to(before)
    turn.feed(say.lines(line))
    assert turn.state is after


EVERY_LINE = [*KINDS.values(), *say.lines(
    *say.call(1, "toolu_1", "get", '{"a":1}'), say.thought("hm"), say.end("max_tokens"), say.start("other"),
    say.retry(90_000), say.opened(2), say.closed(2), say.snapshot(say.text_block("y"), stop_reason="end_turn"),
    say.event({"type": "message_start", "message": {"model": "sub"}}, parent_tool_use_id="toolu_9"),
    *say.call(0, "toolu_5", "StructuredOutput", '{"a":1}'), say.result(subtype="error_max_structured_output_retries"),
)]  # fmt: skip


@given(st.lists(st.sampled_from(EVERY_LINE), max_size=25), st.sampled_from([None, FORM]))
def test_any_lines_in_any_order_end_once_at_most_and_start_once_at_most(
    given_lines: list[Line], schema: Schema | None
) -> None:
    turn = Turn(schema)
    deltas = turn.feed(given_lines)
    assert ends(deltas) == turn.over
    deltas += turn.fail(Failure(Kind.CLI_DIED, "gone"))
    assert ends(deltas) == 1
    assert isinstance(deltas[-1], Finished | Failed)
    starts = [at for at, delta in enumerate(deltas) if isinstance(delta, Started)]
    assert starts in ([], [0])
    if len(deltas) > 1:
        assert starts == [0]
    calls(deltas)


@given(st.lists(st.sampled_from(EVERY_LINE), max_size=25), st.lists(st.integers(0, 25), max_size=5))
def test_it_does_not_matter_how_lines_are_grouped(given_lines: list[Line], cuts: list[int]) -> None:
    whole, cut = Turn(), Turn()
    edges = [0, *sorted(cuts), len(given_lines)]
    pieces = [delta for a, b in pairwise(edges) for delta in cut.feed(given_lines[a:b])]
    assert pieces == whole.feed(given_lines)
    assert cut.state is whole.state


# Answers


def test_a_plain_answer() -> None:
    assert fed(*say.answer("Hel", "lo")) == [
        STARTED, Text("Hel"), Text("lo"),
        Finished(Reason.END_TURN, Tokens(input=10, cache_read=7, cache_write=5, output=12), remarks=STANDARD),
    ]  # fmt: skip


def test_pieces_come_out_when_they_come_in() -> None:
    turn = Turn()
    assert turn.feed(say.lines(say.system("init"), say.start(), say.opened())) == []
    assert turn.feed(say.lines(say.piece("a"))) == [STARTED, Text("a")]
    assert turn.feed(say.lines(say.piece("b"))) == [Text("b")]


def test_prompt_tokens_are_all_input() -> None:
    assert Tokens(input=10, cache_read=7, cache_write=5).prompt == 22


def test_usage_merges_both_events_and_the_later_one_wins_where_it_speaks() -> None:
    head = {"input_tokens": 3, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 2, "output_tokens": 1}
    tail = {"output_tokens": 50, "output_tokens_details": {"thinking_tokens": 20}, "cache_read_input_tokens": None}
    deltas = fed(say.start(usage=head), say.opened(), say.piece("x"), say.closed(), say.end("end_turn", tail))
    assert deltas[-1] == Finished(Reason.END_TURN, Tokens(3, 40, 2, 50, 20))


def test_tokens_that_are_kept_for_an_hour_are_no_searches() -> None:
    head = {"input_tokens": 3, "cache_creation_input_tokens": 5, "cache_creation": {"ephemeral_1h_input_tokens": 4}}
    deltas = fed(say.start(usage=head), say.opened(), say.piece("x"), say.closed(), say.end("end_turn"))
    assert isinstance(deltas[-1], Finished)
    assert (deltas[-1].tokens.searches, deltas[-1].tokens.cache_write_1h) == (0, 4)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ((b"[1]", b"[2, 3]"), b"[1,2, 3]"),
        ((b"[]", b" [2] "), b"[2]"),
        ((b"[1]", b""), b"[1]"),
        ((b"[1]", b"null"), b"[1]"),
    ],
)
def test_iterations_of_all_messages_of_an_answer_stand_together(said: tuple[bytes, ...], told: bytes) -> None:
    content = Assembly(None)
    for each in said:
        content.head(say.OPUS, "msg_01", TokenUsage(iterations=Raw(each), speed=Raw(b'"fast"')))
    assert content.remarks == Remarks(iterations=Raw(told), speed=Raw(b'"fast"'))


def test_two_text_blocks_follow_each_other() -> None:
    deltas = fed(
        say.start(), say.opened(0), say.piece("one", 0), say.snapshot(say.text_block("one")), say.closed(0),
        say.opened(1), say.piece("two", 1), say.snapshot(say.text_block("two")), say.closed(1), say.end(),
    )  # fmt: skip
    assert text(deltas) == "onetwo"
    assert ends(deltas) == 1


def test_an_empty_answer_is_an_answer() -> None:
    assert fed(say.start(), say.end(), say.stopped()) == [
        Started(say.OPUS, "msg_01", Tokens(10, 7, 5, 12), STANDARD),
        Finished(Reason.END_TURN, Tokens(10, 7, 5, 12), remarks=STANDARD),
    ]  # fmt: skip


def test_thinking_is_handed_on_with_its_signature() -> None:
    deltas = fed(
        say.start(), say.opened(0, type="thinking", thinking="", signature=""), say.thought("let me"), say.thought(""),
        say.signature(), say.closed(0), say.opened(1), say.piece("x", 1), say.closed(1), say.end(),
    )  # fmt: skip
    assert deltas[:-1] == [STARTED, Thinking("let me"), Signature("c2ln"), Text("x")]


def test_two_blocks_of_one_kind_are_told_apart() -> None:
    deltas = fed(
        say.start(), say.opened(0), say.piece("a"), say.piece("b"), say.closed(0), say.opened(1), say.piece("c", 1),
        say.closed(1), say.opened(2, type="redacted_thinking", data="eA=="), say.closed(2), say.end(),
    )  # fmt: skip
    assert deltas[1:-1] == [Text("a"), Text("b"), BlockBreak(), Text("c"), RedactedThinking("eA==")]


def test_a_thought_without_text_has_its_signature() -> None:
    deltas = fed(say.start(), say.opened(0, type="thinking", thinking="", signature=""), say.signature(), say.end())
    assert deltas[1:-1] == [Signature("c2ln")]


def test_blocks_and_pieces_of_new_kinds_are_passed_over() -> None:
    odd = say.event({"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "text": "no"}})
    deltas = fed(say.start(), say.opened(0, type="server_tool_use", id="x", name="web"), odd, say.closed(), say.end())
    assert [type(delta) for delta in deltas] == [Started, Finished]


def test_what_a_text_rests_on_and_why_it_was_refused_are_handed_on() -> None:
    citation = {"type": "char_location", "cited_text": "grass"}
    cited = say.event(
        {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": citation}}
    )
    details = {"type": "refusal", "category": "cyber", "explanation": "No."}
    ended = {"delta": {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}, "usage": {}}
    deltas = fed(
        say.start(), say.opened(0, type="text", text=""), say.piece("green"), cited, say.closed(),
        say.event({"type": "message_delta", **ended}),
    )  # fmt: skip
    assert [type(delta) for delta in deltas] == [Started, Text, Cited, Finished]
    assert isinstance(deltas[2], Cited)
    assert json.loads(bytes(deltas[2].citation)) == citation
    assert isinstance(deltas[3], Finished)
    assert deltas[3].details == StopDetails("refusal", "cyber", "No.")


def test_whitespace_is_kept() -> None:
    assert text(fed(*say.message("\n\n  a\t", "\r\n", " \n"))) == "\n\n  a\t\r\n \n"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        *((reason.value, reason) for reason in Reason),
        ("something_new", Reason.END_TURN),
    ],
)  # fmt: skip
def test_reasons(said: str, reason: Reason) -> None:
    last = fed(*say.message("x", reason=said))[-1]
    assert isinstance(last, Finished)
    assert last.reason is reason


# What the CLI does after the answer is not the answer


@pytest.mark.parametrize("reason", ["max_tokens", "refusal", "end_turn"])
def test_the_first_stop_reason_ends_the_answer(reason: str) -> None:
    deltas = fed(
        *say.message("mine", reason=reason), *say.message(" not mine"), say.words("API Error: more"),
        say.error_result(), say.result(),
    )  # fmt: skip
    assert text(deltas) == "mine"
    assert isinstance(deltas[-1], Finished)
    assert ends(deltas) == 1


def test_limits_are_seen_even_after_the_end() -> None:
    turn = Turn()
    turn.feed(say.lines(*say.message("x")))
    windows = {"five_hour": {"utilization": 0.5, "resetsAt": 1, "status": "allowed"}}
    turn.feed(say.lines(say.limits("allowed_warning", resetsAt=7, unifiedWindows=windows)))
    assert turn.limits is not None
    assert (turn.limits.status, turn.limits.unifiedWindows["five_hour"].utilization) == ("allowed_warning", 0.5)


# Tool calls


def test_parallel_calls_have_indexes_of_their_own() -> None:
    deltas = fed(
        say.start(), say.opened(0), say.piece("let me"), say.closed(0),
        *say.call(1, "toolu_1", "get", '{"a":', "1}"), *say.call(2, "toolu_2", "put", "", '{"b":2}'),
        say.end("tool_use"),
    )  # fmt: skip
    assert calls(deltas) == [("toolu_1", "get", '{"a":1}'), ("toolu_2", "put", '{"b":2}')]
    assert text(deltas) == "let me"
    last = deltas[-1]
    assert isinstance(last, Finished)
    assert last.reason is Reason.TOOL_USE


def test_the_first_call_does_not_end_the_turn() -> None:
    turn = Turn()
    turn.feed(say.lines(say.start(), *say.call(0, "toolu_1", "get", "{}")))
    assert not turn.over


def test_arguments_come_piece_by_piece() -> None:
    deltas = fed(say.start(), *say.call(0, "toolu_1", "get", '{"a"', ":1", "}"))
    assert [delta.text for delta in deltas if isinstance(delta, Arguments)] == ['{"a"', ":1", "}"]


@pytest.mark.parametrize("closed", [True, False])
def test_a_call_without_arguments_has_an_empty_object(closed: bool) -> None:
    head = [say.start(), say.opened(0, type="tool_use", id="toolu_1", name="now", input={}), say.arguments("")]
    deltas = fed(*head, *([say.closed(0)] if closed else []), say.end("tool_use"))
    assert calls(deltas) == [("toolu_1", "now", "{}")]
    assert ends(deltas) == 1


def test_calls_of_a_subagent_are_not_the_answer() -> None:
    inner = [line | {"parent_tool_use_id": "toolu_9"} for line in say.message("inner")]
    deltas = fed(*inner, *say.message("outer"))
    assert text(deltas) == "outer"


# Errors are never content


def test_the_clis_own_words_are_never_content() -> None:
    deltas = fed(
        say.words("API Error: 529 Overloaded", "overloaded"), say.error_result("API Error: 529", api_error_status=529)
    )
    assert text(deltas) == ""
    assert failure(deltas).kind is Kind.OVERLOADED


def test_an_error_result_that_calls_itself_a_success_is_an_error() -> None:
    deltas = fed(say.error_result("Something broke", subtype="success"))
    assert failure(deltas).kind is Kind.UPSTREAM_ERROR
    assert text(deltas) == ""


def test_another_subtype_is_an_error_even_without_is_error() -> None:
    line = say.result(subtype="error_during_execution", errors=["first", "second"]) | {"is_error": False}
    del line["result"]
    found = failure(fed(line))
    assert found.kind is Kind.UPSTREAM_ERROR
    assert found.message == "first; second"


def test_an_error_after_half_an_answer_is_an_error() -> None:
    half = [say.start(), say.opened(), say.piece("half"), say.words("API Error: Overloaded")]
    deltas = fed(*half, say.error_result("API Error: Overloaded"))
    assert text(deltas) == "half"
    assert ends(deltas) == 1
    failure(deltas)


def test_a_turn_without_an_answer_is_an_error() -> None:
    assert failure(fed(say.system("init"), say.words("Compacted."), say.result())).kind is Kind.CLI_CONFUSED


def test_a_malformed_line_fails_the_turn() -> None:
    assert failure(fed(say.start(), {"type": "assistant", "message": 5})).kind is Kind.CLI_CONFUSED


def test_past_messages_taken_in_are_not_the_end() -> None:
    deltas = fed(say.put_in(), say.put_in(), *say.message("x"))
    assert text(deltas) == "x"
    assert isinstance(deltas[-1], Finished)


def test_the_outside_can_end_it_once() -> None:
    turn = Turn()
    died = Failure(Kind.CLI_DIED, "gone")
    assert turn.fail(died) == [Failed(died)]
    assert turn.fail(died) == []


# A message that was not streamed


def test_a_whole_message_is_taken_from_the_snapshot() -> None:
    deltas = fed(
        say.snapshot(say.text_block("all at once"), usage={"input_tokens": 2, "output_tokens": 9}),
        say.result(stop_reason="end_turn"),
    )
    assert deltas == [
        Started(say.OPUS, "msg_01", Tokens(input=2, output=9)), Text("all at once"),
        Finished(Reason.END_TURN, Tokens(input=2, output=9)),
    ]  # fmt: skip


def test_a_whole_message_of_several_blocks_a_line_each() -> None:
    use: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {"a": 1}}
    deltas = fed(
        say.snapshot({"type": "thinking", "thinking": "hm"}),
        say.snapshot(say.text_block("let me")),
        say.snapshot(use),
        say.snapshot(use | {"id": "toolu_2", "input": {}}),
        say.result(stop_reason="tool_use"),
    )
    assert text(deltas) == "let me"
    assert Thinking("hm") in deltas
    assert [delta for delta in deltas if isinstance(delta, ToolEnd)] == [ToolEnd(0), ToolEnd(1)]
    found = calls(deltas)
    assert [(id, name, json.loads(given)) for id, name, given in found] == [
        ("toolu_1", "get", {"a": 1}), ("toolu_2", "get", {}),
    ]  # fmt: skip
    last = deltas[-1]
    assert isinstance(last, Finished)
    assert last.reason is Reason.TOOL_USE


def test_a_whole_message_with_its_stop_reason_ends_at_once() -> None:
    deltas = fed(say.snapshot(say.text_block("x"), stop_reason="max_tokens"), *say.message("not mine"))
    assert text(deltas) == "x"
    last = deltas[-1]
    assert isinstance(last, Finished)
    assert last.reason is Reason.MAX_TOKENS


@pytest.mark.parametrize("after", [say.start(), say.retry(10)])
def test_a_whole_message_and_another_attempt_are_not_glued(after: say.Table) -> None:
    deltas = fed(say.snapshot(say.text_block("whole")), after, *say.message("again"))
    assert text(deltas) == "whole"
    assert failure(deltas).kind is Kind.UPSTREAM_CUT


def test_blocks_of_new_kinds_in_a_whole_message_are_passed_over() -> None:
    odd = {"type": "server_tool_use", "id": "x", "name": "web"}
    deltas = fed(say.snapshot(odd, say.text_block(""), say.text_block("x"), {"type": "thinking"}), say.result())
    assert [type(delta) for delta in deltas] == [Started, Text, Finished]


def test_a_text_piece_without_text_begins_nothing() -> None:
    assert fed(say.start(), say.opened(), say.piece("")) == []
