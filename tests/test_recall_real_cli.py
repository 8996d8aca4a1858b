"""The real CLI (CLAUDE_CLI=path) after a restart in the middle of a tool call, whose thinking no client sends back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from conformance import messages
from conformance.messages import Arrived, Reply
from conformance.upstream import Upstream
from tests.conftest import PATIENCE
from tests.served import Served

pytestmark = [
    pytest.mark.real_cli,
    pytest.mark.skipif("CLAUDE_CLI" not in os.environ, reason="CLAUDE_CLI names no CLI"),
    pytest.mark.asyncio(loop_scope="module"),
]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}}
THOUGHT = {"type": "thinking", "thinking": "I look.", "signature": "c2lnbmF0dXJl"}


def answer(request: Arrived) -> Reply:
    """A call at first, an answer to its result."""
    said = messages.simplified(request.body)["messages"]
    model = request.body["model"]
    if "tool_result" in str(said):
        return messages.stream(messages.message(messages.text("Sunny."), model=model))
    call = messages.tool_use("toolu_01", "weather", '{"city": "Rome"}')
    return messages.stream(messages.message(messages.thinking("I look."), call, stop="tool_use", model=model))


class Stage:
    def __init__(self, up: Upstream, home: Path) -> None:
        self.up = up
        self.home = home

    def server(self, **settings: str) -> Served:
        """All of one state directory."""
        upstream = {"CLAUDE_PROXY_UPSTREAM_URL": self.up.url, "CLAUDE_PROXY_RETRIES": "0"}
        return Served(Path(os.environ["CLAUDE_CLI"]), self.home / "state", {**upstream, **settings})

    def thoughts(self) -> list[Any]:
        """What the last request upstream has of past thinking."""
        past = self.up.requests[-1].body["messages"]
        blocks = [block for message in past if message["role"] == "assistant" for block in message["content"]]
        return [block for block in blocks if block["type"] == "thinking"]


@pytest_asyncio.fixture(loop_scope="module")
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Upstream(answer) as up:
        yield Stage(up, tmp_path)


def post(server: Served, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}{path}", json=body, trust_env=False, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


class Chat:
    def __init__(self, question: str, **more: Any) -> None:
        said = [{"role": "user", "content": question}]
        self.body: dict[str, Any] = {"model": "opus", "tools": [FUNCTION], "messages": said, **more}

    def ask(self, server: Served) -> None:
        message = post(server, "/v1/chat/completions", self.body)["choices"][0]["message"]
        (call,) = message["tool_calls"]
        self.body["messages"] += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "sunny"},
        ]

    def go_on(self, server: Served) -> None:
        assert post(server, "/v1/chat/completions", self.body)["choices"][0]["message"]["content"] == "Sunny."


class Messages:
    def __init__(self, question: str) -> None:
        tool = {"name": "weather", "description": "Tells it.", "input_schema": SCHEMA}
        self.body: dict[str, Any] = {"model": "opus", "max_tokens": 1000, "tools": [tool]}
        self.body["messages"] = [{"role": "user", "content": question}]

    def ask(self, server: Served) -> None:
        content = post(server, "/v1/messages", self.body)["content"]
        (call,) = (block for block in content if block["type"] == "tool_use")
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": "sunny"}
        self.body["messages"] += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]

    def go_on(self, server: Served) -> None:
        assert post(server, "/v1/messages", self.body)["content"] == [{"type": "text", "text": "Sunny."}]


async def test_thinking_outlives_the_server_where_answers_may_be_stored(stage: Stage) -> None:
    """A client that says that nothing is to be stored is believed."""
    talks = (Chat("In chat?"), Messages("In Messages?"), Chat("Stored nowhere?", store=False))
    before, after = (stage.server(CLAUDE_PROXY_STORE="file") for _ in range(2))

    def live() -> list[list[Any]]:
        with before:
            for talk in talks:
                talk.ask(before)
        found = []
        with after:
            for talk in talks:
                talk.go_on(after)
                found.append(stage.thoughts())
        return found

    assert await asyncio.to_thread(live) == [[THOUGHT], [THOUGHT], []]


async def test_thinking_goes_with_a_server_that_stores_nothing_on_disk(stage: Stage) -> None:
    def live() -> list[Any]:
        talk = Chat("In memory?")
        with (before := stage.server()):
            talk.ask(before)
        with (after := stage.server()):
            talk.go_on(after)
        return stage.thoughts()

    assert await asyncio.to_thread(live) == []
    assert list(stage.home.rglob("answers*")) == []
