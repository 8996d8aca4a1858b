"""Usage from a request to the report, over HTTP and in the terminal; the plan's state on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import msgspec
import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension
from syrupy.location import PyTestLocation

from proxy.__main__ import main
from proxy.cli.parked import NotContinued
from proxy.http.accounts import duration, plan_headers
from proxy.protocol.allowance import Allowance
from proxy.protocol.deltas import Tokens
from proxy.protocol.lines import Window
from proxy.usage import report as reports
from proxy.usage import terminal
from proxy.usage.estimate import WindowEstimate
from proxy.usage.reader import Reader
from proxy.usage.report import moment
from proxy.usage.writer import Ledger, Record
from tests import cli_lines as say
from tests import fake_cli
from tests.outcomes import Expects
from tests.served import Served, wait_for
from tests.usage_rows import record

HOUR = 3600.0


def steps(*lines: Any) -> str:
    """The text that makes the fake CLI write these lines."""
    return json.dumps([["line", line] for line in lines])


def answer(cost: float | None = 0.25) -> str:
    """An answer, then what the real CLI says after it: the plan's state, the result with the cost of all so far."""
    ends = time.time() + 2.5 * HOUR
    windows = {"five_hour": {"utilization": 0.42, "resetsAt": ends, "status": "allowed"}}
    info = say.limits(rateLimitType="five_hour", resetsAt=ends, unifiedWindows=windows)
    return steps(*say.message("Fine."), info, say.result(**{} if cost is None else {"total_cost_usd": cost}))


def body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": text}]} | more


NONE_PARKED = {"CLAUDE_PROXY_PARKED": "0"}


def called() -> dict[str, Any]:
    """A question that is answered by a call."""
    tool = {"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}
    return body(json.dumps([["call", "toolu_1", "get"]]), tools=[tool])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("usage")
    with Served(fake_cli.write(home), home / "state", {"API_KEYS": "ann:sesame,bob:barley"}) as served:
        yield served


def headers(secret: str = "sesame") -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def report(server: Served, **period: str) -> dict[str, Any]:
    answer = server.get("/v1/usage", params=period, headers=headers())
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def latest(server: Served) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/v1/usage/recent?limit=1", headers=headers()).json()["data"][0]
    return found


def test_an_answer_and_what_it_costs(server: Served) -> None:
    before = report(server)["totals"]
    came = server.chat(body(answer()), headers=headers())
    wait_for(lambda: latest(server)["list_price_usd"] == 0.25, 5, "the cost is there")
    row = latest(server)
    assert row["id"] == came.headers["x-request-id"]
    assert (row["key"], row["model_asked"], row["model"]) == ("ann", "gpt-4o", "claude-opus-5-5")
    assert (row["outcome"], row["status"], row["served"], row["api"]) == ("ok", 200, "new", "openai-chat")
    assert (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"]) == (22, 7, 12)
    assert 0 < row["first_delta"] <= row["duration"] < 10
    after = report(server)["totals"]
    assert after["savings_usd"] - before["savings_usd"] == pytest.approx(0.25)


def test_each_answer_of_a_living_conversation_has_its_own_cost(server: Served) -> None:
    """The CLI gives the sum of all its process has cost."""
    first = body(answer(0.25))
    server.chat(first, headers=headers())
    past = [*first["messages"], {"role": "assistant", "content": "Fine."}]
    second = {"model": "opus", "messages": [*past, {"role": "user", "content": answer(0.35)}]}
    came = server.chat({**second, "model": "gpt-4o"}, headers=headers())
    assert came.headers["x-claude-proxy-served"] == "continued"
    wait_for(lambda: latest(server)["list_price_usd"] is not None, 5, "the cost is there")
    assert latest(server)["list_price_usd"] == pytest.approx(0.1)


def test_why_a_conversation_is_not_continued(server: Served) -> None:
    said = {"role": "assistant", "content": "Fine."}
    turns: list[dict[str, str]] = [{"role": "user", "content": answer()}, said, {"role": "user", "content": "a"}]

    def row(messages: list[dict[str, str]]) -> dict[str, Any]:
        came = server.chat({"model": "opus", "messages": messages}, headers=headers())
        request = came.headers["x-request-id"]
        wait_for(lambda: (latest(server)["id"], latest(server)["outcome"]) == (request, "ok"), 5, "its row is there")
        return latest(server)

    # Some clients leave out what is old.
    cut = [{"role": "user", "content": "other"}, *turns[1:]]
    new = [cut[0], {"role": "assistant", "content": "Never said."}, turns[2]]
    rows = [row(messages) for messages in (turns[:1], turns, turns, cut, new)]
    assert [(each["served"], each["not_continued"]) for each in rows] == [
        ("new", None), ("continued", None), ("replayed", "continued"), ("replayed", "edited"), ("replayed", "unknown"),
    ]  # fmt: skip


def test_a_cost_that_is_never_said_is_unknown(server: Served) -> None:
    before = report(server)["totals"]
    server.chat(body(answer(None)), headers=headers())
    after = report(server)["totals"]
    assert latest(server)["list_price_usd"] is None
    assert after["without_price"] == before["without_price"] + 1
    assert after["list_price_usd"] == before["list_price_usd"]


def test_calls_whose_results_never_come_have_a_price(tmp_path: Path) -> None:
    """The CLI says it only at the end of a turn: as those clients leave it that use a call as their answer."""
    home = tmp_path / "home"
    sent = called()
    with Served(
        fake_cli.write(home, price=0.25), tmp_path / "state", {"API_KEYS": "ann:sesame", **NONE_PARKED}
    ) as server:
        assert server.chat(sent, headers=headers()).json()["choices"][0]["finish_reason"] == "tool_calls"
        wait_for(lambda: latest(server)["list_price_usd"] == 0.25, 60, "the cost is there")
        assert latest(server)["outcome"] == "ok"


def test_a_cli_that_says_nothing_when_it_is_interrupted_is_ended(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Served(fake_cli.write(home), tmp_path / "state", {"API_KEYS": "ann:sesame", **NONE_PARKED}) as server:
        server.chat(called(), headers=headers())
        (asked,) = (file for file in home.glob("*.in") if "call" in file.read_text())
        wait_for(lambda: '"interrupt"' in asked.read_text(), 60, "it is interrupted")
        wait_for(lambda: not Path("/proc", asked.stem).exists(), 60, "it is gone")
        assert latest(server)["list_price_usd"] is None


def test_a_failed_answer_keeps_the_tokens_that_are_known(server: Served) -> None:
    came = server.chat(body(json.dumps([["say", "half"], ["exit", 1]])), headers=headers("barley"))
    assert came.status_code == 502
    row = latest(server)
    assert (row["key"], row["outcome"], row["status"]) == ("bob", "cli_died", 502)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (22, 1)


def test_a_client_that_leaves(server: Served) -> None:
    text = json.dumps([["say", "half"], ["sleep", 20]])
    url, sent = f"{server.url}/v1/chat/completions", body(text, stream=True)
    with (
        httpx.Client(trust_env=False, timeout=60) as client,
        client.stream("POST", url, json=sent, headers=headers()) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        assert latest(server)["outcome"] == "running"
    wait_for(lambda: latest(server)["outcome"] == "cancelled", 5, "the row is completed")
    row = latest(server)
    assert (row["prompt_tokens"], row["completion_tokens"], row["list_price_usd"]) == (22, 1, None)


def test_a_client_that_leaves_before_anything_is_said(tmp_path: Path) -> None:
    """What it put to the model counts towards the key's limits, as it may have been paid for."""
    home, text = tmp_path / "home", json.dumps([["hang"]])
    messages = [{"role": "system", "content": "x" * 30_000}, {"role": "user", "content": text}]
    sent = json.dumps(body(text, messages=messages)).encode()
    with Served(fake_cli.write(home), tmp_path / "state", {"API_KEYS": "ann:sesame"}) as server:
        port = int(server.url.rpartition(":")[2])
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer sesame\r\n"
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(
                f"{head}content-type: application/json\r\ncontent-length: {len(sent)}\r\n\r\n".encode() + sent
            )
            wait_for(lambda: any("hang" in file.read_text() for file in home.glob("*.in")), 60, "it is asked")
        wait_for(lambda: latest(server)["outcome"] == "cancelled", 60, "the row is completed")
        assert latest(server)["prompt_tokens"] == 0
        with Reader(server.usage) as reader:
            assert 10_000 < reader.used("ann", 0.0)[0] < 10_100


def test_a_request_that_never_reached_the_model_costs_nothing(server: Served) -> None:
    server.chat({"model": "opus", "messages": []}, headers=headers())
    row = latest(server)
    assert (row["outcome"], row["status"], row["list_price_usd"]) == ("bad_request", 400, 0.0)


def test_who_may_not_ask_leaves_no_row(server: Served) -> None:
    before = report(server)["totals"]["requests"]
    assert server.chat(body("hi"), headers=headers("wrong")).status_code == 401
    assert report(server)["totals"]["requests"] == before


def test_only_requests_to_a_model_leave_a_row(server: Served, expects: Expects) -> None:
    expects("security", "POST to /health, /metrics, an unknown path; GET of an API's path", "4xx, and no row of usage")
    before = report(server)["totals"]["requests"]
    for method, path, status in (
        ("POST", "/health", 405),
        ("POST", "/metrics", 405),
        ("POST", "/v1/usage", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/models/opus", 405),
        ("POST", "/docs", 405),
        ("POST", "/nowhere", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/completions", 405),
    ):
        answer = httpx.request(method, server.url + path, headers=headers(), timeout=60, trust_env=False)
        assert answer.status_code == status, path
    assert report(server)["totals"]["requests"] == before


@pytest.mark.parametrize("count", [2**53, 2**63, 2**64])
def test_figures_that_cannot_be_do_not_end_the_books(tmp_path: Path, expects: Expects, count: int) -> None:
    expects("faults", f"the CLI says {count:.3g} tokens and a price of 1e300 $", "kept in bounds; usage goes on")
    figures = {"input_tokens": count, "cache_creation_input_tokens": count, "cache_read_input_tokens": count}
    lines = steps(
        say.start(usage=figures | {"output_tokens": count}),
        say.opened(),
        say.piece("Fine."),
        say.closed(),
        say.end(usage=figures | {"output_tokens": count}),
        say.stopped(),
        say.result(total_cost_usd=1e300),
    )
    with Served(fake_cli.write(tmp_path), tmp_path / "state") as server:
        for _ in range(2):
            server.chat(body(lines))
        server.chat(body(answer()))
        wait_for(lambda: server.recent(1)[0]["list_price_usd"] == 0.25, 5, "rows are still written")
        totals = server.get("/v1/usage").json()["totals"]
        assert (totals["requests"], totals["running"], totals["list_price_usd"]) == (3, 0, 0.25)
        assert server.get("/health").json()["ledger_entries_lost"] == 0
        assert server.get("/metrics").status_code == 200


def test_groups_and_periods(server: Served) -> None:
    server.chat(body(answer()), headers=headers())
    found = report(server)
    assert {group["name"] for group in found["by_key"]} >= {"ann"}
    for field in ("by_model", "by_key", "by_api", "by_day"):
        assert sum(group["requests"] for group in found[field]) == found["totals"]["requests"]
    assert [group["name"] for group in found["by_api"]] == ["openai-chat"]
    assert found["totals"]["served"]["new"] > 0
    assert found["totals"]["cached_share"] == pytest.approx(7 / 22, abs=0.05)
    today = time.strftime("%Y-%m-%d")
    assert report(server, until=today)["totals"]["requests"] == found["totals"]["requests"]
    assert report(server, since="2100-01-01")["totals"]["requests"] == 0
    for past in ("0", "1000", "0001-01-01"):
        assert report(server, until=past)["totals"]["requests"] == 0


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("?since=yesterday", "since"),
        ("?until=2026-13-01", "until"),
        ("?since=20260801", "since"),
        ("?until=2026-W31", "until"),
        ("?since=2026-08-01T12", "since"),
        ("?since=2026-08-01T12:00:00%00", "since"),
        ("?since=٣", "since"),
        ("?since=2026-08-02&until=2026-08-01", "until"),
        ("?since=1&since=2", "since"),
        ("?from=2026-08-01", "from"),
        ("/recent?limit=0", "limit"),
        ("/recent?limit=1001", "limit"),
        ("/recent?limit=1e2", "limit"),
        ("/recent?limit=-1", "limit"),
        ("/recent?since=1", "since"),
    ],
)
def test_bad_parameters_are_named(server: Served, query: str, parameter: str) -> None:
    answer = server.get(f"/v1/usage{query}", headers=headers())
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == parameter


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/usage/recent", "/metrics"])
def test_keys_are_needed(server: Served, path: str) -> None:
    assert server.get(path).status_code == 401


def test_the_plan_s_state_is_in_reports_and_heads(server: Served) -> None:
    server.chat(body(answer()), headers=headers())
    for path in ("/v1/usage", "/v1/usage/recent"):
        plan = server.get(path, headers=headers()).json()["plan"]
        assert plan["windows"]["five_hour"]["utilization"] == 0.42
        assert plan["windows"]["seven_day"] == {"utilization": None, "resets_at": None, "status": None}
    head = server.chat(body(answer()), headers=headers()).headers
    assert head["x-claude-plan-five-hour-utilization"] == "0.42"
    assert abs(float(head["x-claude-plan-five-hour-reset"]) - time.time() - 2.5 * HOUR) < 60
    assert head["x-ratelimit-reset-requests"].startswith("2h")
    assert "x-ratelimit-remaining-requests" not in head
    assert "x-claude-plan-five-hour-utilization" not in server.get("/v1/models", headers=headers()).headers


def test_a_plan_that_is_used_up(server: Served) -> None:
    ends = time.time() + 20 * 60
    rejected = say.limits("rejected", rateLimitType="five_hour", resetsAt=ends)
    lines = steps(rejected, say.error_result("no", api_error="usage_limit_reached"))
    came = server.chat(body(lines), headers=headers())
    assert came.status_code == 429
    assert came.json()["error"]["code"] == "insufficient_quota"
    assert came.headers["x-ratelimit-remaining-requests"] == "0"
    assert 15 * 60 < int(came.headers["retry-after"]) <= 20 * 60
    assert came.headers["x-ratelimit-reset-requests"].startswith(("19m", "20m"))
    assert latest(server)["outcome"] == "plan_limit"


def test_usage_survives_a_restart_and_a_kill(tmp_path: Path) -> None:
    cli = fake_cli.write(tmp_path)
    with Served(cli, tmp_path / "state") as first:
        first.chat(body(answer()))
        wait_for(lambda: first.recent(1)[0]["list_price_usd"] == 0.25, 5, "the cost is there")
        text = json.dumps([["say", "half"], ["sleep", 20]])
        url, sent = f"{first.url}/v1/chat/completions", body(text, stream=True)
        with httpx.Client(trust_env=False, timeout=60) as client, client.stream("POST", url, json=sent) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert first.end(signal.SIGKILL) == -signal.SIGKILL
    with sqlite3.connect(first.usage) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    with Served(cli, tmp_path / "state") as second:
        rows = second.recent()
        assert [row["outcome"] for row in rows] == ["interrupted", "ok"]
        assert [row["list_price_usd"] for row in rows] == [None, 0.25]
        assert second.get("/v1/usage").json()["plan"]["windows"]["five_hour"]["utilization"] == 0.42


def test_an_answer_under_way_when_the_server_is_told_to_stop_has_its_row(tmp_path: Path) -> None:
    with Served(fake_cli.write(tmp_path), tmp_path / "state") as server:
        text = json.dumps([["say", "half"], ["sleep", 20]])
        url, sent = f"{server.url}/v1/chat/completions", body(text, stream=True)
        with httpx.Client(trust_env=False, timeout=60) as client, client.stream("POST", url, json=sent) as stream:
            lines = stream.iter_lines()
            next(lines)
            assert server.end(signal.SIGTERM) == 0
    with sqlite3.connect(server.usage) as connection:
        [(outcome, output)] = connection.execute("SELECT outcome, output FROM requests").fetchall()
    connection.close()
    assert outcome not in ("running", "ok")
    assert output == 1


# Words.


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0s"), (-5, "0s"), (59.6, "1m0s"), (360, "6m0s"), (3723, "1h2m3s"), (90_000, "25h0m0s")]
)
def test_durations_are_openai_s(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_nothing_is_said_of_a_plan_that_is_not_known() -> None:
    assert plan_headers(Allowance("allowed", 1.0, {}), 5.0) == []
    assert plan_headers(Allowance("allowed", 1.0, {"five_hour": Window(0.5, 4.0)}), 5.0) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-08-01T12:00:00Z", 1785585600.0),
        ("2026-08-01T14:00:00+02:00", 1785585600.0),
        ("2026-08-01 14:00+0200", 1785585600.0),
        ("2026-08-01t12:00:00.25z", 1785585600.25),
        ("1785585600", 1785585600.0),
        ("0", 0.0),
        ("0001-01-01", 0.0),
    ],
)
def test_moments(text: str, seconds: float) -> None:
    assert moment(text) == seconds


def test_a_date_is_a_day() -> None:
    assert moment("2026-08-01", end=True) - moment("2026-08-01") == pytest.approx(86_400, abs=3700)
    assert moment("9999-12-31", end=True) == reports.LAST_MOMENT


# The terminal.


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("CLAUDE_PROXY_") or name in ("API_KEYS", "LOG_LEVEL", "DEBUG"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CLAUDE_PROXY_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state" / "usage.sqlite3"


def write(path: Path, *records: Record, plan: Allowance | None = None) -> None:
    ledger = Ledger(path, 0, "subscription")
    ledger.start()
    for one in records:
        ledger.ended(one)
        ledger.paid([one.id], 1.5)
    if plan is not None:
        ledger.allowance(plan)
    ledger.close()


def test_the_terminal_shows_the_same(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    windows = {
        "five_hour": Window(0.5, time.time() + 2 * HOUR + 90, "allowed"),
        "seven_day": Window(None, 2e9, "rejected"),
    }
    write(
        state,
        record("a", key="ann", tokens=Tokens(10, 7, 5, 12_000, 3), api="openai-chat", served="continued"),
        record("b", model="claude-haiku-5-5", outcome="cli_died", api="ollama", not_continued="expired"),
        plan=Allowance("allowed", time.time(), windows),
    )
    assert main(["usage"]) == 0
    said = capsys.readouterr().out
    lines = {line[2:26].strip(): line for line in said.splitlines()}
    assert "██████████░░░░░░░░░░       50%  new in 2 h 0" in lines["five hour"]
    assert "████████████████████   used up" in lines["seven day"]
    assert "12.0 k" in lines["claude-opus-5-5"]
    assert "1.50" in lines["claude-opus-5-5"]
    assert "(no key)" in lines
    assert "3.00" in lines["Total"]
    assert "1 failed" in said
    assert "100%" in lines["openai-chat"]
    assert "0%" in lines["ollama"]
    assert "Served: 1 continued, 1 new." in said
    assert "Not continued: 1 expired." in said
    assert "saved 3.00 $" in said


def test_the_terminal_says_in_words_why_conversations_were_not_continued(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = sorted(set(get_args(NotContinued)) - {""})
    write(state, *(record(why, served="replayed", not_continued=why) for why in reasons))
    assert main(["usage"]) == 0
    (said,) = (line for line in capsys.readouterr().out.splitlines() if "Not continued" in line)
    assert said == (
        "  Not continued: 1 continued by another request, 1 edited, 1 whose process had ended, 1 given up for memory, "
        "1 expired, 1 with other settings, 1 with what is better put in again, 1 not known."
    )


class Page(SingleFileSnapshotExtension):
    """One `.txt` file each, in tests/snapshots, by module."""

    file_extension = "txt"

    @classmethod
    def dirname(cls, *, test_location: PyTestLocation) -> str:
        return str(Path(test_location.filepath).parent / "snapshots" / test_location.basename)


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize("latest", [False, True], ids=["sums", "latest"])
def test_pages_of_the_terminal(state: Path, snapshot: SnapshotAssertion, latest: bool) -> None:
    now = 1.75e9
    windows = {
        "five_hour": Window(0.425, now + 2 * HOUR + 60, "allowed"),
        "seven_day": Window(0.99, now + 90 * HOUR, "rejected"),
        "seven_day_opus": Window(None, None, None),
    }
    many = Tokens(2_500_000, 1_200_000, 100_000, 12_345, 3)
    write(
        state,
        record("a", key="ann", began=now, first_delta=None, duration=None),
        record("b", began=now - 60, model="claude-haiku-5-5", outcome="cli_died", tokens=many),
        record("c", began=now - 120, model="", asked="a model with a name that does not fit", outcome="cancelled"),
        record("d", began=now - 180, key="bob", outcome="interrupted", asks=2),
        *(record(f"day {day}", began=now - day * 24 * HOUR, tokens=Tokens(1, 0, 0, 0, 0)) for day in range(1, 16)),
        plan=Allowance("allowed", now, windows),
    )
    ink = terminal._ink("utf-8")
    if latest:
        with Reader(state) as reader:
            lines = terminal.rows(reports.recent(reader, 8))
    else:
        with Reader(state) as reader:
            plan = reports.plan_state(reader.allowance(), now)
            found = reports.report(reader, None, None)
        lines = terminal.words(msgspec.structs.replace(found, plan=plan), ink, now)
    assert "\n".join(lines).encode() == snapshot(extension_class=Page)


def test_the_terminal_shows_the_latest(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(state, record("a"), record("b", outcome="cancelled", began=time.time() + 1))
    assert main(["usage", "--recent"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["cancelled" in line for line in lines[3:]] == [True, False]


def test_a_terminal_gets_no_commands_from_a_client(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(state, record("a", model="", asked="\x1b[2J\x07evil\r\nmodel" + "x" * 100))
    for words in (["usage"], ["usage", "--recent"]):
        assert main(words) == 0
        said = capsys.readouterr().out
        assert "\x1b" not in said
        assert "\r" not in said
        assert max(map(len, said.splitlines())) < 120


def test_the_terminal_marks_the_estimate(state: Path) -> None:
    write(state, record("a"), plan=Allowance("allowed", 1.0, {"five_hour": Window(0.5, 2e9)}))
    with Reader(state) as reader:
        found = reports.report(reader, None, None)
    assert found.five_hour_estimate is None
    found = msgspec.structs.replace(found, five_hour_estimate=WindowEstimate(0.4567, 120_000.4, 12.0, 1.0))
    said = list(terminal.words(found, terminal._ink("ascii"), 2.0))
    assert "  Estimate: a percent of five hours has lately been worth 0.46 $ at list price, 120.0 k tokens." in said


def test_a_terminal_without_blocks(state: Path) -> None:
    write(state, record("a"), plan=Allowance("allowed", 1.0, {"five_hour": Window(0.5, 2e9)}))
    with Reader(state) as reader:
        found = reports.report(reader, None, None)
    assert "##########.........." in "\n".join(terminal.words(found, terminal._ink("ascii"), time.time()))


def test_periods_in_the_terminal(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(state, record("a", began=moment("2026-08-01T12:00:00")))
    assert main(["usage", "--since", "2026-08-01", "--until", "2026-08-01"]) == 0
    assert "claude-opus-5-5" in capsys.readouterr().out
    assert main(["usage", "--since", "2026-08-02"]) == 0
    assert "claude-opus-5-5" not in capsys.readouterr().out


def test_before_anything_has_been_used(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage"]) == 0
    assert capsys.readouterr().out == f"Nothing has been used yet: there is no {state}.\n"


def test_what_cannot_be_shown(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", "--since", "yesterday"]) == 2
    assert "--since must be" in capsys.readouterr().err
    assert main(["usage", "--since", "2026-08-02", "--until", "2026-08-01"]) == 2
    assert "--until must be later" in capsys.readouterr().err
    state.parent.mkdir()
    state.write_bytes(b"no database, whatever its name may say" * 40)
    assert main(["usage"]) == 1
    assert str(state) in capsys.readouterr().err
