"""Responses in the background: they go on without their client, are followed from any event, cancelled, and stored."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from proxy.http.model_requests import Answering
from proxy.store.store import Store
from tests import fake_cli
from tests.conftest import Serve, until
from tests.outcomes import Expects
from tests.responses_api import EVENT, PATH, judged
from tests.served import Served, wait_for

ASKED: dict[str, Any] = {"model": "opus", "input": "Hello.", "background": True}


@pytest.fixture
async def api(serve: Serve) -> AsyncIterator[openai.AsyncOpenAI]:
    server = await serve()
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0) as client:
        yield client


async def until_ended(api: openai.AsyncOpenAI, id: str) -> Any:
    async with asyncio.timeout(60):
        while True:
            found = await api.responses.retrieve(id)
            if found.status not in ("queued", "in_progress"):
                return found
            await asyncio.sleep(0.02)


async def test_it_is_told_at_once_and_made_without_its_client(api: openai.AsyncOpenAI) -> None:
    told = await api.responses.create(**ASKED)
    assert (told.status, told.background, told.output) == ("queued", True, [])
    ended = await until_ended(api, told.id)
    assert (ended.id, ended.status, ended.output_text) == (told.id, "completed", "echo: Hello.")
    assert ended.usage is not None
    # Cancelling what has ended changes nothing; the next request goes on from it.
    assert (await api.responses.cancel(told.id)).status == "completed"
    more = await api.responses.create(model="opus", input="More.", previous_response_id=told.id)
    assert more.output_text == "echo: More."


async def test_its_events_can_be_had_again_from_any_of_them(api: openai.AsyncOpenAI) -> None:
    events = [event async for event in await api.responses.create(**ASKED, stream=True)]
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for event in events:
        EVENT.validate_json(event.to_json(), strict=True)
    id = events[0].response.id
    for after in (None, 0, 4, len(events) - 1, 1000):
        more = {} if after is None else {"starting_after": after}
        again = [event async for event in await api.responses.retrieve(id, stream=True, **more)]  # type: ignore[call-overload]
        assert again == events[0 if after is None else after + 1 :]


async def test_one_that_takes_long_is_followed_and_cancelled(serve: Serve) -> None:
    server = await serve()
    steps = json.dumps([["say", "Begun."], ["hang"]])
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0) as api:
        stream = await api.responses.create(**ASKED | {"input": steps}, stream=True)
        seen = []
        async for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
        # Its client leaves, and it goes on.
        await stream.close()
        id = seen[0].response.id
        assert (await api.responses.retrieve(id)).status == "in_progress"
        with pytest.raises(openai.NotFoundError):
            await api.responses.create(model="opus", input="x", previous_response_id=id)

        async def follow() -> list[Any]:
            last = seen[-1].sequence_number
            return [event async for event in await api.responses.retrieve(id, stream=True, starting_after=last)]

        following = asyncio.create_task(follow())
        cancelled = await api.responses.cancel(id)
        assert (cancelled.status, cancelled.output_text) == ("cancelled", "Begun.")
        rest = await following
        assert [event.sequence_number for event in rest] == [seen[-1].sequence_number + 1]
        assert rest[-1].response == cancelled
        assert (await api.responses.retrieve(id)).status == "cancelled"
        await until(lambda: not server.pool.counts.busy, 60, "it has ended")
        # Deleting ends one, too.
        told = await api.responses.create(**ASKED | {"input": steps})
        await api.responses.delete(told.id)
        with pytest.raises(openai.NotFoundError):
            await api.responses.retrieve(told.id)
        assert server.service.jobs.find("", told.id) is None


async def test_one_that_fails_says_why(serve: Serve) -> None:
    server = await serve()
    steps = json.dumps([["say", "Begun."], ["exit", 3]])
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0) as api:
        told = await until_ended(api, (await api.responses.create(**ASKED | {"input": steps})).id)
        assert (told.status, told.error.code, told.output_text) == ("failed", "server_error", "Begun.")


@pytest.mark.parametrize("body", [{"store": False}])
async def test_it_has_to_be_stored(api: openai.AsyncOpenAI, body: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError, match="background"):
        await api.responses.create(**ASKED, **body)


def test_it_is_one_row_of_usage_and_outlives_a_restart(tmp_path: Path) -> None:
    cli = fake_cli.write(tmp_path / "cli")
    settings = {"CLAUDE_PROXY_STORE": "file"}
    with Served(cli, tmp_path / "state", settings) as server:
        told = httpx.post(server.url + PATH, json=ASKED, timeout=60, trust_env=False).json()
        with httpx.stream("GET", f"{server.url}{PATH}/{told['id']}?stream=true", timeout=60, trust_env=False) as events:
            assert "response.completed" in events.read().decode()
        wait_for(lambda: server.recent() and server.recent()[0]["outcome"] != "running", 60, "the row of usage")
        rows = [(row["outcome"], row["completion_tokens"]) for row in server.recent()]
        assert rows == [("ok", 12)]
        found = server.get(f"{PATH}/{told['id']}").json()
    with Served(cli, tmp_path / "state", settings) as server:
        assert judged(server.get(f"{PATH}/{told['id']}").json()) == found
        more = {"model": "opus", "input": "Two.", "previous_response_id": told["id"]}
        answer = httpx.post(server.url + PATH, json=more, timeout=60, trust_env=False)
        assert answer.json()["output"][0]["content"][0]["text"] == "echo: Two."


def test_a_server_that_ends_waits_for_it_and_stores_what_became_of_it(tmp_path: Path) -> None:
    cli = fake_cli.write(tmp_path / "cli")
    settings = {"CLAUDE_PROXY_STORE": "file", "CLAUDE_PROXY_GRACE": "60"}
    with Served(cli, tmp_path / "state", settings) as server:
        body = ASKED | {"input": json.dumps([["sleep", 0.5], ["say", "Done."], ["end"]])}
        told = httpx.post(server.url + PATH, json=body, timeout=60, trust_env=False).json()
        assert server.end(signal.SIGTERM, 60) == 0
    with Served(cli, tmp_path / "state", settings | {"CLAUDE_PROXY_GRACE": "0"}) as server:
        assert server.get(f"{PATH}/{told['id']}").json()["status"] == "completed"
        body = ASKED | {"input": json.dumps([["say", "Begun."], ["hang"]])}
        told = httpx.post(server.url + PATH, json=body, timeout=60, trust_env=False).json()
        wait_for(lambda: server.get(f"{PATH}/{told['id']}").json()["status"] == "in_progress", 60, "the beginning")
        assert server.end(signal.SIGTERM, 60) == 0
    with Served(cli, tmp_path / "state", settings) as server:
        found = server.get(f"{PATH}/{told['id']}").json()
        assert (found["status"], found["error"]["code"]) == ("failed", "server_error")


def held_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """The store adds nothing before the second is set; the first says that it is asked to."""
    storing, go_on, add = threading.Event(), threading.Event(), store.add

    def slow(*args: Any) -> None:
        storing.set()
        assert go_on.wait(60)
        add(*args)

    monkeypatch.setattr(store, "add", slow)
    return storing, go_on


async def test_cancelling_twice_while_it_is_being_stored(
    serve: Serve, expects: Expects, monkeypatch: pytest.MonkeyPatch
) -> None:
    expects("faults", "a background response is cancelled again while it is being stored", "ends once, told to all")
    server = await serve()
    storing, go_on = held_up(server.service.kept.store, monkeypatch)
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0) as api:
        told = await api.responses.create(**ASKED | {"input": json.dumps([["hang"]])})
        first = asyncio.create_task(api.responses.cancel(told.id))
        await until(storing.is_set, 60, "it is being stored")
        job = server.service.jobs.find("", told.id)
        assert job is not None
        second = asyncio.create_task(job.cancel())
        # It has asked for the end by the time that others have had their turn.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        go_on.set()
        assert (await first).status == "cancelled"
        await second
        events = [event async for event in await api.responses.retrieve(told.id, stream=True)]
        assert events[-1].type == "response.incomplete"
        assert (await api.responses.retrieve(told.id)).status == "cancelled"


async def test_one_that_is_deleted_while_it_is_being_stored_does_not_come_back(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve()
    storing, go_on = held_up(server.service.kept.store, monkeypatch)
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0) as api:
        told = await api.responses.create(**ASKED | {"input": json.dumps([["hang"]])})
        cancelled = asyncio.create_task(api.responses.cancel(told.id))
        await until(storing.is_set, 60, "it is being stored")
        job = server.service.jobs.find("", told.id)
        assert job is not None
        waits, cancel = asyncio.Event(), job.cancel

        async def waited_for() -> None:
            waits.set()
            await cancel()

        monkeypatch.setattr(job, "cancel", waited_for)
        deleted = asyncio.create_task(api.responses.delete(told.id))
        await asyncio.wait_for(waits.wait(), 60)
        go_on.set()
        await deleted
        assert (await cancelled).status == "cancelled"
        with pytest.raises(openai.NotFoundError):
            await api.responses.retrieve(told.id)


async def test_nothing_of_the_request_stays_with_one_that_has_ended(serve: Serve, expects: Expects) -> None:
    expects("faults", "background responses with large requests that have ended", "no more than their events is kept")
    server = await serve()
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0) as api:
        told = await api.responses.create(**ASKED)
        await until_ended(api, told.id)
        await until(lambda: not requests_kept(), 60, "its request is gone")
        job = server.service.jobs.find("", told.id)
        assert job is not None
        assert job.ended
        assert job.size > 0


def requests_kept() -> list[Answering]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is Answering]


async def test_many_events_are_written_a_part_at_a_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await serve()
    monkeypatch.setattr("proxy.http.background.MAX_TOLD", 100)
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0) as api:
        events = [event async for event in await api.responses.create(**ASKED, stream=True)]
        job = server.service.jobs.find("", events[0].response.id)
        assert job is not None
        parts = [part async for part in job.follow(-1)]
    assert len(parts) == len(events)
    assert b"".join(parts).count(b"\n\n") == len(events)


async def test_instructions_are_kept_once_and_not_in_each_event(serve: Serve) -> None:
    server = await serve()
    large = "Be brief. " * 20_000
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0) as api:
        told = await api.responses.create(**ASKED | {"instructions": large})
        await until_ended(api, told.id)
        job = server.service.jobs.find("", told.id)
        assert job is not None
        assert sum(len(event) for event in job._events if isinstance(event, bytes)) < len(large)
        events = [event async for event in await api.responses.retrieve(told.id, stream=True)]
    # Every event of the response's states repeats them, as the API does.
    states = [event for event in events if hasattr(event, "response")]
    assert len(states) == 4
    assert {event.response.instructions for event in states} == {large}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    # They count as many times for what of all that have ended is kept.
    assert job.size > 4 * len(large)
