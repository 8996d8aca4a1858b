"""proxy/http/sse.py: what a stream is made of."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from msgspec import Struct
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension
from syrupy.location import PyTestLocation

from conformance.replay import NEWEST
from proxy.http import sse
from proxy.protocol.chat import Chunk, Chunks, Identity, usage_chunk
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.protocol.turn import Failed, Finished
from tests.test_laws import deltas_of, questions


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


# Canonical streams, as bytes: a change of the wire is seen


class Stream(SingleFileSnapshotExtension):
    """One raw `.sse` file a stream, in tests/snapshots/test_sse."""

    file_extension = "sse"

    @classmethod
    def dirname(cls, *, test_location: PyTestLocation) -> str:
        return str(Path(test_location.filepath).parent / "snapshots" / test_location.basename)


@pytest.mark.parametrize(
    "recording",
    ["chat/plain", "chat/plain with usage", "chat/empty_answer", "tools/one_call", "tools/parallel_calls",
     "tools/text_then_call", "tools/no_arguments", "schema/kept", "reasoning/thinking", "limits/max_tokens_reached",
     "limits/refusal", "errors/cut_after_text"],
    ids=lambda recording: recording.replace("/", "-").replace(" ", "-"),
)  # fmt: skip
async def test_canonical_streams(snapshot: SnapshotAssertion, recording: str) -> None:
    recording, _, with_usage = recording.partition(" with ")
    (asked,) = [asked for asked in questions() if asked.name == f"{NEWEST}/{recording}#0"]
    identity = Identity("chatcmpl-1", 1_750_000_000, "claude-code", bool(with_usage))
    maker = Chunks(identity)

    async def chunks() -> AsyncIterator[Sequence[Chunk]]:
        for delta in deltas_of(asked, asked.data):
            yield maker.feed([delta])
            if isinstance(delta, Failed):
                raise Rejection(delta.failure)
            if isinstance(delta, Finished) and with_usage:
                yield [usage_chunk(identity, maker.model, delta.tokens)]

    pieces = [piece async for piece in sse.stream([], chunks())]
    data = b"".join(piece for piece in pieces if piece != sse.KEEP_ALIVE)
    assert data == snapshot(extension_class=Stream)
