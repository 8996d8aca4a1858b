"""The legacy completions."""

from typing import Any

from conformance.apis import completions
from conformance.cases import case
from conformance.target import Target, good, need, same

LEGACY = completions.PATH
TYPE = "openai.types.completion_create_params"
ROW = "endpoint.POST /v1/completions"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no_prompt": ({"prompt": None}, "prompt"),
    "an_empty_prompt": ({"prompt": " "}, "prompt"),
    "tokens_as_a_prompt": ({"prompt": [1, 2]}, "prompt"),
    "a_prompt_to_be_echoed": ({"echo": True}, "echo"),
    "the_best_of_more_than_n": ({"best_of": 3}, "best_of"),
    "too_many_choices": ({"prompt": ["a", "b", "c"], "n": 3}, "prompt"),
}


def _refused(name: str, changes: dict[str, Any], param: str) -> None:
    words = f"It is a 400 that names {param}: {name.replace('_', ' ')}."

    @case(TYPE, name=f"refuses_{name}", requirement=words, shows=[ROW, f"legacy.{next(iter(changes))}"])
    async def run(target: Target) -> None:
        await target.refused({"model": "claude-opus-4", "prompt": "x"} | changes, 400, {"$contains": param}, LEGACY)


for _name, (_changes, _param) in REFUSED.items():
    _refused(_name, _changes, _param)


def asked(target: Target, **changes: Any) -> dict[str, Any]:
    """A request whose prompt is that of the scenario."""
    return target.body("legacy/continued") | changes


@case("openai.types.Completion", shows=[ROW, "legacy.prompt", "legacy.model"], uses=["legacy/continued"])
async def a_prompt_is_continued(target: Target) -> None:
    """A completion has the fields of its type and text that continues the prompt."""
    body = await target.whole(asked(target), LEGACY, "text completion")
    need(body["choices"][0]["text"].strip(), "there is no text")
    need(body["usage"]["total_tokens"] > 0, "nothing was counted")


@case("openai.types.Completion", shows=[ROW, "legacy.stream", "legacy.stream_options"], uses=["legacy/continued"])
async def a_continuation_is_streamed(target: Target) -> None:
    """The same as a stream: one id, one finish_reason, usage when it was asked for, then [DONE]."""
    for options in (None, {"include_usage": True}):
        stream = await target.stream(asked(target, stream_options=options), LEGACY, "text chunk")
        need(stream.error is None, f"it ended in an error: {stream.error}")
        text = "".join(choice["text"] for chunk in stream.chunks for choice in chunk["choices"])
        need(text.strip(), "there is no text")


@case("openai-python, completions.create", shows=[ROW], uses=["legacy/continued"])
async def the_client_takes_it(target: Target) -> None:
    """OpenAI's client reads a legacy completion."""
    async with target.async_client() as client:
        answer = await client.completions.create(**asked(target))
    need(answer.choices[0].text, "there is no text")


@case("openai.types.completion_create_params, suffix", shows=["legacy.suffix"], uses=["legacy/filled"])
async def a_gap_is_filled(target: Target) -> None:
    """With a suffix the completion is what belongs between it and the prompt."""
    body = await target.whole(target.body("legacy/filled"), LEGACY, "text completion")
    need(body["choices"][0]["text"].strip(), "there is no text")


@case(TYPE, shows=["legacy.n", "legacy.prompt", "legacy.best_of"], uses=["legacy/continued"])
async def several_prompts_give_several_choices(target: Target) -> None:
    """There are n choices for each prompt of a list, counted through."""
    prompt = asked(target)["prompt"]
    body = await target.whole(asked(target, prompt=[prompt, prompt], n=2, best_of=2), LEGACY, "text completion")
    same([0, 1, 2, 3], [choice["index"] for choice in body["choices"]], "indexes")


@case(TYPE, shows=["legacy.max_tokens"], uses=["legacy/limited"])
async def max_tokens_ends_a_continuation(target: Target) -> None:
    """A legacy completion that reaches max_tokens ends there with finish_reason length."""
    body = await target.whole(target.body("legacy/limited"), LEGACY, "text completion")
    same("length", body["choices"][0]["finish_reason"], "finish_reason")


@case(TYPE, shows=["legacy.stop"], uses=["legacy/continued"])
async def stop_cuts_a_continuation(target: Target) -> None:
    """A legacy completion ends before its stop sequence."""
    choice = (await target.whole(asked(target, stop=["return", "\n\n"]), LEGACY, "text completion"))["choices"][0]
    need("return" not in choice["text"], f"{choice['text']!r}")
    same("stop", choice["finish_reason"], "finish_reason")


NO_EFFECT: dict[str, Any] = {
    "frequency_penalty": 0.5,
    "logit_bias": {"1": -100},
    "logprobs": 2,
    "presence_penalty": 0.5,
    "seed": 7,
    "temperature": 0.5,
    "top_p": 0.9,
    "user": "u",
}


def _no_effect(field: str, value: Any) -> None:
    words = f"In a legacy completion {field} is accepted, and named in x-ignored-params where it has no effect."

    # Passed on to the Messages API as its own, unless the server is set not to.
    settings = {"CLAUDE_PROXY_NATIVE": "off"} if field in ("temperature", "top_p") else {}

    @case(
        TYPE, name=f"ignores_{field}", requirement=words, shows=[f"legacy.{field}"], uses=["legacy/continued"],
        settings=settings,
    )  # fmt: skip
    async def run(target: Target) -> None:
        answer = await target.send("POST", LEGACY, asked(target, **{field: value}))
        good(answer, "text completion")
        if target.scripted:
            same(field, answer.headers.get("x-ignored-params"), "x-ignored-params")


for _field, _value in NO_EFFECT.items():
    _no_effect(_field, _value)
