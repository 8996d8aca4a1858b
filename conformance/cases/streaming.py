"""Chat completions as a stream. The laws that hold for every stream are in `conformance.judge`."""

import asyncio
import json
from typing import Any

import openai

from conformance.apis import chat
from conformance.cases import case
from conformance.target import CHAT, QUIET, Target, need, same

TYPE = "openai.types.chat.ChatCompletionChunk"


@case(TYPE, shows=["request.stream", "behaviour.streaming"], uses=["chat/plain"])
async def a_stream_keeps_the_laws(target: Target) -> None:
    """Chunks have their type's fields, one id, model and time; role first, finish_reason last, then [DONE]."""
    stream = await target.stream(target.body("chat/plain"))
    need(stream.error is None, f"it ended in an error: {stream.error}")


@case("recorded from api.openai.com", shows=["behaviour.streaming"], uses=["chat/plain"])
async def the_first_chunk_opens_the_message(target: Target) -> None:
    """The first chunk has role, empty content and refusal; the last of the choice has an empty delta."""
    stream = await target.stream(target.body("chat/plain"))
    deltas = [chunk["choices"][0]["delta"] for chunk in stream.chunks]
    same("assistant", deltas[0].get("role"), "role")
    same({}, deltas[-1], "the last delta")
    need(deltas[-1] == {}, f"the last delta is {deltas[-1]}")
    need(all("role" not in delta for delta in deltas[1:]), "a role in a later chunk")


@case("openai-python breaks on other fields", shows=["behaviour.streaming"], uses=["chat/plain"])
async def only_data_and_comments(target: Target) -> None:
    """An event stream has data lines and comments, and neither event, id nor retry."""
    stream = await target.stream(target.body("chat/plain"))
    odd = [line for line in stream.lines if line and not line.startswith(("data: ", ":"))]
    same([], odd, "other lines")


@case("openai.types.chat.ChatCompletionStreamOptionsParam", shows=["request.stream_options"], uses=["chat/plain"])
async def usage_comes_when_it_is_asked_for(target: Target) -> None:
    """With include_usage it comes in one last chunk without choices, and is null in all others."""
    stream = await target.stream(target.body("chat/plain", stream_options={"include_usage": True}))
    need(stream.chunks[-1]["usage"]["total_tokens"] > 0, "nothing was counted")
    need(
        all("usage" in chunk and chunk["usage"] is None for chunk in stream.chunks[:-1]), "usage is not null before it"
    )


@case("LangChain and pydantic-ai sum usage up", shows=["request.stream_options"], uses=["chat/plain"])
async def usage_does_not_come_unasked(target: Target) -> None:
    """Without include_usage no chunk has usage, and none is without choices."""
    for options in (None, {}, {"include_usage": False}):
        stream = await target.stream(target.body("chat/plain", stream_options=options))
        need(all(chunk["choices"] and not chunk.get("usage") for chunk in stream.chunks), f"usage with {options}")


@case("openai.types.chat.completion_create_params", shows=["request.stream_options"], uses=["chat/plain"])
async def stream_options_without_stream_are_harmless(target: Target) -> None:
    """stream_options in a request that is not streamed are accepted."""
    await target.whole(target.body("chat/plain", stream_options={"include_usage": True}))


@case("openai.lib.streaming.chat, the accumulator", shows=["behaviour.openai-python, streamed"], uses=["chat/plain"])
async def the_clients_accumulator_agrees(target: Target) -> None:
    """What OpenAI's client adds the chunks up to is what a plain fold of them gives."""
    body = target.body("chat/plain", stream_options={"include_usage": True})
    async with target.async_client() as client, client.chat.completions.stream(**body) as stream:
        chunks = [event.chunk.to_dict() async for event in stream if event.type == "chunk"]
        final = (await stream.get_final_completion()).to_dict()
    folded = chat.fold([json.loads(json.dumps(chunk)) for chunk in chunks])
    ours, theirs = folded["choices"][0], final["choices"][0]  # type: ignore[index]
    same({"content": ours["message"]["content"]}, theirs["message"], "message")
    same(["stop", "stop"], [ours["finish_reason"], theirs["finish_reason"]], "finish_reason")
    same(folded["usage"]["total_tokens"], final["usage"]["total_tokens"], "usage")  # type: ignore[index]


@case("openai-python, Stream", shows=["behaviour.openai-python, sync"], uses=["chat/plain"])
async def the_sync_client_reads_it(target: Target) -> None:
    """The synchronous client reads the stream to its end."""

    def ask() -> list[Any]:
        with target.client() as client:
            return list(client.chat.completions.create(**target.body("chat/plain"), stream=True))

    chunks = await asyncio.to_thread(ask)
    need(chunks and chunks[-1].choices[0].finish_reason == "stop", "no end")


@case("one answer, two forms", shows=["behaviour.streaming"], uses=["chat/plain"], scripted=True)
async def whole_and_streamed_are_one_answer(target: Target) -> None:
    """The stream adds up to the answer that comes whole."""
    whole = chat.read(await target.whole(target.body("chat/plain")))
    stream = await target.stream(target.body("chat/plain", stream_options={"include_usage": True}))
    same(whole, chat.read(chat.fold(list(stream.chunks))), "streamed")


@case("OpenAI API reference, n", shows=["request.n"], uses=["chat/plain"])
async def choices_are_streamed_side_by_side(target: Target) -> None:
    """With n each choice is a stream of its own within the one, with usage once at the end."""
    stream = await target.stream(target.body("chat/plain", n=3, stream_options={"include_usage": True}))
    same({0, 1, 2}, {choice["index"] for chunk in stream.chunks for choice in chunk["choices"]}, "indexes")


@case("OpenAI API reference, stop", shows=["request.stop"], uses=["chat/plain"])
async def stop_cuts_a_stream(target: Target) -> None:
    """Nothing of a stop sequence is streamed, wherever the text was cut."""
    stream = await target.stream(target.body("chat/plain", stop=" "))
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in stream.chunks)
    need(" " not in text, f"streamed {text!r}")
    same("stop", stream.chunks[-1]["choices"][0]["finish_reason"], "finish_reason")


@case("headers for proxies and browsers", shows=["behaviour.streaming"], uses=["chat/plain"], scripted=True)
async def nothing_between_may_hold_it_back(target: Target) -> None:
    """A stream tells caches and reverse proxies to leave it alone."""
    answer = await target.send("POST", CHAT, target.body("chat/plain", stream=True))
    same({"$contains": "no-cache"}, answer.headers.get("cache-control", ""), "cache-control")
    same("no", answer.headers.get("x-accel-buffering"), "x-accel-buffering")


@case(
    "openai-python, APIError", shows=["behaviour.errors in mid-stream"], uses=["errors/cut_after_text"], scripted=True
)
async def a_failure_in_mid_stream_is_an_error(target: Target) -> None:
    """An answer that fails after its first text ends in an error event, without finish_reason and [DONE]."""
    stream = await target.stream(target.body("errors/cut_after_text"))
    need(stream.error is not None, "there is no error")
    need(
        not any(choice["finish_reason"] for chunk in stream.chunks[:-1] for choice in chunk["choices"]), "finish_reason"
    )


@case(
    "openai-python, APIError", shows=["behaviour.errors in mid-stream"], uses=["errors/cut_after_text"], scripted=True
)
async def the_client_raises_what_failed_in_mid_stream(target: Target) -> None:
    """OpenAI's client raises an APIError for a stream that fails, after it has handed on what came before."""
    seen = []
    async with target.async_client() as client:
        stream = await client.chat.completions.create(**target.body("errors/cut_after_text"), stream=True)
        try:
            async for chunk in stream:
                seen.append(chunk)
        except openai.APIError as error:
            need(error.body, "the error has no body")
        else:
            need(False, "nothing was raised")
    need(seen, "nothing came before it")


@case("openai-python, status to exception", shows=["behaviour.early errors"], uses=["errors/overloaded"], scripted=True)
async def an_early_failure_is_a_status(target: Target) -> None:
    """A stream that fails before its first event is an HTTP error, not a stream."""
    await target.refused(target.body("errors/overloaded", stream=True), 503)


@case(
    "clients that close the connection before the end",
    shows=["behaviour.cancelling"],
    uses=["chat/ten_turns"],
    settings=QUIET,
)
async def a_client_may_leave(target: Target) -> None:
    """After a client has left in mid-stream nothing of its request stays busy."""
    async with target.http.stream("POST", CHAT, json=target.body("chat/ten_turns", stream=True)) as answer:
        async for _ in answer.aiter_bytes(1):
            break
    for _ in range(100):
        if (await target.http.get("/health")).json()["children"]["busy"] == 0:
            return
        await asyncio.sleep(0.05)
    need(False, "its request is still busy after five seconds")
