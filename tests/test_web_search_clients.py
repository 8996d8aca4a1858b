"""Real clients that ask for a web search, from npm and PyPI, on what the real CLI has written (fixtures search/*)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from conformance import install
from conformance.replay import NEWEST, Server, player_shim
from tests.test_responses_clients import PROGRAMS, said

pytestmark = pytest.mark.clients

AI_SDK = (("ai", "6.0.326"), ("@ai-sdk/openai", "3.0.141"), ("@ai-sdk/anthropic", "3.0.88"))
BEFORE = "Let me look. "
TEXT = """The newest is 3.15 ([Python Releases](https://www.python.org/downloads/)).

Sources:
- [What is new](https://docs.python.org/3/whatsnew/3.15.html)
- [Another](https://elsewhere.example/)"""
PAGES = ["https://docs.python.org/3/whatsnew/3.15.html", "https://www.python.org/downloads/"]

TASKS_PAGE = "https://docs.python.org/3/library/asyncio-task.html"
TASKS = f"See [the docs]({TASKS_PAGE})."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # Each asks in its own way; what is compared is what the CLI is sent.
    with Server(player_shim(tmp_path_factory.mktemp("player"), NEWEST), {}) as played:
        yield played


def test_the_agents_sdk(server: Server) -> None:
    told = [
        TEXT,
        ["message", "web_search_call", "message"],
        [
            ["Python Releases", "[Python Releases](https://www.python.org/downloads/)"],
            ["What's new in [3.15]", "[What is new](https://docs.python.org/3/whatsnew/3.15.html)"],
        ],
    ]
    found = said(
        [install.environment("openai-agents==0.24.0") / "python", PROGRAMS / "web_search_agents.txt", server.url]
    )
    assert found == {"whole": told, "streamed": told, "searched": True}


def test_the_ai_sdk(server: Server) -> None:
    paths = os.pathsep.join(str(install.modules(*one)) for one in AI_SDK)
    found = said(["node", PROGRAMS / "web_search_ai_sdk.cjs", server.url], NODE_PATH=paths)
    search = ["web_search", True]
    told = {"openai": [BEFORE + TEXT, PAGES, [search]], "anthropic": [TASKS, [TASKS_PAGE], [search, search]]}
    assert found == {api: {"whole": one, "streamed": one} for api, one in told.items()}
