"""Anthropic's client for Node and the AI SDK's provider for it (from npm), against the server on recordings."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conformance import install, run
from conformance.target import Target

pytestmark = pytest.mark.npm
PACKAGES = {"@anthropic-ai/sdk": "1.14.0", "@ai-sdk/anthropic": "3.0.140"}
SCRIPT = Path(install.__file__).with_name("anthropic_node.cjs")
WORDS = "The capital of Portugal is Lisbon."


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    named = {name: Target.scenario(f"messages/{name}") for name in ("plain", "tools", "documents")}
    asked = json.dumps({name: scenario.request[0].request("whole") for name, scenario in named.items()})
    modules = os.pathsep.join(str(install.modules(name, version)) for name, version in PACKAGES.items())
    with run.started({}) as (url, _):
        ran = subprocess.run(
            ["node", SCRIPT, url], input=asked, env={**os.environ, "NODE_PATH": modules}, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("way", ["whole", "folded"])
def test_a_message(results: dict[str, Any], way: str) -> None:
    assert results[way] == {"id": "msg_01", "content": [{"type": "text", "text": WORDS}], "stop_reason": "end_turn"}


def test_thinking_and_a_call(results: dict[str, Any]) -> None:
    thought, text, call = results["called"]["content"]
    assert thought == {"type": "thinking", "thinking": "I look it up.", "signature": "c2lnbmF0dXJl"}
    assert text["text"] == "Let me look."
    assert (call["name"], call["input"]) == ("get_weather", {"city": "Oslo"})
    assert results["called"]["stop_reason"] == "tool_use"


def test_citations(results: dict[str, Any]) -> None:
    cited = [citation["type"] for block in results["cited"]["content"] for citation in block["citations"]]
    assert cited == ["char_location", "search_result_location"]


def test_models_and_errors(results: dict[str, Any]) -> None:
    assert {"opus", "sonnet", "haiku"} <= set(results["listed"])
    failed = results["failed"]
    assert (failed["name"], failed["status"], bool(failed["request"])) == ("BadRequestError", 400, True)


def test_the_ai_sdks_provider(results: dict[str, Any]) -> None:
    assert results["provided"] == {"content": [{"type": "text", "text": WORDS}], "reason": "stop"}
    assert "".join(results["providedStream"]) == WORDS
