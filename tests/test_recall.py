"""What the model wrote is remembered for as long as its conversation may come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from msgspec import Raw

from proxy.cli.recall import Recall
from proxy.protocol import fingerprint
from proxy.protocol.answer import Answer, CallPart, Part, RedactedPart, TextPart, ThinkingPart
from proxy.protocol.plan import (
    Message,
    Plan,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
)
from tests.clock import Clock

ASK = Message("user", (TextBlock("hi"),))
RESULT = Message("user", (ToolResultBlock("toolu_1", (TextBlock("sunny"),)),))
CALL = CallPart("toolu_1", "look", '{"a": 1}')


def answer(*parts: Part) -> Answer:
    return Answer(model="claude-opus-5-5", parts=parts)


def keys(*messages: Message, owner: str = "") -> list[bytes]:
    found = [fingerprint.start(owner)]
    for message in messages:
        found.append(fingerprint.extend(found[-1], message))
    return found[1:]


def whole(recall: Recall, *messages: Message, owner: str = "") -> tuple[Message, ...]:
    return recall.whole(Plan("opus", None, messages), keys(*messages, owner=owner)).messages


def kept(recall: Recall, said: Answer, *before: Message) -> Message:
    """Keeps the answer; what a client sends back for it."""
    echoes = fingerprint.echoes(said)
    first, *others = (keys(*before, echo)[-1] for echo in echoes)
    recall.keep(first, said, others=others)
    return echoes[0]


def test_thinking_is_there_again_where_its_call_is_answered() -> None:
    recall = Recall(Clock(0.0))
    echo = kept(recall, answer(ThinkingPart("Hm.", "c2ln"), RedactedPart("eA=="), TextPart("So."), CALL), ASK)
    found = whole(recall, ASK, echo, RESULT)
    blocks = (
        ThinkingBlock("Hm.", "c2ln"),
        RedactedThinkingBlock("eA=="),
        TextBlock("So."),
        ToolUseBlock("toolu_1", "look", Raw(b'{"a": 1}')),
    )
    assert found == (ASK, Message("assistant", blocks, "claude-opus-5-5"), RESULT)


def test_a_call_keeps_the_id_that_the_client_has_for_it() -> None:
    recall = Recall(Clock(0.0))
    kept(recall, answer(ThinkingPart("Hm.", "c2ln"), CALL), ASK)
    theirs = Message("assistant", (ToolUseBlock("mine", "look", Raw(b'{"a":1}')),))
    result = Message("user", (ToolResultBlock("mine", (TextBlock("sunny"),)),))
    thought, call = whole(recall, ASK, theirs, result)[1].content
    assert isinstance(thought, ThinkingBlock)
    assert call == ToolUseBlock("mine", "look", Raw(b'{"a": 1}'))


def test_texts_that_clients_join_are_apart_again() -> None:
    recall = Recall(Clock(0.0))
    echo = kept(recall, answer(TextPart("a"), TextPart("b")), ASK)
    assert echo.content == (TextBlock("ab"),)
    assert whole(recall, ASK, echo, ASK)[1].content == (TextBlock("a"), TextBlock("b"))


@pytest.mark.parametrize(
    ("wrote", "sent_back"),
    [
        (TextPart(" So.\n"), TextBlock("So.")),
        (CallPart("toolu_1", "look", '{"b": 1, "a": {"d": 2, "c": 3}}'), b'{"a":{"c":3,"d":2},"b":1}'),
        (CallPart("toolu_1", "look", '{"a": 1}'), b'{"a":1,"all":false}'),
    ],
    ids=["stripped", "sorted", "with a default"],
)
def test_what_clients_change_is_as_the_model_wrote_it_again(wrote: Part, sent_back: TextBlock | bytes) -> None:
    """So that the prompt cache finds it."""
    tools = (Tool("look", "", Raw(b'{"properties":{"all":{"default":false}}}')),)
    said = answer(wrote)
    echo = fingerprint.echo(said)
    assert echo is not None
    block = sent_back if isinstance(sent_back, TextBlock) else ToolUseBlock("toolu_1", "look", Raw(sent_back))
    plan = Plan("opus", None, (ASK, Message("assistant", (block,)), RESULT), tools)
    recall, known = Recall(Clock(0.0)), fingerprint.defaults(tools, (echo,))
    recall.keep(fingerprint.extend(keys(ASK)[-1], echo, known=known), said, known)
    assert recall.whole(plan, fingerprint.of_all(plan, "")[1]).messages[1].content == echo.content != (block,)


def test_what_a_client_sends_back_in_another_shape_is_the_same_answer() -> None:
    recall = Recall(Clock(0.0))
    kept(recall, answer(ThinkingPart("Hm.", "c2ln"), TextPart("So."), CALL), ASK)
    shaped = Message("assistant", (TextBlock("So."), ToolUseBlock("toolu_1", "look", Raw(b'{ "a":1 }'))))
    assert isinstance(whole(recall, ASK, shaped, RESULT)[1].content[0], ThinkingBlock)


@pytest.mark.parametrize("thought", [(), (ThinkingPart("Hm.", "c2ln"),)], ids=["words", "thinking and words"])
def test_what_a_client_leaves_out_beside_a_call_is_there_again(thought: tuple[Part, ...]) -> None:
    recall = Recall(Clock(0.0))
    said = answer(*thought, TextPart("So."), CALL)
    echo, bare = fingerprint.echoes(said)[:2]
    assert bare == Message("assistant", echo.content[1:])
    kept(recall, said, ASK)
    found = whole(recall, ASK, bare, RESULT)[1].content
    assert found[len(thought) :] == echo.content
    assert [type(block) for block in found[: len(thought)]] == [ThinkingBlock] * len(thought)
    assert whole(recall, ASK, echo, RESULT)[1].content == found


@pytest.mark.parametrize("parts", [(TextPart("So."),), (CALL,)])
def test_calls_alone_and_words_alone_are_sent_back_in_one_way(parts: tuple[Part, ...]) -> None:
    said = answer(*parts)
    assert fingerprint.echoes(said) == (fingerprint.echo(said),)


def test_thinking_that_comes_back_as_text_is_thinking_again() -> None:
    recall = Recall(Clock(0.0))
    kept(recall, answer(ThinkingPart("Hm.", "c2ln"), TextPart("So.")), ASK)
    tagged = Message("assistant", (TextBlock("<think>\nHm.\n</think>\n\nSo."),))
    assert whole(recall, ASK, tagged, ASK)[1].content == (ThinkingBlock("Hm.", "c2ln"), TextBlock("So."))
    assert whole(recall, ASK, ASK, tagged)[2] == tagged, "of an answer that is not known it stays as it is"
    edited = Message("assistant", (TextBlock("<think>\nNo.\n</think>\n\nSo."),))
    assert whole(recall, ASK, edited, ASK)[1] == edited


def test_other_histories_and_other_clients_get_nothing_of_it() -> None:
    recall = Recall(Clock(0.0))
    echo = kept(recall, answer(ThinkingPart("Hm.", "c2ln"), TextPart("So.")), ASK)
    other = Message("user", (TextBlock("hello"),))
    edited = Message("assistant", (TextBlock("So!"),))
    for messages in ((other, echo, ASK), (ASK, edited, ASK), (ASK, ASK, echo, ASK)):
        assert whole(recall, *messages) == messages
    assert whole(recall, ASK, echo, ASK, owner="somebody else") == (ASK, echo, ASK)


def test_what_clients_send_back_whole_takes_no_room() -> None:
    recall = Recall(Clock(0.0))
    kept(recall, answer(TextPart("So.")), ASK)
    kept(recall, answer(CALL), ASK)
    recall.keep(b"", answer(ThinkingPart("unsigned"), TextPart("So.")))
    recall.keep(b"", answer(ThinkingPart("Hm.", "c2ln")))
    assert recall.bytes == 0


def test_the_least_used_are_forgotten_when_there_are_too_many() -> None:
    recall = Recall(Clock(0.0), max_bytes=2000)
    said = [answer(ThinkingPart("x" * 600, "c2ln"), TextPart(str(number))) for number in range(3)]
    echoes = [kept(recall, each, ASK) for each in said[:2]]
    assert whole(recall, ASK, echoes[0], ASK) != (ASK, echoes[0], ASK)
    echoes.append(kept(recall, said[2], ASK))
    assert recall.bytes <= 2000
    found = [whole(recall, ASK, echo, ASK) != (ASK, echo, ASK) for echo in echoes]
    assert found == [True, False, True]
    kept(recall, answer(ThinkingPart("x" * 3000, "c2ln"), TextPart("too long")), ASK)
    assert recall.bytes == 0
    assert not recall._first, "nor is any other key of theirs kept"


def test_an_answer_is_forgotten_an_age_after_its_last_use() -> None:
    clock = Clock(0.0)
    recall = Recall(clock, max_age=10)
    echo = kept(recall, answer(ThinkingPart("Hm.", "c2ln"), TextPart("So.")), ASK)
    for clock.now in (9.0, 18.0):
        assert whole(recall, ASK, echo, ASK) != (ASK, echo, ASK)
    clock.now = 29.0
    assert whole(recall, ASK, echo, ASK) == (ASK, echo, ASK)
    kept(recall, answer(ThinkingPart("Hm.", "c2ln"), TextPart("new")), ASK)
    assert recall.bytes < 300, "the old one is gone"


def test_keeping_an_answer_again_does_not_count_it_twice() -> None:
    recall = Recall(Clock(0.0))
    said = answer(ThinkingPart("Hm.", "c2ln"), TextPart("So."))
    kept(recall, said, ASK)
    size = recall.bytes
    kept(recall, said, ASK)
    assert recall.bytes == size


class Files:
    """A `Disk`; `asked`: how many answers were looked for each time."""

    def __init__(self) -> None:
        self.answers: dict[bytes, bytes] = {}
        self.used: list[bytes] = []
        self.asked: list[int] = []

    def find(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        self.asked.append(len(keys))
        return {key: self.answers[key] for key in keys if key in self.answers}

    def save(self, answers: Mapping[bytes, bytes], used: Sequence[bytes]) -> None:
        self.answers.update(answers)
        self.used += used


async def test_what_is_on_disk_is_known_after_a_restart() -> None:
    disk = Files()
    before = Recall(Clock(0.0), disk=disk)
    parts = (ThinkingPart("Hm.", "c2ln"), RedactedPart("eA=="), TextPart("So."), CALL)
    echo = kept(before, answer(*parts), ASK)
    assert disk.answers == {}, "only what may be there"
    (_, key, last) = keys(ASK, echo, RESULT)
    await before.save((key,), [b"earlier"])
    await before.save((last,), [key])
    assert disk.used == [b"earlier", key]
    after = Recall(Clock(0.0), disk=disk)
    assert whole(after, ASK, echo, RESULT) == (ASK, echo, RESULT)
    await after.load([key, last])
    assert whole(after, ASK, echo, RESULT) == whole(before, ASK, echo, RESULT) != (ASK, echo, RESULT)
    await after.load([key])
    await Recall(Clock(0.0)).load([key])
    assert disk.asked == [2], "what is known is not looked for"


async def test_what_another_version_has_written_is_not_there() -> None:
    disk = Files()
    recall = Recall(Clock(0.0), disk=disk)
    echo = Message("assistant", (TextBlock("So."),))
    for written in (b'{"role":"user"}', b"", b'{"role":"assistant","content":[{"type":"new"}]}'):
        disk.answers = {keys(ASK, echo)[-1]: written}
        await recall.load(keys(ASK, echo))
        assert whole(recall, ASK, echo, ASK) == (ASK, echo, ASK)
