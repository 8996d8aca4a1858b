"""Marks for the prompt cache: which of a client's are met, where, for how long, and which are named as ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects import Rules
from proxy.dialects.anthropic.decode import decode as decode_messages
from proxy.dialects.openai.chat_request import decode as decode_chat
from proxy.protocol import commands, fingerprint
from proxy.protocol.dialogue import Dialogue
from proxy.protocol.failures import Rejection
from proxy.protocol.plan import CacheLife, Caching, Plan
from proxy.protocol.shortening import shorter

MARK: dict[str, Any] = {"cache_control": {"type": "ephemeral"}}
HOUR: dict[str, Any] = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
MINUTES: dict[str, Any] = {"cache_control": {"type": "ephemeral", "ttl": "5m"}}
SUBSCRIPTION = Rules(cache_ttl="1h")
CALL = {"id": "toolu_1", "name": "look", "input": {}}
TOOL = {"name": "look", "input_schema": {"type": "object"}}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def user(*content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content), **more}


def said(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def messages(*messages: Any, rules: Rules = SUBSCRIPTION, **more: Any) -> tuple[Plan, tuple[str, ...]]:
    body = {"model": "opus", "max_tokens": 9, "messages": messages, **more}
    found = decode_messages(json.dumps(body).encode(), rules)
    return found.plan, found.ignored


def chat(*messages: Any, rules: Rules = SUBSCRIPTION, **more: Any) -> tuple[Plan, tuple[str, ...]]:
    found = decode_chat(json.dumps({"model": "opus", "messages": messages, **more}).encode(), rules)
    return found.plan, found.ignored


def at(message: int, block: int, ttl: CacheLife = "1h") -> Caching:
    return Caching(ttl, (message, block))


DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Long."}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("sunny", **MARK)]}


@pytest.mark.parametrize(
    ("asked", "caching", "ignored"),
    [
        ((user(DOCUMENT | MARK, text("What of it?")),), at(0, 0), ()),
        ((user(text("a", **MARK)), said(text("b")), user(text("c"))), at(0, 0), ()),
        # The CLI has a mark at the end.
        ((user(text("a"), text("b", **MARK)),), None, ()),
        ((user(text("a", **MARK)), said(text("b")), user(text("c", **MARK))), at(0, 0), ()),
        # One place is left: that of the last.
        ((user(text("a", **MARK), text("b", **MARK), text("c")),), at(0, 1), ("cache_control",)),
        ((user(text("a")), said(text("b", **MARK)), user(text("c"))), None, ("cache_control",)),
        ((user(text(" ", **MARK), text("c")),), None, ("cache_control",)),
        ((user(text("a")), said({"type": "tool_use", **CALL}), user(RESULT, text("c"))), at(2, 0), ()),
        # Results stand first, whatever the order of the client.
        ((user(text("a")), said({"type": "tool_use", **CALL}), user(text("c", **MARK), RESULT)), at(2, 0), ()),
        ((user(DOCUMENT | MINUTES, text("What of it?")),), at(0, 0), ("cache_control.ttl",)),
        ((user(DOCUMENT | HOUR, text("What of it?")),), at(0, 0), ()),
    ],
)  # fmt: skip
def test_messages(asked: Any, caching: Caching | None, ignored: tuple[str, ...]) -> None:
    plan, names = messages(*asked)
    assert (plan.caching, names) == (caching, ignored)


@pytest.mark.parametrize(
    ("more", "ignored"),
    [
        (MARK, ()),
        ({"system": [text("a"), text("b", **MARK)]}, ()),
        ({"system": [text("a", **MARK), text("b", **MARK)]}, ("cache_control",)),
        ({"tools": [TOOL, {**TOOL, "name": "b", **MARK}]}, ()),
        ({"tools": [{**TOOL, **MARK}, {**TOOL, "name": "b"}]}, ("cache_control",)),
        ({"system": [text("a", **MINUTES)]}, ("cache_control.ttl",)),
    ],
)
def test_the_cli_marks_the_ends_of_tools_and_system_prompt_itself(more: Any, ignored: tuple[str, ...]) -> None:
    plan, names = messages(user(text("Hi.")), **more)
    assert (plan.caching, names) == (None, ignored)


def test_without_a_subscription_it_is_for_as_long_as_the_client_says() -> None:
    cases: tuple[tuple[dict[str, Any], CacheLife], ...] = ((MARK, "5m"), (MINUTES, "5m"), (HOUR, "1h"))
    for marks, ttl in cases:
        plan, names = messages(user(text("a", **marks), text("b")), rules=Rules())
        assert (plan.caching, names) == (at(0, 0, ttl), ())
        assert messages(user(text("a", **marks)), rules=Rules())[0].caching == Caching(ttl)
    plan, names = messages(user(text("a", **MINUTES), text("b", **HOUR)), rules=Rules())
    assert (plan.caching, names) == (at(0, 0), ("cache_control.ttl",))
    assert messages(user(text("a")), rules=Rules())[0].caching is None


TOLD = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]}  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "caching", "ignored"),
    [
        ((user(text("a", **MARK), text("b")),), at(0, 0), ()),
        ((user({"type": "image_url", "image_url": {"url": "https://x.test/a.png"}, **MARK}, text("b")),), at(0, 0), ()),
        (({"role": "user", "content": "a", **MARK}, said(text("b")), user(text("c"))), at(0, 0), ()),
        (({"role": "system", "content": [text("a", **MARK)]}, user(text("b"))), None, ()),
        (({"role": "system", "content": "a", **MARK}, {"role": "system", "content": "b"}, user(text("c"))), None,
         ("cache_control",)),
        ((user(text("a")), {"role": "assistant", "content": "b", **MARK}, user(text("c"))), None, ("cache_control",)),
        ((user(text("a")), TOLD, {"role": "tool", "tool_call_id": "toolu_1", "content": "sunny", **MARK},
          user(text("c"))), at(2, 0), ()),
        ((user(text("a")), TOLD, {"role": "tool", "tool_call_id": "toolu_1", "content": [text("sunny", **MARK)]}),
         None, ()),
    ],
)  # fmt: skip
def test_chat(asked: Any, caching: Caching | None, ignored: tuple[str, ...]) -> None:
    """As OpenRouter has it on parts, and LiteLLM also on messages."""
    plan, names = chat(*asked)
    assert (plan.caching, names) == (caching, ignored)


def test_a_mark_is_no_part_of_what_a_conversation_is() -> None:
    marked, plain = (messages(user(text("a", **mark), text("b")))[0] for mark in (MARK, {}))
    assert marked.caching != plain.caching
    assert fingerprint.of_all(marked, "") == fingerprint.of_all(plain, "")


def test_one_of_another_shape_is_refused() -> None:
    with pytest.raises(Rejection, match=r"cache_control"):
        messages(user(text("a", cache_control={"type": "eternal"})))


def test_a_shorter_conversation_has_no_mark_that_stood_elsewhere() -> None:
    plan, _ = messages(
        user(text("a")), said(text("b")), user(text("c", **MARK), text("d")), said(text("e")), user(text("f"))
    )
    cut = shorter(plan)
    assert cut is not None
    assert cut.caching is None


def test_what_is_written_has_the_mark_and_one_time_to_live_for_all() -> None:
    plan, _ = messages(user(text("a", **MARK)), said(text("b")), user(DOCUMENT | MARK, text("d")), rules=Rules())
    assert plan.caching == at(2, 0, "5m")
    dialogue = Dialogue()
    dialogue.begin(plan, opening=False)
    lines = [json.loads(line) for line in b"".join(dialogue.to_send()).splitlines()]
    env = next(line["request"]["settings"]["env"] for line in lines if "settings" in line.get("request", {}))
    assert env["CLAUDE_CODE_PROMPT_CACHE_TTL"] == "5m"
    asked = json.loads(commands.ask(plan.messages[2], 2, plan.caching))["message"]
    plain = json.loads(commands.ask(plan.messages[2]))["message"]
    assert asked["content"][0].pop("cache_control") == {"type": "ephemeral", "ttl": "5m"}
    assert asked == plain
    past = json.loads(commands.past(plan.messages[0], 0, plan.caching))["message"]
    assert past == json.loads(commands.past(plan.messages[0]))["message"]
