"""The fair queue: who is next, who is turned away, and that no slot is ever lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from proxy.cli.limiter import FairLimiter
from proxy.protocol.failures import Failure, Kind, Rejection

SHUT = Rejection(Failure(Kind.SHUTTING_DOWN, "bye"))


async def rest() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Line:
    """Requests of several owners, in the order in which they got their slots."""

    def __init__(self, limiter: FairLimiter) -> None:
        self.limiter = limiter
        self.order: list[str] = []

    def send(self, *owners: str) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._take(owner)) for owner in owners]

    async def _take(self, owner: str) -> None:
        await self.limiter.acquire(owner)
        self.order.append(owner)


async def test_one_owner_is_served_in_order() -> None:
    limiter = FairLimiter(1, 10, 5)
    await limiter.acquire("a")
    order: list[int] = []

    async def acquire(number: int) -> None:
        await limiter.acquire("a")
        order.append(number)

    tasks = [asyncio.create_task(acquire(number)) for number in range(4)]
    for _ in tasks:
        await rest()
        limiter.release("a")
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3]


async def test_a_newcomer_with_nothing_under_way_is_next() -> None:
    line = Line(FairLimiter(2, 100, 5))
    tasks = line.send(*"aaaaaaaa")
    await rest()
    tasks += line.send("b")
    await rest()
    line.limiter.release("a")
    await asyncio.sleep(0)
    await rest()
    assert line.order == ["a", "a", "b"]
    for task in tasks:
        task.cancel()


async def test_answers_of_the_past_do_not_count() -> None:
    line = Line(FairLimiter(1, 100, 5))
    for _ in range(3):
        await line.limiter.acquire("a")
        line.limiter.release("a")
    await line.limiter.acquire("x")
    tasks = line.send(*"ab")
    await rest()
    line.limiter.release("x")
    await rest()
    assert line.order == ["a"]
    tasks[1].cancel()


async def test_one_who_leaves_takes_no_other_of_the_same_owner_along() -> None:
    limiter = FairLimiter(1, 10, 5)
    await limiter.acquire("a")
    first, second = (asyncio.create_task(limiter.acquire("b")) for _ in range(2))
    await rest()
    first.cancel()
    await rest()
    limiter.release("a")
    await asyncio.wait_for(second, 60)


async def test_turns_go_round_among_equals() -> None:
    line = Line(FairLimiter(1, 100, 5))
    await line.limiter.acquire("x")
    tasks = line.send(*"aaabbbccc")
    await rest()
    line.limiter.release("x")
    for _ in tasks:
        await rest()
        line.limiter.release(line.order[-1])
    await asyncio.gather(*tasks)
    assert line.order == list("abcabcabc")


async def test_a_full_queue_makes_room_for_who_has_less_in_it() -> None:
    limiter = FairLimiter(1, 4, 5)
    await limiter.acquire("a")
    greedy = [asyncio.create_task(limiter.acquire("a")) for _ in range(4)]
    await rest()
    modest = asyncio.create_task(limiter.acquire("b"))
    await rest()
    assert len(limiter) == 4
    with pytest.raises(Rejection) as refused:
        await greedy[-1]
    assert refused.value.failure.kind is Kind.QUEUE_FULL
    with pytest.raises(Rejection):
        await limiter.acquire("a")
    another = asyncio.create_task(limiter.acquire("b"))
    await rest()
    assert [task.done() for task in greedy] == [False, False, True, True]
    with pytest.raises(Rejection):
        await limiter.acquire("b")
    with pytest.raises(Rejection):
        await greedy[2]
    for task in (*greedy[:2], modest, another):
        task.cancel()


async def test_without_a_queue_whoever_finds_no_place_is_turned_away() -> None:
    limiter = FairLimiter(1, 0, 5)
    await limiter.acquire("a")
    for owner in "ab":
        with pytest.raises(Rejection) as refused:
            await limiter.acquire(owner)
        assert refused.value.failure.retry_after == 1.0
    limiter.release("a")
    await limiter.acquire("b")


async def test_the_wait_is_bounded_and_costs_no_place() -> None:
    limiter = FairLimiter(1, 5, 0.05)
    await limiter.acquire("a")
    with pytest.raises(Rejection) as refused:
        await limiter.acquire("a")
    assert (refused.value.failure.kind, refused.value.failure.retry_after) == (Kind.QUEUE_WAIT, 2.0)
    assert len(limiter) == 0
    limiter.release("a")
    await limiter.acquire("b")


async def test_who_is_cancelled_as_the_place_comes_gives_it_on() -> None:
    limiter = FairLimiter(1, 5, 5)
    await limiter.acquire("a")
    first, second = (asyncio.create_task(limiter.acquire("a")) for _ in range(2))
    await rest()
    limiter.release("a")
    first.cancel()
    await asyncio.wait_for(second, 60)
    assert len(limiter) == 0


async def test_who_is_cancelled_as_the_refusal_comes_frees_no_place() -> None:
    limiter = FairLimiter(1, 2, 5)
    await limiter.acquire("a")
    waiting = [asyncio.create_task(limiter.acquire("a")) for _ in range(2)]
    await rest()
    waiting.append(asyncio.create_task(limiter.acquire("b")))
    await asyncio.sleep(0)
    waiting[1].cancel()
    await rest()
    assert [task.done() for task in waiting] == [False, True, False]
    for task in waiting:
        task.cancel()


async def test_closing_turns_away_all_who_wait_and_all_who_come() -> None:
    limiter = FairLimiter(1, 5, 5)
    await limiter.acquire("a")
    waiting = asyncio.create_task(limiter.acquire("b"))
    await rest()
    limiter.close(SHUT)
    for refused in (waiting, asyncio.create_task(limiter.acquire("a"))):
        with pytest.raises(Rejection) as found:
            await refused
        assert found.value is SHUT
    limiter.release("a")


@pytest.mark.parametrize("seed", range(5))
async def test_no_place_is_lost_or_given_twice(seed: int) -> None:
    """Hundreds that come, are served, give up and are cancelled, at random."""
    chance = random.Random(seed)
    limiter = FairLimiter(4, 30, 0.02)
    busy: Counter[str] = Counter()
    ends: Counter[str] = Counter()

    async def one(owner: str) -> None:
        await asyncio.sleep(chance.random() * 0.1)
        try:
            await limiter.acquire(owner)
        except Rejection as rejection:
            ends[rejection.failure.kind.value] += 1
            return
        busy[owner] += 1
        assert busy.total() <= 4
        try:
            await asyncio.sleep(chance.random() * 0.003)
        finally:
            busy[owner] -= 1
            limiter.release(owner)
            ends["served"] += 1

    tasks = [asyncio.create_task(one(chance.choice("abcd"))) for _ in range(400)]
    await asyncio.sleep(0.05)
    for task in chance.sample(tasks, 60):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert ends["served"]
    assert len(limiter) == 0
    for _ in range(4):
        await asyncio.wait_for(limiter.acquire("e"), 0.1)
