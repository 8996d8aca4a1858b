"""The prompt cache of the loopback Messages API, rule by rule as the API's documentation has them."""

from typing import Any

import pytest

from conformance.promptcache import LOOK_BACK, Counted, PromptCache, Refused, blocks, share

HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
MINUTES = {"cache_control": {"type": "ephemeral"}}
LONG = "word " * 1000  # 1250 tokens


def text(words: str, mark: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "text", "text": words, **(mark or {})}


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def asked(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "claude-x", "messages": list(messages), **more}


def reads(cache: PromptCache, body: dict[str, Any], at: float = 1.0) -> bool:
    return cache.count(body, at).read > 0


def test_what_ends_in_a_mark_is_written_once_and_read_then() -> None:
    cache = PromptCache()
    body = asked(user(text(LONG, HOUR), text("new")))
    first, second = cache.count(body, 0), cache.count(body, 1)
    assert first.read == second.written_1h == 0
    assert first.written_1h == second.read > 1250
    assert 0 < first.fresh == second.fresh < 20
    assert first.total == second.total
    assert second.usage()["cache_read_input_tokens"] == round(second.read)


def test_without_a_mark_nothing_is_written_or_read() -> None:
    cache = PromptCache()
    body = asked(user(text(LONG)))
    cache.count(body, 0)
    assert not reads(cache, body)
    cache.count(asked(user(text(LONG, HOUR))), 0)
    assert not reads(cache, body)


def test_a_longer_conversation_reads_what_precedes_and_writes_the_rest() -> None:
    cache = PromptCache()
    said = {"role": "assistant", "content": "yes"}
    once = cache.count(asked(user(text(LONG, HOUR))), 0)
    twice = cache.count(asked(user(text(LONG)), said, user(text(LONG, HOUR))), 1)
    assert twice.read == once.written_1h
    assert 1250 < twice.written_1h < 1300


def test_one_character_loses_the_prefix() -> None:
    cache = PromptCache()
    cache.count(asked(user(text("a" + LONG, HOUR))), 0)
    assert not reads(cache, asked(user(text("b" + LONG, HOUR))))


def test_the_order_of_arguments_counts_and_that_of_the_apis_own_members_does_not() -> None:
    def call(arguments: dict[str, int], **more: Any) -> dict[str, Any]:
        said = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": arguments}]}
        result = {"type": "tool_result", "tool_use_id": "a", "content": [text(LONG)], **HOUR}
        return asked(said, user(dict(sorted(result.items(), **more))))

    cache = PromptCache()
    cache.count(call({"a": 1, "b": 2}), 0)
    assert not reads(cache, call({"b": 2, "a": 1}))
    assert reads(cache, call({"a": 1, "b": 2}, reverse=True))


@pytest.mark.parametrize("more", [{"tool_choice": {"type": "any"}}, {"output_config": {"effort": "low"}}])
def test_other_settings_lose_the_messages_alone(more: dict[str, Any]) -> None:
    body = asked(user(text(LONG, HOUR))) | {"system": [text(LONG, HOUR)]}
    cache = PromptCache()
    whole = cache.count(body, 0).written_1h
    assert 0 < cache.count(body | more, 1).read < whole * 0.6


def test_the_first_image_loses_the_messages_and_a_second_does_not() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}}
    cache = PromptCache()
    cache.count(asked(user(text(LONG, HOUR))), 0)
    assert not reads(cache, asked(user(text(LONG, HOUR), image)))
    assert reads(cache, asked(user(text(LONG, HOUR), image, image)), 2)


def test_text_alone_is_a_list_of_one_text_and_no_error_is_none() -> None:
    cache = PromptCache()
    result = {"type": "tool_result", "tool_use_id": "a", "content": "told", "is_error": False}
    same = {"type": "tool_result", "tool_use_id": "a", "content": [text("told")], **HOUR}
    cache.count(asked({"role": "user", "content": LONG}, user(same)), 0)
    assert reads(cache, asked(user(text(LONG)), user({**result, **HOUR})))


def test_a_mark_looks_back_so_many_blocks_and_no_further() -> None:
    for between, found in ((LOOK_BACK - 1, True), (LOOK_BACK, False)):
        cache = PromptCache()
        cache.count(asked(user(text(LONG, HOUR))), 0)
        new = [text(str(number)) for number in range(between - 1)]
        assert reads(cache, asked(user(text(LONG)), user(*new, text("last", HOUR)))) is found
        # A mark in between finds it again.
        assert reads(cache, asked(user(text(LONG)), user(text("0", HOUR), *new[1:], text("last", HOUR))))


def test_where_the_sender_did_not_mark_there_is_no_entry() -> None:
    cache = PromptCache()
    cache.count(asked(user(text(LONG), text("asked", HOUR))), 0)
    assert not reads(cache, asked(user(text(LONG, HOUR), text("other"))))


@pytest.mark.parametrize(
    ("model", "words", "cached"),
    [
        ("claude-opus-5-5", 380, False),
        ("claude-opus-5-5", 420, True),
        ("claude-opus-4-7", 1500, False),
        ("claude-opus-4-7", 1700, True),
        ("claude-opus-4-6", 3000, False),
        ("claude-opus-4-6", 3300, True),
        ("claude-haiku-4-5-20251001", 3000, False),
        ("claude-3-haiku-20240307", 1500, False),
        ("claude-3-haiku-20240307", 1700, True),
        ("claude-sonnet-4-5", 800, False),
        ("claude-sonnet-4-5", 830, True),
    ],
)
def test_short_prefixes_are_not_cached(model: str, words: int, cached: bool) -> None:
    cache = PromptCache()
    body = asked(user(text("word " * words, HOUR))) | {"model": model}
    first = cache.count(body, 0)
    assert bool(first.written_1h) is cached
    assert reads(cache, body) is cached


def test_an_entry_lives_as_long_as_it_says_from_its_last_use() -> None:
    for mark, life in ((MINUTES, 300), (HOUR, 3600)):
        body = asked(user(text(LONG, mark)))
        cache = PromptCache()
        cache.count(body, 0)
        assert reads(cache, body, life - 1)
        assert reads(cache, body, 2 * life - 2)
        assert not reads(cache, body, 3 * life)


def test_an_entry_can_be_read_once_its_answer_has_begun() -> None:
    cache = PromptCache()
    body = asked(user(text(LONG, HOUR)))
    cache.count(body, 0, begins=5)
    assert not reads(cache, body, 4)
    assert reads(cache, body, 5)


def test_tools_come_before_system_and_system_before_messages() -> None:
    body = asked(user(text("hi")), system=[text("be brief")], tools=[{"name": "look"}])
    assert [block.place for block in blocks(body)] == ["tools", "system", "messages"]
    cache = PromptCache()
    tools, system = [{"name": "look", "description": LONG, **HOUR}], [text(LONG, HOUR)]
    whole = asked(user(text(LONG, HOUR)), tools=tools, system=system)
    cache.count(whole, 0)
    other = cache.count(whole | {"system": [text(LONG + "!", HOUR)]}, 1)
    assert 1250 < other.read < 1300
    assert not reads(cache, whole | {"tools": [{"name": "other", "description": LONG, **HOUR}]})


@pytest.mark.parametrize("changed", [{"tool_choice": {"type": "any"}}, {"thinking": {"type": "disabled"}}])
def test_another_choice_or_other_thinking_loses_the_messages_only(changed: dict[str, Any]) -> None:
    cache = PromptCache()
    body = asked(user(text(LONG, HOUR)), system=[text(LONG, HOUR)])
    cache.count(body, 0)
    found = cache.count(body | changed, 1)
    assert 1250 < found.read < 1300
    assert found.written_1h > 1250


def test_marks_and_models_do_not_count_as_content() -> None:
    cache = PromptCache()
    cache.count(asked(user(text(LONG, HOUR))), 0)
    assert reads(cache, asked(user(text(LONG, MINUTES))))
    assert not reads(cache, asked(user(text(LONG, HOUR))) | {"model": "claude-y"})


def test_the_billing_line_is_left_out() -> None:
    cache = PromptCache()
    line = "x-anthropic-billing-header: cc_version=1; cch="
    cache.count(asked(user(text(LONG, HOUR)), system=[text(f"{line}1")]), 0)
    assert reads(cache, asked(user(text(LONG, HOUR)), system=[text(f"{line}2")]))


def test_five_marks_and_a_longer_life_after_a_shorter_one_are_refused() -> None:
    cache = PromptCache()
    with pytest.raises(Refused, match="maximum of 4"):
        cache.count(asked(user(*[text(str(number), HOUR) for number in range(5)])), 0)
    with pytest.raises(Refused, match="ttl"):
        cache.count(asked(user(text("a", MINUTES), text("b", HOUR))), 0)


def test_the_share_is_that_of_all_input() -> None:
    assert share([Counted(0, 0, 60, 40), Counted(80, 0, 10, 10)]) == 0.4
    assert share([]) is None
