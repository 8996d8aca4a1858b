"""proxy/cli/warm_pool.py, in its pool: waiting children, and when and how many are started."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from pathlib import Path

import pytest

from proxy.cli import pool as pools
from proxy.cli import warm_pool
from proxy.cli.pool import Pool
from proxy.cli.process import Child, Launch
from proxy.protocol.failures import Kind
from tests import fake_cli
from tests.conftest import alive, base_settings, launch_of, until
from tests.outcomes import Expects
from tests.test_pool import Make, make, plan, ready, rejected, served

__all__ = ["make"]


async def test_children_wait_before_they_are_needed(make: Make, tmp_path: Path) -> None:
    pool = await make(waiting=2)
    await until(lambda: ready(pool) == 2, 5, "two wait")
    waiting = fake_cli.pids(tmp_path)
    how, text, pid = await served(pool, plan())
    assert (how, text) == ("new", "echo: hi")
    assert pid in waiting


async def test_a_waiting_child_is_told_nothing_of_any_request(make: Make, tmp_path: Path) -> None:
    pool = await make(waiting=1)
    await until(lambda: ready(pool) == 1, 5, "one waits")
    (sent,) = fake_cli.told(tmp_path)
    assert [line["request"]["subtype"] for line in sent] == ["list_models"]


async def test_the_warm_pool_is_refilled(make: Make, tmp_path: Path) -> None:
    pool = await make(waiting=2)
    await until(lambda: ready(pool) == 2, 5, "two wait")
    lease = await pool.open(plan(), "")
    assert pool.counts.waiting == 1
    await until(lambda: ready(pool) == 2, 5, "two wait again")
    pool.release(lease)
    await until(lambda: len(fake_cli.pids(tmp_path)) == 3, 5, "three starts in all")
    assert pool.counts.waiting == 2


async def test_an_answer_before_its_first_delta_holds_the_refill_back(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_pool, "AWAITING_FIRST_TOKEN", 30.0)
    pool = await make(waiting=1)
    await until(lambda: ready(pool) == 1, 5, "one waits")
    lease = await pool.open(plan(), "")
    await asyncio.sleep(0.2)
    assert len(fake_cli.pids(tmp_path)) == 1
    pool.first_delta(lease)
    await until(lambda: ready(pool) == 1, 5, "one waits again")
    pool.release(lease)


async def test_without_idle_processes_children_are_started_on_demand(make: Make, tmp_path: Path) -> None:
    pool = await make(waiting=0)
    await asyncio.sleep(0.1)
    assert fake_cli.pids(tmp_path) == []
    assert (await served(pool, plan()))[1] == "echo: hi"
    assert len(fake_cli.pids(tmp_path)) == 1


async def test_the_models_of_the_cli_are_learned(make: Make) -> None:
    pool = await make(waiting=1)
    await asyncio.wait_for(pool.warm_pool.models_known.wait(), 60)
    assert [model.value for model in pool.warm_pool.models] == ["default", "opus", "haiku"]


async def test_a_dead_one_is_replaced(make: Make, tmp_path: Path) -> None:
    pool = await make(waiting=1)
    await until(lambda: ready(pool) == 1, 5, "one waits")
    (first,) = fake_cli.pids(tmp_path)
    os.kill(first, signal.SIGKILL)
    await until(lambda: len(fake_cli.pids(tmp_path)) == 2 and ready(pool) == 1, 5, "another waits")
    assert (await served(pool, plan()))[2] != first


async def test_one_that_died_just_now_is_not_taken(make: Make, tmp_path: Path) -> None:
    pool = await make(waiting=1)
    await until(lambda: ready(pool) == 1, 5, "one waits")
    (first,) = fake_cli.pids(tmp_path)
    os.kill(first, signal.SIGKILL)
    await until(lambda: not alive(first), 2, "it died")
    await asyncio.sleep(0.05)
    assert (await served(pool, plan()))[1:] == ("echo: hi", fake_cli.pids(tmp_path)[-1])


async def test_starts_that_fail_are_not_repeated_at_once(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = tmp_path / "runs"
    pool = await make(waiting=2, cli={"exit": 1, "stderr": "no such option\n"})
    path = tmp_path / "claude"
    path.write_text(path.read_text().replace("import sys\n", f"import sys\nopen({str(runs)!r}, 'a').write('x')\n", 1))
    await asyncio.sleep(1.2)
    assert len(runs.read_text()) <= 8
    assert "no such option" in str(pool.warm_pool.last_start_error)
    # Whoever started the server sees why no answer can come, before anyone has asked.
    assert "no such option" in caplog.text


async def test_a_start_that_failed_once_is_forgotten_when_one_succeeds(make: Make, tmp_path: Path) -> None:
    pool = await make(waiting=1, cli={"exit": 1, "stderr": "busy\n"})
    await until(lambda: pool.warm_pool.last_start_error is not None, 5, "it failed")
    fake_cli.write(tmp_path)
    await until(lambda: ready(pool) == 1, 10, "it succeeded")
    assert pool.warm_pool.last_start_error is None


async def test_too_few_descriptors_for_a_child_is_a_reason_to_try_again(tmp_path: Path) -> None:
    async def start(launch: Launch) -> Child:
        raise OSError(errno.EMFILE, "Too many open files")

    pool = Pool(base_settings(), launch_of(tmp_path / "claude"), start)
    failure = await rejected(pool.open(plan(), ""))
    assert (failure.kind, failure.row.retry) == (Kind.OVERLOADED, None)
    assert "Too many open files" in failure.message


async def test_processes_that_answer_and_go_are_not_replaced_at_once(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expects: Expects
) -> None:
    """One that answers says nothing of how long it stays: each of two was a reason to replace the other at once."""
    expects("faults", "idle processes that end as soon as they have answered", "replaced after 0.5 to 30 s, ever later")
    monkeypatch.setattr(warm_pool, "MIN_PAUSE", 0.05)
    pool = await make(cli={"leaves": 5}, waiting=2)
    await until(lambda: "exit code 5" in str(pool.warm_pool.last_start_error), 5, "one has gone")
    await asyncio.sleep(1.5)
    starts = len(fake_cli.pids(tmp_path))
    assert starts <= 16
    # A request whose process answers shows that the CLI works.
    pool.warm_pool.resize(0)
    assert (await served(pool, plan()))[1] == "echo: hi"
    await until(lambda: len(fake_cli.pids(tmp_path)) > starts + 1, 5, "idle ones are started again")


async def test_an_answer_ends_the_wait_after_starts_that_failed(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_pool, "MIN_PAUSE", 30.0)
    pool = await make(waiting=1, cli={"exit": 1})
    await until(lambda: pool.warm_pool.last_start_error is not None, 5, "it failed")
    fake_cli.write(tmp_path)
    assert (await served(pool, plan()))[1] == "echo: hi"
    await until(lambda: ready(pool) == 1, 5, "one waits again")


async def test_without_idle_processes_a_start_that_failed_is_forgotten_too(make: Make, tmp_path: Path) -> None:
    pool = await make(waiting=0)
    (tmp_path / "claude").unlink()
    assert (await rejected(pool.open(plan(), ""))).kind is Kind.CLI_MISSING
    assert pool.warm_pool.last_start_error is not None
    fake_cli.write(tmp_path)
    assert (await served(pool, plan()))[1] == "echo: hi"
    assert pool.warm_pool.last_start_error is None


async def test_an_old_one_is_replaced(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "ROUND", 0.05)
    pool = await make(waiting=1, waiting_age=0.4)
    await until(lambda: ready(pool) == 1, 5, "one waits")
    (first,) = fake_cli.pids(tmp_path)
    await until(lambda: not alive(first) and ready(pool) == 1, 5, "another waits")


async def test_another_cli_on_disk_replaces_what_waits(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "ROUND", 0.05)
    pool = await make(waiting=1)
    await until(lambda: ready(pool) == 1, 5, "one waits")
    (first,) = fake_cli.pids(tmp_path)
    os.utime(tmp_path / "claude", ns=(1, 1))
    await until(lambda: not alive(first) and ready(pool) == 1, 5, "another waits")


async def test_a_request_never_gets_a_child_of_an_earlier_cli(make: Make, tmp_path: Path) -> None:
    pool = await make(waiting=1)
    await until(lambda: ready(pool) == 1, 5, "one waits")
    (first,) = fake_cli.pids(tmp_path)
    os.utime(tmp_path / "claude", ns=(1, 1))
    assert (await served(pool, plan()))[2] != first


async def test_a_child_serves_one_conversation(make: Make) -> None:
    pool = await make(waiting=1)
    pids = [(await served(pool, plan(text)))[2] for text in "abc"]
    assert len(set(pids)) == 3


async def test_one_that_is_still_starting_is_better_than_another(make: Make, tmp_path: Path) -> None:
    pool = await make(waiting=1, cli={"slow": 0.3})
    await until(lambda: pool.counts.waiting == 1, 5, "one is starting")
    assert (await served(pool, plan()))[1] == "echo: hi"
    assert len(fake_cli.pids(tmp_path)) <= 2


async def test_a_burst_does_not_hold_starts_back(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_pool, "AWAITING_FIRST_TOKEN", 60.0)
    monkeypatch.setattr(warm_pool, "BURST", 60.0)
    pool = await make(waiting=1)
    await until(lambda: ready(pool) == 1, 5, "one waits")
    first = await pool.open(plan(), "")
    await asyncio.sleep(0.2)
    assert pool.counts.waiting == 0, "an answer is between question and first delta: nothing is started beside it"
    second = await pool.open(plan(), "")
    await until(lambda: pool.counts.waiting == 1, 5, "the warm pool is refilled all the same")
    pool.release(first)
    pool.release(second)


# Starts at once


async def test_no_more_starts_at_once_than_there_are_processors(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_pool, "PROCESSORS", 2)
    pool = await make(max_conversations=6, cli={"slow": 0.2})
    tasks = [asyncio.create_task(served(pool, plan(str(number)))) for number in range(6)]
    most = 0
    while not all(task.done() for task in tasks):
        most = max(most, pool.counts.starting)
        await asyncio.sleep(0.01)
    assert most == 2
    assert [task.result()[1] for task in tasks] == [f"echo: {number}" for number in range(6)]
    assert pool.counts.starting == 0


async def test_a_wake_up_for_one_who_leaves_goes_to_the_next(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_pool, "PROCESSORS", 1)
    pool = await make(max_conversations=3, cli={"slow": 0.1})
    first = await pool.open(plan(), "")
    leaving, staying = (asyncio.create_task(pool.open(plan(), "")) for _ in range(2))
    await asyncio.sleep(0.01)
    first.conversation.child.exited.add_done_callback(lambda _: leaving.cancel())
    pool.release(first)
    pool.release(await asyncio.wait_for(staying, 60))


# A CLI that hangs at its start


async def test_an_idle_process_that_never_answers_is_ended(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_pool, "MAX_START_TIME", 0.3)
    monkeypatch.setattr(warm_pool, "MIN_PAUSE", 30.0)
    pool = await make(waiting=1, cli={"mute": True})
    await until(lambda: pool.warm_pool.last_start_error is not None, 5, "the start failed")
    assert "did not answer within 0.3 s" in str(pool.warm_pool.last_start_error)
    await until(lambda: pool.counts.waiting == pool.counts.starting == 0, 5, "it counts no more")
    (pid,) = fake_cli.pids(tmp_path)
    await until(lambda: not alive(pid), 5, "it is gone")


async def test_a_request_whose_process_never_answers_fails_in_time(
    make: Make, monkeypatch: pytest.MonkeyPatch, expects: Expects
) -> None:
    expects("faults", "the CLI hangs at its start", "502 after 30 s (here 0.3); nobody waits longer than for the queue")
    monkeypatch.setattr(warm_pool, "MAX_START_TIME", 0.3)
    pool = await make(cli={"mute": True})
    with pytest.raises(AssertionError, match="of its start"):
        await served(pool, plan())
    await until(lambda: pool.counts.starting == 0, 5, "it counts no more")


async def test_one_that_answers_in_time_is_not_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_pool, "MAX_START_TIME", 0.3)
    pool = await make(waiting=1)
    await until(lambda: ready(pool) == 1, 5, "one waits")
    lease = await pool.open(plan(), "")
    await asyncio.sleep(0.5)
    assert lease.conversation.child.alive
    pool.release(lease)


async def test_the_wait_for_a_start_is_limited(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_pool, "PROCESSORS", 1)
    pool = await make(max_conversations=3, queue_wait=0.1, cli={"mute": True})
    first = await pool.open(plan(), "")
    failure = await rejected(pool.open(plan(), ""))
    assert (failure.kind, "CLI starts too slowly" in failure.message) == (Kind.QUEUE_WAIT, True)
    assert pool.counts.busy == 1
    pool.release(first)


# No CLI


@pytest.mark.parametrize("mode", [None, 0o644])
async def test_a_cli_that_cannot_be_run_is_said_so_and_the_slot_is_free(
    make: Make, tmp_path: Path, mode: int | None
) -> None:
    pool = await make(max_conversations=1, max_queue=0)
    path = tmp_path / "claude"
    path.unlink() if mode is None else path.chmod(mode)
    for _ in range(3):
        found = await rejected(pool.open(plan(), ""))
        assert found.kind is Kind.CLI_MISSING
        assert "could not be started" in found.message
    assert pool.counts.starting == 0


async def test_a_launch_that_is_no_program_is_refused(tmp_path: Path) -> None:
    pool = Pool(base_settings(), Launch((str(tmp_path),), {}, str(tmp_path)))
    assert (await rejected(pool.open(plan(), ""))).kind is Kind.CLI_MISSING
    await pool.close()
