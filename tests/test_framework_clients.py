"""Frameworks on the Messages API and on Ollama's, from PyPI: LangChain and Pydantic AI, with the real CLI."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from conformance import install, messages
from conformance.cassettes import COUNTING
from conformance.messages import Arrived, Reply
from conformance.upstream import Upstream
from proxy.doctor import NEWEST_PROVEN
from tests.served import Served
from tests.test_responses_clients import PROGRAMS, said

pytestmark = [pytest.mark.clients, pytest.mark.asyncio(loop_scope="module")]
ANSWER = "Hello wörld."


def answer(request: Arrived) -> Reply:
    """Asks for the weather where that is wanted, and says what it was; fills in what has a name; or says hello."""
    if request.target.startswith(COUNTING):
        return messages.counted(request.body)
    tools = [tool["name"] for tool in request.body.get("tools", ())]
    last = json.dumps(messages.simplified(request.body)["messages"][-1])
    blocks = [messages.thinking("Hm."), messages.text("Hello ", "wörld.")]
    form = next((name for name in tools if name in ("StructuredOutput", "Person", "final_result")), None)
    if "rain in" in last:
        # Each result beside the call that it is of.
        found = re.findall(r"rain in (\w+)", last)
        blocks = [messages.text("It rains in ", " and ".join(found), ".")]
    elif "WEATHER" in last:
        cities = ("Oslo", "Rome") if "BOTH" in last else ("Oslo",)
        calls = (messages.tool_use(f"toolu_{city}", "get_weather", json.dumps({"city": city})) for city in cities)
        blocks = [messages.thinking("I look."), *calls]
    elif form is not None:
        blocks = [messages.tool_use("toolu_form", form, '{"name": ', '"Ada"}')]
    stop = "tool_use" if blocks[-1]["start"]["type"] == "tool_use" else "end_turn"
    identifier = f"msg_{request.number}"
    return messages.stream(messages.message(*blocks, stop=stop, model=request.body["model"], identifier=identifier))


class Here(NamedTuple):
    server: Served
    upstream: Upstream

    async def says(self, package: str, program: str) -> Any:
        """What a program that uses the package prints."""
        python = await asyncio.to_thread(install.environment, package) / "python"
        found = await asyncio.to_thread(said, [python, PROGRAMS / program, self.server.url])
        # Further turns go on in the process that holds the conversation, whatever ids the client has for its calls.
        assert " replayed " not in self.server.log()
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Here]:
    state: Path = tmp_path_factory.mktemp("frameworks") / "state"
    cli = await asyncio.to_thread(install.install, NEWEST_PROVEN)
    async with Upstream(answer) as upstream:
        server = Served(cli, state, {"CLAUDE_PROXY_UPSTREAM_URL": upstream.url, "CLAUDE_PROXY_RETRIES": "0"})
        await asyncio.to_thread(server.__enter__)
        try:
            yield Here(server, upstream)
        finally:
            await asyncio.to_thread(server.__exit__, None, None, None)


async def test_langchain_on_the_messages_api(here: Here) -> None:
    told = [["thinking", "tool_use"], [{"city": "Oslo"}], "It rains in Oslo."]
    assert await here.says("langchain-anthropic==1.7.10", "langchain_anthropic.txt") == {
        "plain": [ANSWER, "end_turn", 12],
        "streamed": [ANSWER, "end_turn", 12],
        "tools": told,
        "tools streamed": told,
        "forced": "Ada",
        "schema": "Ada",
        "thinking": ["thinking", "text"],
        "counted": True,
    }


async def test_pydantic_ai_on_the_messages_api(here: Here) -> None:
    assert await here.says("pydantic-ai-slim[anthropic]==2.68.0", "pydantic_ai_anthropic.txt") == {
        "plain": [ANSWER, 12],
        "tools": [
            "It rains in Oslo.", [["user-prompt"], ["thinking", "tool-call"], ["tool-return"], ["text"]]
        ],
        "further": ANSWER,
        "streamed": ["It rains in ", "Oslo", "."],
        "tool output": "Ada",
        "native output": "Ada",
    }  # fmt: skip


async def test_langchain_on_ollamas_api(here: Here) -> None:
    told = ["I look.", [{"city": "Oslo"}, {"city": "Rome"}], "It rains in Oslo and Rome."]
    assert await here.says("langchain-ollama==1.1.0", "langchain_ollama.txt") == {
        "plain": [ANSWER, "stop", 12],
        "streamed": [ANSWER, "stop", 12],
        "generate": ANSWER,
        "tools": told,
        "tools streamed": told,
        "json_schema": "Ada",
        "function_calling": "Ada",
        "json_mode": "Ada",
    }
