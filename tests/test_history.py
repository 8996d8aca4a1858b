"""proxy/protocol/history.py: whatever a client sends becomes a conversation that the Messages API takes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from proxy.protocol.history import CONTINUE, History, PastCall
from proxy.protocol.plan import Message, TextBlock, ToolResultBlock, ToolUseBlock

ARGUMENTS = Raw(b"{}")


def words(text: str) -> list[TextBlock]:
    return [TextBlock(text)]


def call(call_id: str, name: str = "get") -> PastCall:
    return PastCall(call_id, name, ARGUMENTS)


def result(history: History, call_id: str, text: str) -> None:
    assert history.answer(call_id, (TextBlock(text),))


def shown(messages: tuple[Message, ...]) -> list[Any]:
    """Each message as its role and its blocks in short."""
    return [(message.role, [_shown(block) for block in message.content]) for message in messages]


def _shown(block: Any) -> Any:
    if isinstance(block, ToolUseBlock):
        return ("call", block.id)
    if isinstance(block, ToolResultBlock):
        content = block.content[0]
        assert isinstance(content, TextBlock)
        return ("result", block.tool_use_id, None if block.is_error else content.text)
    return block.text


def finished(history: History) -> list[Any]:
    return shown(history.finish()[1])


def test_an_id_used_again_in_a_later_turn_is_another_id() -> None:
    history = History()
    for number in range(3):
        history.ask(words(f"q{number}"))
        history.say([call("call_0")])
        result(history, "call_0", f"r{number}")
    calls = [block[1] for role, blocks in finished(history) if role == "assistant" for block in blocks]
    assert calls[0] == "call_0"
    assert len(set(calls)) == 3
    results = [block[1:] for role, blocks in finished(history) for block in blocks if block[0] == "result"]
    assert results == list(zip(calls, ["r0", "r1", "r2"], strict=True))


@pytest.mark.parametrize(("first", "second"), [("a.b", "a:b"), ("", ""), ("x", "x"), ("", "_")])
def test_ids_that_are_equal_in_one_message_pair_in_order(first: str, second: str) -> None:
    history = History()
    history.ask(words("q"))
    history.say([call(first), call(second)])
    result(history, first, "one")
    result(history, second, "two")
    (_, (_, made), (_, results)) = finished(history)
    assert made[0][1] != made[1][1]
    assert results == [("result", made[0][1], "one"), ("result", made[1][1], "two")]


def test_an_id_that_was_made_up_is_not_given_twice() -> None:
    history = History()
    for call_id in ("c", "c", "c__2", "c"):
        history.ask(words("q"))
        history.say([call(call_id)])
        result(history, call_id, "r")
    calls = [block[1] for role, blocks in finished(history) if role == "assistant" for block in blocks]
    assert len(set(calls)) == 4


def test_a_result_that_comes_again_counts_in_place_of_the_first() -> None:
    history = History()
    history.ask(words("q"))
    history.say([call("a"), call("b")])
    result(history, "a", "old")
    result(history, "b", "two")
    result(history, "a", "new")
    history.ask(words("next"))
    assert finished(history)[-1] == ("user", [("result", "a", "new"), ("result", "b", "two"), "next"])


def test_a_result_for_no_call_of_the_last_turn_is_refused() -> None:
    history = History()
    history.ask(words("q"))
    assert not history.answer("a", ())
    history.say([call("a")])
    result(history, "a", "r")
    history.say(words("done"))
    assert not history.answer("a", ())


def test_messages_of_the_assistant_next_to_each_other_are_one_turn() -> None:
    history = History()
    history.ask(words("q"))
    history.say([call("a")])
    history.say(words("looking"))
    history.say([call("b")])
    result(history, "b", "two")
    result(history, "a", "one")
    assert finished(history)[1:] == [
        ("assistant", [("call", "a"), "looking", ("call", "b")]),
        ("user", [("result", "b", "two"), ("result", "a", "one")]),
    ]


def test_results_come_before_what_the_user_says_meanwhile() -> None:
    history = History()
    history.ask(words("q"))
    history.say([call("a")])
    history.ask(words("and hurry"))
    result(history, "a", "one")
    assert finished(history)[-1] == ("user", [("result", "a", "one"), "and hurry"])


def test_a_call_without_a_result_gets_an_error_result() -> None:
    history = History()
    history.ask(words("q"))
    history.say([call("a"), call("b")])
    result(history, "b", "two")
    history.say(words("well"))
    history.ask(words("next"))
    assert finished(history)[2] == ("user", [("result", "b", "two"), ("result", "a", None)])


def test_later_system_messages_keep_their_place() -> None:
    history = History()
    history.instruct("S1")
    history.instruct("S2")
    history.ask(words("a"))
    history.say(words("x"))
    history.instruct("French.")
    history.ask(words("b"))
    system, messages = history.finish()
    assert system == "S1\n\nS2"
    assert shown(messages)[-1] == ("user", ["<system>\nFrench.\n</system>", "b"])


def test_a_system_message_at_the_end_is_the_question() -> None:
    history = History()
    history.ask(words("a"))
    history.say(words("x"))
    history.instruct("Who is next?")
    assert finished(history)[-1] == ("user", ["<system>\nWho is next?\n</system>"])


def test_a_conversation_that_ends_with_the_assistant_is_continued() -> None:
    history = History()
    history.ask(words("Write a story."))
    history.say(words("Once upon a time there"))
    assert history.ends_with_assistant
    assert finished(history)[1:] == [("assistant", ["Once upon a time there"]), ("user", [CONTINUE])]


def test_system_messages_alone_are_the_question() -> None:
    history = History()
    history.instruct("Say hello.")
    assert history.finish() == (None, (Message("user", (TextBlock("Say hello."),)),))


def test_nothing_is_no_messages() -> None:
    assert History().finish() == (None, ())


IDS = ["", "a", "a.b", "a:b"]
EVENTS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(["q", "r"])),
    st.tuples(
        st.just("say"), st.sampled_from(["", "x"]), st.lists(st.sampled_from(["", "a", "a.b", "a:b"]), max_size=3)
    ),
    st.tuples(st.just("answer"), st.sampled_from(["", "a", "a.b", "a:b"])),
    st.tuples(st.just("instruct"), st.just("s")),
)


@given(st.lists(EVENTS, max_size=20))
def test_whatever_comes_the_messages_api_can_take_it(events: list[Any]) -> None:
    history = History()
    for event in events:
        if event[0] == "ask":
            history.ask(words(event[1]))
        elif event[0] == "say":
            history.say([*(words(event[1]) if event[1] else []), *(call(one) for one in event[2])])
        elif event[0] == "answer":
            history.answer(event[1], (TextBlock("r"),))
        else:
            history.instruct(event[1])
    _, messages = history.finish()
    if not messages:
        return
    assert messages[-1].role == "user"
    assert all(message.content for message in messages)
    roles = [message.role for message in messages]
    assert all(one != other for one, other in pairwise(roles))
    calls = [block.id for message in messages for block in message.content if isinstance(block, ToolUseBlock)]
    assert len(set(calls)) == len(calls)
    for before, after in pairwise(messages):
        made = {block.id for block in before.content if isinstance(block, ToolUseBlock)}
        kinds = [isinstance(block, ToolResultBlock) for block in after.content]
        answered = [block.tool_use_id for block in after.content if isinstance(block, ToolResultBlock)]
        assert sorted(answered) == sorted(made)
        assert kinds == sorted(kinds, reverse=True), "results come first"
    assert msgspec.json.encode(messages)


def test_words_between_a_call_and_its_result_stand_around_both() -> None:
    history = History()
    history.ask(words("go"))
    history.say([call("a")])
    history.ask(words("a warning"))
    history.say(words("Step 1."))
    result(history, "a", "done")
    history.say([call("b")])
    result(history, "b", "done too")
    assert finished(history) == [
        ("user", ["go"]),
        ("assistant", [("call", "a"), "Step 1."]),
        ("user", [("result", "a", "done"), "a warning"]),
        ("assistant", [("call", "b")]),
        ("user", [("result", "b", "done too")]),
    ]


def test_calls_whose_results_come_after_the_next_call() -> None:
    history = History()
    history.ask(words("go"))
    history.say([call("a"), call("c")])
    result(history, "c", "three")
    history.ask(words("a warning"))
    history.say([call("b")])
    history.ask(words("another"))
    result(history, "a", "one")
    result(history, "b", "two")
    assert finished(history) == [
        ("user", ["go"]),
        ("assistant", [("call", "a"), ("call", "c"), ("call", "b")]),
        ("user", [("result", "c", "three"), ("result", "a", "one"), ("result", "b", "two"), "a warning", "another"]),
    ]


def test_a_result_that_never_comes_leaves_the_order_as_it_is() -> None:
    history = History()
    history.ask(words("go"))
    history.say([call("a")])
    history.ask(words("never mind"))
    history.say(words("All right."))
    history.ask(words("next"))
    assert not history.answer("b", (TextBlock("x"),))
    assert [role for role, _ in finished(history)] == ["user", "assistant", "user", "assistant", "user"]
