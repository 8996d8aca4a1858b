"""proxy/protocol/pieces.py, and that no step of a large request is one call over all of it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from proxy.cli.process import WRITTEN_AT_ONCE, Child, Launch
from proxy.protocol import fingerprint, pieces
from proxy.protocol.commands import ask, initialize
from proxy.protocol.dialogue import Dialogue
from proxy.protocol.pieces import PIECE, in_pieces
from proxy.protocol.plan import (
    Base64Source,
    DocumentBlock,
    ImageBlock,
    Message,
    Plan,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from tests.outcomes import Expects

encode = msgspec.json.Encoder().encode
TEXT = 'a"b\\c\n\0\u2028é日😀 ' * (PIECE // 8)


def large() -> Message:
    raw = Raw(encode({"path": TEXT, "more": [1, 2]}))
    return Message("user", (
        TextBlock(TEXT), TextBlock("short"), ToolResultBlock("id", (TextBlock("x" * (PIECE + 1)),)),
        ImageBlock(Base64Source("image/png", "QUJD" * PIECE)), ToolUseBlock("id", "name", raw),
        DocumentBlock(Base64Source("application/pdf", "x" * PIECE), "title"),
    ))  # fmt: skip


def same(one: bytes, other: bytes) -> bool:
    """Compared so that nobody is shown the difference between megabytes."""
    return one == other


def test_the_pieces_are_what_one_call_gives() -> None:
    found = list(in_pieces(large(), encode))
    assert same(b"".join(found), encode(large()))
    assert max(map(len, found)) < 8 * PIECE
    for piece in found:
        piece.decode()


@given(st.recursive(st.text(), lambda one: st.lists(one) | st.tuples(one, one), max_leaves=8), st.integers(1, 5))
def test_any_value(value: Any, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE", size)
        assert b"".join(in_pieces([value, Raw(encode(value))], encode)) == encode([value, Raw(encode(value))])


def test_a_large_value_is_never_encoded_in_one_call(monkeypatch: pytest.MonkeyPatch, expects: Expects) -> None:
    expects("faults", "16 MB of text or a file of 30 MB in one message", "encoded, hashed and written in pieces")
    sizes: list[int] = []

    def noting(value: object) -> bytes:
        sizes.append(len(encode(value)))
        return encode(value)

    monkeypatch.setattr(pieces, "_text", noting)
    monkeypatch.setattr(fingerprint, "_encode", noting)
    monkeypatch.setattr("proxy.protocol.replies._encode", noting)
    plan = Plan("opus", TEXT, (large(),))
    line = ask(large())
    assert line.count(b"\n") == 1
    assert same(encode(msgspec.json.decode(line)["message"]), encode(msgspec.json.decode(encode(large()))))
    assert encode(TEXT).replace("\u2028".encode(), b"\\u2028") in initialize(plan, "replace")
    fingerprint.of_all(plan, "")
    assert len(sizes) > 20
    # A character may become six bytes.
    assert max(sizes) < 7 * PIECE


def test_the_hash_is_that_of_the_whole() -> None:
    sorted_ = msgspec.json.Encoder(order="sorted").encode
    assert fingerprint.digest(large(), b"before") == hashlib.sha256(b"before" + sorted_(large())).digest()


def test_large_lines_are_not_joined_to_be_sent() -> None:
    dialogue = Dialogue()
    dialogue.begin(Plan("haiku", None, (large(),)))
    initial, settings, question = dialogue.to_send()
    assert len(question) > PIECE > len(initial) + len(settings)
    dialogue.begin(Plan("haiku", None, (Message("user", (TextBlock("hi"),)),)))
    assert len(dialogue.to_send()) == 1


async def test_a_child_that_does_not_read_is_written_to_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "go"
    script = f"while [ ! -e {go} ]; do sleep 0.05; done; head -c {(5 << 20) + 3} >{tmp_path}/got"
    child = await Child.start(Launch(("/bin/sh", "-c", script), {"PATH": os.environ["PATH"]}, "/"))
    sizes: list[int] = []
    stdin = child._stdin
    assert stdin is not None
    write = stdin.write

    def noting(data: Any) -> None:
        sizes.append(len(data))
        write(data)

    monkeypatch.setattr(stdin, "write", noting)
    data = os.urandom(5 << 20)
    child.write(data)
    child.write(b"end")
    assert sum(sizes) < 2 * WRITTEN_AT_ONCE, "the rest waits, and is not copied"
    go.touch()
    await asyncio.wait_for(child.read(), 60)
    assert same((tmp_path / "got").read_bytes(), data + b"end")
    assert max(sizes) <= WRITTEN_AT_ONCE
    await child.stop(1)
