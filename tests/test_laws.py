"""The laws of the design, over every recorded transcript: a new fixture needs no test code here.

1. Any cut of the bytes gives the same deltas.
2. Every prefix of a transcript ends in exactly one finish or failure.
3. The fold of the chunks is the whole answer, and the openai client's own accumulator agrees.
4. One id, created, model; one role, first; one finish_reason, last; usage only when asked.
5. Lines of unknown types change nothing, wherever they come.
6. Nothing that the CLI wrote as an error is ever content.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from conformance import transcript
from proxy.dialects.openai.chat import ChatEncoder, Chunks, usage_chunk
from proxy.dialects.openai.chat_types import AnswerHead, Chunk, Completion
from proxy.protocol.answer import Fold
from proxy.protocol.citations import Citing, Pages
from proxy.protocol.deltas import Delta, Failed, Finished, Proposed, Retracted, Started, Text, Thinking, Tokens
from proxy.protocol.failures import Failure, Kind
from proxy.protocol.line_decoder import LineDecoder
from proxy.protocol.plan import Schema, Search
from proxy.protocol.schema import WRAPPER
from proxy.protocol.turn import Turn
from tests.grouped import Test, for_each
from tests.test_chat import judged

ROOT = Path(__file__).parent.parent / "fixtures" / "transcripts"
IDENTITY = AnswerHead("chatcmpl-1", 1_750_000_000, "claude-code", with_usage=True)
GONE = Failure(Kind.CLI_DIED, "The CLI ended before its answer did.")


class Asked(msgspec.Struct, frozen=True):
    """What one question got: what the CLI wrote up to the next. `schema`: of the answer; `search`: it may
    search the web; `died`: the CLI did, then."""

    name: str
    data: bytes
    schema: Schema | None
    search: Search | None
    died: bool

    def __str__(self) -> str:
        return self.name


def _is_question(line: Any) -> bool:
    """A user's message to be answered, or the results of held calls."""
    if not isinstance(line, dict):
        return False
    if line["type"] == "user":
        return line.get("shouldQuery") is not False
    response = line.get("response", {}).get("response") or {}
    return line["type"] == "control_response" and "content" in (response.get("mcp_response", {}).get("result") or {})


@cache
def questions() -> list[Asked]:
    found = []
    for path in transcript.every(ROOT):
        recording = transcript.read(path)
        if not any(_is_question(crossing.line) for crossing in recording.lines if crossing.to == "cli"):
            # Counted, not asked.
            continue
        name = path.relative_to(ROOT).with_suffix("").as_posix()
        parts: list[list[bytes]] = [[]]
        schema = search = None
        for crossing in recording.lines:
            line = crossing.line
            if crossing.to == "cli":
                request = line.get("request", {}) if isinstance(line, dict) else {}
                if "jsonSchema" in request:
                    raw = msgspec.Raw(json.dumps(request["jsonSchema"]).encode())
                    wrapped = list(request["jsonSchema"].get("properties", ())) == [WRAPPER]
                    schema = Schema(raw, raw, wrapped=wrapped)
                if "hooks" in request:
                    search = Search()
                if _is_question(line) and any(b'"message_start"' in each for each in parts[-1]):
                    parts.append([])
                continue
            text = line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)
            parts[-1].append(text.encode("utf-8", "surrogatepass") + b"\n")
        found += [
            Asked(f"{name}#{number}", b"".join(part), schema, search, recording.exit is not None)
            for number, part in enumerate(parts)
            if part
        ]
    return found


def each_recording(asked: list[Asked]) -> Callable[[Test], Test]:
    """One test for all; older versions are CI's."""
    newest = f"{transcript.versions(ROOT)[-1]}/"
    return for_each(
        "asked",
        [one for one in asked if one.name.startswith(newest)],
        later=[one for one in asked if not one.name.startswith(newest)],
    )


every_question = each_recording(questions())


def deltas_of(asked: Asked, *pieces: bytes, end: bool = True) -> list[Delta]:
    """What the turn makes of these bytes; with `end` the child is gone after them."""
    decoder, turn = LineDecoder(), Turn(asked.schema, asked.search)
    citing = Citing(Pages())
    found = [delta for piece in pieces for delta in citing.take(turn.feed(decoder.feed(piece)))]
    found += citing.take(turn.feed(decoder.close()))
    return found + turn.fail(GONE) if end else found


def ends(deltas: list[Delta]) -> int:
    return sum(isinstance(delta, Finished | Failed) for delta in deltas)


def test_there_are_recordings_of_every_kind() -> None:
    names = {asked.name for asked in questions()}
    for topic in (
        "chat/plain",
        "errors/overloaded",
        "limits/max_tokens_reached",
        "reasoning/thinking",
        "search/one",
        "verbatim/at_path",
    ):
        assert any(topic in name for name in names), topic
    outcomes = {type(deltas_of(asked, asked.data)[-1]) for asked in questions()}
    assert outcomes == {Finished, Failed}


@every_question
def test_a_recording_ends_by_itself_unless_the_cli_died(asked: Asked) -> None:
    deltas = deltas_of(asked, asked.data, end=False)
    # What is proposed ends the answer if it fits; the recording stops there.
    assert ends(deltas) == (not asked.died and not isinstance(deltas[-1], Proposed))


@every_question
def test_law_1_any_cut_gives_the_same_deltas(asked: Asked) -> None:
    whole = deltas_of(asked, asked.data)
    assert deltas_of(asked, *(asked.data[at : at + 1] for at in range(len(asked.data)))) == whole
    dice = random.Random(asked.name)
    for _ in range(5):
        cuts = [0, *sorted(dice.choices(range(len(asked.data)), k=30)), len(asked.data)]
        assert deltas_of(asked, *(asked.data[a:b] for a, b in zip(cuts, cuts[1:], strict=False))) == whole  # noqa: RUF007


@every_question
def test_law_2_every_prefix_ends_once(asked: Asked) -> None:
    lines = asked.data.split(b"\n")[:-1]
    for length in range(len(lines) + 1):
        data = b"".join(line + b"\n" for line in lines[:length])
        deltas = deltas_of(asked, data)
        assert ends(deltas) == 1
        assert isinstance(deltas[-1], Finished | Failed)
        # In mid-line: the torn line is no line.
        if length < len(lines):
            torn = deltas_of(asked, data + lines[length][: len(lines[length]) // 2])
            assert [delta for delta in torn if not isinstance(delta, Failed)] == [
                delta for delta in deltas if not isinstance(delta, Failed)
            ]
            assert ends(torn) == 1


def chunks_of(asked: Asked) -> tuple[list[Chunk], Tokens] | None:
    """The chunks of an answer that came to its end."""
    deltas = deltas_of(asked, asked.data)
    last = deltas[-1]
    if not isinstance(last, Finished) or any(isinstance(delta, Retracted) for delta in deltas):
        return None
    maker = Chunks(IDENTITY)
    return [*maker.feed(deltas), usage_chunk(IDENTITY, maker.model, last.tokens)], last.tokens


ANSWERED = [asked for asked in questions() if chunks_of(asked) is not None]


@each_recording(ANSWERED)
def test_law_3_fold_is_what_the_openai_client_folds(asked: Asked) -> None:
    found = chunks_of(asked)
    assert found is not None
    chunks, tokens = found
    deltas = deltas_of(asked, asked.data)
    fold = Fold()
    fold.take(deltas)
    whole = ChatEncoder(IDENTITY).whole([fold.answer()], tokens)
    assert isinstance(whole, Completion)
    client = judged(chunks, whole).model_dump(exclude_unset=True)
    ours = json.loads(msgspec.json.encode(whole))
    assert client["usage"] == ours["usage"]
    theirs, mine = client["choices"][0], ours["choices"][0]
    assert theirs["finish_reason"] == mine["finish_reason"]
    assert (theirs["message"].get("content") or "") == (mine["message"]["content"] or "")
    assert theirs["message"].get("reasoning_content") == mine["message"].get("reasoning_content")
    assert [call["function"]["arguments"] for call in theirs["message"].get("tool_calls") or []] == [
        call["function"]["arguments"] for call in mine["message"].get("tool_calls", [])
    ]
    assert all(call["function"]["arguments"] for call in mine["message"].get("tool_calls", []))
    assert (mine["message"]["content"] or "") == "".join(delta.text for delta in deltas if isinstance(delta, Text))


@each_recording(ANSWERED)
def test_law_4_one_identity_one_role_one_end(asked: Asked) -> None:
    found = chunks_of(asked)
    assert found is not None
    chunks = [json.loads(msgspec.json.encode(chunk)) for chunk in found[0]]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert chunks[0]["model"]
    *body, usage = chunks
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] > 0
    assert all(chunk["usage"] is None for chunk in body)
    assert ["role" in chunk["choices"][0]["delta"] for chunk in body] == [True] + [False] * (len(body) - 1)
    assert [chunk["choices"][0]["finish_reason"] is not None for chunk in body] == [False] * (len(body) - 1) + [True]


UNKNOWN = (
    b'{"type":"conformance_unknown","message":{"content":"not mine"}}\n'
    b'{"type":"system","subtype":"conformance_unknown","error":{"odd":1}}\n'
    b'{"type":"stream_event","event":{"type":"conformance_unknown"}}\n'
    b"(runtime) Warning: not JSON\n\xff\xfe\n"
)


@every_question
def test_law_5_lines_of_unknown_types_change_nothing(asked: Asked) -> None:
    noisy = b"".join(UNKNOWN + line + b"\n" for line in asked.data.split(b"\n")[:-1]) + UNKNOWN
    assert deltas_of(asked, noisy) == deltas_of(asked, asked.data)


def errors_in(data: bytes) -> set[str]:
    """What the CLI wrote as an error, in whatever place."""
    found: set[str] = set()
    for row in data.split(b"\n"):
        try:
            line = json.loads(row)
        except ValueError:
            continue
        if line["type"] == "assistant" and line["message"]["model"] == "<synthetic>":
            found |= {block["text"] for block in line["message"]["content"] if block["type"] == "text"}
        if line["type"] == "result" and line.get("is_error"):
            found |= {line.get("result") or "", *line.get("errors", [])}
    return {text for text in found if text.strip()}


@every_question
def test_law_6_no_error_is_ever_content(asked: Asked) -> None:
    errors = errors_in(asked.data)
    deltas = deltas_of(asked, asked.data)
    text = "".join(delta.text for delta in deltas if isinstance(delta, Text | Thinking))
    assert not any(error in text for error in errors)
    if errors and not any(isinstance(delta, Started) for delta in deltas):
        assert isinstance(deltas[-1], Failed)


def test_law_6_has_errors_to_look_for() -> None:
    assert sum(bool(errors_in(asked.data)) for asked in questions()) >= 8
