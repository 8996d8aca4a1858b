"""proxy/cli/conversation.py: one conversation on one child, whatever the child does."""

from __future__ import annotations

import asyncio
import json
import select
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from proxy.cli.conversation import UNOBSERVED, Conversation, Observer, Timeouts
from proxy.cli.process import Child
from proxy.protocol.deltas import Delta, Failed, Finished, Reason, Started, Text, Thinking, ToolCall
from proxy.protocol.failures import About, Failure, Kind
from proxy.protocol.lines import Line, RateLimitInfo, Result
from proxy.protocol.plan import Message, Plan, TextBlock, Tool, ToolResultBlock, ToolUseBlock
from tests import cli_lines as say
from tests import fake_cli
from tests.conftest import alive, launch_of, until

Begin = Callable[..., Awaitable[Conversation]]
LONG = Timeouts(idle=10.0, total=20.0)


@pytest.fixture
async def begin(tmp_path: Path) -> AsyncIterator[Begin]:
    """`await begin(fault=…)`: a conversation on a fake CLI; its `said` is what the CLI was sent."""
    children: list[Child] = []

    async def make(
        limits: Timeouts = LONG,
        on_ready: Callable[[], None] = lambda: None,
        observer: Observer = UNOBSERVED,
        **faults: Any,
    ) -> Conversation:
        path = fake_cli.write(tmp_path, **faults)
        children.append(await Child.start(launch_of(path)))
        return Conversation(children[-1], limits, "replace", on_ready, observer)

    yield make
    for child in children:
        await child.stop(1)
        assert not alive(child.pid)


TOOLS = tuple(Tool(name, "", Raw(b'{"type": "object"}')) for name in ("get", "put"))


def user(text: Any) -> Message:
    return Message("user", (TextBlock(text if isinstance(text, str) else json.dumps(text)),))


def assistant(text: str) -> Message:
    return Message("assistant", (TextBlock(text),))


def plan(*messages: Message, **more: Any) -> Plan:
    return Plan("opus", more.pop("system", None), messages, **more)


async def whole(conversation: Conversation, patience: float = 10.0) -> list[Delta]:
    """All deltas up to the end."""
    found: list[Delta] = []
    while not found or not isinstance(found[-1], Finished | Failed):
        found += await asyncio.wait_for(conversation.deltas(patience), 60)
    return found


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, Text))


def failure(deltas: list[Delta]) -> Failure:
    assert isinstance(deltas[-1], Failed), deltas
    return deltas[-1].failure


async def test_a_question_and_its_answer(begin: Begin) -> None:
    conversation = await begin()
    await conversation.ask_new(plan(user("hi")))
    deltas = await whole(conversation)
    assert isinstance(deltas[0], Started)
    assert text(deltas) == "echo: hi"
    last = deltas[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.tokens.prompt, last.tokens.output) == (Reason.END_TURN, 22, 12)


async def test_what_is_sent_and_in_which_order(begin: Begin, tmp_path: Path) -> None:
    conversation = await begin()
    past = [user("one"), assistant("two"), user("three"), assistant("four")]
    await conversation.ask_new(plan(*past, user("five"), system="Be brief.", max_tokens=77))
    await whole(conversation)
    (sent,) = fake_cli.told(tmp_path)
    unblock = sent.pop(3)
    assert unblock["request"]["settings"] == {"env": {"CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE": ""}}
    assert [line["type"] for line in sent] == [
        "control_request", "control_request", "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip
    assert sent[0]["request"]["subtype"] == "initialize"
    assert sent[0]["request"]["systemPrompt"] == ["Be brief."]
    assert sent[1]["request"]["settings"]["env"]["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "77"
    said = [line["message"]["content"][0]["text"] for line in sent[2:]]
    assert said == ["one", "two", "three", "four", "five"]
    users = [line for line in sent if line["type"] == "user"]
    assert all(line["client_composed"] is True for line in users)
    # The first is asked, and kept by the CLI to itself.
    assert [line.get("shouldQuery") for line in users] == [None, False, None]


async def test_each_past_message_waits_for_the_one_before(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CLI answers each of the user's past messages; the next line may not be written before."""
    conversation = await begin()
    written: list[list[str]] = []
    taken_in = 0
    write, read = conversation.child.write, conversation.child.read

    def note(data: bytes) -> None:
        assert taken_in == len(written), "written before the last one was taken in"
        written.append([json.loads(line)["type"] for line in data.splitlines()])
        write(data)

    async def count() -> list[Line]:
        nonlocal taken_in
        lines = await read()
        taken_in += sum(isinstance(line, Result) for line in lines)
        return lines

    monkeypatch.setattr(conversation.child, "write", note)
    monkeypatch.setattr(conversation.child, "read", count)
    past = [user("a"), assistant("b"), user("c"), assistant("d")]
    await conversation.ask_new(plan(*past, user([["past"]])))
    assert json.loads(text(await whole(conversation))) == ["user", "assistant", "user", "assistant"]
    first = ["control_request", "control_request", "user"]
    assert written == [first, ["control_request", "assistant", "user"], ["assistant", "user"]]


@pytest.mark.parametrize(("max_tokens", "lines"), [(None, 2), (5, 3)])
async def test_a_first_question_goes_in_one_write(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, max_tokens: int | None, lines: int
) -> None:
    conversation = await begin()
    written: list[bytes] = []
    monkeypatch.setattr(conversation.child, "write", written.append)
    await conversation.ask_new(plan(user("hi"), max_tokens=max_tokens))
    assert len(written) == 1
    assert written[0].count(b"\n") == lines


async def test_a_second_question_goes_on(begin: Begin, tmp_path: Path) -> None:
    conversation = await begin()
    await conversation.ask_new(plan(user("one")))
    await whole(conversation)
    assert await conversation.settle()
    assert conversation.can_ask(user("two"))
    await conversation.ask_next(user("two"))
    assert text(await whole(conversation)) == "echo: two"
    assert len(fake_cli.pids(tmp_path)) == 1


async def test_it_says_when_the_child_is_ready_once(begin: Begin) -> None:
    ready: list[int] = []
    conversation = await begin(on_ready=lambda: ready.append(1))
    await conversation.ask_new(plan(user("one")))
    await whole(conversation)
    await conversation.settle()
    await conversation.ask_next(user("two"))
    await whole(conversation)
    assert ready == [1]


async def test_silence_gives_nothing_and_is_no_end(begin: Begin) -> None:
    conversation = await begin()
    await conversation.ask_new(plan(user([["say", "a"], ["sleep", 0.3], ["say", "b"], ["end"]])))
    found: list[Delta] = []
    silences = 0
    while not found or not isinstance(found[-1], Finished):
        more = await conversation.deltas(0.05)
        silences += not more
        found += more
    assert text(found) == "ab"
    assert silences >= 2


# Children that fail


async def test_one_that_never_answers_is_silent(begin: Begin) -> None:
    conversation = await begin(Timeouts(idle=0.3, total=20), mute=True)
    before = time.perf_counter()
    await conversation.ask_new(plan(user("hi")))
    found = failure(await whole(conversation))
    assert found.kind is Kind.CLI_SILENT
    assert "0.3 seconds" in found.message
    assert time.perf_counter() - before > 0.25


async def test_one_that_falls_silent_in_mid_answer(begin: Begin) -> None:
    conversation = await begin(Timeouts(idle=0.4, total=20))
    await conversation.ask_new(plan(user([["say", "half"], ["hang"]])))
    deltas = await whole(conversation)
    assert text(deltas) == "half"
    assert failure(deltas).kind is Kind.CLI_SILENT


async def test_silence_while_the_past_is_put_in(begin: Begin) -> None:
    conversation = await begin(Timeouts(idle=0.3, total=20), mute=True)
    await conversation.ask_new(plan(user("a"), assistant("b"), user("c")))
    assert failure(await whole(conversation)).kind is Kind.CLI_SILENT


async def test_every_sign_of_life_counts(begin: Begin) -> None:
    conversation = await begin(Timeouts(idle=1.0, total=20))
    steps: list[list[Any]] = [["sleep", 0.4], ["line", {"type": "keep_alive"}]] * 4
    await conversation.ask_new(plan(user([*steps, ["say", "late"], ["end"]])))
    assert text(await whole(conversation)) == "late"


async def test_an_answer_that_takes_too_long(begin: Begin) -> None:
    conversation = await begin(Timeouts(idle=5, total=0.5))
    await conversation.ask_new(plan(user([["say", "a"], ["sleep", 0.1]] * 50 + [["end"]])))
    deltas = await whole(conversation)
    assert text(deltas).startswith("a")
    found = failure(deltas)
    assert found.kind is Kind.TOOK_TOO_LONG
    assert "0.5 seconds" in found.message


async def test_one_that_dies_at_its_start_says_why(begin: Begin) -> None:
    conversation = await begin(exit=3, stderr="warning: old\nerror: unknown option '--tools'\n")
    await conversation.ask_new(plan(user("hi")))
    found = failure(await whole(conversation))
    assert found.kind is Kind.CLI_DIED
    assert "exit code 3" in found.message
    assert found.message.endswith("error: unknown option '--tools'")
    assert "warning" not in found.message


async def test_one_that_dies_in_mid_answer(begin: Begin) -> None:
    conversation = await begin()
    await conversation.ask_new(plan(user([["say", "half"], ["stderr", "Segmentation fault"], ["exit", 139]])))
    deltas = await whole(conversation)
    assert text(deltas) == "half"
    found = failure(deltas)
    assert found.kind is Kind.CLI_DIED
    assert "Segmentation fault" in found.message


async def test_one_that_dies_while_the_past_is_put_in(begin: Begin) -> None:
    conversation = await begin(exit=1)
    await conversation.ask_new(plan(user("a"), assistant("b"), user("c")))
    assert failure(await whole(conversation)).kind is Kind.CLI_DIED


async def test_one_that_dies_in_mid_character(begin: Begin) -> None:
    cut = say.raw(say.piece("日本"))[:-20].decode("utf-8", "surrogateescape")
    conversation = await begin()
    await conversation.ask_new(plan(user([["say", "half"], ["raw", cut], ["exit", 0]])))
    deltas = await whole(conversation)
    assert text(deltas) == "half"
    assert isinstance(deltas[-1], Failed)


async def test_the_words_of_a_dying_child_are_bounded(begin: Begin) -> None:
    conversation = await begin(exit=1, stderr="x" * 100_000)
    await conversation.ask_new(plan(user("hi")))
    assert len(failure(await whole(conversation)).message) < 500


async def test_a_refused_command_fails_the_answer(begin: Begin) -> None:
    conversation = await begin(refuse="apply_flag_settings")
    await conversation.ask_new(plan(user([["hang"]]), effort="low"))
    found = failure(await whole(conversation))
    assert found.kind is Kind.CLI_CONFUSED
    assert "not today" in found.message


async def test_garbage_and_unknown_lines_are_passed_over(begin: Begin) -> None:
    steps = [["raw", "(node:1) Warning: old\n{}\n"], ["line", {"type": "brand_new"}], ["say", "fine"], ["end"]]
    conversation = await begin()
    await conversation.ask_new(plan(user(steps)))
    assert text(await whole(conversation)) == "fine"


async def test_two_results_end_it_once(begin: Begin) -> None:
    conversation = await begin()
    await conversation.ask_new(plan(user([["say", "x"], ["end"], ["line", say.result()], ["line", say.result()]])))
    deltas = await whole(conversation)
    assert sum(isinstance(delta, Finished | Failed) for delta in deltas) == 1


async def test_the_plan_s_state_is_told(begin: Begin) -> None:
    told = []

    class Told:
        def paid(self, requests: Sequence[str], usd: float) -> None:
            pass

        def limits(self, info: RateLimitInfo) -> None:
            told.append(info.status)

    conversation = await begin(observer=Told())
    await conversation.ask_new(plan(user([["line", say.limits("allowed_warning")], ["think", "hm"], ["end"]])))
    assert Thinking("hm") in await whole(conversation)
    assert told == ["allowed_warning"]


async def test_what_mcp_asks_of_us_is_answered(begin: Begin, tmp_path: Path) -> None:
    asked = {
        "type": "control_request", "request_id": "r-7",
        "request": {
            "subtype": "mcp_message", "server_name": "client",
            "message": {"jsonrpc": "2.0", "id": 3, "method": "tools/list"},
        },
    }  # fmt: skip
    conversation = await begin()
    await conversation.ask_new(plan(user([["line", asked], ["sleep", 0.05], ["say", "x"], ["end"]])))
    await whole(conversation)

    def answers() -> list[Any]:
        (sent,) = fake_cli.told(tmp_path)
        return [line["response"] for line in sent if line["type"] == "control_response"]

    await until(lambda: bool(answers()), 5, "an answer")
    (answer,) = answers()
    assert answer["request_id"] == "r-7"
    assert answer["response"]["mcp_response"]["id"] == 3


# Calls that are held


def results(*pairs: tuple[str, str]) -> Message:
    return Message("user", tuple(ToolResultBlock(id, (TextBlock(text),)) for id, text in pairs))


async def test_held_calls_are_answered_with_the_clients_results(begin: Begin, tmp_path: Path) -> None:
    conversation = await begin()
    await conversation.ask_new(plan(user([["call", "toolu_1", "get"], ["call", "toolu_2", "put"]]), tools=TOOLS))
    deltas = await whole(conversation)
    assert [delta.id for delta in deltas if isinstance(delta, ToolCall)] == ["toolu_1", "toolu_2"]
    last = deltas[-1]
    assert isinstance(last, Finished)
    assert last.reason is Reason.TOOL_USE
    assert await conversation.settle()
    answer = results(("toolu_2", "two"), ("toolu_1", "one"))
    assert conversation.can_ask(answer)
    await conversation.ask_next(answer)
    assert json.loads(text(await whole(conversation))) == {"for-toolu_1": ["one"], "for-toolu_2": ["two"]}
    assert len(fake_cli.pids(tmp_path)) == 1


async def test_results_find_their_calls_by_place_where_the_client_has_other_ids(begin: Begin) -> None:
    conversation = await begin()
    await conversation.ask_new(plan(user([["call", "toolu_1", "get"], ["call", "toolu_2", "put"]]), tools=TOOLS))
    await whole(conversation)
    assert await conversation.settle()
    before = Message("assistant", tuple(ToolUseBlock(id, "get", Raw(b"{}")) for id in ("call_7", "mine")))
    answer = results(("mine", "two"), ("call_7", "one"))
    assert not conversation.can_ask(answer)
    fork = Message("assistant", tuple(ToolUseBlock(id, "get", Raw(b"{}")) for id in ("toolu_8", "toolu_9")))
    assert not conversation.can_ask(results(("toolu_8", "one"), ("toolu_9", "two")), fork)
    assert conversation.can_ask(answer, before)
    await conversation.ask_next(answer, before)
    assert json.loads(text(await whole(conversation))) == {"for-toolu_1": ["one"], "for-toolu_2": ["two"]}


async def test_so_many_results_that_the_prompt_cache_would_be_lost_do_not_follow(begin: Begin) -> None:
    for number, follows in ((8, True), (9, False)):
        conversation = await begin()
        ids = [f"toolu_{one}" for one in range(number)]
        await conversation.ask_new(plan(user([["call", id, "get"] for id in ids]), tools=TOOLS))
        await whole(conversation)
        assert await conversation.settle()
        before = Message("assistant", tuple(ToolUseBlock(id, "get", Raw(b"{}")) for id in ids))
        assert conversation.can_ask(results(*((id, "x") for id in ids)), before) is follows


@pytest.mark.parametrize(
    "message",
    [
        user("never mind"),
        results(("toolu_1", "one")),
        results(("toolu_1", "one"), ("toolu_3", "three")),
        results(("toolu_1", "one"), ("toolu_2", "two"), ("toolu_3", "three")),
        Message("user", (*results(("toolu_1", "one"), ("toolu_2", "two")).content, TextBlock("and?"))),
        results(("toolu_1", "x" * 50_000), ("toolu_2", "two")),
    ],
    ids=["words", "too few", "another", "too many", "words beside", "too large"],
)
async def test_only_results_for_all_of_them_can_follow(begin: Begin, message: Message) -> None:
    conversation = await begin()
    await conversation.ask_new(plan(user([["call", "toolu_1", "get"], ["call", "toolu_2", "put"]]), tools=TOOLS))
    await whole(conversation)
    assert await conversation.settle()
    assert not conversation.can_ask(message)


@pytest.mark.parametrize(("settings", "window"), [({}, 1_000_000), ({"window": 0}, None)])
async def test_the_cli_says_how_much_the_model_takes(
    begin: Begin, settings: dict[str, Any], window: int | None
) -> None:
    conversation = await begin(**settings)
    await conversation.ask_new(plan(user("hi")))
    await whole(conversation)
    assert await conversation.window_of_answer() == window


async def test_a_cli_that_has_ended_says_nothing_of_that(begin: Begin) -> None:
    conversation = await begin()
    await conversation.ask_new(plan(user("hi")))
    await whole(conversation)
    conversation.child.kill()
    assert await conversation.window_of_answer() is None


async def test_results_cannot_follow_where_no_call_is_held(begin: Begin) -> None:
    conversation = await begin()
    await conversation.ask_new(plan(user("hi")))
    await whole(conversation)
    assert await conversation.settle()
    assert not conversation.can_ask(results(("toolu_1", "one")))


async def test_a_tool_that_the_cli_drops_is_said_so(begin: Begin) -> None:
    conversation = await begin()
    tool = Tool("get", "", Raw(b'{"type":"object"}'))
    init = say.system("init", tools=["put"])
    await conversation.ask_new(plan(user([["line", init], ["say", "x"], ["end"]]), tools=(tool,)))
    found = failure(await whole(conversation))
    assert (found.kind, found.about) == (Kind.BAD_REQUEST, About.TOOLS)
    assert "'get'" in found.message


def stand_still(child: Child) -> None:
    """The loop does, until the child has written and for longer than it may be silent: as if this process were stopped
    and told to go on."""
    assert child._stdout is not None
    select.select([child._stdout.get_extra_info("pipe")], [], [], 60)
    time.sleep(0.6)


async def test_what_came_while_the_server_was_stopped_is_no_silence(begin: Begin) -> None:
    conversation = await begin(Timeouts(idle=0.5, total=600.0))
    await conversation.ask_new(plan(user([["say", "x"], ["sleep", 0.1], ["say", "y"], ["end"]])))
    assert text(await conversation.deltas(10)) == "x"
    following = asyncio.create_task(whole(conversation))
    await asyncio.sleep(0)
    stand_still(conversation.child)
    assert text(await following) == "y"


# Settling: whether it can go on


async def test_an_answer_cut_short_does_not_settle(begin: Begin) -> None:
    conversation = await begin()
    await conversation.ask_new(plan(user([["say", "x"], ["end", "max_tokens"]])))
    deltas = await whole(conversation)
    assert isinstance(deltas[-1], Finished)
    assert not await conversation.settle()


async def test_a_dead_child_does_not_settle(begin: Begin) -> None:
    steps = [["line", line] for line in say.message("x")]
    conversation = await begin()
    await conversation.ask_new(plan(user([*steps, ["exit", 0]])))
    deltas = await whole(conversation)
    assert isinstance(deltas[-1], Finished)
    assert not await asyncio.wait_for(conversation.settle(), 60)


async def test_one_that_goes_on_by_itself_does_not_settle(begin: Begin) -> None:
    steps = [["line", line] for line in (*say.message("x"), *say.message("more"), say.result())]
    conversation = await begin()
    await conversation.ask_new(plan(user(steps)))
    assert text(await whole(conversation)) == "x"
    assert not await asyncio.wait_for(conversation.settle(), 60)


THINKING = say.thought("Hm.")
BLANK = (say.start(), say.opened(), say.piece(" \ufeff\n"), say.closed(), say.end(), say.stopped())


def calling(name: str, arguments: str, id: str = "toolu_1") -> list[say.Table]:
    """A message that calls a tool."""
    head = say.opened(0, type="tool_use", id=id, name=name, input={})
    return [say.start(), head, say.arguments(arguments), say.closed(), say.end("tool_use"), say.stopped()]


@pytest.mark.parametrize(
    "lines",
    [
        say.message("x", reason="max_tokens"),
        say.message("x", reason="refusal"),
        say.message("x", reason="model_context_window_exceeded"),
        [say.start(), say.opened(), say.piece("x"), say.closed(), say.stopped(), say.retry()],
        [say.retry(wait_ms=60_000)],
        BLANK,
        [say.start(), say.opened(type="thinking", thinking=""), THINKING, say.closed(), say.end(), say.stopped()],
        calling("get", '{"a": '),
        calling("get", "[]"),
        calling("give", "{}"),
        calling("Bash", "{}"),
        calling("get", "{}", id=""),
        calling("get", '{"a": NaN}'),
        say.message("x", reason="tool_use"),
    ],
    ids=[
        "cut short", "refused", "context window", "lost", "put off", "blank", "thinking alone", "unreadable call",
        "a call without an object", "no such tool", "by a name that the CLI has for a tool of its own", "no id",
        "no number", "no call",
    ],
)  # fmt: skip
async def test_one_that_would_ask_again_by_itself_is_killed(begin: Begin, lines: list[say.Table]) -> None:
    """What it asks for then is no part of an answer, and no row of usage would have it."""
    conversation = await begin()
    tools = (*TOOLS, Tool("Bash", "", Raw(b'{"type": "object"}')))
    await conversation.ask_new(plan(user([*(["line", line] for line in lines), ["hang"]]), tools=tools))
    await whole(conversation)
    await asyncio.wait_for(asyncio.shield(conversation.child.exited), 60)
    assert conversation.child.exit_code == -signal.SIGKILL
    assert not await conversation.settle()


@pytest.mark.parametrize(
    "lines",
    [say.message("x"), [*say.message("x"), say.result()], [*BLANK, say.result()], [say.error_result()]],
    ids=["answered", "answered and done", "blank and done", "failed and done"],
)
async def test_one_that_asks_nobody_is_left_alone(begin: Begin, lines: list[say.Table]) -> None:
    conversation = await begin()
    await conversation.ask_new(plan(user([["raw", say.raw(*lines).decode()]])))
    await whole(conversation)
    await conversation.ask_next(user("again"))
    assert text(await whole(conversation)) == "echo: again"


async def test_cancelling_a_wait_leaves_the_conversation_usable(begin: Begin) -> None:
    conversation = await begin()
    await conversation.ask_new(plan(user([["sleep", 0.2], ["say", "late"], ["end"]])))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(conversation.deltas(10), 0.05)
    assert text(await whole(conversation)) == "late"
