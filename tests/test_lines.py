"""proxy/protocol/lines.py and line_decoder.py: bytes to lines, whatever way they are cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol import line_decoder, lines
from proxy.protocol.line_decoder import LineDecoder, decode_line
from proxy.protocol.lines import (
    Assistant,
    BlockPiece,
    BlockStart,
    BlockStop,
    ControlRequest,
    ControlResponse,
    Garbage,
    Line,
    Malformed,
    MessageDelta,
    MessageStart,
    MessageStop,
    RateLimit,
    Result,
    StreamEvent,
    System,
    Unknown,
    User,
)
from tests import cli_lines as say

SAMPLES: list[say.Table] = [
    *say.answer("Hel", "lo wörld 🌍 日本"),
    *say.call(1, "toolu_1", "get", '{"a":', "1}"),
    say.thought("hm"),
    say.signature(),
    say.words("API Error", "overloaded"),
    say.retry(),
    say.error_result(api_error_status=429),
    {"type": "user", "message": {"role": "user", "content": "x"}},
    {"type": "control_request", "request_id": "1", "request": {"subtype": "mcp_message", "server_name": "client"}},
    say.reply("initialize"),
    {"type": "brand_new", "data": {"nested": [1]}},
]
EXPECTED = [decode_line(json.dumps(sample).encode()) for sample in SAMPLES]
STREAM = say.raw(*SAMPLES)


def decoded(*chunks: bytes) -> list[Line]:
    decoder = LineDecoder()
    found = [line for chunk in chunks for line in decoder.feed(chunk)]
    return found + decoder.close()


def only(table: say.Table) -> Line:
    (line,) = say.lines(table)
    return line


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (say.start(), MessageStart),
        (say.opened(), BlockStart),
        (say.piece("x"), BlockPiece),
        (say.closed(), BlockStop),
        (say.end(), MessageDelta),
        (say.stopped(), MessageStop),
    ],
)
def test_every_declared_event_is_read(table: say.Table, kind: type) -> None:
    line = only(table)
    assert isinstance(line, StreamEvent)
    assert type(line.event) is kind


@pytest.mark.parametrize(
    ("type_", "name"),
    [
        ("text_delta", "text"),
        ("thinking_delta", "thinking"),
        ("input_json_delta", "partial_json"),
        ("signature_delta", "signature"),
    ],
)
def test_a_piece_without_its_content_is_malformed(type_: str, name: str) -> None:
    """A part of the answer would be lost in silence where a release renames it."""
    pieces: list[dict[str, str]] = [{name: "x"}, {name: ""}, {"renamed": "x"}, {}]
    lines = [only(say.event({"type": "content_block_delta", "index": 0, "delta": {"type": type_} | p})) for p in pieces]
    assert [type(line) for line in lines] == [StreamEvent, StreamEvent, Malformed, Malformed]
    other = only(say.event({"type": "content_block_delta", "index": 0, "delta": {"type": "invented_delta"}}))
    assert type(other) is StreamEvent


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (say.snapshot(say.text_block("x")), Assistant),
        ({"type": "user", "message": {"role": "user", "content": [{"type": "text", "text": "x"}]}}, User),
        (say.system("status"), System),
        (say.limits(), RateLimit),
        (say.result(), Result),
        ({"type": "control_request", "request_id": "1", "request": {"subtype": "can_use_tool"}}, ControlRequest),
        (say.reply("1"), ControlResponse),
    ],
)
def test_every_declared_line_is_read(table: say.Table, kind: type) -> None:
    assert type(only(table)) is kind


def test_the_samples_hold_every_declared_type() -> None:
    assert {line.__struct_config__.tag for line in EXPECTED} - {None} == line_decoder.KNOWN_TYPES
    assert {
        line.event.__struct_config__.tag for line in EXPECTED if isinstance(line, StreamEvent)
    } == line_decoder.KNOWN_EVENTS


def test_fields_that_the_turn_needs_are_read() -> None:
    head = only(say.start("m", {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 1}))
    assert isinstance(head, StreamEvent)
    assert isinstance(head.event, MessageStart)
    assert head.event.message.model == "m"
    assert (head.event.message.usage.input_tokens, head.event.message.usage.cache_read_input_tokens) == (3, 4)
    assert head.event.message.usage.cache_creation_input_tokens is None
    line = only(say.retry(1234.5, 401, "authentication_failed"))
    assert isinstance(line, System)
    assert (line.retry_delay_ms, line.error_status, line.error) == (1234.5, 401, "authentication_failed")
    line = only(say.error_result("no", api_error_status=429, api_error="usage_limit_reached", terminal_reason="x"))
    assert isinstance(line, Result)
    assert (line.is_error, line.result, line.api_error_status, line.api_error, line.terminal_reason) == (
        True, "no", 429, "usage_limit_reached", "x",
    )  # fmt: skip


def test_the_models_of_the_cli_are_read() -> None:
    models = [{"value": "opus", "resolvedModel": "claude-opus-5-5", "supportedEffortLevels": ["low"], "new": 1}]
    line = only(say.reply("models", response={"models": models}))
    assert isinstance(line, ControlResponse)
    assert line.response.response is not None
    assert [model.value for model in line.response.response.models] == ["opus"]


def test_a_tool_call_of_mcp_says_whose_it_is() -> None:
    message = {
        "jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": {"name": "get", "arguments": {"b": 1}, "_meta": {"claudecode/toolUseId": "toolu_1", "new": 2}},
    }  # fmt: skip
    request = {"subtype": "mcp_message", "server_name": "client", "message": message}
    line = only({"type": "control_request", "request_id": "r1", "request": request})
    assert isinstance(line, ControlRequest)
    assert line.request.message.id == 7
    assert line.request.message.params.meta.tool_use_id == "toolu_1"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (say.piece("secret"), "stream_event/content_block_delta"),
        (say.system("init"), "system/init"),
        (say.error_result("secret"), "result/success"),
        (say.limits(), "rate_limit_event"),
        ({"type": "new", "text": "secret"}, "new"),
        ({"type": "stream_event", "event": {"type": "new"}}, "stream_event/new"),
        ({"type": "assistant", "message": "secret"}, "assistant"),
    ],
)
def test_a_label_says_nothing_of_the_content(line: dict[str, Any], name: str) -> None:
    assert lines.label(only(line)) == name


def test_what_is_no_json_has_a_label() -> None:
    assert lines.label(decode_line(b"secret")) == "(not JSON)"


# Cuts


def test_byte_by_byte_gives_the_same_lines() -> None:
    assert decoded(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == EXPECTED


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_any_cut_gives_the_same_lines(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert decoded(*(STREAM[a:b] for a, b in pairwise(edges))) == EXPECTED


def test_lines_come_as_soon_as_they_are_complete() -> None:
    decoder = LineDecoder()
    first, second = say.raw(say.piece("a")), say.raw(say.piece("b"))
    assert decoder.feed(first + second[:10]) == say.lines(say.piece("a"))
    assert decoder.feed(second[10:]) == say.lines(say.piece("b"))
    assert decoder.close() == []


def test_the_last_line_needs_no_newline() -> None:
    decoder = LineDecoder()
    assert decoder.feed(STREAM[:-1]) == EXPECTED[:-1]
    assert decoder.close() == EXPECTED[-1:]
    assert decoder.close() == []


def test_blank_lines_and_carriage_returns_are_no_lines() -> None:
    data = b"\n\r\n  \n" + say.raw(say.piece("x")).replace(b"\n", b"\r\n") + b" \n"
    assert decoded(data) == say.lines(say.piece("x"))


def test_a_line_of_six_megabytes() -> None:
    text = "日本x" * 900_000
    data = say.raw(say.piece(text))
    assert len(data) > 6_000_000
    chunks = [data[at : at + 65536] for at in range(0, len(data), 65536)]
    (line,) = decoded(*chunks)
    assert isinstance(line, StreamEvent)
    assert isinstance(line.event, BlockPiece)
    assert line.event.delta.text == text


# What cannot be read


@pytest.mark.parametrize(
    "data",
    [
        b"Warning: something of the runtime", b"{", b"[]", b"[1]", b"null", b"1", b'"type"', b"{}", b'{"type":null}',
        b'{"type":5}', b'{"no":"type"}', b"\xff\xfe", b'{"type":"user"', b"[" * 5000, b'{"a":' * 5000,
    ],
)  # fmt: skip
def test_what_is_no_line_of_the_cli_is_garbage(data: bytes) -> None:
    assert decode_line(data) == Garbage(data[:80])


@pytest.mark.parametrize("type_", ["keep_alive", "control_cancel_request", "", "Assistant", "streamevent"])
def test_undeclared_types_are_unknown(type_: str) -> None:
    assert only({"type": type_, "request": 5, "message": "x"}) == Unknown(type_)


def test_undeclared_events_are_unknown() -> None:
    assert only(say.event({"type": "ping"})) == Unknown("stream_event/ping")
    assert only(say.event({"type": "message_note", "message": 1})) == Unknown("stream_event/message_note")


@pytest.mark.parametrize(
    "table",
    [
        {"type": "assistant"},
        {"type": "assistant", "message": {"model": 5}},
        {"type": "stream_event"},
        {"type": "stream_event", "event": None},
        {"type": "stream_event", "event": {"type": "content_block_delta", "index": "0", "delta": {}}},
        {"type": "result", "is_error": "yes"},
        {"type": "stream_event", "event": []},
        {"type": "assistant", "event": []},
        {"type": "control_response", "response": {}},
    ],
)
def test_a_declared_type_of_another_shape_is_malformed_and_not_dropped(table: say.Table) -> None:
    line = only(table)
    assert isinstance(line, Malformed)
    assert line.type == table["type"]
    assert line.reason


@pytest.mark.parametrize(
    "table",
    [
        say.system("brand_new", error={"code": 1}),
        say.system("brand_new", retry_delay_ms="soon"),
        {"type": "system", "subtype": 5},
        {"type": "rate_limit_event", "rate_limit_info": "none"},
        {"type": "rate_limit_event"},
    ],
)
def test_lines_beside_the_answer_may_take_any_shape(table: say.Table) -> None:
    assert only(table) == Unknown(table["type"])


def test_bad_utf8_in_a_part_of_the_answer_is_malformed() -> None:
    data = say.raw(say.piece("X")).strip().replace(b'"X"', b'"\xff"')
    line = decode_line(data)
    assert isinstance(line, Malformed)
    assert line.type == "stream_event"


@pytest.mark.parametrize("depth", [10, 5000, 100_000])
def test_deep_nesting_in_a_field_that_is_not_read_never_raises(depth: int) -> None:
    deep = b'{"type":"system","subtype":"init","x":' + b"[" * depth + b"]" * depth + b"}"
    assert isinstance(decode_line(deep), System if depth < 100 else (System, Malformed, Garbage))


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    decoded(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "event", "message", "subtype", "request", "response", "request_id", "error", "usage", "is_error", "num_turns",
        "result", "rate_limit_info", "parent_tool_use_id", "stop_reason", "error_status", "structured_output",
    ]
)  # fmt: skip


@given(st.sampled_from(sorted(line_decoder.KNOWN_TYPES)), st.dictionaries(FIELDS, JSON, max_size=4))
def test_a_declared_type_with_any_fields_is_never_garbage(type_: str, fields: dict[str, Any]) -> None:
    line = decode_line(json.dumps({"type": type_} | fields).encode())
    assert not isinstance(line, Garbage)
    if isinstance(line, Unknown):
        assert type_ in line_decoder.BESIDE or line.type.startswith("stream_event/")
