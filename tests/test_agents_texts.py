"""Agents that need more than a list of calls: aider, whose edits are text, and LangGraph's supervisor of two others.

As in test_agents: on the real CLI, with a Messages API that plays the model.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conformance import install, messages
from conformance.messages import Arrived, Reply
from tests.served import Served
from tests.test_agents import RIGHT, RUN, TASK, bare, blocks, with_model, write
from tests.test_setup_clients import PYPI, set_up, started

pytestmark = pytest.mark.clients

PROGRAMS = Path(__file__).with_name("clients")


def says(request: Arrived, *said: dict[str, Any]) -> Reply:
    stop = "tool_use" if said[-1]["start"]["type"] == "tool_use" else "end_turn"
    identifier = f"msg_{request.number}"
    return messages.stream(messages.message(*said, stop=stop, model=request.body["model"], identifier=identifier))


def edit(old: str, new: str) -> str:
    """An edit as aider takes it in its format `diff`."""
    return f"I edit it.\n\ncalc.py\n```python\n<<<<<<< SEARCH\n    {old}\n=======\n    {new}\n>>>>>>> REPLACE\n```"


def test_aider_edits_tests_and_commits(tmp_path: Path) -> None:
    """The first edit is wrong; aider runs the test, says what it printed, and the second is right."""
    home, project = tmp_path / "home", tmp_path / "home" / "project"
    first, second = edit("return a - b", "return a * b"), edit("return a * b", "return a + b")
    arrived: list[list[dict[str, Any]]] = []

    def answer(request: Arrived) -> Reply:
        if "commit message" in json.dumps(request.body["system"]):
            return says(
                request, messages.text("fix: " + ("add adds" if "a + b" in last(request) else "add multiplies"))
            )
        arrived.append(messages.simplified(request.body)["messages"])
        return says(request, messages.text(second if "AssertionError" in last(request) else first))

    def last(request: Arrived) -> str:
        return json.dumps(messages.simplified(request.body)["messages"][-1])

    def work(server: Served) -> str:
        environ = set_up("aider", server, home)
        write(project)
        environ |= {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        for words in (["init"], ["add", "."], ["commit", "-m", "first"]):
            subprocess.run(["git", *words], cwd=project, env=environ, check=True, capture_output=True)
        program = install.environment(PYPI["aider"][0]) / "aider"
        words = ["--model", "openai/sonnet", "--edit-format", "diff", "--auto-test", "--test-cmd", RUN]
        quiet = ["--yes-always", "--no-check-update", "--analytics-disable", "--no-show-model-warnings"]
        said = started([str(program), *words, *quiet, "--message", TASK, "calc.py"], environ, project)
        log = ["git", "log", "--reverse", "--format=%s", "--", "calc.py"]
        commits = subprocess.run(log, cwd=project, env=environ, check=True, capture_output=True, text=True).stdout
        assert commits.splitlines() == ["first", "fix: add multiplies", "fix: add adds"], said[-3000:]
        return said

    said = with_model(answer, tmp_path / "state", work)
    assert (project / "calc.py").read_text() == RIGHT, said[-3000:]
    assert len(arrived) == 2
    for turns in arrived:
        roles = [turn["role"] for turn in turns]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    # Its first answer is a turn of its own, word for word.
    assert [turn for turn in arrived[1] if turn["role"] == "assistant" and turn["content"] == first]


def test_langgraphs_supervisor(tmp_path: Path) -> None:
    """It hands over to a researcher, who searches, and to a mathematician, who adds, and gives the answer."""
    seen: list[tuple[str, list[str]]] = []

    def answer(request: Arrived) -> Reply:
        tools = {tool["name"] for tool in request.body["tools"]}
        said = messages.simplified(request.body)["messages"]
        calls = [block["name"] for block in blocks(said, "assistant") if block["type"] == "tool_use"]
        results = [block["tool_use_id"] for block in blocks(said, "user") if block["type"] == "tool_result"]
        assert results == [block["id"] for block in blocks(said, "assistant") if block["type"] == "tool_use"]
        who = "supervisor" if "transfer_to_math" in tools else "math" if "add" in tools else "research"
        seen.append((who, calls))
        return says(request, *{
            ("supervisor", 0): [call("transfer_to_research", {})],
            ("research", 1): [messages.text("I search."), call("search", {"query": "headcount"})],
            ("research", 2): [messages.text("There are 67 and 75.")],
            ("supervisor", 2): [call("transfer_to_math", {})],
            ("math", 3): [call("add", {"a": 67, "b": 75})],
            ("math", 4): [messages.text("The sum is 142.")],
            ("supervisor", 4): [messages.text("All in all they are 142.")],
        }[who, len(calls)])  # fmt: skip

    def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return messages.tool_use(f"toolu_{len(seen)}", name, json.dumps(arguments))

    def work(server: Served) -> str:
        packages = ("langgraph-supervisor==0.0.31", "langchain-openai==1.7.4")
        program = [str(install.environment(*packages) / "python"), str(PROGRAMS / "langgraph_supervisor.txt")]
        return started([*program, server.url], bare(server, tmp_path / "home"), tmp_path)

    said = with_model(answer, tmp_path / "state", work)
    told = json.loads(said.splitlines()[-1])
    streamed = "I search.There are 67 and 75.The sum is 142.All in all they are 142."
    assert told == {"streamed": streamed, "whole": "All in all they are 142."}, said[-3000:]
    back = "transfer_back_to_supervisor"
    one = [
        ("supervisor", []),
        ("research", ["transfer_to_research"]),
        ("research", ["transfer_to_research", "search"]),
        ("supervisor", ["transfer_to_research", back]),
        ("math", ["transfer_to_research", back, "transfer_to_math"]),
        ("math", ["transfer_to_research", back, "transfer_to_math", "add"]),
        ("supervisor", ["transfer_to_research", back, "transfer_to_math", back]),
    ]
    assert seen == one * 2
