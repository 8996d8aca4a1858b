"""Answers as they go over the wire, headers and all: a change of any of them is seen.

Streams of single choices are in tests/test_sse.py. What differs from run to run has a number by its first appearance,
so that it stays visible which ids are equal.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension
from syrupy.extensions.single_file import SingleFileSnapshotExtension
from syrupy.location import PyTestLocation

import proxy
from tests.instant import application

HI = {"model": "opus", "messages": [{"role": "user", "content": "Hello."}]}
TOOL = {"type": "function", "function": {"name": "get_weather"}}
CHAT = "/v1/chat/completions"
ASKED: dict[str, tuple[str, str, Any]] = {
    "chat": ("POST", CHAT, HI),
    "chat, two choices": ("POST", CHAT, HI | {"n": 2}),
    "chat, a call": ("POST", CHAT, HI | {"tools": [TOOL]}),
    "chat, a custom call": ("POST", CHAT, HI | {"tools": [{"type": "custom", "custom": {"name": "run"}}]}),
    "chat, a legacy call": ("POST", CHAT, HI | {"functions": [TOOL["function"]]}),
    "chat, JSON": ("POST", CHAT, HI | {"response_format": {"type": "json_object"}}),
    "chat, ignored parameters": ("POST", CHAT, HI | {"seed": 1, "logprobs": True, "temperature": 0.5}),
    "legacy completion": ("POST", "/v1/completions", {"model": "opus", "prompt": "Once"}),
    "models": ("GET", "/v1/models", None),
    "a model": ("GET", "/v1/models/anthropic/claude-opus-4", None),
    "no such model": ("GET", "/v1/models/gpt-4o", None),
    "health": ("GET", "/health", None),
    "a bad request": ("POST", CHAT, HI | {"n": 9}),
    "no JSON": ("POST", CHAT, b"{"),
    "an unknown path": ("GET", "/v1/frobs", None),
    "a wrong method": ("DELETE", CHAT, None),
    "an absent endpoint": ("POST", "/v1/embeddings", {}),
    "a foreign host": ("GET", "http://example.com/v1/models", None),
}
_OF_A_RUN = re.compile(r"\b(?P<kind>chatcmpl|cmpl|req)[-_][0-9a-f]{32}\b|\"created\":(?P<time>\d+)")


class Files:
    """In tests/snapshots, by module."""

    @classmethod
    def dirname(cls, *, test_location: PyTestLocation) -> str:
        return str(Path(test_location.filepath).parent / "snapshots" / test_location.basename)


class Json(Files, JSONSnapshotExtension):
    """One `.json` file each."""


class Stream(Files, SingleFileSnapshotExtension):
    """One raw `.sse` file each."""

    file_extension = "sse"


def stable(text: str) -> str:
    """The text with numbers for ids by their first appearance, and one time for all of now."""
    seen: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        if match["time"]:
            return match[0] if match["time"] == "1735689600" else '"created":1750000000'
        return seen.setdefault(match[0], f"{match['kind']}-{sum(match['kind'] in one for one in seen) + 1}")

    return _OF_A_RUN.sub(name, text).replace(f'"version":"{proxy.__version__}"', '"version":"1"')


@pytest.fixture
def client() -> httpx.AsyncClient:
    app: Any = application()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:3456")


@pytest.mark.parametrize("name", ASKED, ids=lambda name: re.sub(r"\W+", "-", name))
async def test_answers(name: str, client: httpx.AsyncClient, snapshot: SnapshotAssertion) -> None:
    method, path, body = ASKED[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await client.request(method, path, content=content, headers={"content-type": "application/json"})
    headers = dict(answer.headers) | {"openai-processing-ms": "0"}
    headers.pop("content-length", None)
    text = f'{{"status":{answer.status_code},"headers":{json.dumps(headers)},"body":{answer.text}}}'
    assert json.loads(stable(text)) == snapshot(extension_class=Json)


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2, "stream_options": {"include_usage": True}},
        {"tools": [{"type": "custom", "custom": {"name": "run"}}]},
        {"functions": [TOOL["function"]]},
    ],
    ids=["choices-with-usage", "custom-call", "legacy-call"],
)
async def test_streams(more: dict[str, Any], client: httpx.AsyncClient, snapshot: SnapshotAssertion) -> None:
    answer = await client.post(CHAT, json=HI | {"stream": True} | more)
    assert stable(answer.text).encode() == snapshot(extension_class=Stream)


async def test_a_legacy_stream(client: httpx.AsyncClient, snapshot: SnapshotAssertion) -> None:
    asked = {"model": "opus", "prompt": "Once", "stream": True, "stream_options": {"include_usage": True}}
    answer = await client.post("/v1/completions", json=asked)
    assert stable(answer.text).encode() == snapshot(extension_class=Stream)


def test_equal_ids_keep_one_number() -> None:
    one, other = "a" * 32, "b" * 32
    assert stable(f"req_{one} chatcmpl-{one} req_{other} req_{one}") == "req-1 chatcmpl-1 req-2 req-1"
