"""Conversations that do not fit: without their oldest turns, whole ones, and told."""

from __future__ import annotations

from typing import Any, cast

import httpx
import pytest
from msgspec import Raw

from proxy.http.app import create_app
from proxy.http.service import Service
from proxy.protocol.deltas import Delta, Failed
from proxy.protocol.failures import Failure, Kind
from proxy.protocol.plan import Message, Plan, TextBlock, ToolResultBlock, ToolUseBlock
from proxy.protocol.shortening import shorter
from tests.scripted import Scripted, ScriptedPool, says

LONG: list[Delta] = [Failed(Failure(Kind.PROMPT_TOO_LONG, "too long"))]


def user(text: str) -> Message:
    return Message("user", (TextBlock(text),))


def said(text: str) -> Message:
    return Message("assistant", (TextBlock(text),))


CALL = Message("assistant", (ToolUseBlock("c1", "f", Raw(b"{}")),))
RESULT = Message("user", (ToolResultBlock("c1", (TextBlock("r" * 50),)), TextBlock("and")))


def plan(*messages: Message) -> Plan:
    return Plan("opus", "Be brief.", messages)


def steps(one: Plan) -> list[tuple[Message, ...]]:
    found = []
    left = shorter(one)
    while left is not None:
        assert (left.system, left.model) == (one.system, one.model)
        found.append(left.messages)
        left = shorter(left)
    return found


def test_whole_turns_go_oldest_first() -> None:
    messages = (user("a" * 100), said("b" * 100), user("c" * 100), CALL, RESULT, said("d"), user("e"))
    assert steps(plan(*messages)) == [messages[2:], messages[6:]]


def test_a_result_is_never_without_its_call() -> None:
    assert steps(plan(user("a"), CALL, RESULT)) == []
    assert steps(plan(user("a" * 900), said("b"), user("c"), CALL, RESULT)) == [(user("c"), CALL, RESULT)]


def test_no_more_goes_than_has_to() -> None:
    messages = [one for number in range(50) for one in (user(f"{number:02}" * 50), said("x" * 100))]
    sizes = [len(found) for found in steps(plan(*messages, user("last")))]
    assert sizes[0] >= 65
    assert sizes[-1] == 1
    assert sizes == sorted(set(sizes), reverse=True)
    assert len(sizes) < 20


def test_one_turn_alone_is_never_shortened() -> None:
    assert shorter(plan(user("a"))) is None


async def post(pool: ScriptedPool, **body: Any) -> httpx.Response:
    app = create_app(Service(pool._settings, pool, "2.1.330", "oauth_token"))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=cast(Any, app)), base_url="http://127.0.0.1:3456"
    ) as http:
        items = [
            {"role": role, "content": text * 100} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))
        ]
        return await http.post("/v1/responses", json={"model": "opus", "input": items} | body)


@pytest.mark.parametrize("stream", [False, True])
async def test_it_is_asked_again_without_them_and_said(stream: bool) -> None:
    second = Scripted([says("Hello.")])
    pool = ScriptedPool(Scripted([LONG]), second, served=("replayed", "new"))
    answer = await post(pool, truncation="auto", stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-claude-proxy-truncated"] == "2"
    assert "Hello." in answer.text
    assert [message.content for message in second.asked[0].messages] == [(TextBlock("c" * 100),)]
    # Nothing of it is kept alive under what it does not hold.
    assert pool.kept == [False, True]


@pytest.mark.parametrize("body", [{}, {"truncation": "disabled"}])
async def test_nothing_goes_unasked(body: dict[str, Any]) -> None:
    answer = await post(ScriptedPool(Scripted([LONG]), served=("replayed",)), **body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


async def test_what_is_too_long_alone_is_an_error() -> None:
    pool = ScriptedPool(Scripted([LONG]), Scripted([LONG]), served=("replayed", "new"))
    answer = await post(pool, truncation="auto")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
