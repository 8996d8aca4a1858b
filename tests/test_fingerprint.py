"""What tells one conversation from another."""

from __future__ import annotations

import pytest
from msgspec import Raw

from proxy.protocol import fingerprint
from proxy.protocol.answer import Answer, CallPart, Fold, TextPart, ThinkingPart
from proxy.protocol.deltas import Arguments, Retracted, Text, Thinking, ToolCall
from proxy.protocol.plan import Message, Plan, TextBlock, Tool, ToolResultBlock, ToolUseBlock

ASK = Message("user", (TextBlock("hi"),))


def answer(*texts: str, arguments: bytes | None = None) -> Message:
    blocks = [TextBlock(text) for text in texts]
    calls = [] if arguments is None else [ToolUseBlock("call_1", "look", Raw(arguments))]
    return Message("assistant", (*blocks, *calls))


def of(*messages: Message, owner: str = "", **settings: object) -> bytes:
    plan = Plan(model=str(settings.pop("model", "opus")), system=None, messages=messages, **settings)  # type: ignore[arg-type]
    key = fingerprint.start(owner)
    known = fingerprint.defaults(plan.tools, messages)
    for before, message in zip((None, *messages), messages, strict=False):
        key = fingerprint.extend(key, message, before, known)
    return fingerprint.under(plan, key)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (answer("ab"), answer("a", "b")),
        (answer(arguments=b'{"a":1,"b":[2]}'), answer(arguments=b'{ "b": [2], "a": 1 }')),
        (answer(" a\n", "b \n"), answer(" a\nb")),
        (answer("\n", arguments=b"{}"), answer(arguments=b"{}")),
    ],
)
def test_an_answer_echoed_in_another_shape_is_the_same(one: Message, other: Message) -> None:
    assert of(ASK, one) == of(ASK, other)


def test_what_the_schema_names_as_the_default_may_be_left_out() -> None:
    """Claude Code adds such values to its past calls."""
    schema = b'{"properties":{"path":{"type":"string"},"all":{"default":false},"odd":true,"far":{"default":1E400}}}'
    tools = (Tool("look", "", Raw(schema)),)
    found = {
        text: of(ASK, answer(arguments=text.encode()), ASK, tools=tools)
        for text in (
            '{"path":"a"}', '{"path":"a","all":false}', '{"all":false,"path":"a"}', '{"path":"a","all":true}',
            '{"path":"a","all":0}', '{"path":"a","all":null}', '{"path":"a","odd":false}', '{"path":"b"}',
        )
    }  # fmt: skip
    left_out, added, ordered, *others = found.values()
    assert left_out == added == ordered
    assert len({left_out, *others}) == 1 + len(others)
    other_tool = (Tool("book", "", Raw(schema)),)
    ones = [of(ASK, answer(arguments=text.encode()), ASK, tools=other_tool) for text in found]
    assert ones[0] != ones[1]


@pytest.mark.parametrize("schema", [b"{}", b'{"properties":[]}', b'{"properties":{"a":[1]}}'])
def test_schemas_that_name_no_defaults_do_no_harm(schema: bytes) -> None:
    tools = (Tool("look", "", Raw(schema)),)
    assert of(ASK, answer(arguments=b'{"a":1}'), tools=tools) != of(ASK, answer(arguments=b"{}"), tools=tools)


def calls(*ids: str) -> Message:
    return Message("assistant", tuple(ToolUseBlock(id, "look", Raw(b"{}")) for id in ids))


def results(**said: str) -> Message:
    return Message("user", tuple(ToolResultBlock(id, (TextBlock(text),)) for id, text in said.items()))


def test_calls_and_results_are_told_by_their_place_whatever_their_ids() -> None:
    one = of(ASK, calls("a", "b"), results(a="1", b="2"), answer("x"))
    assert of(ASK, calls("b", "c"), results(b="1", c="2"), answer("x")) == one
    assert of(ASK, calls("a", "b"), results(a="2", b="1"), answer("x")) != one
    assert of(ASK, calls("a", "b"), results(b="1", a="2"), answer("x")) != one


def test_another_conversation_is_another() -> None:
    found = [
        of(ASK),
        of(ASK, answer("a")),
        of(ASK, answer("b")),
        of(ASK, answer("a b")),
        of(ASK, answer("a"), owner="somebody else"),
        of(ASK, answer("a"), model="haiku"),
        of(ASK, answer("a"), max_tokens=5),
        of(Message("user", (TextBlock("hi "),)), answer("a")),
        of(Message("user", (TextBlock("h"), TextBlock("i"))), answer("a")),
        of(ASK, answer("a", arguments=b"{}")),
        of(ASK, answer("a", arguments=b'{"a":1}')),
        of(ASK, answer(arguments=b"{}")),
        of(ASK, ASK),
    ]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("texts", "same"),
    [
        (("a",), True),
        (("<think>\nHm. So.\n</think>\n\na",), True),
        (("<think>\nHm. So.\n</think>", "a"), True),
        (("\n<think>Hm.</think> <think>So.</think>a",), True),
        (("<think> </think>a",), True),
        (("<think>Well. So.</think>a",), False),
        (("<think>Hm. So.</think>b",), False),
        (("a<think>Hm. So.</think>",), False),
        (("<think>Hm. So.a",), False),
        (("<thinker>Hm. So.</thinker>a",), False),
    ],
)
@pytest.mark.parametrize("step", [1, fingerprint.STEP])
def test_thinking_comes_back_as_text_or_not_at_all(
    texts: tuple[str, ...], same: bool, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "STEP", step)
    said = Answer(model="m", parts=(ThinkingPart("Hm.", "c2ln"), ThinkingPart(" So.", "c2ln"), TextPart("a")))
    came = Message("assistant", tuple(map(TextBlock, texts)))
    assert (of(ASK, came) in [of(ASK, echo) for echo in fingerprint.echoes(said)]) == same


def test_ways_to_send_an_answer_back_that_come_to_the_same_are_one() -> None:
    call = CallPart("toolu_1", "look", "{}")
    said = Answer(model="m", parts=(ThinkingPart(" ", "c2ln"), TextPart("<think></think>"), call))
    echoes = fingerprint.echoes(said)
    keys = fingerprint.of_echoes(fingerprint.start(""), echoes, fingerprint.NO_DEFAULTS)
    assert 0 < len(keys) == len(set(keys)) < len(echoes)


@pytest.mark.parametrize("arguments", [b'{"a":1E400}', b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"])
def test_arguments_that_are_no_value_do_no_harm(arguments: bytes) -> None:
    assert of(ASK, answer(arguments=arguments)) == of(ASK, answer(arguments=arguments))


def test_the_echo_is_the_message_that_a_client_sends_back() -> None:
    echo = Fold()
    echo.take([Text("a"), Text("b"), ToolCall(0, "call_1", "look")])
    echo.take([Arguments(0, '{"a"'), Thinking("hm"), Arguments(0, ":1}")])
    message = Message("assistant", (TextBlock("ab"), ToolUseBlock("call_1", "look", Raw(b'{"a":1}'))))
    assert fingerprint.echo(echo.answer()) == message
    assert echo.call_ids == {"call_1"}
    assert echo.answer().calls == (CallPart("call_1", "look", '{"a":1}'),)


def test_what_was_taken_back_is_not_echoed() -> None:
    echo = Fold()
    echo.take([Text("first"), Retracted(), Text("second")])
    assert echo.text == "second"


def test_an_answer_without_content_has_no_echo() -> None:
    echo = Fold()
    echo.take([Text(" \n")])
    assert fingerprint.echo(echo.answer()) is None
