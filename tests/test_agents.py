"""Coding agents at a small task, on the real CLI; a Messages API plays the model: read, edit, run the test, done.

What they send is looked at where it arrives: nothing is lost, calls are native, and each has its result.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from msgspec import Struct

from conformance import install, messages
from conformance.messages import Arrived, Reply
from conformance.upstream import Upstream
from proxy.doctor import NEWEST_PROVEN
from tests.served import Served
from tests.test_readme import BASE, README
from tests.test_readme import blocks as printed
from tests.test_setup_clients import set_up, started

pytestmark = pytest.mark.clients

TASK: Final = "Fix add in calc.py so that test_calc.py passes. Run python3 test_calc.py to check."
WRONG: Final = "def add(a, b):\n    return a - b\n"
RIGHT: Final = "def add(a, b):\n    return a + b\n"
TEST: Final = "from calc import add\n\nassert add(2, 3) == 5\nprint('calc is right')\n"
RUN: Final = "python3 test_calc.py"
PATCH: Final = """\
*** Begin Patch
*** Update File: calc.py
@@
 def add(a, b):
-    return a - b
+    return a + b
*** End Patch
"""
DONE: Final = "The test passes now."
Call = tuple[str, dict[str, Any]]
Result = TypeVar("Result")


class Agent(Struct, frozen=True):
    """A program, its arguments, how it is set up, and what the model calls; `after`: the arguments that end what it
    leaves running.

    `program`: installs it, and gives the command. `calls`: of a file's path; the names are those under which the CLI
    has the client's tools.
    """

    program: Callable[[], tuple[str, ...]]
    arguments: tuple[str, ...]
    prepare: Callable[[Served, Path], dict[str, str]]
    calls: Callable[[str], tuple[Call, Call, Call]]
    after: tuple[str, ...] = ()


def node(package: str, version: str, path: str) -> Callable[[], tuple[str, ...]]:
    """A program of a package of npm's that Node runs."""
    return lambda: ("node", str(install.modules(package, version) / package / path))


def opencode_program() -> tuple[str, ...]:
    name = "opencode-linux-x64"
    return (str(install.modules(name, "1.18.33") / name / "bin" / "opencode"),)


def gptme_program() -> tuple[str, ...]:
    return (str(install.environment("gptme==0.35.1") / "gptme"),)


def by_setup(name: str) -> Callable[[Served, Path], dict[str, str]]:
    return lambda server, home: set_up(name, server, home)


def bare(server: Served, home: Path) -> dict[str, str]:
    """A home in which nothing is set up."""
    environ = set_up("llm", server, home)
    return {**environ, "OPENAI_API_KEY": "sesame"}


def codex_chat(server: Served, home: Path) -> dict[str, str]:
    environ = bare(server, home)
    (home / ".codex").mkdir()
    (home / ".codex" / "config.toml").write_text(
        'model = "sonnet"\nmodel_provider = "claude-max"\n\n[model_providers.claude-max]\nname = "Claude Max"\n'
        f'base_url = "{server.url}/v1"\nwire_api = "chat"\nenv_key = "OPENAI_API_KEY"\n'
    )
    return environ


CLINE: Final = node("cline", "3.0.65", "bin/cline")


def cline(server: Served, home: Path) -> dict[str, str]:
    environ = bare(server, home)
    words = ["auth", "-p", "openai", "-k", "sesame", "-m", "sonnet", "-b", f"{server.url}/v1"]
    started([*CLINE(), *words], environ, home)
    return environ


def opencode_anthropic(server: Served, home: Path) -> dict[str, str]:
    """With the provider that the README has for the Messages API."""
    environ = set_up("opencode", server, home)
    file = home / ".config" / "opencode" / "opencode.json"
    (block,) = (block for block in printed("json") if "@ai-sdk/anthropic" in block)
    provider = json.loads(block.replace(BASE, server.url).replace('"any"', '"sesame"'))["provider"]
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "provider": provider}))
    return environ


def opencode_calls(path: str) -> tuple[Call, Call, Call]:
    return (
        ("read", {"filePath": path}),
        ("edit", {"filePath": path, "oldString": "a - b", "newString": "a + b"}),
        ("bash", {"command": RUN, "description": "Runs the test"}),
    )


_GPTME: Final = re.search(r"^\*\*gptme\*\*: `((?:\w+=\S+ )+)gptme (.+)`", README, re.MULTILINE)
assert _GPTME is not None, "the README has no command for gptme"
GPTME_ENVIRON, GPTME_WORDS = (part.split() for part in _GPTME.groups())


def gptme(server: Served, home: Path) -> dict[str, str]:
    """With the environment that the README has for it."""
    printed = dict(one.split("=", 1) for one in GPTME_ENVIRON)
    key = {name: "sesame" for name, value in printed.items() if value == "any"}
    return bare(server, home) | {name: value.replace(BASE, server.url) for name, value in printed.items()} | key


AGENTS: Final[Mapping[str, Agent]] = {
    "codex-chat": Agent(
        node("@openai/codex", "0.94.0", "bin/codex.js"),
        ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", TASK), codex_chat,
        lambda _: (
            ("shell", {"command": ["bash", "-lc", "cat calc.py"]}), ("shell", {"command": ["apply_patch", PATCH]}),
            ("shell", {"command": ["bash", "-lc", RUN]}),
        ),
    ),
    "cline": Agent(
        CLINE, ("-P", "openai", "--json", TASK), cline,
        lambda path: (
            ("read_files", {"files": [{"path": path}]}),
            ("editor", {"path": path, "old_text": "a - b", "new_text": "a + b"}), ("run_commands", {"commands": [RUN]}),
        ),
        ("hub", "stop"),
    ),
    "continue": Agent(
        node("@continuedev/cli", "1.5.47", "dist/cn.js"), ("-p", "--auto", TASK), by_setup("continue"),
        lambda path: (
            ("Read_tool", {"filepath": path}),
            ("MultiEdit_tool", {"file_path": path, "edits": [{"old_string": "a - b", "new_string": "a + b"}]}),
            ("Bash_tool", {"command": RUN}),
        ),
    ),
    "qwen": Agent(
        node("@qwen-code/qwen-code", "0.15.10", "cli.js"), ("--model", "sonnet", "--yolo", "-p", TASK),
        by_setup("qwen"),
        lambda path: (
            ("read_file", {"file_path": path}),
            ("edit", {"file_path": path, "old_string": "    return a - b", "new_string": "    return a + b"}),
            ("run_shell_command", {"command": RUN, "is_background": False}),
        ),
    ),
    "opencode": Agent(
        opencode_program, ("run", "--model", "claude-max/sonnet", TASK), by_setup("opencode"), opencode_calls
    ),
    "opencode-anthropic": Agent(
        opencode_program, ("run", "--model", "claude-max-messages/sonnet", TASK), opencode_anthropic, opencode_calls
    ),
    "gptme": Agent(
        gptme_program, (*GPTME_WORDS, "--non-interactive", TASK), gptme,
        lambda path: (
            ("shell", {"command": "cat calc.py"}),
            ("patch", {"path": path, "patch": f"<<<<<<< ORIGINAL\n{WRONG}=======\n{RIGHT}>>>>>>> UPDATED"}),
            ("shell", {"command": RUN}),
        ),
    ),
}  # fmt: skip


class Model:
    """Plays the model. `arrived`: the messages of each request that has tools, as they arrived."""

    def __init__(self, calls: tuple[Call, Call, Call]) -> None:
        self.arrived: list[list[dict[str, Any]]] = []
        self._calls = calls
        self._said = 0

    def answer(self, request: Arrived) -> Reply:
        self._said += 1
        model, identifier = request.body["model"], f"msg_{self._said}"
        said = messages.simplified(request.body)["messages"]
        offered = {tool["name"] for tool in request.body.get("tools", ())}
        if TASK not in json.dumps(said[:3]) or self._calls[2][0] not in offered or _others_task(said):
            return messages.stream(messages.message(messages.text("Nothing."), model=model, identifier=identifier))
        self.arrived.append(said)
        done = sum(block["type"] == "tool_use" for block in blocks(said, "assistant"))
        if done == len(self._calls):
            return messages.stream(messages.message(messages.text(DONE), model=model, identifier=identifier))
        name, arguments = self._calls[done]
        call = messages.tool_use(f"toolu_{self._said}", name, json.dumps(arguments))
        return messages.stream(
            messages.message(messages.text(f"Step {done}."), call, stop="tool_use", model=model, identifier=identifier)
        )


def _others_task(said: list[dict[str, Any]]) -> bool:
    """Whether an agent asks for something else about the task, such as what to remember of it."""
    return DONE in json.dumps(said)


def blocks(said: list[dict[str, Any]], role: str) -> list[dict[str, Any]]:
    return [
        block
        for message in said
        if message["role"] == role and isinstance(message["content"], list)
        for block in message["content"]
    ]


def with_model(answer: Callable[[Arrived], Reply], state: Path, work: Callable[[Served], Result]) -> Result:
    """What `work` returns, with a server on the real CLI for which `answer` plays the model. Its key is sesame."""

    def with_server(upstream: str) -> Result:
        settings = {"CLAUDE_PROXY_UPSTREAM_URL": upstream, "API_KEYS": "me:sesame"}
        with Served(install.install(NEWEST_PROVEN), state, settings) as server:
            return work(server)

    async def watched() -> Result:
        async with Upstream(answer) as upstream:
            return await asyncio.to_thread(with_server, upstream.url)

    return asyncio.run(watched())


def write(project: Path) -> None:
    """The files of the task."""
    project.mkdir()
    (project / "calc.py").write_text(WRONG)
    (project / "test_calc.py").write_text(TEST)


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_does_a_task(name: str, tmp_path: Path) -> None:
    agent = AGENTS[name]
    home, project = tmp_path / "home", tmp_path / "home" / "project"
    model = Model(agent.calls(str(project / "calc.py")))
    program = agent.program()

    def work(server: Served) -> str:
        environ = agent.prepare(server, home)
        write(project)
        try:
            return started([*program, *agent.arguments], environ, project)
        finally:
            if agent.after:
                started([*program, *agent.after], environ, project)

    said = with_model(model.answer, tmp_path / "state", work)
    assert (project / "calc.py").read_text() == RIGHT, said[-3000:]
    assert DONE in said, said[-3000:]
    last = model.arrived[-1]
    words, calls, results = (
        [block for block in blocks(last, role) if block["type"] == kind]
        for role, kind in (("assistant", "text"), ("assistant", "tool_use"), ("user", "tool_result"))
    )
    assert [block["text"].strip() for block in words] == [f"Step {number}." for number in range(3)]
    assert tuple((block["name"], block["input"]) for block in calls) == agent.calls(str(project / "calc.py"))
    assert [block["tool_use_id"] for block in results] == [block["id"] for block in calls]
    assert "calc is right" in json.dumps(results[-1])
    # Each call in a message of its own, with its result directly behind it.
    roles = [message["role"] for message in last if any(one in json.dumps(message) for one in ("tool_use", "toolu_"))]
    assert roles == ["assistant", "user"] * 3
