"""proxy/cli/validator.py and validator_worker.py: clients' schemas are judged within bounds of time and memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from proxy.cli import validator
from proxy.cli.validator import MAX_RETAINED, Validator
from proxy.protocol import grammars
from proxy.protocol.checking import fault
from proxy.protocol.failures import Kind, Rejection
from proxy.protocol.judging import Item, Limit, Verdicts, of_grammar
from proxy.protocol.plan import Grammar, Plan, Schema, Tool
from tests import hostile
from tests.conftest import alive, until
from tests.served import wait_for

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
async def judge() -> AsyncIterator[Validator]:
    judge = Validator()
    yield judge
    await judge.close()
    assert not judge.pids


def format(schema: Any) -> Item:
    return Item("format", Raw(msgspec.json.encode(schema)))


def value(schema: Any, text: str) -> Item:
    return Item("value", Raw(msgspec.json.encode(schema)), text)


POINT = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
ORDINARY = (
    Item("tool", Raw(b'{"type":"object"}')), Item("tool", Raw(b'{"type":5}')), format(POINT), format({"pattern": "("}),
    value(POINT, '{"x":1}'), value(POINT, '{"y":1}'), value(POINT, "日本"), value({"type": "wrong"}, "{}"),
    value({"enum": ["x" * 10_000]}, '"%s"' % ("ü" * 10_000)), Item("tool", Raw(b'{"type":\n\n"wrong"\r\n}')),
)  # fmt: skip


async def test_a_worker_says_what_is_said_without_one(judge: Validator) -> None:
    expected = tuple(map(fault, ORDINARY))
    assert len({*expected}) > 4
    assert await judge.judge("a", ORDINARY) == Verdicts(expected)
    assert len(judge.pids) == 1


async def test_nothing_to_judge_needs_no_worker(judge: Validator) -> None:
    assert await judge.judge("a", ()) == Verdicts(())
    assert not judge.pids


@pytest.mark.parametrize("name", hostile.ITEMS)
async def test_a_dear_schema_ends_its_worker_and_nothing_else(judge: Validator, name: str) -> None:
    item, limits = hostile.ITEMS[name]
    verdicts = await judge.judge("a", (ORDINARY[0], item, ORDINARY[0]))
    assert verdicts.faults == (None,)  # so the second is to blame
    assert verdicts.limit in limits
    assert not judge.pids
    assert await judge.judge("a", ORDINARY[:1]) == Verdicts((None,))


@linux
async def test_refused_schemas_leave_no_memory(judge: Validator) -> None:
    for number in range(12):
        large = {"enum": [f"{number} {'x' * 20} {more}" for more in range(60_000)], "$ref": "#/nowhere"}
        verdicts = await judge.judge("a", (format(large),))
        assert verdicts.faults == ("a reference in it leads to nothing.",)
    for pid in judge.pids:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        assert pages * os.sysconf("SC_PAGE_SIZE") <= MAX_RETAINED


async def test_a_worker_that_has_grown_is_ended(judge: Validator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validator, "MAX_RETAINED", 1)
    assert await judge.judge("a", ORDINARY[:1]) == Verdicts((None,))
    assert not judge.pids
    assert await judge.judge("a", ORDINARY[:1]) == Verdicts((None,))


async def test_what_its_end_cuts_short_is_no_failure(judge: Validator, caplog: pytest.LogCaptureFixture) -> None:
    asked = asyncio.create_task(judge.judge("a", ORDINARY[:1]))
    await until(lambda: bool(judge.pids), 5, "a worker starts")
    await judge.close()
    assert (await asked).limit is Limit.BUSY
    assert not caplog.records


@linux
async def test_a_worker_has_no_environment_and_a_group_of_its_own(judge: Validator) -> None:
    await judge.warm()
    (pid,) = judge.pids
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    assert os.getpgid(pid) == os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")


async def test_owners_take_turns() -> None:
    judge = Validator(workers=1)
    order: list[str] = []

    async def ask(owner: str) -> None:
        assert await judge.judge(owner, ORDINARY[:1]) == Verdicts((None,))
        order.append(owner)

    await asyncio.gather(*map(ask, "aaaaabbc"))
    assert order == [*"abcabaaa"]
    await judge.close()


async def test_few_questions_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with a request that may be large. Those of the owner with the most of them go first."""
    monkeypatch.setattr(validator, "MAX_WAITING", 3)
    judge = Validator(workers=1)
    asked = [asyncio.create_task(judge.judge(owner, ORDINARY[:1])) for owner in "aaaabac"]
    found = [verdicts.limit for verdicts in await asyncio.gather(*asked)]
    await judge.close()
    # Three of a's, of which the last makes room for b's, and the second for c's.
    assert found == [None, Limit.BUSY, Limit.BUSY, Limit.BUSY, None, Limit.BUSY, None]


async def test_two_are_judged_at_once(judge: Validator) -> None:
    dear, _ = hostile.ITEMS["nested allOf"]
    first = asyncio.create_task(judge.judge("a", (dear,)))
    await until(lambda: bool(judge.pids), 5, "the worker runs")
    assert await judge.judge("a", ORDINARY[:1]) == Verdicts((None,))
    assert not first.done()
    assert (await first).limit is Limit.TIME


async def test_whoever_does_not_wait_leaves_the_others_their_verdicts() -> None:
    judge = Validator(workers=1)
    await judge.warm()
    asked = [asyncio.create_task(judge.judge("a", (value(POINT, text),))) for text in ("{}", "1", '"x"', '{"x":2}')]
    await asyncio.sleep(0)
    asked[0].cancel()
    asked[2].cancel()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1] == Verdicts((fault(value(POINT, "1")),))
    assert isinstance(found[2], asyncio.CancelledError)
    assert found[3] == Verdicts((None,))
    assert len(judge.pids) == 1
    await judge.close()


async def test_a_worker_that_was_killed_is_followed_by_another(judge: Validator) -> None:
    await judge.warm()
    (pid,) = judge.pids
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not judge.pids, 5, "it is known to be gone")
    assert await judge.judge("a", ORDINARY[:1]) == Verdicts((None,))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_schema_is_not_blamed_for_who_kills_its_worker(judge: Validator, number: signal.Signals) -> None:
    await judge.warm()
    (pid,) = judge.pids
    os.kill(pid, signal.SIGSTOP)
    asked = asyncio.create_task(judge.judge("a", ORDINARY))
    await asyncio.sleep(0)
    os.kill(pid, number)
    # One that was killed may be gone by now.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    assert await asked == Verdicts((), Limit.BUSY)


@pytest.mark.parametrize("bound", ["MAX_WALL", "MAX_WAIT"])
async def test_a_worker_that_stands_still_is_not_waited_for(
    judge: Validator, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    await judge.warm()
    (pid,) = judge.pids
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(validator, bound, 0.05)
    assert await judge.judge("a", ORDINARY) == Verdicts((), Limit.BUSY)


@pytest.mark.parametrize("argv", [("/nowhere/python",), (sys.executable, "-c", "pass"), (sys.executable, "-c", "1/0")])
async def test_where_no_worker_starts_nothing_is_judged(
    judge: Validator, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(validator, "command", lambda: argv)
        assert await judge.judge("a", ORDINARY) == Verdicts((), Limit.BUSY)
    assert await judge.judge("a", ORDINARY[:1]) == Verdicts((None,))


async def test_closing_ends_what_is_under_way() -> None:
    judge = Validator(workers=1)
    dear, _ = hostile.ITEMS["nested allOf"]
    asked = [asyncio.create_task(judge.judge("a", (dear,))) for _ in range(3)]
    await until(lambda: bool(judge.pids), 5, "the worker runs")
    await judge.close()
    assert await asyncio.gather(*asked) == [Verdicts((), Limit.BUSY)] * 3
    assert await judge.judge("a", ORDINARY[:1]) == Verdicts((), Limit.BUSY)
    assert not judge.pids


def test_a_worker_ends_with_its_server() -> None:
    """Also while it judges, when it does not see that nobody is there."""
    program = """
        import asyncio
        from proxy.cli.validator import Validator
        from tests import hostile
        async def main():
            judge = Validator(workers=1)
            await judge.warm()
            print(*judge.pids, flush=True)
            await judge.judge("a", (hostile.ITEMS["nested allOf"][0],))
        asyncio.run(main())
    """
    server = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert server.stdout is not None
    with server.stdout as out:
        pid = int(out.readline())
    assert alive(pid)
    server.kill()
    server.wait()
    wait_for(lambda: not alive(pid), 5, "the worker has ended")


def test_the_server_does_not_even_have_the_libraries() -> None:
    program = "import sys, proxy.serve; sys.exit(bool({'jsonschema_rs', 'llguidance'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("schema", "kind"),
    [({"type": "wrong"}, Kind.BAD_REQUEST), (hostile.patterns(600), Kind.BAD_REQUEST), ({"type": "object"}, None)],
)
async def test_a_plan_is_checked(judge: Validator, schema: Any, kind: Kind | None) -> None:
    source = Raw(msgspec.json.encode(schema))
    plan = Plan("opus", None, (), schema=Schema(source, source, wrapped=False, where="format"))
    if kind is None:
        await judge.check("a", plan)
        return
    with pytest.raises(Rejection) as caught:
        await judge.check("a", plan)
    assert (caught.value.failure.kind, caught.value.failure.param) == (kind, "format")


WORDS = Grammar("lark", 'start: "say " WORD\nWORD: /[a-z]+/', "tools[1].format")
GRAMMARS = (
    WORDS, Grammar("regex", "(", "tools[2].format"), hostile.MANY_RULES, Grammar("regex", "a+", "tools[4].format"),
)  # fmt: skip


def with_grammars(*found: Grammar) -> Plan:
    return Plan("opus", None, (), tuple(Tool(f"t{n}", "", Raw(b"{}"), "", one) for n, one in enumerate(found)))


async def test_grammars_are_judged_there_too(judge: Validator) -> None:
    items = (of_grammar(WORDS), of_grammar(WORDS, "say it"), of_grammar(WORDS, "sing"), ORDINARY[0], ORDINARY[1])
    expected = (*map(grammars.fault, items[:3]), *map(fault, items[3:]))
    assert [wrong is None for wrong in expected] == [True, True, False, True, False]
    assert await judge.judge("a", items) == Verdicts(expected)


@pytest.mark.parametrize(
    ("found", "unusable"),
    [
        ((), set()),
        (GRAMMARS[:1], set()),
        (GRAMMARS[:2], {"tools[2].format"}),
        # Which of those behind one that ends the worker could be used is not known.
        (GRAMMARS, {"tools[2].format", "", "tools[4].format"}),
    ],
)
async def test_grammars_that_cannot_be_used_are_told_by_their_paths(
    judge: Validator, found: tuple[Grammar, ...], unusable: set[str]
) -> None:
    assert await judge.unusable("a", with_grammars(*found)) == unusable
