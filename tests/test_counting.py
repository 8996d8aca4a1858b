"""Counting tokens: what the CLI says of a conversation that it is given and never asked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from msgspec import Raw, structs

from proxy.cli import counting
from proxy.cli.counting import Counter
from proxy.protocol.counting import Count, countable, counted
from proxy.protocol.failures import Kind, Rejection
from proxy.protocol.lines import ContextCategory, ControlResult
from proxy.protocol.plan import Message, Plan, Sampling, TextBlock, ThinkingBlock, Tool, ToolChoice
from tests import fake_cli
from tests.conftest import Running, Serve, until

FREE = ContextCategory("Free space", 990_000, "free")


def usage(*parts: tuple[str, int], free: ContextCategory = FREE) -> ControlResult:
    used = [ContextCategory(name, tokens, "used") for name, tokens in parts]
    return ControlResult(
        categories=[*used, free],
        totalTokens=sum(part.tokens for part in used),
        maxTokens=1_000_000,
        model="claude-opus-5-5",
    )


def plan(*texts: str, **more: Any) -> Plan:
    """The user's texts, with a word of the assistant's between them."""
    messages: list[Message] = []
    for text in texts:
        messages += [Message("assistant", (TextBlock("Yes."),))] if messages else []
        messages.append(Message("user", (TextBlock(text),)))
    return Plan("opus", more.pop("system", None), tuple(messages), **more)


# What the two answers of the CLI mean.


def test_what_the_messages_api_has_counted() -> None:
    full, guess = usage(("System prompt", 91), ("Messages", 471)), usage(("System prompt", 18), ("Messages", 19))
    assert counted(full, guess) == Count(562, False, "claude-opus-5-5", 1_000_000)


@pytest.mark.parametrize("guessed", [("System prompt", 91), ("Messages", 471)])
def test_a_part_that_nobody_counted_makes_it_an_estimate(guessed: tuple[str, int]) -> None:
    full = usage(("System prompt", 91), ("Messages", 471))
    count = counted(full, usage(*({"System prompt": 18, "Messages": 19} | dict([guessed])).items()))
    assert count is not None
    assert (count.tokens, count.estimated) == (562, True)


def test_free_space_that_is_the_same_in_both_says_nothing() -> None:
    count = counted(usage(("Messages", 14)), usage(("Messages", 7)))
    assert count is not None
    assert not count.estimated


@pytest.mark.parametrize("silent", [{"totalTokens": None}, {"maxTokens": None}, {"maxTokens": 0}])
def test_no_number_is_no_count(silent: dict[str, Any]) -> None:
    assert counted(structs.replace(usage(("Messages", 14)), **silent), usage(("Messages", 7))) is None


def test_what_changes_no_count_is_left_out() -> None:
    tools = (Tool("weather", "", Raw(b'{"type":"object"}')),)
    asked = plan(
        "hi",
        system="Be brief.",
        tools=tools,
        max_tokens=7,
        effort="high",
        sampling=Sampling(0.5),
        tool_choice=ToolChoice("any"),
        must_call=True,
    )
    assert countable(asked) == plan("hi", system="Be brief.", tools=tools)


# With a CLI.


def said(server: Running) -> list[list[Any]]:
    """What each process was sent: kinds of commands, messages as their role and whether they ask something."""
    found = []
    for lines in fake_cli.told(server.directory):
        found.append(
            [
                line["request"]["subtype"] if "request" in line else (line["type"], line.get("shouldQuery", True))
                for line in lines
            ]
        )
    return found


async def test_all_is_put_in_and_nothing_asked(local: Serve) -> None:
    server = await local()
    count = await Counter(server.pool).count(plan("One", "Two"), "")
    assert count == Count(3 * 5 + 7, False, "claude-opus-5-5", 1_000_000)
    messages = [("user", False), ("assistant", True), ("user", False)]
    assert said(server) == [["initialize", *messages, "get_context_usage", "get_context_usage"]]
    await server.idle()


async def test_thinking_of_the_past_goes_in(local: Serve) -> None:
    server = await local()
    first, answer, last = plan("One", "Two").messages
    thought = Message("assistant", (ThinkingBlock("Hm.", "c2ln"), *answer.content), "claude-opus-5-5")
    await Counter(server.pool).count(structs.replace(plan("One"), messages=(first, thought, last)), "")
    put = [line["message"]["content"] for line in fake_cli.told(server.directory)[0] if line["type"] == "assistant"]
    assert put == [[{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}, {"type": "text", "text": "Yes."}]]


async def test_the_process_is_ended_and_no_conversation_gets_it(local: Serve) -> None:
    server = await local(parked=0)
    await Counter(server.pool).count(plan("One"), "")
    async with server.client() as client:
        body = {"model": "opus", "messages": [{"role": "user", "content": "hi"}]}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    counting_process, answering = said(server)
    assert "get_context_usage" in counting_process
    assert "get_context_usage" not in answering
    await server.idle()


async def test_the_same_is_counted_once_for_each_key(local: Serve) -> None:
    server = await local()
    counter = Counter(server.pool)
    one = await counter.count(plan("One"), "a")
    assert await counter.count(plan("One", max_tokens=5), "a") == one
    assert len(said(server)) == 1
    await counter.count(plan("One"), "b")
    assert len(said(server)) == 2


async def test_what_is_remembered_is_bounded_in_number_and_age(local: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MAX_KEPT", 2)
    now = [0.0]
    server = await local()
    counter = Counter(server.pool, lambda: now[0])
    for text in ("One", "Two", "One", "Three", "One"):
        await counter.count(plan(text), "")
    assert len(said(server)) == 3
    await counter.count(plan("Two"), "")
    assert len(said(server)) == 4
    now[0] += counting.MAX_AGE
    await counter.count(plan("Two"), "")
    assert len(said(server)) == 5


async def test_an_estimate_is_marked_and_not_remembered(local: Serve) -> None:
    server = await local(cli={"uncounted": True})
    counter = Counter(server.pool)
    assert (await counter.count(plan("One"), "")) == Count(5, True, "claude-opus-5-5", 1_000_000)
    await counter.count(plan("One"), "")
    assert len(said(server)) == 2


@pytest.mark.parametrize(
    ("cli", "settings", "kind"),
    [
        ({"refuse": "get_context_usage"}, {}, Kind.CLI_CONFUSED),
        ({"window": None}, {}, Kind.CLI_CONFUSED),
        ({"exit": 3, "stderr": "no such flag"}, {}, Kind.CLI_DIED),
        ({"mute": True}, {"idle_timeout": 0.2}, Kind.CLI_SILENT),
        ({"mute": True}, {"total_timeout": 0.2}, Kind.TOOK_TOO_LONG),
    ],
)
async def test_failures_are_those_of_an_answer(
    local: Serve, cli: dict[str, Any], settings: dict[str, Any], kind: Kind
) -> None:
    server = await local(cli=cli, **settings)
    with pytest.raises(Rejection) as caught:
        await Counter(server.pool).count(plan("One"), "")
    assert caught.value.failure.kind is kind
    await server.idle()


async def test_a_count_takes_a_slot_as_an_answer_does(local: Serve) -> None:
    server = await local(cli={"mute": True}, max_conversations=1, max_queue=0)
    task = asyncio.create_task(Counter(server.pool).count(plan("One"), "a"))
    await until(lambda: server.pool.counts.busy == 1, 5, "the count is under way")
    with pytest.raises(Rejection) as caught:
        await Counter(server.pool).count(plan("Two"), "a")
    assert caught.value.failure.kind is Kind.QUEUE_FULL
    task.cancel()
    await asyncio.wait([task])
    await server.idle()


async def test_a_server_that_ends_ends_what_is_counted(local: Serve) -> None:
    server = await local(cli={"mute": True})
    task = asyncio.create_task(Counter(server.pool).count(plan("One"), ""))
    await until(lambda: bool(server.pool.counts.busy), 5, "the count is under way")
    await server.pool.close()
    with pytest.raises(Rejection) as caught:
        await task
    assert caught.value.failure.kind is Kind.SHUTTING_DOWN


# The sizes of models.


async def test_sizes_of_models_are_asked_for_once(local: Serve) -> None:
    server = await local(cli={"window": 200_000})
    counter = Counter(server.pool)
    first, second = await asyncio.gather(counter.windows(["opus", "haiku"]), counter.windows(["opus", "haiku"]))
    assert dict(first) == dict(second) == {"opus": 200_000, "haiku": 200_000}
    await counter.windows(["haiku"])
    (lines,) = fake_cli.told(server.directory)
    details = [line["request"]["detail"] for line in lines if line["request"]["subtype"] == "get_context_usage"]
    assert details == ["summary", "summary"]
    await server.idle()


async def test_a_count_tells_the_size_of_its_model(local: Serve) -> None:
    server = await local()
    counter = Counter(server.pool)
    await counter.count(plan("One"), "")
    assert (await counter.windows(["opus"]))["claude-opus-5-5"] == 1_000_000
    assert len(said(server)) == 1


async def test_sizes_that_cannot_be_learned_are_left_out(local: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dict(await Counter((await local(cli={"exit": 3})).pool).windows(["opus"])) == {}
    assert dict(await Counter((await local(cli={"window": None})).pool).windows(["opus"])) == {}
    monkeypatch.setattr(counting, "WINDOWS_WAIT", 0.05)
    silent = await local(cli={"mute": True})
    assert dict(await Counter(silent.pool).windows(["opus"])) == {}


# Over HTTP.


async def post(server: Running, body: dict[str, Any]) -> Any:
    async with server.client() as client:
        return await client.post("/v1/messages/count_tokens", json=body)


ASKED = {"model": "opus", "messages": [{"role": "user", "content": "Hello"}]}


async def test_the_route(local: Serve) -> None:
    server = await local()
    response = await post(server, ASKED | {"metadata": {"user_id": "u"}})
    assert (response.status_code, response.json()) == (200, {"input_tokens": 12})
    assert response.headers["x-ignored-params"] == "metadata"
    assert "x-claude-proxy-count" not in response.headers


async def test_the_route_marks_an_estimate(local: Serve) -> None:
    response = await post(await local(cli={"uncounted": True}), ASKED)
    assert response.json() == {"input_tokens": 5}
    assert response.headers["x-claude-proxy-count"] == "estimated"


async def test_the_route_refuses_as_the_api_does(local: Serve) -> None:
    server = await local()
    response = await post(server, ASKED | {"messages": []})
    assert response.status_code == 400
    assert response.json()["error"] == {
        "type": "invalid_request_error",
        "message": "messages: At least one message is required.",
    }
    schema = {"name": "t", "input_schema": {"type": "object", "properties": {"a": {"type": "nonsense"}}}}
    refused = await post(server, ASKED | {"tools": [schema]})
    assert (refused.status_code, json.loads(refused.content)["error"]["type"]) == (400, "invalid_request_error")
    assert fake_cli.told(server.directory) == []
