"""Ollama's chat."""

import json
from collections.abc import Mapping
from typing import Any

from ollama import ChatResponse, Message, Options
from ollama._types import ChatRequest
from pydantic import BaseModel, ValidationError

from conformance.apis import Section
from conformance.apis.chat import headers as headers
from conformance.messages import opening as opening

PATH = "/api/chat"
REQUEST = "ollama"
SECTIONS: Mapping[str, Section] = {
    "ollama": Section(
        "Ollama: chat requests",
        "Every field of `ollama._types.ChatRequest`, and of the `Message` in it.",
        (*ChatRequest.model_fields, *(f"messages.{field}" for field in Message.model_fields)),
    ),
    "ollama_options": Section(
        "Ollama: options", "Every field of `ollama.Options`, in `options`.", tuple(Options.model_fields)
    ),
    "ollama_response": Section(
        "Ollama: chat answers",
        "Every field of `ollama.ChatResponse`, and of the `Message` in it.",
        (*ChatResponse.model_fields, *(f"message.{field}" for field in Message.model_fields), "remote_model"),
    ),
}
SHOWS: Mapping[str, str] = {
    "model": "ollama_response.remote_model",
    "content": "ollama_response.message.content",
    "reasoning": "ollama_response.message.thinking",
    "tool_calls": "ollama_response.message.tool_calls",
    "finish_reason": "ollama_response.done_reason",
    "usage": "ollama_response.eval_count",
}
_DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


def streamed(body: Mapping[str, Any]) -> dict[str, Any]:
    return {**body, "stream": True}


def is_streamed(body: Mapping[str, Any]) -> bool:
    """It is one unless that is denied."""
    return body.get("stream") is not False


def lines(text: str) -> list[dict[str, Any]]:
    """The values of a stream, one a line."""
    return [json.loads(line) for line in text.splitlines()]


def fold(told: list[dict[str, Any]], message: str | None = "message", text: str = "content") -> dict[str, Any]:
    """The whole answer that lines amount to; an error at their end is kept beside it."""
    last = dict(told[-1])
    parts = [line[message] if message else line for line in told if "error" not in line]
    whole: dict[str, Any] = {text: "".join(part[text] for part in parts)}
    thinking = "".join(part.get("thinking") or "" for part in parts)
    calls = [call for part in parts for call in part.get("tool_calls") or ()]
    whole |= ({"thinking": thinking} if thinking else {}) | ({"tool_calls": calls} if calls else {})
    return last | ({message: whole} if message else whole)


def read(body: Any) -> dict[str, Any]:
    """An answer or an error, under the names that facts have."""
    if "error" in body:
        return {"error": {"message": body["error"]}}
    return facts(body, body["message"], body["message"]["content"])


def facts(body: Mapping[str, Any], said: Mapping[str, Any], text: str) -> dict[str, Any]:
    told = {
        "model": body.get("remote_model"),
        "usage": {name: body.get(name) for name in ("prompt_eval_count", "eval_count")},
        "content": text,
        "reasoning": said.get("thinking"),
        "tool_calls": [
            {"id": call["id"], "function": call["function"] | {"arguments": json.dumps(call["function"]["arguments"])}}
            for call in said.get("tool_calls") or ()
        ],
        "finish_reason": body.get("done_reason"),
    }
    return told | {"choices": [{name: told[name] for name in ("content", "tool_calls", "finish_reason")}]}


def read_stream(text: str) -> dict[str, Any]:
    told = lines(text)
    whole = fold(told)
    return read(whole) | {"done": bool(told[-1].get("done"))}


def wrong(status: int, body: Any) -> list[str]:
    return misshapen(ChatResponse, status, body)


def misshapen(type: type[BaseModel], status: int, body: Any) -> list[str]:
    """What is not as the package's types have it; an error is a sentence."""
    if status != 200:
        shaped = isinstance(body, dict) and list(body) == ["error"] and isinstance(body["error"], str)
        return [] if shaped else [f"an error that is none of Ollama's: {body}"]
    try:
        type.model_validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        return [str(error)]
    if not body["done"]:
        return ["the answer is not done"]
    return [
        f"{name} is no whole number: {body.get(name)}" for name in _DURATIONS if not isinstance(body.get(name), int)
    ]


def wrong_stream(asked: Mapping[str, Any], text: str) -> list[str]:
    return unlawful(ChatResponse, text)


def unlawful(type: type[BaseModel], text: str) -> list[str]:
    """Lines are what the package says they are; the last one alone is done, or an error."""
    *before, last = lines(text)
    found: list[str] = []
    for line in before:
        try:
            type.model_validate_json(json.dumps(line), strict=True)
        except ValidationError as error:
            found.append(str(error))
        if line.get("done") is not False or "error" in line or "done_reason" in line:
            found.append(f"a line ends the stream before its end: {line}")
    if not text.endswith("\n"):
        found.append("the last line does not end")
    names = {line.get("model") for line in (*before, last) if "error" not in line}
    if len(names) > 1:
        found.append(f"several models: {names}")
    return found + ([] if "error" in last else misshapen(type, 200, last))
