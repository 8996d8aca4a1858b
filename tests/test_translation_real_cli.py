"""What the real CLI (CLAUDE_CLI=path) makes of tools: the law that none of it changes what client and model say."""

from __future__ import annotations

import asyncio
import json
import os
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec import Raw

from conformance import messages
from conformance import tools as known_tools
from conformance.messages import Arrived, Reply
from conformance.upstream import Upstream
from proxy.protocol.aliases import normalised
from proxy.protocol.known_tools import KNOWN_TOOLS
from proxy.protocol.plan import Tool
from proxy.protocol.translation import Translation
from tests.served import Served

pytestmark = [
    pytest.mark.real_cli,
    pytest.mark.skipif("CLAUDE_CLI" not in os.environ, reason="CLAUDE_CLI names no CLI"),
    pytest.mark.asyncio(loop_scope="module"),
]
# What the CLI has been seen to change in calls of one tool of its own or another.
ARGUMENTS = {
    "command": "cd /tmp && echo a \\\\; b  ",
    "file_path": "/tmp/x.py",
    "content": "a  \nb \t\n\n",
    "old_string": "a  ",
    "new_string": "b  \n",
    "plan": "the plan",
    "task_id": "",
    "timeout": 5,
    "edits": [{"old_string": "a ", "new_string": "b "}],
    "offset": "3",
    "files": "a",
}
SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ARGUMENTS if name not in ("timeout", "edits")},
}


class Talk:
    """A server with the real CLI. `call`: the names of the tools that the next answer calls, each with ARGUMENTS."""

    def __init__(self) -> None:
        self.call: tuple[str, ...] = ()
        self.arrived: list[dict[str, Any]] = []
        self.served: Served

    def answer(self, request: Arrived) -> Reply:
        self.arrived.append(request.body)
        model = request.body["model"]
        if not self.call:
            return messages.stream(messages.message(messages.text("Done."), model=model))
        calls, self.call = self.call, ()
        blocks = [messages.tool_use(f"toolu_{at}", name, json.dumps(ARGUMENTS)) for at, name in enumerate(calls)]
        return messages.stream(messages.message(*blocks, stop="tool_use", model=model))

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        self.arrived.clear()
        response = await asyncio.to_thread(self.served.chat, {"model": "opus", **body})
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()["choices"][0]["message"]
        return found


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def talk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Talk]:
    talk = Talk()
    folder = tmp_path_factory.mktemp("translation")
    async with Upstream(talk.answer) as upstream:
        settings = {"CLAUDE_PROXY_UPSTREAM_URL": upstream.url}
        talk.served = Served(Path(os.environ["CLAUDE_CLI"]), folder / "state", settings)
        await asyncio.to_thread(talk.served.__enter__)
        yield talk
        await asyncio.to_thread(talk.served.__exit__, None, None, None)


def function(name: str, schema: Any, description: str = "A tool.") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def called(name: str, call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(ARGUMENTS)}}


def said(body: dict[str, Any]) -> Any:
    return messages.simplified(body)["messages"]


async def test_all_names_that_the_cli_knows_are_known() -> None:
    found = await asyncio.to_thread(known_tools.known, Path(os.environ["CLAUDE_CLI"]))
    assert len(found) > 40
    assert found - KNOWN_TOOLS == set(), "add them to proxy/protocol/known_tools.py"


async def test_tools_of_any_name_arrive_and_their_calls_are_changed_in_nothing(talk: Talk) -> None:
    names = [*sorted(KNOWN_TOOLS), "mcp__github__search", "a.b", "x" * 129, "調べる", "look_up"]
    tools = [function(name, SCHEMA) for name in names]
    past = [
        {"role": "user", "content": "Call all."},
        {"role": "assistant", "tool_calls": [called(name, f"past_{at}") for at, name in enumerate(names)]},
        *({"role": "tool", "tool_call_id": f"past_{at}", "content": "done"} for at in range(len(names))),
    ]
    await talk.chat({"tools": tools, "messages": past})
    body = talk.arrived[-1]
    sent = [tool["name"] for tool in body["tools"]]
    assert len(set(sent)) == len(names)
    assert {json.dumps(tool["input_schema"]) for tool in body["tools"]} == {json.dumps(SCHEMA)}
    uses = [block for entry in said(body) if entry["role"] == "assistant" for block in entry["content"]]
    assert [block["input"] for block in uses] == [ARGUMENTS] * len(names)
    assert sorted(block["name"] for block in uses) == sorted(sent)
    # What arrives is what was sent, and the one message of the environment.
    assert [entry["role"] for entry in body["messages"]].count("system") == 1
    assert [entry["role"] for entry in said(body)] == ["user", "assistant", "user"]

    # The model calls them all, and is answered in the same conversation.
    asked = [{"role": "user", "content": "Call all once more."}]
    talk.call = tuple(sent)
    message = await talk.chat({"tools": tools, "messages": asked})
    assert sorted(call["function"]["name"] for call in message["tool_calls"]) == sorted(names)
    assert {call["function"]["arguments"] for call in message["tool_calls"]} == {json.dumps(ARGUMENTS)}
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "done"} for call in message["tool_calls"]]
    await talk.chat({"tools": tools, "messages": [*asked, message, *results]})
    body = talk.arrived[-1]
    assert [entry["role"] for entry in said(body)] == ["user", "assistant", "user"]
    uses = said(body)[1]["content"]
    assert [(block["name"], block["input"]) for block in uses] == [(name, ARGUMENTS) for name in sent]


async def test_texts_are_normalised_as_we_think(talk: Talk) -> None:
    """All characters, but of those that no version of Unicode knows yet only some."""
    chars = (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    wanted = [char for char in chars if unicodedata.category(char) != "Cn" or ord(char) % 97 == 0]
    lines = [f"{ord(char):x} {char} " for char in wanted if char != "\n"]
    # As many at once as a schema may have bytes for.
    for start in range(0, len(lines), 40_000):
        some = lines[start : start + 40_000]
        # Titles are sent as they are: they are not ours to translate.
        schema = {"type": "object", "properties": {"a": {"type": "string", "title": "\n".join(some)}}}
        await talk.chat({"tools": [function("look_up", schema)], "messages": [{"role": "user", "content": "Hello"}]})
        arrived = talk.arrived[-1]["tools"][0]["input_schema"]["properties"]["a"]["title"].split("\n")
        assert len(arrived) == len(some)
        # Python's Unicode may be older than the CLI's.
        known = [(old, new) for old, new in zip(some, arrived, strict=True) if unicodedata.category(old[-2]) != "Cn"]
        assert [old for old, new in known if new != normalised(old)] == []


# As MCP servers and frameworks write them: drafts, unions at the root, references, words of every kind.
SCHEMAS: dict[str, Any] = {
    "odata": {
        "type": "object",
        "properties": {"$top": {"type": "integer"}, "$filter": {"type": "string"}, "@odata.type": {"const": "x"}},
        "required": ["$filter"],
    },
    "jsonapi": {"type": "object", "properties": {"filter[id]": {}, "page[size]": {"default": 5}}},
    "spaces": {
        "type": "object",
        "properties": {"Account Number": {"type": ["string", "null"]}},
        "required": ["Account Number"],
    },
    "japanese": {
        "type": "object",
        "properties": {"名前": {"type": "string"}, "確認": {"enum": ["はい（OK）", "いいえ"], "default": "はい（OK）"}},
        "additionalProperties": False,
    },
    "joined": {
        "type": "object",
        "properties": {"ａ": {}, "a": {}, "b": {"type": "object", "properties": {"²": {}, "2": {}}}},
    },
    "invisible": {
        "type": "object",
        "properties": {"x": {"enum": ["a\u200cb", "ab", "\u00a0"]}, "y": {"pattern": "^\u00a0é²$"}},
    },
    "union": {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {"a": {}, "b": {}}},
    "intersection": {"type": "object", "allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {"properties": {"$a": True}}}},
    "booleans": {"type": "object", "properties": {"a": True, "b": False}},
    "draft7": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"pair": {"type": "array", "items": [{"type": "string"}, {"const": "①"}]}},
        "definitions": {"名": {"type": "string"}},
    },
    "tree": {
        "type": "object",
        "properties": {"node": {"$ref": "#/$defs/ｎ"}},
        "$defs": {"ｎ": {"type": "object", "properties": {"子": {"$ref": "#/$defs/ｎ"}, "__proto__": {}}}},
    },
    "map": {"type": "object", "patternProperties": {"^①": {"type": "number"}}, "propertyNames": {"enum": ["①", "②"]}},
    "plain": {
        "type": "object",
        "properties": {"a": {"type": "string", "description": "x"}},
        "title": "T",
        "x-order": 3,
    },
    "empty": {"type": "object", "properties": {}},
    "bare": {"type": "object"},
}


async def test_schemas_arrive_as_they_are_sent(talk: Talk) -> None:
    """Sorted by name, and with the root's keywords in an order of the CLI's own, but otherwise unchanged."""
    tools = [function(name, schema) for name, schema in SCHEMAS.items()]
    await talk.chat({"tools": tools, "messages": [{"role": "user", "content": "Hello"}]})
    arrived = {tool["name"]: tool["input_schema"] for tool in talk.arrived[-1]["tools"]}
    own = [Tool(name, "", Raw(json.dumps(schema).encode())) for name, schema in SCHEMAS.items()]
    sent = {tool.name: json.loads(bytes(tool.schema)) for tool in Translation(own).tools}
    for name, schema in sent.items():
        # A title is text for the model: the CLI normalises it.
        assert arrived.get(name) == json.loads(normalised(json.dumps(schema, ensure_ascii=False))), name
    assert list(arrived) == sorted(arrived)
    assert not any({"anyOf", "oneOf", "allOf"} & schema.keys() for schema in arrived.values())
