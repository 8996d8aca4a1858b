"""Web search with the real CLI (CLAUDE_CLI=path) and a Messages API on loopback: what may run, and what clients get."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from conformance import messages, web_search
from conformance.messages import Arrived, Reply
from conformance.soak import below
from conformance.upstream import Upstream
from tests.conftest import until
from tests.served import Served

pytestmark = [
    pytest.mark.real_cli,
    pytest.mark.skipif("CLAUDE_CLI" not in os.environ, reason="CLAUDE_CLI names no CLI"),
    pytest.mark.asyncio(loop_scope="module"),
]
SOON = 60.0
PAGE = ("A page", "https://a.example/x")
ANSWER = "It is [here](https://a.example/x)."
# What the model asks for beside its search, by question: tools of the CLI's own, and what would be seen of them.
TRAP = "{trap}"
OTHERS: dict[str, dict[str, Any]] = {
    "Bash": {"command": f"touch {TRAP}/Bash; curl -s {TRAP}"},
    "Read": {"file_path": "/etc/hostname"},
    "Write": {"file_path": f"{TRAP}/Write", "content": "x"},
    "Edit": {"file_path": "/etc/hostname", "old_string": "", "new_string": "x"},
    "WebFetch": {"url": "URL", "prompt": "x"},
    "Glob": {"pattern": "/etc/*"},
    "Grep": {"pattern": "root", "path": "/etc/passwd"},
    "Task": {"description": "x", "prompt": "x", "subagent_type": "general-purpose"},
    "Agent": {"description": "x", "prompt": "x", "subagent_type": "general-purpose"},
    "NotebookEdit": {"notebook_path": f"{TRAP}/Notebook.ipynb", "new_source": "x"},
    "ToolSearch": {"query": "select:Bash"},
    "Skill": {"skill": "x"},
    "ListMcpResourcesTool": {},
}


class Api:
    """The Messages API: the model searches once, and asks for whatever else `others` has; then it answers."""

    def __init__(self) -> None:
        self.others: list[dict[str, Any]] = []
        self.hangs = False
        self.searched = asyncio.Event()

    def __call__(self, request: Arrived) -> Reply:
        if web_search.is_search(request.body):
            self.searched.set()
            found = messages.message(web_search.search("srvtoolu_1", "news"), web_search.results("srvtoolu_1", [PAGE]))
            # Time for other tools to be run, if they were.
            return messages.stream(found, before=500, hang=2) if self.hangs else messages.stream(found, before=500)
        said = messages.simplified(request.body)["messages"]
        if said[-1]["role"] == "user" and not isinstance(said[-1]["content"], str):
            return messages.stream(messages.message(messages.text(ANSWER)))
        search = messages.tool_use("toolu_01", "WebSearch", '{"query": "news"}')
        return messages.stream(messages.message(messages.text("One moment. "), *self.others, search, stop="tool_use"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> Api:
    return Api()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def up(api: Api) -> AsyncIterator[Upstream]:
    async with Upstream(api) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(up: Upstream) -> AsyncIterator[Served]:
    with tempfile.TemporaryDirectory(prefix="real-cli-", ignore_cleanup_errors=True) as home:
        settings = {
            "TMPDIR": home, "CLAUDE_PROXY_UPSTREAM_URL": up.url, "CLAUDE_PROXY_RETRIES": "0",
            "CLAUDE_PROXY_PARKED": "0", "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-x",
        }  # fmt: skip
        running = Served(Path(os.environ["CLAUDE_CLI"]), Path(home) / "state", settings)
        await asyncio.to_thread(running.__enter__)
        yield running
        await asyncio.to_thread(running.__exit__, None, None, None)


def openai_client(server: Served) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0, _strict_response_validation=True)


async def test_no_other_tool_of_the_clis_can_be_reached(server: Served, api: Api, up: Upstream, tmp_path: Path) -> None:
    reached: list[str] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append("a connection")
        writer.close()

    trap = await asyncio.start_server(listen, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{trap.sockets[0].getsockname()[1]}/"
    inputs = json.dumps(OTHERS).replace(TRAP, str(tmp_path)).replace("URL", url)
    before = len(up.requests)
    api.others = [
        messages.tool_use(f"toolu_1{number}", name, json.dumps(input))
        for number, (name, input) in enumerate(json.loads(inputs).items())
    ]
    try:
        async with openai_client(server) as client:
            made = await client.chat.completions.create(
                model="opus", messages=[{"role": "user", "content": "What is new?"}], web_search_options={}
            )
    finally:
        api.others = []
        trap.close()
    # The model's calls go to the client, as those of tools that it has not offered; nothing of them was run.
    assert [call.function.name for call in made.choices[0].message.tool_calls or () if call.type == "function"] == [
        *OTHERS
    ]
    first, *later = up.requests[before:]
    assert [tool["name"] for tool in first.body["tools"]] == ["WebSearch"]
    assert [tool["name"] for request in later for tool in request.body["tools"]][:1] == ["web_search"]
    assert reached == []
    assert list(tmp_path.iterdir()) == []


async def test_the_openai_client_gets_citations(server: Served) -> None:
    asked: dict[str, Any] = {
        "model": "opus", "messages": [{"role": "user", "content": "What is new?"}], "web_search_options": {},
    }  # fmt: skip
    async with openai_client(server) as client:
        whole = (await client.chat.completions.create(**asked)).choices[0].message
        async with client.chat.completions.stream(**asked) as stream:
            streamed = (await stream.get_final_completion()).choices[0].message
    assert whole.content == streamed.content == f"One moment. {ANSWER}"
    (cited,) = [one.url_citation for one in whole.annotations or ()]
    assert (cited.title, cited.url) == PAGE
    assert whole.content[cited.start_index : cited.end_index] == "[here](https://a.example/x)"
    assert streamed.annotations == whole.annotations


async def test_the_openai_client_gets_items(server: Served) -> None:
    asked: dict[str, Any] = {
        "model": "opus", "input": "What is new?", "tools": [{"type": "web_search"}], "store": False,
        "include": ["web_search_call.action.sources"],
    }  # fmt: skip
    async with openai_client(server) as client:
        whole = await client.responses.create(**asked)
        async with client.responses.stream(**asked) as stream:
            kinds = [event.type async for event in stream]
            streamed = await stream.get_final_response()
    for made in (whole, streamed):
        assert [item.type for item in made.output] == ["message", "web_search_call", "message"]
        assert made.output_text == f"One moment. {ANSWER}"
        search, message = json.loads(made.output[1].to_json()), json.loads(made.output[2].to_json())
        assert search["action"]["sources"] == [{"type": "url", "url": PAGE[1]}]
        (note,) = message["content"][0]["annotations"]
        assert (note["type"], note["title"], note["url"]) == ("url_citation", *PAGE)
    assert "response.output_text.annotation.added" in kinds
    assert kinds.index("response.web_search_call.searching") < kinds.index("response.web_search_call.completed")


async def test_anthropics_client_gets_blocks(server: Served) -> None:
    asked: dict[str, Any] = {
        "model": "opus", "max_tokens": 1000, "messages": [{"role": "user", "content": "What is new?"}],
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
    }  # fmt: skip
    async with AsyncAnthropic(base_url=server.url, api_key="x", max_retries=0) as client:
        whole = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            streamed = await stream.get_final_message()
    for made in (whole, streamed):
        blocks: list[dict[str, Any]] = json.loads(made.to_json())["content"]
        kinds = [block["type"] for block in blocks]
        assert kinds == ["text", "server_tool_use", "web_search_tool_result", "text"]
        assert [one["url"] for one in blocks[-1]["citations"]] == [PAGE[1]]
        assert made.usage.server_tool_use is not None
        assert made.usage.server_tool_use.web_search_requests == 1
    # What was said is sent back as it is.
    past: Any = [
        *asked["messages"],
        {"role": "assistant", "content": whole.content},
        {"role": "user", "content": "And?"},
    ]
    async with AsyncAnthropic(base_url=server.url, api_key="x", max_retries=0) as client:
        assert (await client.messages.create(**asked | {"messages": past})).content


async def test_its_tool_is_counted(server: Served, up: Upstream) -> None:
    asked: dict[str, Any] = {"model": "opus", "messages": [{"role": "user", "content": "What is new?"}]}
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    async with AsyncAnthropic(base_url=server.url, api_key="x", max_retries=0) as client:
        without = await client.messages.count_tokens(**asked)
        counted = await client.messages.count_tokens(**asked, tools=[search])
    assert counted.input_tokens > without.input_tokens


async def test_searches_are_in_the_usage(server: Served) -> None:
    async with openai_client(server) as client, httpx.AsyncClient(trust_env=False) as http:
        before = (await http.get(f"{server.url}/v1/usage")).json()
        await client.chat.completions.create(
            model="opus", messages=[{"role": "user", "content": "What is new?"}], web_search_options={}
        )
        end = time.monotonic() + SOON
        while (after := (await http.get(f"{server.url}/v1/usage")).json()) == before:
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
    assert after["totals"]["web_searches"] == before["totals"]["web_searches"] + 1


async def test_a_client_that_leaves_in_mid_search_ends_it(server: Served, api: Api) -> None:
    body = {"model": "opus", "messages": [{"role": "user", "content": "What is new?"}], "web_search_options": {}}
    api.hangs = True
    api.searched.clear()
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            asking = asyncio.create_task(http.post(f"{server.url}/v1/chat/completions", json=body, timeout=60))
            await asyncio.wait_for(api.searched.wait(), SOON)
            asking.cancel()
            await asyncio.wait([asking])
            end = time.monotonic() + SOON
            while (await http.get(f"{server.url}/health")).json()["children"]["busy"]:
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
    finally:
        api.hangs = False

    def searching() -> int:
        found = 0
        for pid in below(server.pid):
            # It may be gone by now.
            with contextlib.suppress(OSError):
                found += b"WebSearch" in Path(f"/proc/{pid}/cmdline").read_bytes()
        return found

    # The one that waits for the next search.
    await until(lambda: searching() <= 1, SOON, "the process ended with its client")
