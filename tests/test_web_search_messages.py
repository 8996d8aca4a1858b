"""Web search in the Messages API: its tool, and how a search and what the text cites of it are told."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from conformance.apis import messages as judge
from proxy.dialects import Rules
from proxy.dialects.anthropic.decode import Decoded, decode
from proxy.dialects.anthropic.encoder import MessageEncoder
from proxy.protocol.answer import Fold
from proxy.protocol.citations import Citing, Pages
from proxy.protocol.deltas import (
    Delta,
    Finished,
    Link,
    Reason,
    Searched,
    SearchError,
    SearchFailed,
    Searching,
    Started,
    Text,
    Tokens,
    ToolCall,
    ToolEnd,
)
from proxy.protocol.failures import Rejection
from proxy.protocol.plan import Search, TextBlock
from proxy.protocol.web_search import MUST_SEARCH

SEARCH = {"type": "web_search_20250305", "name": "web_search"}
WEATHER = {"name": "get_weather", "input_schema": {"type": "object"}}
RULES = Rules(native=True)


def request(*tools: Any, rules: Rules = RULES, **more: Any) -> Decoded:
    asked = {"model": "opus", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], "tools": tools} | more
    return decode(json.dumps(asked).encode(), rules)


def refused(*tools: Any, rules: Rules = RULES, **more: Any) -> str | None:
    with pytest.raises(Rejection) as raised:
        request(*tools, rules=rules, **more)
    return raised.value.failure.param


@pytest.mark.parametrize("version", ["web_search_20250305", "web_search_20260209"])
def test_the_tool_asks_for_it(version: str) -> None:
    made = request(SEARCH | {"type": version, "max_uses": 3, "blocked_domains": ["a.example"]}, WEATHER)
    assert made.plan.search == Search((), ("a.example",), 3)
    assert [tool.name for tool in made.plan.tools] == ["get_weather"]
    assert made.ignored == ()


@pytest.mark.parametrize(
    ("tool", "where"),
    [
        (SEARCH | {"name": "search"}, "tools[0].name"),
        (SEARCH | {"allowed_domains": ["a"], "blocked_domains": ["b"]}, "tools[0].blocked_domains"),
        (SEARCH | {"allowed_domains": ["a", " "]}, "tools[0].allowed_domains[1]"),
        (SEARCH | {"max_uses": 0}, "tools[0].max_uses"),
        ({"type": "web_fetch_20250910", "name": "web_fetch"}, "tools[0].type"),
        ({"type": "computer_20251124", "name": "computer"}, "tools[0].type"),
    ],
)
def test_what_cannot_be_done_is_refused(tool: Any, where: str) -> None:
    assert refused(tool) == where


def test_there_is_one_search() -> None:
    assert refused(SEARCH, SEARCH) == "tools[1]"


def test_a_server_that_searches_no_web_says_so() -> None:
    assert refused(SEARCH, rules=Rules(web_search=False)) == "tools"


def test_the_users_place_has_no_effect_and_that_is_said() -> None:
    assert request(SEARCH | {"user_location": {"type": "approximate"}}).ignored == ("tools.user_location",)


def test_it_can_be_forced_and_ruled_out() -> None:
    forced = request(SEARCH, WEATHER, tool_choice={"type": "tool", "name": "web_search"}).plan
    assert (forced.search, forced.must_call, forced.system, forced.tools) == (Search(), True, MUST_SEARCH, ())
    assert request(SEARCH, WEATHER, tool_choice={"type": "tool", "name": "get_weather"}).plan.search is None
    assert request(SEARCH, tool_choice={"type": "none"}).plan.search is None
    any_of_both = request(SEARCH, WEATHER, tool_choice={"type": "any"}).plan
    assert (any_of_both.search, any_of_both.must_call, any_of_both.tool_choice) == (Search(), True, None)


def test_a_tool_of_the_clients_may_be_called_so() -> None:
    assert request(WEATHER | {"name": "web_search"}).plan.search is None


def test_searches_of_the_past_are_taken_and_named() -> None:
    past = [
        {"type": "text", "text": "One moment."},
        {"type": "server_tool_use", "id": "srvtoolu_01", "name": "web_search", "input": {"query": "q"}},
        {
            "type": "web_search_tool_result",
            "tool_use_id": "srvtoolu_01",
            "content": [
                {"type": "web_search_result", "url": "https://a.example", "title": "A", "encrypted_content": "x"}
            ],
        },
        {"type": "text", "text": "It is A.", "citations": [{"type": "web_search_result_location"}]},
    ]
    talk = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": past},
        {"role": "user", "content": "and?"},
    ]
    made = request(SEARCH, messages=talk, rules=Rules(strict=True))
    assert made.plan.messages[1].content == (TextBlock("One moment."), TextBlock("It is A."))
    assert made.ignored == ("messages.web_search_tool_result",)


A = Link("A", "https://a.example/")
DELTAS: list[Delta] = [
    Started("claude-opus-5-5", "msg_01", Tokens(1, 2, 3, 0)),
    Text("One moment."),
    Searching(0, "toolu_01", "one", '{"query":"one"}'),
    Searching(1, "toolu_02", "two", '{"query":"two"}'),
    Searched(1, (A,)),
    SearchFailed(0, SearchError.UNAVAILABLE),
    Text("It is [A](https://a.ex"),
    Text("ample/)."),
    ToolCall(0, "toolu_03", "get_weather"),
    ToolEnd(0),
    Finished(Reason.TOOL_USE, Tokens(1, 2, 3, 4, searches=1)),
]


def test_a_stream_and_the_whole_tell_the_same_searches_and_citations() -> None:
    deltas, fold, encoder = Citing(Pages()).take(DELTAS), Fold(), MessageEncoder("msg_1")
    fold.take(deltas)
    answer = MessageEncoder("msg_1").whole([fold.answer()], Tokens(1, 2, 3, 4, searches=1))
    whole = json.loads(msgspec.json.encode(answer))
    events = [*encoder.open(), *encoder.feed(0, deltas), *encoder.close(Tokens(1, 2, 3, 4, searches=1))]
    text = "".join(f"event: {one.name}\ndata: {msgspec.json.encode(one.data).decode()}\n\n" for one in events)
    assert judge.wrong(200, whole) == []
    assert judge.wrong_stream({}, text) == []
    told = judge.read(whole)
    assert judge.read_stream(text) == told | {"done": True}
    assert told["searches"] == [{"query": "one", "error": "unavailable"}, {"query": "two", "pages": [A.url]}]
    assert told["citations"] == [{"title": "A", "url": A.url}]
    assert told["usage"]["server_tool_use"] == {"web_search_requests": 1, "web_fetch_requests": 0}
    ids = [block["id"] for block in whole["content"] if block["type"] == "server_tool_use"]
    assert ids == ["srvtoolu_01", "srvtoolu_02"]


def test_without_a_search_the_answer_is_as_it_was() -> None:
    fold = Fold()
    fold.take([DELTAS[0], Text("hi"), Finished(Reason.END_TURN, Tokens(1, 2, 3, 4))])
    whole = MessageEncoder("msg_1").whole([fold.answer()], Tokens(1, 2, 3, 4))
    assert whole.usage.server_tool_use is None
    assert msgspec.to_builtins(whole.content) == ({"type": "text", "text": "hi"},)
