"""What the CLI writes that no recording has: found in lines, counted by the server, told by the doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import unproven as counts
from proxy.cli.unproven import UnprovenCounts
from proxy.doctor import check_unproven
from proxy.protocol.line_decoder import decode_line
from proxy.protocol.unproven import Unproven, unproven, unproven_word
from tests import cli_lines as say
from tests import generate_known_lines

FIELD = Unproven("field", "assistant invented")


def found(table: dict[str, Any] | str) -> list[Unproven]:
    raw = (table if isinstance(table, str) else json.dumps(table)).encode()
    line = decode_line(raw)
    reason = unproven_word(line)
    return [*unproven(line, raw), *([] if reason is None else [reason])]


def test_the_table_is_that_of_the_recordings() -> None:
    fresh = generate_known_lines.FILE.read_text("utf-8") == generate_known_lines.text()
    assert fresh, "run `python -m tests.generate_known_lines`"


def test_no_recorded_line_has_anything_new() -> None:
    new = {str(one) for _, table in generate_known_lines.recorded() for one in found(table)}
    assert new == set()


@pytest.mark.parametrize(
    ("line", "new"),
    [
        ({"type": "invented", "text": "secret"}, [Unproven("line type", "invented")]),
        ({"type": "system", "subtype": "invented"}, [Unproven("line type", "system/invented")]),
        (say.event({"type": "invented"}), [Unproven("line type", "stream_event/invented")]),
        ({"type": "assistant", "message": {"content": []}, "invented": {"secret": 1}}, [FIELD]),
        (
            {"type": "assistant", "message": {"content": [{"type": "text", "text": "x", "invented": "secret"}] * 2}},
            [Unproven("field", "assistant message.content[].invented")],
        ),
        (
            {"type": "assistant", "message": {"model": "m", "content": [], "stop_reason": "invented"}},
            [Unproven("stop reason", "invented")],
        ),
        (
            say.event({"type": "message_delta", "delta": {"stop_reason": "invented"}, "usage": {"output_tokens": 1}}),
            [Unproven("stop reason", "invented")],
        ),
        (say.opened(type="invented"), [Unproven("block type", "invented")]),
        (say.event({"type": "content_block_delta", "index": 0, "delta": {"type": "invented_delta"}}),
         [Unproven("delta type", "invented_delta")]),
        (say.limits("invented"), [Unproven("limit status", "invented")]),
        # The names within arguments are a model's, so they are text.
        ({"type": "assistant", "message": {"content": [{"type": "tool_use", "input": {"secret": 1}}]}}, []),
        ({"type": "assistant", "message": {"content": []}, "a secret": 1},
         [Unproven("field", "assistant (no plain name)")]),
        ({"type": "so secret!"}, [Unproven("line type", "(no plain name)")]),
        ("no JSON: secret", [Unproven("line type", "(not JSON)")]),
        ("[1]", [Unproven("line type", "(not JSON)")]),
        ({"type": "control_request", "request_id": "1", "request": {"subtype": "invented"}},
         [Unproven("line type", "control_request/invented")]),
    ],
)  # fmt: skip
def test_what_is_new_in_a_line(line: dict[str, Any] | str, new: list[Unproven]) -> None:
    assert found(line) == new
    assert "secret" not in str(found(line))


def told(counter: UnprovenCounts, *tables: dict[str, Any]) -> None:
    watch = counter.watch()
    for table in tables:
        raw = json.dumps(table).encode()
        watch(decode_line(raw), raw)


ASSISTANT = {"type": "assistant", "message": {"content": []}, "invented": 1}


def test_a_kind_of_line_counts_once_for_each_child_and_a_stop_reason_each_time() -> None:
    counter = UnprovenCounts()
    ended = say.event({"type": "message_delta", "delta": {"stop_reason": "new"}, "usage": {"output_tokens": 1}})
    told(counter, ASSISTANT, ASSISTANT, ended, ended)
    told(counter, ASSISTANT)
    assert counter.counts == {FIELD: 2, Unproven("stop reason", "new"): 2}


def test_names_have_a_bound() -> None:
    counter = UnprovenCounts()
    told(counter, *({"type": f"new-{number}"} for number in range(2 * counts.MAX_NAMES)))
    assert len(counter.counts) == counts.MAX_NAMES


def test_the_file_tells_the_doctor(tmp_path: Path) -> None:
    path = tmp_path / "state" / counts.FILE
    version = (2, 1, 999)
    assert check_unproven(path.parent, version) is None
    for number in range(10):
        counter = UnprovenCounts()
        counter.remember(path, f"2.1.{990 + number}")
        told(counter, ASSISTANT, {"type": "b"})
    assert list(counts.read(path)) == [f"2.1.{992 + number}" for number in range(8)]
    check = check_unproven(path.parent, version)
    assert check is not None
    assert (check.state, "field assistant invented, line type b." in check.message) == ("warn", True)
    path.write_text("no JSON")
    assert check_unproven(path.parent, version) is None


def test_a_file_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    counter = UnprovenCounts()
    counter.remember(tmp_path / "file" / counts.FILE, "2.1.999")
    told(counter, ASSISTANT)
    assert counter.counts == {FIELD: 1}
