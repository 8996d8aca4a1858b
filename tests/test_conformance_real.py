"""The suite and the recorder with the real CLI (CLAUDE_CLI=path); cassettes answer it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from conformance import cassettes, messages, record, results
from conformance import scenario as scenarios
from conformance.cassettes import Cassette
from conformance.messages import Arrived, Reply
from conformance.record import CASSETTES
from conformance.replay import Server
from conformance.results import Result
from conformance.target import SCENARIOS
from conformance.upstream import Upstream

pytestmark = [
    pytest.mark.real_cli,
    pytest.mark.skipif("CLAUDE_CLI" not in os.environ, reason="CLAUDE_CLI names no CLI"),
]


class Model:
    """Answers every conversation that a scenario opens, any number of times, by how far it has come."""

    def __init__(self) -> None:
        self._cassettes: dict[str, Cassette] = {
            one.start: cassettes.load(CASSETTES / f"{one.name}.yaml") for one in scenarios.every(SCENARIOS)
        }

    def __call__(self, request: Arrived) -> Reply:
        cassette = self._cassettes.get(messages.opening(request.body))
        if cassette is None:
            return messages.stream(messages.message(messages.text("Yes."), model=request.body["model"]))
        said = messages.simplified(request.body)["messages"]
        turns = sum(message["role"] == "assistant" for message in said)
        reply: Reply = cassette.interactions[min(turns, len(cassette.interactions) - 1)].reply
        return reply


async def test_the_suite_passes_with_the_real_cli(tmp_path: Path) -> None:
    async with Upstream(Model()) as upstream:
        settings = {"CLAUDE_PROXY_UPSTREAM_URL": upstream.url, "CLAUDE_PROXY_STATE_DIR": str(tmp_path / "state")}
        with Server(Path(os.environ["CLAUDE_CLI"]), settings) as server:
            out = tmp_path / "results.jsonl"
            # In a process of its own, as anyone would run it.
            command = (sys.executable, "-m", "conformance", "run", "--base-url", f"{server.url}/v1", "--out", str(out))
            process = await asyncio.create_subprocess_exec(*command, "--timeout", "30", cwd=SCENARIOS.parent.parent)
            code = await process.wait()
    report = results.read(out)
    wrong = [result for result in report.results if result.outcome in ("fail", "error")]
    assert (code, wrong) == (0, list[Result]())
    assert report.counts["pass"] > 100


# Ended by the proxy in all the ways there are: once it is idle, at its answer's end, with an interrupt, in mid-answer.
ENDED = (
    "chat/plain",
    "errors/rate_limit",
    "limits/max_tokens_reached",
    "schema/prose_json",
    "tools/one_call",
    "tools/price",
)


def test_what_a_proxy_ends_is_recorded_whole() -> None:
    wanted = [one for one in scenarios.every(SCENARIOS) if one.name in ENDED]
    outcomes = record.record(record.find(os.environ["CLAUDE_CLI"]), wanted, lambda _: None, quick=True)
    assert {one.scenario.name: one.problems for one in outcomes} == dict.fromkeys(ENDED, ())
