"""Ollama's own client against the server with the real CLI (CLAUDE_CLI=path): what reaches the Messages API."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import ollama
import pytest
import pytest_asyncio

from conformance import messages
from conformance.messages import Arrived, Reply
from conformance.upstream import Upstream
from tests.served import Served
from tests.test_ollama import Weather
from tests.test_ollama_request import PNG

pytestmark = [
    pytest.mark.real_cli,
    pytest.mark.skipif("CLAUDE_CLI" not in os.environ, reason="CLAUDE_CLI names no CLI"),
    pytest.mark.asyncio(loop_scope="module"),
]


class Talk:
    """`arrived`: the bodies that reached the Messages API, oldest first; `sessions`: the conversation of each."""

    def __init__(self) -> None:
        self.arrived: list[dict[str, Any]] = []
        self.sessions: list[str | None] = []
        self.client: ollama.AsyncClient

    def answer(self, request: Arrived) -> Reply:
        self.arrived.append(request.body)
        self.sessions.append(request.session)
        model, names = request.body["model"], {tool["name"] for tool in request.body.get("tools") or ()}
        told = str(messages.simplified(request.body)["messages"][-1]["content"])
        if "StructuredOutput" in names and "tool_result" not in told:
            call = messages.tool_use("toolu_3", "StructuredOutput", '{"city":', '"Lima"}')
            return messages.stream(messages.message(call, stop="tool_use", model=model))
        if "temperature" in names and "tool_result" not in told:
            calls = [
                messages.tool_use("toolu_1", "temperature", '{"city":', '"Lima"}'),
                messages.tool_use("toolu_2", "temperature", '{"city":"Rome"}'),
            ]
            return messages.stream(messages.message(messages.thinking("Two."), *calls, stop="tool_use", model=model))
        text = messages.text("The capital", " is Rome.")
        return messages.stream(messages.message(messages.thinking("Italy."), text, model=model))

    def asked(self) -> dict[str, Any]:
        """The last of them, as its sender decided it."""
        return messages.simplified(self.arrived[-1])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def talk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Talk]:
    talk = Talk()
    folder = tmp_path_factory.mktemp("ollama")
    async with Upstream(talk.answer) as upstream:
        settings = {"CLAUDE_PROXY_UPSTREAM_URL": upstream.url, "TMPDIR": str(folder)}
        served = Served(Path(os.environ["CLAUDE_CLI"]), folder / "state", settings)
        await asyncio.to_thread(served.__enter__)
        try:
            async with ollama.AsyncClient(served.url, trust_env=False) as talk.client:
                yield talk
        finally:
            await asyncio.to_thread(served.__exit__, None, None, None)


async def test_a_chat(talk: Talk) -> None:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is Italy's capital?"}]
    options = {"num_predict": 100, "temperature": 0.5, "top_k": 7, "num_ctx": 4096}
    parts = [part async for part in await talk.client.chat("sonnet:latest", asked, stream=True, options=options)]
    assert "".join(part.message.content or "" for part in parts) == "The capital is Rome."
    assert "".join(part.message.thinking or "" for part in parts) == "Italy."
    assert (parts[-1].done_reason, parts[-1].prompt_eval_count, parts[-1].eval_count) == ("stop", 22, 12)
    body = talk.asked()
    assert body["messages"] == [{"role": "user", "content": "What is Italy's capital?"}]
    assert body["system"] == ["Be brief."]
    assert (body["max_tokens"], body["temperature"], body["top_k"]) == (100, 0.5, 7)
    assert "sonnet" in body["model"]
    whole = await talk.client.chat("sonnet", [*asked, parts[-1].message, {"role": "user", "content": "Thanks."}])
    assert whole.message.content == "The capital is Rome."


@pytest.mark.parametrize(("think", "effort"), [("low", "low"), ("high", "high")])
async def test_think_is_effort(talk: Talk, think: Any, effort: str) -> None:
    answer = await talk.client.generate("opus", f"Think {think}.", think=think)
    assert answer.thinking == "Italy."
    assert talk.asked()["output_config"]["effort"] == effort


async def test_no_thinking(talk: Talk) -> None:
    answer = await talk.client.generate("opus", "Do not think.", think=False)
    assert (answer.response, answer.thinking) == ("The capital is Rome.", None)
    assert talk.asked().get("thinking", {"type": "disabled"}) == {"type": "disabled"}


def temperature(city: str) -> str:
    """The temperature.

    Args:
      city: Where.
    """
    return {"Lima": "19 degrees", "Rome": "30 degrees"}[city]


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_called_and_their_results_come_back(talk: Talk, stream: bool) -> None:
    question: dict[str, Any] = {"role": "user", "content": f"How warm is it? ({stream})"}
    calls: list[Any] = []
    if stream:
        async for part in await talk.client.chat("opus", [question], tools=[temperature], stream=True):
            calls += part.message.tool_calls or ()
    else:
        calls += (await talk.client.chat("opus", [question], tools=[temperature])).message.tool_calls or ()
    assert [call.function.arguments for call in calls] == [{"city": "Lima"}, {"city": "Rome"}]
    (tool,) = [tool for tool in talk.asked()["tools"] if tool["name"] == "temperature"]
    assert tool["input_schema"]["properties"]["city"]["description"] == "Where."
    said: list[Any] = [question, {"role": "assistant", "content": "", "tool_calls": calls}]
    said += [
        {"role": "tool", "tool_name": call.function.name, "content": temperature(**call.function.arguments)}
        for call in calls
    ]
    answer = await talk.client.chat("opus", said, tools=[temperature])
    assert answer.message.content == "The capital is Rome."
    # The client keeps no ids of calls, and the conversation goes on in its process all the same.
    assert talk.sessions[-1] == talk.sessions[-2]
    called, results = talk.asked()["messages"][-2:]
    named = {block["id"]: block["input"]["city"] for block in called["content"] if block["type"] == "tool_use"}
    told = {named[block["tool_use_id"]]: block["content"] for block in results["content"]}
    assert {city: str(content) for city, content in told.items() if temperature(city) in str(content)}.keys() == {
        "Lima", "Rome",
    }  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("schema", [True, False])
async def test_json_is_asked_for_natively(talk: Talk, stream: bool, schema: bool) -> None:
    format: Any = Weather.model_json_schema() if schema else "json"
    asked = [{"role": "user", "content": f"Where? {stream} {schema}"}]
    if stream:
        parts = [part async for part in await talk.client.chat("opus", asked, format=format, stream=True)]
    else:
        parts = [await talk.client.chat("opus", asked, format=format)]
    assert Weather.model_validate_json("".join(part.message.content or "" for part in parts)).city == "Lima"
    (tool,) = [tool for tool in talk.asked()["tools"] if tool["name"] == "StructuredOutput"]
    assert ("city" in tool["input_schema"].get("properties", {})) == schema


async def test_images_arrive(talk: Talk) -> None:
    await talk.client.generate("opus", "What is it?", images=[PNG], system="Look.")
    image, text = talk.asked()["messages"][0]["content"]
    assert image["source"] == {"type": "base64", "media_type": "image/png", "data": PNG}
    assert text["text"] == "What is it?"
    assert talk.asked()["system"] == ["Look."]


async def test_an_answer_ends_at_a_stop_sequence(talk: Talk) -> None:
    answer = await talk.client.generate("opus", "Stop early.", options={"stop": [" is"]})
    assert (answer.response, answer.done_reason) == ("The capital", "stop")
