"""OpenAI's chat completions."""

from collections.abc import Mapping
from typing import Any

from openai import BaseModel
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from openai.types.chat import completion_create_params as params
from openai.types.chat.chat_completion import Choice

from conformance import judge
from conformance.apis import Section
from conformance.messages import opening as opening

_ANSWER: tuple[type[BaseModel], ...] = (ChatCompletion, Choice, ChatCompletionMessage)

PATH = "/v1/chat/completions"
REQUEST = "request"
SECTIONS: Mapping[str, Section] = {
    "request": Section(
        "Chat requests",
        "Every field of `openai.types.chat.completion_create_params`.",
        (*params.CompletionCreateParamsBase.__annotations__, "stream"),
    ),
    "response": Section(
        "Chat answers",
        "Every field of `openai.types.chat.ChatCompletion` and what is in its choices.",
        (
            *(field for part in _ANSWER for field in part.__annotations__),
            *judge.EXTENSIONS["ChatCompletionMessage"],
        ),
    ),
}
SHOWS: Mapping[str, str] = {
    "model": "response.model",
    "content": "response.content",
    "refusal": "response.refusal",
    "reasoning": "response.reasoning_content",
    "tool_calls": "response.tool_calls",
    "citations": "response.annotations",
    "finish_reason": "response.finish_reason",
    "choices": "response.choices",
    "usage": "response.usage",
}


def headers(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def streamed(body: Mapping[str, Any]) -> dict[str, Any]:
    return {"stream_options": {"include_usage": True}, **body, "stream": True}


def is_streamed(body: Mapping[str, Any]) -> bool:
    return bool(body.get("stream"))


def read_stream(text: str) -> dict[str, Any]:
    stream, _ = judge.read_stream(text)
    return read(fold(list(stream.chunks))) | {"done": stream.done}


def wrong(status: int, body: Any) -> list[str]:
    return judge.misshapen("completion" if status == 200 else "error", body)


def wrong_stream(asked: Mapping[str, Any], text: str) -> list[str]:
    stream, wrong = judge.read_stream(text)
    usage = bool((asked.get("stream_options") or {}).get("include_usage"))
    return [*wrong, *judge.unlawful(stream, usage=usage)]


def read(body: Any) -> dict[str, Any]:
    """A completion or an error, under the names that facts have."""
    told: dict[str, Any] = {key: body[key] for key in ("error", "model", "usage") if body.get(key)}
    told["choices"] = [
        {
            "content": choice["message"].get("content"),
            "refusal": choice["message"].get("refusal"),
            "reasoning": choice["message"].get("reasoning_content"),
            "tool_calls": choice["message"].get("tool_calls") or [],
            "citations": _citations(choice["message"]),
            "finish_reason": choice.get("finish_reason"),
        }
        for choice in body.get("choices", [])
    ]
    return told | (told["choices"][0] if told["choices"] else {})


def _citations(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = [one["url_citation"] for one in message.get("annotations") or () if one["type"] == "url_citation"]
    text = message.get("content") or ""
    return [
        {"text": text[one["start_index"] : one["end_index"]], "title": one["title"], "url": one["url"]} for one in found
    ]


def fold(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The completion that a stream amounts to; an error in mid-stream is kept beside it."""
    whole: dict[str, Any] = {"choices": [], "usage": None}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        if "error" in chunk:
            whole["error"] = chunk["error"]
            continue
        whole |= {key: chunk.get(key) for key in ("id", "model", "system_fingerprint")}
        whole["usage"] = chunk.get("usage") or whole["usage"]
        for choice in chunk["choices"]:
            kept = choices.setdefault(choice["index"], {"message": {"content": None}, "finish_reason": None})
            kept["finish_reason"] = choice.get("finish_reason") or kept["finish_reason"]
            for key, value in choice["delta"].items():
                if key == "annotations":
                    kept["message"].setdefault(key, []).extend(value)
                elif key == "tool_calls":
                    _calls(kept["message"].setdefault("tool_calls", {}), value)
                elif isinstance(value, str) and isinstance(kept["message"].get(key), str):
                    kept["message"][key] += value
                elif value is not None:
                    kept["message"][key] = value
    for choice in choices.values():
        if "tool_calls" in choice["message"]:
            choice["message"]["tool_calls"] = list(choice["message"]["tool_calls"].values())
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole


def _calls(known: dict[int, dict[str, Any]], deltas: list[dict[str, Any]]) -> None:
    for delta in deltas:
        index, sort = delta["index"], "custom" if "custom" in delta else "function"
        if index not in known:
            known[index] = {key: value for key, value in delta.items() if key != "index"}
            continue
        for key, value in (delta.get(sort) or {}).items():
            known[index][sort][key] = known[index][sort].get(key, "") + value
