"""Ollama's client for Node (from npm), against the server on recordings: a second judge beside the Python one."""

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
VERSION = "0.6.4"
SCRIPT = Path(install.__file__).with_name("ollama_node.cjs")
COUNTS = {"reason": "stop", "counts": [22, 12]}
RESULTS = {"get_weather": "19 degrees"}


def requests() -> str:
    named = {
        "chat": "ollama/chat", "generated": "ollama/generated", "tools": "tools/result", "cut": "errors/cut_after_text",
        "busy": "errors/overloaded",
    }  # fmt: skip
    asked: dict[str, Any] = {name: Target.scenario(one).request[0].request("whole") for name, one in named.items()}
    return json.dumps(asked | {"results": RESULTS})


def said(url: str, *arguments: str) -> dict[str, Any]:
    """What the script says of the server at that URL."""
    modules = install.modules("ollama", VERSION)
    ran = subprocess.run(
        ["node", SCRIPT, url, *arguments], input=requests(), env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True, text=True, timeout=120, check=False,
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


@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_a_chat(results: dict[str, Any], way: str) -> None:
    found = results[way]
    assert (found["content"], found["thinking"]) == ("The capital of Norway is Oslo.", "Norway, then.")
    assert found["end"] == COUNTS
    assert (found["pieces"] > 1) == (way == "streamed")


@pytest.mark.parametrize("way", ["generated", "generatedStreamed"])
def test_a_prompt_with_a_schema(results: dict[str, Any], way: str) -> None:
    assert json.loads(results[way]["content"]) == {"name": "Grace", "age": 85}
    assert results[way]["end"]["reason"] == "stop"


def test_tools(results: dict[str, Any]) -> None:
    assert results["tools"]["content"] == "It is 19 degrees."


@pytest.mark.parametrize(("case", "status", "text"), [("cut", None, "Half an"), ("busy", 503, "")])
def test_it_raises(results: dict[str, Any], case: str, status: int | None, text: str) -> None:
    found = results[case]
    assert (found["status"], found["text"]) == (status, text)
    assert found["message"]


def test_it_lists_and_shows(results: dict[str, Any]) -> None:
    assert {"opus:latest", "sonnet:latest", "haiku:latest"} <= set(results["models"])
    assert results["shown"] == ["completion", "tools", "vision", "thinking"]
    assert results["running"] is True
    assert results["version"].count(".") == 2


@pytest.mark.parametrize(("act", "words"), [("embed", "embeddings"), ("pull", "pulled"), ("delete", "deleted")])
def test_what_is_not_there_is_said(results: dict[str, Any], act: str, words: str) -> None:
    assert results[act]["status"] == 404
    assert words in results[act]["message"]


def test_it_leaves_and_nothing_stays_busy(tmp_path: Path) -> None:
    silent = replay.player_shim(tmp_path, silence="stream_event/content_block_delta")
    with replay.Server(silent, run.SERVER) as server:
        assert said(server.url, "silent")["left"]
        end = time.monotonic() + 60
        while httpx.get(f"{server.url}/health", trust_env=False).json()["children"]["busy"]:
            assert time.monotonic() < end, "its requests are still busy"
            time.sleep(0.05)
