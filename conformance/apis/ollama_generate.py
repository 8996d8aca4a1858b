"""Ollama's answers to single prompts."""

from collections.abc import Mapping
from typing import Any

from ollama import GenerateResponse
from ollama._types import GenerateRequest

from conformance.apis import Section, ollama
from conformance.apis.ollama import headers as headers
from conformance.apis.ollama import is_streamed as is_streamed
from conformance.apis.ollama import streamed as streamed

PATH = "/api/generate"
REQUEST = "ollama_generate"
SECTIONS: Mapping[str, Section] = {
    "ollama_generate": Section(
        "Ollama: generate requests",
        "Every field of `ollama._types.GenerateRequest`.",
        tuple(GenerateRequest.model_fields),
    ),
    "ollama_generated": Section(
        "Ollama: generate answers",
        "Every field of `ollama.GenerateResponse`.",
        (*GenerateResponse.model_fields, "remote_model"),
    ),
}
SHOWS: Mapping[str, str] = {
    "model": "ollama_generated.remote_model",
    "content": "ollama_generated.response",
    "reasoning": "ollama_generated.thinking",
    "finish_reason": "ollama_generated.done_reason",
    "usage": "ollama_generated.eval_count",
}


def opening(body: Mapping[str, Any]) -> str:
    return str(body.get("prompt") or "")


def read(body: Any) -> dict[str, Any]:
    """An answer or an error, under the names that facts have."""
    return ollama.read(body) if "error" in body else ollama.facts(body, body, body["response"])


def read_stream(text: str) -> dict[str, Any]:
    told = ollama.lines(text)
    return read(ollama.fold(told, None, "response")) | {"done": bool(told[-1].get("done"))}


def wrong(status: int, body: Any) -> list[str]:
    return ollama.misshapen(GenerateResponse, status, body)


def wrong_stream(asked: Mapping[str, Any], text: str) -> list[str]:
    return ollama.unlawful(GenerateResponse, text)
