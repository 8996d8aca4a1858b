"""proxy/protocol/completions.py: the legacy text completion; the openai package's types are the judge."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion as Judge

from proxy.dialects import Rules
from proxy.dialects.openai.chat_types import AnswerHead, usage_of
from proxy.dialects.openai.completions import (
    COMPLETE,
    FILL,
    IGNORED,
    Completions,
    TextChunks,
    TextCompletion,
    TextEncoder,
    decode,
    text_usage_chunk,
)
from proxy.protocol.answer import Fold
from proxy.protocol.deltas import Delta, Failed, Finished, Reason, Refusal, Started, Text, Thinking, Tokens
from proxy.protocol.failures import TABLE, Failure, Kind, Rejection
from proxy.protocol.plan import Message, Sampling, TextBlock

TOKENS = Tokens(input=10, cache_read=7, cache_write=5, output=12, reasoning=4)
PLAIN = AnswerHead("cmpl-1", 1_750_000_000, "claude-code-2.1.330")
WITH_USAGE = AnswerHead("cmpl-1", 1_750_000_000, "claude-code-2.1.330", with_usage=True)
KEYS = ["id", "object", "created", "model", "system_fingerprint", "choices"]


def request(rules: Rules | None = None, **more: Any) -> Completions:
    body = json.dumps({"model": "opus", "prompt": "Once upon"} | more).encode()
    return decode(body) if rules is None else decode(body, rules)


def refused(**more: Any) -> str | None:
    with pytest.raises(Rejection) as caught:
        request(**more)
    failure = caught.value.failure
    assert TABLE[failure.kind].status == 400
    assert failure.message
    return failure.param


def asked(made: Completions) -> list[list[str]]:
    """The texts of each plan's one message."""
    found = []
    for plan in made.plans:
        (message,) = plan.messages
        assert message.role == "user"
        found.append([block.text for block in message.content if isinstance(block, TextBlock)])
    return found


# What is asked


def test_a_prompt_is_to_be_gone_on_with() -> None:
    made = request(prompt="Once upon ")
    (plan,) = made.plans
    assert (plan.model, plan.system, plan.messages) == (
        "opus",
        COMPLETE,
        (Message("user", (TextBlock("Once upon "),)),),
    )
    assert (made.stream, made.include_usage, made.ignored, made.stop) == (False, False, (), ())


def test_a_gap_is_to_be_filled() -> None:
    (plan,) = request(prompt="def f(", suffix="):\n").plans
    assert (plan.system, plan.messages[0].content) == (FILL, (TextBlock("def f("), TextBlock("):\n")))


@pytest.mark.parametrize("suffix", [None, "", " \n"])
def test_no_suffix(suffix: str | None) -> None:
    (plan,) = request(suffix=suffix).plans
    assert (plan.system, len(plan.messages[0].content)) == (COMPLETE, 1)


@pytest.mark.parametrize(
    ("more", "texts"),
    [
        ({"prompt": ["a"]}, [["a"]]),
        ({"prompt": ["a", "b"]}, [["a"], ["b"]]),
        ({"prompt": ["a", "b"], "n": 2}, [["a"], ["a"], ["b"], ["b"]]),
        ({"prompt": "a", "n": 3}, [["a"]] * 3),
        ({"prompt": "a", "n": 8}, [["a"]] * 8),
        ({"prompt": ["a"] * 4, "n": 2}, [["a"]] * 8),
        ({"prompt": "a", "n": 2, "best_of": 2}, [["a"]] * 2),
        ({"prompt": "a", "best_of": 1}, [["a"]]),
        ({"prompt": "a", "n": 2, "best_of": 1}, [["a"]] * 2),
        ({"prompt": ["a", "b"], "suffix": "c"}, [["a", "c"], ["b", "c"]]),
    ],
)
def test_one_plan_for_every_choice_prompt_by_prompt(more: dict[str, Any], texts: list[list[str]]) -> None:
    assert asked(request(**more)) == texts


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"model": None}, "model"),
        ({"model": " "}, "model"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n"}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [1, 2, 3]}, "prompt[0]"),
        ({"prompt": [[1, 2]]}, "prompt[0]"),
        ({"prompt": ["a", 5]}, "prompt[1]"),
        ({"prompt": ["a"] * 9}, "prompt"),
        ({"prompt": ["a"] * 3, "n": 3}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"n": "2"}, "n"),
        ({"echo": True}, "echo"),
        ({"echo": "no"}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 3, "n": 2}, "best_of"),
        ({"suffix": 5}, "suffix"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": "x"}}, "stream_options.include_usage"),
    ],
)
def test_what_is_wrong_is_named(more: dict[str, Any], param: str) -> None:
    assert refused(**more) == param


@pytest.mark.parametrize(("body", "param"), [(b'{"model":"opus"}', "prompt"), (b'{"prompt":"a"}', "model")])
def test_what_is_missing_is_named(body: bytes, param: str) -> None:
    with pytest.raises(Rejection) as caught:
        decode(body)
    assert caught.value.failure.param == param


@pytest.mark.parametrize(
    "more",
    [
        {"echo": False}, {"echo": None}, {"best_of": None}, {"n": None}, {"stop": None}, {"stop": []}, {"stop": ""},
        {"stream": None}, {"stream_options": None}, {"max_tokens": None}, {"max_tokens": 0}, {"max_tokens": -1},
        {"unknown": None}, {"logprobs": None}, {"temperature": None},
    ],
)  # fmt: skip
def test_what_clients_send_without_meaning_it(more: dict[str, Any]) -> None:
    assert request(**more) == request()


def test_limits_stops_and_the_stream() -> None:
    made = request(max_tokens=5, stop=["\n", "END"], stream=True, stream_options={"include_usage": True})
    assert made.plans[0].max_tokens == 5
    assert (made.stop, made.stream, made.include_usage) == (("\n", "END"), True, True)
    assert not request(stream_options={"include_usage": True}).include_usage
    for options in (None, {}, {"include_usage": False}):
        assert request(stream=True, stream_options=options).include_usage is False


def test_what_has_no_effect_is_said() -> None:
    every: dict[str, Any] = dict.fromkeys(IGNORED, 1) | {"logit_bias": {"50": 1}, "user": "x"}
    assert request(**every).ignored == tuple(IGNORED)
    assert request(seed=None).ignored == ()


def test_the_servers_rules() -> None:
    made = request(Rules(model_for=lambda name: f"asked-{name}", native=True), temperature=1.5, top_p=0.5)
    assert made.model == "opus"
    assert made.plans[0].model == "asked-opus"
    assert made.plans[0].sampling == Sampling(1.0, 0.5)
    assert made.ignored == ()
    with pytest.raises(Rejection) as caught:
        request(Rules(strict=True), seed=5)
    assert caught.value.failure.param == "seed"


@given(
    st.dictionaries(
        st.sampled_from(["model", "prompt", "suffix", "n", "best_of", "echo", "stop", "max_tokens", "stream", "seed"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda one: st.lists(one, max_size=3)
        ),
    )
)
def test_any_body_becomes_plans_or_a_refusal(body: dict[str, Any]) -> None:
    try:
        made = decode(json.dumps(body).encode())
    except Rejection:
        return
    assert 1 <= len(made.plans) <= 8


# What is answered


def finished(reason: Reason = Reason.END_TURN) -> Finished:
    return Finished(reason, TOKENS)


def chunks(deltas: list[Delta], identity: AnswerHead = PLAIN, index: int = 0) -> list[TextCompletion]:
    return TextChunks(identity, index).feed(deltas)


def sent(values: Any) -> Any:
    return json.loads(msgspec.json.encode(values))


ANSWER: list[Delta] = [Started("claude-opus-5-5"), Thinking("hm"), Text(" a"), Text(" time"), finished()]


def test_chunks() -> None:
    found = sent(chunks(ANSWER))
    assert [list(chunk) for chunk in found] == [KEYS] * 3
    assert {chunk["object"] for chunk in found} == {"text_completion"}
    assert {chunk["model"] for chunk in found} == {"claude-opus-5-5"}
    assert [chunk["choices"] for chunk in found] == [
        [{"text": " a", "index": 0, "logprobs": None, "finish_reason": None}],
        [{"text": " time", "index": 0, "logprobs": None, "finish_reason": None}],
        [{"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"}],
    ]


@pytest.mark.parametrize(
    ("reason", "word"),
    [(Reason.END_TURN, "stop"), (Reason.MAX_TOKENS, "length"), (Reason.REFUSAL, "content_filter"),
     (Reason.TOOL_USE, "stop")],
)  # fmt: skip
def test_every_reason_is_one_that_clients_know(reason: Reason, word: str) -> None:
    assert chunks([Started("m"), finished(reason)])[0].choices[0].finish_reason == word


def test_a_refusal_is_what_was_said_and_a_failure_is_nothing() -> None:
    assert [chunk.choices[0].text for chunk in chunks([Started("m"), Refusal("No.")])] == ["No."]
    assert chunks([Failed(Failure(Kind.CLI_DIED, "gone"))]) == []


def test_usage_only_for_those_who_asked() -> None:
    assert all(chunk["usage"] is None for chunk in sent(chunks(ANSWER, WITH_USAGE)))
    last = sent(text_usage_chunk(WITH_USAGE, "claude-opus-5-5", TOKENS))
    assert (last["choices"], last["usage"]) == ([], sent(usage_of(TOKENS)))
    Judge.model_validate(last, strict=True)


def whole_of(*choices: list[Delta]) -> TextCompletion:
    """The answer that is not streamed, of one choice or several."""
    folds = [Fold() for _ in choices]
    for fold, deltas in zip(folds, choices, strict=True):
        fold.take(deltas)
    found = TextEncoder(PLAIN).whole([fold.answer() for fold in folds], TOKENS)
    assert isinstance(found, TextCompletion)
    return found


def test_a_whole_answer() -> None:
    whole = sent(whole_of(ANSWER))
    assert list(whole) == [*KEYS, "usage"]
    assert whole["choices"] == [{"text": " a time", "index": 0, "logprobs": None, "finish_reason": "stop"}]
    Judge.model_validate(whole, strict=True)


PIECES = st.lists(st.text(max_size=5), max_size=4)
REASONS = st.sampled_from(list(Reason))


@given(st.lists(st.tuples(PIECES, REASONS), min_size=1, max_size=4), st.randoms(use_true_random=False), st.booleans())
def test_any_mix_of_choices_folds_to_the_same(answers: list[Any], dice: Any, with_usage: bool) -> None:
    identity = WITH_USAGE if with_usage else PLAIN
    choices: list[list[Delta]] = [[Started("m"), *map(Text, pieces), finished(reason)] for pieces, reason in answers]
    queues = [chunks(deltas, identity, index) for index, deltas in enumerate(choices)]
    ends = [queue[-1].choices[0].finish_reason for queue in queues]
    mixed = []
    while left := [queue for queue in queues if queue]:
        mixed.append(dice.choice(left).pop(0))
    for chunk in mixed:
        # OpenAI's own chunks have null until the last one, which its type does not allow for.
        choice = sent(chunk)["choices"][0]
        Judge.model_validate(sent(chunk) | {"choices": [choice | {"finish_reason": "stop"}]}, strict=True)
    whole = whole_of(*choices)
    Judge.model_validate_json(msgspec.json.encode(whole), strict=True)
    assert [choice.text for choice in whole.choices] == ["".join(pieces) for pieces, _ in answers]
    assert [choice.index for choice in whole.choices] == list(range(len(answers)))
    assert [choice.finish_reason for choice in whole.choices] == ends


@given(st.lists(st.integers(0, 5), max_size=4))
def test_chunks_do_not_depend_on_how_deltas_are_grouped(cuts: list[int]) -> None:
    maker = TextChunks(PLAIN, 0)
    edges = [0, *sorted(cuts), len(ANSWER)]
    assert [chunk for a, b in pairwise(edges) for chunk in maker.feed(ANSWER[a:b])] == chunks(ANSWER)
