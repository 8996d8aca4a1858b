"""OpenAI's legacy completions."""

from collections.abc import Mapping
from typing import Any

from openai.types import completion_create_params as params

from conformance import judge
from conformance.apis import Section
from conformance.apis.chat import headers as headers
from conformance.apis.chat import is_streamed as is_streamed
from conformance.apis.chat import streamed as streamed

PATH = "/v1/completions"
REQUEST = "legacy"
SECTIONS: Mapping[str, Section] = {
    "legacy": Section(
        "Legacy completions",
        "Every field of `openai.types.completion_create_params`.",
        (*params.CompletionCreateParamsBase.__annotations__, "stream"),
    )
}
SHOWS: Mapping[str, str] = {}


def opening(body: Mapping[str, Any]) -> str:
    prompt = body["prompt"]
    return str(prompt if isinstance(prompt, str) else prompt[0])


def read(body: Any) -> dict[str, Any]:
    """A completion or an error, under the names that facts have."""
    told: dict[str, Any] = {key: body[key] for key in ("error", "model", "usage") if body.get(key)}
    told["choices"] = [
        {"content": choice["text"], "finish_reason": choice.get("finish_reason")} for choice in body.get("choices", [])
    ]
    return told | (told["choices"][0] if told["choices"] else {})


def read_stream(text: str) -> dict[str, Any]:
    stream, _ = judge.read_stream(text)
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in stream.chunks:
        whole |= {key: value for key in ("error", "model", "usage") if (value := chunk.get(key))}
        for choice in chunk.get("choices", ()):
            kept = choices.setdefault(choice["index"], {"text": "", "finish_reason": None})
            kept["text"] += choice["text"]
            kept["finish_reason"] = choice.get("finish_reason") or kept["finish_reason"]
    return read(whole | {"choices": [choices[index] for index in sorted(choices)]}) | {"done": stream.done}


def wrong(status: int, body: Any) -> list[str]:
    return judge.misshapen("text completion" if status == 200 else "error", body)


def wrong_stream(asked: Mapping[str, Any], text: str) -> list[str]:
    stream, wrong = judge.read_stream(text)
    usage = bool((asked.get("stream_options") or {}).get("include_usage"))
    return [*wrong, *judge.unlawful(stream, usage=usage, kind="text chunk")]
