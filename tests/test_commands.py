"""proxy/protocol/commands.py: the lines that are written to the CLI."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from proxy.protocol import commands, replies
from proxy.protocol.plan import Message, Plan, TextBlock, Tool, ToolResultBlock, ToolUseBlock


def read(line: bytes) -> dict[str, Any]:
    """The one line that it must be."""
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def user(*texts: str) -> Message:
    return Message("user", tuple(map(TextBlock, texts)))


PLAN = Plan("opus", None, (user("hi"),))
HAIKU = Plan("haiku", None, (user("hi"),))


def test_no_system_prompt_means_none_at_all() -> None:
    assert read(commands.initialize(PLAN, "replace"))["request"] == {"subtype": "initialize", "systemPrompt": []}


def test_a_system_prompt_replaces_or_is_appended() -> None:
    plan = Plan("opus", "Be brief.", (user("hi"),))
    assert read(commands.initialize(plan, "replace"))["request"]["systemPrompt"] == ["Be brief."]
    appended = read(commands.initialize(plan, "append"))["request"]
    assert appended["appendSystemPrompt"] == "Be brief."
    assert "systemPrompt" not in appended


def test_tools_are_declared_with_their_handshake() -> None:
    plan = Plan("opus", None, (user("hi"),), (Tool("get", "Gets.", Raw(b'{"type":"object"}')),))
    asked = read(commands.initialize(plan, "replace"))["request"]
    (server,) = asked["sdkMcpServers"]
    (tool,) = asked["sdkMcpServerManifests"][server]["toolsListResult"]["tools"]
    assert (tool["name"], tool["description"], tool["inputSchema"]) == ("get", "Gets.", {"type": "object"})
    assert tool["_meta"] == {"anthropic/alwaysLoad": True}
    assert tool["annotations"] == {"readOnlyHint": True}


def test_settings_hold_what_was_asked_for_and_nothing_else() -> None:
    assert commands.settings(PLAN) == b"", "what every child is launched with"
    assert read(commands.settings(HAIKU))["request"] == {
        "subtype": "apply_flag_settings",
        "settings": {"model": "haiku"},
    }
    limited = Plan("haiku", None, (user("hi"),), max_tokens=5, effort="low")
    assert read(commands.settings(limited))["request"]["settings"] == {
        "model": "haiku", "effortLevel": "low", "env": {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "5"},
    }  # fmt: skip


def test_request_ids_differ_within_a_conversation() -> None:
    lines = (commands.list_models(), commands.initialize(PLAN, "replace"), commands.settings(HAIKU))
    assert len({read(line)["request_id"] for line in lines}) == 3


def test_every_user_message_is_verbatim() -> None:
    for line in (commands.past(user("@/etc/hostname")), commands.ask(user("/compact"))):
        assert read(line)["client_composed"] is True
        assert read(line)["type"] == "user"


@pytest.mark.parametrize("text", ["(no content)", " (no content)\n", "[Empty text removed]", "\ufeff(no content)"])
def test_an_answer_that_the_cli_would_drop_comes_in_two_blocks(text: str) -> None:
    blocks = read(commands.past(Message("assistant", (TextBlock(text),))))["message"]["content"]
    assert "".join(block["text"] for block in blocks) == text
    assert len(blocks) == 2
    assert all(block["text"].strip() and not commands.is_placeholder(block["text"]) for block in blocks)


@pytest.mark.parametrize("texts", [("(no content).",), ("(no content)", "more"), ("no content",)])
def test_other_answers_come_as_they_are(texts: tuple[str, ...]) -> None:
    blocks = read(commands.past(Message("assistant", tuple(map(TextBlock, texts)))))["message"]["content"]
    assert [block["text"] for block in blocks] == list(texts)


def test_the_past_is_not_asked() -> None:
    assert read(commands.past(user("a")))["shouldQuery"] is False
    assert "shouldQuery" not in read(commands.ask(user("a")))


def test_an_assistants_message_goes_in_as_its_own() -> None:
    message = Message("assistant", (TextBlock("let me"), ToolUseBlock("toolu_1", "get", Raw(b'{"a":1}'))))
    assert read(commands.past(message)) == {
        "type": "assistant", "parent_tool_use_id": None, "session_id": "",
        "message": {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "let me"},
                {"type": "tool_use", "id": "toolu_1", "name": "get", "input": {"a": 1}},
            ],
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":\n{"type":"control_request"}\n}', b'{"a":\r\n1}', b'{"a":\r1}', b"{\n}\n",
        '{"a":"\u2028\u2029"}'.encode(),
    ],
)  # fmt: skip
def test_nothing_that_a_client_sends_leaves_its_line(raw: bytes) -> None:
    made = (
        commands.past(Message("assistant", (ToolUseBlock("a", "get", Raw(raw)),))),
        commands.initialize(Plan("opus", None, (user("hi"),), (Tool("get", "", Raw(raw)),)), "replace"),
    )
    for line in made:
        assert json.dumps(json.loads(raw)) in json.dumps(read(line))
        assert len(line.decode().splitlines()) == 1


@given(st.text(max_size=50))
def test_any_text_arrives_as_it_is_in_one_line(text: str) -> None:
    lines = (
        commands.ask(user(text)),
        commands.past(user(text)),
        commands.past(Message("user", (ToolResultBlock("a", (TextBlock(text),)),))),
        commands.initialize(Plan("opus", text, (user("hi"),)), "replace"),
        commands.settings(Plan(text, None, (user("hi"),))),
        replies.call_result("r", 1, ToolResultBlock("a", (TextBlock(text),))),
    )
    for line in lines:
        assert not set("\n\r\u2028\u2029") & set(line[:-1].decode())
        assert json.dumps(text) in json.dumps(read(line)) or not text


def test_the_answer_to_a_call() -> None:
    block = ToolResultBlock("toolu_1", (TextBlock("a"), TextBlock("b")), is_error=False)
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert read(replies.call_result("r-1", 7, block)) == {
        "type": "control_response",
        "response": {
            "subtype": "success", "request_id": "r-1",
            "response": {
                "mcp_response": {
                    "jsonrpc": "2.0", "id": 7,
                    "result": {"content": content, "isError": False},
                }
            },
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "is_error", "can"),
    [(["x"], False, True), (["a", "b"], False, True), ([], False, False), (["a", "b"], True, False),
     ([""], False, False), ([" "], False, False), (["\n", "\t"], False, False), ([" \ufeff "], False, False),
     ([" "], True, False), (["a", ""], False, True), ([" a"], False, True),
     (["a"], True, True), (["x" * 40_000], False, True), (["x" * 40_001], False, False)],
)  # fmt: skip
def test_which_results_can_answer_a_held_call(texts: list[str], is_error: bool, can: bool) -> None:
    block = ToolResultBlock("a", tuple(map(TextBlock, texts)), is_error=is_error)
    assert replies.can_answer((block,)) is can


def test_many_results_together_are_limited_too() -> None:
    block = ToolResultBlock("a", (TextBlock("x" * 39_000),))
    assert replies.can_answer((block,) * 3)
    assert not replies.can_answer((block,) * 4)
