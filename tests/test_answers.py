"""proxy/http/model_requests.py: streamed and whole, one choice or several, with the headers that say how."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, cast

import httpx
import pytest
from openai.types import Completion as TextJudge
from openai.types.chat import ChatCompletion

from proxy.cli.pool import Served
from proxy.dialects import Framing
from proxy.http import model_requests
from proxy.http.app import create_app
from proxy.http.service import Service
from proxy.protocol.deltas import Delta, Failed, Reason, Text, Thinking
from proxy.protocol.failures import Failure, Kind
from tests import responses_api
from tests.conftest import base_settings
from tests.scripted import BEGUN, DIED, OVERLOADED, SILENCE, USED, Scripted, ScriptedPool, calls, end, says

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


class Server:
    """The application over conversations that are written down; as many answers as there are of them."""

    def __init__(self, *conversations: Scripted, served: Served = "new", **settings: Any) -> None:
        self.pool = ScriptedPool(*conversations, served=[served] * len(conversations))
        self.service = Service(base_settings(**settings), self.pool, "2.1.330", "oauth_token")
        self.app = create_app(self.service)

    async def post(self, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
        asked: dict[str, Any] = {"model": "opus"} | body
        talk: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
        asked |= {"/v1/completions": {"prompt": "hi"}, "/v1/responses": {"input": "hi"}}.get(path, talk)
        transport = httpx.ASGITransport(app=cast(Any, self.app))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3456") as client:
            response = await client.post(path, json=asked)
        # Nothing is left of it, however it went.
        assert len(self.pool.kept) == len(self.pool.opened)
        assert len(asyncio.all_tasks()) == 1
        return response


def say(*texts: str) -> Scripted:
    return Scripted([says(*texts)])


def events(response: httpx.Response) -> list[Any]:
    """What the stream says: chunks and the end."""
    assert response.headers["content-type"] == Framing.SSE.content_type
    assert response.text.endswith("\n\n")
    parts = [part for part in response.text.split("\n\n")[:-1] if part != ": keep-alive"]
    assert all(part.startswith("data: ") for part in parts)
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts]


def texts(chunks: list[Any]) -> dict[int, str]:
    """What each choice says."""
    found: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            said = choice.get("text") or choice.get("delta", {}).get("content") or ""
            found[choice["index"]] = found.get(choice["index"], "") + said
    return found


# An answer that says nothing


@pytest.mark.parametrize("batches", [[[BEGUN, end(Reason.MAX_TOKENS)]], [[BEGUN], SILENCE, [end(Reason.MAX_TOKENS)]]])
async def test_a_response_without_items_has_all_events_of_a_stream(
    batches: list[list[Delta]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_requests, "KEEP_ALIVE_EVERY", 0.001)
    whole = (await Server(Scripted(batches)).post("/v1/responses")).json()
    found = responses_api.events((await Server(Scripted(batches)).post("/v1/responses", stream=True)).text)
    names = ["created", "in_progress", "incomplete"]
    assert [event["type"].removeprefix("response.") for event in found] == names
    last = found[-1]["response"]
    assert (last["status"], last["output"], last["usage"]) == ("incomplete", [], whole["usage"])


# Several choices


async def test_choices_are_merged_by_their_index() -> None:
    response = await Server(say("a"), say("b"), say("c")).post(n=3)
    choices = response.json()["choices"]
    assert [(choice["index"], choice["message"]["content"]) for choice in choices] == [(0, "a"), (1, "b"), (2, "c")]
    ChatCompletion.model_validate_json(response.content, strict=True)


async def test_choices_are_streamed_side_by_side() -> None:
    slow = Scripted([[BEGUN, Text("a")], [Text("b")], [end()]])
    response = await Server(slow, say("c")).post(n=2, stream=True, stream_options={"include_usage": True})
    *chunks, done = events(response)
    assert done == "[DONE]"
    assert texts(chunks) == {0: "ab", 1: "c"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    ends = [c["index"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    assert sorted(ends) == [0, 1]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 2 * USED.output
    assert chunks[-1]["usage"]["prompt_tokens"] == 2 * USED.prompt


async def test_usage_is_summed_over_the_choices() -> None:
    usage = (await Server(say("a"), say("b")).post(n=2)).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (44, 24)


@pytest.mark.parametrize("stream", [False, True])
async def test_one_choice_that_fails_fails_all(stream: bool) -> None:
    """Before anything has gone out: a status, whether it was to be streamed or not."""
    forever = Scripted([[BEGUN]])
    server = Server(Scripted([[OVERLOADED]]), forever, say())
    response = await server.post(n=3, stream=stream)
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "server_error"


async def test_one_choice_that_fails_in_mid_stream_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_requests, "KEEP_ALIVE_EVERY", 0.001)
    forever = Scripted([[BEGUN, Text("a")]])
    response = await Server(forever, Scripted([[BEGUN, Text("b")], SILENCE, [DIED]])).post(n=2, stream=True)
    assert response.status_code == 200
    *chunks, error = events(response)
    assert error["error"]["code"] == "cli_died"
    assert all(choice["finish_reason"] is None for chunk in chunks for choice in chunk["choices"])


async def test_what_came_with_a_failure_goes_out_before_it() -> None:
    response = await Server(Scripted([[BEGUN, Text("a")], [Text("b"), DIED]])).post(stream=True)
    *chunks, error = events(response)
    assert texts(chunks) == {0: "ab"}
    assert error["error"]["code"] == "cli_died"


async def test_a_place_that_cannot_be_had_fails_all() -> None:
    response = await Server(say("a")).post(n=2)
    assert response.status_code == 429


async def test_a_fault_of_ours_in_one_choice_fails_all(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = say("a")
    monkeypatch.setattr(broken, "ask_new", None)
    assert (await Server(broken, Scripted([[BEGUN]])).post(n=2)).status_code == 500


async def test_many_choices_that_nobody_reads_are_ended() -> None:
    """The request is cancelled, as when its client leaves."""
    server = Server(*(Scripted([[BEGUN, Text("a")]]) for _ in range(8)))
    task = asyncio.create_task(server.post(n=8))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(server.pool.kept) == 8
    assert len(asyncio.all_tasks()) == 1


# Headers


@pytest.mark.parametrize("served", ["new", "continued", "replayed"])
@pytest.mark.parametrize("stream", [False, True])
async def test_how_it_was_served_is_said(served: Served, stream: bool) -> None:
    response = await Server(say("a"), served=served).post(stream=stream)
    assert response.headers["x-claude-proxy-served"] == served
    assert "x-ignored-params" not in response.headers
    assert "x-claude-proxy-tool-choice" not in response.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_served_by_a_second_try_is_said(stream: bool) -> None:
    server = Server(Scripted([[DIED]]), say("a"))
    server.pool._served = ["continued", "replayed"]
    response = await server.post(stream=stream)
    assert response.headers["x-claude-proxy-served"] == "replayed"
    assert "cli_died" not in response.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_had_no_effect_is_said(path: str, stream: bool) -> None:
    response = await Server(say("a"), native=False).post(path, stream=stream, seed=5, temperature=1)
    assert response.headers["x-ignored-params"] == "temperature, seed"
    response = await Server(say("a")).post(path, stream=stream, seed=5, temperature=1)
    assert response.headers["x-ignored-params"] == "seed"


REFUSED: list[Delta] = [Failed(Failure(Kind.REFUSED_UPSTREAM, "no"))]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_model_refused_is_said(stream: bool) -> None:
    server = Server(Scripted([REFUSED]), Scripted([calls()]), served="new")
    response = await server.post(stream=stream, tools=TOOLS, tool_choice="required", top_p=0.5, seed=5)
    assert response.headers["x-ignored-params"] == "top_p, seed"
    assert response.headers["x-claude-proxy-emulated"] == "tool_choice"


async def test_a_strict_server_refuses_what_has_no_effect() -> None:
    response = await Server(say("a"), strict_params=True).post(seed=5)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "seed")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("again", ["No.", None])
async def test_a_call_that_was_not_made_is_said(stream: bool, again: str | None) -> None:
    second = calls() if again is None else says(again)
    response = await Server(Scripted([says("No.")], [second])).post(stream=stream, tools=TOOLS, tool_choice="required")
    assert response.headers.get("x-claude-proxy-tool-choice") == (again and "unmet")


async def test_what_is_not_known_when_a_stream_begins_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_requests, "KEEP_ALIVE_EVERY", 0.01)
    server = Server(say("a"))
    opened = server.pool.open

    async def open_late(*values: Any, **more: Any) -> Any:
        await asyncio.sleep(0.05)
        return await opened(*values, **more)

    monkeypatch.setattr(server.pool, "open", open_late)
    response = await server.post(stream=True)
    assert "x-claude-proxy-served" not in response.headers
    assert response.text.startswith(": keep-alive\n\n")
    assert texts(events(response)[:-1]) == {0: "a"}


async def test_streams_are_not_to_be_stored() -> None:
    response = await Server(say("a")).post(stream=True)
    assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-cache", "no")


# Silence


@pytest.mark.parametrize("n", [1, 2])
async def test_a_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(model_requests, "KEEP_ALIVE_EVERY", 0.001)
    one = (Scripted([SILENCE, [BEGUN], SILENCE, SILENCE, says("a")[1:]]) for _ in range(n))
    response = await Server(*one).post(n=n, stream=True)
    assert response.text.startswith(": keep-alive\n\n")
    assert response.text.count(": keep-alive\n\n") >= 3 * n
    assert texts(events(response)[:-1]) == dict.fromkeys(range(n), "a")


async def test_thoughts_that_do_not_go_out_are_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_requests, "KEEP_ALIVE_EVERY", 0.0)
    thoughts: list[list[Delta]] = [[Thinking("hm")] for _ in range(5)]
    talk = Scripted([[BEGUN], *thoughts, says("a")[1:]])
    response = await Server(talk, reasoning=False).post(stream=True)
    assert response.text.count(": keep-alive\n\n") == 6
    assert "hm" not in response.text


async def test_a_whole_answer_says_nothing_of_its_silences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_requests, "KEEP_ALIVE_EVERY", 0.001)
    response = await Server(Scripted([SILENCE, [BEGUN], SILENCE, says("a")[1:]])).post()
    assert response.json()["choices"][0]["message"]["content"] == "a"


# A whole answer is the fold of the streamed one


def answer() -> list[Scripted]:
    thinking = Scripted([[BEGUN, Thinking("hm")], [Text("x"), *calls()[1:]]])
    limited = Scripted([[BEGUN, Text("a "), Text("b")], [end(Reason.MAX_TOKENS)]])
    return [thinking, limited]


async def test_streamed_and_whole_say_the_same() -> None:
    whole = (await Server(*answer()).post(n=2, tools=TOOLS)).json()
    *chunks, _ = events(
        await Server(*answer()).post(n=2, tools=TOOLS, stream=True, stream_options={"include_usage": True})
    )
    assert texts(chunks) == {choice["index"]: choice["message"]["content"] or "" for choice in whole["choices"]}
    made = [c["delta"]["tool_calls"][0] for chunk in chunks for c in chunk["choices"] if "tool_calls" in c["delta"]]
    (call,) = whole["choices"][0]["message"]["tool_calls"]
    assert (made[0]["id"], made[0]["function"]["name"]) == (call["id"], call["function"]["name"])
    assert "".join(piece["function"]["arguments"] for piece in made) == call["function"]["arguments"]
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["tool_calls", "length"]
    assert chunks[-1]["usage"] == whole["usage"]


async def test_legacy_completions_streamed_and_whole_say_the_same() -> None:
    whole = await Server(say("a", "b"), say("c")).post("/v1/completions", n=2)
    TextJudge.model_validate_json(whole.content, strict=True)
    *chunks, _ = events(await Server(say("a", "b"), say("c")).post("/v1/completions", n=2, stream=True))
    assert texts(chunks) == {choice["index"]: choice["text"] for choice in whole.json()["choices"]} == {0: "ab", 1: "c"}


# What is noted


def line(caplog: pytest.LogCaptureFixture) -> str:
    """The log line of the one request."""
    (found,) = [record.getMessage() for record in caplog.records if record.name == "proxy.request"]
    return found


async def test_odd_arguments_are_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "proxy.request")
    odd = '{"town":"Rome"}'
    response = await Server(Scripted([calls(odd)]), Scripted([calls(odd)])).post(n=2, tools=TOOLS)
    assert response.json()["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == odd
    assert " odd_arguments=2" in line(caplog)
    assert "Rome" not in line(caplog)


async def test_arguments_that_fit_are_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "proxy.request")
    await Server(Scripted([calls()])).post(tools=TOOLS)
    assert "odd_arguments" not in line(caplog)


@pytest.mark.parametrize("stream", [False, True])
async def test_all_tries_of_all_choices_are_counted(caplog: pytest.LogCaptureFixture, stream: bool) -> None:
    caplog.set_level(logging.INFO, "proxy.request")
    twice = Scripted([says("No.")], [calls()])
    response = await Server(twice, Scripted([calls()])).post(
        n=2, tools=TOOLS, tool_choice="required", stream=stream, stream_options={"include_usage": True}
    )
    usage = events(response)[-2]["usage"] if stream else response.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3 * USED.prompt, 3 * USED.output)
    assert f"in={3 * USED.prompt} cached={3 * USED.cache_read} out={3 * USED.output}" in line(caplog)


async def test_what_a_failed_request_used_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "proxy.request")
    await Server(Scripted([[BEGUN, Text("a")], [DIED]])).post()
    assert f"in={USED.prompt}" in line(caplog)
    assert line(caplog).endswith("cli_died")
