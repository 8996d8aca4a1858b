"""Structured output."""

import json
from typing import Any

import jsonschema_rs

from conformance.cases import case
from conformance.cases.chat import text_of
from conformance.target import Target, need, same

API = "OpenAI API reference, response_format"
ROW = ["request.response_format"]


@case(API, shows=ROW, uses=["schema/kept"])
async def json_fits_the_schema(target: Target) -> None:
    """With json_schema the content is JSON that fits the schema."""
    body = target.body("schema/kept")
    value = json.loads(text_of(await target.whole(body)))
    jsonschema_rs.validate(body["response_format"]["json_schema"]["schema"], value)


@case("openai.lib.streaming.chat, the accumulator", shows=[*ROW, "behaviour.streaming"], uses=["schema/kept"])
async def json_is_streamed_as_content(target: Target) -> None:
    """The JSON of a structured answer is streamed as content, and OpenAI's client adds it up."""
    body = target.body("schema/kept")
    async with target.async_client() as client, client.chat.completions.stream(**body) as stream:
        choice = (await stream.get_final_completion()).choices[0]
    same("stop", choice.finish_reason, "finish_reason")
    jsonschema_rs.validate(body["response_format"]["json_schema"]["schema"], json.loads(choice.message.content or ""))


@case("openai-python, chat.completions.parse", shows=[*ROW, "behaviour.openai-python, parse"], uses=["schema/kept"])
async def the_client_parses_it(target: Target) -> None:
    """The client's parse method gives an object of the class that the schema was made from."""
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    body = target.body("schema/kept")
    del body["response_format"]
    if target.scripted:
        # The class's own schema has titles, which the recording does not.
        Person.model_json_schema = _without_titles  # type: ignore[method-assign]
    async with target.async_client() as client:
        answer = await client.chat.completions.parse(**body, response_format=Person)
    need(isinstance(answer.choices[0].message.parsed, Person), "nothing was parsed")


def _without_titles(*args: Any, **more: Any) -> dict[str, Any]:
    properties = {"name": {"type": "string"}, "age": {"type": "integer"}}
    return {"type": "object", "properties": properties, "required": ["name", "age"], "additionalProperties": False}


@case(API, shows=ROW, uses=["schema/free_json"])
async def json_object_gives_an_object(target: Target) -> None:
    """With json_object the content is a JSON object."""
    value = json.loads(text_of(await target.whole(target.body("schema/free_json"))))
    need(isinstance(value, dict), f"it is {value!r}")


@case(API, shows=ROW, uses=["chat/plain"])
async def text_is_the_default(target: Target) -> None:
    """A response_format of type text changes nothing."""
    text_of(await target.whole(target.body("chat/plain", response_format={"type": "text"})))


@case(
    "openai.types.chat.ChatCompletionMessage, refusal",
    shows=["response.refusal"],
    uses=["schema/never_kept"],
    scripted=True,
)
async def words_instead_of_json_are_a_refusal(target: Target) -> None:
    """Words where JSON was asked for are the message's refusal, and its content is null; streamed, too."""
    message = (await target.whole(target.body("schema/never_kept")))["choices"][0]["message"]
    same({"content": None, "refusal": {"$matches": "."}}, message, "message")
    stream = await target.stream(target.body("schema/never_kept"))
    deltas = [chunk["choices"][0]["delta"] for chunk in stream.chunks]
    same(message["refusal"], "".join(delta.get("refusal") or "" for delta in deltas), "streamed")


@case(API, shows=ROW)
async def a_schema_that_is_none_is_refused(target: Target) -> None:
    """A schema that is no JSON Schema is a 400 that names it."""
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    await target.refused(target.body("chat/plain", response_format=format), 400, "response_format.json_schema.schema")


@case(API, shows=ROW)
async def an_unknown_format_is_refused(target: Target) -> None:
    """A response_format of an unknown type is a 400 that names it."""
    await target.refused(
        target.body("chat/plain", response_format={"type": "yaml"}), 400, {"$matches": "^response_format"}
    )
