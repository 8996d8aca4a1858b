"""npm's `compatcanary`, which scores servers that say they are compatible: all points, with the real CLI behind."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conformance import install, messages
from conformance.messages import Arrived, Reply
from conformance.upstream import Upstream
from proxy.doctor import NEWEST_PROVEN
from tests.served import Served

pytestmark = pytest.mark.clients
VERSION = "0.2.2"
PROBES = {
    "chat": {"models.list", "chat.basic", "chat.streaming", "chat.tool_call", "chat.structured_output"},
    "modern": {"responses.basic", "responses.streaming"},
}
PROBES["modern"] |= PROBES["chat"]


def answer(request: Arrived) -> Reply:
    """Calls the tool that there is, fills in the form that there is, or says a word."""
    tools = [tool["name"] for tool in request.body.get("tools", ())]
    blocks = [messages.text("CANARY", "_OK")]
    if "StructuredOutput" in tools:
        blocks = [messages.tool_use("toolu_1", "StructuredOutput", '{"status": "ok"}')]
    elif tools:
        blocks = [messages.tool_use("toolu_1", tools[0], '{"value": "CANARY_OK"}')]
    stop = "tool_use" if blocks[-1]["start"]["type"] == "tool_use" else "end_turn"
    identifier = f"msg_{request.number}"
    return messages.stream(messages.message(*blocks, stop=stop, model=request.body["model"], identifier=identifier))


def scanned(url: str, profile: str) -> dict[str, Any]:
    program = install.modules("compatcanary", VERSION) / "compatcanary" / "src" / "cli.js"
    ran = subprocess.run(
        ["node", program, "scan", "--base-url", f"{url}/v1", "--model", "sonnet", "--profile", profile,
         "--format", "json", "--fail-on", "never"],
        env={**os.environ, "OPENAI_API_KEY": "x"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout)
    return report


@pytest.mark.parametrize("profile", sorted(PROBES))
async def test_it_gives_all_points(profile: str, tmp_path: Path) -> None:
    cli = await asyncio.to_thread(install.install, NEWEST_PROVEN)
    async with Upstream(answer) as upstream:
        settings = {"CLAUDE_PROXY_UPSTREAM_URL": upstream.url, "CLAUDE_PROXY_RETRIES": "0"}
        server = Served(cli, tmp_path / "state", settings)
        await asyncio.to_thread(server.__enter__)
        try:
            report = await asyncio.to_thread(scanned, server.url, profile)
        finally:
            await asyncio.to_thread(server.__exit__, None, None, None)
    assert {result["id"]: result["status"] for result in report["results"]} == dict.fromkeys(PROBES[profile], "pass")
    assert report["score"] == 100
