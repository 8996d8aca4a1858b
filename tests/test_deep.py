"""Values that are nested deeply, wherever a client can put them.

How deep a decoder goes depends on the version of Python.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests import fake_cli
from tests.outcomes import Expects
from tests.served import Served

DEPTHS = (100, 300, 500, 900, 2000, 5000, 9900)
PLACE = "PLACE"
STEPS = json.dumps([["say", "a"], ["end"]])
USER = {"role": "user", "content": STEPS}
CALL: dict[str, Any] = {"id": "c", "type": "function", "function": {"name": "f", "arguments": PLACE}}
TEXT_CALL = {**CALL, "function": {"name": "f", "arguments": f"text {PLACE}"}}
CALLED = {"role": "tool", "tool_call_id": "c", "content": "1"}
TOOL = {"name": "f", "parameters": PLACE}
# A body for each place, of which each path takes some. `PLACE` is replaced; in `"text PLACE"` by JSON in a string.
CHAT: list[dict[str, Any]] = [
    {"messages": [USER], "metadata": PLACE},
    {"messages": [USER], "x": PLACE},
    {"messages": [{"role": "user", "content": PLACE}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": STEPS, "x": PLACE}]}]},
    {"messages": [USER], "tools": [{"type": "function", "function": TOOL}]},
    {"messages": [USER], "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": PLACE}}},
    {"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}, CALLED]},
    {"messages": [USER, {"role": "assistant", "tool_calls": [TEXT_CALL]}, {**CALLED, "content": f"text {PLACE}"}]},
    {"messages": [USER], "tool_choice": PLACE},
    {"messages": [USER], "stop": PLACE},
    {"messages": [USER], "reasoning_effort": PLACE},
]  # fmt: skip
ASKED = {"role": "user", "content": "x"}
USE = {"type": "tool_use", "id": "c", "name": "f", "input": PLACE}
RESULT = {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": STEPS, "x": PLACE}]}
MESSAGES: list[dict[str, Any]] = [
    {"messages": [USER], "tools": [{"name": "f", "input_schema": PLACE}]},
    {"messages": [ASKED, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [RESULT]}]},
    {"messages": [USER], "output_config": {"format": {"type": "json_schema", "schema": PLACE}}},
    {"messages": [USER], "context_management": PLACE},
    {"messages": [USER], "system": PLACE},
]
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": f"text {PLACE}"}
RESPONSES: list[dict[str, Any]] = [
    {"input": [USER], "tools": [{"type": "function", **TOOL}]},
    {"input": [USER], "text": {"format": {"type": "json_schema", "name": "a", "schema": PLACE}}},
    {"input": [ASKED, {"type": "function_call", "call_id": "c", "name": "f", "arguments": f"text {PLACE}"}, OUTPUT]},
    {"input": [{"type": "unheard_of", "x": PLACE}, USER]},
    {"input": [USER], "metadata": PLACE},
    {"input": [USER], "tools": [{"type": "unheard_of", "x": PLACE}]},
]
OLLAMA: list[dict[str, Any]] = [
    {"messages": [USER], "stream": False, "format": PLACE},
    {"messages": [USER], "stream": False, "tools": [{"type": "function", "function": TOOL}]},
    {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": PLACE}}]},
                  {"role": "tool", "content": "1"}], "stream": False},
    {"messages": [USER], "stream": False, "options": PLACE},
]  # fmt: skip
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": [{"prompt": PLACE}, {"prompt": STEPS, "x": PLACE}],
    "/v1/messages": [{"max_tokens": 9, **body} for body in [*CHAT[:3], *MESSAGES]],
    "/v1/messages/count_tokens": MESSAGES,
    "/v1/responses": RESPONSES,
    "/v1/responses/input_tokens": RESPONSES,
    "/v1/conversations": [{"items": [USER], "metadata": PLACE}, {"items": RESPONSES[3]["input"]}],
    "/api/chat": OLLAMA,
    "/api/generate": [{"prompt": STEPS, "stream": False, "format": PLACE}, {"prompt": STEPS, "context": PLACE}],
    "/api/show": [{"model": PLACE}],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    tmp_path = tmp_path_factory.mktemp("deep")
    with Served(fake_cli.write(tmp_path / "cli"), tmp_path / "state") as served:
        yield served


def deep(depth: int) -> list[str]:
    """As a list, and as what a schema may hold."""
    return ["[" * depth + "]" * depth, '{"items":' * depth + "{}" + "}" * depth]


@pytest.mark.parametrize("path", BODIES)
def test_deep_values(server: Served, expects: Expects, path: str) -> None:
    expects("faults", f"values nested 100 to 9,900 deep, anywhere in a body to {path}", "200 or 400 in the API's form")
    odd = []
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as http:
        for body in BODIES[path]:
            text = json.dumps({"model": "opus", **body})
            for depth in DEPTHS:
                for value in deep(depth):
                    raw = text.replace(f"text {PLACE}", json.dumps(value)[1:-1]).replace(f'"{PLACE}"', value)
                    answer = http.post(path, content=raw, headers={"content-type": "application/json"})
                    refused = answer.status_code == 400 and "error" in answer.json()
                    if not (refused or answer.status_code == 200):
                        odd.append((body, depth, answer.status_code, answer.text[:200]))
    assert odd == []
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"messages":['])
def test_json_10_000_deep(server: Served, expects: Expects, opening: str) -> None:
    expects("faults", f"JSON 10,000 levels deep, of {opening}", "400")
    headers = {"content-type": "application/json"}
    url = f"{server.url}/v1/chat/completions"
    answer = httpx.post(url, content=opening * 10_000, trust_env=False, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
