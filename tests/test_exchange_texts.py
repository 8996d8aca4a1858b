"""proxy/cli/inputs.py: texts of custom tools that are judged by their grammars before their calls go out."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from proxy.cli.exchange import Exchange
from proxy.cli.inputs import CALL_ALL
from proxy.protocol.deltas import (
    Arguments,
    BlockBreak,
    Delta,
    Finished,
    Reason,
    Text,
    ToolCall,
    ToolEnd,
)
from proxy.protocol.judging import Item, Limit, Verdicts
from proxy.protocol.plan import Grammar, Message, TextBlock, Tool, ToolResultBlock
from proxy.protocol.tools import CUSTOM_SCHEMA
from tests.conftest import PATIENCE
from tests.direct import DirectValidator
from tests.scripted import BEGUN, DIED, SILENCE, USED, Scripted, ScriptedPool, end, says
from tests.test_exchange import WEATHER, answer, exchanged, plan

CODE = Grammar("regex", "print\\(.*\\)", "tools[0].format")
RUN = Tool("run", "Runs code.", CUSTOM_SCHEMA, "", CODE)
RUNS = plan(tools=(RUN, WEATHER))


def run(text: str, index: int = 0) -> list[Delta]:
    arguments = json.dumps({"input": text})
    return [
        ToolCall(index, f"toolu_{index}", "run"), Arguments(index, arguments[:5]), Arguments(index, arguments[5:]),
        ToolEnd(index),
    ]  # fmt: skip


def results(message: Message) -> list[tuple[str, bool, str]]:
    found = []
    for block in message.content:
        assert isinstance(block, ToolResultBlock)
        (part,) = block.content
        assert isinstance(part, TextBlock)
        found.append((block.tool_use_id, block.is_error, part.text))
    return found


CALLED = end(Reason.TOOL_USE)


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_text_that_matches_goes_out_as_soon_as_it_is_whole(streamed: bool) -> None:
    call = run("print(1)")
    later: list[Delta] = [ToolCall(1, "toolu_1", "weather"), Arguments(1, "{}"), ToolEnd(1)]
    pool = ScriptedPool(Scripted([[BEGUN, Text("a"), call[0]], [call[1]], [call[2], call[3]], [*later, CALLED]]))
    exchange = Exchange(pool, RUNS, "", streamed=streamed)
    assert await answer(exchange) == [[BEGUN, Text("a")], call, [*later, CALLED]]
    assert (exchange.attempts, exchange.invalid_calls) == (1, 1)
    assert pool.kept == [True]


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_text_that_does_not_match_is_asked_for_again_by_its_result(streamed: bool) -> None:
    wrong = [*run("echo 1"), ToolCall(1, "toolu_1", "weather"), Arguments(1, '{"city":"Rome"}'), ToolEnd(1)]
    better: list[Delta] = [Text("b"), *run("print(1)")]
    scripted = Scripted([[BEGUN, Text("a"), wrong[0]], wrong[1:], [CALLED]], [[BEGUN, *better], [CALLED]])
    pool = ScriptedPool(scripted)
    exchange, deltas = await exchanged(pool, RUNS, streamed=streamed)
    assert deltas == [BEGUN, Text("a"), BlockBreak(), Text("\n\n"), *better, Finished(Reason.TOOL_USE, USED + USED)]
    first, second = results(scripted.asked[1])
    assert first[:2] == ("toolu_0", True)
    assert "It matches up to character 0, but not from there on: 'echo 1'." in first[2]
    assert second == ("toolu_1", True, CALL_ALL)
    assert (exchange.attempts, exchange.invalid_calls) == (2, 0)
    assert pool.kept == [False]


async def test_it_is_asked_for_again_once() -> None:
    said: list[Delta] = [Text("a"), Text("b"), *run("echo 2")]
    pool = ScriptedPool(Scripted([[BEGUN, *run("echo 1"), CALLED]], [[BEGUN, *said, CALLED]]))
    exchange, deltas = await exchanged(pool, RUNS)
    assert deltas == [BEGUN, *said, Finished(Reason.TOOL_USE, USED + USED)]
    assert exchange.invalid_calls == 1


@pytest.mark.parametrize(
    ("said", "settles"),
    [
        # The client has a call of this answer already.
        ([ToolCall(0, "toolu_9", "weather"), Arguments(0, '{"city":"Rome"}'), ToolEnd(0), *run("echo 1", 1)], True),
        ([*run("print(1)"), *run("echo 1", 1)], True),
        # The CLI cannot be asked.
        (run("echo 1"), False),
    ],
)
async def test_where_it_cannot_be_asked_for_again_it_goes_out(said: list[Delta], settles: bool) -> None:
    pool = ScriptedPool(Scripted([[BEGUN, *said], [CALLED]], settles=settles))
    exchange, deltas = await exchanged(pool, RUNS)
    assert deltas == [BEGUN, *said, CALLED]
    assert (exchange.attempts, exchange.invalid_calls) == (1, 1)


async def test_a_call_that_is_cut_short_goes_out_as_it_is() -> None:
    cut = run("echo 1")[:2]
    pool = ScriptedPool(Scripted([[BEGUN, *cut], [end(Reason.MAX_TOKENS)]]))
    assert (await exchanged(pool, RUNS))[1] == [BEGUN, *cut, end(Reason.MAX_TOKENS)]


async def test_what_is_held_back_is_no_part_of_a_failure() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, Text("a")], run("echo 1")[:2], [DIED]]))
    _, deltas = await exchanged(pool, RUNS)
    assert deltas == [BEGUN, Text("a"), DIED]


async def test_silences_are_told_while_a_call_is_held_back() -> None:
    call = run("print(1)")
    pool = ScriptedPool(Scripted([[BEGUN], [call[0]], SILENCE, SILENCE, [*call[1:], CALLED]]))
    assert [len(deltas) for deltas in await answer(Exchange(pool, RUNS, ""), PATIENCE)] == [1, 0, 0, 5]


async def test_a_text_that_cannot_be_judged_goes_out() -> None:
    pool = ScriptedPool(Scripted([[BEGUN, *run("echo 1"), CALLED]]))
    pool.validator = Unjudging()
    exchange, deltas = await exchanged(pool, RUNS)
    assert deltas == [BEGUN, *run("echo 1"), CALLED]
    assert exchange.unvalidated


class Unjudging(DirectValidator):
    async def judge(self, owner: str, items: Sequence[Item]) -> Verdicts:
        return Verdicts((), Limit.TIME)


async def test_one_that_was_to_call_a_tool_has_its_one_repair_for_that() -> None:
    must = plan(tools=(RUN,), must_call=True)
    pool = ScriptedPool(Scripted([says("no")], [[BEGUN, Text("a"), *run("echo 1"), CALLED]]))
    _, deltas = await exchanged(pool, must)
    assert deltas == [BEGUN, Text("a"), *run("echo 1"), Finished(Reason.TOOL_USE, USED + USED)]
