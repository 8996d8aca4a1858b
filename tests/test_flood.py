"""Many cheap requests: what each makes the server hold or write is bounded, whatever it asks for."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import json
import sys
import threading
import tracemalloc
import weakref
from typing import Any

import pytest

from proxy import offload
from proxy.fair_line import FairLine
from proxy.http.uploads import Uploads
from proxy.protocol.failures import MAX_TOLD, Rejection, shown
from proxy.protocol.media import data_url
from proxy.protocol.plan import Plan
from tests.conftest import Serve, chat, until
from tests.outcomes import Expects

LONG = "q \u0001" * 100_000
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat() | {"tools": [TOOL], "tool_choice": LONG}),
        ("/v1/chat/completions", chat() | {"tools": [{"type": LONG}]}),
        ("/v1/chat/completions", chat() | {"messages": [{"role": LONG, "content": "a"}]}),
        ("/v1/chat/completions", chat() | {"messages": [{"role": "user", "content": [{"type": LONG}]}]}),
        ("/v1/messages", chat() | {"max_tokens": 9, "messages": [{"role": LONG, "content": "a"}]}),
        ("/v1/messages", chat() | {"max_tokens": 9, "tools": [{"type": LONG, "name": "a"}]}),
        ("/v1/responses", {"model": "opus", "input": [{"role": LONG, "content": "a"}]}),
        ("/v1/responses", {"model": "opus", "input": "a", "tool_choice": {"type": LONG}}),
        ("/v1/responses", {"model": "opus", "input": "a", "previous_response_id": LONG}),
        ("/v1/conversations", {"items": [{"type": "item_reference", "id": LONG}]}),
        ("/api/chat", {"model": "opus", "messages": [{"role": LONG, "content": "a"}]}),
        ("/api/show", {"model": LONG}),
    ],
)
async def test_an_error_does_not_say_all_that_came(
    local: Serve, expects: Expects, path: str, body: dict[str, Any]
) -> None:
    expects("security", f"{path}: a word of megabytes where one of a few can stand", "an error of a few kilobytes")
    server = await local()
    async with server.client() as client:
        answer = await client.post(path, json=body)
    assert 400 <= answer.status_code < 500
    # A character may take six in JSON.
    assert len(answer.content) < 10 * MAX_TOLD


async def test_large_requests_beyond_what_can_be_taken_in_are_turned_away(
    local: Serve, expects: Expects, monkeypatch: pytest.MonkeyPatch
) -> None:
    expects("security", "hundreds of large requests at once, 12 kB each as they are sent", "429 beyond 64 of them")
    server = await local()
    monkeypatch.setattr(offload, "_large", FairLine(1, 1, 1, "large"))
    go_on = threading.Event()
    first = asyncio.create_task(offload.off_loop(offload.LARGE, go_on.wait, 60))
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    large = gzip.compress(json.dumps(chat("x" * offload.LARGE)).encode())
    try:
        async with server.client() as client:
            for path in ("/v1/chat/completions", "/v1/messages/count_tokens", "/v1/responses"):
                assert (await client.post(path, content=large, headers=headers)).status_code == 429
            # What is small does not wait for it.
            assert (await client.post("/v1/chat/completions", json=chat("hi"))).status_code == 200
    finally:
        go_on.set()
        await first


async def test_what_nobody_waits_for_is_let_go_of() -> None:
    go_on, kept = threading.Event(), set[int]()
    first = asyncio.create_task(offload.off_loop(offload.LARGE, go_on.wait, 60))
    value = set[int]()
    watched = weakref.ref(value)
    second = asyncio.create_task(offload.off_loop(offload.LARGE, kept.update, value))
    del value
    await asyncio.sleep(0)
    second.cancel()
    try:
        await asyncio.wait([second])
        del second
        gc.collect()
        assert watched() is None
    finally:
        go_on.set()
        await first


def test_uploads_are_bounded_together(expects: Expects) -> None:
    expects("security", "1,000 clients that stop within their bodies", "beyond 16 of the largest the oldest are cut")
    uploads, cut = Uploads(), list[str]()
    with contextlib.ExitStack() as clients:
        first, second, third = (
            clients.enter_context(uploads.one(100, lambda name=name: cut.append(name)))  # type: ignore[misc]
            for name in ("first", "second", "third")
        )
        first.grow(60)
        second.grow(40)
        assert cut == []
        third.grow(30)
        assert cut == ["first"]
        first.grow(1000)
        third.grow(31)
        assert cut == ["first", "second"]
        # One alone is bounded by itself.
        third.grow(1000)
        assert cut == ["first", "second"]
    with uploads.one(100, None) as last:
        last.grow(100)


def test_threads_give_way_to_the_loop_soon() -> None:
    before = sys.getswitchinterval()
    try:
        offload.give_way_quickly()
        assert sys.getswitchinterval() == pytest.approx(offload.SWITCH)
    finally:
        sys.setswitchinterval(before)


def test_of_a_long_message_both_ends_are_told() -> None:
    assert shown("a" * MAX_TOLD) == "a" * MAX_TOLD
    assert shown(f"Invalid{'a' * 10_000}`at[0]`").startswith("Invalid")
    assert shown(f"Invalid{'a' * 10_000}`at[0]`").endswith("`at[0]`")


def test_the_head_of_a_data_url_is_not_taken_apart_at_any_length(expects: Expects) -> None:
    expects("security", "a data URL with a million parameters", "400, without a list of them")
    url = "data:image/png" + ";" * 1_000_000 + "base64,AAAA"
    tracemalloc.start()
    try:
        with pytest.raises(Rejection):
            data_url(url, "where")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


async def test_those_who_follow_a_response_have_its_large_events_in_common(serve: Serve, expects: Expects) -> None:
    expects("security", "50 slow readers of the events of a response with 1 MB of instructions", "kept once for all")
    server = await serve()
    async with server.client() as client:
        asked = {"model": "opus", "input": "a", "background": True, "instructions": "b" * 1_000_000}
        id = (await client.post("/v1/responses", json=asked)).json()["id"]
    job = server.service.jobs.find("", id)
    assert job is not None
    await until(lambda: job.ended, 60, "it has ended")
    tracemalloc.start()
    readers = [job.follow(-1) for _ in range(50)]
    try:
        for reader in readers:
            assert len(await anext(reader)) > 100_000
        # Each has a piece of 256 kB to itself.
        assert tracemalloc.get_traced_memory()[0] < 20_000_000
    finally:
        tracemalloc.stop()
        for reader in readers:
            await reader.aclose()


async def test_what_a_request_holds_is_let_go_of_when_it_has_ended(local: Serve, expects: Expects) -> None:
    expects("security", "large requests, answered, refused or turned away", "let go of at their end")
    server = await local(parked=0, max_conversations=1, max_queue=1)
    slow = chat([["sleep", 0.2], ["say", "a"], ["end"]])
    wrong = chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "wrong"}}})
    gc.collect()
    # Those of other tests, held so that no other gets the same id.
    others = plans()
    known = set(map(id, others))
    gc.disable()
    try:
        async with server.client() as client:
            asked = [client.post("/v1/chat/completions", json=body) for body in (slow, slow, slow, wrong)]
            found = sorted(answer.status_code for answer in await asyncio.gather(*asked))
            assert found == [200, 200, 400, 429]
            broken = chat([["say", "a"], ["exit", 3]], n=2)
            assert (await client.post("/v1/chat/completions", json=broken)).status_code == 502
            told = await client.post("/v1/chat/completions", json=slow | {"stream": True})
            assert told.status_code == 200
            background = {"model": "opus", "input": "a", "background": True}
            response = (await client.post("/v1/responses", json=background)).json()["id"]
        job = server.service.jobs.find("", response)
        assert job is not None
        await until(lambda: job.ended, 60, "it has ended")
        if sys.version_info >= (3, 14):
            # There a task that was cancelled is in a cycle with its own error.
            gc.collect()
        await until(lambda: {id(each) for each in plans()} <= known, 60, "nothing is left of the requests")
    finally:
        gc.enable()


def plans() -> list[Plan]:
    return [each for each in gc.get_objects() if type(each) is Plan]
