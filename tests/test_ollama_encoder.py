"""proxy/dialects/ollama: deltas → lines, and the whole answer; judged with the types of the package `ollama`."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import msgspec
import ollama
import pytest

from proxy.dialects import Event, Identity, Timing
from proxy.dialects.ollama.dialect import CHAT, GENERATE
from proxy.dialects.ollama.encoder import DONE_REASONS, OllamaEncoder, moment
from proxy.protocol.answer import Fold
from proxy.protocol.deltas import (
    Arguments,
    Delta,
    Failed,
    Finished,
    Reason,
    Refusal,
    Retracted,
    Started,
    Text,
    Thinking,
    Tokens,
    ToolCall,
    ToolEnd,
)
from proxy.protocol.failures import TABLE, About, Failure, Kind
from tests.test_laws import ANSWERED, Asked, deltas_of, each_recording

TOKENS = Tokens(10, 7, 5, 12, 3)
DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
STARTED = Started("claude-opus-5-5")


class Clock:
    """A request that began at a fixed time; each look at it is a second later."""

    def __init__(self, first: float | None = None) -> None:
        self.seconds = 0.0
        self.first = first

    def __call__(self) -> Timing:
        self.seconds += 1
        return Timing(1_750_000_000.5, self.seconds, self.first)


def encoder(*, chat: bool = True, thinking: bool = True, clock: Any = Timing) -> OllamaEncoder:
    return OllamaEncoder(Identity("t", 1, "f", clock), "sonnet:latest", chat=chat, thinking=thinking)


def judged(event: Any, *, chat: bool = True) -> dict[str, Any]:
    """A line as the package's types have it; the dictionary."""
    text = msgspec.json.encode(event.data if isinstance(event, Event) else event)
    (ollama.ChatResponse if chat else ollama.GenerateResponse).model_validate_json(text, strict=True)
    line: dict[str, Any] = json.loads(text)
    assert datetime.fromisoformat(line["created_at"]).tzinfo is not None
    return line


def lines_of(
    made: OllamaEncoder, deltas: list[Delta], *, chat: bool = True, tokens: Tokens = TOKENS
) -> list[dict[str, Any]]:
    events = [*made.open(), *made.feed(0, deltas), *made.close(tokens)]
    return [judged(event, chat=chat) for event in events]


def folded(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole answer that lines come to, as clients put it together."""
    whole = dict(lines[-1])
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    parts = [line.get("message", line) for line in lines]
    text = "content" if "message" in whole else "response"
    told: dict[str, Any] = {text: "".join(part[text] for part in parts)}
    if thinking := "".join(part.get("thinking", "") for part in parts):
        told["thinking"] = thinking
    if calls := [call for part in parts for call in part.get("tool_calls", ())]:
        told["tool_calls"] = calls
    return whole | ({"message": {"role": "assistant"} | told} if "message" in whole else told)


def without_times(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in ("created_at", *DURATIONS)}


@each_recording(ANSWERED)
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("thinking", [True, False])
def test_streamed_and_whole_agree_of_every_recording(asked: Asked, thinking: bool, chat: bool) -> None:
    deltas = deltas_of(asked, asked.data)
    last = deltas[-1]
    assert isinstance(last, Finished)
    fold = Fold()
    fold.take(deltas)
    lines = lines_of(encoder(chat=chat, thinking=thinking), deltas, chat=chat, tokens=last.tokens)
    whole = judged(encoder(chat=chat, thinking=thinking).whole([fold.answer()], last.tokens), chat=chat)
    if not chat and fold.answer().calls:
        # There are no tools to call.
        return
    assert without_times(folded(lines)) == without_times(whole)
    assert whole["eval_count"] == last.tokens.output


@pytest.mark.parametrize("between", [Text("and"), Thinking("Hm."), Refusal("no")])
def test_calls_keep_their_place_among_words(between: Delta) -> None:
    deltas: list[Delta] = [
        STARTED, ToolCall(0, "toolu_1", "f"), ToolEnd(0), ToolCall(1, "toolu_2", "g"), ToolEnd(1), between,
        ToolCall(2, "toolu_3", "h"), ToolEnd(2), Finished(Reason.TOOL_USE, TOKENS),
    ]  # fmt: skip
    said = [line["message"] for line in lines_of(encoder(), deltas)]
    assert [[call["function"]["name"] for call in message.get("tool_calls", ())] for message in said] == [
        ["f"], ["g"], [], ["h"], [],
    ]  # fmt: skip


def test_the_lines_of_an_answer() -> None:
    deltas: list[Delta] = [
        STARTED, Thinking("Hm."), Text("a"), Text("b"), ToolCall(0, "toolu_1", "f"), Arguments(0, '{"x"'),
        Arguments(0, ":1}"), ToolEnd(0), ToolCall(1, "toolu_2", "g"), ToolEnd(1), Finished(Reason.TOOL_USE, TOKENS),
    ]  # fmt: skip
    lines = lines_of(encoder(clock=Clock(1.5)), deltas)
    times = [line.pop("created_at") for line in lines]
    assert times[0] == "2025-06-15T15:06:41.500000Z"
    assert times == sorted(times)
    head = {"model": "sonnet:latest", "remote_model": "claude-opus-5-5", "done": False}
    say = {"role": "assistant", "content": ""}
    assert lines[:-1] == [
        head | {"message": say | {"thinking": "Hm."}},
        head | {"message": say | {"content": "a"}},
        head | {"message": say | {"content": "b"}},
        head | {"message": say | {"tool_calls": [
            {"id": "toolu_1", "index": 0, "function": {"index": 0, "name": "f", "arguments": {"x": 1}}}]}},
        head | {"message": say | {"tool_calls": [
            {"id": "toolu_2", "index": 1, "function": {"index": 1, "name": "g", "arguments": {}}}]}},
    ]  # fmt: skip
    assert lines[-1] == head | {
        "done": True, "done_reason": "stop", "message": say, "total_duration": 6_000_000_000, "load_duration": 0,
        "prompt_eval_count": 22, "prompt_eval_duration": 1_500_000_000, "eval_count": 12,
        "eval_duration": 4_500_000_000,
    }  # fmt: skip


def test_a_call_that_was_cut_is_told_in_both_forms() -> None:
    deltas: list[Delta] = [
        STARTED, ToolCall(0, "toolu_1", "f"), Arguments(0, '{"x'), Finished(Reason.MAX_TOKENS, TOKENS)
    ]  # fmt: skip
    fold = Fold()
    fold.take(deltas)
    whole = judged(encoder().whole([fold.answer()], TOKENS))
    assert whole["message"]["tool_calls"][0]["function"]["arguments"] == {"arguments": '{"x'}
    assert whole["done_reason"] == "length"
    assert without_times(folded(lines_of(encoder(), deltas))) == without_times(whole)


def test_words_instead_of_json_are_the_text() -> None:
    deltas: list[Delta] = [STARTED, Refusal("I "), Refusal("won't."), Finished(Reason.END_TURN, TOKENS)]
    fold = Fold()
    fold.take(deltas)
    assert folded(lines_of(encoder(), deltas))["message"]["content"] == "I won't."
    assert judged(encoder().whole([fold.answer()], TOKENS))["message"]["content"] == "I won't."


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_word(reason: Reason) -> None:
    lines = lines_of(encoder(), [STARTED, Finished(reason, TOKENS)])
    assert lines[-1]["done_reason"] == DONE_REASONS[reason]
    assert ("refusal" in DONE_REASONS[reason]) == (reason is Reason.REFUSAL)


@pytest.mark.parametrize("chat", [True, False])
def test_a_silent_stream_is_kept_alive_by_lines_that_say_nothing(chat: bool) -> None:
    made = encoder(chat=chat)
    line = judged(made.idle(), chat=chat)
    assert (line["done"], "remote_model" in line) == (False, False)
    before = folded(lines_of(encoder(chat=chat), [STARTED, Text("a"), Finished(Reason.END_TURN, TOKENS)], chat=chat))
    lines = [line, *lines_of(made, [STARTED, Text("a"), Finished(Reason.END_TURN, TOKENS)], chat=chat)]
    assert without_times(folded(lines)) == without_times(before)


@pytest.mark.parametrize(("chat", "unload"), [(True, False), (False, True)])
def test_a_model_is_said_to_be_loaded(chat: bool, unload: bool) -> None:
    made = OllamaEncoder(Identity("t", 1, "f"), "m", chat=chat, thinking=True, unload=unload)
    said = judged(made.whole((), Tokens()), chat=chat)
    said.pop("created_at")
    text = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    assert said == {"model": "m", "done": True, "done_reason": "unload" if unload else "load", **text}


def test_durations_are_never_nothing() -> None:
    last = lines_of(encoder(clock=lambda: Timing(0.0, 0.0, 0.0)), [STARTED, Finished(Reason.END_TURN, TOKENS)])[-1]
    assert [last[name] for name in DURATIONS] == [1, 0, 1, 1]


def test_times_have_a_fraction_and_a_zone() -> None:
    assert moment(0) == "1970-01-01T00:00:00.000000Z"


@pytest.mark.parametrize("kind", Kind)
def test_errors_are_a_sentence_with_the_status_of_the_table(kind: Kind) -> None:
    for dialect in (CHAT, GENERATE):
        reply = dialect.error(Failure(kind, "It went wrong.", retry_after=1.2), 0.0, "req_1")
        assert (reply.status, msgspec.to_builtins(reply.body)) == (TABLE[kind].status, {"error": "It went wrong."})
        assert ("retry-after", "2") in reply.headers
        assert (TABLE[kind].retry is False) == (("x-should-retry", "false") in reply.headers)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (Failure(Kind.BAD_REQUEST, "Must be less.", "options.top_p"), "options.top_p: Must be less."),
        (Failure(Kind.BAD_REQUEST, "`model` is needed.", "model"), "`model` is needed."),
        (Failure(Kind.SCHEMA_UNMET, "No.", about=About.SCHEMA), "format: No."),
        (Failure(Kind.MODEL_NOT_FOUND, "No.", about=About.MODEL), "model: No."),
    ],
)
def test_an_error_names_the_parameter(failure: Failure, said: str) -> None:
    (event,) = encoder().fail(failure)
    assert msgspec.json.encode(event.data) == msgspec.json.encode({"error": said})
    assert event.name == ""


def test_recordings_of_all_kinds_are_among_those_that_agree() -> None:
    kinds = {type(delta) for asked in ANSWERED for delta in deltas_of(asked, asked.data)}
    assert {Text, Thinking, ToolCall, Arguments, ToolEnd, Refusal} <= kinds
    assert not kinds & {Failed, Retracted}
