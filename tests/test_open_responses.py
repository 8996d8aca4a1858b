"""conformance/open_responses.py: what it finds wrong, and what it leaves out. Every replayed answer is judged by it."""

from __future__ import annotations

from typing import Any

import pytest

from conformance import open_responses
from tests.responses_api import PATH, client, events

BODY = {"model": "opus", "input": "Hello."}


@pytest.fixture
async def response() -> dict[str, Any]:
    async with client() as http:
        found: dict[str, Any] = (await http.post(PATH, json=BODY)).json()
    return found


async def test_every_event_of_an_answer_has_a_type() -> None:
    async with client() as http:
        told = events((await http.post(PATH, json=BODY | {"stream": True})).text)
    assert {event["type"] for event in told} <= open_responses.EVENTS.keys()
    assert [words for event in told for words in open_responses.wrong_event(event)] == []


@pytest.mark.parametrize("field", ["presence_penalty", "completed_at", "store", "usage"])
def test_what_is_missing_is_wrong(response: dict[str, Any], field: str) -> None:
    assert open_responses.wrong(response) == []
    (words,) = open_responses.wrong({name: value for name, value in response.items() if name != field})
    assert words.startswith(f"Open Responses: {field}: ")


def test_what_it_does_not_know_is_left_out(response: dict[str, Any]) -> None:
    more = {
        "output": [*response["output"], {"type": "custom_tool_call", "id": "ctc_1"}],
        "tools": [{"type": "custom", "name": "run"}],
        "tool_choice": {"type": "custom", "name": "run"},
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}, "verbosity": "medium"},
    }
    assert open_responses.wrong(response | more) == []
    assert open_responses.wrong(response | {"output": [{"type": "message", "id": "msg_1"}]}) != []
    added = {"type": "response.output_item.added", "sequence_number": 0, "output_index": 0}
    assert open_responses.wrong_event(added | {"item": {"type": "custom_tool_call"}}) == []
    assert open_responses.wrong_event(added | {"item": {"type": "message"}}) != []
    assert open_responses.wrong_event({"type": "response.custom_tool_call_input.delta"}) == []
