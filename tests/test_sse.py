"""proxy/http/sse.py: what a stream is made of."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence

import pytest
from msgspec import Struct

from proxy.http import sse
from proxy.protocol.failures import Failure, Kind, Rejection


class Value(Struct):
    text: str


async def written(first: Sequence[Value], *rest: Sequence[Value] | Exception) -> list[bytes]:
    async def values() -> AsyncIterator[Sequence[Value]]:
        for item in rest:
            if isinstance(item, Exception):
                raise item
            yield item

    return [piece async for piece in sse.stream(first, values())]


async def test_events_and_the_end() -> None:
    assert await written([Value("a")], [Value("b")]) == [
        b'data: {"text":"a"}\n\n',
        b'data: {"text":"b"}\n\n',
        b"data: [DONE]\n\n",
    ]


async def test_what_comes_together_is_written_together() -> None:
    assert (await written([Value("a"), Value("b")]))[0] == b'data: {"text":"a"}\n\ndata: {"text":"b"}\n\n'


async def test_silence_is_a_comment() -> None:
    assert await written([], [], [Value("a")]) == [
        b": keep-alive\n\n",
        b": keep-alive\n\n",
        b'data: {"text":"a"}\n\n',
        b"data: [DONE]\n\n",
    ]


async def test_a_failure_is_an_event_and_the_end_without_done() -> None:
    failure = Rejection(Failure(Kind.CLI_DIED, "It died."))
    pieces = await written([Value("half")], failure)
    assert pieces[0] == b'data: {"text":"half"}\n\n'
    assert json.loads(pieces[1].removeprefix(b"data: ")) == {
        "error": {"message": "It died.", "type": "server_error", "param": None, "code": "cli_died"}
    }
    assert len(pieces) == 2


async def test_a_bug_in_mid_stream_is_an_error_event_too_and_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    pieces = await written([Value("half")], ZeroDivisionError("secret innards"))
    assert len(pieces) == 2
    error = json.loads(pieces[1].removeprefix(b"data: "))["error"]
    assert error["code"] == "internal_error"
    assert "secret innards" not in error["message"]
    assert "secret innards" in caplog.text


@pytest.mark.parametrize("text", ["line\nbreak\r\n\r\n", "data: x\n\ndata: [DONE]\n\n", "\u2028\u2029\x85", "\x00"])
async def test_text_cannot_leave_its_event(text: str) -> None:
    (event, done) = await written([Value(text)])
    assert done == b"data: [DONE]\n\n"
    assert event.endswith(b"\n\n")
    assert b"\n" not in event[:-2]
    assert b"\r" not in event
    assert json.loads(event[6:]) == {"text": text}
