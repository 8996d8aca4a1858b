"""Real clients of the Responses API, from npm and PyPI: SDKs on a fake CLI, Codex at a real task on the real one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance import install, messages
from conformance.messages import Arrived, Reply
from conformance.upstream import Upstream
from proxy.doctor import NEWEST_PROVEN
from tests import fake_cli
from tests.served import ROOT, Served

pytestmark = pytest.mark.clients

PROGRAMS = Path(__file__).with_name("clients")
TIMEOUT = 600
CODEX = "0.171.0"
AI_SDK = (("ai", "6.0.326"), ("@ai-sdk/openai", "3.0.141"), ("@ai-sdk/open-responses", "1.0.39"))
WEATHER = '{"for-toolu_1": ["sunny"]}'
ECHO = "echo: Hello."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    with Served(fake_cli.write(folder / "cli"), folder / "state") as served:
        yield served


def said(command: list[str | Path], **environ: str) -> Any:
    """What the program prints, as JSON."""
    ran = subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_the_agents_sdk(server: Served) -> None:
    python = install.environment("openai-agents==0.24.0") / "python"
    assert said([python, PROGRAMS / "openai_agents.txt", server.url]) == {
        "plain": ECHO,
        "tool": WEATHER,
        "streamed": [WEATHER, True],
        "session": ["echo: Two.", 6],
        "conversations": ["echo: Two.", 6],
        "previous": [WEATHER, "echo: Two."],
        "conversation": [WEATHER, "echo: Two."],
        "handoff": "other",
        "compacted": ["message", "compaction"],
        "after": True,
    }


def test_langchain(server: Served) -> None:
    python = install.environment("langchain-openai==1.7.4") / "python"
    called = [["get_weather"], WEATHER]
    assert said([python, PROGRAMS / "langchain_openai.txt", server.url]) == {
        "plain": ECHO,
        "streamed": ECHO,
        "tools": called,
        "previous": called,
        "responses/v1": called,
        "v1": called,
        "structured": "Ada",
        "reasoning": ["reasoning", "text"],
    }


def test_the_ai_sdk(server: Served) -> None:
    paths = os.pathsep.join(str(install.modules(*one)) for one in AI_SDK)
    found = said(["node", PROGRAMS / "ai_sdk.cjs", server.url], NODE_PATH=paths)
    assert found.pop("previous") == "echo: Two."
    judged = {
        "plain": ECHO,
        "streamed": [ECHO, "stop", 12],
        "tools": [WEATHER, 2],
        "toolsStreamed": [WEATHER, 2],
        "further": ["echo: Two.", 0],
        "object": {"name": "Ada"},
    }
    assert found == {"stored": judged, "stateless": judged, "open": judged}


PATCH = """\
*** Begin Patch
*** Update File: hello.py
@@
-print('hello')
+print('goodbye')
*** End Patch
"""


class Model:
    """Edits a file by apply_patch, runs it, and says what it printed."""

    def __init__(self) -> None:
        self.asked = 0
        self.last: dict[str, Any] = {}

    def answer(self, request: Arrived) -> Reply:
        tools = [tool["name"] for tool in request.body.get("tools", ())]
        self.last = request.body
        self.asked += 1
        run = messages.tool_use("toolu_run", "exec_command", json.dumps({"cmd": "python3 hello.py"}))
        if self.asked == 1:
            if "apply_patch" in tools:
                edit = messages.tool_use("toolu_edit", "apply_patch", json.dumps({"input": PATCH}))
            else:
                command = f"apply_patch <<'EOF'\n{PATCH}EOF"
                edit = messages.tool_use("toolu_edit", "exec_command", json.dumps({"cmd": command}))
            return self._says(request, messages.thinking("A patch will do."), messages.text("I edit it."), edit)
        return self._says(request, run) if self.asked == 2 else self._says(request, messages.text("It says goodbye."))

    def _says(self, request: Arrived, *blocks: dict[str, Any]) -> Reply:
        stop = "tool_use" if blocks[-1]["start"]["type"] == "tool_use" else "end_turn"
        model = request.body["model"]
        return messages.stream(messages.message(*blocks, stop=stop, model=model, identifier=f"msg_{self.asked}"))


# Codex has a tool of its own for patches for models that it knows; others run a command of that name.
@pytest.mark.parametrize("model", ["gpt-5.5", "sonnet"])
async def test_codex_edits_a_file_and_runs_it(model: str, tmp_path: Path) -> None:
    home, repository = tmp_path / "home", tmp_path / "repository"
    home.mkdir()
    repository.mkdir()
    (repository / "hello.py").write_text("print('hello')\n")
    cli = install.install(NEWEST_PROVEN)
    program = install.modules("@openai/codex", CODEX) / "@openai" / "codex" / "bin" / "codex.js"
    script = Model()
    async with Upstream(script.answer) as upstream:
        settings = {"CLAUDE_PROXY_UPSTREAM_URL": upstream.url}
        ran, log = await asyncio.to_thread(_codex, program, model, Served(cli, tmp_path / "state", settings), home)
    assert (repository / "hello.py").read_text() == "print('goodbye')\n", ran
    assert ran.splitlines()[0] == "It says goodbye."
    # Each answer but the first went on in the same process, and the model saw what it had thought and done.
    served = re.findall(r"POST /v1/responses 200 .* (new|continued|replayed) ", log)
    assert served == ["new", "continued", "continued"], log
    past = [block for entry in script.last["messages"] for block in entry["content"] if isinstance(block, dict)]
    assert [block["type"] for block in past if block["type"] in ("thinking", "tool_use", "tool_result")] == [
        "thinking", "tool_use", "tool_result", "tool_use", "tool_result",
    ]  # fmt: skip
    assert "goodbye" in json.dumps(past[-1])


def _codex(program: Path, model: str, served: Served, home: Path) -> tuple[str, str]:
    """What Codex says of the task, set up as a user would, and the server's log."""
    environ = {"HOME": str(home), "PATH": os.environ["PATH"], "TERM": "dumb"}
    with served as server:
        subprocess.run(
            [sys.executable, "-m", "proxy", "setup", "codex", "--yes", "--url", server.url],
            env=environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True, cwd=home,
        )  # fmt: skip
        ran = subprocess.run(
            ["node", program, "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox",
             "--profile", "claude-max", "-m", model, "Say goodbye instead."],
            env=environ, cwd=home.parent / "repository", stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=TIMEOUT, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout, served.log()
