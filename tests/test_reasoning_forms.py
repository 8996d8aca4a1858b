"""What clients of OpenRouter, DeepSeek and Qwen say of thinking and usage in a chat request."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from proxy.dialects import Identity, Rules
from proxy.dialects.openai.chat import Chat
from proxy.dialects.openai.chat_request import decode
from proxy.protocol.deltas import Delta, Text, Thinking
from tests.scripted import BEGUN, end

HI = {"role": "user", "content": "Hi."}


@pytest.mark.parametrize(
    ("more", "effort", "thinking"),
    [
        ({"reasoning": {"effort": "high"}}, "high", True),
        ({"reasoning": {"effort": "high"}, "reasoning_effort": "low"}, "low", True),
        ({"reasoning": {"enabled": True}}, None, True),
        ({"reasoning": {"enabled": False}}, None, False),
        ({"reasoning": {"effort": "none"}}, None, False),
        ({"thinking": {"type": "disabled"}}, None, False),
        ({"thinking": {"type": "enabled"}}, None, True),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "high"}, "high", True),
        ({"enable_thinking": False}, None, False),
        ({"enable_thinking": True}, None, True),
    ],
)
def test_other_forms_of_effort(more: dict[str, Any], effort: str | None, thinking: bool) -> None:
    made = decode(json.dumps({"model": "opus", "messages": [HI]} | more).encode(), Rules(native=True))
    assert (made.plan.effort, made.plan.thinking, made.shown, made.ignored) == (effort, thinking, True, ())


@pytest.mark.parametrize(
    ("more", "shown"),
    [({}, True), ({"reasoning": {"exclude": True}}, False), ({"reasoning": {"exclude": False}}, True),
     ({"include_reasoning": False}, False), ({"include_reasoning": True}, True)],
)  # fmt: skip
def test_thinking_is_shown_unless_it_is_not_wanted(more: dict[str, Any], shown: bool) -> None:
    asked = Chat().decode(json.dumps({"model": "opus", "messages": [HI], "stream": True} | more).encode(), Rules())
    assert (asked.plans[0].thinking, asked.ignored) == (True, ())
    encoder = asked.encoder(Identity("0" * 32, 1, "claude-code"))
    deltas: list[Delta] = [BEGUN, Thinking("hm"), Text("Yes."), end()]
    told = msgspec.json.encode([event.data for event in encoder.feed(0, deltas)]).decode()
    assert ("hm" in told, "Yes." in told) == (shown, True)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [({"usage": {"include": True}}, True), ({"usage": {"include": False}}, False),
     ({"usage": {"include": False}, "stream_options": {"include_usage": True}}, True)],
)  # fmt: skip
def test_usage_of_a_stream_in_another_form(more: dict[str, Any], wanted: bool) -> None:
    asked = {"model": "opus", "messages": [HI]} | more
    assert decode(json.dumps(asked | {"stream": True}).encode()).include_usage is wanted
    assert decode(json.dumps(asked).encode()).include_usage is False
