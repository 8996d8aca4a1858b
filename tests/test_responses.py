"""`/v1/responses`: whole and streamed answers, as the openai package's types have them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.lib.responses_tool_runner import AsyncRegisteredFunction, AsyncResponsesToolRunner
from openai.types.responses import FunctionToolParam

from tests.conftest import Serve
from tests.responses_api import PATH, client, events, judged

HI: dict[str, Any] = {"model": "opus", "input": "Hello."}
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}


async def create(**body: Any) -> Any:
    async with client() as http:
        answer = await http.post(PATH, json=HI | body)
        assert answer.status_code == 200, answer.text
        return judged(answer.json())


async def streamed(**body: Any) -> list[dict[str, Any]]:
    async with client() as http:
        answer = await http.post(PATH, json=HI | body | {"stream": True})
        assert answer.status_code == 200, answer.text
        return events(answer.text)


async def refused(status: int = 400, **body: Any) -> Any:
    async with client() as http:
        answer = await http.post(PATH, json=HI | body)
        assert answer.status_code == status, answer.text
        return answer.json()["error"]


async def test_a_whole_response() -> None:
    response = await create(metadata={"a": "b"}, instructions="Be brief.", max_output_tokens=100)
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output"][0]["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert response["output"][1]["content"][0]["text"] == "Hello there."
    assert (response["status"], response["metadata"], response["instructions"]) == (
        "completed",
        {"a": "b"},
        "Be brief.",
    )
    assert response["usage"] == {
        "input_tokens": 22, "input_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 5},
        "output_tokens": 12, "output_tokens_details": {"reasoning_tokens": 3}, "total_tokens": 34,
    }  # fmt: skip
    ids = [item["id"] for item in response["output"]]
    assert [id.split("_")[0] for id in (response["id"], *ids)] == ["resp", "rs", "msg"]


async def test_a_stream_tells_the_same() -> None:
    whole, events = await create(), await streamed()
    last = events[-1]["response"]
    same = ("status", "usage", "model", "tools", "text", "reasoning")
    assert {name: last[name] for name in same} == {name: whole[name] for name in same}
    assert [item["type"] for item in last["output"]] == ["reasoning", "message"]
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done", "output_item.added",
        "content_part.added", "output_text.delta", "output_text.delta", "output_text.done", "content_part.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    assert events[0]["response"]["model"] == "claude-opus-5-5"


async def test_a_function_call() -> None:
    response = await create(tools=[TOOL])
    call = response["output"][-1]
    assert call | {"id": ""} == {
        "type": "function_call", "id": "", "call_id": "toolu_1", "name": "get_weather", "arguments": "{}",
        "status": "completed",
    }  # fmt: skip
    assert response["tools"] == [TOOL | {"description": None, "strict": True}]
    names = [event["type"].removeprefix("response.") for event in await streamed(tools=[TOOL])]
    assert names[-5:] == [
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip


async def test_an_unknown_response_is_not_found() -> None:
    error = await refused(404, previous_response_id="resp_1")
    assert (error["param"], error["code"]) == ("previous_response_id", "not_found")
    assert "resp_1" in error["message"]


async def test_a_reference_that_leads_nowhere_names_the_way_out() -> None:
    error = await refused(input=[{"type": "item_reference", "id": "rs_1"}])
    assert error["param"] == "input[0].id"
    assert "store: false" in error["message"]
    assert "rs_1" in error["message"]


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket"])
async def test_websockets_are_declined(upgrade: str) -> None:
    async with client() as http:
        answer = await http.get(PATH, headers={"upgrade": upgrade, "connection": "upgrade"})
        assert answer.status_code == 426
        assert answer.json()["error"]["code"] == "websocket_not_supported"
        assert (await http.get(PATH)).status_code == 405


async def test_the_openai_package(serve: Serve) -> None:
    server = await serve()
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0) as api:
        response = await api.responses.create(model="opus", input="Hello.")
        assert response.output_text == "echo: Hello."
        async with api.responses.stream(model="opus", input="Hello.") as stream:
            assert (await stream.get_final_response()).output_text == "echo: Hello."


@pytest.mark.parametrize("more", [{}, {"store": False, "include": ["reasoning.encrypted_content"]}])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_openai_package_runs_tools(serve: Serve, stream: bool, more: dict[str, Any]) -> None:
    """Its loop is strict: it takes no item that it could not send back."""
    server = await serve()
    steps = json.dumps([["call", "toolu_1", "weather"]])
    tool = FunctionToolParam(type="function", name="weather", parameters={"type": "object"}, strict=False)

    called: list[dict[str, object]] = []

    async def execute(arguments: dict[str, object]) -> str:
        called.append(arguments)
        return "done"

    runner = AsyncResponsesToolRunner(functions=[AsyncRegisteredFunction(tool, execute)])
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0) as api:
        params: Any = {"model": "opus", "input": steps, **more}
        response = await runner.run(api, params, max_steps=3, stream=stream)
    assert (response.status, called) == ("completed", [{}])
