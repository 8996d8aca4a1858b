"""The first message of a past: asked, kept by the CLI to itself, and where that goes wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.protocol.deltas import Failed, Finished, Text
from proxy.protocol.dialogue import BLOCKED, Dialogue
from proxy.protocol.failures import Kind
from proxy.protocol.plan import Message, Plan, RedactedThinkingBlock, TextBlock, ThinkingBlock
from proxy.protocol.reports import Cost
from tests import cli_lines as say

KEPT_TO_ITSELF = [
    say.system("init", tools=[], model="claude-haiku-5-5"),
    say.words("Prompt is too long", error="invalid_request"),
    say.error_result("Prompt is too long", terminal_reason=BLOCKED, total_cost_usd=0),
]
LIMIT = "CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE"


def user(text: str) -> Message:
    return Message("user", (TextBlock(text),))


def assistant(*blocks: Any, **more: Any) -> Message:
    return Message("assistant", tuple(TextBlock(one) if isinstance(one, str) else one for one in blocks), **more)


def begun(*messages: Message, opening: bool = True) -> tuple[Dialogue, list[Any]]:
    dialogue = Dialogue()
    dialogue.begin(Plan("opus", None, messages, max_tokens=9), opening=opening)
    return dialogue, sent(dialogue)


def sent(dialogue: Dialogue) -> list[Any]:
    return [json.loads(line) for line in b"".join(dialogue.to_send()).splitlines()]


def kinds(lines: list[Any]) -> list[str]:
    """Each line in a word: what it asks, or who says what, `?` if it is to be answered."""
    found = []
    for line in lines:
        if line["type"] == "control_request":
            limit = line["request"].get("settings", {}).get("env", {}).get(LIMIT)
            found.append({None: line["request"]["subtype"], "1": "blocked", "": "unblocked"}[limit])
        else:
            text = line["message"]["content"][-1].get("text", "")
            asked = line["type"] == "user" and line.get("shouldQuery") is not False
            found.append(f"{line['type']} {text}{'?' if asked else ''}")
    return found


PAST = (user("one"), assistant("two"), user("three"), assistant("four"), user("five"))


def test_the_first_message_is_asked_while_nothing_is_sent_and_then_the_rest_is_put_in() -> None:
    dialogue, lines = begun(*PAST)
    assert kinds(lines) == ["initialize", "blocked", "user one?"]
    assert lines[1]["request"]["settings"]["env"]["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "9"
    assert dialogue.receive(say.lines(say.reply("initialize"), *KEPT_TO_ITSELF)) == []
    assert not dialogue.over
    assert kinds(sent(dialogue)) == ["unblocked", "assistant two", "user three"]
    assert dialogue.receive(say.lines(say.put_in())) == []
    assert kinds(sent(dialogue)) == ["assistant four", "user five?"]
    deltas = dialogue.receive(say.lines(*say.answer("Hi")))
    assert Text("Hi") in deltas
    assert isinstance(deltas[-1], Finished)
    assert not any(isinstance(report, Cost) and not report.usd for report in dialogue.reports()), "nothing was asked"


def test_what_the_cli_says_of_the_first_message_is_not_held_against_the_answer() -> None:
    dialogue, _ = begun(*PAST[:3])
    dialogue.receive(say.lines(*KEPT_TO_ITSELF))
    [failed] = dialogue.receive(say.lines(say.error_result("API Error: 529", api_error_status=529)))
    assert isinstance(failed, Failed)
    assert failed.failure.kind is Kind.OVERLOADED


@pytest.mark.parametrize("messages", [PAST[:1], (assistant("zero"), user("one"))])
def test_a_conversation_without_a_past_of_the_users_is_asked_at_once(messages: tuple[Message, ...]) -> None:
    _, lines = begun(*messages)
    assert kinds(lines)[:2] == ["initialize", "apply_flag_settings"]
    assert kinds(lines)[-1] == "user one?"


def test_without_an_opening_all_of_the_past_is_put_in_alike() -> None:
    dialogue, lines = begun(*PAST, opening=False)
    assert kinds(lines) == ["initialize", "apply_flag_settings", "user one"]
    dialogue.receive(say.lines(say.put_in()))
    assert kinds(sent(dialogue)) == ["assistant two", "user three"]


def test_an_answer_before_the_first_message_goes_in_before_it() -> None:
    dialogue, lines = begun(assistant("zero"), user("one"), assistant("two"), user("three"))
    assert kinds(lines) == ["initialize", "blocked", "assistant zero", "user one?"]
    dialogue.receive(say.lines(*KEPT_TO_ITSELF))
    assert kinds(sent(dialogue)) == ["unblocked", "assistant two", "user three?"]


@pytest.mark.parametrize("line", [say.start(), say.result()])
def test_a_cli_that_sends_the_first_message_all_the_same_is_found_out(line: Any) -> None:
    dialogue, _ = begun(*PAST)
    [failed] = dialogue.receive(say.lines(line, *say.answer("to the wrong question")))
    assert isinstance(failed, Failed)
    assert failed.failure.kind is Kind.CLI_CONFUSED
    assert dialogue.sent_in_opening
    assert sent(dialogue) == []


def test_another_error_is_the_conversations() -> None:
    dialogue, _ = begun(*PAST)
    login = [say.words("Please run /login", error="authentication_failed"), say.error_result("Please run /login")]
    [failed] = dialogue.receive(say.lines(*login))
    assert isinstance(failed, Failed)
    assert failed.failure.kind is Kind.NOT_LOGGED_IN
    assert not dialogue.sent_in_opening
    assert sent(dialogue) == []


def test_past_thinking_goes_in_with_who_wrote_it() -> None:
    thought, hidden = ThinkingBlock("Hm.", "c2ln"), RedactedThinkingBlock("eA==")
    written = assistant(thought, "four", written_by="claude-opus-5-5")
    dialogue, _ = begun(user("one"), assistant(thought, hidden, "two"), user("three"), written, user("five"))
    dialogue.receive(say.lines(*KEPT_TO_ITSELF))
    first = sent(dialogue)[1]["message"]
    dialogue.receive(say.lines(say.put_in()))
    second = sent(dialogue)[0]["message"]
    assert (first["type"], first["model"]) == ("message", "claude-haiku-5-5"), "the model in use, if nobody says"
    assert second["model"] == "claude-opus-5-5"
    assert first["id"] != second["id"]
    assert first["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "eA=="},
        {"type": "text", "text": "two"},
    ]
