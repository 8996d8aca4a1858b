"""proxy/dialects/openai/chat.py: deltas to chunks and to a completion; the openai package is the judge."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.lib.streaming.chat._types import ParsedChatCompletionSnapshot
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from proxy.dialects.openai.chat import ChatEncoder, Chunks, usage_chunk
from proxy.dialects.openai.chat_types import AnswerHead, Chunk, Completion, usage_of
from proxy.dialects.openai.tools import PLAIN_CALLS, CallStyle
from proxy.protocol.answer import Fold
from proxy.protocol.deltas import (
    Arguments,
    Delta,
    Failed,
    Finished,
    Reason,
    Refusal,
    Started,
    Text,
    Thinking,
    Tokens,
    ToolCall,
    ToolEnd,
)
from proxy.protocol.failures import Failure, Kind
from proxy.protocol.tools import custom_input

TOKENS = Tokens(input=10, cache_read=7, cache_write=5, output=12, reasoning=4)
WITH_USAGE = AnswerHead("chatcmpl-1", 1_750_000_000, "claude-code-2.1.330", with_usage=True)
PLAIN = AnswerHead("chatcmpl-1", 1_750_000_000, "claude-code-2.1.330")
CHUNK_KEYS = ["id", "object", "created", "model", "service_tier", "system_fingerprint", "choices"]

_chunk_judge = TypeAdapter(ChatCompletionChunk)
_completion_judge = TypeAdapter(ChatCompletion)


def finished(reason: Reason = Reason.END_TURN) -> Finished:
    return Finished(reason, TOKENS)


ANSWER: list[Delta] = [Started("claude-opus-5-5"), Text("Hel"), Text("lo"), finished()]
CALLS: list[Delta] = [
    Started("claude-opus-5-5"), ToolCall(0, "toolu_1", "get"), Arguments(0, '{"a"'), Arguments(0, ":1}"),
    ToolCall(1, "toolu_2", "put"), Arguments(1, "{}"), finished(Reason.TOOL_USE),
]  # fmt: skip


def chunks(deltas: list[Delta], identity: AnswerHead = PLAIN) -> list[Chunk]:
    maker = Chunks(identity)
    found = maker.feed(deltas)
    if identity.with_usage:
        found.append(usage_chunk(identity, maker.model, TOKENS))
    return found


def whole_of(*choices: list[Delta], style: CallStyle = PLAIN_CALLS, thinking: bool = True) -> Completion:
    """The answer that is not streamed, of one choice or several."""
    folds = [Fold() for _ in choices]
    for fold, deltas in zip(folds, choices, strict=True):
        fold.take(deltas)
    found = ChatEncoder(PLAIN, style, thinking=thinking).whole([fold.answer() for fold in folds], TOKENS)
    assert isinstance(found, Completion)
    return found


def sent(values: Any) -> Any:
    """As it goes over the wire, key order included."""
    return json.loads(msgspec.json.encode(values))


def deltas_of(found: list[Chunk]) -> list[Any]:
    return [choice["delta"] for chunk in sent(found) for choice in chunk["choices"]]


def judged(found: list[Chunk], completion: Completion) -> ParsedChatCompletionSnapshot:
    """What the openai client makes of the chunks; both it and the whole answer must be strictly valid."""
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in found:
        data = msgspec.json.encode(chunk)
        state.handle_chunk(_chunk_judge.validate_json(data, strict=True))
    _completion_judge.validate_json(msgspec.json.encode(completion), strict=True)
    return state.current_completion_snapshot


# What the real API sends


def test_chunk_keys_and_their_order() -> None:
    for chunk in sent(chunks(ANSWER)):
        assert list(chunk) == CHUNK_KEYS
        assert chunk["object"] == "chat.completion.chunk"
        assert isinstance(chunk["created"], int)
        for choice in chunk["choices"]:
            assert list(choice) == ["index", "delta", "logprobs", "finish_reason"]


def test_an_answer_of_text() -> None:
    assert deltas_of(chunks(ANSWER)) == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]


def test_the_finish_reason_is_in_the_last_chunk_with_a_choice_and_nowhere_else() -> None:
    reasons = [choice["finish_reason"] for chunk in sent(chunks(ANSWER, WITH_USAGE)) for choice in chunk["choices"]]
    assert reasons == [None, None, None, "stop"]


def test_calls_that_come_first_carry_the_role() -> None:
    assert deltas_of(chunks(CALLS)) == [
        {
            "role": "assistant", "content": None,
            "tool_calls": [
                {"index": 0, "id": "toolu_1", "type": "function", "function": {"name": "get", "arguments": ""}}
            ],
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
        {
            "tool_calls": [
                {"index": 1, "id": "toolu_2", "type": "function", "function": {"name": "put", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]  # fmt: skip


def test_calls_after_text_do_not_repeat_the_role() -> None:
    found = deltas_of(chunks([Started("m"), Text("let me"), *CALLS[1:]]))
    assert [delta for delta in found if "role" in delta] == [{"role": "assistant", "content": "", "refusal": None}]
    assert list(found[2]) == ["tool_calls"]


def test_thinking_is_reasoning_content() -> None:
    deltas: list[Delta] = [Started("m"), Thinking("hm"), Thinking("!"), Text("x"), finished()]
    found = chunks(deltas)
    assert deltas_of(found)[1:3] == [{"reasoning_content": "hm"}, {"reasoning_content": "!"}]
    message = sent(whole_of(deltas))["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm!", "x")


def test_an_empty_answer_has_role_and_end() -> None:
    assert deltas_of(chunks([Started("m"), finished()])) == [{"role": "assistant", "content": "", "refusal": None}, {}]


def test_a_failure_makes_no_chunk() -> None:
    maker = Chunks(PLAIN)
    assert maker.feed([Failed(Failure(Kind.CLI_DIED, "gone"))]) == []
    assert len(maker.feed([Started("m"), Text("a"), Failed(Failure(Kind.CLI_DIED, "gone"))])) == 2


def test_the_model_is_the_one_that_answered() -> None:
    deltas: list[Delta] = [Started("claude-haiku-5-5"), Text("x"), finished()]
    assert {chunk.model for chunk in chunks(deltas, WITH_USAGE)} == {"claude-haiku-5-5"}
    assert whole_of(deltas).model == "claude-haiku-5-5"


def test_usage_is_null_until_the_last_chunk_and_absent_when_nobody_asked() -> None:
    asked = sent(chunks(ANSWER, WITH_USAGE))
    assert [list(chunk) for chunk in asked] == [[*CHUNK_KEYS, "usage"]] * len(asked)
    assert [chunk["usage"] for chunk in asked[:-1]] == [None] * (len(asked) - 1)
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"] == sent(usage_of(TOKENS))
    assert all("usage" not in chunk and chunk["choices"] for chunk in sent(chunks(ANSWER)))


def test_usage_counts_all_input_and_has_both_details() -> None:
    assert sent(usage_of(TOKENS)) == {
        "prompt_tokens": 22, "completion_tokens": 12, "total_tokens": 34,
        "prompt_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 5, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 4, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    }  # fmt: skip


def test_completion_keys_and_their_order() -> None:
    whole = sent(whole_of(ANSWER))
    assert list(whole) == [*CHUNK_KEYS, "usage"]
    assert whole["object"] == "chat.completion"
    assert list(whole["choices"][0]) == ["index", "message", "logprobs", "finish_reason"]
    assert whole["choices"][0]["message"] == {
        "role": "assistant", "content": "Hello", "refusal": None, "annotations": [],
    }  # fmt: skip


def test_the_message_of_calls_alone_has_null_content() -> None:
    choice = sent(whole_of(CALLS))["choices"][0]
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "toolu_1", "type": "function", "function": {"name": "get", "arguments": '{"a":1}'}},
        {"id": "toolu_2", "type": "function", "function": {"name": "put", "arguments": "{}"}},
    ]
    assert choice["finish_reason"] == "tool_calls"


# Other ways in which calls and refusals go back


def styled(deltas: list[Delta], style: CallStyle) -> list[Chunk]:
    return Chunks(PLAIN, style=style).feed(deltas)


ENDED_CALLS: list[Delta] = [
    Started("m"), ToolCall(0, "toolu_1", "shell"), Arguments(0, '{"inp'), Arguments(0, 'ut":"ls -l"}'), ToolEnd(0),
    ToolCall(1, "toolu_2", "get"), Arguments(1, '{"a":1}'), ToolEnd(1), finished(Reason.TOOL_USE),
]  # fmt: skip


def test_custom_calls_go_out_unwrapped_when_they_are_complete() -> None:
    style = CallStyle(custom=frozenset({"shell"}))
    found = styled(ENDED_CALLS, style)
    assert deltas_of(found)[:2] == [
        {
            "role": "assistant", "content": None,
            "tool_calls": [{"index": 0, "id": "toolu_1", "type": "custom", "custom": {"name": "shell", "input": ""}}],
        },
        {"tool_calls": [{"index": 0, "custom": {"input": "ls -l"}}]},
    ]  # fmt: skip
    whole = whole_of(ENDED_CALLS, style=style)
    message = sent(whole)["choices"][0]["message"]
    assert message["tool_calls"] == [
        {"id": "toolu_1", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}},
        {"id": "toolu_2", "type": "function", "function": {"name": "get", "arguments": '{"a":1}'}},
    ]
    _completion_judge.validate_json(msgspec.json.encode(whole), strict=True)


@pytest.mark.parametrize("odd", ["not json", '{"other":1}', "[]", '{"input":5}'])
def test_a_custom_call_of_another_shape_is_handed_on_as_it_is(odd: str) -> None:
    assert custom_input(odd) == odd


def test_functions_of_old_have_one_call() -> None:
    found = styled(ENDED_CALLS, CallStyle(legacy=True))
    assert deltas_of(found) == [
        {"role": "assistant", "content": None, "function_call": {"name": "shell", "arguments": ""}},
        {"function_call": {"arguments": '{"inp'}},
        {"function_call": {"arguments": 'ut":"ls -l"}'}},
        {},
    ]
    whole = whole_of(ENDED_CALLS, style=CallStyle(legacy=True))
    choice = sent(whole)["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "shell", "arguments": '{"input":"ls -l"}'}
    assert choice["message"]["content"] is None
    _completion_judge.validate_json(msgspec.json.encode(whole), strict=True)


def test_functions_of_old_after_text_do_not_repeat_the_role() -> None:
    found = styled([Started("m"), Text("x"), *ENDED_CALLS[1:]], CallStyle(legacy=True))
    assert [delta for delta in deltas_of(found) if "role" in delta] == [deltas_of(found)[0]]


def test_a_refusal_stands_in_its_own_field() -> None:
    deltas: list[Delta] = [Started("m"), Refusal("I would rather not."), finished()]
    assert deltas_of(chunks(deltas)) == [
        {"role": "assistant", "content": None, "refusal": ""},
        {"refusal": "I would rather not."},
        {},
    ]
    message = sent(whole_of(deltas))["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == (None, "I would rather not.")


def test_a_refusal_after_thinking_does_not_repeat_the_role() -> None:
    found = deltas_of(chunks([Started("m"), Thinking("hm"), Refusal("No."), finished()]))
    assert [("role" in delta) for delta in found] == [True, False, False, False]


def test_thinking_can_be_kept_back() -> None:
    deltas: list[Delta] = [Started("m"), Thinking("hm"), Text("x"), finished()]
    found = Chunks(PLAIN, thinking=False).feed(deltas)
    assert not any("reasoning_content" in delta for delta in deltas_of(found))
    message = sent(whole_of(deltas, thinking=False))["choices"][0]["message"]
    assert (message["content"], "reasoning_content" in message) == ("x", False)


def test_choices_are_apart_and_in_order() -> None:
    first: list[Delta] = [Started("m"), Text("a"), Text("A"), finished()]
    second: list[Delta] = [Started("m"), Text("b"), Text("B"), finished(Reason.MAX_TOKENS)]
    whole = sent(whole_of(first, second))
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in whole["choices"]] == [
        (0, "aA", "stop"),
        (1, "bB", "length"),
    ]


# Any answer


@st.composite
def answers(draw: st.DrawFn) -> list[Delta]:
    """The deltas of an answer as the turn may give them."""
    deltas: list[Delta] = [Started("claude-opus-5-5")]
    for _ in range(draw(st.integers(0, 3))):
        kind: Literal["text", "thinking"] = draw(st.sampled_from(["text", "thinking"]))
        for piece in draw(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=3)):
            deltas.append(Text(piece) if kind == "text" else Thinking(piece))
    number = draw(st.integers(0, 3))
    for index in range(number):
        deltas.append(ToolCall(index, f"toolu_{index}", draw(st.sampled_from(["get", "put"]))))
        given = json.dumps(draw(st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)))
        cut = draw(st.integers(0, len(given)))
        deltas += [Arguments(index, part) for part in (given[:cut], given[cut:]) if part]
    reason = Reason.TOOL_USE if number else draw(st.sampled_from([Reason.END_TURN, Reason.MAX_TOKENS, Reason.REFUSAL]))
    return [*deltas, finished(reason)]


@given(answers(), st.booleans())
def test_the_whole_answer_is_what_the_openai_client_folds(deltas: list[Delta], with_usage: bool) -> None:
    found = chunks(deltas, WITH_USAGE if with_usage else PLAIN)
    whole = whole_of(deltas)
    client = judged(found, whole).model_dump(exclude_unset=True)
    ours = sent(whole)
    for key in ("id", "created", "model", "service_tier", "system_fingerprint"):
        assert client[key] == ours[key]
    if with_usage:
        assert client["usage"] == ours["usage"]
    theirs, mine = client["choices"][0], ours["choices"][0]
    assert theirs["finish_reason"] == mine["finish_reason"]
    assert (theirs["message"].get("content") or "") == (mine["message"]["content"] or "")
    assert theirs["message"].get("reasoning_content") == mine["message"].get("reasoning_content")
    assert [(c["id"], c["function"]) for c in mine["message"].get("tool_calls", [])] == [
        (c["id"], {"name": c["function"]["name"], "arguments": c["function"]["arguments"]})
        for c in theirs["message"].get("tool_calls") or []
    ]


@given(answers(), st.lists(st.integers(0, 30), max_size=4))
def test_chunks_do_not_depend_on_how_deltas_are_grouped(deltas: list[Delta], cuts: list[int]) -> None:
    maker = Chunks(PLAIN)
    edges = [0, *sorted(cuts), len(deltas)]
    pieces = [chunk for a, b in pairwise(edges) for chunk in maker.feed(deltas[a:b])]
    assert pieces == chunks(deltas)


@given(answers())
def test_one_identity_one_role_one_end(deltas: list[Delta]) -> None:
    found = sent(chunks(deltas))
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in found}) == 1
    roles = [at for at, chunk in enumerate(found) if "role" in chunk["choices"][0]["delta"]]
    assert roles == [0]
    reasons = [at for at, chunk in enumerate(found) if chunk["choices"][0]["finish_reason"]]
    assert reasons == [len(found) - 1]
    assert found[-1]["choices"][0]["delta"] == {}


@pytest.mark.parametrize("deltas", [ANSWER, CALLS, [Started("m"), finished()]])
def test_the_canonical_answers_are_strictly_valid(deltas: list[Delta]) -> None:
    found = chunks(deltas, WITH_USAGE)
    judged(found, whole_of(deltas))
