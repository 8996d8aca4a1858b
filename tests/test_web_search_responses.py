"""Web search in the Responses API: its tools, and how a search and what the text cites of it are told."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from proxy.dialects import Framing, Identity, Rules
from proxy.dialects.openai.responses.encoder import ResponsesEncoder
from proxy.dialects.openai.responses.request import AskedResponse, decode
from proxy.http.framing import framed
from proxy.protocol.answer import Fold
from proxy.protocol.citations import Citing, Pages
from proxy.protocol.deltas import (
    BlockBreak,
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
)
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.protocol.plan import Search
from proxy.protocol.web_search import MUST_SEARCH
from tests.responses_api import events, judged

SEARCH = {"type": "web_search"}
WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
BOTH = {"allowed_domains": ["a"], "blocked_domains": ["b"]}
RULES = Rules(native=True)


def asked(*tools: Any, rules: Rules = RULES, **more: Any) -> AskedResponse:
    return decode(json.dumps({"model": "opus", "input": "hi", "tools": tools} | more).encode(), rules)


def refused(*tools: Any, rules: Rules = RULES, **more: Any) -> str | None:
    with pytest.raises(Rejection) as raised:
        asked(*tools, rules=rules, **more)
    return raised.value.failure.param


@pytest.mark.parametrize(
    "type", ["web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11"]
)
def test_the_tool_asks_for_it(type: str) -> None:
    found = asked({"type": type, "search_context_size": "medium"}, WEATHER)
    assert found.plan.search == Search()
    assert [tool.name for tool in found.plan.tools] == ["get_weather"]
    assert found.ignored == ()


def test_without_access_to_the_web_nothing_is_searched_and_that_is_said() -> None:
    """Codex sends the tool so with every request."""
    found = asked(SEARCH | {"external_web_access": False}, WEATHER, tool_choice="auto")
    assert found.plan.search is None
    assert found.ignored == ("tools.web_search",)
    assert asked(SEARCH | {"external_web_access": False}, rules=Rules(web_search=False)).plan.search is None


def test_filters_and_what_has_no_effect() -> None:
    place = {"type": "approximate", "country": "NO", "city": None}
    tool = SEARCH | {
        "filters": {"allowed_domains": ["a.example"]},
        "user_location": place,
        "search_context_size": "low",
    }
    found = asked(tool)
    assert found.plan.search == Search(("a.example",))
    assert found.ignored == ("tools.web_search.search_context_size", "tools.web_search.user_location")
    nowhere = SEARCH | {"user_location": {"type": "approximate"}, "search_context_size": "medium", "filters": None}
    assert asked(nowhere).ignored == ()


@pytest.mark.parametrize(
    ("tool", "where"),
    [
        (SEARCH | {"search_context_size": "huge"}, "tools[0].search_context_size"),
        (SEARCH | {"filters": {"allowed_domains": "a.example"}}, "tools[0].filters.allowed_domains"),
        (
            SEARCH | {"filters": {"allowed_domains": ["a"], "blocked_domains": ["b"]}},
            "tools[0].filters.blocked_domains",
        ),
        (SEARCH | {"external_web_access": "no"}, "tools[0].external_web_access"),
    ],
)
def test_what_is_of_another_shape_is_refused(tool: Any, where: str) -> None:
    assert refused(tool) == where


def test_there_is_one_search() -> None:
    assert refused(SEARCH, {"type": "web_search_preview"}) == "tools[1]"


def test_a_server_that_searches_no_web_says_so() -> None:
    assert refused(SEARCH, rules=Rules(web_search=False)) == "tools"


def test_at_most_so_many_searches() -> None:
    assert asked(SEARCH, max_tool_calls=2).plan.search == Search(max_uses=2)
    assert asked(SEARCH, max_tool_calls=0).plan.search is None
    assert asked(SEARCH, max_tool_calls=2).ignored == ()
    assert asked(WEATHER, max_tool_calls=2).ignored == ("max_tool_calls",)


@pytest.mark.parametrize(
    ("choice", "search", "tools", "must"),
    [
        ("auto", True, 1, False),
        ("required", True, 1, True),
        ("none", False, 0, False),
        ({"type": "web_search"}, True, 0, True),
        ({"type": "web_search_preview"}, True, 0, True),
        ({"type": "function", "name": "get_weather"}, False, 1, True),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}, True, 0, False),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]}, True, 0, True),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_weather"}]},
            False,
            1,
            False,
        ),
    ],
)
def test_choices(choice: Any, search: bool, tools: int, must: bool) -> None:
    plan = asked(SEARCH, WEATHER, tool_choice=choice).plan
    assert (plan.search is not None, len(plan.tools), plan.must_call) == (search, tools, must)
    if must and search and not tools:
        assert plan.system == MUST_SEARCH
        assert plan.tool_choice is None


def test_a_search_that_is_not_offered_cannot_be_chosen() -> None:
    assert refused(WEATHER, tool_choice={"type": "web_search"}) == "tool_choice.type"
    assert refused(WEATHER, tool_choice={"type": "allowed_tools", "mode": "auto", "tools": [5]}) is not None


A, B = Link("A", "https://a.example/"), Link("", "https://b.example/x")
DELTAS: list[Delta] = [
    Started("claude-opus-5-5", "msg_01"),
    Text("One moment."),
    Searching(0, "toolu_01", "one", '{"query":"one"}'),
    Searching(1, "toolu_02", "two", '{"query":"two"}'),
    Searched(1, (A, B)),
    SearchFailed(0, SearchError.UNAVAILABLE),
    Text("It is [A](https://a.ex"),
    Text("ample/).\n"),
    BlockBreak(),
    Text("é https://b.example/x"),
    Finished(Reason.END_TURN, Tokens(1, 2, 3, 4, searches=1)),
]
IDENTITY = Identity("00", 1, "fp")


def told(*, sources: bool = False) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The whole response, and the events of the stream."""
    include = ["web_search_call.action.sources"] if sources else []
    request, deltas, fold = asked(SEARCH, include=include), Citing(Pages()).take(DELTAS), Fold()
    fold.take(deltas)
    tokens = Tokens(1, 2, 3, 4, searches=1)
    whole = json.loads(msgspec.json.encode(ResponsesEncoder(request, IDENTITY).whole([fold.answer()], tokens)))
    encoder = ResponsesEncoder(request, IDENTITY)
    out = [*encoder.open(), *encoder.feed(0, deltas), *encoder.close(tokens)]
    return judged(whole), events(framed(Framing.SSE, out).decode())


def test_items_and_annotations() -> None:
    whole, _ = told()
    assert [item["type"] for item in whole["output"]] == ["message", "web_search_call", "web_search_call", "message"]
    _, one, two, message = whole["output"]
    assert (one["status"], two["status"]) == ("failed", "completed")
    assert two["action"] == {"type": "search", "query": "two", "queries": ["two"]}
    (part,) = message["content"]
    cited = [(part["text"][note["start_index"] : note["end_index"]], note["url"]) for note in part["annotations"]]
    assert cited == [("[A](https://a.example/)", A.url), ("https://b.example/x", B.url)]


def test_sources_where_they_are_asked_for() -> None:
    whole, _ = told(sources=True)
    assert whole["output"][1]["action"]["sources"] == []
    assert whole["output"][2]["action"]["sources"] == [{"type": "url", "url": A.url}, {"type": "url", "url": B.url}]


@pytest.mark.parametrize("sources", [True, False])
def test_a_stream_tells_what_the_whole_does(sources: bool) -> None:
    whole, stream = told(sources=sources)
    assert stream[-1]["response"] == whole
    done = {event["output_index"]: event["item"] for event in stream if event["type"] == "response.output_item.done"}
    assert [done[index] for index in sorted(done)] == whole["output"]
    notes = [event["annotation"] for event in stream if event["type"] == "response.output_text.annotation.added"]
    assert notes == whole["output"][-1]["content"][0]["annotations"]


def test_the_events_of_a_search() -> None:
    _, stream = told()
    of_two = [event["type"] for event in stream if event.get("output_index") == 2]
    assert of_two == [
        "response.output_item.added",
        "response.web_search_call.in_progress",
        "response.web_search_call.searching",
        "response.web_search_call.completed",
        "response.output_item.done",
    ]
    assert "response.web_search_call.completed" not in [
        event["type"] for event in stream if event.get("output_index") == 1
    ]


def test_an_answer_that_ends_in_mid_search_says_so() -> None:
    encoder = ResponsesEncoder(asked(SEARCH), IDENTITY)
    out = [*encoder.open(), *encoder.feed(0, DELTAS[:4]), *encoder.fail(Failure(Kind.CLI_DIED, "gone"))]
    last = json.loads(msgspec.json.encode(out[-1].data))["response"]
    assert [item.get("status") for item in last["output"]] == ["completed", "incomplete", "incomplete"]
