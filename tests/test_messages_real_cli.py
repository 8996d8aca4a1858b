"""The Messages API with the real CLI (CLAUDE_CLI=path): Anthropic's own clients, and Claude Code itself as one."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import anthropic
import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic, beta_async_tool
from anthropic.types import TextBlock, ThinkingBlock, ToolUseBlock

from conformance import messages, promptcache
from conformance.cassettes import COUNTING
from conformance.messages import Arrived, Reply
from conformance.upstream import Upstream
from tests.conftest import PATIENCE
from tests.served import Served

pytestmark = [
    pytest.mark.real_cli,
    pytest.mark.skipif("CLAUDE_CLI" not in os.environ, reason="CLAUDE_CLI names no CLI"),
    pytest.mark.asyncio(loop_scope="module"),
]
KEY = "sk-proxy-secret"
WORD = "xylophone"


def answer(request: Arrived) -> Reply:
    """Calls the first tool that reads a file, or tells a secret; then says what came of it."""
    if request.target.startswith(COUNTING):
        return messages.counted(request.body)
    said = json.dumps(messages.simplified(request.body)["messages"])
    model = request.body["model"]
    tools = [tool["name"] for tool in request.body.get("tools", ())]
    if tools and (step := next_step(said, said.count('"tool_result"'))) is not None:
        name = next(tool for tool in tools if tool.startswith(step[0]))
        call = messages.tool_use(f"toolu_{request.number}", name, json.dumps(step[1]))
        identifier = f"msg_{request.number}"
        return messages.stream(messages.message(call, stop="tool_use", model=model, identifier=identifier))
    if "tool_result" in said:
        found = WORD if WORD in said else "not there"
        return messages.stream(messages.message(messages.text("The word is ", found, "."), model=model))
    wanted = next((name for name in tools if "Read" in name or name == "secret"), None)
    if "CALL" in said and wanted is not None:
        path = said.partition("CALL ")[2].partition(" ")[0]
        arguments = json.dumps({"file_path": path} if "Read" in wanted else {"of": path})
        call = messages.tool_use("toolu_01", wanted, arguments)
        blocks = [messages.thinking("I look."), messages.text("I look ", "it up."), call]
        return messages.stream(messages.message(*blocks, stop="tool_use", model=model, identifier="msg_call"))
    return messages.stream(messages.message(messages.text("Hel", "lo ", "wörld 🌍"), model=model))


def next_step(said: str, done: int) -> tuple[str, dict[str, Any]] | None:
    """The next call of a task: a file is edited and run, or an agent is asked something. `done`: calls with results."""
    path = said.partition("EDIT ")[2].partition(" ")[0]
    steps: list[tuple[str, dict[str, Any]]] = []
    if path:
        steps = [
            ("Read", {"file_path": path}),
            ("Edit", {"file_path": path, "old_string": "hello", "new_string": WORD}),
            ("Bash", {"command": f"python3 {path}", "description": "Run it"}),
        ]
    elif "DELEGATE" in said:
        prompt = {"description": "A question", "prompt": "Greet me.", "subagent_type": "general-purpose"}
        steps = [("Agent", prompt)]
    elif "FIND" in said:
        steps = [("ToolSearch", {"query": "select:NotebookEdit"})]
    return steps[done] if done < len(steps) else None


class Here(NamedTuple):
    server: Served
    upstream: Upstream
    client: AsyncAnthropic


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Here]:
    state = tmp_path_factory.mktemp("messages") / "state"
    async with Upstream(answer) as up:
        settings = {"CLAUDE_PROXY_UPSTREAM_URL": up.url, "CLAUDE_PROXY_RETRIES": "0", "API_KEYS": f"me:{KEY}"}
        server = Served(Path(os.environ["CLAUDE_CLI"]), state, settings)
        await asyncio.to_thread(server.__enter__)
        try:
            async with AsyncAnthropic(base_url=server.url, api_key=KEY, max_retries=0, timeout=PATIENCE) as client:
                yield Here(server, up, client)
        finally:
            await asyncio.to_thread(server.__exit__, None, None, None)


def asked(text: str, **more: Any) -> Any:
    return {"model": "claude-opus-5-5", "max_tokens": 1000, "messages": [{"role": "user", "content": text}]} | more


def sync_client(server: Served) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url=server.url, api_key=KEY, max_retries=0, timeout=PATIENCE, _strict_response_validation=True
    )


async def test_the_client_gets_a_whole_message(here: Here) -> None:
    def ask() -> anthropic.types.Message:
        with sync_client(here.server) as client:
            message: anthropic.types.Message = client.messages.create(**asked("Greet me."))
            return message

    message = await asyncio.to_thread(ask)
    assert [block.text for block in message.content if isinstance(block, TextBlock)] == ["Hello wörld 🌍"]
    assert (message.id, message.model, message.stop_reason) == ("msg_01", "claude-opus-5-5", "end_turn")
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens, message.usage.output_tokens) == (
        10,
        7,
        12,
    )
    assert message._request_id is not None


async def test_the_clients_accumulator_folds_a_stream(here: Here) -> None:
    tool = {"name": "secret", "input_schema": {"type": "object", "properties": {"of": {"type": "string"}}}}
    async with here.client.messages.stream(**asked("CALL life at once", tools=[tool])) as stream:
        pieces = [piece async for piece in stream.text_stream]
        message = await stream.get_final_message()
    assert pieces == ["I look ", "it up."]
    thought, text, call = message.content
    assert isinstance(thought, ThinkingBlock)
    assert (thought.thinking, thought.signature) == ("I look.", "c2lnbmF0dXJl")
    assert isinstance(text, TextBlock)
    assert isinstance(call, ToolUseBlock)
    assert (call.id, call.name, call.input) == ("toolu_01", "secret", {"of": "life"})
    assert (message.id, message.stop_reason) == ("msg_call", "tool_use")


async def test_the_clients_tool_runner_runs_to_its_end(here: Here) -> None:
    @beta_async_tool
    async def secret(of: str) -> str:
        """The secret word.

        Args:
            of: whose
        """
        return WORD if of == "everything" else "?"

    runner = here.client.beta.messages.tool_runner(tools=[secret], **asked("CALL everything now"))
    message = await runner.until_done()
    assert [block.text for block in message.content if block.type == "text"] == [f"The word is {WORD}."]


async def test_a_document_that_is_marked_is_in_the_prompt_cache_for_another_question(here: Here) -> None:
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Long. " * 1500}}
    mark = {"cache_control": {"type": "ephemeral"}}
    for past in ((), ("What?", "That.")):
        talk = [{"role": role, "content": words} for role, words in zip(("user", "assistant"), past, strict=False)]
        for marked in (mark, {}):
            cache = promptcache.PromptCache()
            read: list[float] = []
            for question in ("Who wrote it?", "Of what is it?"):
                now = {"role": "user", "content": [document | marked, {"type": "text", "text": question}]}
                body = asked(question, system="Be brief.") | {"messages": [*talk, now]}
                before = len(here.upstream.requests)
                answer = await here.client.messages.with_raw_response.create(**body)
                assert answer.headers.get("x-ignored-params") is None
                (arrived,) = here.upstream.requests[before:]
                # It raises what the API refuses: too many marks, or in a wrong order.
                read.append(cache.count(arrived.body, len(read)).read)
            assert (read[0], read[1] > 2000) == (0, bool(marked)), (past, read)


async def test_the_client_counts_tokens(here: Here) -> None:
    body = asked("How long is this?", system="Be brief.")
    del body["max_tokens"]
    before = len(here.upstream.requests)
    count = await here.client.messages.count_tokens(**body)
    arrived = here.upstream.requests[before:]
    assert {request.target.partition("?")[0] for request in arrived} == {COUNTING}
    told = [json.loads(messages.counted(request.body).chunks[0])["input_tokens"] for request in arrived]
    contents = [request.body["messages"][0]["content"] for request in arrived]
    wanted = ["Be brief.", [{"type": "text", "text": "How long is this?"}]]
    assert count.input_tokens == sum(told[contents.index(one)] for one in wanted)
    # Once more it is remembered.
    assert await here.client.messages.count_tokens(**body) == count
    assert len(here.upstream.requests) == before + len(arrived)


async def test_the_client_lists_models_with_their_context(here: Here) -> None:
    models = {model.id: model async for model in here.client.models.list()}
    assert (models["opus"].max_input_tokens or 0) >= 200_000


async def test_errors_are_those_of_the_client(here: Here) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        await here.client.messages.create(**asked("Hi.", container="cont_1"))
    assert caught.value.request_id is not None
    with pytest.raises(anthropic.AuthenticationError):
        await here.client.with_options(api_key="sk-other").messages.create(**asked("Hi."))


async def claude_code(here: Here, home: Path, work: Path, *arguments: str) -> bytes:
    """What Claude Code prints when it is asked once, by way of this server."""
    process = await asyncio.create_subprocess_exec(
        os.environ["CLAUDE_CLI"], "--model", "opus", "-p", *arguments,
        cwd=work, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={
            "PATH": os.environ["PATH"], "HOME": str(home), "ANTHROPIC_BASE_URL": here.server.url,
            "ANTHROPIC_AUTH_TOKEN": KEY, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
        },
    )  # fmt: skip
    try:
        out, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()[-2000:]
    return out


async def test_claude_code_reads_a_file_through_this_server(here: Here, tmp_path: Path) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    note = work / "note.txt"
    note.write_text(f"the word is {WORD}\n")
    out = await claude_code(
        here, home, work, f"CALL {note} and tell me the word.", "--allowedTools", "Read",
        "--output-format", "stream-json", "--verbose", "--include-partial-messages",
    )  # fmt: skip
    lines = [json.loads(line) for line in out.splitlines()]
    assert (lines[-1]["type"], lines[-1]["is_error"], lines[-1]["result"]) == ("result", False, f"The word is {WORD}.")
    # The tool is called by its own name here, and streamed; to the model it has another.
    started = [
        line["event"]["content_block"] for line in lines if line.get("event", {}).get("type") == "content_block_start"
    ]
    assert [(block["type"], block.get("name")) for block in started] == [
        ("thinking", None), ("text", None), ("tool_use", "Read"), ("text", None),
    ]  # fmt: skip
    assert "Read" not in [tool["name"] for tool in here.upstream.requests[-1].body["tools"]]
    first, second = here.server.recent_of(KEY)[1::-1]
    assert (first["api"], second["api"]) == ("anthropic-messages", "anthropic-messages")
    # Its result went on in the process that had made the call.
    assert (first["served"], second["served"]) == ("new", "continued")


async def test_claude_code_edits_and_runs_a_file_resumes_and_delegates(here: Here, tmp_path: Path) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    program = work / "program.py"
    program.write_text("print('hello')\n")
    tools = ("--allowedTools", "Read", "Edit", "Bash", "Agent", "--output-format", "json")
    edited = json.loads(await claude_code(here, home, work, f"EDIT {program} please.", *tools))
    assert (edited["is_error"], edited["num_turns"]) == (False, 4)
    assert program.read_text() == f"print('{WORD}')\n"
    # It has run what it has edited, and said what that printed.
    assert edited["result"] == f"The word is {WORD}."
    resumed = await claude_code(here, home, work, "And now?", "--resume", edited["session_id"], *tools)
    assert not json.loads(resumed)["is_error"]
    past = json.dumps(messages.simplified(here.upstream.requests[-1].body)["messages"])
    assert [past.count(f'"name": "{name}') for name in ("Read", "Edit", "Bash")] == [1, 1, 1]
    before = len(here.upstream.requests)
    delegated = json.loads(await claude_code(here, home, work, "DELEGATE it.", *tools))
    assert not delegated["is_error"]
    # The agent's conversation is one of its own, and its answer comes back as the result of the call.
    assert len({request.session for request in here.upstream.requests[before:]}) == 2
    assert "Hello w" in json.dumps(here.upstream.requests[-1].body["messages"][-1])


async def test_claude_code_finds_a_tool_that_it_has_deferred(here: Here, tmp_path: Path) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    before = len(here.upstream.requests)
    told = json.loads(await claude_code(here, home, work, "FIND it.", "--output-format", "json"))
    assert not told["is_error"]
    first, second = here.upstream.requests[before:]
    offered = [{tool["name"].removesuffix("_tool") for tool in one.body["tools"]} for one in (first, second)]
    # What it keeps from the model is kept from it here, too, until it is found; none of its requests was refused.
    assert [("ToolSearch" in names, "NotebookEdit" in names) for names in offered] == [(True, False), (True, True)]
    assert "DeferredToolPlaceholder" not in offered[0]
    assert "The tool `NotebookEdit` has been loaded" in json.dumps(second.body["messages"])
