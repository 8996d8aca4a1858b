"""PROTOCOL.md: its examples run, its tables are the code's.

An example is a run of fenced blocks; what follows ```` ```json ```` says what a block is:

    request       the body of a chat request; begins an example. Words after it are settings: append, native
    to the CLI    the lines that are written to the CLI for it, in full
    from the CLI  lines that it answers with; without a request they answer a plain question
    chunks        the choice of each chunk of the stream that comes of it, without its index
    answer        facts of the answer's message when it is not streamed
    error         the failure's status and error body
    next, written next   the user's next message in the same conversation, and what is written for it
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from conformance.facts import differences
from proxy.cli.conversation import Conversation, Timeouts
from proxy.cli.launch import BILLED, FIXED, FLAGS, PASSED, PASSED_FOR_LOGIN, SET_FOR_LOGIN
from proxy.cli.process import Child
from proxy.dialects import Rules
from proxy.dialects.openai import chat_request as requests
from proxy.dialects.openai.chat import ChatEncoder, Chunks
from proxy.dialects.openai.chat_request import ChatPlan
from proxy.dialects.openai.chat_types import AnswerHead, Chunk
from proxy.dialects.openai.errors import envelope
from proxy.dialects.openai.stream import PARAMS
from proxy.dialects.openai.tools import PLAIN_CALLS
from proxy.protocol.answer import Fold
from proxy.protocol.deltas import Failed, Finished, Tokens
from proxy.protocol.failures import Failure, Rejection
from proxy.protocol.line_decoder import decode_line
from proxy.protocol.lines import Line
from proxy.protocol.models import Abilities
from tests import generate_protocol

PAGE = generate_protocol.PAGE.read_text("utf-8")
RULES = Rules(abilities_of=lambda model: Abilities(("low", "medium", "high"), thinking_off=True))
NATIVE = msgspec.structs.replace(RULES, native=True)
PLAIN = '{"model": "opus", "messages": [{"role": "user", "content": "Hello."}]}'
TAKEN_IN = decode_line(b'{"type": "result", "subtype": "success", "num_turns": 0}')
KEPT_TO_ITSELF = decode_line(b'{"type": "result", "is_error": true, "terminal_reason": "blocking_limit"}')


class Block(Struct, frozen=True):
    """`joined`: nothing stands between it and the block before."""

    line: int
    role: str
    text: str
    joined: bool


class Example(Struct, frozen=True):
    line: int
    blocks: tuple[Block, ...]

    def __str__(self) -> str:
        return f"line {self.line}"


ROLES = ("request", "to the CLI", "from the CLI", "chunks", "answer", "error", "written next", "next")


def blocks() -> Iterator[Block]:
    """All JSON blocks of the page."""
    end = 0
    for match in re.finditer(r"^```json (?P<role>[^\n]+)\n(?P<text>.*?)^```$\n", PAGE, re.MULTILINE | re.DOTALL):
        line = PAGE.count("\n", 0, match.start()) + 1
        yield Block(line, match["role"], match["text"], joined=match.start() == end)
        end = match.end()


def examples() -> list[Example]:
    """Blocks that belong together: a request, or lines from the CLI that are not joined to one, begins an example."""
    found: list[list[Block]] = []
    for block in blocks():
        if block.role.startswith("request") or (block.role == "from the CLI" and not block.joined):
            found.append([])
        found[-1].append(block)
    return [Example(each[0].line, tuple(each)) for each in found]


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


class FakeChild(Child):
    """Keeps what is written; takes past messages in, then says what it was given."""

    def __init__(self, said: list[Line]) -> None:
        self.written: list[Any] = []
        self._said = said

    @property
    def alive(self) -> bool:
        return True

    @property
    def blocked(self) -> bool:
        """It has been told to send nothing, and not yet to go on."""
        return sum("BLOCKING_LIMIT" in json.dumps(line) for line in self.written) == 1

    def write(self, data: bytes) -> None:
        self.written += lines(data.decode())

    async def read(self) -> list[Line]:
        if self.blocked:
            return [KEPT_TO_ITSELF]
        if self.written[-1].get("shouldQuery") is False:
            return [TAKEN_IN]
        said, self._said = self._said, []
        return said

    def kill(self, because: str = "") -> None:
        self._said = []


class Outcome:
    """What comes of an example."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.next: list[Any] = []
        self.chunks: list[Chunk] = []
        self.fold = Fold()
        self.style = PLAIN_CALLS
        self.tokens = Tokens()
        self.failure: Failure | None = None

    @property
    def choices(self) -> list[Any]:
        shown = []
        for chunk in self.chunks:
            choice = json.loads(msgspec.json.encode(chunk.choices[0]))
            shown.append({"delta": choice["delta"], "finish_reason": choice["finish_reason"]})
        return shown

    @property
    def answer(self) -> Any:
        encoder = ChatEncoder(AnswerHead("chatcmpl-1", 0, "claude-code"), self.style)
        whole = msgspec.json.decode(msgspec.json.encode(encoder.whole([self.fold.answer()], self.tokens)))
        choice = whole["choices"][0]
        return choice["message"] | {"finish_reason": choice["finish_reason"], "usage": whole["usage"]}

    @property
    def error(self) -> Any:
        assert self.failure is not None
        return {"status": self.failure.row.status} | msgspec.to_builtins(envelope(self.failure, PARAMS))


async def run(example: Example) -> Outcome:
    """The example, by the code: request → lines, lines → chunks."""
    outcome = Outcome()
    given = {re.sub("^request .*", "request", block.role): block for block in example.blocks}
    settings = given["request"].role.split()[1:] if "request" in given else []
    body = given["request"].text if "request" in given else PLAIN
    try:
        request = requests.decode(body.encode(), NATIVE if "native" in settings else RULES)
    except Rejection as rejection:
        outcome.failure = rejection.failure
        return outcome
    answers = lines(given["from the CLI"].text) if "from the CLI" in given else []
    said = [decode_line(json.dumps(line).encode()) for line in answers]
    child = FakeChild(said)
    conversation = Conversation(child, Timeouts(5, 5), "append" if "append" in settings else "replace")
    await conversation.ask_new(request.plan)
    while child.blocked or child.written[-1].get("shouldQuery") is False:
        await conversation.deltas(0)
    outcome.written = list(child.written)
    if said:
        await answered(conversation, request, outcome)
    if "next" in given:
        child._said = [decode_line(b'{"type": "result", "subtype": "success", "num_turns": 1}')]
        await conversation.settle()
        before = len(child.written)
        (message,) = requests.decode(given["next"].text.encode(), RULES).plan.messages[-1:]
        assert conversation.can_ask(message)
        await conversation.ask_next(message)
        outcome.next = child.written[before:]
    return outcome


async def answered(conversation: Conversation, request: ChatPlan, outcome: Outcome) -> None:
    chunks = Chunks(AnswerHead("chatcmpl-1", 0, "claude-code"), 0, request.style)
    outcome.style = request.style
    while True:
        deltas = await conversation.deltas(1)
        assert deltas, "the lines end before the answer does"
        outcome.chunks += chunks.feed(deltas)
        outcome.fold.take(deltas)
        if isinstance(deltas[-1], Failed):
            outcome.failure = deltas[-1].failure
            return
        if isinstance(deltas[-1], Finished):
            outcome.tokens = deltas[-1].tokens
            return


@pytest.mark.parametrize("example", examples(), ids=str)
async def test_the_examples(example: Example) -> None:
    outcome = await run(example)
    for block in example.blocks:
        if block.role == "to the CLI":
            assert outcome.written == lines(block.text)
        elif block.role == "written next":
            assert outcome.next == lines(block.text)
        elif block.role == "chunks":
            assert outcome.choices == lines(block.text)
        elif block.role == "answer":
            assert differences(json.loads(block.text), outcome.answer) == []
        elif block.role == "error":
            assert differences(json.loads(block.text), outcome.error) == []
    assert outcome.failure is None or any(block.role == "error" for block in example.blocks)


def test_every_block_is_of_a_known_kind_and_says_something() -> None:
    assert [block.line for block in blocks() if not block.text.strip()] == []
    assert {re.sub(r"^request .*", "request", block.role) for block in blocks()} <= set(ROLES)
    assert not re.findall(r"^```(?!json |text|\n|$)[^\n]*$", PAGE, re.MULTILINE)


def test_the_tables_are_those_of_the_code() -> None:
    assert generate_protocol.main(["--check"]) == 0
    assert set(re.findall(r"<!-- generated: (\w+) -->", PAGE)) == set(generate_protocol.TABLES)


def test_the_flags_are_those_of_the_launch() -> None:
    (text,) = re.findall(r"^```text flags\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    words = [word.strip('"') for word in text.split()]
    assert words == ["claude", *FLAGS]


def test_the_environment_is_that_of_the_launch() -> None:
    rows = re.findall(r"^\| `(\w+)=([^`]*)` \| (.+) \|$", PAGE, re.MULTILINE)
    assert {name: value for name, value, _ in rows} == FIXED
    assert all(reason.strip() for _, _, reason in rows)
    passed = {*PASSED, *BILLED, *(name for names in PASSED_FOR_LOGIN.values() for name in names)}
    passed |= {name for names in SET_FOR_LOGIN.values() for name in names}
    section = PAGE[PAGE.index("### Its environment") : PAGE.index("### Ready")]
    assert {name for name in passed if f"`{name}`" not in section} == set()
