"""OpenAI's client for Node (from npm), against the server on recordings: a second judge beside the Python one."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from conformance import install, replay, run
from conformance.target import Target

pytestmark = pytest.mark.npm
VERSION = "7.57.0"
SCRIPT = Path(install.__file__).with_name("openai_node.cjs")
WORDS = "The capital of Italy is Rome."


def requests() -> str:
    named = {
        "chat": "chat/plain", "tools": "tools/result", "schema": "schema/kept", "usedUp": "errors/plan_limit",
        "busy": "errors/overloaded", "cut": "errors/cut_after_text",
    }  # fmt: skip
    return json.dumps({name: Target.scenario(scenario).request[0].request("whole") for name, scenario in named.items()})


def said(url: str, *arguments: str) -> dict[str, Any]:
    """What the script says of the server at that URL."""
    modules = install.modules("openai", VERSION)
    ran = subprocess.run(
        ["node", SCRIPT, url, *arguments], input=requests(), env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    with run.started({}) as (url, folder):
        found = said(url)
        assert not (folder / "differences.txt").exists()
    return found


@pytest.mark.parametrize("way", ["whole", "folded"])
def test_an_answer(results: dict[str, Any], way: str) -> None:
    choice = results[way]
    assert (choice["message"]["content"], choice["finish_reason"]) == (WORDS, "stop")
    assert choice["message"]["role"] == "assistant"


def test_a_stream(results: dict[str, Any]) -> None:
    streamed = results["streamed"]
    assert streamed["content"] == WORDS
    assert streamed["pieces"] > 1
    assert streamed["usage"]["total_tokens"] == 34


@pytest.mark.parametrize("way", ["tools", "toolsStreamed"])
def test_it_runs_tools(results: dict[str, Any], way: str) -> None:
    assert results[way] == {
        "content": "It is 19 degrees.",
        "called": [{"city": "Lima"}],
        "roles": ["user", "assistant", "tool", "assistant"],
    }


@pytest.mark.parametrize("way", ["parsed", "parsedStreamed"])
def test_it_parses_json(results: dict[str, Any], way: str) -> None:
    assert results[way] == {"name": "Ada", "age": 36}


def test_it_lists_models(results: dict[str, Any]) -> None:
    assert {"opus", "sonnet", "haiku"} <= set(results["models"])


@pytest.mark.parametrize(
    ("case", "error", "status", "code", "sent"),
    [
        ("refused", "BadRequestError", 400, None, 1),
        ("usedUp", "RateLimitError", 429, "insufficient_quota", 1),
        ("busy", "InternalServerError", 503, "overloaded", 2),
        ("cut", "APIError", None, "upstream_cut", 1),
    ],
)
def test_it_raises_and_tries_again(
    results: dict[str, Any], case: str, error: str, status: int | None, code: str | None, sent: int
) -> None:
    found = results[case]
    assert (found["name"], found["status"], found["code"], found["sent"]) == (error, status, code, sent)
    assert found["text"] == ("Half an" if case == "cut" else "")
    assert found["message"]


def test_it_speaks_responses(results: dict[str, Any]) -> None:
    assert results["responses"] == "The capital of Italy is Rome."


def test_it_leaves_and_nothing_stays_busy(tmp_path: Path) -> None:
    silent = replay.player_shim(tmp_path, silence="stream_event/content_block_delta")
    with replay.Server(silent, run.SERVER) as server:
        assert said(server.url, "silent") == {"left": "The capital", "aborted": "APIUserAbortError"}
        end = time.monotonic() + 10
        while httpx.get(f"{server.url}/health", trust_env=False).json()["children"]["busy"]:
            assert time.monotonic() < end, "its requests are still busy"
            time.sleep(0.05)
