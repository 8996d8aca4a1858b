"""Parameters that have no effect, and values that are refused."""

from typing import Any

from conformance.cases import case
from conformance.cases.chat import text_of
from conformance.target import CHAT, Target, good, need, same

API = "openai.types.chat.completion_create_params"
# A value of each field that Claude Code has no way to honour, as OpenAI's own tests and clients send it.
# Passed on to the Messages API as its own, unless the server is set not to.
SAMPLING = ("temperature", "top_p")
NOT_NATIVE = {"CLAUDE_PROXY_NATIVE": "off"}
NO_EFFECT: dict[str, Any] = {
    "audio": {"format": "wav", "voice": "alloy"},
    "frequency_penalty": 0.5,
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "metadata": {"a": "b"},
    "moderation": {"model": "omni-moderation-latest"},
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": -0.5,
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "auto"},
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "seed": 7,
    "service_tier": "flex",
    "store": True,
    "temperature": 0.5,
    "top_logprobs": 2,
    "top_p": 0.9,
    "user": "u",
    "verbosity": "low",
}
# Values that are refused: the field, and the 400's param where it is not the field itself.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "n_above_eight": ({"n": 9}, "n"),
    "n_of_zero": ({"n": 0}, "n"),
    "n_of_another_type": ({"n": "two"}, "n"),
    "a_temperature_above_two": ({"temperature": 2.5}, "temperature"),
    "a_top_p_above_one": ({"top_p": 1.5}, "top_p"),
    "five_stop_sequences": ({"stop": list("abcde")}, "stop"),
    "a_stop_that_is_no_text": ({"stop": 7}, "stop"),
    "a_negative_limit": ({"max_tokens": -5}, "max_tokens"),
    "a_negative_limit_of_the_new_name": ({"max_completion_tokens": -5}, "max_completion_tokens"),
    "an_effort_that_is_none": ({"reasoning_effort": "huge"}, "reasoning_effort"),
    "answers_in_audio": ({"modalities": ["text", "audio"]}, "modalities"),
    "a_stream_that_is_no_boolean": ({"stream": "yes"}, "stream"),
    "stream_options_that_are_no_object": ({"stream_options": True}, "stream_options"),
    "a_model_that_is_no_text": ({"model": 4}, "model"),
    "an_empty_model": ({"model": " "}, "model"),
    "no_messages": ({"messages": []}, "messages"),
    "messages_that_are_no_list": ({"messages": "hello"}, "messages"),
    "an_unknown_role": ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    "content_that_is_a_number": ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    "no_content_at_all": ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
}  # fmt: skip


def _no_effect(field: str, value: Any) -> None:
    words = f"{field} is accepted, and named in x-ignored-params where it has no effect."

    settings = NOT_NATIVE if field in SAMPLING else {}

    @case(
        API, name=f"ignores_{field}", requirement=words, shows=[f"request.{field}"], uses=["chat/plain"],
        settings=settings,
    )  # fmt: skip
    async def run(target: Target) -> None:
        answer = await target.send("POST", CHAT, target.body("chat/plain", **{field: value}))
        good(answer, "completion")
        if target.scripted:
            same(field, answer.headers.get("x-ignored-params"), "x-ignored-params")


def _refused(name: str, changes: dict[str, Any], param: str) -> None:
    words = f"It is a 400 that names {param}: {name.replace('_', ' ')}."

    @case(API, name=f"refuses_{name}", requirement=words, shows=[f"request.{next(iter(changes))}"])
    async def run(target: Target) -> None:
        await target.refused(target.body("chat/plain", **changes), 400, param)


for _field, _value in NO_EFFECT.items():
    _no_effect(_field, _value)
for _name, (_changes, _param) in REFUSED.items():
    _refused(_name, _changes, _param)


@case(
    "openai-python, tests/api_resources/chat/test_completions.py",
    shows=["behaviour.every parameter at once"],
    uses=["chat/plain"],
    settings=NOT_NATIVE,
)
async def every_parameter_at_once_is_accepted(target: Target) -> None:
    """A request with all parameters that have no effect, as OpenAI's own tests send it, is answered."""
    values = {field: value for field, value in NO_EFFECT.items() if target.scripted or field != "audio"}
    more = {
        "stream_options": {"include_usage": True},
        "parallel_tool_calls": True,
        "modalities": ["text"],
        "max_tokens": 0,
    }
    answer = await target.send("POST", CHAT, target.body("chat/plain", **values, **more))
    good(answer, "completion")
    if target.scripted:
        named = answer.headers.get("x-ignored-params", "").split(", ")
        same(sorted(NO_EFFECT), sorted(named), "x-ignored-params")


@case("openai.types.chat.completion_create_params, modalities", shows=["request.modalities"], uses=["chat/plain"])
async def text_is_a_modality(target: Target) -> None:
    """Modalities of text alone are accepted."""
    text_of(await target.whole(target.body("chat/plain", modalities=["text"])))


@case("openai.types.shared.ReasoningEffort", shows=["request.reasoning_effort"], uses=["limits/effort"])
async def effort_is_accepted(target: Target) -> None:
    """A request with reasoning_effort is answered."""
    text_of(await target.whole(target.body("limits/effort")))


@case(
    "the setting CLAUDE_PROXY_STRICT_PARAMS",
    shows=["behaviour.strict parameters"],
    settings={"CLAUDE_PROXY_STRICT_PARAMS": "on"} | NOT_NATIVE,
)
async def a_strict_server_refuses_what_has_no_effect(target: Target) -> None:
    """A server that is set to be strict answers 400, naming the parameter that would have no effect."""
    for field, value in NO_EFFECT.items():
        await target.refused(target.body("chat/plain", **{field: value}), 400, field)


@case(
    "the setting CLAUDE_PROXY_REASONING",
    shows=["response.reasoning_content"],
    uses=["reasoning/thinking"],
    settings={"CLAUDE_PROXY_REASONING": "off"},
    scripted=True,
)
async def thinking_can_be_kept_out(target: Target) -> None:
    """A server that is set so leaves the model's thinking out of the answer."""
    message = (await target.whole(target.body("reasoning/thinking")))["choices"][0]["message"]
    need("reasoning_content" not in message, "there is thinking")


@case(
    "Cline, Roo, Open WebUI and LiteLLM read it",
    shows=["response.reasoning_content"],
    uses=["reasoning/thinking"],
    scripted=True,
)
async def thinking_is_reasoning_content(target: Target) -> None:
    """The model's thinking comes as reasoning_content, whole and streamed, and its tokens are counted."""
    body = await target.whole(target.body("reasoning/thinking"))
    thought = body["choices"][0]["message"]["reasoning_content"]
    need(body["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0, "no reasoning tokens")
    stream = await target.stream(target.body("reasoning/thinking"))
    deltas = [chunk["choices"][0]["delta"] for chunk in stream.chunks]
    same(thought, "".join(delta.get("reasoning_content", "") for delta in deltas), "streamed")
