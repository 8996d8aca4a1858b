"""proxy/dialects/ollama: a request → the plan, or a refusal that names the field."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from msgspec import Raw

from proxy.dialects import RULES, Rules
from proxy.dialects.ollama.decode import Decoded, decode_chat, decode_generate
from proxy.dialects.ollama.dialect import CHAT
from proxy.protocol.failures import Kind, Rejection
from proxy.protocol.history import CONTINUE, NO_RESULT
from proxy.protocol.models import Abilities
from proxy.protocol.plan import (
    Base64Source,
    ImageBlock,
    Message,
    Plan,
    Sampling,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from proxy.protocol.schema import FREE

NATIVE = Rules(native=True)
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(20)).decode()
GIF = base64.b64encode(b"GIF89a" + bytes(3)).decode()
WEBP = base64.b64encode(b"RIFF\0\0\0\0WEBPVP8 ").decode()
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


def chat(*messages: dict[str, Any], rules: Rules = RULES, **more: Any) -> Decoded:
    asked = {"model": "sonnet", "messages": messages or [user("hi")]} | more
    return decode_chat(json.dumps(asked).encode(), rules)


def generate(rules: Rules = RULES, **more: Any) -> Decoded:
    return decode_generate(json.dumps({"model": "sonnet", "prompt": "hi"} | more).encode(), rules)


def plan_of(asked: Decoded) -> Plan:
    assert asked.plan is not None
    return asked.plan


def user(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def called(*names: str, id: str | None = None, arguments: Any = None) -> dict[str, Any]:
    calls = [{"function": {"name": name, "arguments": arguments or {}}} | ({"id": id} if id else {}) for name in names]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def result(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **more}


def refused(asked: Any, *arguments: Any, **more: Any) -> str:
    """The parameter that a refusal names."""
    with pytest.raises(Rejection) as caught:
        asked(*arguments, **more)
    failure = caught.value.failure
    assert failure.kind is Kind.BAD_REQUEST
    assert failure.message
    return failure.param or ""


def test_turns_are_turns() -> None:
    asked = chat(
        {"role": "system", "content": "Be brief."}, user("a"), {"role": "assistant", "content": "b", "thinking": "hm"},
        user("c"),
    )  # fmt: skip
    plan = plan_of(asked)
    assert plan.system == "Be brief."
    assert plan.messages == (
        Message("user", (TextBlock("a"),)), Message("assistant", (TextBlock("b"),)), Message("user", (TextBlock("c"),)),
    )  # fmt: skip
    assert (asked.model, plan.model, asked.stream, asked.stop) == ("sonnet", "sonnet", True, ())
    assert asked.ignored == ("messages.thinking",)


def test_a_stream_is_what_is_meant() -> None:
    assert [chat(stream=stream).stream for stream in (None, True, False)] == [True, True, False]
    assert [generate(stream=stream).stream for stream in (None, True, False)] == [True, True, False]


def test_a_conversation_that_ends_with_the_assistant_is_continued() -> None:
    plan = plan_of(chat(user("a"), {"role": "assistant", "content": "b"}))
    assert plan.messages[-1] == Message("user", (TextBlock(CONTINUE),))


@pytest.mark.parametrize(
    ("data", "type"), [(PNG, "png"), (JPEG, "jpeg"), (GIF, "gif"), (WEBP, "webp")], ids=["png", "jpeg", "gif", "webp"]
)
def test_images_are_known_by_how_they_begin(data: str, type: str) -> None:
    image = ImageBlock(Base64Source(f"image/{type}", data))
    for given in (data, f"{data[:4]}\n{data[4:]}", f"data:image/{type};base64,{data}"):
        assert plan_of(chat(user("what?", images=[given]))).messages[0].content == (image, TextBlock("what?"))
        assert plan_of(generate(prompt="what?", images=[given])).messages[0].content == (image, TextBlock("what?"))
    assert plan_of(generate(prompt="", images=[data])).messages[0].content == (image,)


@pytest.mark.parametrize("data", ["%%%", "aGVsbG8=", base64.b64encode(b"%PDF-1.7").decode(), PNG[:-3], "A"])
def test_what_is_no_image_is_refused(data: str) -> None:
    assert refused(chat, user("a", images=[PNG, data])) == "messages[0].images[1]"
    assert refused(generate, images=[data]) == "images[0]"


def test_images_have_bounds_and_places() -> None:
    assert refused(chat, user("a", images=[PNG] * 60), user("b", images=[PNG] * 41)) == "messages[1].images[40]"
    assert refused(generate, images=[PNG] * 101) == "images[100]"
    assert refused(chat, {"role": "system", "content": "a", "images": [PNG]}, user("b")) == "messages[0].images"
    image = ImageBlock(Base64Source("image/png", PNG))
    plan = plan_of(chat(user("a"), called("f"), result("seen", images=[PNG])))
    assert plan.messages[-1].content == (ToolResultBlock("call_1_0", (image, TextBlock("seen"))),)


@pytest.mark.parametrize("field", ["tool_name", "name"])
def test_results_are_paired_by_name(field: str) -> None:
    plan = plan_of(chat(user("a"), called("f", "g"), result("of g", **{field: "g"}), result("of f", **{field: "f"})))
    assert [block for block in plan.messages[1].content if isinstance(block, ToolUseBlock)] == [
        ToolUseBlock("call_1_0", "f", Raw(b"{}")), ToolUseBlock("call_1_1", "g", Raw(b"{}")),
    ]  # fmt: skip
    assert plan.messages[2].content == (
        ToolResultBlock("call_1_1", (TextBlock("of g"),)), ToolResultBlock("call_1_0", (TextBlock("of f"),)),
    )  # fmt: skip


def test_results_without_a_name_are_paired_in_order() -> None:
    plan = plan_of(chat(user("a"), called("f", "f"), result("1"), result("2", tool_name="f")))
    assert plan.messages[2].content == (
        ToolResultBlock("call_1_0", (TextBlock("1"),)), ToolResultBlock("call_1_1", (TextBlock("2"),)),
    )  # fmt: skip


def test_results_are_paired_by_id_where_the_client_keeps_one() -> None:
    one, two = called("f", id="toolu_1"), called("f", id="toolu_2")
    calls = {"role": "assistant", "tool_calls": [*one["tool_calls"], *two["tool_calls"]]}
    plan = plan_of(chat(user("a"), calls, result("2", tool_call_id="toolu_2"), result("1", tool_call_id="toolu_1")))
    assert plan.messages[2].content == (
        ToolResultBlock("toolu_2", (TextBlock("2"),)), ToolResultBlock("toolu_1", (TextBlock("1"),)),
    )  # fmt: skip


def test_an_only_call_is_answered_whatever_it_is_called() -> None:
    plan = plan_of(chat(user("a"), called("f"), result("1", tool_name="mcp_f", tool_call_id="mine")))
    assert plan.messages[2].content == (ToolResultBlock("call_1_0", (TextBlock("1"),)),)


def test_a_turn_of_several_messages_has_one_set_of_calls() -> None:
    plan = plan_of(chat(user("a"), called("f"), called("g"), result("of g", tool_name="g"), result("of f")))
    assert [block for block in plan.messages[2].content if isinstance(block, ToolResultBlock)] == [
        ToolResultBlock("call_2_0", (TextBlock("of g"),)), ToolResultBlock("call_1_0", (TextBlock("of f"),)),
    ]  # fmt: skip


def test_calls_of_an_earlier_turn_wait_no_more() -> None:
    messages = (user("a"), called("f"), user("never mind"), called("g"), result("of g"))
    plan = plan_of(chat(*messages))
    assert plan.messages[2].content[0] == ToolResultBlock("call_1_0", NO_RESULT, is_error=True)
    assert plan.messages[4].content == (ToolResultBlock("call_3_0", (TextBlock("of g"),)),)


SYSTEM = {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    "messages",
    [
        # As Home Assistant sends a long conversation: the oldest messages are left out, calls or not.
        [SYSTEM, result("1"), {"role": "assistant", "content": "b"}, user("c")],
        [SYSTEM, {"role": "assistant", "content": "b"}, result("1"), user("c")],
        [user("a"), called("f"), result("of f"), result("1")],
        [result("1", tool_name="f", tool_call_id="x")],
        [result("1", images=[PNG])],
    ],
)
def test_a_result_that_no_call_waits_for_is_told_in_words(messages: list[dict[str, Any]]) -> None:
    users = [message.content for message in plan_of(chat(*messages)).messages if message.role == "user"]
    assert sum(TextBlock("<tool_result>\n1\n</tool_result>") in content for content in users) == 1
    assert [any(isinstance(block, ImageBlock) for block in content) for content in users].count(True) == (
        "images" in messages[0]
    )


def test_of_results_of_one_id_the_last_counts() -> None:
    calls = {"role": "assistant", "tool_calls": [{"id": "x", "function": {"name": "f"}}]}
    plan = plan_of(chat(user("a"), calls, result("1", tool_call_id="x"), result("2", tool_call_id="x")))
    assert plan.messages[-1].content == (ToolResultBlock("x", (TextBlock("2"),)),)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([user("a"), called("f", "g"), result("1", tool_name="h")], "messages[2].tool_name"),
        ([user("a"), called("f", "g"), result("1", tool_call_id="h")], "messages[2].tool_call_id"),
        # It is no result of the only call that waits, whatever its tool.
        (
            [
                user("a"),
                called("f", id="c1"),
                result("1", tool_call_id="c1"),
                called("f", id="c2"),
                result("2", tool_call_id="c1", tool_name="f"),
            ],
            "messages[4].tool_call_id",
        ),
        ([user("a"), called("")], "messages[1].tool_calls[0].function.name"),
        ([user("")], "messages[0].content"),
        ([{"role": "assistant", "images": [PNG]}], "messages[0].images"),
        ([{"role": "developer", "content": "a"}], "messages[0].role"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], "messages[0].content"),
    ],
)
def test_messages_that_are_refused(messages: list[dict[str, Any]], param: str) -> None:
    assert refused(chat, *messages) == param


@pytest.mark.parametrize(
    ("arguments", "input"),
    [({"a": 1.50}, b'{"a":1.5}'), ('{"a": 1}', b'{"a": 1}'), ("", b"{}"), ("no json", b'{"arguments":"no json"}')],
)
def test_arguments_are_an_object_or_text(arguments: Any, input: bytes) -> None:
    plan = plan_of(chat(user("a"), called("f", arguments=arguments), result("1")))
    (call,) = plan.messages[1].content
    assert isinstance(call, ToolUseBlock)
    assert bytes(call.input) == input


def test_tools_are_offered() -> None:
    (tool,) = plan_of(chat(tools=[TOOL])).tools
    assert (tool.name, tool.description, bytes(tool.schema)) == ("f", "d", b'{"type":"object"}')
    bare = plan_of(chat(tools=[{"function": {"name": "g"}}])).tools
    assert [json.loads(bytes(tool.schema)) for tool in bare] == [{"type": "object", "properties": {}}]


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([TOOL, TOOL], "tools[1].function.name"),
        ([{"type": "function"}], "tools[0].function"),
        ([{"type": "custom", "function": {"name": "f"}}], "tools[0].type"),
        ([{"function": {"name": "f", "parameters": {"type": "string"}}}], "tools[0].function.parameters.type"),
        ([{"function": {"name": f"f{number}"}} for number in range(1025)], "tools"),
    ],
)
def test_tools_that_are_refused(tools: list[Any], param: str) -> None:
    assert refused(chat, tools=tools) == param


def test_a_format_is_a_schema() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "number", "minimum": 1.0}}}
    for asked in (chat(format=schema), generate(format=schema)):
        found = plan_of(asked).schema
        assert found is not None
        assert json.loads(bytes(found.source)) == schema
        assert found.where == "format"
    formats: tuple[Any, ...] = (None, "", "json", {})
    assert [plan_of(chat(format=given)).schema for given in formats] == [None, None, FREE, FREE]
    assert refused(chat, format="yaml") == refused(generate, format="yaml") == "format"


@pytest.mark.parametrize(
    ("think", "native", "effort", "thinking", "shown"),
    [
        (None, True, None, True, True),
        (True, True, None, True, True),
        (False, True, None, False, False),
        ("none", True, None, False, False),
        (False, False, "low", True, False),
        ("low", True, "low", True, True),
        ("medium", True, "medium", True, True),
        ("high", False, "high", True, True),
        ("max", True, "high", True, True),
    ],
)
def test_think_is_effort(think: Any, native: bool, effort: str | None, thinking: bool, shown: bool) -> None:
    rules = Rules(abilities_of=lambda model: Abilities(("low", "medium", "high")), native=native)
    for asked in (chat(think=think, rules=rules), generate(rules, think=think)):
        assert (plan_of(asked).effort, plan_of(asked).thinking, asked.thinking) == (effort, thinking, shown)


def test_thinking_is_not_shown_where_the_server_keeps_it() -> None:
    assert chat(think=True, rules=Rules(reasoning=False)).thinking is False
    assert refused(chat, think="much") == refused(generate, think=1) == "think"


def test_options_are_passed_on() -> None:
    options = {"num_predict": 7, "stop": ["a", ""], "temperature": 1.4, "top_p": 0.5, "top_k": 3}
    asked = chat(options=options, rules=NATIVE)
    assert plan_of(asked).max_tokens == 7
    assert asked.stop == ("a",)
    assert plan_of(asked).sampling == Sampling(1.0, 0.5, 3)
    assert asked.ignored == ()
    assert chat(options={"stop": "x"}).stop == ("x",)
    assert plan_of(chat(options={"top_k": 0, "temperature": 0}, rules=NATIVE)).sampling == Sampling(0.0, None, None)


@pytest.mark.parametrize("most", [0, -1, -2, None])
def test_these_mean_no_limit(most: int | None) -> None:
    assert plan_of(chat(options={"num_predict": most})).max_tokens is None


@pytest.mark.parametrize(
    "options", [{"num_predict": -3}, {"temperature": 2.1}, {"temperature": -1}, {"top_p": 1.1}, {"top_k": -1},
                {"top_k": "many"}, {"stop": 5}, {"stop": ["a"] * 65}, {"stop": "a" * 4097}]
)  # fmt: skip
def test_options_out_of_bounds_are_refused(options: dict[str, Any]) -> None:
    assert refused(chat, options=options) == refused(generate, options=options) == f"options.{next(iter(options))}"


def test_what_has_no_effect_is_named() -> None:
    options = {"num_ctx": 8192, "seed": 7, "repeat_penalty": 1.1, "use_mmap": False, "unheard_of": 1}
    assert chat(options=options, logprobs=True, shift=False, keep_alive="5m", rules=NATIVE).ignored == (
        "num_ctx", "repeat_penalty", "seed", "use_mmap", "logprobs", "shift", "keep_alive", "options.unheard_of",
    )  # fmt: skip
    assert generate(raw=True, steps=3).ignored == ("raw", "steps")
    assert chat(options={"temperature": 0.5, "top_k": 1}).ignored == ("temperature", "top_k")
    assert chat(options={"repeat_penalty": 1.0, "mirostat": 0}, logprobs=False, top_logprobs=0).ignored == ()


def test_a_strict_server_refuses_it() -> None:
    strict = Rules(native=True, strict=True)
    assert refused(chat, options={"seed": 7}, rules=strict) == "seed"
    assert refused(generate, strict, raw=True) == "raw"
    # The answer is the same with and without.
    assert chat(keep_alive="5m", rules=strict).ignored == ("keep_alive",)


@pytest.mark.parametrize(
    ("kept", "unload"),
    [(None, False), (0, True), (0.0, True), ("0", True), ("0s", True), ("0.0m", True), (-1, False), ("-1", False),
     ("5m", False), (300, False), ("1h30m", False), ("10s", False), ("", False)],
)  # fmt: skip
def test_a_model_is_only_loaded_or_unloaded(kept: Any, unload: bool) -> None:
    empty: tuple[dict[str, Any], ...] = ({}, {"messages": []}, {"messages": None})
    chats = [decode_chat(json.dumps({"model": "m", "keep_alive": kept} | more).encode(), RULES) for more in empty]
    for asked in (*chats, generate(prompt="", keep_alive=kept), generate(prompt=None, keep_alive=kept)):
        assert (asked.plan, asked.unload, asked.stream) == (None, unload, False)
    assert CHAT.decode(b'{"model":"m"}', RULES).plans == ()


def test_a_prompt_is_a_message() -> None:
    plan = plan_of(generate(system="Be brief."))
    assert (plan.system, plan.messages) == ("Be brief.", (Message("user", (TextBlock("hi"),)),))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"), ({"template": "{{ .Prompt }}"}, "template"), ({"context": [1]}, "context"),
        ({"raw": True, "system": "s"}, "raw"), ({"raw": True, "context": [1]}, "raw"), ({"prompt": " "}, "prompt"),
        ({"model": " "}, "model"), ({"model": None}, "model"), ({"context": ["a"]}, "context[0]"),
        ({"options": []}, "options"), ({"keep_alive": {}}, "keep_alive"), ({"stream": "no"}, "stream"),
    ],
)  # fmt: skip
def test_prompts_that_are_refused(fields: dict[str, Any], param: str) -> None:
    assert refused(generate, **fields) == param
    assert refused(decode_chat, b"{", RULES) == ""


def test_what_is_empty_asks_for_nothing() -> None:
    assert generate(suffix="", template=" ", context=[], system="", raw=False).ignored == ()


def test_the_tag_is_dropped_for_the_cli() -> None:
    asked = chat(model="claude-opus-4-7:latest")
    assert (asked.model, plan_of(asked).model) == ("claude-opus-4-7:latest", "claude-opus-4-7")


def test_too_many_messages_are_refused() -> None:
    assert refused(chat, *[user("a")] * 10_001) == "messages"
    assert refused(chat, user("a"), called(*["f"] * 10_001)) == "messages[1]"


def test_a_name_of_another_message_has_no_effect_and_is_told() -> None:
    assert chat(user("a") | {"name": "Ada"}).ignored == ("messages.name",)
    assert chat(user("a"), called("f"), result("1", name="f")).ignored == ()
    # What is no call's name pairs by place.
    plan = plan_of(chat(user("a"), called("f", "g"), result("1", name="x"), result("2", name="x")))
    assert [block.tool_use_id for block in plan.messages[2].content if isinstance(block, ToolResultBlock)] == [
        "call_1_0", "call_1_1",
    ]  # fmt: skip
