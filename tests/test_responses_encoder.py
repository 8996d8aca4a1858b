"""The events of a streamed response, and the law that this API and chat completions tell the same."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from proxy.dialects import Event, Framing, Identity, Rules, Timing
from proxy.dialects.openai.chat import whole_message
from proxy.dialects.openai.chat_types import usage_of
from proxy.dialects.openai.responses.encoder import ResponsesEncoder
from proxy.dialects.openai.responses.reasoning import Seal
from proxy.dialects.openai.responses.request import decode
from proxy.http.framing import framed
from proxy.protocol.answer import Fold
from proxy.protocol.deltas import (
    Arguments,
    BlockBreak,
    Delta,
    Failed,
    Finished,
    Reason,
    RedactedThinking,
    Refusal,
    Retracted,
    Signature,
    Started,
    Text,
    Thinking,
    Tokens,
    ToolCall,
    ToolEnd,
)
from proxy.protocol.failures import Failure, Kind
from proxy.protocol.plan import RedactedThinkingBlock, ThinkingBlock
from tests import test_laws
from tests.responses_api import events, judged

RULES = Rules(owner="mine", secret=b"s" * 32)
TOKENS = Tokens(10, 7, 5, 12, 3)
INCLUDE = {"include": ["reasoning.encrypted_content"]}


def encoder(rules: Rules = RULES, **body: Any) -> ResponsesEncoder:
    asked = decode(json.dumps({"model": "opus", "input": "Hi."} | body).encode(), rules)
    return ResponsesEncoder(asked, Identity("0" * 32, 1_750_000_000, "claude-code"))


def streamed(*deltas: Delta, rules: Rules = RULES, **body: Any) -> list[dict[str, Any]]:
    """The lawful events of an answer; the whole response of the same answer is the same."""
    made = encoder(rules, **body)
    found = [*made.feed(0, [Started("claude-opus-5-5")]), *made.feed(0, deltas)]
    found = [*made.open(), *found]
    if isinstance(deltas[-1], Failed):
        found += made.fail(deltas[-1].failure)
    else:
        found += made.close(TOKENS)
    told = events(framed(Framing.SSE, found).decode())
    assert made.ended is not None
    if not isinstance(deltas[-1], Failed):
        fold = Fold()
        fold.take([Started("claude-opus-5-5"), *deltas])
        whole = json.loads(msgspec.json.encode(encoder(rules, **body).whole([fold.answer()], TOKENS)))
        assert judged(whole) == told[-1]["response"]
    return told


def output(*deltas: Delta, **body: Any) -> list[dict[str, Any]]:
    return list(streamed(*deltas, **body)[-1]["response"]["output"])


END = Finished(Reason.END_TURN, TOKENS)
CALLED = Finished(Reason.TOOL_USE, TOKENS)


def called(name: str, arguments: str) -> tuple[Delta, ...]:
    return ToolCall(0, "toolu_1", name), Arguments(0, arguments), ToolEnd(0), CALLED


def test_signed_thinking_is_shown_to_who_asks_and_kept_anyway() -> None:
    first, second = (Thinking("Hm."), Signature("sig"), BlockBreak()), (Thinking("So."), Signature("nal"))
    thought = (*first, *second, RedactedThinking("x"))
    items = output(*thought, Text("Yes."), END, **INCLUDE)
    assert [item["type"] for item in items] == ["reasoning", "reasoning", "reasoning", "message"]
    opened = [Seal(RULES.secret, "mine").open(item["encrypted_content"], "") for item in items[:3]]
    assert [sealed.model for sealed in opened] == ["claude-opus-5-5"] * 3
    assert [sealed.block for sealed in opened] == [
        ThinkingBlock("Hm.", "sig"), ThinkingBlock("So.", "nal"), RedactedThinkingBlock("x")
    ]  # fmt: skip
    plain = output(*thought, Text("Yes."), END)
    assert [(item["type"], item.get("encrypted_content")) for item in plain] == [
        ("reasoning", None), ("reasoning", None), ("message", None)
    ]  # fmt: skip
    made = encoder()
    made.feed(0, [Started("m"), *thought, END])
    made.close(TOKENS)
    assert made.ended is not None
    assert [bool(getattr(item, "encrypted_content", None)) for item in made.ended.output] == [True] * 3


def test_thinking_that_is_not_to_be_shown_is_not() -> None:
    hidden = msgspec.structs.replace(RULES, reasoning=False)
    told = streamed(Thinking("Hm."), Signature("sig"), Text("Yes."), END, rules=hidden)
    assert [item["type"] for item in told[-1]["response"]["output"]] == ["message"]
    assert not any("Hm." in json.dumps(event) for event in told)


def test_a_custom_call_and_one_in_a_namespace() -> None:
    tools = [{"type": "namespace", "name": "ns", "description": "", "tools": [{"type": "function", "name": "f"}]},
             {"type": "custom", "name": "run"}]  # fmt: skip
    (item,) = output(*called("run", '{"input":"ls\\n"}'), tools=tools)
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "run", "ls\n")
    (item,) = output(*called("ns__f", "{}"), tools=tools)
    assert (item["type"], item["name"], item["namespace"]) == ("function_call", "f", "ns")


@pytest.mark.parametrize(
    ("tool", "arguments", "found"),
    [
        ("shell", '{"commands":["ls"]}',
         {"action": {"commands": ["ls"], "timeout_ms": None, "max_output_length": None}}),
        ("apply_patch", '{"type":"update_file","path":"a","diff":"@@"}',
         {"operation": {"type": "update_file", "path": "a", "diff": "@@"}}),
        ("local_shell", '{"command":["ls"],"user":null}',
         {"type": "local_shell_call", "action": {"type": "exec", "command": ["ls"], "env": {}}}),
        ("local_shell", '{"command":["ls"],"timeout_ms":5,"working_directory":"/","user":"me","env":{"A":"b"}}',
         {"action": {"type": "exec", "command": ["ls"], "env": {"A": "b"}, "timeout_ms": 5, "user": "me",
                     "working_directory": "/"}}),
        ("shell", '{"cmd":1}', {"type": "function_call", "name": "shell", "arguments": '{"cmd":1}'}),
    ],
)  # fmt: skip
def test_calls_of_built_in_tools(tool: str, arguments: str, found: dict[str, Any]) -> None:
    (item,) = output(*called(tool, arguments), tools=[{"type": tool}])
    assert item | found == item
    assert (item["call_id"], item["status"]) == ("toolu_1", "completed")


def test_a_refusal_is_a_part_of_a_message() -> None:
    (item,) = output(Refusal("No."), END)
    assert item["content"] == [{"type": "refusal", "refusal": "No."}]


@pytest.mark.parametrize(
    ("reason", "word"),
    [(Reason.MAX_TOKENS, "max_output_tokens"), (Reason.CONTEXT_WINDOW, "max_output_tokens"),
     (Reason.REFUSAL, "content_filter")],
)  # fmt: skip
def test_an_answer_that_is_not_complete_says_why(reason: Reason, word: str) -> None:
    last = streamed(Text("Half an"), Finished(reason, TOKENS))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": word}
    assert last["response"]["output"][0]["status"] == "incomplete"


def test_a_failure_tells_what_there_was_and_no_cut_call_as_done() -> None:
    cut = Failed(Failure(Kind.UPSTREAM_CUT, "Lost."))
    told = streamed(Text("Let me see."), ToolCall(0, "toolu_1", "f"), Arguments(0, '{"a'), cut)
    last = told[-1]["response"]
    assert (last["status"], last["error"]) == ("failed", {"code": "server_error", "message": "Lost."})
    done = [event["item"]["type"] for event in told if event["type"] == "response.output_item.done"]
    assert done == ["message"]


@test_laws.every_question
def test_it_tells_what_chat_completions_tell(asked: Any) -> None:
    deltas = test_laws.deltas_of(asked, asked.data)
    # What is taken back reaches no encoder: the answer is held until then, or fails.
    begun = max((index + 1 for index, delta in enumerate(deltas) if isinstance(delta, Retracted)), default=0)
    deltas = [*(delta for delta in deltas[:begun] if isinstance(delta, Started)), *deltas[begun:]]
    made = encoder()
    for delta in deltas[:-1]:
        made.feed(0, [delta])
    last = deltas[-1]
    fold = Fold()
    fold.take(deltas)
    message = whole_message(fold.answer())
    if isinstance(last, Failed):
        made.fail(last.failure)
    else:
        assert isinstance(last, Finished)
        made.feed(0, [last])
        made.close(last.tokens)
    assert made.ended is not None
    told = json.loads(msgspec.json.encode(made.ended.response))
    parts = [part for item in told["output"] for part in item.get("content") or ()]
    assert "".join(part.get("text", "") for part in parts) == (message.content or "")
    thought = "".join(part["text"] for item in told["output"] for part in item.get("summary", ()))
    assert thought == (message.reasoning_content or "")
    calls = [(item["call_id"], item["name"], item["arguments"]) for item in told["output"] if "arguments" in item]
    assert calls == [(call.id, call.name, call.arguments) for call in fold.answer().calls]
    if isinstance(last, Finished):
        usage, chat = told["usage"], usage_of(last.tokens)
        assert (usage["input_tokens"], usage["output_tokens"]) == (chat.prompt_tokens, chat.completion_tokens)
        assert usage["total_tokens"] == chat.total_tokens


@pytest.mark.parametrize(("seconds", "completed"), [(7.9, 1_750_000_008), (0.0, 1_750_000_001)])
def test_it_is_completed_when_it_is_not_when_it_was_asked_for(seconds: float, completed: int) -> None:
    asked = decode(b'{"model":"opus","input":"Hi."}', RULES)
    identity = Identity("0" * 32, 1_750_000_001, "claude-code", lambda: Timing(1_750_000_000.6, seconds))
    made = ResponsesEncoder(asked, identity)
    made.feed(0, [Started("claude-opus-5-5"), Text("Hi."), Finished(Reason.END_TURN, TOKENS)])
    made.close(TOKENS)
    assert made.response.created_at == 1_750_000_001
    assert made.response.completed_at == completed


@pytest.mark.parametrize(("most", "stored"), [(100_000, True), (3_000, False)])
def test_an_answer_that_is_too_large_to_be_stored_says_so(most: int, stored: bool) -> None:
    class Small:
        stores = True
        most_stored = most

    for deltas in ([Finished(Reason.END_TURN, TOKENS)], []):
        made = encoder(msgspec.structs.replace(RULES, lookup=Small()))
        assert made.response.store is True
        made.feed(0, [Started("claude-opus-5-5"), Text("x" * 5_000), *deltas])
        told = made.close(TOKENS) if deltas else made.fail(Failure(Kind.OVERLOADED, "busy"))
        assert made.ended is not None
        assert made.ended.store is made.response.store is stored
        last = told[-1]
        assert isinstance(last, Event)
        assert json.loads(msgspec.json.encode(last.data))["response"]["store"] is stored


TOOLS: list[dict[str, Any]] = [{"type": "function", "name": "f"}, {"type": "custom", "name": "run"}, {"type": "shell"}]


@pytest.mark.parametrize("reason", [Reason.MAX_TOKENS, Reason.CONTEXT_WINDOW])
@pytest.mark.parametrize(
    ("name", "arguments", "status"),
    [
        ("f", '{"x":', "incomplete"),
        ("f", "", "incomplete"),
        ("f", '{"x":1}', "completed"),
        ("run", '{"input":"ls', "incomplete"),
        ("shell", '{"commands":["ls"', "incomplete"),
        ("shell", '{"commands":["ls"]}', "completed"),
    ],
)
def test_a_call_that_the_limit_cuts_is_not_told_as_a_whole_one(
    reason: Reason, name: str, arguments: str, status: str
) -> None:
    """The Messages API ends its block as it ends every other."""
    before = (ToolCall(0, "toolu_0", "f"), Arguments(0, "{}"), ToolEnd(0))
    for ended in ((ToolEnd(1),), ()):
        cut = (ToolCall(1, "toolu_1", name), Arguments(1, arguments), *ended, Finished(reason, TOKENS))
        told = streamed(*before, *cut, tools=TOOLS)
        assert [item["status"] for item in told[-1]["response"]["output"]] == ["completed", status]
        done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
        assert done == told[-1]["response"]["output"]
