"""proxy/protocol/dialogue.py, driven from both sides: by us with plans and further messages, by a CLI that answers
what it is sent in any way that it may. Whatever happens the answer ends once, and nothing waits for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from proxy.protocol.deltas import Arguments, Delta, Failed, Finished, Reason, Text, Tokens, ToolCall
from proxy.protocol.dialogue import BLOCKED, Dialogue
from proxy.protocol.failures import Failure, Kind
from proxy.protocol.line_decoder import decode_line
from proxy.protocol.plan import Message, Plan, TextBlock, Tool, ToolResultBlock
from tests import cli_lines as say

WORDS = st.text("ab ü", min_size=1, max_size=6)
TOOLS = (Tool("look", "", Raw(b'{"type":"object"}')), Tool("book", "", Raw(b'{"type":"object"}')))
# What may stand between any two lines, and means nothing to the answer.
NOISE: tuple[say.Table, ...] = (
    say.system("status"), say.limits(), {"type": "new"}, say.system("unheard_of"), say.event({"type": "ping"}),
)  # fmt: skip
TOKENS = Tokens(10, 7, 5, 12)


def user(text: str) -> Message:
    return Message("user", (TextBlock(text),))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    messages: list[Message] = []
    for text in draw(st.lists(WORDS, max_size=4)):
        messages += [user(text), Message("assistant", (TextBlock(draw(WORDS)),))]
    return Plan(
        "opus", draw(st.none() | WORDS), (*messages, user("question")), tools=draw(st.sampled_from([(), TOOLS]))
    )


def test_a_request_of_an_unknown_kind_is_refused_as_the_cli_may_wait_for_an_answer() -> None:
    dialogue = Dialogue()
    dialogue.begin(Plan("opus", None, (user("hi"),)))
    dialogue.to_send()
    asked = {"type": "control_request", "request_id": "r-9", "request": {"subtype": "invented", "question": "ok?"}}
    assert dialogue.receive([decode_line(json.dumps(asked).encode())]) == []
    (line,) = b"".join(dialogue.to_send()).splitlines()
    said = {"subtype": "error", "request_id": "r-9", "error": "This kind of request is not supported."}
    assert json.loads(line) == {"type": "control_response", "response": said}


class Cli:
    """A CLI: takes what is sent line by line, and has lines to say to it. `script` draws how a question is answered."""

    def __init__(self, draw: st.DataObject, tools: tuple[Tool, ...]) -> None:
        self._draw = draw
        self._tools = tools
        self.received: list[Any] = []
        self.calls: list[str] = []
        self.pieces: list[str] = []
        self.how = ""
        self._blocked = False
        self._count = 0

    def take(self, data: bytes) -> Iterator[say.Table]:
        """What it says to these bytes, which are whole lines."""
        assert data.endswith(b"\n")
        for raw in data.splitlines():
            line = json.loads(raw)
            self.received.append(line)
            yield from self._noisy(self._said(line))

    def _noisy(self, lines: Iterator[say.Table]) -> Iterator[say.Table]:
        for line in lines:
            if self._draw.draw(st.integers(0, 9)) == 0:
                yield self._draw.draw(st.sampled_from(NOISE))
            yield line

    def _said(self, line: Any) -> Iterator[say.Table]:
        if line["type"] == "control_request":
            env = line["request"].get("settings", {}).get("env", {})
            self._blocked = env.get("CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE", "1" if self._blocked else "") == "1"
            yield say.reply(line["request_id"])
        elif line["type"] == "control_response":
            self.calls.remove(line["response"]["request_id"])
            if not self.calls:
                yield from self._answer()
        elif line["type"] == "user" and line.get("shouldQuery") is False:
            yield say.put_in()
        elif line["type"] == "user" and self._blocked:
            yield say.words("Prompt is too long", error="invalid_request")
            yield say.error_result("Prompt is too long", terminal_reason=BLOCKED, total_cost_usd=0)
        elif line["type"] == "user":
            yield from self._answer()

    def _answer(self) -> Iterator[say.Table]:
        yield say.system("init", tools=[tool.name for tool in self._tools])
        hows = ["text", "text", "retried", "cut", "refused", "error", "empty", "malformed"]
        self.how = self._draw.draw(st.sampled_from([*hows, *(["calls"] * 3 if self._tools else [])]))
        self.pieces = self._draw.draw(st.lists(WORDS, min_size=1, max_size=3))
        if self.how == "error":
            yield say.error_result("API Error: broken")
        elif self.how == "empty":
            yield say.result()
        elif self.how == "malformed":
            yield {"type": "stream_event", "event": {"type": "content_block_start"}}
            yield say.result()
        elif self.how == "calls":
            yield from self._calls()
        elif self.how == "cut":
            yield from say.message(*self.pieces)[:-3]
            yield say.result()
        else:
            if self.how == "retried":
                yield from say.message("lost")[: self._draw.draw(st.integers(0, 3))]
                yield say.retry()
            yield from say.message(*self.pieces, reason="refusal" if self.how == "refused" else "end_turn")
            yield say.result()

    def _calls(self) -> Iterator[say.Table]:
        named = self._draw.draw(st.lists(st.sampled_from(["look", "book"]), min_size=1, max_size=3))
        yield say.start()
        ids = []
        for index, name in enumerate(named):
            self._count += 1
            ids.append((f"toolu_{self._count}", name))
            yield from say.call(index, *ids[-1], "{}")
        yield say.end("tool_use")
        yield say.stopped()
        for number, (id, name) in enumerate(ids):
            params = {"name": name, "arguments": {}, "_meta": {"claudecode/toolUseId": id}}
            message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
            request = {"subtype": "mcp_message", "server_name": "client", "message": message}
            self.calls.append(f"for-{id}")
            yield {"type": "control_request", "request_id": f"for-{id}", "request": request}


def driven(dialogue: Dialogue, cli: Cli, draw: st.DataObject, *, leave: bool) -> list[Delta]:
    """Both sides until neither has anything to say. `leave`: the answer may be ended from outside at any moment."""
    deltas: list[Delta] = []
    lines: list[say.Table] = []
    while True:
        data = b"".join(dialogue.to_send())
        lines += cli.take(data) if data else ()
        if not lines:
            break
        count = draw.draw(st.integers(1, len(lines)))
        part, lines = lines[:count], lines[count:]
        deltas += dialogue.receive(say.lines(*part))
        if leave and not dialogue.over and draw.draw(st.integers(0, 19)) == 0:
            deltas += dialogue.fail(Failure(Kind.CLI_SILENT, "Nobody waits any more."))
    return deltas


def judged(dialogue: Dialogue, cli: Cli, deltas: list[Delta], *, left: bool) -> None:
    """What holds of every answer."""
    ends = [delta for delta in deltas if isinstance(delta, Finished | Failed)]
    assert len(ends) == 1, "neither stuck nor ended twice"
    assert deltas[-1] is ends[0], "nothing after the end"
    assert dialogue.over
    assert dialogue.fail(Failure(Kind.CLI_DIED, "once more")) == []
    text = "".join(delta.text for delta in deltas if isinstance(delta, Text))
    if isinstance(ends[0], Finished):
        assert cli.how in ("text", "calls", "retried", "refused")
        assert ends[0].tokens == dialogue.tokens
        if cli.how != "retried":
            assert ends[0].tokens == TOKENS, "each figure counts once"
        if cli.how in ("text", "retried"):
            assert text.endswith("".join(cli.pieces))
            assert text.removesuffix("".join(cli.pieces)) in ("", "lost")
    elif not left:
        assert cli.how not in ("text", "calls")
    called = [delta.id for delta in deltas if isinstance(delta, ToolCall)]
    assert len(set(called)) == len(called)
    assert sum(isinstance(delta, Arguments) for delta in deltas) <= len(called)


@settings(max_examples=150)
@given(plan=plans(), leave=st.booleans(), draw=st.data())
def test_both_sides(plan: Plan, leave: bool, draw: st.DataObject) -> None:
    dialogue, cli = Dialogue(), Cli(draw, plan.tools)
    dialogue.begin(plan)
    for turn in range(3):
        deltas = driven(dialogue, cli, draw, leave=leave)
        left = leave and isinstance(deltas[-1], Failed) and deltas[-1].failure.kind is Kind.CLI_SILENT
        judged(dialogue, cli, deltas, left=left)
        if turn == 0 and not left:
            # All messages of the past went in, in their order, and then the question.
            lines = (line for line in cli.received if line["type"] in ("user", "assistant"))
            said = [line["message"]["content"][-1]["text"] for line in lines]
            blocks = (block for message in plan.messages for block in message.content)
            assert said == [block.text for block in blocks if isinstance(block, TextBlock)]
        if not dialogue.settled:
            assert not isinstance(deltas[-1], Finished) or deltas[-1].reason is Reason.REFUSAL
            return
        before = len(cli.received)
        ids = sorted(call.removeprefix("for-") for call in cli.calls)
        results = Message("user", tuple(ToolResultBlock(id, (TextBlock("x"),)) for id in ids))
        assert not dialogue.can_ask(user("x") if ids else Message("user", (ToolResultBlock("no", ()),)))
        further = results if ids else user("further")
        assert dialogue.can_ask(further)
        dialogue.ask(further)
        assert not dialogue.over
        assert before == len(cli.received)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_is_sent_is_sent_once(count: int) -> None:
    dialogue = Dialogue()
    dialogue.begin(Plan("opus", None, (*[user("a"), Message("assistant", (TextBlock("b"),))] * count, user("c"))))
    assert dialogue.to_send()
    assert dialogue.to_send() == []
