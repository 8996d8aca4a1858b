"""OpenAI's Responses API, on the recordings that chat completions have: the CLI is asked the same."""

import json
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter, ValidationError

from conformance.cases import case
from conformance.target import Target, must, need, same

ENDPOINT = "endpoint.POST /v1/responses"
PATH = "/v1/responses"
RESPONSE: TypeAdapter[Any] = TypeAdapter(Response)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def body(target: Target, scenario: str) -> dict[str, Any]:
    """The request of a chat scenario, as one for a response."""
    asked = target.body(scenario)
    tools = [{"type": "function", **tool["function"]} for tool in asked.get("tools", ())]
    return {"model": asked["model"], "input": asked["messages"]} | ({"tools": tools} if tools else {})


def misshapen(type: TypeAdapter[Any], value: Any) -> list[str]:
    """What is not as the package's types have it, strictly."""
    try:
        type.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3]]
    return []


async def whole(target: Target, scenario: str) -> dict[str, Any]:
    answer = await target.send("POST", PATH, body(target, scenario))
    need(answer.status_code == 200, f"status {answer.status_code}: {answer.text[:200]}")
    response: dict[str, Any] = answer.json()
    must(*misshapen(RESPONSE, response))
    return response


@case("openai.types.responses.Response", shows=[ENDPOINT], uses=["chat/plain"])
async def answers_with_a_response(target: Target) -> None:
    """A response has the fields of its type, and the text in a message of its output."""
    response = await whole(target, "chat/plain")
    same(("response", "completed"), (response["object"], response["status"]), "object and status")
    texts = [part["text"] for item in response["output"] for part in item.get("content") or ()]
    need("".join(texts).strip(), f"there is no text: {response['output']}")


@case("openai.types.responses.ResponseFunctionToolCall", shows=[ENDPOINT], uses=["tools/one_call"])
async def calls_a_function(target: Target) -> None:
    """A call is an item with an id of its own, the id of the call, and arguments that are JSON."""
    response = await whole(target, "tools/one_call")
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    same([("get_weather", "completed")], [(call["name"], call["status"]) for call in calls], "calls")
    need(isinstance(json.loads(calls[0]["arguments"]), dict), f"no object: {calls[0]['arguments']}")
    need(calls[0]["id"] != calls[0]["call_id"], "the item has the id of the call")


@case("openai.types.responses.ResponseStreamEvent", shows=[ENDPOINT], uses=["chat/plain"])
async def streams_named_events(target: Target) -> None:
    """The events of a stream are named by their type, numbered without gaps, and end with the whole response."""
    answer = await target.send("POST", PATH, body(target, "chat/plain") | {"stream": True})
    need(answer.status_code == 200, f"status {answer.status_code}")
    events = []
    for block in answer.text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            event = json.loads(lines[-1].removeprefix("data: "))
            same(f"event: {event['type']}", lines[0], "the event's name")
            must(*misshapen(EVENT, event))
            events.append(event)
    same(list(range(len(events))), [event["sequence_number"] for event in events], "numbers")
    same("response.completed", events[-1]["type"], "the last event")
    told = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    parts = [part for item in events[-1]["response"]["output"] for part in item.get("content") or ()]
    same("".join(part["text"] for part in parts), told, "text")


@case("openai-python, resources/responses", shows=[ENDPOINT], uses=["chat/plain"])
async def the_python_client_reads_it(target: Target) -> None:
    """OpenAI's Python client reads whole and streamed responses."""
    async with target.async_client() as client:
        asked: Any = body(target, "chat/plain")
        response = await client.responses.create(**asked)
        async with client.responses.stream(**asked) as stream:
            streamed = await stream.get_final_response()
        same(response.output_text, streamed.output_text, "text")
