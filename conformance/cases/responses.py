"""OpenAI's Responses API, on the recordings that chat completions have: the CLI is asked the same."""

import json
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from conformance.cases import case
from conformance.shapes import misfits
from conformance.target import Target, must, need, same

ENDPOINT = "endpoint.POST /v1/responses"
PATH = "/v1/responses"
CONVERSATION = "/v1/conversations/{conversation_id}"
RESPONSE: TypeAdapter[Any] = TypeAdapter(Response)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def body(target: Target, scenario: str) -> dict[str, Any]:
    """The request of a chat scenario, as one for a response."""
    asked = target.body(scenario)
    tools = [{"type": "function", **tool["function"]} for tool in asked.get("tools", ())]
    more: dict[str, Any] = {name: asked[name] for name in ("temperature", "top_p") if name in asked}
    if "max_tokens" in asked:
        more["max_output_tokens"] = asked["max_tokens"]
    if "response_format" in asked:
        more["text"] = {"format": {"type": "json_schema", **asked["response_format"]["json_schema"]}}
    more |= {"tools": tools} if tools else {}
    return {"model": asked["model"], "input": asked["messages"], **more}


async def whole(target: Target, scenario: str, **changes: Any) -> dict[str, Any]:
    response = await got(target, "POST", PATH, body(target, scenario) | changes)
    must(*misfits(RESPONSE, response))
    return response


async def got(target: Target, method: str, path: str, asked: Any = None) -> dict[str, Any]:
    answer = await target.send(method, path, asked)
    need(answer.status_code == 200, f"{method} {path}: status {answer.status_code}: {answer.text[:200]}")
    found: dict[str, Any] = answer.json()
    return found


async def missing(target: Target, method: str, path: str, asked: Any = None) -> None:
    answer = await target.send(method, path, asked)
    same((404, "not_found"), (answer.status_code, answer.json()["error"]["code"]), f"{method} {path}")


def text_of(response: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for item in response["output"] for part in item.get("content") or ())


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
            must(*misfits(EVENT, event))
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


# What a response tells back of its request, and what it leaves out.
ECHOED = (
    "background", "conversation", "instructions", "max_output_tokens", "max_tool_calls", "metadata",
    "parallel_tool_calls", "previous_response_id", "prompt_cache_key", "prompt_cache_retention", "reasoning",
    "safety_identifier", "service_tier", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p",
    "truncation", "user",
)  # fmt: skip
LEFT_OUT = (
    "access_programs", "image", "input_transformations", "moderation", "prompt", "prompt_cache_diagnostics",
    "prompt_cache_options", "tool_usage",
)  # fmt: skip


def answers(*names: str) -> list[str]:
    return [f"responses_answer.{name}" for name in names]


@case(
    "openai.types.responses.Response",
    shows=answers(*ECHOED, *LEFT_OUT, "id", "object", "created_at", "completed_at"),
    uses=["responses/parameters"],
)
async def tells_back_what_was_asked(target: Target) -> None:
    """A response tells back the parameters of its request, and leaves out what only api.openai.com has."""
    asked = target.body("responses/parameters")
    response = await got(target, "POST", PATH, asked)
    must(*misfits(RESPONSE, response))
    as_asked = {name: asked[name] for name in ECHOED if name in asked and name not in ("text", "service_tier", "tools")}
    same(as_asked, response, "what was asked")
    defaults = {"temperature": 1.0, "top_p": 1.0, "service_tier": "default", "text": asked["text"], "tools": []}
    same(defaults, response, "defaults")
    same([], [name for name in LEFT_OUT if name in response], "fields beyond")
    need(response["id"].startswith("resp_"), response["id"])
    need(response["created_at"] <= response["completed_at"], "times")


@case(
    "OpenAI API reference, previous_response_id",
    shows=["responses.previous_response_id", "responses.store", "endpoint.GET /v1/responses/{response_id}",
           "endpoint.DELETE /v1/responses/{response_id}", "endpoint.GET /v1/responses/{response_id}/input_items"],
    uses=["chat/follow_up"],
)  # fmt: skip
async def goes_on_from_a_response(target: Target) -> None:
    """A stored response can be had again, gone on from with the next input alone, and forgotten."""
    first = await whole(target, "chat/follow_up")
    path = f"{PATH}/{first['id']}"
    same(first, await got(target, "GET", path), "the response")
    listed = await got(target, "GET", f"{path}/input_items?order=asc")
    same(["message"], [item["type"] for item in listed["data"]], "input items")
    further = target.body("chat/follow_up", 1)["messages"][-1]["content"]
    second = await whole(target, "chat/follow_up", input=further, previous_response_id=first["id"])
    same("The Mekong.", text_of(second), "text")
    await got(target, "DELETE", path)
    await missing(target, "GET", path)
    await missing(target, "POST", PATH, body(target, "chat/follow_up") | {"previous_response_id": first["id"]})


@case("OpenAI API reference, store", shows=["responses.store"], uses=["chat/plain"])
async def stores_nothing_unasked(target: Target) -> None:
    """With `store: false` a response cannot be had again."""
    await missing(target, "GET", f"{PATH}/{(await whole(target, 'chat/plain', store=False))['id']}")


@case(
    "OpenAI API reference, conversations",
    shows=["responses.conversation", "responses_answer.conversation", *(f"endpoint.{one}" for one in (
        "POST /v1/conversations",
        *(f"{method} {CONVERSATION}" for method in ("GET", "POST", "DELETE")),
        *(f"{method} {CONVERSATION}/items" for method in ("GET", "POST")),
        *(f"{method} {CONVERSATION}/items/{{item_id}}" for method in ("GET", "DELETE")),
    ))],
    uses=["chat/follow_up"],
)  # fmt: skip
async def goes_on_in_a_conversation(target: Target) -> None:
    """A conversation takes up what is asked and answered in it, item by item, and can be read and forgotten."""
    path = f"/v1/conversations/{(await got(target, 'POST', '/v1/conversations', {}))['id']}"
    id = path.rpartition("/")[2]
    first = await whole(target, "chat/follow_up", conversation=id)
    same({"id": id}, first["conversation"], "conversation")
    further = target.body("chat/follow_up", 1)["messages"][-1]["content"]
    second = await whole(target, "chat/follow_up", input=further, conversation={"id": id})
    same("The Mekong.", text_of(second), "text")
    items = await got(target, "GET", f"{path}/items?order=asc")
    same(["user", "assistant"] * 2, [item.get("role") for item in items["data"]], "roles")
    added = await got(target, "POST", f"{path}/items", {"items": [{"role": "user", "content": "Thanks."}]})
    same(added["data"][0], await got(target, "GET", f"{path}/items/{added['first_id']}"), "the item")
    await got(target, "DELETE", f"{path}/items/{added['first_id']}")
    changed = await got(target, "POST", path, {"metadata": {"a": "b"}})
    same(changed, await got(target, "GET", path), "the conversation")
    await got(target, "DELETE", path)
    await missing(target, "GET", path)


@case(
    "OpenAI API reference, background",
    shows=["responses.background", "responses_answer.background", "endpoint.POST /v1/responses/{response_id}/cancel",
           "endpoint.GET /v1/responses/{response_id}"],
    uses=["chat/plain"],
)  # fmt: skip
async def answers_in_the_background(target: Target) -> None:
    """A response in the background is told at once, can be followed from any event, and is stored when it has ended."""
    told = await whole(target, "chat/plain", background=True)
    same(("queued", []), (told["status"], told["output"]), "status and output")
    path = f"{PATH}/{told['id']}"
    events = await target.send("GET", f"{path}?stream=true&starting_after=1")
    lines = [json.loads(line[6:]) for line in events.text.splitlines() if line.startswith("data: ")]
    same(list(range(2, len(lines) + 2)), [event["sequence_number"] for event in lines], "numbers")
    same("response.completed", lines[-1]["type"], "the last event")
    same(lines[-1]["response"], await got(target, "GET", path), "the response")
    same("completed", (await got(target, "POST", f"{path}/cancel"))["status"], "status")


@case(
    "OpenAI API reference, max_output_tokens",
    shows=["responses.max_output_tokens", *answers("incomplete_details", "status")],
    uses=["limits/max_tokens_reached"],
)
async def says_why_it_is_incomplete(target: Target) -> None:
    """A response that reaches its limit of tokens is incomplete, and says so."""
    response = await whole(target, "limits/max_tokens_reached")
    same(("incomplete", {"reason": "max_output_tokens"}), (response["status"], response["incomplete_details"]))


@case("OpenAI API reference, text", shows=["responses.text"], uses=["schema/kept"])
async def answers_in_json(target: Target) -> None:
    """`text.format` with a schema makes the text JSON that fits it."""
    same({"name": "Ada", "age": 36}, json.loads(text_of(await whole(target, "schema/kept"))), "JSON")


@case("OpenAI API reference, temperature", shows=["responses.temperature", "responses.top_p"],
      uses=["limits/sampling_forwarded"])  # fmt: skip
async def passes_sampling_on(target: Target) -> None:
    """`temperature` and `top_p` are the model's."""
    response = await whole(target, "limits/sampling_forwarded")
    same(("Ultramarine.", 1.5, 0.9), (text_of(response), response["temperature"], response["top_p"]))


@case("openai.types.responses.ResponseError", shows=answers("error"), uses=["errors/cut_after_text"])
async def a_stream_that_breaks_says_how(target: Target) -> None:
    """A stream that breaks ends with a failed response that holds the error and what there was."""
    answer = await target.send("POST", PATH, body(target, "errors/cut_after_text") | {"stream": True})
    if answer.status_code != 200:
        # Text and break came at once: it has not begun then.
        same((502, "upstream_cut"), (answer.status_code, answer.json()["error"]["code"]))
        return
    last = json.loads([line for line in answer.text.splitlines() if line.startswith("data: ")][-1][6:])
    same("response.failed", last["type"])
    must(*misfits(EVENT, last))
    same(("failed", "server_error", "Half an"),
         (last["response"]["status"], last["response"]["error"]["code"], text_of(last["response"])))  # fmt: skip


@case("OpenAI API reference, prompt", shows=["responses.prompt"])
async def refuses_prompt_templates(target: Target) -> None:
    """A prompt template is refused: there are none here."""
    await target.refused({"model": "opus", "prompt": {"id": "pmpt_1"}}, 400, "prompt", PATH)


@case(
    "OpenAI API reference, conversation state",
    shows=["input_tokens.previous_response_id", "input_tokens.conversation", "compact.previous_response_id"],
)
async def counts_and_compacts_no_strangers(target: Target) -> None:
    """What is counted or made short may go on from what is stored; what is not stored is not found."""
    for path, name in (
        ("/v1/responses/input_tokens", "previous_response_id"), ("/v1/responses/input_tokens", "conversation"),
        ("/v1/responses/compact", "previous_response_id"),
    ):  # fmt: skip
        await missing(target, "POST", path, {"model": "opus", "input": "x", name: "resp_0"})
