"""Ollama's API over HTTP, and by its own Python client."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any, cast

import httpx
import ollama
import pytest
from pydantic import BaseModel

from proxy.http import model_requests
from proxy.http.ollama import VERSION, tagged
from proxy.settings import Key, ModelName
from tests import cli_lines as say
from tests import fake_cli
from tests.conftest import Serve, until
from tests.instant import application
from tests.served import Served
from tests.test_ollama_request import PNG

HOST = "http://127.0.0.1:3456"


def transport(**settings: Any) -> httpx.ASGITransport:
    return httpx.ASGITransport(app=cast(Any, application(**settings)))


def http(**settings: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport(**settings), base_url=HOST)


def client(**settings: Any) -> ollama.AsyncClient:
    """Ollama's client of a server with nothing behind it."""
    return ollama.AsyncClient(HOST, transport=transport(**settings))


def chat(content: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "sonnet", "messages": [{"role": "user", "content": content}]} | more


async def test_a_stream_is_lines() -> None:
    async with http() as http_client:
        response = await http_client.post("/api/chat", json=chat())
        whole = await http_client.post("/api/chat", json=chat(stream=False))
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == whole.json()["message"]["content"] == "Hello there."
    assert whole.headers["content-type"] == "application/json"
    assert response.headers["x-claude-proxy-served"] == "new"


async def test_what_has_no_effect_is_named() -> None:
    async with http() as http_client:
        response = await http_client.post("/api/chat", json=chat(options={"num_ctx": 1}, keep_alive="5m"))
    assert response.headers["x-ignored-params"] == "num_ctx, keep_alive"


# Every body that Ollama's documentation posts with `curl -d`, and programs that say nothing of its type.
TYPES = [None, "", "application/x-www-form-urlencoded", "text/plain;charset=UTF-8", "application/octet-stream"]


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/show"])
async def test_a_body_need_not_be_called_json(path: str, type: str | None) -> None:
    body = json.dumps(chat() | {"prompt": "hi"}).encode()
    headers = {} if type is None else {"content-type": type}
    async with http() as http_client:
        assert (await http_client.post(path, content=body, headers=headers)).status_code == 200
        assert (await http_client.post("/v1/chat/completions", content=body, headers=headers)).status_code == 415


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize(
    "of_a_page",
    [
        {"sec-fetch-site": "cross-site"},
        {"referer": "https://evil.example/"},
        {"origin": HOST},
        {"sec-fetch-site": "none"},
    ],
)
async def test_but_one_that_a_page_has_sent_must_be(type: str | None, of_a_page: dict[str, str]) -> None:
    headers = of_a_page | ({} if type is None else {"content-type": type})
    async with http() as http_client:
        response = await http_client.post("/api/chat", content=json.dumps(chat()).encode(), headers=headers)
        typed = {"content-type": "application/json"}
        allowed = await http_client.post("/api/chat", content=json.dumps(chat()).encode(), headers=of_a_page | typed)
    assert (response.status_code, list(response.json())) == (415, ["error"])
    assert allowed.status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_foreign_pages_may_not_ask(origin: str) -> None:
    async with http() as http_client:
        response = await http_client.post("/api/chat", json=chat(), headers={"origin": origin})
        other = await http_client.get("/api/tags", headers={"host": "evil.example:11434"})
    assert (response.status_code, other.status_code) == (403, 403)
    assert "origin" in response.json()["error"]
    assert "host name" in other.json()["error"]


async def test_a_key_is_needed_where_there_are_keys() -> None:
    async with http(api_keys=(Key("mine", "sesame"),)) as http_client:
        answers = [await http_client.get(path) for path in ("/api/tags", "/api/version", "/api/ps")]
        answers.append(await http_client.post("/api/chat", json=chat()))
        headers = {"authorization": "Bearer sesame"}
        opened = await http_client.post("/api/chat", json=chat(), headers=headers)
    assert [(answer.status_code, list(answer.json())) for answer in answers] == [(401, ["error"])] * 4
    assert opened.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/api/chat", 405), ("PUT", "/api/tags", 405), ("DELETE", "/api/show", 405), ("GET", "/api/x", 404)],
)
async def test_errors_are_in_ollamas_form(method: str, path: str, status: int) -> None:
    async with http() as http_client:
        response = await http_client.request(method, path)
    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert isinstance(response.json()["error"], str)


@pytest.mark.parametrize("path", ["/api/version", "/api/tags", "/api/ps"])
async def test_the_head_alone(path: str) -> None:
    async with http() as http_client:
        response = await http_client.head(path)
    assert (response.status_code, response.content) == (200, b"")


async def test_the_second_port_says_what_ollama_says() -> None:
    served = httpx.ASGITransport(app=cast(Any, application(ollama_port=11434)))
    async with httpx.AsyncClient(transport=served) as http_client:
        known, own = [await http_client.get(f"http://127.0.0.1:{port}/") for port in (11434, 3456)]
        head = await http_client.head("http://127.0.0.1:11434/")
    assert (known.text, known.headers["content-type"]) == ("Ollama is running", "text/plain; charset=utf-8")
    assert own.headers["content-type"].startswith("text/html")
    assert (head.status_code, head.content) == (200, b"")


async def test_all_models_are_listed_once() -> None:
    settings = {"models": (ModelName("fast", "haiku"), ModelName("llama3.2:3b", "haiku"))}
    async with http(**settings) as http_client:
        tags = (await http_client.get("/api/tags")).json()["models"]
        ids = [model["id"] for model in (await http_client.get("/v1/models")).json()["data"]]
    assert [tag["name"] for tag in tags] == [tagged(id) for id in ids]
    assert tags[0]["remote_model"] == "claude-haiku-5-5"
    assert {"fast:latest", "llama3.2:3b", "opus:latest"} <= {tag["model"] for tag in tags}
    assert len({tag["digest"] for tag in tags}) == len(tags)


@pytest.mark.parametrize(
    ("asked", "context", "title"),
    [
        ("opus", 200_000, "Claude Opus 5.5"), ("opus:latest", 200_000, "Claude Opus 5.5"),
        ("opus[1m]", 1_000_000, "Opus[1m]"), ("mine", 200_000, "Claude Haiku 5.5"),
        ("claude-sonnet-4-20250514", 200_000, "Claude Sonnet 4 20250514"),
    ],
)  # fmt: skip
async def test_a_model_is_shown(asked: str, context: int, title: str) -> None:
    shown = await client(models=(ModelName("mine", "haiku"),)).show(asked)
    assert shown.capabilities == ["completion", "tools", "vision", "thinking"]
    assert shown.modelinfo == {
        "general.architecture": "claude", "general.basename": title, "claude.context_length": context,
    }  # fmt: skip
    assert shown.details is not None
    assert shown.details.family == "claude"


async def test_older_clients_name_a_model_otherwise() -> None:
    async with http() as http_client:
        named = await http_client.post("/api/show", json={"name": "opus", "verbose": True})
        nameless = await http_client.post("/api/show", json={})
        unknown = await http_client.post("/api/show", json={"model": "llama3"})
    assert named.json()["modelfile"] == "FROM opus\n"
    assert (nameless.status_code, nameless.json()["error"]) == (400, "model: A model must be named.")
    assert (unknown.status_code, unknown.json()["error"]) == (404, "model 'llama3' not found")


async def test_a_name_of_the_settings_may_have_the_tag() -> None:
    asked = ModelName("a", "haiku"), ModelName("b:latest", "haiku")
    for name in ("a", "a:latest", "b:latest"):
        shown = await client(models=asked).show(name)
        assert shown.modelinfo is not None
        assert shown.modelinfo["general.basename"] == "Claude Haiku 5.5"


async def test_nothing_is_asked_of_a_model_that_is_only_loaded() -> None:
    loaded = await client().chat("sonnet")
    unloaded = await client().generate("sonnet", keep_alive=0)
    streamed = [part async for part in await client().chat("sonnet", stream=True)]
    assert (loaded.done_reason, loaded.message.content, loaded.eval_count) == ("load", "", None)
    assert (unloaded.done_reason, unloaded.response) == ("unload", "")
    assert [part.done_reason for part in streamed] == ["load"]


class Weather(BaseModel):
    city: str = "Lima"


def temperature(city: str) -> str:
    """The temperature.

    Args:
      city: Where.
    """
    return f"19 degrees in {city}"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_client_chats(stream: bool) -> None:
    asked: dict[str, Any] = {"model": "sonnet:latest", "messages": [{"role": "user", "content": "hi", "images": [PNG]}]}
    if stream:
        parts = [part async for part in await client().chat(**asked, stream=True, think="high")]
    else:
        parts = [await client().chat(**asked, think=True, options={"temperature": 0.1, "num_ctx": 4096})]
    assert "".join(part.message.content or "" for part in parts) == "Hello there."
    assert "".join(part.message.thinking or "" for part in parts) == "Hm."
    last = parts[-1]
    assert (last.model, last.done, last.done_reason) == ("sonnet:latest", True, "stop")
    assert (last.prompt_eval_count, last.eval_count) == (22, 12)
    assert all(part.created_at for part in parts)
    assert last.total_duration is not None
    assert last.total_duration > 0


async def test_the_client_runs_tools() -> None:
    messages: list[Any] = [{"role": "user", "content": "How warm is it?"}]
    called = await client().chat("sonnet", messages, tools=[temperature])
    (call,) = called.message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("temperature", {})
    messages += [called.message, {"role": "tool", "content": "19 degrees", "tool_name": call.function.name}]
    streamed = [part async for part in await client().chat("sonnet", messages, tools=[temperature], stream=True)]
    assert [call.function.name for part in streamed for call in part.message.tool_calls or ()] == ["temperature"]


async def test_the_client_gets_json() -> None:
    for format in ("json", Weather.model_json_schema()):
        answer = await client().chat("sonnet", [{"role": "user", "content": "Where?"}], format=cast(Any, format))
        assert Weather.model_validate_json(answer.message.content or "") == Weather()


async def test_the_client_generates() -> None:
    whole = await client().generate("haiku", "hi", system="Be brief.", think=False)
    assert (whole.response, whole.thinking) == ("Hello there.", None)
    parts = [part async for part in await client().generate("haiku", "hi", images=[PNG], stream=True)]
    assert "".join(part.response or "" for part in parts) == "Hello there."


async def test_the_client_lists() -> None:
    names = [model.model for model in (await client().list()).models]
    assert "opus:latest" in names
    assert (await client().ps()).models == []


async def test_the_client_raises_what_is_said() -> None:
    for asked, status, words in (
        (client().chat("sonnet", [{"role": "user"}]), 400, "There is no message with content"),
        (client().embed("sonnet", "x"), 404, "has no embeddings"),
        (client().pull("sonnet"), 404, "none can be pulled"),
        (client().delete("sonnet"), 404, "none can be deleted"),
        (client().show("gpt-4o"), 404, "model 'gpt-4o' not found"),
    ):
        with pytest.raises(ollama.ResponseError, match=words) as caught:
            await asked
        assert caught.value.status_code == status


async def test_a_stream_that_fails_says_so_in_its_last_line(serve: Serve) -> None:
    running = await serve()
    steps = json.dumps([["say", "Half an"], ["exit", 3]])
    async with running.client() as http_client:
        response = await http_client.post("/api/chat", json=chat(steps))
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines[:-1]) == "Half an"
    assert list(lines[-1]) == ["error"]
    assert not any(line.get("done") for line in lines)
    async with ollama.AsyncClient(running.url, trust_env=False) as asked:
        with pytest.raises(ollama.ResponseError, match="exit code 3"):
            _ = [part async for part in await asked.generate("sonnet", steps, stream=True)]
    await running.idle()


async def test_a_silent_stream_is_kept_alive_by_lines(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_requests, "KEEP_ALIVE_EVERY", 0.05)
    running = await serve()
    steps = json.dumps([["say", "a"], ["sleep", 0.5], ["say", "b"], ["end"]])
    async with running.client() as http_client:
        lines = [json.loads(line) for line in (await http_client.post("/api/chat", json=chat(steps))).text.splitlines()]
    said = [line["message"]["content"] for line in lines[:-1]]
    assert [text for text in said if text] == ["a", "b"]
    assert said.count("") > 1
    async with ollama.AsyncClient(running.url, trust_env=False) as asked:
        parts = [part async for part in await asked.generate("sonnet", steps, stream=True)]
    assert "".join(part.response or "" for part in parts) == "ab"


async def test_the_models_in_use_are_those_of_living_conversations(serve: Serve) -> None:
    running = await serve()
    usage = {"claude-opus-5-5": {"contextWindow": 400_000}, "claude-haiku-5-5": {}}
    lines = [*say.message("x", model="claude-opus-5-5"), say.result(modelUsage=usage)]
    async with ollama.AsyncClient(running.url, trust_env=False) as asked:
        assert (await asked.ps()).models == []
        await asked.generate("sonnet", json.dumps([["line", line] for line in lines]))
        await until(lambda: len(running.pool.models_held) == 2, 60, "the CLI has said which models it used")
        models = (await asked.ps()).models
    assert {model.name: model.context_length for model in models} == {
        "claude-haiku-5-5:latest": 200_000, "claude-opus-5-5:latest": 400_000,
    }  # fmt: skip
    assert all(model.expires_at and model.expires_at.tzinfo and model.size_vram == 0 for model in models)


@pytest.fixture(scope="module")
def two_ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, int]]:
    """A server that serves on a second port as well."""
    path = tmp_path_factory.mktemp("ollama")
    # Below the ports that systems give away by themselves, so that no other test has it.
    port = next(port for port in range(20_000 + os.getpid() % 10_000, 32_000) if free(port))
    with Served(fake_cli.write(path / "cli"), path / "state", arguments=("--ollama-port", str(port))) as served:
        yield served, port


def free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_it_serves_on_both_ports(two_ports: tuple[Served, int]) -> None:
    served, port = two_ports
    with ollama.Client(f"127.0.0.1:{port}", trust_env=False) as asked:
        parts = list(asked.chat("sonnet", [{"role": "user", "content": "hi"}], stream=True))
        assert "".join(part.message.content or "" for part in parts) == "echo: hi"
        assert asked.generate("sonnet", "ho").response == "echo: ho"
    assert httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).text == "Ollama is running"
    assert "<title>" in served.get("/").text
    assert served.chat(chat()).status_code == 200
    version = httpx.get(f"http://localhost:{port}/api/version", trust_env=False).json()["version"]
    assert version == VERSION
    rows = {(row["api"], row["endpoint"]) for row in served.recent()}
    assert rows >= {("ollama-chat", "/api/chat"), ("ollama-generate", "/api/generate")}


def results_named(calls: list[Any], *names: str) -> list[dict[str, Any]]:
    return [{"role": "tool", "tool_name": name, "content": f"of {name}"} for name in names]


def results_by_place(calls: list[Any], *names: str) -> list[dict[str, Any]]:
    return [{"role": "tool", "content": f"of {call['function']['name']}"} for call in calls]


def results_by_own_ids(calls: list[Any], *names: str) -> list[dict[str, Any]]:
    """As LangChain does: with ids that it has made."""
    for call in calls:
        call["id"] = f"own-{call['function']['name']}"
    return [{"role": "tool", "tool_call_id": f"own-{name}", "content": f"of {name}"} for name in names]


@pytest.mark.parametrize("results", [results_named, results_by_place, results_by_own_ids])
def test_a_conversation_goes_on_without_the_ids_of_its_calls(two_ports: tuple[Served, int], results: Any) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("get", "put")]
    steps = json.dumps([["call", "toolu_1", "get"], ["call", "toolu_2", "put"]])
    asked: dict[str, Any] = {"model": "opus", "stream": False, "tools": tools}
    asked["messages"] = [{"role": "user", "content": steps, "images": []}]

    def answered(served: str) -> dict[str, Any]:
        response = httpx.post(f"{two_ports[0].url}/api/chat", json=asked, trust_env=False)
        assert (response.status_code, response.headers["x-claude-proxy-served"]) == (200, served)
        message: dict[str, Any] = response.json()["message"]
        asked["messages"].append(message)
        return message

    calls = [{"function": call["function"]} for call in answered("new")["tool_calls"]]
    asked["messages"][-1]["tool_calls"] = calls
    asked["messages"] += results(calls, "put", "get")
    told = answered("continued")["content"]
    assert json.loads(told) == {"for-toolu_1": ["of get"], "for-toolu_2": ["of put"]}
    asked["messages"].append({"role": "user", "content": "Thanks."})
    assert answered("continued")["content"] == "echo: Thanks."
