"""Web search in chat completions: what of a request asks for it, and how it is told."""

from __future__ import annotations

import json
from typing import Any, cast

import httpx
import pytest

from proxy.dialects import RULES, Rules
from proxy.dialects.openai.chat import Chunks, whole_message
from proxy.dialects.openai.chat_request import ChatPlan, decode
from proxy.dialects.openai.chat_types import AnswerHead, UrlCitation
from proxy.protocol.answer import Fold
from proxy.protocol.citations import Citing, Pages
from proxy.protocol.deltas import Delta, Finished, Link, Reason, Searched, Searching, Started, Text, Tokens
from proxy.protocol.failures import Rejection
from proxy.protocol.plan import Search
from proxy.protocol.tools import MUST_CALL_ANY
from proxy.protocol.web_search import MUST_SEARCH
from tests.instant import application

WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
NATIVE = Rules(native=True)


def request(rules: Rules = NATIVE, **more: Any) -> ChatPlan:
    body = {"model": "opus", "messages": [{"role": "user", "content": "hi"}], "web_search_options": {}} | more
    return decode(json.dumps(body).encode(), rules)


def refused(rules: Rules = NATIVE, **more: Any) -> str | None:
    with pytest.raises(Rejection) as raised:
        request(rules, **more)
    return raised.value.failure.param


def test_the_options_alone_ask_for_it() -> None:
    made = request()
    assert made.plan.search == Search()
    assert (made.plan.must_call, made.ignored) == (False, ())
    assert request(web_search_options=None).plan.search is None


def test_what_of_the_options_has_no_effect_is_said() -> None:
    place = {"type": "approximate", "approximate": {"city": "Oslo", "country": "NO"}}
    made = request(web_search_options={"search_context_size": "high", "user_location": place})
    assert made.ignored == ("web_search_options.search_context_size", "web_search_options.user_location")
    assert request(web_search_options={"search_context_size": "medium"}).ignored == ()


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (True, "web_search_options"),
        ({"search_context_size": "huge"}, "web_search_options.search_context_size"),
        ({"user_location": {"type": "exact", "approximate": {}}}, "web_search_options.user_location.type"),
        ({"user_location": {"type": "approximate"}}, "web_search_options.user_location.approximate"),
    ],
)
def test_options_of_another_shape_are_refused(options: Any, where: str) -> None:
    assert refused(web_search_options=options) == where


def test_a_server_that_searches_no_web_says_so() -> None:
    assert refused(Rules(web_search=False)) == "web_search_options"
    assert request(Rules(web_search=False), web_search_options=None).plan.search is None


def test_a_strict_server_names_the_option_without_effect() -> None:
    sized = {"search_context_size": "low"}
    assert refused(Rules(strict=True), web_search_options=sized) == "web_search_options.search_context_size"


@pytest.mark.parametrize("rules", [NATIVE, RULES])
def test_it_is_forced_in_words(rules: Rules) -> None:
    """In the Messages API's own field it would be forced again after every search."""
    plan = request(rules, tool_choice="required").plan
    assert plan.search == Search()
    assert (plan.must_call, plan.system, plan.tool_choice) == (True, MUST_SEARCH, None)


def test_beside_tools_a_search_is_one_of_the_calls_that_can_be_required() -> None:
    plan = request(tool_choice="required", tools=[WEATHER]).plan
    assert plan.search == Search()
    assert (plan.must_call, plan.system, len(plan.tools), plan.tool_choice) == (True, MUST_CALL_ANY, 1, None)


@pytest.mark.parametrize("choice", ["none", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_choice_of_something_else_rules_it_out(choice: Any) -> None:
    assert request(tool_choice=choice, tools=[WEATHER]).plan.search is None


def test_required_without_anything_to_call_is_still_refused() -> None:
    assert refused(web_search_options=None, tool_choice="required") == "tool_choice"


DELTAS: list[Delta] = [
    Started("claude-opus-5-5", "msg_01"),
    Text("Let me look. "),
    Searching(0, "toolu_01", "q", "{}"),
    Searched(0, (Link("A page", "https://a.example/x"), Link("", "https://b.example/"))),
    Text("Sée [it](https://a.exam"),
    Text("ple/x)\nand https://b.example/."),
    Finished(Reason.END_TURN, Tokens(searches=1)),
]


def test_citations_are_where_the_text_names_the_page_whole_and_streamed() -> None:
    deltas = Citing(Pages()).take(DELTAS)
    fold = Fold()
    fold.take(deltas)
    message = whole_message(fold.answer())
    assert message.content == "Let me look. Sée [it](https://a.example/x)\nand https://b.example/."
    cited = [one.url_citation for one in message.annotations]
    assert cited == [
        UrlCitation(42, 17, "A page", "https://a.example/x"),
        UrlCitation(65, 47, "", "https://b.example/"),
    ]
    assert message.content[17:42] == "[it](https://a.example/x)"
    assert message.content[47:65] == "https://b.example/"
    chunks = Chunks(AnswerHead("chatcmpl-1", 0, "fp")).feed(deltas)
    told = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(str(one.content) for one in told if isinstance(one.content, str)) == message.content
    # In one chunk: OpenAI's client cannot fold a list that comes in pieces.
    assert [one.annotations for one in told if isinstance(one.annotations, tuple)] == [message.annotations]


async def test_a_request_that_searches_is_answered() -> None:
    """With nothing behind the server: the way of such a request through it."""
    body = {"model": "opus", "messages": [{"role": "user", "content": "hi"}], "web_search_options": {}}
    transport = httpx.ASGITransport(app=cast(Any, application()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3456") as client:
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["annotations"] == []
