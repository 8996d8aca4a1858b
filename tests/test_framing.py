"""proxy/http/framing.py: what a stream is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension
from syrupy.location import PyTestLocation

from conformance.replay import NEWEST
from proxy.dialects import Comment, Event, Framing
from proxy.dialects.openai.chat import ChatEncoder
from proxy.dialects.openai.chat_types import AnswerHead
from proxy.http.framing import WRITTEN_AT_ONCE, framed, written
from proxy.protocol.deltas import Failed, Finished
from tests.test_laws import deltas_of, questions


class Value(Struct):
    text: str


def test_events_are_written_together_in_their_order() -> None:
    events: list[Event | Comment] = [Event(Value("a")), Event(Value("b"), "named"), Comment("alive"), Event("[DONE]")]
    assert framed(Framing.SSE, events) == (
        b'data: {"text":"a"}\n\nevent: named\ndata: {"text":"b"}\n\n: alive\n\ndata: [DONE]\n\n'
    )


def test_json_lines_have_neither_names_nor_comments() -> None:
    events: list[Event | Comment] = [Event(Value("a")), Comment("alive"), Event(Value("b"), "named")]
    assert framed(Framing.NDJSON, events) == b'{"text":"a"}\n{"text":"b"}\n'


@pytest.mark.parametrize("framing", Framing)
@pytest.mark.parametrize(
    "lengths", [[1, 2, 3], [1, 10**6, 1], [10**6, 10**6], [WRITTEN_AT_ONCE - 100] * 3, [9] * 50_000]
)
def test_writes_are_what_is_framed_and_small(framing: Framing, lengths: list[int]) -> None:
    events = [Event(Value(f"{number}" * length)) for number, length in enumerate(lengths)]
    writes = list(written(framing, events))
    assert b"".join(writes) == framed(framing, events)
    assert max(map(len, writes)) <= WRITTEN_AT_ONCE
    assert len(writes) <= 2 * len(framed(framing, events)) // WRITTEN_AT_ONCE + 1


def test_a_large_event_is_made_when_it_is_its_turn() -> None:
    def events() -> Iterator[Event]:
        yield Event(Value("a" * 10**6))
        pytest.fail("the second one is not asked for yet")

    assert next(written(Framing.SSE, events())).startswith(b"data: ")


@pytest.mark.parametrize("framing", Framing)
def test_nothing_is_no_bytes(framing: Framing) -> None:
    assert framed(framing, []) == b""
    assert list(written(framing, [])) == []


@pytest.mark.parametrize("text", ["line\nbreak\r\n\r\n", "data: x\n\ndata: [DONE]\n\n", "\u2028\u2029\x85", "\x00"])
def test_text_cannot_leave_its_event(text: str) -> None:
    event = framed(Framing.SSE, [Event(Value(text))])
    assert event.endswith(b"\n\n")
    assert b"\n" not in event[:-2]
    assert b"\r" not in event
    assert json.loads(event[6:]) == {"text": text}


# Canonical streams, as bytes: a change of the wire is seen


class Stream(SingleFileSnapshotExtension):
    """One raw `.sse` file a stream."""

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
def test_canonical_streams(snapshot: SnapshotAssertion, recording: str) -> None:
    recording, _, with_usage = recording.partition(" with ")
    (asked,) = [asked for asked in questions() if asked.name == f"{NEWEST}/{recording}#0"]
    encoder = ChatEncoder(AnswerHead("chatcmpl-1", 1_750_000_000, "claude-code", bool(with_usage)))
    *deltas, last = deltas_of(asked, asked.data)
    events = [*encoder.open(), *encoder.feed(0, deltas)]
    if isinstance(last, Failed):
        events += encoder.fail(last.failure)
    else:
        assert isinstance(last, Finished)
        events += [*encoder.feed(0, [last]), *encoder.close(last.tokens)]
    assert framed(Framing.SSE, events) == snapshot(extension_class=Stream)
