"""Chat completions that are not streamed."""

import asyncio
import time
from typing import Any

from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from conformance.cases import case
from conformance.facts import differences
from conformance.target import CHAT, Target, good, must, need, same

ENDPOINT = "endpoint.POST /v1/chat/completions"


def text_of(body: dict[str, Any]) -> str:
    """The content of the first choice, which must be text."""
    content = body["choices"][0]["message"]["content"]
    need(isinstance(content, str) and content.strip(), f"there is no text: {content!r}")
    return str(content)


@case(
    "openai.types.chat.ChatCompletion",
    shows=[ENDPOINT, "response.object", "response.choices", "response.index", "response.message"],
    uses=["chat/plain"],
)
async def answers_with_a_completion(target: Target) -> None:
    """A completion has the fields of its type, no others, and text in its one choice."""
    body = await target.whole(target.body("chat/plain"))
    text_of(body)
    same([0], [choice["index"] for choice in body["choices"]], "indexes")
    same("stop", body["choices"][0]["finish_reason"], "finish_reason")


@case("openai.types.chat.ChatCompletion", shows=["response.id", "response.created"], uses=["chat/plain"])
async def identity_is_its_own(target: Target) -> None:
    """Each completion has an id of its own, and was created now, in whole seconds."""
    first, second = [await target.whole(target.body("chat/plain")) for _ in range(2)]
    need(first["id"] != second["id"], "two completions have one id")
    need(abs(first["created"] - time.time()) < 300, f"created {first['created']} is not now")


@case("openai.types.CompletionUsage", shows=["response.usage"], uses=["chat/plain"])
async def usage_adds_up(target: Target) -> None:
    """Usage counts prompt and answer, their sum, and details of which none is above its total."""
    usage = (await target.whole(target.body("chat/plain")))["usage"]
    need(usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"], f"the sum is wrong: {usage}")
    need(usage["prompt_tokens"] > 0 and usage["completion_tokens"] > 0, f"nothing was counted: {usage}")
    need(usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"], "more cached than there is")
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    need(reasoning <= usage["completion_tokens"], "more reasoning than there is")


@case("openai-python, resources/chat/completions", shows=["behaviour.openai-python, sync"], uses=["chat/plain"])
async def the_python_client_takes_it(target: Target) -> None:
    """OpenAI's Python client, with strict validation, reads the answer."""

    def ask() -> bool:
        with target.client() as client:
            answer = client.chat.completions.create(**target.body("chat/plain"))
            need(answer._request_id, "the client finds no request id")
            return bool(answer.choices[0].message.content)

    need(await asyncio.to_thread(ask), "no content")


@case("openai-python, AsyncOpenAI", shows=["behaviour.openai-python, async"], uses=["chat/plain"])
async def the_async_client_takes_it(target: Target) -> None:
    """The same client in its asynchronous form reads the answer."""
    async with target.async_client() as client:
        answer = await client.chat.completions.create(**target.body("chat/plain"))
    need(answer.choices[0].message.content, "no content")


@case("openai.types.chat.ChatCompletionDeveloperMessageParam", shows=["request.messages"], uses=["system/replaced"])
async def developer_is_system(target: Target) -> None:
    """A message of role developer is taken as one of role system."""
    body = target.body("system/replaced")
    for message in body["messages"]:
        message["role"] = "developer" if message["role"] == "system" else message["role"]
    text_of(await target.whole(body))


@case("openai.types.chat.ChatCompletionContentPartTextParam", shows=["request.messages"], uses=["chat/plain"])
async def content_in_parts_is_the_text(target: Target) -> None:
    """A message's content may be a list of text parts, by the name of chat or of responses."""
    for kind in ("text", "input_text"):
        body = target.body("chat/plain")
        body["messages"][-1]["content"] = [{"type": kind, "text": body["messages"][-1]["content"]}]
        text_of(await target.whole(body))


@case("clients that echo messages as they came", shows=["request.messages"], uses=["chat/follow_up"])
async def an_answer_can_be_echoed_whole(target: Target) -> None:
    """An assistant message may be given back with all the fields that it came with."""
    first = await target.whole(target.body("chat/follow_up"))
    body = target.body("chat/follow_up", 1)
    body["messages"][1] = first["choices"][0]["message"] | {"audio": None, "tool_calls": None, "function_call": None}
    text_of(await target.whole(body))


@case("fields that clients send beyond the documented ones", shows=["behaviour.unknown fields"], uses=["chat/plain"])
async def unknown_fields_are_named(target: Target) -> None:
    """Fields that are not known, in the body, in a message and in a part, change nothing, and are named."""
    body = target.body("chat/plain", frobnicate={"deep": [1]}, n_predict=7)
    text = body["messages"][-1]["content"]
    body["messages"][-1] |= {
        "content": [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}, "y": 1}],
        "x": 1,
    }
    answer = await target.send("POST", CHAT, body)
    good(answer, "completion")
    named = answer.headers.get("x-ignored-params", "").split(", ")
    need(
        set(named) >= {"frobnicate", "n_predict", "messages.x", "messages.content.y"},
        f"these fields are named as ignored: {named}",
    )


@case("clients that send every field", shows=["behaviour.null for optional fields"], uses=["chat/plain"])
async def null_is_not_given(target: Target) -> None:
    """Null for an optional field is the same as leaving it out."""
    optional = sorted(set(CompletionCreateParamsBase.__annotations__) - {"model", "messages"})
    answer = await target.send("POST", CHAT, target.body("chat/plain", **dict.fromkeys(optional)))
    good(answer, "completion")
    need("x-ignored-params" not in answer.headers, "null is named as an ignored parameter")


@case("OpenAI API reference, n", shows=["request.n"], uses=["chat/plain"])
async def n_gives_so_many_choices(target: Target) -> None:
    """With n there are n choices, counted from 0, each with text, and usage is that of all."""
    one = await target.whole(target.body("chat/plain"))
    body = await target.whole(target.body("chat/plain", n=2))
    same([0, 1], [choice["index"] for choice in body["choices"]], "indexes")
    need(all(choice["message"]["content"] for choice in body["choices"]), "a choice without text")
    if target.scripted:
        used = {name: 2 * count for name, count in one["usage"].items() if isinstance(count, int)}
        same(used, body["usage"], "usage")


@case("OpenAI API reference, stop", shows=["request.stop"], uses=["chat/plain"])
async def stop_cuts_exactly(target: Target) -> None:
    """The answer ends before the first stop sequence, with nothing of it, and finish_reason is stop."""
    for stop in (" ", [" ", "\n"], ["never written like this", " "]):
        choice = (await target.whole(target.body("chat/plain", stop=stop)))["choices"][0]
        need(" " not in (choice["message"]["content"] or ""), f"{stop!r} is in {choice['message']['content']!r}")
        same("stop", choice["finish_reason"], "finish_reason")


@case("OpenAI API reference, max_completion_tokens", shows=["request.max_tokens"], uses=["limits/max_tokens_reached"])
async def max_tokens_ends_the_answer(target: Target) -> None:
    """An answer that reaches max_tokens ends there with finish_reason length."""
    body = await target.whole(target.body("limits/max_tokens_reached"))
    same("length", body["choices"][0]["finish_reason"], "finish_reason")
    need(body["usage"]["completion_tokens"] <= 5, f"{body['usage']['completion_tokens']} tokens")


@case(
    "openai.types.chat.completion_create_params",
    shows=["request.max_completion_tokens"],
    uses=["limits/max_tokens_reached"],
)
async def max_completion_tokens_is_the_same(target: Target) -> None:
    """max_completion_tokens does what max_tokens does."""
    asked = target.body("limits/max_tokens_reached")
    asked["max_completion_tokens"] = asked.pop("max_tokens")
    same("length", (await target.whole(asked))["choices"][0]["finish_reason"], "finish_reason")


@case("clients that send 0 or -1 for no limit", shows=["request.max_tokens"], uses=["chat/plain"])
async def no_limit_has_several_spellings(target: Target) -> None:
    """null, 0 and -1 as max_tokens mean that there is no limit."""
    for value in (None, 0, -1):
        body = await target.whole(target.body("chat/plain", max_tokens=value))
        same("stop", body["choices"][0]["finish_reason"], f"finish_reason for {value}")


@case(
    "recorded from api.openai.com", shows=["response.role", "response.annotations"], uses=["chat/plain"], scripted=True
)
async def keys_come_in_the_order_of_the_real_api(target: Target) -> None:
    """The keys of completion, choice and message stand in the order in which api.openai.com sends them."""
    body = await target.whole(target.body("chat/plain"))
    order = ["id", "object", "created", "model", "service_tier", "system_fingerprint", "choices", "usage"]
    must(*differences(order, list(body), "keys"))
    same(["index", "message", "logprobs", "finish_reason"], list(body["choices"][0]), "keys of the choice")
    same(["role", "content", "refusal", "annotations"], list(body["choices"][0]["message"]), "keys of the message")


@case("README, models", shows=["request.model", "response.model"], uses=["chat/plain"])
async def any_model_name_is_answered(target: Target) -> None:
    """A request for a model of another maker is answered, and the answer names the model that gave it."""
    for name in ("gpt-4o", "anthropic/claude-opus-4", "claude-max/opus"):
        if not target.scripted and name != "gpt-4o":
            continue
        body = await target.whole(target.body("chat/plain", model=name))
        need(body["model"] and body["model"] != "gpt-4o", f"the model is {body['model']!r}")


@case("legal JSON: RFC 8259", shows=["behaviour.any JSON"], uses=["chat/plain"])
async def spacing_and_escapes_do_not_matter(target: Target) -> None:
    """A body with line breaks between tokens and escaped characters is the same body."""
    import json

    text = json.dumps(target.body("chat/plain"), indent=2, ensure_ascii=True).replace("What", "\\u0057hat")
    answer = await target.send(
        "POST", CHAT, content=text.encode(), headers={"content-type": "application/json; charset=utf-8"}
    )
    good(answer, "completion")


@case(
    "recorded from api.openai.com",
    shows=[
        f"response.{field}"
        for field in ("service_tier", "system_fingerprint", "logprobs", "audio", "moderation", "metadata")
    ],
    uses=["chat/plain"],
    scripted=True,
)
async def what_there_is_not_is_not_made_up(target: Target) -> None:
    """logprobs are null even if they were asked for, and audio, moderation and metadata are not sent."""
    body = await target.whole(target.body("chat/plain", logprobs=True, top_logprobs=2, metadata={"a": "b"}))
    same({"service_tier": "default", "system_fingerprint": {"$matches": "."}}, body, "completion")
    need(body["choices"][0]["logprobs"] is None, "there are logprobs")
    need(not {"moderation", "metadata"} & set(body), "there is moderation or metadata")
    need("audio" not in body["choices"][0]["message"], "there is audio")
