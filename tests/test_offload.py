"""proxy/offload.py, and where it is used: large bodies keep nobody waiting."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from proxy.cli import conversation, pool
from proxy.dialects.openai.chat_request import decode
from proxy.http import body, values
from proxy.offload import LARGE, off_loop
from proxy.protocol.dialogue import Dialogue
from proxy.protocol.failures import Rejection
from proxy.protocol.history import MAX_MESSAGES, MAX_PARTS
from proxy.protocol.plan import (
    Base64Source,
    Block,
    ContentSource,
    DocumentBlock,
    ImageBlock,
    Message,
    Plan,
    RedactedThinkingBlock,
    Schema,
    TextBlock,
    TextSource,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
    size_of,
    size_of_plan,
    tokens_of_plan,
)
from tests.conftest import Serve, chat, until
from tests.outcomes import Expects


async def test_what_is_small_is_done_at_once_and_what_is_large_in_a_thread() -> None:
    assert await off_loop(LARGE - 1, threading.get_ident) == threading.get_ident()
    assert await off_loop(LARGE, threading.get_ident) != threading.get_ident()


async def test_others_are_served_meanwhile() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(value: int) -> int:
        begun.set()
        assert go_on.wait(60)
        return value

    task = asyncio.create_task(off_loop(LARGE, work, 5))
    await until(begun.is_set, 10, "it has begun")
    assert not task.done()
    go_on.set()
    assert await task == 5


async def test_what_is_raised_there_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        await off_loop(LARGE, lambda: 1 / 0)


@pytest.mark.parametrize("size", [10, LARGE])
async def test_every_step_of_a_large_request_is_done_in_a_thread(
    local: Serve, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    large: dict[str, bool] = {}

    def noting(name: str) -> Callable[..., Any]:
        async def noted(found: int, work: Callable[..., Any], *args: Any) -> Any:
            large[name] = found >= LARGE
            return await off_loop(found, work, *args)

        return noted

    for module in (body, pool, conversation):
        monkeypatch.setattr(module, "off_loop", noting(module.__name__.rpartition(".")[2]))
    server = await local()
    past = [{"role": "user", "content": "x" * size}, {"role": "assistant", "content": "y"}]
    async with server.client() as client:
        answer = await client.post(
            "/v1/chat/completions", json=chat() | {"messages": [*past, *chat("Hi.")["messages"]]}
        )
    assert answer.json()["choices"][0]["message"]["content"] == "echo: Hi."
    assert large == dict.fromkeys(("body", "pool", "conversation"), size >= LARGE)


def test_a_body_that_comes_in_a_million_messages_is_refused() -> None:
    message = {"role": "user", "content": "a"}
    part = {"type": "text", "text": "a"}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked = {"role": "assistant", "tool_calls": [call] * 5}
    half = {"role": "user", "content": [part] * (MAX_PARTS // 2)}

    def ask(*messages: Any) -> str | None:
        try:
            decode(json.dumps({"model": "opus", "messages": messages}).encode())
        except Rejection as rejection:
            return rejection.failure.param if "At most 10000" in rejection.failure.message else "something else"
        return None

    assert ask(*[message] * MAX_MESSAGES) is None
    assert ask(*[message] * (MAX_MESSAGES + 1)) == "messages"
    assert ask(half, half) is None
    assert ask(half, half, half) == "messages[2]"
    assert ask(half, half, asked, message) == "messages[2]"


def test_the_size_of_messages() -> None:
    picture = ImageBlock(Base64Source("image/png", "1234"))
    page = DocumentBlock(TextSource("123"), "title")
    blocks = (
        TextBlock("12"), picture, ImageBlock(UrlSource("12345")), page, ToolUseBlock("i", "n", msgspec.Raw(b'{"a":1}')),
        ToolResultBlock("i", (TextBlock("12"), picture)), ThinkingBlock("123", "s"), RedactedThinkingBlock("1234"),
    )  # fmt: skip
    assert size_of([Message("user", blocks), Message("user", (TextBlock("1"),))]) == 2 + 4 + 5 + 3 + 7 + 6 + 3 + 4 + 1


def test_the_size_of_a_plan() -> None:
    messages = (Message("user", (TextBlock("12"),)),)
    least = 2 + 500 + 20
    assert size_of_plan(Plan("m", None, messages)) == least
    assert size_of_plan(Plan("m", "123", messages)) == least + 3
    tools = (Tool("a", "bc", msgspec.Raw(b"{}")),)
    assert size_of_plan(Plan("m", None, messages, tools)) == least + 1000 + 4 * 5
    schema = Schema(msgspec.Raw(b"{ }"), msgspec.Raw(b"true"), wrapped=True)
    assert size_of_plan(Plan("m", None, messages, schema=schema)) == least + 4 * 7


def test_the_tokens_of_a_plan() -> None:
    """Three bytes of text to one, thirty characters of a PDF; 1600 for what cannot be seen to be smaller."""
    blocks: list[tuple[Block, int]] = [
        (TextBlock("x" * 30), 10), (TextBlock("\u3042" * 10), 10),
        (ImageBlock(Base64Source("image/png", "1234")), 1600),
        (DocumentBlock(Base64Source("application/pdf", "x" * 300)), 10), (DocumentBlock(TextSource("x" * 30)), 10),
        (DocumentBlock(UrlSource("https://a")), 1600),
        (DocumentBlock(ContentSource((TextBlock("x" * 30), TextBlock("x" * 30)))), 20),
        (ToolUseBlock("i", "n", msgspec.Raw(b'{"a":1,"b":2}')), 4),
        (ToolResultBlock("i", (TextBlock("x" * 30), ImageBlock(UrlSource("https://a")))), 1610),
        (ThinkingBlock("x" * 30, "s"), 10), (RedactedThinkingBlock("x" * 30), 10),
    ]  # fmt: skip
    for block, tokens in blocks:
        assert tokens_of_plan(Plan("m", None, (Message("user", (block,)),))) == tokens
    messages = tuple(Message("user", (block,)) for block, _ in blocks)
    assert tokens_of_plan(Plan("m", None, messages)) == sum(tokens for _, tokens in blocks)
    tools = (Tool("abc", "x" * 27, msgspec.Raw(b"{   }")),)
    schema = Schema(msgspec.Raw(b"{    }"), msgspec.Raw(b"{}"), wrapped=True)
    assert tokens_of_plan(Plan("m", "x" * 30, (), tools, schema=schema)) == 10 + 10 + 1 + 2


@pytest.mark.parametrize("what", ["1 MB of system", "1 MB of tools", "600 short messages", "300 short tools"])
async def test_large_instructions_and_tools_keep_nobody_waiting(
    local: Serve, monkeypatch: pytest.MonkeyPatch, expects: Expects, what: str
) -> None:
    expects("faults", f"{what} before a short message", "put together in a thread; /health answers meanwhile")
    server = await local()
    threads: list[bool] = []
    begin, here = Dialogue.begin, threading.get_ident()

    def told(self: Dialogue, plan: Plan, **more: Any) -> Any:
        threads.append(threading.get_ident() == here)
        return begin(self, plan, **more)

    monkeypatch.setattr(Dialogue, "begin", told)
    text = "\u20ac" * 300_000
    body = chat("hi")
    if what == "1 MB of system":
        body["messages"].insert(0, {"role": "system", "content": text})
    elif what == "600 short messages":
        body["messages"] = [
            *[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 300,
            *body["messages"],
        ]
    elif what == "300 short tools":
        body["tools"] = [{"type": "function", "function": {"name": f"f{number}"}} for number in range(300)]
    else:
        function = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"const": text}}}}
        body["tools"] = [{"type": "function", "function": function}]
    async with server.client() as client:
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    assert threads == [False]


async def test_a_body_of_many_small_values_is_decoded_in_a_thread(
    local: Serve, monkeypatch: pytest.MonkeyPatch, expects: Expects
) -> None:
    expects("security", "bodies of 200 kB that hold 5,000 values", "decoded in a thread; /health answers meanwhile")
    server = await local()
    threads: list[bool] = []
    here, check = threading.get_ident(), values.too_many

    def checked(text: bytes) -> bool:
        threads.append(threading.get_ident() == here)
        return check(text)

    monkeypatch.setattr(values, "too_many", checked)
    async with server.client() as client:
        for count in (10, 5000):
            part = {"type": "text", "text": "a"}
            asked = chat("hi") | {"messages": [{"role": "user", "content": [part] * (count // 2)}]}
            assert (await client.post("/v1/chat/completions", json=asked)).status_code == 200
    assert threads == [True, False]


async def test_a_store_that_waits_for_its_file_keeps_nobody_else_waiting(local: Serve, expects: Expects) -> None:
    expects("faults", "50 requests that wait for the file of responses", "others are answered, compressed bodies too")
    server = await local()
    free = threading.Event()
    waiting = [asyncio.create_task(server.service.kept.call("response", None, free.wait)) for _ in range(50)]
    try:
        async with server.client() as client:
            answer = await client.post(
                "/v1/chat/completions", content=gzip.compress(json.dumps(chat("hi")).encode()),
                headers={"content-type": "application/json", "content-encoding": "gzip"},
            )  # fmt: skip
            assert answer.status_code == 200
            assert (await client.get("/v1/usage")).status_code == 200
        assert not any(task.done() for task in waiting)
    finally:
        free.set()
        await asyncio.gather(*waiting)
