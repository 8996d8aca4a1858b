"""proxy/cli/pool.py: slots and the queue, parked conversations."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import signal
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from proxy.cli import capacity, memory, parked
from proxy.cli import pool as pools
from proxy.cli.capacity import MIN_FREE, Memory
from proxy.cli.conversation import Conversation
from proxy.cli.pool import Lease, Pool
from proxy.protocol import fingerprint
from proxy.protocol.deltas import Failed, Finished, Text, Tokens
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.protocol.plan import Caching, Message, Plan, Search, TextBlock, Tool, ToolResultBlock, ToolUseBlock
from tests import fake_cli
from tests.conftest import alive, base_settings, children_of, launch_of, until
from tests.served import wait_for

Make = Callable[..., Awaitable[Pool]]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """`await make(cli={fault: …}, setting=…)`: a pool that is started. After the test no child of it is alive."""
    made: list[Pool] = []

    async def start(cli: dict[str, Any] | None = None, **changes: Any) -> Pool:
        settings = base_settings(**changes)
        pool = Pool(settings, launch_of(fake_cli.write(tmp_path, **(cli or {})), settings))
        made.append(pool)
        await pool.start()
        return pool

    yield start
    for pool in made:
        await asyncio.wait_for(pool.close(), 60)
    assert children_of(tmp_path) == []


def user(text: Any) -> Message:
    return Message("user", (TextBlock(text if isinstance(text, str) else json.dumps(text)),))


LOOK = Tool("look", "", Raw(b'{"type": "object"}'))


def plan(*messages: Message | str, tools: tuple[Tool, ...] = ()) -> Plan:
    made = tuple(user(message) if isinstance(message, str) else message for message in messages or ("hi",))
    return Plan("opus", None, made, tools=tools)


async def rejected(coming: Awaitable[Any]) -> Failure:
    """Why it is refused."""
    with pytest.raises(Rejection) as caught:
        await coming
    return caught.value.failure


async def ask(lease: Lease, asked: Plan) -> str:
    """The text of the whole answer."""
    if lease.served == "continued":
        await lease.conversation.ask_next(asked.messages[-1])
    else:
        await lease.conversation.ask_new(asked)
    text = ""
    while True:
        for delta in await asyncio.wait_for(lease.conversation.deltas(10), 60):
            if isinstance(delta, Text):
                text += delta.text
            elif isinstance(delta, Failed):
                raise AssertionError(delta.failure)
            elif isinstance(delta, Finished):
                return text


async def served(pool: Pool, asked: Plan, owner: str = "", *, keep: bool = False) -> tuple[str, str, int]:
    """One request from beginning to end: how it was served, the text, the child's pid."""
    lease = await pool.open(asked, owner)
    text = await ask(lease, asked)
    pool.release(lease, keep=keep)
    return lease.served, text, lease.conversation.child.pid


def ready(pool: Pool) -> int:
    return pool.counts.waiting if pool.counts.starting == 0 else 0


# Slots and the queue


async def test_a_slot_is_held_until_release(make: Make) -> None:
    pool = await make(max_conversations=1)
    first = await pool.open(plan(), "")
    await ask(first, plan())
    second = asyncio.create_task(pool.open(plan(), ""))
    await asyncio.sleep(0.1)
    assert not second.done()
    assert (pool.counts.busy, pool.counts.queued) == (1, 1)
    pool.release(first)
    lease = await asyncio.wait_for(second, 60)
    assert (pool.counts.busy, pool.counts.queued) == (1, 0)
    pool.release(lease)


async def test_releasing_twice_frees_one_slot(make: Make) -> None:
    pool = await make(max_conversations=1, max_queue=0)
    first = await pool.open(plan(), "")
    pool.release(first)
    pool.release(first)
    second = await pool.open(plan(), "")
    assert (await rejected(pool.open(plan(), ""))).kind is Kind.QUEUE_FULL
    pool.release(second)


async def test_a_slot_is_free_whatever_goes_wrong(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    pool = await make(max_conversations=1, max_queue=0)
    lease = await pool.open(plan(), "")
    await ask(lease, plan())
    monkeypatch.setattr(fingerprint, "echoes", broken)
    with pytest.raises(RuntimeError):
        pool.release(lease, keep=True)
    pool.release(await pool.open(plan(), ""))
    await until(lambda: not lease.conversation.child.alive, 5, "its child ended")


async def test_the_queue_is_bounded(make: Make) -> None:
    pool = await make(max_conversations=1, max_queue=2)
    lease = await pool.open(plan(), "")
    waiting = [asyncio.create_task(pool.open(plan(), "")) for _ in range(2)]
    await asyncio.sleep(0)
    found = await rejected(pool.open(plan(), ""))
    assert found.kind is Kind.QUEUE_FULL
    assert found.retry_after is not None
    assert 0 < found.retry_after <= 5
    pool.release(lease)
    for task in waiting:
        pool.release(await asyncio.wait_for(task, 60))


async def test_the_wait_is_bounded(make: Make) -> None:
    pool = await make(max_conversations=1, queue_wait=0.1)
    lease = await pool.open(plan(), "")
    before = time.perf_counter()
    found = await rejected(pool.open(plan(), ""))
    assert found.kind is Kind.QUEUE_WAIT
    assert time.perf_counter() - before > 0.08
    assert pool.counts.queued == 0
    pool.release(lease)
    pool.release(await pool.open(plan(), ""))


async def test_first_come_first_served(make: Make) -> None:
    pool = await make(max_conversations=1)
    lease = await pool.open(plan(), "")
    order: list[int] = []

    async def request(number: int) -> None:
        mine = await pool.open(plan(), "")
        order.append(number)
        pool.release(mine)

    tasks = []
    for number in range(5):
        tasks.append(asyncio.create_task(request(number)))
        await asyncio.sleep(0)
    pool.release(lease)
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    assert order == [0, 1, 2, 3, 4]


async def test_who_leaves_the_queue_gives_up_the_place(make: Make) -> None:
    pool = await make(max_conversations=1, max_queue=1)
    lease = await pool.open(plan(), "")
    leaving = asyncio.create_task(pool.open(plan(), ""))
    await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert pool.counts.queued == 0
    staying = asyncio.create_task(pool.open(plan(), ""))
    await asyncio.sleep(0.01)
    pool.release(lease)
    pool.release(await asyncio.wait_for(staying, 60))


async def test_a_slot_given_to_one_who_leaves_at_that_moment_goes_to_the_next(make: Make) -> None:
    pool = await make(max_conversations=1)
    lease = await pool.open(plan(), "")
    leaving, staying = (asyncio.create_task(pool.open(plan(), "")) for _ in range(2))
    await asyncio.sleep(0.01)
    pool.release(lease)
    leaving.cancel()
    pool.release(await asyncio.wait_for(staying, 60))
    assert leaving.cancelled()


async def test_a_slot_given_at_the_moment_of_the_timeout_is_not_lost(make: Make) -> None:
    pool = await make(max_conversations=1, max_queue=1, queue_wait=0.2)
    lease = await pool.open(plan(), "")
    waiting = asyncio.create_task(pool.open(plan(), ""))
    await asyncio.sleep(0.01)
    asyncio.get_running_loop().call_later(0.1, pool.release, lease)
    time.sleep(0.4)  # noqa: ASYNC251 (so that both happen in one round of the loop: the slot comes, then the time-out)
    with contextlib.suppress(Rejection):
        pool.release(await asyncio.wait_for(waiting, 60))
    assert pool.counts.busy == 0
    pool.release(await asyncio.wait_for(pool.open(plan(), ""), 60))


# Parked conversations


def said(text: str) -> Message:
    return Message("assistant", (TextBlock(text),))


async def test_the_next_message_goes_on_where_the_last_one_was(make: Make) -> None:
    pool = await make()
    _, text, first = await served(pool, plan("one"), keep=True)
    assert pool.counts.parked == 1
    how, text, second = await served(pool, plan("one", said(text), "two"), keep=True)
    assert (how, text, second) == ("continued", "echo: two", first)
    assert pool.counts.parked == 1


@pytest.mark.parametrize(
    ("words", "how"),
    [(("I look.",), ("continued", "")), ((), ("continued", "")), (("I do.",), ("replayed", "edited"))],
    ids=["whole", "left out", "others"],
)
async def test_what_is_said_beside_a_call_may_be_left_out(
    make: Make, words: tuple[str, ...], how: tuple[str, str]
) -> None:
    """As by many frameworks, which keep the calls of an answer alone."""
    pool = await make()
    asked = user([["say", "I look."], ["call", "toolu_1", "look"]])
    lease = await pool.open(plan(asked, tools=(LOOK,)), "")
    assert await ask(lease, plan(asked, tools=(LOOK,))) == "I look."
    pool.release(lease, keep=True)
    assert pool.counts.parked == 1
    call = ToolUseBlock("toolu_1", "look", Raw(b"{}"))
    result = Message("user", (ToolResultBlock("toolu_1", (TextBlock("sunny"),)),))
    lease = await pool.open(
        plan(asked, Message("assistant", (*map(TextBlock, words), call)), result, tools=(LOOK,)), ""
    )
    assert (lease.served, lease.not_continued) == how
    pool.release(lease)
    if lease.served == "continued":
        # Then it is there no more, in whichever way it is looked for.
        for content in ((call,), (TextBlock("I look."), call)):
            assert await whyever(pool, plan(asked, Message("assistant", content), result, tools=(LOOK,))) == "continued"


@pytest.mark.parametrize(
    "asked",
    [
        plan("one", said("echo: other"), "two"),
        plan("other", said("echo: one"), "two"),
        plan("zero", said("x"), "one", said("echo: one"), "two"),
        Plan("haiku", None, plan("one", said("echo: one"), "two").messages),
        Plan("opus", "Be brief.", plan("one", said("echo: one"), "two").messages),
        Plan("opus", None, plan("one", said("echo: one"), "two").messages, max_tokens=5),
    ],
    ids=["answer", "question", "past", "model", "system", "limit"],
)
async def test_another_past_or_other_settings_begin_anew(make: Make, asked: Plan) -> None:
    pool = await make()
    _, _, first = await served(pool, plan("one"), keep=True)
    how, text, second = await served(pool, asked)
    assert (how, text) == ("replayed", "echo: two")
    assert second != first


async def test_a_conversation_belongs_to_one_key(make: Make) -> None:
    pool = await make()
    await served(pool, plan("one"), "alice", keep=True)
    asked = plan("one", said("echo: one"), "two")
    assert (await served(pool, asked, "bob"))[0] == "replayed"
    assert (await served(pool, asked, "alice"))[0] == "continued"


async def test_what_is_not_kept_ends(make: Make, tmp_path: Path) -> None:
    pool = await make()
    _, _, pid = await served(pool, plan("one"), keep=False)
    await until(lambda: not alive(pid), 5, "it ended")
    assert pool.counts.parked == 0


async def test_parked_ones_are_bounded_in_number(make: Make) -> None:
    pool = await make(parked=2)
    pids = [(await served(pool, plan(text), keep=True))[2] for text in "abc"]
    await until(lambda: not alive(pids[0]), 5, "the oldest ended")
    assert pool.counts.parked == 2
    assert all(map(alive, pids[1:]))


async def test_parked_ones_are_bounded_in_age(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "ROUND", 0.05)
    pool = await make(parked_age=0.2)
    _, _, pid = await served(pool, plan("one"), keep=True)
    await until(lambda: not alive(pid), 5, "it ended")
    assert pool.counts.parked == 0


async def test_parked_ones_go_when_memory_runs_short(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    left, seen = [None, MIN_FREE, MIN_FREE - 1], list[int]()

    def read() -> Memory:
        seen.append(pool.counts.parked)
        return Memory(left.pop(0) if left else None, None)

    monkeypatch.setattr(pools, "ROUND", 0.05)
    pool = await make()
    await served(pool, plan("one"), keep=True)
    monkeypatch.setattr(memory, "read", read)
    await until(lambda: len(seen) > 3, 5, "it has looked four times")
    assert seen[:4] == [1, 1, 1, 0]
    asked = plan("one", said("echo: one"), "two")
    lease = await pool.open(asked, "")
    assert (lease.served, lease.not_continued) == ("replayed", "evicted")
    pool.release(lease)


async def test_the_least_valuable_goes_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked, "worth", lambda tokens, age: tokens)
    pool = await make(parked=2)
    pids = []
    for text, tokens in (("a", 300), ("b", 100), ("c", 200)):
        lease = await pool.open(plan(text), "")
        await ask(lease, plan(text))
        monkeypatch.setattr(Conversation, "tokens", Tokens(input=tokens))
        pool.release(lease, keep=True)
        pids.append(lease.conversation.child.pid)
    await until(lambda: not alive(pids[1]), 5, "the smallest ended")
    assert pool.counts.parked == 2
    assert alive(pids[0])
    assert alive(pids[2])


async def test_automatic_sizes_follow_memory_and_use(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "ROUND", 0.05)
    monkeypatch.setattr(memory, "read", lambda: Memory(64 << 30, 64 << 30))
    pool = await make(waiting="auto", parked="auto")
    await until(lambda: ready(pool) == 2, 5, "two wait")
    pids = [(await served(pool, plan(text), keep=True))[2] for text in "abcdef"]
    await until(lambda: ready(pool) == 4, 10, "four wait after some use")
    assert pool.counts.parked == 6
    monkeypatch.setattr(memory, "read", lambda: Memory(1 << 30, 8 << 30))
    await until(lambda: pool.counts.parked == 3, 5, "half is given back")
    await until(lambda: not any(map(alive, pids[:3])), 5, "they ended")
    monkeypatch.setattr(capacity, "QUIET", 0.0)
    await until(lambda: pool.counts.waiting == 1, 5, "one is enough")


async def test_the_memory_of_processes_is_measured(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "ROUND", 0.02)
    monkeypatch.setattr(memory, "pss", lambda pid: 7_000_000)
    pool = await make(waiting=1)
    await until(lambda: pool.counts.memory == 7_000_000, 5, "one is measured")
    await served(pool, plan("one"), keep=True)
    await until(lambda: pool.counts.waiting == 1 and pool.counts.memory == 14_000_000, 5, "both are")


async def test_without_processes_they_take_no_memory(make: Make) -> None:
    assert (await make()).counts.memory == 0


@pytest.mark.parametrize(
    ("first", "following", "why"),
    [
        ([], ("one", "echo: one", "two"), "unknown"),
        ([("one",)], ("one", "echo: other", "two"), "edited"),
        ([("one",)], ("one", "echo: one", "two", "echo: two", "three"), "edited"),
        ([("one",)], ("other", "echo: one", "two"), "edited"),
        ([("one",), ("one", "echo: one", "two")], ("two", "echo: two", "three"), "edited"),
        ([("one",)], ("other", "echo: other", "two"), "unknown"),
        ([("one",), ("one", "echo: one", "two")], ("one", "echo: one", "three"), "continued"),
    ],
)
async def test_why_a_conversation_is_not_continued(
    make: Make, first: list[tuple[str, ...]], following: tuple[str, ...], why: str
) -> None:
    def turns(texts: tuple[str, ...]) -> Plan:
        return plan(*(said(text) if index % 2 else text for index, text in enumerate(texts)))

    pool = await make()
    for texts in first:
        await served(pool, turns(texts), keep=True)
    lease = await pool.open(turns(following), "")
    assert (lease.served, lease.not_continued) == ("replayed", why)
    pool.release(lease)
    lease = await pool.open(plan("new"), "")
    assert (lease.served, lease.not_continued) == ("new", "")
    pool.release(lease)


async def test_what_was_asked_before_is_marked_where_much_follows_it(make: Make) -> None:
    lives: dict[str, Caching | None] = {
        "subscription": Caching("1h", (0, 0)),
        "api-key": Caching("5m", (0, 0)),
        "bedrock": None,
    }
    for login, wanted in lives.items():
        pool = await make(login=login)
        await served(pool, plan("one"), keep=True)
        lease = await pool.open(plan("one", said("echo: one"), Message("user", (TextBlock("two"),) * 30)), "")
        assert (lease.served, lease.not_continued) == ("replayed", "unfit")
        assert lease.plan.caching == wanted
        pool.release(lease)


async def test_other_settings_are_told_from_other_messages(make: Make) -> None:
    pool = await make(parked=0)
    await served(pool, plan("one"), keep=True)
    asked = plan("one", said("echo: one"), "two")
    assert (await whyever(pool, msgspec.structs.replace(asked, effort="low"))) == "settings"
    assert (await whyever(pool, asked)) == "evicted", "it may not be kept at all"


async def test_that_it_has_expired_or_died_is_remembered(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "ROUND", 0.05)
    pool = await make(parked_age=0.2)
    asked = plan("one", said("echo: one"), "two")
    _, _, pid = await served(pool, plan("one"), keep=True)
    await until(lambda: not alive(pid), 5, "it ended")
    assert (await whyever(pool, asked)) == "expired"
    _, _, pid = await served(pool, plan("one"), keep=True)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: pool.counts.parked == 0, 5, "it is parked no more")
    assert (await whyever(pool, asked)) == "ended"


async def test_what_is_remembered_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked, "MAX_REMEMBERED", 2)
    pool = await make(parked=1)
    for text in "abcd":
        await served(pool, plan(text), keep=True)
    whys = [await whyever(pool, plan(text, said(f"echo: {text}"), "more")) for text in "abc"]
    assert whys == ["unknown", "evicted", "evicted"]


async def whyever(pool: Pool, asked: Plan) -> str:
    lease = await pool.open(asked, "")
    pool.release(lease)
    return lease.not_continued


@pytest.mark.parametrize("pieces", [["many", 1000, "x" * 1000], ["say", "x" * 1_000_000]])
async def test_a_parked_one_holds_nothing_of_its_answer(make: Make, pieces: list[Any]) -> None:
    pool = await make()
    asked = plan(user([pieces, ["end"]]))
    tracemalloc.start()
    try:
        pid = (await served(pool, asked, keep=True))[2]
        (kept,) = pool._parked._parked.values()
        assert await kept.settling
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()
    assert alive(pid)


async def test_a_parked_one_that_dies_costs_nothing(make: Make) -> None:
    pool = await make()
    _, _, pid = await served(pool, plan("one"), keep=True)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: pool.counts.parked == 0, 5, "it is parked no more")
    assert (await served(pool, plan("one", said("echo: one"), "two")))[:2] == ("replayed", "echo: two")


async def test_two_that_ask_for_the_same_one_do_not_share_it(make: Make) -> None:
    pool = await make()
    await served(pool, plan("one"), keep=True)
    asked = plan("one", said("echo: one"), "two")
    answers = await asyncio.gather(served(pool, asked), served(pool, asked))
    assert sorted(how for how, _, _ in answers) == ["continued", "replayed"]
    assert len({pid for _, _, pid in answers}) == 2


async def test_nothing_is_parked_when_the_setting_says_so(make: Make) -> None:
    pool = await make(parked=0)
    _, _, pid = await served(pool, plan("one"), keep=True)
    await until(lambda: not alive(pid), 5, "it ended")


# Anything


@pytest.mark.parametrize("seed", range(4))
async def test_after_a_storm_everything_is_as_before(make: Make, tmp_path: Path, seed: int) -> None:
    """Requests that come, leave while they wait or start, die and end, in any order: no slot and no count drifts."""
    dice = random.Random(seed)
    pool = await make(waiting=1, max_conversations=3, max_queue=4, queue_wait=0.3, parked=1)

    async def request(number: int) -> None:
        asked = plan(str(number % 5))
        lease = await pool.open(asked, "")
        try:
            await asyncio.sleep(dice.random() * 0.02)
            if dice.random() < 0.2:
                lease.conversation.child.kill()
            elif dice.random() < 0.7:
                await ask(lease, asked)
                if dice.random() < 0.5:
                    pool.first_delta(lease)
        finally:
            pool.release(lease, keep=dice.random() < 0.5)

    tasks: list[asyncio.Task[None]] = []
    for number in range(40):
        tasks.append(asyncio.create_task(request(number)))
        if dice.random() < 0.3:
            dice.choice(tasks).cancel()
        await asyncio.sleep(dice.random() * 0.02)
    await asyncio.wait(tasks, timeout=20)
    assert all(task.done() for task in tasks)
    for task in tasks:
        error = None if task.cancelled() else task.exception()
        assert error is None or isinstance(error, Rejection | AssertionError), error
    await until(lambda: ready(pool) == 1, 10, "the warm pool is as before")
    counts = pool.counts
    assert (counts.starting, counts.busy, counts.queued) == (0, 0, 0)
    places = [await asyncio.wait_for(pool.open(plan(), ""), 60) for _ in range(3)]
    extra = asyncio.create_task(pool.open(plan(), ""))
    await asyncio.sleep(0.05)
    assert not extra.done()
    for lease in places:
        pool.release(lease)
    pool.release(await asyncio.wait_for(extra, 60))


# Processes that may search the web


def searching(*messages: str) -> Plan:
    return msgspec.structs.replace(plan(*messages), search=Search())


def tools_of(pid: int) -> str:
    """What the process was started with behind `--tools`. For a moment after its start it has no arguments yet."""
    path = Path(f"/proc/{pid}/cmdline")
    wait_for(lambda: b"--tools\0" in path.read_bytes(), 60, "it has its arguments")
    argv = path.read_bytes().decode().split("\0")
    return argv[argv.index("--tools") + 1]


async def test_only_a_plan_with_a_search_gets_a_process_that_may(make: Make) -> None:
    pool = await make()
    plain, search = await pool.open(plan(), ""), await pool.open(searching(), "")
    assert tools_of(plain.conversation.child.pid) == ""
    assert tools_of(search.conversation.child.pid) == "WebSearch"
    renewed = await pool.renew(search)
    assert tools_of(renewed.conversation.child.pid) == "WebSearch"
    pool.release(plain)
    pool.release(renewed)


async def test_a_process_that_may_search_waits_only_after_such_a_request(make: Make) -> None:
    pool = await make(waiting=1)
    await until(lambda: ready(pool) == 1, 60, "one is idle")
    pool.release(await pool.open(plan(), ""))
    await until(lambda: ready(pool) == 1, 60, "one is idle")
    assert [tools_of(child.pid) for child in pool._idle] == [""]
    pool.release(await pool.open(searching(), ""))
    await until(lambda: ready(pool) == 2, 60, "one of each kind is idle")
    assert sorted(tools_of(child.pid) for child in pool._idle) == ["", "WebSearch"]


async def test_with_no_process_kept_idle_there_is_none_that_may_search(make: Make) -> None:
    pool = await make(waiting=0)
    lease = await pool.open(searching(), "")
    assert pool.counts.waiting == 0
    pool.release(lease)


async def test_a_conversation_goes_on_only_with_the_same_search(make: Make) -> None:
    pool = await make(parked=2)
    served_as, text, pid = await served(pool, searching("hi"), keep=True)
    assert served_as == "new"
    past = (user("hi"), Message("assistant", (TextBlock(text),)))
    other = await pool.open(Plan("opus", None, (*past, user("and?"))), "")
    assert (other.served, tools_of(other.conversation.child.pid)) == ("replayed", "")
    pool.release(other)
    again = await pool.open(Plan("opus", None, (*past, user("and?")), search=Search()), "")
    assert (again.served, again.conversation.child.pid) == ("continued", pid)
    pool.release(again)


async def test_a_long_conversation_leaves_nothing_behind_for_each_answer(make: Make) -> None:
    pool = await make()
    said_so_far: list[str | Message] = ["one"]
    watchers = []
    for text in ("two", "three", "four"):
        lease = await pool.open(plan(*said_so_far), "")
        said_so_far += [said(await ask(lease, plan(*said_so_far))), text]
        pool.release(lease, keep=True)
        watchers.append(len(lease.conversation.child.exited._callbacks or ()))
        assert lease.served == ("new" if text == "two" else "continued")
    assert watchers[0] == watchers[-1]
