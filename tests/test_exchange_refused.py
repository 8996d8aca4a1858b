"""proxy/cli/exchange.py: what a model or the CLI refuses, and how the request is served all the same."""

from __future__ import annotations

import pytest

from proxy.protocol.deltas import (
    Failed,
)
from proxy.protocol.failures import Failure, Kind
from proxy.protocol.plan import Plan, Sampling, ToolChoice
from tests.scripted import OVERLOADED, Scripted, ScriptedPool, says
from tests.test_exchange import WEATHER, exchanged, failure, plan, text

# Fields that a model may refuse


REFUSED = Failed(Failure(Kind.REFUSED_UPSTREAM, "API Error: 400"))
COOL = plan(sampling=Sampling(temperature=0.5), tools=(WEATHER,), tool_choice=ToolChoice("any"), demand="Call.")


def refused() -> Scripted:
    return Scripted([[REFUSED]])


async def test_a_refused_request_is_asked_once_more_without_what_may_be_the_reason_and_that_is_remembered() -> None:
    pool = ScriptedPool(refused(), Scripted([says("a")]), Scripted([says("b")]), served=["new", "new", "new"])
    exchange, deltas = await exchanged(pool, COOL)
    assert text(deltas) == "a"
    assert exchange.emulated == {"temperature", "tool_choice"}
    assert pool.refusals.of("opus") == [["temperature", "tool_choice"]]
    assert pool.kept == [False, True]
    asked = [conversation.asked[0] for conversation in pool.opened if isinstance(conversation, Scripted)]
    assert (asked[0].sampling, asked[0].tool_choice, asked[0].system) == (COOL.sampling, ToolChoice("any"), None)
    assert (asked[1].sampling, asked[1].tool_choice, asked[1].system) == (Sampling(), None, "Call.")
    again, deltas = await exchanged(pool, COOL)
    assert (text(deltas), again.attempts, again.emulated) == ("b", 1, exchange.emulated)


async def test_what_is_refused_without_them_too_was_not_refused_for_them() -> None:
    pool = ScriptedPool(refused(), refused(), served=["new", "new"])
    exchange, deltas = await exchanged(pool, COOL)
    assert failure(deltas) == REFUSED.failure
    assert exchange.attempts == 2
    assert pool.refusals.of("opus") == []


@pytest.mark.parametrize("asked", [plan(), plan(tools=(WEATHER,), tool_choice=ToolChoice("none"))])
async def test_a_request_without_such_fields_is_refused_at_once(asked: Plan) -> None:
    exchange, deltas = await exchanged(ScriptedPool(refused()), asked)
    assert (failure(deltas), exchange.attempts, exchange.emulated) == (REFUSED.failure, 1, frozenset())


async def test_other_failures_are_no_refusals() -> None:
    exchange, deltas = await exchanged(ScriptedPool(Scripted([[OVERLOADED]])), COOL)
    assert (failure(deltas), exchange.attempts) == (OVERLOADED.failure, 1)


async def test_a_strict_server_does_not_leave_sampling_out() -> None:
    pool = ScriptedPool(refused())
    pool.strict = True
    _, deltas = await exchanged(pool, COOL)
    assert failure(deltas) == REFUSED.failure
    pool.refusals.learn("opus", {"temperature"})
    exchange, deltas = await exchanged(pool, COOL)
    assert (failure(deltas).kind, exchange.attempts) == (Kind.BAD_REQUEST, 0)
    assert "temperature" in failure(deltas).message


# A past that cannot be put in as usual


async def test_where_the_cli_sends_the_first_message_it_is_put_in_otherwise_from_then_on() -> None:
    leaky = Scripted([[Failed(Failure(Kind.CLI_CONFUSED, "sent"))]])
    leaky.leaks = True
    better, later = Scripted([says("a")]), Scripted([says("b")])
    pool = ScriptedPool(leaky, better, later, served=["replayed", "replayed", "replayed"])
    _, deltas = await exchanged(pool)
    assert text(deltas) == "a"
    await exchanged(pool)
    assert [conversation.openings for conversation in (leaky, better, later)] == [[True], [False], [False]]
    assert pool.kept == [False, True, True]
