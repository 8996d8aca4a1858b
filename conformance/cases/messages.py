"""Anthropic's Messages API, beyond what its scenarios say."""

import json
from typing import Any

from anthropic.types import Message, Usage

from conformance.apis import messages
from conformance.cases import case
from conformance.target import Target, must, need, same

FIELDS = [f"message.{name}" for name in Message.__annotations__]
USAGE = [f"message.usage.{name}" for name in Usage.__annotations__]


async def whole(target: Target, scenario: str) -> dict[str, Any]:
    answer = await target.send("POST", messages.PATH, target.body(scenario))
    need(answer.status_code == 200, f"status {answer.status_code}: {answer.text[:200]}")
    body: dict[str, Any] = answer.json()
    must(*messages.wrong(200, body))
    same({"$matches": "."}, answer.headers.get("request-id"), "request-id")
    return body


@case("anthropic.types.Message", shows=[*FIELDS, *USAGE], uses=["messages/plain"])
async def answers_with_a_message(target: Target) -> None:
    """A message has every field of its type, and every field of its usage; what is not known is null."""
    body = await whole(target, "messages/plain")
    same([], sorted(Message.__annotations__.keys() - body.keys()), "fields that are missing")
    same([], sorted(Usage.__annotations__.keys() - body["usage"].keys()), "fields of usage that are missing")
    same(("message", "assistant"), (body["type"], body["role"]), "type and role")
    written = body["usage"]["cache_creation"]
    same(body["usage"]["cache_creation_input_tokens"], sum(written.values()), "what was written to the cache")


@case("anthropic.types.CitationsDelta", shows=["message.content"], uses=["messages/documents"], scripted=True)
async def citations_come_back(target: Target) -> None:
    """Citations stand with the text that rests on them, streamed and whole."""
    body = await whole(target, "messages/documents")
    cited = [citation["type"] for block in body["content"] for citation in block.get("citations", ())]
    same(["char_location", "search_result_location"], cited, "citations")
    streamed = await target.send("POST", messages.PATH, target.body("messages/documents") | {"stream": True})
    deltas = [json.loads(line[6:]).get("delta", {}) for line in streamed.text.splitlines() if line.startswith("data:")]
    pieces = [delta["citation"]["type"] for delta in deltas if delta.get("type") == "citations_delta"]
    same(cited, pieces, "streamed citations")


@case("anthropic.types.ThinkingConfigAdaptive", shows=["messages.thinking"], uses=["messages/tools"], scripted=True)
async def thinking_can_be_left_out(target: Target) -> None:
    """With `display: omitted` a block of thinking has its signature and no text."""
    body = target.body("messages/tools") | {"thinking": {"type": "adaptive", "display": "omitted"}}
    told = (await target.send("POST", messages.PATH, body)).json()
    same({"type": "thinking", "thinking": "", "signature": {"$matches": "."}}, told["content"][0], "the first block")


@case("anthropic.types.message_create_params", shows=["messages.container"])
async def refuses_a_container(target: Target) -> None:
    """A container is refused by name: there is none that the answer could use."""
    told = await target.ask(target.body("messages/plain") | {"container": "container_1"}, "messages")
    same((400, "invalid_request_error"), (told["status"], told["error"]["type"]), "status and type")
    same({"$matches": "^container: "}, told["error"]["message"], "message")
