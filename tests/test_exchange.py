"""proxy/cli/exchange.py: one request's answer, over conversations that say what the test has written down for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from proxy.cli.exchange import CALL_AGAIN, Exchange
from proxy.cli.pool import Lease, Pool
from proxy.protocol.checking import fault
from proxy.protocol.deltas import (
    Arguments,
    Delta,
    Failed,
    Finished,
    Reason,
    Refusal,
    Retracted,
    Text,
    Thinking,
    ToolCall,
    ToolEnd,
)
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.protocol.judging import Item, Limit, Verdicts
from proxy.protocol.plan import Message, Plan, Schema, TextBlock, Tool
from tests import fake_cli
from tests.conftest import PATIENCE, base_settings, children_of, launch_of, until
from tests.direct import DirectValidator
from tests.scripted import BEGUN, DIED, OVERLOADED, SILENCE, USED, Script, Scripted, ScriptedPool, calls, end, says

WEATHER = Tool(
    "weather",
    "Tells the weather.",
    Raw(b'{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'),
)
NUMBERS = Schema(Raw(b"{}"), Raw(b'{"type":"array","items":{"type":"integer"}}'), wrapped=True)


def plan(*texts: str, **more: Any) -> Plan:
    return Plan("opus", None, tuple(Message("user", (TextBlock(text),)) for text in texts or ("hi",)), **more)


MUST = plan(tools=(WEATHER,), must_call=True)
JSON = plan(schema=NUMBERS)


async def answer(exchange: Exchange, patience: float = 5.0) -> list[list[Delta]]:
    """All that comes, as it comes."""
    return [deltas async for deltas in exchange.deltas(patience)]


async def exchanged(pool: ScriptedPool, asked: Plan | None = None, **more: Any) -> tuple[Exchange, list[Delta]]:
    """The exchange, over, and its deltas."""
    exchange = Exchange(pool, asked or plan(), "", **more)
    return exchange, [delta for deltas in await asyncio.wait_for(answer(exchange), 60) for delta in deltas]


def text(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, Text))


def finish(deltas: Sequence[Delta]) -> Finished:
    """The one end, which is the last delta."""
    assert [delta for delta in deltas if isinstance(delta, Finished | Failed)] == [deltas[-1]]
    assert isinstance(deltas[-1], Finished), deltas[-1]
    return deltas[-1]


def failure(deltas: Sequence[Delta]) -> Failure:
    assert [delta for delta in deltas if isinstance(delta, Finished | Failed)] == [deltas[-1]]
    assert isinstance(deltas[-1], Failed), deltas[-1]
    return deltas[-1].failure


# Plain answers


async def test_an_answer_goes_out_as_it_comes_and_is_kept() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text("a")], [Text("b")], [Text("c"), end()]]))
    exchange = Exchange(pool, plan(), "", request="req_1")
    assert await answer(exchange) == [[BEGUN, Text("a")], [Text("b")], [Text("c"), end()]]
    assert pool.kept == [True]
    assert (exchange.served, exchange.attempts, exchange.tokens, exchange.tool_choice_unmet) == ("new", 1, USED, False)
    (conversation,) = pool.opened
    assert isinstance(conversation, Scripted)
    assert conversation.owed == ["req_1"]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_failure_ends_the_answer_and_its_conversation(begun: bool) -> None:
    said: list[list[Delta]] = [[BEGUN, Text("a")]] if begun else []
    pool = ScriptedPool(Scripted([*said, [OVERLOADED]]))
    _, deltas = await exchanged(pool)
    assert failure(deltas) == OVERLOADED.failure
    assert text(deltas) == ("a" if begun else "")
    assert pool.kept == [False]


async def test_an_answer_that_the_shutdown_ends_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text("a")], [DIED]]))
    monkeypatch.setattr(pool, "_closing", True)
    assert failure((await exchanged(pool))[1]).kind is Kind.SHUTTING_DOWN


async def test_a_failure_in_the_first_batch_goes_out_alone() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text("a"), OVERLOADED]]))
    assert (await exchanged(pool))[1] == [OVERLOADED]


@pytest.mark.parametrize(
    ("window", "words"),
    [(200_000, "Too long. This model's maximum context length is 200000 tokens."), (None, "Too long")],
)
async def test_a_prompt_that_is_too_long_is_told_how_long_one_may_be(window: int | None, words: str) -> None:
    conversation = Scripted([[Failed(Failure(Kind.PROMPT_TOO_LONG, "Too long"))]])
    conversation.window = window
    _, deltas = await exchanged(ScriptedPool(conversation))
    assert failure(deltas) == Failure(Kind.PROMPT_TOO_LONG, words)


async def test_no_room_is_a_failure() -> None:
    found = await answer(Exchange(ScriptedPool(), plan(), ""))
    assert [failure(deltas).kind for deltas in found] == [Kind.QUEUE_FULL]


async def test_silences_are_told() -> None:
    pool = ScriptedPool(Scripted([SILENCE, [BEGUN], SILENCE, SILENCE, says("a")[1:]]))
    assert [len(deltas) for deltas in await answer(Exchange(pool, plan(), ""), PATIENCE)] == [0, 1, 0, 0, 2]


async def test_silences_are_told_while_an_answer_is_held_back() -> None:
    pool = ScriptedPool(Scripted([[BEGUN], SILENCE, [Thinking("hm")], SILENCE, calls()[1:]]))
    found = await answer(Exchange(pool, MUST, ""), PATIENCE)
    assert [bool(deltas) for deltas in found] == [False, False, True]
    assert found[-1] == [BEGUN, Thinking("hm"), *calls()[1:]]


async def test_an_answer_that_is_held_back_while_it_comes_is_silent_too() -> None:
    """Nothing reaches the client, however busy the model is."""
    thoughts: list[list[Delta]] = [[Thinking("hm")] for _ in range(20)]
    pool = ScriptedPool(Scripted([[BEGUN], *thoughts, calls()[1:]]))
    found = await answer(Exchange(pool, MUST, ""), 0.0)
    assert found[:-1] == [[]] * 21
    assert found[-1][-1] == end(Reason.TOOL_USE)


# What takes time before the question is asked: the queue, a child that starts, the past that is put in


class Slow(ScriptedPool):
    """To open takes so many seconds. `fails`: it does, in the end."""

    def __init__(self, *conversations: Scripted, opening: float = 0.0, fails: bool = False) -> None:
        super().__init__(*conversations, served=["new"] * len(conversations))
        self.opening = opening
        self.fails = fails

    async def open(self, plan: Plan, owner: str) -> Lease:
        await asyncio.sleep(self.opening)
        if self.fails:
            raise Rejection(Failure(Kind.QUEUE_WAIT, "Too long."))
        lease = await super().open(plan, owner)
        return lease


LONG: list[dict[str, Any]] = [{"opening": 0.05}]


@pytest.mark.parametrize("long", LONG)
async def test_what_comes_before_the_answer_is_silence(long: dict[str, Any]) -> None:
    pool = Slow(Scripted([says("a")]), **long)
    found = await answer(Exchange(pool, plan(), ""), 0.01)
    assert len(found) > 2
    assert found == [[]] * (len(found) - 1) + [says("a")]
    assert pool.kept == [True]


async def test_no_room_after_a_silence_is_a_failure() -> None:
    pool = Slow(opening=0.03, fails=True)
    deltas = Exchange(pool, plan(), "").deltas(0.01)
    assert await anext(deltas) == []
    *_, last = [found async for found in deltas]
    assert failure(last).kind is Kind.QUEUE_WAIT
    assert pool.kept == []


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("long", LONG)
@pytest.mark.parametrize("pause", [0.0, 0.2])
async def test_one_who_leaves_meanwhile_leaves_nothing_behind(long: dict[str, Any], pause: float, fails: bool) -> None:
    pool = Slow(Scripted([says("a")]), **long, fails=fails)
    deltas = Exchange(pool, plan(), "").deltas(0.001)
    assert await anext(deltas) == []
    # Meanwhile it may have become an answer, or a failure, that nobody asks for any more.
    await asyncio.sleep(pause)
    await deltas.aclose()
    assert len(pool.back) == len(pool.opened)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("long", LONG)
async def test_one_that_is_cancelled_meanwhile_leaves_nothing_behind(long: dict[str, Any]) -> None:
    pool = Slow(Scripted([says("a")]), **long)
    task = asyncio.create_task(answer(Exchange(pool, plan(), "")))
    await asyncio.sleep(0.04)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(pool.back) == len(pool.opened)
    assert len(asyncio.all_tasks()) == 1


# Conversations that were kept alive


@pytest.mark.parametrize("silent", [False, True])
async def test_a_kept_conversation_that_has_died_is_begun_again(silent: bool) -> None:
    before: list[list[Delta]] = [SILENCE] if silent else []
    lost, new = Scripted([*before, [DIED]]), Scripted([says("a")])
    pool = ScriptedPool(lost, new, served=("continued", "replayed"))
    asked = plan("one", "two")
    exchange = Exchange(pool, asked, "", request="req_1")
    found = [deltas for deltas in await answer(exchange, 0.001) if deltas]
    assert found == [says("a")]
    assert pool.renewed == [lost]
    assert lost.asked == [asked.messages[-1]]
    assert new.asked == [asked]
    assert (exchange.served, exchange.attempts) == ("replayed", 2)
    assert pool.kept == [False, True]


async def test_nothing_of_a_lost_answer_that_was_held_back_is_left() -> None:
    lost = Scripted([[BEGUN, Text("[1")], [DIED]])
    pool = ScriptedPool(lost, Scripted([says("[2]")]), served=("continued", "replayed"))
    exchange, deltas = await exchanged(pool, JSON, streamed=False)
    assert deltas[:-1] == [BEGUN, Text("[2]")]
    assert finish(deltas).tokens == exchange.tokens == USED + USED


async def test_a_conversation_that_dies_in_mid_answer_has_failed() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text("a")], [DIED]]), served=("continued",))
    assert failure((await exchanged(pool))[1]).kind is Kind.CLI_DIED


async def test_a_new_conversation_that_dies_is_not_tried_again() -> None:
    pool = ScriptedPool(Scripted([[DIED]]), Scripted([says("a")]), served=("new", "new"))
    assert failure((await exchanged(pool))[1]).kind is Kind.CLI_DIED


async def test_no_process_for_beginning_again_is_a_failure() -> None:
    pool = ScriptedPool(Scripted([[DIED]]), served=("continued",))
    found = await answer(Exchange(pool, plan(), ""))
    assert failure(found[-1]).kind is Kind.QUEUE_FULL
    assert pool.kept == [False]


# Answers that must call a tool


async def test_a_call_goes_out_from_its_beginning() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text("Let me see.")], calls()[1:2], calls()[2:]]))
    found = await answer(Exchange(pool, MUST, ""))
    assert found == [[BEGUN, Text("Let me see."), calls()[1]], calls()[2:]]
    assert pool.kept == [True]


async def test_an_answer_without_its_call_is_asked_for_again() -> None:
    conversation = Scripted([[BEGUN], [Text("No."), end()]], [calls()])
    pool = ScriptedPool(conversation)
    exchange, deltas = await exchanged(pool, MUST, request="req_1")
    assert deltas[:-1] == calls()[:-1]
    assert finish(deltas).reason is Reason.TOOL_USE
    assert conversation.asked[1] == Message("user", (TextBlock(CALL_AGAIN),))
    assert conversation.owed == ["req_1", "req_1"]
    assert (exchange.attempts, exchange.tool_choice_unmet) == (2, False)
    # The client knows nothing of the first try: the conversation is not its own any more.
    assert pool.kept == [False]


async def test_what_two_tries_used_is_summed() -> None:
    pool = ScriptedPool(Scripted([says("No.")], [calls()]))
    exchange, deltas = await exchanged(pool, MUST)
    assert exchange.tokens == finish(deltas).tokens == USED + USED


async def test_an_answer_that_never_calls_goes_out_as_it_is() -> None:
    pool = ScriptedPool(Scripted([says("No.")], [says("Never.")]))
    exchange, deltas = await exchanged(pool, MUST)
    assert (text(deltas), finish(deltas).reason) == ("Never.", Reason.END_TURN)
    assert (exchange.tool_choice_unmet, exchange.attempts) == (True, 2)


async def test_a_conversation_that_cannot_go_on_is_not_asked_again() -> None:
    pool = ScriptedPool(Scripted([says("No.")], settles=False))
    exchange, deltas = await exchanged(pool, MUST)
    assert text(deltas) == "No."
    assert (exchange.tool_choice_unmet, exchange.attempts) == (True, 1)


@pytest.mark.parametrize("reason", [Reason.MAX_TOKENS, Reason.REFUSAL])
async def test_an_answer_that_could_not_end_is_not_asked_for_again(reason: Reason) -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text("I wou"), end(reason)]]))
    exchange, deltas = await exchanged(pool, MUST)
    assert (finish(deltas).reason, exchange.tool_choice_unmet, exchange.attempts) == (reason, False, 1)


# Answers that must fit a schema


async def test_json_that_fits_goes_out_while_it_is_written() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text("[1,")], [Text("2]"), end()]]))
    assert await answer(Exchange(pool, JSON, "")) == [[BEGUN, Text("[1,")], [Text("2]"), end()]]
    assert pool.kept == [True]


async def test_json_for_a_whole_answer_goes_out_when_it_is_known_to_fit() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text("[1,")], [Text("2]"), end()]]))
    assert await answer(Exchange(pool, JSON, "", streamed=False)) == [[BEGUN, Text("[1,"), Text("2]"), end()]]


@pytest.mark.parametrize("wrong", ["[1", '["a"]', "", "Sure: [1]"])
async def test_json_that_does_not_fit_is_asked_for_again(wrong: str) -> None:
    conversation = Scripted([[BEGUN], [Text(wrong), end()]], [says("[1]")])
    pool = ScriptedPool(conversation)
    exchange, deltas = await exchanged(pool, JSON, streamed=False)
    assert deltas == [BEGUN, Text("[1]"), Finished(Reason.END_TURN, USED + USED)]
    (words,) = conversation.asked[1].content
    assert "does not fit" in words.text
    assert pool.kept == [False]
    assert exchange.attempts == 2


async def test_json_that_does_not_fit_twice_is_a_refusal() -> None:
    pool = ScriptedPool(Scripted([says('["a"]')], [says('["b"]')]))
    _, deltas = await exchanged(pool, JSON, streamed=False)
    started, refusal, last = deltas
    assert started == BEGUN
    assert isinstance(refusal, Refusal)
    assert "At the root[0]" in refusal.text
    assert last == Finished(Reason.END_TURN, USED + USED)


async def test_json_that_does_not_fit_and_has_gone_out_is_a_failure() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text('["a"')], [Text("]"), end()]]))
    exchange, deltas = await exchanged(pool, JSON)
    assert failure(deltas).kind is Kind.SCHEMA_UNMET
    assert (exchange.attempts, pool.kept) == (1, [False])


async def test_a_refusal_of_the_models_own_stays_its_own() -> None:
    refused: list[Delta] = [BEGUN, Refusal("I would rather not."), end()]
    pool = ScriptedPool(Scripted([refused]))
    exchange, deltas = await exchanged(pool, JSON)
    assert (deltas, exchange.attempts) == (refused, 1)


async def test_json_that_was_cut_by_the_limit_goes_out_as_it_is() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text("[1"), end(Reason.MAX_TOKENS)]]))
    _, deltas = await exchanged(pool, JSON, streamed=False)
    assert (text(deltas), finish(deltas).reason) == ("[1", Reason.MAX_TOKENS)


async def test_calls_need_not_fit_the_schema() -> None:
    pool = ScriptedPool(Scripted([calls()]))
    _, deltas = await exchanged(pool, plan(schema=NUMBERS, tools=(WEATHER,)), streamed=False)
    assert finish(deltas).reason is Reason.TOOL_USE


@pytest.mark.parametrize(
    "script",
    [
        [[BEGUN, Text('["a"]')], [Retracted(), Text("[1]"), end()]],
        [[BEGUN, Text('["a"]'), Retracted()], [Text("[1]")], [end()]],
        [[BEGUN, Text('["a"]'), Retracted(), Text("[0"), Retracted(), Text("[1]"), end()]],
        [[BEGUN], [Text('["a"]')], [Retracted()], [Text("[1]"), end()]],
    ],
)
async def test_what_the_cli_takes_back_is_not_in_a_whole_answer(script: Script) -> None:
    pool = ScriptedPool(Scripted(script))
    _, deltas = await exchanged(pool, JSON, streamed=False)
    assert deltas == [BEGUN, Text("[1]"), end()]
    assert pool.kept == [True]


async def test_what_the_cli_takes_back_within_the_first_batch_was_never_streamed() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text('["a"]'), Retracted()], [Text("[1]"), end()]]))
    assert await answer(Exchange(pool, JSON, "")) == [[BEGUN], [Text("[1]"), end()]]


async def test_what_the_cli_takes_back_after_it_has_gone_out_is_a_failure() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text('["a"]')], [Retracted(), Text("[1]"), end()]]))
    _, deltas = await exchanged(pool, JSON)
    assert failure(deltas).kind is Kind.SCHEMA_UNMET
    assert pool.kept == [False]


# Stop sequences


@pytest.mark.parametrize(
    "script",
    [
        [[BEGUN, Text("one END two")]],
        [[BEGUN, Text("one E")], [Text("ND two"), end()]],
        [[BEGUN, Text("one "), Text("END")], [Text("never read"), end()]],
        [says("one END")],
    ],
)
async def test_a_stop_sequence_ends_the_answer_and_its_conversation(script: Script) -> None:
    pool = ScriptedPool(Scripted(script))
    _, deltas = await exchanged(pool, stop=["END"])
    assert (text(deltas), finish(deltas)) == ("one ", Finished(Reason.STOP_SEQUENCE, USED, "END"))
    assert pool.kept == [False]


@pytest.mark.parametrize("reason", [Reason.END_TURN, Reason.MAX_TOKENS])
async def test_without_a_stop_sequence_all_of_it_goes_out(reason: Reason) -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text("one EN")], [end(reason)]]))
    _, deltas = await exchanged(pool, stop=["END"])
    assert (text(deltas), finish(deltas).reason) == ("one EN", reason)
    assert pool.kept == [True]


async def test_a_stop_sequence_that_waited_for_a_longer_one_is_found_at_the_end() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text("abc")], [end(Reason.MAX_TOKENS)]]))
    _, deltas = await exchanged(pool, stop=["bc", "abcd"])
    assert (text(deltas), finish(deltas).stop_sequence) == ("a", "bc")
    assert pool.kept == [False]


async def test_arguments_and_thoughts_are_not_cut() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Thinking("END"), Text("EN"), *calls('{"city":"END"}')[1:]]]))
    _, deltas = await exchanged(pool, plan(tools=(WEATHER,)), stop=["END"])
    assert deltas == [BEGUN, Thinking("END"), Text("EN"), *calls('{"city":"END"}')[1:]]


async def test_what_comes_with_a_failure_is_cut_too() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text("one ")], [Text("EN"), DIED]]))
    _, deltas = await exchanged(pool, stop=["END"])
    assert (text(deltas), failure(deltas).kind) == ("one ", Kind.CLI_DIED)
    pool = ScriptedPool(Scripted([[BEGUN, Text("one ")], [Text("END two"), DIED]]))
    _, deltas = await exchanged(pool, stop=["END"])
    assert (text(deltas), finish(deltas).reason) == ("one ", Reason.STOP_SEQUENCE)


async def test_json_is_not_cut() -> None:
    pool = ScriptedPool(Scripted([says("[1,2]")]))
    assert text((await exchanged(pool, JSON, stop=[","]))[1]) == "[1,2]"


# Arguments that are not what they should be


@pytest.mark.parametrize(
    ("arguments", "odd"),
    [('{"city":"Rome"}', 0), ("{}", 1), ('{"city":5}', 1), ('{"city":', 1), ("[]", 1), ("", 1)],
)
async def test_odd_arguments_are_counted_and_handed_on(arguments: str, odd: int) -> None:
    pool = ScriptedPool(Scripted([calls(arguments)]))
    exchange, deltas = await exchanged(pool, plan(tools=(WEATHER,)))
    assert exchange.invalid_calls == odd
    assert deltas == calls(arguments)


@pytest.mark.parametrize(
    ("schema", "arguments", "odd"),
    [
        (b'{"type":"object","properties":{"a":{"$ref":"http://127.0.0.1:1/x"}}}', '{"a":1}', 0),
        (b'{"type":"object","properties":{"a":{"pattern":"("}}}', '{"a":1}', 0),
        (b'{"type":"object","properties":{"a":{"pattern":"("}}}', '{"a":', 1),
    ],
)
async def test_a_schema_that_cannot_be_checked_says_nothing(schema: bytes, arguments: str, odd: int) -> None:
    pool = ScriptedPool(Scripted([calls(arguments)]))
    exchange, _ = await exchanged(pool, plan(tools=(Tool("weather", "", Raw(schema)),)))
    assert exchange.invalid_calls == odd


async def test_each_odd_call_counts() -> None:
    said: list[Delta] = [BEGUN]
    for index, arguments in enumerate(['{"city":1}', '{"city":"Rome"}', "{"]):
        said += [ToolCall(index, f"toolu_{index}", "weather"), Arguments(index, arguments), ToolEnd(index)]
    said += [ToolCall(3, "toolu_3", "unheard_of"), Arguments(3, "{}"), ToolEnd(3), end(Reason.TOOL_USE)]
    exchange, _ = await exchanged(ScriptedPool(Scripted([said])), plan(tools=(WEATHER,)))
    assert exchange.invalid_calls == 2


class Unable(DirectValidator):
    """Judges nothing but the first so many."""

    def __init__(self, able: int) -> None:
        super().__init__()
        self.able = able
        self.asked: list[Item] = []

    async def judge(self, owner: str, items: Sequence[Item]) -> Verdicts:
        self.asked += items
        judged = items[: self.able]
        return Verdicts(tuple(map(fault, judged)), None if len(judged) == len(items) else Limit.TIME)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_is_not_judged_goes_out_as_it_is(streamed: bool) -> None:
    pool = ScriptedPool(Scripted([says('["a"]')]))
    pool.validator = Unable(0)
    exchange, deltas = await exchanged(pool, JSON, streamed=streamed)
    assert text(deltas) == '["a"]'
    assert finish(deltas).reason is Reason.END_TURN
    assert exchange.unvalidated
    assert pool.kept == [True]


async def test_calls_that_are_not_judged_are_not_counted() -> None:
    said: list[Delta] = [BEGUN]
    for index in range(3):
        said += [ToolCall(index, f"toolu_{index}", "weather"), Arguments(index, "{"), ToolEnd(index)]
    pool = ScriptedPool(Scripted([[*said, end(Reason.TOOL_USE)]]))
    pool.validator = Unable(1)
    exchange, _ = await exchanged(pool, plan(tools=(WEATHER,)))
    assert (exchange.invalid_calls, exchange.unvalidated) == (1, True)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_is_judged_once(streamed: bool) -> None:
    pool = ScriptedPool(Scripted([says("[1]")]))
    pool.validator = judge = Unable(1)
    exchange, _ = await exchanged(pool, JSON, streamed=streamed)
    assert judge.asked == [Item("value", NUMBERS.source, "[1]")]
    assert not exchange.unvalidated


# However it is left, the conversation goes back


SCRIPT: Script = [SILENCE, [BEGUN], [Text("a")], [Text("b")], [end()]]


@pytest.mark.parametrize("after", range(5))
async def test_an_answer_that_nobody_reads_on_gives_its_conversation_back(after: int) -> None:
    pool = ScriptedPool(Scripted(SCRIPT))
    exchange = Exchange(pool, plan(), "")
    deltas = exchange.deltas(PATIENCE)
    for _ in range(after):
        await anext(deltas)
    await deltas.aclose()
    assert pool.kept == [False] * bool(after)


@pytest.mark.parametrize("asked", [plan(), MUST, JSON])
async def test_a_request_that_is_cancelled_gives_its_conversation_back(asked: Plan) -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text("a")]]))
    exchange = Exchange(pool, asked, "", streamed=False)
    task = asyncio.create_task(answer(exchange))
    await until(lambda: exchange.tokens == USED, 5, "the answer has begun")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.kept == [False]
    assert exchange.tokens == USED


async def test_a_fault_of_ours_gives_the_conversation_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ScriptedPool(Scripted([says("a")]))
    monkeypatch.setattr(Exchange, "_ready", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await answer(Exchange(pool, plan(), ""))
    assert pool.kept == [False]


# With processes


async def test_one_that_dies_when_it_goes_on_keeps_its_slot(tmp_path: Path) -> None:
    """It has had its turn in the queue, and is not asked to wait for another."""
    settings = base_settings(max_conversations=1)
    pool = Pool(settings, launch_of(fake_cli.write(tmp_path, questions=1), settings))
    await answer(Exchange(pool, plan("one"), ""))
    past = (*plan("one").messages, Message("assistant", (TextBlock("echo: one"),)))
    going_on = Plan("opus", None, (*past, *plan("two").messages))
    exchange = Exchange(pool, going_on, "")
    deltas = exchange.deltas(5)
    first = asyncio.create_task(anext(deltas))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(answer(Exchange(pool, plan("three"), "")))
    found = [await first, *[each async for each in deltas]]
    assert (exchange.served, exchange.attempts) == ("replayed", 2)
    assert text([delta for each in found for delta in each]) == "echo: two"
    assert not waiting.done()
    assert text([delta for each in await waiting for delta in each]) == "echo: three"
    assert pool.counts.busy == 0
    await pool.close()
    assert children_of(tmp_path) == []


@pytest.mark.parametrize("leave", [0.0, 0.01, 0.05])
async def test_one_who_leaves_while_it_is_begun_again_leaves_no_slot_taken(tmp_path: Path, leave: float) -> None:
    settings = base_settings(max_conversations=1)
    pool = Pool(settings, launch_of(fake_cli.write(tmp_path, questions=1, slow=0.3), settings))
    await answer(Exchange(pool, plan("one"), ""))
    past = (*plan("one").messages, Message("assistant", (TextBlock("echo: one"),)))
    exchange = Exchange(pool, Plan("opus", None, (*past, *plan("two").messages)), "")
    task = asyncio.create_task(answer(exchange))
    await until(lambda: exchange.attempts == 2 or pool.counts.starting > 0, 5, "it is begun again")
    await asyncio.sleep(leave)
    task.cancel()
    await asyncio.wait([task])
    assert pool.counts.busy == 0
    assert text([delta for each in await answer(Exchange(pool, plan("x"), "")) for delta in each]) == "echo: x"
    await pool.close()
    assert children_of(tmp_path) == []


@pytest.mark.parametrize("steps", [[["say", "a"], ["end"]], [["say", "a"], ["hang"]], [["exit", 3]], [["hang"]]])
@pytest.mark.parametrize("read_on", [False, True])
async def test_no_child_and_no_slot_is_left(tmp_path: Any, steps: list[Any], read_on: bool) -> None:
    settings = base_settings(parked=0, idle_timeout=0.3)
    pool = Pool(settings, launch_of(fake_cli.write(tmp_path), settings))
    deltas = Exchange(pool, plan(json.dumps(steps)), "").deltas(0.05)
    async for _ in deltas:
        if not read_on:
            break
    await deltas.aclose()
    assert pool.counts.busy == 0
    await until(lambda: not children_of(tmp_path), 5, "the child is gone")
    await pool.close()
