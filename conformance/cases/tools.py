"""Tool calls."""

import json
from typing import Any

from openai.types.chat import ChatCompletionMessageParam

from conformance import judge
from conformance.cases import case
from conformance.cases.chat import text_of
from conformance.target import Target, must, need, same

API = "OpenAI API reference, tools"
FIELDS = ["request.tools"]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def function(name: str = "get_weather", **more: Any) -> dict[str, Any]:
    """A function tool."""
    return {"type": "function", "function": {"name": name, "parameters": WEATHER} | more}


def calls_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls of the first choice, which ends with them, and whose arguments are objects."""
    choice = body["choices"][0]
    same("tool_calls", choice["finish_reason"], "finish_reason")
    calls: list[dict[str, Any]] = choice["message"].get("tool_calls") or []
    need(calls, "there is no call")
    need(all(call["id"] for call in calls), "a call without id")
    need(len({call["id"] for call in calls}) == len(calls), "two calls have one id")
    must(*judge.whole_arguments(calls))
    return calls


@case(
    "openai.types.chat.ChatCompletionMessageFunctionToolCall",
    shows=[*FIELDS, "response.tool_calls"],
    uses=["tools/one_call"],
)
async def a_call_is_complete(target: Target) -> None:
    """A call has an id, the client's own name for the function, and a JSON object as text for its arguments."""
    call = calls_of(await target.whole(target.body("tools/one_call")))[0]
    same({"type": "function", "function": {"name": "get_weather"}}, call, "call")
    need("city" in json.loads(call["function"]["arguments"]), f"arguments {call['function']['arguments']}")


@case("openai.types.chat.chat_completion_chunk.ChoiceDeltaToolCall", shows=FIELDS, uses=["tools/one_call"])
async def a_call_is_streamed_in_pieces(target: Target) -> None:
    """The first piece of a call has index, id, type and name with empty arguments, the others arguments alone."""
    stream = await target.stream(target.body("tools/one_call"))
    deltas = [chunk["choices"][0]["delta"] for chunk in stream.chunks]
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", ())]
    same(
        {"index": 0, "type": "function", "function": {"name": "get_weather", "arguments": ""}}, pieces[0], "first piece"
    )
    for piece in pieces[1:]:
        same([["function", "index"], ["arguments"]], [sorted(piece), list(piece["function"])], "keys of a later piece")
    same("tool_calls", stream.chunks[-1]["choices"][0]["finish_reason"], "finish_reason")


@case("openai.lib.streaming.chat, the accumulator", shows=FIELDS, uses=["tools/parallel_calls"])
async def the_client_folds_parallel_calls(target: Target) -> None:
    """OpenAI's client gets every call of a streamed answer, each with its own arguments."""
    body = target.body("tools/parallel_calls")
    async with target.async_client() as client, client.chat.completions.stream(**body) as stream:
        final = await stream.get_final_completion()
    same("tool_calls", final.choices[0].finish_reason, "finish_reason")
    calls = [call.to_dict() for call in final.choices[0].message.tool_calls or ()]
    need(calls, "there is no call")
    cities = [json.loads(call["function"]["arguments"])["city"] for call in calls]  # type: ignore[index]
    if target.scripted:
        same(["Rome", "Oslo"], cities, "cities")


@case(API, shows=["request.parallel_tool_calls", "behaviour.parallel calls"], uses=["tools/parallel_calls"])
async def parallel_calls_are_kept_apart(target: Target) -> None:
    """Calls of one answer come in order, with ids and arguments of their own."""
    calls = calls_of(await target.whole(target.body("tools/parallel_calls")))
    need(len(calls) == 2 or not target.scripted, f"{len(calls)} calls")


@case("openai-python, examples of function calling", shows=[*FIELDS, "behaviour.tool loop"], uses=["tools/result"])
async def the_loop_closes(target: Target) -> None:
    """A client that gives the result of a call back, with the call as it came, gets an answer in words."""
    first = target.body("tools/result")
    async with target.async_client() as client:
        asked = (await client.chat.completions.create(**first)).choices[0].message
        need(asked.tool_calls, "there is no call")
        assert asked.tool_calls
        messages: list[ChatCompletionMessageParam] = [
            *first["messages"],
            asked.to_dict(),
            {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "19 degrees"},
        ]
        answer = await client.chat.completions.create(**first | {"messages": messages})
    need(answer.choices[0].message.content, "there are no words")


@case(API, shows=["behaviour.tool loop"], uses=["tools/result"])
async def the_loop_closes_streamed(target: Target) -> None:
    """The same loop, with both answers streamed."""
    await target.stream(target.body("tools/result"))
    stream = await target.stream(target.body("tools/result", 1)) if target.scripted else None
    need(stream is None or stream.error is None, "the second answer failed")


@case(
    "openai.types.chat.ChatCompletionToolChoiceOptionParam", shows=["request.tool_choice"], uses=["tools/choice_none"]
)
async def none_means_no_call(target: Target) -> None:
    """With tool_choice none there is text and no call."""
    body = await target.whole(target.body("tools/choice_none"))
    need("tool_calls" not in body["choices"][0]["message"], "there is a call")
    text_of(body)


@case(
    "openai.types.chat.ChatCompletionToolChoiceOptionParam",
    shows=["request.tool_choice"],
    uses=["tools/choice_required"],
)
async def required_means_a_call(target: Target) -> None:
    """With tool_choice required the answer is a call."""
    calls_of(await target.whole(target.body("tools/choice_required")))


@case("openai.types.chat.ChatCompletionMessageCustomToolCall", shows=FIELDS, uses=["tools/custom"])
async def a_custom_tool_gets_text(target: Target) -> None:
    """A custom tool is called with the text that the model wrote, whole and streamed alike."""
    call = (await target.whole(target.body("tools/custom")))["choices"][0]["message"]["tool_calls"][0]
    same("custom", call["type"], "type")
    need(call["custom"]["input"], "there is no input")
    stream = await target.stream(target.body("tools/custom"))
    pieces = [piece for chunk in stream.chunks for piece in chunk["choices"][0]["delta"].get("tool_calls", ())]
    streamed = "".join(piece["custom"].get("input", "") for piece in pieces)
    need(streamed == call["custom"]["input"] or not target.scripted, f"streamed {streamed!r}")


@case(
    "openai.types.chat.chat_completion_message.FunctionCall",
    shows=["request.functions", "response.function_call"],
    uses=["tools/legacy_functions"],
)
async def legacy_functions_answer_in_the_legacy_form(target: Target) -> None:
    """A request with functions gets a function_call, and finish_reason function_call."""
    choice = (await target.whole(target.body("tools/legacy_functions")))["choices"][0]
    same("function_call", choice["finish_reason"], "finish_reason")
    json.loads(choice["message"]["function_call"]["arguments"])
    need("tool_calls" not in choice["message"], "there are tool_calls, too")


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "two_tools_of_one_name": ({"tools": [function(), function()]}, "tools[1].function.name", "request.tools"),
    "a_tool_without_a_name": ({"tools": [function("")]}, "tools[0].function.name", "request.tools"),
    "parameters_of_no_object": (
        {"tools": [function(parameters={"type": "array"})]}, "tools[0].function.parameters.type", "request.tools",
    ),
    "a_tool_without_function": ({"tools": [{"type": "function"}]}, "tools[0].function", "request.tools"),
    "a_tool_of_unknown_type": ({"tools": [{"type": "web_search"}]}, "tools[0].type", "request.tools"),
    "a_grammar_without_a_definition": (
        {"tools": [{"type": "custom", "custom": {"name": "x", "format": {"type": "grammar", "grammar": {}}}}]},
        "tools[0].custom.format", "request.tools",
    ),
    "a_choice_of_no_tool": (
        {"tools": [function()], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        "tool_choice.function.name", "request.tool_choice",
    ),
    "a_call_required_of_no_tool": ({"tool_choice": "required"}, "tool_choice", "request.tool_choice"),
    "an_unknown_choice": ({"tools": [function()], "tool_choice": "maybe"}, "tool_choice", "request.tool_choice"),
    "a_legacy_choice_of_no_function": (
        {"function_call": {"name": "x"}}, "function_call.name", "request.function_call",
    ),
}  # fmt: skip


def _refusal(name: str, changes: dict[str, Any], param: str, row: str) -> None:
    words = f"It is a 400 that names {param}: {name.replace('_', ' ')}."

    @case("nothing is dropped silently", name=f"refuses_{name}", requirement=words, shows=[row])
    async def run(target: Target) -> None:
        await target.refused(target.body("chat/plain", **changes), 400, param)


for _name, _case in REFUSED.items():
    _refusal(_name, *_case)


@case(API, shows=["request.messages"])
async def a_result_of_no_call_is_refused(target: Target) -> None:
    """A tool message that answers no call of the message before it is a 400 that names it."""
    body = target.body("chat/plain")
    body["messages"].append({"role": "tool", "tool_call_id": "call_1", "content": "x"})
    await target.refused(body, 400, "messages[1].tool_call_id")
