"""What answers when the plan is used up: only if its owner has said so, never in silence, never without a limit."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.__main__ import CANNOT_START, main
from proxy.doctor import LIVE_PLAN
from proxy.http.fallback import Fallback
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.settings import SettingError, read
from tests import fake_cli
from tests.cli_script import SUBSCRIPTION, cli_script
from tests.conftest import chat
from tests.outcomes import Expects
from tests.served import Served, wait_for

RECORDING = Path(__file__).parent.parent / "fixtures" / "transcripts" / "2.1.330" / "errors" / "plan_limit.jsonl"
HEADER = "x-claude-proxy-fallback"
Start = Callable[..., Served]


def limited() -> list[dict[str, Any]]:
    """What the real CLI says to a question when the plan is used up."""
    lines = [json.loads(line) for line in RECORDING.read_text().splitlines()]
    said = [each["line"] for each in lines if each.get("to") == "proxy"]
    return [line for line in said if line["type"] in ("rate_limit_event", "assistant", "result")]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers whose plan is used up; every answer by an API key costs so many dollars."""
    opened: list[Served] = []

    def started(cost: float = 0.4, **settings: str) -> Served:
        cli = fake_cli.write(tmp_path / "cli", limited=limited(), cost=cost)
        variables = {f"CLAUDE_PROXY_{name.upper()}": value for name, value in settings.items()}
        server = Served(cli, tmp_path / "state", {"ANTHROPIC_API_KEY": "sk-ant-sesame", **variables})
        opened.append(server.__enter__())
        return server

    yield started
    for server in opened:
        server.__exit__(None, None, None)


def test_without_it_the_client_is_told(start: Start) -> None:
    answer = start().chat(chat("hi"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
    assert HEADER not in answer.headers


@pytest.mark.parametrize("stream", [False, True])
def test_another_login_answers_and_is_named(start: Start, stream: bool) -> None:
    server = start(fallback="api-key")
    answer = server.chat(chat("hi", stream=stream))
    assert answer.status_code == 200
    assert "hi" in answer.text
    assert answer.headers[HEADER] == "api-key"
    wait_for(lambda: server.recent()[0]["list_price_usd"] == 0.4, 5, "the price is known")
    (row,) = server.recent()
    assert (row["fallback"], row["outcome"], row["completion_tokens"]) == ("api-key", "ok", 12)
    # It is paid for: the subscription has saved nothing.
    totals = server.get("/v1/usage").json()["totals"]
    assert (totals["list_price_usd"], totals["savings_usd"]) == (0.4, 0.0)
    (seen,) = server.get("/v1/inspector").json()["data"]
    assert (seen["fallback"], seen["outcome"]) == ("api-key", "ok")
    assert "fallback=api-key" in server.log()
    # The plan's own state is still what the subscription said.
    plan = server.get("/v1/usage").json()["plan"]
    assert plan["windows"]["five_hour"]["status"] == "rejected"


def test_its_processes_alone_have_the_key(start: Start, tmp_path: Path) -> None:
    server = start(fallback="api-key", waiting="1", parked="1")
    assert server.chat(chat([["sleep", 0.01], ["say", "x"], ["end"]])).status_code == 200
    with_key: set[bool] = set()

    def both() -> bool:
        # Processes come and go: one that waits has no key, the one that has answered is kept for a next message.
        for pid in fake_cli.pids(tmp_path / "cli"):
            with contextlib.suppress(OSError):
                with_key.add(b"ANTHROPIC_API_KEY" in Path(f"/proc/{pid}/environ").read_bytes())
        return with_key == {False, True}

    wait_for(both, 30, "a process with the key, and one without it")
    assert "sesame" not in server.log()


def price(server: Served) -> float:
    found: float = server.get("/v1/usage").json()["totals"]["list_price_usd"]
    return found


def test_a_days_money_is_a_limit(start: Start) -> None:
    server = start(fallback="api-key", fallback_usd="0.7")
    for number in (1, 2):
        assert server.chat(chat("hi")).status_code == 200
        wait_for(
            lambda n=number: server.get("/v1/usage").json()["totals"]["list_price_usd"] >= 0.39 * n, 5, "the price"
        )
    refused = server.chat(chat("hi"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert (
        "What CLAUDE_PROXY_FALLBACK_USD allows for today, $0.7 by api-key, is spent"
        in refused.json()["error"]["message"]
    )
    assert int(refused.headers["retry-after"]) <= 90_000
    # Restarted, it still knows.
    assert server.get("/v1/usage").json()["totals"]["requests"] == 3


def test_many_at_once_do_not_get_past_a_days_money(start: Start, expects: Expects) -> None:
    expects("faults", "12 requests at once by a login that is paid for", "no more than the day's money is spent")
    server = start(fallback="api-key", fallback_usd="1.9")
    assert server.chat(chat("hi")).status_code == 200
    wait_for(lambda: price(server) >= 0.39, 5, "the price is known")
    asked = chat([["sleep", 0.5], ["say", "a"], ["end"]])
    with ThreadPoolExecutor(12) as threads:
        found = [answer.status_code for answer in threads.map(lambda _: server.chat(asked), range(12))]
    assert sorted(found) == [200] * 4 + [429] * 8
    wait_for(lambda: price(server) >= 1.99, 5, "their prices are known")
    assert price(server) < 2.01


def test_answers_that_are_cut_short_are_not_for_nothing(start: Start, expects: Expects) -> None:
    expects("faults", "answers by a login that is paid for, each left by its client", "they count towards the limit")
    server = start(fallback="api-key", fallback_usd="2")
    for number in range(1, 5):
        url = f"{server.url}/v1/chat/completions"
        asked = chat([["say", "a"], ["hang"]], stream=True)
        with httpx.stream("POST", url, json=asked, timeout=60, trust_env=False) as answer:
            assert answer.status_code == 200
            next(answer.iter_lines())
        wait_for(
            lambda n=number: [row["outcome"] for row in server.recent()].count("cancelled") == n, 30, "it has ended"
        )
    refused = server.chat(chat("hi"))
    assert refused.status_code == 429
    assert "is spent, too ($2.00)" in refused.json()["error"]["message"]


def test_what_ends_while_the_file_is_read_counts(tmp_path: Path) -> None:
    class Slow:
        """A file of usage in which the end of a request comes too late to be read."""

        path = tmp_path / "none.sqlite"

        async def written(self, seconds: float) -> bool:
            if ends:
                fallback.ended()
            return True

    async def ask() -> bool:
        return await fallback.way(Failure(Kind.PLAN_LIMIT, "Used up."), LIVE_PLAN) is not None

    async def used_up() -> None:
        assert [await ask() for _ in range(4)] == [True] * 4
        ends.append(True)
        with pytest.raises(Rejection, match="is spent, too"):
            await ask()

    ends: list[bool] = []
    nothing: Any = None
    ledger: Any = Slow()
    fallback = Fallback("api-key", nothing, "api-key", ledger, usd_per_day=1.0)
    asyncio.run(used_up())


def test_a_smaller_model_answers_and_is_named(start: Start) -> None:
    server = start(fallback="model:haiku", parked="0")
    answer = server.chat(chat("hi"))
    assert answer.status_code == 200
    assert answer.headers[HEADER] == "model:haiku"
    # Asked for the smaller one itself, there is nothing to fall back to, and nothing to name.
    direct = server.chat(chat("hi") | {"model": "haiku"})
    assert direct.status_code == 200
    assert HEADER not in direct.headers
    assert [row["fallback"] for row in server.recent()] == [None, "model:haiku"]


def test_other_failures_are_no_reason(start: Start) -> None:
    server = start(fallback="model:haiku", parked="0")
    answer = server.chat(chat([["exit", 3]]) | {"model": "haiku"})
    assert answer.status_code == 502
    assert HEADER not in answer.headers


@pytest.mark.parametrize("text", ["", "key", "model:", "model", "model:a b", "gateway"])
def test_what_is_no_fallback(text: str) -> None:
    if text:
        with pytest.raises(SettingError, match="must be api-key, bedrock, vertex, or model:"):
            read({"fallback": text}, {})
    else:
        assert read({"fallback": text}, {}).fallback is None


def test_only_a_subscription_can_be_used_up() -> None:
    with pytest.raises(SettingError, match=re.escape("--fallback: only a subscription has a plan")):
        read({"fallback": "model:haiku", "login": "bedrock"}, {})


def test_a_login_that_is_not_there_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(os.environ):
        if name not in ("PATH", "LANG", "PYTHONPATH", "COVERAGE_PROCESS_START"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    # It answers with its subscription, whatever it is asked for.
    monkeypatch.setenv("CLAUDE_PROXY_CLI", str(cli_script(tmp_path / "claude", login=SUBSCRIPTION)))
    assert main(["0", "--fallback", "api-key"]) == CANNOT_START
    assert "export ANTHROPIC_API_KEY" in capsys.readouterr().err
