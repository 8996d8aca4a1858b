"""The demo mode: recorded answers without a CLI, labelled as such."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from proxy import demo
from proxy.cli.pool import Pool
from proxy.cli.process import Launch
from proxy.http.app import create_app
from proxy.http.service import Service
from proxy.settings import Settings

ROOT = Path(__file__).parent.parent
NEWEST = max((ROOT / "fixtures" / "transcripts").iterdir(), key=lambda path: tuple(map(int, path.name.split("."))))


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(waiting=1, parked=0)
    pool = Pool(settings, Launch(("none",), {}, "."), demo.DemoChild.start)
    app = create_app(Service(settings, pool, demo.version(), "demo", demo=True))
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3456") as client:
        yield client
    await pool.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PACE", 0.0)


def crossed(path: Path) -> list[tuple[str, object]]:
    """The lines of a transcript, without its header and its times."""
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return [(line["to"], line["line"]) for line in lines]


@pytest.mark.parametrize("name", demo.ANSWERS)
def test_the_answers_are_the_recordings_of_the_newest_cli(name: str) -> None:
    packaged = ROOT / "proxy" / "demo" / f"{name}.jsonl"
    recorded = NEWEST / "demo" / f"{name}.jsonl"
    assert crossed(packaged) == crossed(recorded), f"copy {recorded} to {packaged}"


async def test_an_answer_is_labelled_as_recorded(client: httpx.AsyncClient) -> None:
    body = {"model": "opus", "messages": [{"role": "user", "content": "hello"}]}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200
    assert response.headers["x-claude-proxy-demo"] == "recorded"
    completion = response.json()
    assert "recorded answer" in completion["choices"][0]["message"]["content"]
    assert completion["system_fingerprint"] == f"claude-code-{demo.version()}-demo"


async def test_further_messages_get_the_second_answer_streamed(client: httpx.AsyncClient) -> None:
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "more"},
    ]
    body = {"model": "opus", "messages": messages, "stream": True}
    response = await client.post("/v1/chat/completions", json=body)
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    assert "日本語" in "".join(choice["delta"].get("content", "") for choice in choices)


async def test_health_says_that_it_is_the_demo(client: httpx.AsyncClient) -> None:
    health = (await client.get("/health")).json()
    assert health["mode"] == "demo"
    assert health["login"]["method"] == "demo"
