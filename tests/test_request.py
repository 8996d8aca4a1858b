"""proxy/protocol/request.py and messages.py: what clients send, tolerated, merged, checked; refused by parameter."""

from __future__ import annotations

import base64
import json
import re
import time
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dialects import Rules
from proxy.dialects.openai.chat_request import ChatPlan, decode
from proxy.protocol import commands, fingerprint, media
from proxy.protocol.failures import TABLE, Kind, Rejection
from proxy.protocol.history import clean_id
from proxy.protocol.models import Abilities
from proxy.protocol.plan import Message, Sampling, TextBlock, ToolResultBlock, ToolUseBlock

HI = {"role": "user", "content": "hi"}


def request(*messages: Any, **more: Any) -> ChatPlan:
    return decode(json.dumps({"model": "opus", "messages": list(messages or [HI])} | more).encode())


def refused(*messages: Any, **more: Any) -> tuple[str | None, str]:
    """The parameter that is named, and the words."""
    with pytest.raises(Rejection) as caught:
        request(*messages, **more)
    failure = caught.value.failure
    assert TABLE[failure.kind].status == 400
    assert failure.message
    return failure.param, failure.message


def shown(messages: tuple[Message, ...]) -> list[tuple[str, list[Any]]]:
    """Roles and contents, in short."""

    def block(of: Any) -> Any:
        if isinstance(of, TextBlock):
            return of.text
        if isinstance(of, ToolUseBlock):
            return ("call", of.id, of.name, json.loads(bytes(of.input)))
        assert isinstance(of, ToolResultBlock), of
        return ("result", of.tool_use_id, [block(part) for part in of.content], of.is_error)

    return [(message.role, [block(each) for each in message.content]) for message in messages]


def talk(*messages: Any, **more: Any) -> list[tuple[str, list[Any]]]:
    return shown(request(*messages, **more).plan.messages)


def called(*calls: tuple[str, str, str | None], content: Any = None) -> dict[str, Any]:
    made = [{"id": id, "type": "function", "function": {"name": name, "arguments": text}} for id, name, text in calls]
    return {"role": "assistant", "content": content, "tool_calls": made}


def result(id: str, content: Any = "done") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content}


# Messages and roles


def test_a_question() -> None:
    made = request()
    assert shown(made.plan.messages) == [("user", ["hi"])]
    assert (made.plan.model, made.plan.system, made.model) == ("opus", None, "opus")
    assert (made.stream, made.include_usage, made.ignored) == (False, False, ())


def test_ten_turns_stay_ten_turns_in_order() -> None:
    turns = [{"role": ("user", "assistant")[n % 2], "content": str(n)} for n in range(19)]
    assert talk(*turns) == [(turn["role"], [turn["content"]]) for turn in turns]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_system_prompts(role: str) -> None:
    made = request({"role": role, "content": "Be brief."}, HI)
    assert made.plan.system == "Be brief."
    assert shown(made.plan.messages) == [("user", ["hi"])]


def test_leading_system_messages_are_the_system_prompt_and_later_ones_keep_their_place() -> None:
    made = request(
        {"role": "system", "content": "one"}, {"role": "developer", "content": "two"}, HI,
        {"role": "assistant", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "three"}]}, HI,
    )  # fmt: skip
    assert made.plan.system == "one\n\ntwo"
    assert shown(made.plan.messages) == [
        ("user", ["hi"]), ("assistant", ["a"]), ("user", ["<system>\nthree\n</system>", "hi"]),
    ]  # fmt: skip


def test_a_system_prompt_alone_is_the_question() -> None:
    made = request({"role": "system", "content": "Say hello."})
    assert (made.plan.system, shown(made.plan.messages)) == (None, [("user", ["Say hello."])])


def test_the_same_role_twice_becomes_one_message_of_two_blocks() -> None:
    assert talk(HI, {"role": "user", "content": "there"}) == [("user", ["hi", "there"])]
    answers = [{"role": "assistant", "content": text} for text in "ab"]
    assert talk(HI, *answers, HI) == [("user", ["hi"]), ("assistant", ["a", "b"]), ("user", ["hi"])]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("text", ["text"]),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], ["one", "two"]),
        ([{"type": "input_text", "text": "one"}], ["one"]),
        ([{"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}}], ["one"]),
        ("  spaces and\n\nlines\t ", ["  spaces and\n\nlines\t "]),
        ("@/etc/hostname", ["@/etc/hostname"]),
        ("/compact", ["/compact"]),
        ("日本 🌍 \u2028", ["日本 🌍 \u2028"]),
    ],
)
def test_content_as_text_and_as_parts_is_kept_as_it_is(content: Any, texts: list[str]) -> None:
    assert talk({"role": "user", "content": content}) == [("user", texts)]


@pytest.mark.parametrize("content", [None, "", " ", [], [{"type": "text", "text": ""}]])
def test_messages_without_content_fall_out_of_the_past(content: Any) -> None:
    empty = {"role": "assistant", "content": content}
    assert talk(HI, empty, {"role": "user", "content": "again"}) == [("user", ["hi", "again"])]


@pytest.mark.parametrize("content", [None, "", " \n", [], [{"type": "text", "text": " "}]])
def test_a_last_message_without_content_is_no_question(content: Any) -> None:
    empty = {"role": "user", "content": content}
    assert refused(HI, empty)[0] == "messages[1].content"
    assert refused(HI, {"role": "assistant", "content": "a"}, empty)[0] in ("messages[2]", "messages[2].content")


def test_an_assistants_message_echoed_back_whole() -> None:
    echo: dict[str, Any] = {
        "role": "assistant", "content": "a", "refusal": None, "annotations": [], "audio": None, "function_call": None,
        "tool_calls": None, "name": None, "reasoning_content": "hm", "reasoning": {"x": 1},
    }  # fmt: skip
    assert talk(HI, echo, HI) == [("user", ["hi"]), ("assistant", ["a"]), ("user", ["hi"])]


def test_a_refusal_is_what_the_assistant_said() -> None:
    for message in ({"content": None, "refusal": "No."}, {"content": [{"type": "refusal", "refusal": "No."}]}):
        assert talk(HI, {"role": "assistant"} | message, HI)[1] == ("assistant", ["No."])


# Tool calls of the past


def test_calls_and_their_results() -> None:
    assert talk(
        HI, called(("toolu_1", "get", '{"a":1}'), ("toolu_2", "put", "{}"), content="let me"),
        result("toolu_2", "two"), result("toolu_1", [{"type": "text", "text": "one"}]), HI,
    ) == [
        ("user", ["hi"]),
        ("assistant", ["let me", ("call", "toolu_1", "get", {"a": 1}), ("call", "toolu_2", "put", {})]),
        ("user", [("result", "toolu_2", ["two"], False), ("result", "toolu_1", ["one"], False), "hi"]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, {}), ("", {}), ("  ", {}), ("{}", {}),
        ('{"a":{"b":[1]}}', {"a": {"b": [1]}}), ('{\n "a": 1\n}', {"a": 1}),
        ("not json", {"arguments": "not json"}), ("[1]", {"arguments": "[1]"}), ("null", {"arguments": "null"}),
        ('{"a":', {"arguments": '{"a":'}),
    ],
)  # fmt: skip
def test_arguments_become_an_object(text: str | None, value: Any) -> None:
    assert talk(HI, called(("c", "get", text)), result("c"))[1] == ("assistant", [("call", "c", "get", value)])


def test_ids_of_other_makers_become_ids_that_the_api_takes() -> None:
    messages = talk(HI, called(("call:1/ü", "get", "{}")), result("call:1/ü"))
    assert messages[1][1][0][1] == "call_1__"
    assert messages[2][1][0][1] == "call_1__"


@given(st.text(max_size=20))
def test_any_id_becomes_one_that_the_api_takes(id: str) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9_-]+", clean_id(id))
    assert clean_id(clean_id(id)) == clean_id(id)


def test_many_messages_calls_and_results_take_their_time_once() -> None:
    count = 9_900
    made = called(*((f"c{number}", "get", "{}") for number in range(count)))
    results = [result(f"c{number}") for number in reversed(range(count))]
    began = time.process_time()
    assert len(talk(*[HI] * count)[0][1]) == count
    assert len(talk(HI, made, *results)[2][1]) == count
    assert len(talk(HI, made, HI)[2][1]) == count + 1
    # If each looked through those before it, ten times as long.
    assert time.process_time() - began < 4


def test_a_call_without_a_result_gets_an_error_result() -> None:
    messages = talk(
        HI, called(("c1", "get", "{}"), ("c2", "get", "{}")), result("c2"), {"role": "user", "content": "?"}
    )
    results = [block for block in messages[2][1] if block[0] == "result"]
    assert sorted((id, error) for _, id, _, error in results) == [("c1", True), ("c2", False)]


def test_calls_without_results_at_the_end_get_them_too() -> None:
    for given_results in ([], [result("c1")]):
        messages = talk(HI, called(("c1", "get", "{}"), ("c2", "get", "{}")), *given_results)
        assert [(block[1], block[3]) for block in messages[2][1]] == [("c1", not given_results), ("c2", True)]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([HI, result("c1")], "messages[1].tool_call_id"),
        ([HI, called(("c1", "get", "{}")), result("c2")], "messages[2].tool_call_id"),
        ([HI, called(("c1", "get", "{}")), {"role": "tool", "content": "x"}], "messages[2].tool_call_id"),
        ([HI, {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function"}]}], "messages[1].tool_calls[0]"),
        ([HI, {"role": "assistant", "tool_calls": [{"function": {"name": "x"}}]}], "messages[1].tool_calls[0].id"),
        ([HI, called(("c1", "", "{}"))], "messages[1].tool_calls[0].function.name"),
        (
            [HI, {"role": "assistant", "tool_calls": [{"id": "c1", "custom": {"name": ""}}]}],
            "messages[1].tool_calls[0].custom.name",
        ),
        ([HI, {"role": "assistant", "function_call": {"name": ""}}], "messages[1].function_call.name"),
    ],
)
def test_results_that_answer_no_call_are_refused(messages: list[Any], param: str) -> None:
    assert refused(*messages)[0] == param


def test_custom_calls_of_the_past() -> None:
    call = {"id": "c1", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}
    messages = talk(HI, {"role": "assistant", "tool_calls": [call]}, result("c1"))
    assert messages[1] == ("assistant", [("call", "c1", "shell", {"input": "ls -l"})])


def test_functions_of_old() -> None:
    assert talk(
        HI,
        {"role": "assistant", "content": None, "function_call": {"name": "get", "arguments": '{"a":1}'}},
        {"role": "function", "name": "get", "content": "done"},
    ) == [
        ("user", ["hi"]),
        ("assistant", [("call", "function_1", "get", {"a": 1})]),
        ("user", [("result", "function_1", ["done"], False)]),
    ]


# Refusals name the parameter


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([HI, {"role": "user", "content": [5]}], "messages[1].content[0]"),
        ([{"role": "user", "content": [{"text": "x"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "video"}]}], "messages[0].content[0].type"),
        ([5], "messages[0]"),
        ([None], "messages[0]"),
        ([{"role": "user", "content": ""}], "messages[0].content"),
    ],
)
def test_bad_messages(messages: list[Any], param: str) -> None:
    found, words = refused(*messages)
    assert found == param
    assert "object at 0x" not in words


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"model": None}, "model"), ({"model": ""}, "model"), ({"model": "  "}, "model"), ({"model": 5}, "model"),
        ({"messages": None}, "messages"), ({"messages": "hi"}, "messages"), ({"messages": {}}, "messages"),
        ({"stream": "yes"}, "stream"), ({"stream_options": 5}, "stream_options"),
        ({"stream_options": {"include_usage": "x"}}, "stream_options.include_usage"),
        ({"max_tokens": -2}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"), ({"max_tokens": "5"}, "max_tokens"),
        ({"max_completion_tokens": -5}, "max_completion_tokens"),
    ],
)  # fmt: skip
def test_bad_parameters(more: dict[str, Any], param: str) -> None:
    assert refused(**more)[0] == param


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_what_is_missing_is_named(missing: str) -> None:
    body = {"model": "opus", "messages": [HI]}
    del body[missing]
    with pytest.raises(Rejection) as caught:
        decode(json.dumps(body).encode())
    assert caught.value.failure.param == missing


def test_no_messages_at_all() -> None:
    assert refused(messages=[])[0] == "messages"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b"\xff", b'"\xff"', b"[" * 50_000, b'{"a":' * 50_000])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Rejection) as caught:
        decode(body)
    assert caught.value.failure.kind is Kind.BAD_REQUEST


# Tolerance


@pytest.mark.parametrize(
    "more",
    [
        {"unknown": {"nested": [1]}, "reasoning": {"enabled": True}}, {"stream": None}, {"stream_options": None},
        {"stream_options": {}}, {"stream_options": {"include_usage": None, "include_obfuscation": False}},
        {"max_tokens": None}, {"max_tokens": 0}, {"max_tokens": -1}, {"tools": None}, {"tools": []},
        {"tool_choice": None}, {"functions": []}, {"response_format": None}, {"response_format": {"type": "text"}},
        {"stop": None}, {"stop": []}, {"n": None}, {"n": 1}, {"seed": 5}, {"store": True}, {"metadata": {}},
        {"prediction": {"type": "content", "content": "x"}}, {"logit_bias": {"50256": -100}}, {"logprobs": True},
        {"stream_options": {"include_usage": True}}, {"user": "someone"}, {"modalities": ["text"]},
    ],
)  # fmt: skip
def test_what_clients_send_without_meaning_it(more: dict[str, Any]) -> None:
    made = request(**more)
    assert shown(made.plan.messages) == [("user", ["hi"])]
    assert made.plan.max_tokens is None
    assert not made.stream


def test_what_has_no_effect_is_said() -> None:
    made = request(seed=0, logit_bias={"50": 1}, user=None, temperature=0.5, store=True, service_tier="flex")
    assert set(made.ignored) == {"seed", "logit_bias", "temperature", "store", "service_tier"}


def test_what_asks_for_what_is_done_anyway_is_not_ignored() -> None:
    """Clients send such defaults with every request: a strict server must be of use to them."""
    neutral: dict[str, Any] = {
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "logprobs": False, "metadata": {},
        "service_tier": "auto", "store": False,
    }  # fmt: skip
    assert request(**neutral).ignored == ()
    decode(json.dumps({"model": "opus", "messages": [HI], **neutral}).encode(), Rules(strict=True))


@pytest.mark.parametrize(
    ("more", "limit"),
    [({"max_tokens": 5}, 5), ({"max_completion_tokens": 7}, 7), ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
     ({"max_tokens": 5, "max_completion_tokens": 0}, 5), ({"max_tokens": 1}, 1)],
)  # fmt: skip
def test_limits(more: dict[str, Any], limit: int) -> None:
    assert request(**more).plan.max_tokens == limit


def test_usage_only_in_a_stream_that_asks_for_it() -> None:
    assert request(stream=True, stream_options={"include_usage": True}).include_usage
    assert not request(stream=True).include_usage
    assert not request(stream=True, stream_options={"include_usage": False}).include_usage
    assert not request(stream_options={"include_usage": True}).include_usage


def test_the_model_is_resolved_by_the_servers_rules() -> None:
    rules = Rules(model_for=lambda name: f"asked-{name}")
    made = decode(json.dumps({"model": "mine", "messages": [HI]}).encode(), rules)
    assert (made.model, made.plan.model) == ("mine", "asked-mine")


# Images and files


PIXEL = base64.b64encode(b"\x89PNG fake").decode()


def part_of(part: Any, role: str = "user") -> Any:
    """The block that a part becomes, as the Messages API gets it."""
    made = request({"role": role, "content": [{"type": "text", "text": "see"}, part]})
    return json.loads(msgspec.json.encode(made.plan.messages[-1].content[1]))


@pytest.mark.parametrize(
    ("url", "source"),
    [
        (f"data:image/png;base64,{PIXEL}", {"type": "base64", "media_type": "image/png", "data": PIXEL}),
        (f"DATA:image/jpg;charset=x;base64,{PIXEL}", {"type": "base64", "media_type": "image/jpeg", "data": PIXEL}),
        ("https://example.com/a.png", {"type": "url", "url": "https://example.com/a.png"}),
    ],
)
def test_images(url: str, source: Any) -> None:
    assert part_of({"type": "image_url", "image_url": {"url": url, "detail": "low"}}) == {
        "type": "image",
        "source": source,
    }
    assert part_of({"type": "image_url", "image_url": url})["source"] == source


@pytest.mark.parametrize(
    "url",
    ["", "file:///etc/passwd", "/etc/passwd", "ftp://x", "data:image/png,abc", "data:image/png;base64", "javascript:1",
     "data:image/svg+xml;base64,AAAA", "data:text/html;base64,AAAA", "data:image/png;base64,***", "@/etc/hostname"],
)  # fmt: skip
def test_images_that_are_none_are_refused(url: str) -> None:
    for image in (url, {"url": url}):
        found, _ = refused({"role": "user", "content": [{"type": "image_url", "image_url": image}]})
        assert found == "messages[0].content[0].image_url.url"


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ({"file_data": base64.b64encode(b"%PDF-1.7").decode()}, "application/pdf"),
        ({"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}, "application/pdf"),
        ({"file_data": base64.b64encode("wörld".encode()).decode(), "filename": "a.txt"}, "text/plain"),
    ],
)
def test_files(file: Any, source: str) -> None:
    block = part_of({"type": "file", "file": file})
    assert (block["type"], block["source"]["media_type"]) == ("document", source)
    assert block.get("title") == file.get("filename")
    if source == "text/plain":
        assert block["source"]["data"] == "wörld"


@pytest.mark.parametrize(
    ("file", "param"),
    [
        (None, "file"), ({}, "file"), ({"file_id": "file-1"}, "file.file_id"), ({"file_data": "***"}, "file.file_data"),
        ({"file_data": base64.b64encode(b"\xff\xfe").decode()}, "file.file_data"),
        ({"file_data": ""}, "file.file_data"),
    ],
)  # fmt: skip
def test_files_that_are_none_are_refused(file: Any, param: str) -> None:
    found, _ = refused({"role": "user", "content": [{"type": "file", "file": file}]})
    assert found == f"messages[0].content[0].{param}"


def test_what_is_too_large_is_said_so() -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * (media.MAX_IMAGE + 4)}"}}
    with pytest.raises(Rejection) as caught:
        request({"role": "user", "content": [image]})
    assert caught.value.failure.kind is Kind.BODY_TOO_LARGE


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
@pytest.mark.parametrize("kind", ["image_url", "file", "input_audio"])
def test_pictures_and_sounds_where_none_can_stand(role: str, kind: str) -> None:
    part = {"type": kind, "image_url": {"url": "https://example.com/a.png"}, "file": {"file_data": "AAAA"}}
    found, _ = refused({"role": role, "content": [part]}, HI)
    assert str(found).startswith("messages[0].content[0].")


# Effort, sampling, stop, n


@pytest.mark.parametrize(
    ("asked", "efforts", "level"),
    [("low", (), "low"), ("minimal", (), "low"), ("none", (), "low"), ("max", ("low", "high"), "high"),
     ("medium", ("low", "high"), "low"), ("low", ("high",), "high"), ("high", ("low", "high"), "high")],
)  # fmt: skip
def test_efforts(asked: str, efforts: tuple[str, ...], level: str) -> None:
    rules = Rules(abilities_of=lambda _: Abilities(efforts))
    made = decode(json.dumps({"model": "opus", "messages": [HI], "reasoning_effort": asked}).encode(), rules)
    assert (made.plan.effort, made.plan.thinking) == (level, True)


def test_no_thinking_where_the_model_can_do_without() -> None:
    rules = Rules(abilities_of=lambda _: Abilities(("low",), thinking_off=True))
    made = decode(json.dumps({"model": "opus", "messages": [HI], "reasoning_effort": "none"}).encode(), rules)
    assert (made.plan.effort, made.plan.thinking) == (None, False)
    made = decode(json.dumps({"model": "opus", "messages": [HI], "reasoning_effort": "low"}).encode(), rules)
    assert (made.plan.effort, made.plan.thinking) == ("low", True)


def test_sampling_is_passed_on_only_by_the_servers_leave() -> None:
    body = json.dumps({"model": "opus", "messages": [HI], "temperature": 1.7, "top_p": 0.5}).encode()
    assert decode(body).plan.sampling == Sampling()
    made = decode(body, Rules(native=True))
    assert made.plan.sampling == Sampling(temperature=1.0, top_p=0.5)
    assert made.ignored == ()
    other = json.dumps({"model": "opus", "messages": [HI], "top_p": 0, "seed": 5}).encode()
    made = decode(other, Rules(native=True))
    assert (made.plan.sampling, made.ignored) == (Sampling(temperature=None, top_p=0), ("seed",))


def test_a_strict_server_refuses_what_has_no_effect() -> None:
    with pytest.raises(Rejection) as caught:
        decode(json.dumps({"model": "opus", "messages": [HI], "seed": 5}).encode(), Rules(strict=True))
    assert caught.value.failure.param == "seed"


@pytest.mark.parametrize(
    ("stop", "stops"),
    [
        ("x", ("x",)),
        (["x", "y"], ("x", "y")),
        (["", "x"], ("x",)),
        ("", ()),
        ("END", ("END",)),
        (list("abcd"), tuple("abcd")),
    ],
)
def test_stops(stop: Any, stops: tuple[str, ...]) -> None:
    assert request(stop=stop).stop == stops


@pytest.mark.parametrize(
    ("more", "param"),
    [({"temperature": 2.1}, "temperature"), ({"temperature": -1}, "temperature"), ({"top_p": 1.1}, "top_p"),
     ({"n": 0}, "n"), ({"n": 999}, "n"), ({"stop": ["a"] * 5}, "stop"), ({"stop": "a" * 4097}, "stop"),
     ({"stop": 5}, "stop"),
     ({"reasoning_effort": "huge"}, "reasoning_effort"), ({"modalities": ["audio"]}, "modalities")],
)  # fmt: skip
def test_values_out_of_range(more: dict[str, Any], param: str) -> None:
    assert refused(**more)[0] == param


# Anything


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
TEXTS = st.sampled_from(["", " ", "hi", "@/etc/passwd", "/clear", "\n", "\u2028", '{"a":\n1}', "{}"])
PARTS = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "input_text", "refusal", "image_url", "file"])},
        optional={"text": TEXTS, "refusal": TEXTS, "image_url": JSON, "file": JSON},
    ),
    JSON,
)  # fmt: skip
CALL = st.fixed_dictionaries(
    {"id": st.sampled_from(["a", "b", "ü"]), "type": st.just("function")},
    optional={"function": st.fixed_dictionaries({"name": st.sampled_from(["f", "g"])}, optional={"arguments": TEXTS})},
)
MESSAGES = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool", "function"])},
        optional={
            "content": TEXTS | st.none() | st.lists(PARTS, max_size=3),
            "tool_calls": st.lists(CALL | JSON, max_size=2) | st.none(),
            "tool_call_id": st.sampled_from(["a", "b", "ü", "c"]),
            "function_call": st.none() | st.fixed_dictionaries({"name": st.just("f")}, optional={"arguments": TEXTS}),
            "name": TEXTS,
        },
    ),
    JSON,
)
NAMES = st.sampled_from(
    ["stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "tools", "tool_choice", "functions",
     "stop", "function_call", "response_format", "reasoning_effort", "modalities", "temperature", "top_p", "seed"]
)  # fmt: skip


def test_a_number_out_of_range_does_no_harm() -> None:
    plan = request(HI, called(("c", "get", '{"a":1E400}')), result("c")).plan
    assert fingerprint.extend(b"", plan.messages[1])


@settings(max_examples=300)
@given(st.lists(MESSAGES, max_size=6), st.dictionaries(NAMES, JSON, max_size=2), st.sampled_from(["opus", "", "x\ny"]))
def test_any_request_becomes_a_plan_or_a_refusal(messages: list[Any], more: dict[str, Any], model: str) -> None:
    body = json.dumps({"model": model, "messages": messages} | more).encode()
    try:
        plan = decode(body).plan
    except Rejection:
        return
    # Roles alternate, nothing is empty, the user's message is last: or the Messages API refuses it.
    roles = [message.role for message in plan.messages]
    assert roles[-1] == "user"
    assert all(one != other for one, other in pairwise(roles))
    assert all(message.content for message in plan.messages)
    open_calls: set[str] = set()
    for message in plan.messages:
        results = {block.tool_use_id for block in message.content if isinstance(block, ToolResultBlock)}
        assert results == open_calls
        open_calls = {block.id for block in message.content if isinstance(block, ToolUseBlock)}
    for message in plan.messages:
        one_line(commands.past(message))
    one_line(commands.ask(plan.messages[-1]))
    one_line(commands.initialize(plan, "replace"))
    if settings := commands.settings(plan):
        one_line(settings)
    for message in plan.messages:
        fingerprint.extend(b"", message)


def one_line(data: bytes) -> None:
    """Whatever a client sent, it is one line of JSON, by every notion of a line."""
    assert data.endswith(b"\n")
    assert len(data.decode().splitlines()) == 1
    json.loads(data)


@given(st.binary(max_size=100))
def test_any_bytes_become_a_plan_or_a_refusal(body: bytes) -> None:
    with pytest.raises(Rejection):
        decode(body)


@given(JSON)
def test_any_json_becomes_a_plan_or_a_refusal(body: Any) -> None:
    with pytest.raises(Rejection):
        decode(json.dumps(body).encode())
