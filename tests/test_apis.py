"""What each API of the conformance suite says of itself, and how it reads and judges answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conformance import apis
from conformance.apis import Api, chat, completions
from conformance.scenario import Facts

# Checked by mypy: these modules have all that an API has.
MODULES: tuple[Api, ...] = (chat, completions)
MEMBERS = {name for name in (*Api.__annotations__, *vars(Api)) if not name.startswith("_")}


@pytest.mark.parametrize("name", apis.names())
def test_an_api_has_all_its_parts(name: str) -> None:
    module = apis.named(name)
    assert {member for member in MEMBERS if not hasattr(module, member)} == set()
    assert module.REQUEST in module.SECTIONS
    rows = {f"{word}.{field}" for word, section in module.SECTIONS.items() for field in section.fields}
    assert set(module.SHOWS.values()) <= rows
    assert set(module.SHOWS) <= set(Facts.__struct_fields__)


def test_no_two_apis_have_one_path_or_one_section() -> None:
    paths = [apis.named(name).PATH for name in apis.names()]
    assert sorted(set(paths)) == sorted(paths)
    sections = [word for name in apis.names() for word in apis.named(name).SECTIONS]
    assert sorted(set(sections)) == sorted(sections)


def test_chat_is_meant_where_no_api_is_named_and_no_other_is_guessed() -> None:
    assert apis.names()[0] == "chat"
    with pytest.raises(ValueError, match="there is no API 'chatter': chat, "):
        apis.named("chatter")


USAGE = {
    "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3,
    "prompt_tokens_details": None, "completion_tokens_details": None,
}  # fmt: skip
BASE = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}


def events(*chunks: Any, done: bool = True) -> str:
    data = [json.dumps(chunk) for chunk in chunks] + ["[DONE]"] * done
    return "".join(f"data: {line}\n\n" for line in data)


def piece(index: int, text: str, reason: str | None = None) -> dict[str, Any]:
    return BASE | {"choices": [{"index": index, "text": text, "logprobs": None, "finish_reason": reason}]}


def test_a_streamed_completion_reads_as_a_whole_one() -> None:
    whole = BASE | {
        "choices": [
            {"index": 0, "text": "ab", "logprobs": None, "finish_reason": "stop"},
            {"index": 1, "text": "c", "logprobs": None, "finish_reason": "length"},
        ],
        "usage": USAGE,
    }
    text = events(
        piece(0, "a"), piece(1, "c", "length"), piece(0, "b"), piece(0, "", "stop"),
        BASE | {"choices": [], "usage": USAGE},
    )  # fmt: skip
    assert completions.read_stream(text) == completions.read(whole) | {"done": True}
    assert completions.read(whole)["content"] == "ab"
    assert completions.wrong_stream({"stream_options": {"include_usage": True}}, text) == []
    assert completions.wrong_stream({}, text) != []


def test_an_error_ends_a_stream_and_is_a_fact() -> None:
    error = {"error": {"message": "m", "type": "t", "param": None, "code": None}}
    for api in (chat, completions):
        came = api.read_stream(events(error, done=False))
        assert (came["error"], came["done"]) == (error["error"], False)
        assert api.wrong(500, error) == []
        assert api.wrong(500, {"error": "m"}) != []


def test_a_request_is_opened_by_the_first_text_of_its_user() -> None:
    assert completions.opening({"prompt": "p"}) == completions.opening({"prompt": ["p", "q"]}) == "p"
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "u"}]}]
    assert chat.opening({"messages": messages}) == "u"


def test_a_stream_is_asked_for_with_its_usage_unless_the_request_says_otherwise() -> None:
    assert chat.streamed({"a": 1}) == {"a": 1, "stream": True, "stream_options": {"include_usage": True}}
    assert chat.streamed({"stream_options": None})["stream_options"] is None
    assert (chat.is_streamed({}), chat.is_streamed({"stream": True})) == (False, True)
