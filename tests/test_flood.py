"""Many cheap requests: what each makes the server hold or write is bounded, whatever it asks for."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from proxy.protocol.failures import MAX_TOLD, Rejection, shown
from proxy.protocol.media import data_url
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
    expects("security", "50 slow readers of the events of a response with 1 MB of instructions", "1 MB for all of them")
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
        # What each has beside it is the piece that it is taking.
        assert tracemalloc.get_traced_memory()[0] < 5_000_000
    finally:
        tracemalloc.stop()
        for reader in readers:
            await reader.aclose()
