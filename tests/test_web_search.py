"""proxy/protocol/web_search.py, and what the turn and the dialogue make of a search."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from proxy.cli.launch import FLAGS, launch, searching
from proxy.protocol import commands
from proxy.protocol.deltas import (
    Delta,
    Failed,
    Finished,
    Link,
    Reason,
    Searched,
    SearchError,
    SearchFailed,
    Searching,
    Started,
    Text,
    ToolCall,
)
from proxy.protocol.dialogue import Dialogue
from proxy.protocol.failures import About, Kind
from proxy.protocol.plan import Message, Plan, Schema, Search, TextBlock, Tool
from proxy.protocol.turn import State, Turn
from proxy.protocol.web_search import held_to, outcome
from proxy.settings import Settings
from tests import cli_lines as say

PAGE = ("A page", "https://a.example/x")
LINK = Link(*PAGE)
QUESTION = (Message("user", (TextBlock("What is new?"),)),)
PLAN = Plan("opus", None, QUESTION, search=Search())
WEATHER = Tool("get_weather", "", Raw(b'{"type":"object","properties":{}}'))


def fed(*tables: say.Table, search: Search | None = PLAN.search, schema: Schema | None = None) -> list[Delta]:
    return Turn(schema, search).feed(say.lines(*tables))


def message(*blocks: list[say.Table], end: str = "tool_use") -> list[say.Table]:
    return [say.start(), *(line for block in blocks for line in block), say.end(end), say.stopped()]


def words(text: str, index: int = 0) -> list[say.Table]:
    return [say.opened(index), say.piece(text, index), say.closed(index)]


SEARCH = say.search(0, "toolu_01", "news")
ANSWER = [*message(words("It is new."), end="end_turn"), say.result(num_turns=2)]


def test_a_search_is_part_of_one_answer() -> None:
    deltas = fed(
        *message(words("Let me look."), say.search(1, "toolu_01", "news")), say.found("toolu_01", PAGE), *ANSWER
    )
    started, first, asked, found, text, finished = deltas
    assert isinstance(started, Started)
    assert first == Text("Let me look.")
    assert asked == Searching(0, "toolu_01", "news", '{"query": "news"}')
    assert found == Searched(0, (LINK,))
    assert text == Text("It is new.")
    assert isinstance(finished, Finished)
    assert finished.reason is Reason.END_TURN
    # Of both messages, and one search.
    assert (finished.tokens.input, finished.tokens.output, finished.tokens.searches) == (20, 24, 1)


def test_searches_at_once_are_told_apart_and_in_any_order() -> None:
    both = message(say.search(0, "toolu_01", "one"), say.search(1, "toolu_02", "two"))
    deltas = fed(*both, say.found("toolu_02", PAGE), say.found("toolu_01"), *ANSWER)
    assert [one for one in deltas if isinstance(one, Searching | Searched)] == [
        Searching(0, "toolu_01", "one", '{"query": "one"}'),
        Searching(1, "toolu_02", "two", '{"query": "two"}'),
        Searched(1, (LINK,)),
        Searched(0, ()),
    ]


def test_one_search_after_the_other() -> None:
    second = message(say.search(0, "toolu_02", "more"))
    deltas = fed(*message(SEARCH), say.found("toolu_01"), *second, say.found("toolu_02", PAGE), *ANSWER)
    assert [one.search_index for one in deltas if isinstance(one, Searched)] == [0, 1]
    last = deltas[-1]
    assert isinstance(last, Finished)
    assert last.tokens.searches == 2


def test_a_result_that_comes_before_its_block_has_ended() -> None:
    lines = [
        say.start(),
        *SEARCH[:-1],
        say.found("toolu_01", PAGE),
        SEARCH[-1],
        say.end("tool_use"),
        say.stopped(),
        *ANSWER,
    ]
    assert [type(one) for one in fed(*lines)] == [Started, Searching, Searched, Text, Finished]


@pytest.mark.parametrize(
    ("said", "error", "code"),
    [
        ({"query": "q", "results": ["Web search error: max_uses_exceeded", "words"]}, False, SearchError.MAX_USES),
        ({"query": "q", "results": ["Web search error: of_tomorrow"]}, False, SearchError.UNAVAILABLE),
        ("Error: API Error: 400 no web search", True, SearchError.UNAVAILABLE),
        ("InputValidationError: [ … ]", True, SearchError.INVALID_INPUT),
        (17, True, SearchError.UNAVAILABLE),
    ],
)
def test_a_search_that_fails_is_part_of_the_answer(said: Any, error: bool, code: SearchError) -> None:
    deltas = fed(*message(SEARCH), say.ran("toolu_01", said, error=error), *ANSWER)
    assert SearchFailed(0, code) in deltas
    last = deltas[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.tokens.searches) == (Reason.END_TURN, 0)


def test_a_search_without_a_report_does_not_hold_the_answer_up() -> None:
    deltas = fed(*message(SEARCH), *ANSWER)
    assert SearchFailed(0, SearchError.UNAVAILABLE) in deltas
    assert isinstance(deltas[-1], Finished)


def test_calls_beside_a_search_go_out_when_it_has_ended() -> None:
    turn = Turn(search=Search())
    deltas = turn.feed(say.lines(*message(SEARCH, say.call(1, "toolu_02", "get_weather", "{}"))))
    assert not turn.over
    assert any(isinstance(one, ToolCall) for one in deltas)
    ended = turn.feed(say.lines(say.found("toolu_01", PAGE)))
    assert [type(one) for one in ended] == [Searched, Finished]
    assert isinstance(ended[-1], Finished)
    assert ended[-1].reason is Reason.TOOL_USE
    assert turn.state is State.STOPPED


def test_where_no_search_is_meant_the_tool_is_the_clients() -> None:
    deltas = fed(*message(SEARCH), search=None)
    assert ToolCall(0, "toolu_01", "WebSearch") in deltas
    assert isinstance(deltas[-1], Finished)


def test_a_message_that_is_cut_after_a_search_gives_way_to_the_next() -> None:
    cut = [say.start(), say.stopped(), say.retry()]
    deltas = fed(*message(SEARCH), say.found("toolu_01", PAGE), *cut, *ANSWER)
    assert [type(one) for one in deltas] == [Started, Searching, Searched, Text, Finished]


def test_a_message_that_is_cut_in_its_text_after_a_search_fails() -> None:
    cut = [say.start(), say.opened(), say.piece("It "), say.stopped()]
    last = fed(*message(SEARCH), say.found("toolu_01", PAGE), *cut)[-1]
    assert isinstance(last, Failed)
    assert last.failure.kind is Kind.UPSTREAM_CUT


def test_a_search_whose_words_were_cut_off_was_none() -> None:
    half = [say.opened(0, type="tool_use", id="toolu_01", name="WebSearch", input={}), say.arguments('{"quer', 0)]
    deltas = fed(*message(half, end="max_tokens"))
    assert [type(one) for one in deltas] == [Started, Finished]


def test_with_a_schema_words_before_a_search_are_no_answer() -> None:
    form = Schema(Raw(b'{"type":"object"}'), Raw(b'{"type":"object"}'), wrapped=False)
    answer = message(say.call(0, "toolu_02", "StructuredOutput", '{"a":1}'))
    lines = [*message(words("Let me look."), say.search(1, "toolu_01", "news")), say.found("toolu_01", PAGE), *answer]
    deltas = fed(*lines, say.result(num_turns=3), schema=form)
    assert [type(one) for one in deltas] == [Started, Searching, Searched, Text, Finished]
    assert Text('{"a":1}') in deltas


@pytest.mark.parametrize("cut", range(1, 12))
def test_every_beginning_of_a_search_goes_on_or_ends_once(cut: int) -> None:
    lines = [*message(SEARCH), say.found("toolu_01", PAGE), *ANSWER][:cut]
    turn = Turn(search=Search())
    deltas = turn.feed(say.lines(*lines))
    assert sum(isinstance(one, Finished | Failed) for one in deltas) == turn.over


# What the tool is run with.


@pytest.mark.parametrize(
    ("search", "asked", "run"),
    [
        (Search(), {"query": "q", "allowed_domains": ["x.example"]}, None),
        (Search(("a.example",)), {"query": "q"}, {"query": "q", "allowed_domains": ["a.example"]}),
        (
            Search(("a.example",)),
            {"query": "q", "allowed_domains": ["b.a.example", "c.example"], "blocked_domains": ["d.example"]},
            {"query": "q", "allowed_domains": ["b.a.example"]},
        ),
        (Search(("a.example",)), {"allowed_domains": ["nota.example"]}, {"allowed_domains": ["a.example"]}),
        (
            Search((), ("a.example",)),
            {"query": "q", "allowed_domains": ["a.example"], "blocked_domains": ["b.example"]},
            {"query": "q", "blocked_domains": ["a.example", "b.example"]},
        ),
        (Search(("a.example",)), [], {"allowed_domains": ["a.example"]}),
    ],
)  # fmt: skip
def test_a_search_is_held_to_the_domains(search: Search, asked: Any, run: Any) -> None:
    held = held_to(search, Raw(json.dumps(asked).encode()))
    assert (None if held is None else json.loads(bytes(held))) == run


def test_what_was_found_is_told_once() -> None:
    hits = [{"title": "A", "url": "https://a.example"}, {"title": "A", "url": "https://a.example"}]
    said = {"results": [{"content": hits}, {"content": hits}]}
    assert outcome(Raw(json.dumps(said).encode()), is_error=False) == (Link("A", "https://a.example"),)


# The dialogue.


def begun(plan: Plan) -> Dialogue:
    dialogue = Dialogue()
    dialogue.begin(plan)
    dialogue.to_send()
    return dialogue


def hook(tool: str, id: str, **input: Any) -> say.Table:
    asked = {"hook_event_name": "PreToolUse", "tool_name": tool, "tool_input": input, "tool_use_id": id}
    request = {"subtype": "hook_callback", "callback_id": "search", "input": asked, "tool_use_id": id}
    return {"type": "control_request", "request_id": f"ask_{id}", "request": request}


def decisions(dialogue: Dialogue) -> list[dict[str, Any]]:
    replies = [msgspec.json.decode(line) for line in b"".join(dialogue.to_send()).splitlines()]
    return [reply["response"]["response"]["hookSpecificOutput"] for reply in replies]


def test_the_cli_is_told_to_ask_before_it_searches_and_only_then() -> None:
    assert b'"hooks":{"PreToolUse":[{"matcher":"WebSearch"' in commands.initialize(PLAN, "replace")
    plain = msgspec.structs.replace(PLAN, search=None)
    assert b"hooks" not in commands.initialize(plain, "replace")


def test_a_search_is_allowed_with_the_clients_domains() -> None:
    dialogue = begun(msgspec.structs.replace(PLAN, search=Search(("a.example",))))
    dialogue.receive(say.lines(*message(SEARCH), hook("WebSearch", "toolu_01", query="news")))
    (decision,) = decisions(dialogue)
    assert decision["permissionDecision"] == "allow"
    assert decision["updatedInput"] == {"query": "news", "allowed_domains": ["a.example"]}


@pytest.mark.parametrize("tool", ["Bash", "Read", "Write", "WebFetch", "Task", "mcp__client__x", "websearch", ""])
def test_no_other_tool_of_the_clis_may_run(tool: str) -> None:
    dialogue = begun(PLAN)
    dialogue.receive(say.lines(*message(SEARCH), hook(tool, "toolu_01", command="id")))
    assert [one["permissionDecision"] for one in decisions(dialogue)] == ["deny"]


def test_a_search_that_the_model_did_not_ask_for_may_not_run() -> None:
    dialogue = begun(PLAN)
    dialogue.receive(say.lines(*message(SEARCH), hook("WebSearch", "toolu_09", query="news")))
    assert [one["permissionDecision"] for one in decisions(dialogue)] == ["deny"]


def test_a_process_without_search_refuses_all() -> None:
    dialogue = begun(msgspec.structs.replace(PLAN, search=None))
    dialogue.receive(say.lines(*message(SEARCH), hook("WebSearch", "toolu_01", query="news")))
    assert [one["permissionDecision"] for one in decisions(dialogue)] == ["deny"]


def test_one_search_too_many_is_refused_and_told_as_failed() -> None:
    dialogue = begun(msgspec.structs.replace(PLAN, search=Search(max_uses=1)))
    both = message(say.search(0, "toolu_01", "one"), say.search(1, "toolu_02", "two"))
    deltas = dialogue.receive(say.lines(*both, hook("WebSearch", "toolu_01"), hook("WebSearch", "toolu_02")))
    assert [one["permissionDecision"] for one in decisions(dialogue)] == ["allow", "deny"]
    deltas += dialogue.receive(
        say.lines(say.found("toolu_01", PAGE), say.ran("toolu_02", "Error: hook error: no", error=True), *ANSWER)
    )
    assert SearchFailed(1, SearchError.MAX_USES) in deltas
    last = deltas[-1]
    assert isinstance(last, Finished)
    assert last.tokens.searches == 1


@pytest.mark.parametrize(
    ("tools", "kind", "about"),
    [
        (["get_weather"], Kind.BAD_REQUEST, About.SEARCH),
        (["WebSearch", "get_weather", "Bash"], Kind.CLI_CONFUSED, None),
    ],
)
def test_a_process_that_has_other_tools_than_it_must_fails(tools: list[str], kind: Kind, about: About | None) -> None:
    dialogue = begun(msgspec.structs.replace(PLAN, tools=(WEATHER,)))
    (failed,) = dialogue.receive(say.lines(say.system("init", tools=tools)))
    assert isinstance(failed, Failed)
    assert (failed.failure.kind, failed.failure.about) == (kind, about)


def test_a_process_with_its_search_and_the_clients_tools_is_right() -> None:
    dialogue = begun(msgspec.structs.replace(PLAN, tools=(WEATHER,)))
    assert dialogue.receive(say.lines(say.system("init", tools=["WebSearch", "get_weather"]))) == []


def test_an_answer_with_a_search_can_be_followed() -> None:
    dialogue = begun(PLAN)
    dialogue.receive(say.lines(*message(SEARCH), say.found("toolu_01", PAGE), *ANSWER))
    assert dialogue.settled
    assert dialogue.can_ask(QUESTION[0])


def test_calls_beside_a_search_are_held() -> None:
    dialogue = begun(msgspec.structs.replace(PLAN, tools=(WEATHER,)))
    call = {
        "type": "control_request", "request_id": "r1",
        "request": {
            "subtype": "mcp_message", "server_name": "client",
            "message": {
                "jsonrpc": "2.0", "id": 2, "method": "tools/call",
                "params": {"name": "get_weather", "arguments": {}, "_meta": {"claudecode/toolUseId": "toolu_02"}},
            },
        },
    }  # fmt: skip
    dialogue.receive(say.lines(*message(SEARCH, say.call(1, "toolu_02", "get_weather", "{}")), call))
    assert not dialogue.settled
    dialogue.receive(say.lines(say.found("toolu_01", PAGE)))
    assert dialogue.settled


# The process.


def test_a_process_that_may_search_has_that_tool_and_no_other() -> None:
    plain = launch("/opt/claude", Settings(), {}, "/empty")
    argv = searching(plain).argv
    assert argv[argv.index("--tools") + 1] == "WebSearch"
    assert argv[argv.index("--allowedTools") + 1] == "mcp__client,WebSearch"
    assert plain.argv[plain.argv.index("--tools") + 1] == ""
    same = [(one, other) for one, other in zip(plain.argv, argv, strict=True) if one == other]
    assert len(same) == len(plain.argv) - 2
    assert len(FLAGS) < len(argv)
    assert (searching(plain).env, searching(plain).cwd) == (plain.env, plain.cwd)
