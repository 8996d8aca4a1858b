"""`/v1/responses/compact` and `/v1/responses/input_tokens`."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import openai
import pytest

from proxy.dialects import Identity, Rules
from proxy.dialects.openai.responses.compact import SUMMARISE, Compaction
from proxy.protocol.answer import Answer, TextPart
from proxy.protocol.deltas import Reason, Tokens
from proxy.protocol.failures import Rejection
from tests.conftest import Serve
from tests.responses_api import client

RULES = Rules(owner="mine", secret=b"s" * 32)
PAST: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "My number is 7."},
    {"type": "reasoning", "summary": [], "encrypted_content": None},
    {"role": "assistant", "content": "Noted."},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "done"},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Go on."}]},
]


def compacted(*answers: Answer, **body: Any) -> Any:
    asked = Compaction().decode(json.dumps({"model": "opus", "input": PAST} | body).encode(), RULES)
    encoder = asked.encoder(Identity("ab" * 16, 1, "f"))
    return asked, json.loads(msgspec.json.encode(encoder.whole(answers or [said("A summary.")], Tokens(1, 2, 3, 4, 5))))


def said(text: str, reason: Reason | None = Reason.END_TURN, **more: Any) -> Answer:
    return Answer("claude-opus-5-5", "msg_1", (TextPart(text),), reason=reason, **more)


def test_what_sets_how_to_answer_stays() -> None:
    update = {"type": "configuration_update", "reasoning": {"effort": "low"}}
    _, told = compacted(input=[*PAST, update])
    assert [item["type"] for item in told["output"]] == [
        "message", "message", "message", "configuration_update", "compaction",
    ]  # fmt: skip
    assert told["output"][3] == update | {"id": told["output"][3]["id"]}


def test_the_model_is_asked_and_its_summary_stands_for_the_conversation() -> None:
    asked, told = compacted(instructions="Mine.", client_metadata={"a": 1})
    (plan,) = asked.plans
    assert plan.system == "Mine.\n\nBe brief."
    last = json.loads(msgspec.json.encode(plan.messages[-1].content))
    assert [block.get("text") for block in last] == [None, "Go on.", SUMMARISE]
    assert asked.ignored == ("client_metadata", "input.reasoning")
    assert (told["object"], told["id"]) == ("response.compaction", "resp_" + "ab" * 16)
    assert told["usage"]["input_tokens"] + told["usage"]["output_tokens"] == told["usage"]["total_tokens"]
    assert [item["type"] for item in told["output"]] == ["message"] * 3 + ["compaction"]
    assert [item.get("role") for item in told["output"]] == ["developer", "user", "user", None]
    # What came out goes in again, and the next compaction holds what is in this one.
    again, twice = compacted(input=[*told["output"], {"role": "user", "content": "More."}])
    texts = json.dumps(json.loads(msgspec.json.encode(again.plans[0].messages)))
    assert "A summary." in texts
    assert "Noted." not in texts
    assert [item["type"] for item in twice["output"]] == ["message"] * 4 + ["compaction"]


@pytest.mark.parametrize(
    "answer",
    [said("Half", Reason.MAX_TOKENS), said(""), said("  "), said("No.", Reason.REFUSAL), said("x", refusal="No.")],
)
def test_half_a_summary_is_none(answer: Answer) -> None:
    with pytest.raises(Rejection, match="whole summary"):
        compacted(answer)


async def test_the_openai_package(serve: Serve) -> None:
    server = await serve()
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0) as api:
        first = await api.responses.create(model="opus", input="My number is 7.")
        raw = await api.responses.with_raw_response.compact(model="opus", previous_response_id=first.id)
        compact = raw.parse()
        assert (compact.object, compact.usage.output_tokens) == ("response.compaction", 12)
        # The package's type has no user's messages in it, which api.openai.com puts there, too.
        items: Any = json.loads(raw.text)["output"]
        assert [item["type"] for item in items] == ["message", "compaction"]
        more = await api.responses.create(model="opus", input=[*items, {"role": "user", "content": "Which?"}])
        assert more.status == "completed"
        with pytest.raises(openai.NotFoundError):
            await api.responses.compact(model="opus", previous_response_id="resp_0")
        items[-1]["encrypted_content"] = "cmr1." + "A" * 80
        with pytest.raises(openai.BadRequestError):
            await api.responses.create(model="opus", input=items)
        count = await api.responses.input_tokens.count(input="Hello.", instructions="Be brief.")
        assert (count.object, count.input_tokens > 0) == ("response.input_tokens", True)
        longer = await api.responses.input_tokens.count(model="opus", input="Which?", previous_response_id=first.id)
        assert longer.input_tokens > count.input_tokens


async def test_what_cannot_be_counted_is_refused() -> None:
    async with client() as http:
        for body, param in (
            ({}, "input"),
            ({"input": "x", "model": " "}, "model"),
            ({"input": "x", "tool_choice": "required"}, "tool_choice"),
        ):
            answer = await http.post("/v1/responses/input_tokens", json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
