"""proxy/cli/pool.py: closing it, at any moment."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.cli import warm_pool
from proxy.protocol.deltas import Finished, Text
from proxy.protocol.failures import Kind
from tests.conftest import children_of, until
from tests.test_pool import Make, make, plan, ready, rejected, said, served, user

__all__ = ["make"]

END = {"type": "stream_event", "event": {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}}}


async def test_close_leaves_nothing(make: Make, tmp_path: Path) -> None:
    pool = await make(waiting=2, max_conversations=2)
    await until(lambda: ready(pool) == 2, 5, "two wait")
    await served(pool, plan("parked"), keep=True)
    await pool.open(plan(), "")
    await asyncio.wait_for(pool.close(), 60)
    assert children_of(tmp_path) == []
    counts = pool.counts
    assert (counts.waiting, counts.starting, counts.busy, counts.parked, counts.queued) == (0, 0, 0, 0, 0)


async def test_close_ends_those_that_do_not_listen(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_pool, "STOP_GRACE", 0.2)
    pool = await make(waiting=2, cli={"stubborn": True})
    await until(lambda: ready(pool) == 2, 5, "two wait")
    await asyncio.wait_for(pool.close(), 60)
    assert children_of(tmp_path) == []


async def test_close_that_is_cancelled_can_be_asked_for_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_pool, "STOP_GRACE", 0.5)
    pool = await make(waiting=2, cli={"stubborn": True})
    await until(lambda: ready(pool) == 2, 5, "two wait")
    first = asyncio.create_task(pool.close())
    await asyncio.sleep(0.1)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    await asyncio.wait_for(pool.close(), 60)
    assert children_of(tmp_path) == []


async def test_close_while_children_start(make: Make, tmp_path: Path) -> None:
    pool = await make(waiting=2, cli={"slow": 0.2})
    await asyncio.wait_for(pool.close(), 60)
    await asyncio.sleep(0.1)
    assert children_of(tmp_path) == []


async def test_close_while_a_parked_one_is_being_continued(make: Make, tmp_path: Path) -> None:
    """Its CLI has not said yet that the answer is over."""
    pool = await make()
    lease = await pool.open(plan(), "")
    await lease.conversation.ask_new(plan(user([["say", "a"], ["sleep", 0.1], ["line", END], ["hang"]])))
    assert isinstance((await lease.conversation.deltas(5))[-1], Text)
    assert isinstance((await lease.conversation.deltas(5))[-1], Finished)
    pool.release(lease, keep=True)
    opening = asyncio.create_task(pool.open(plan("hi", said("a"), "more"), ""))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(pool.close(), 60)
    assert children_of(tmp_path) == []
    assert (await asyncio.wait_for(rejected(opening), 60)).kind is Kind.SHUTTING_DOWN


async def test_close_while_a_child_starts_for_a_request(make: Make, tmp_path: Path) -> None:
    pool = await make()
    opening = asyncio.create_task(pool.open(plan(), ""))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.wait_for(pool.close(), 60)
    assert (await asyncio.wait_for(rejected(opening), 60)).kind is Kind.SHUTTING_DOWN
    await until(lambda: not children_of(tmp_path), 5, "it is gone")


async def test_after_close_there_is_no_room(make: Make) -> None:
    pool = await make(max_conversations=1)
    lease = await pool.open(plan(), "")
    queued = asyncio.create_task(pool.open(plan(), ""))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(pool.close())
    assert (await rejected(queued)).kind is Kind.SHUTTING_DOWN
    await asyncio.wait_for(closing, 60)
    assert (await rejected(pool.open(plan(), ""))).kind is Kind.SHUTTING_DOWN
    pool.release(lease)
    assert pool.closing
