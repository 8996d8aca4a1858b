"""`GET /metrics`: read by the standard client library's own parser, after requests of every outcome."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text_format

from proxy.cli.pool import Counts
from proxy.http.metrics import Metrics, Snapshot
from proxy.protocol.allowance import Allowance
from proxy.usage.estimate import WindowEstimate
from tests import cli_lines as say
from tests import fake_cli
from tests.served import Served, wait_for

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def steps(*lines: object) -> str:
    return json.dumps([["line", line] for line in lines])


def chat(text: str, **more: object) -> dict[str, object]:
    return {"model": "opus", "messages": [{"role": "user", "content": text}]} | more


def samples(server: Served) -> Samples:
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name.removeprefix("claude_max_api_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_format(answer.text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home: Path = tmp_path_factory.mktemp("metrics")
    of_another = home / "metrics-of-another"
    of_another.mkdir()
    # What another program may have left in the environment.
    inherited = {name: str(of_another) for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")}
    with Served(fake_cli.write(home), home / "state", inherited) as served:
        yield served
    assert list(of_another.iterdir()) == []


def test_an_answer_is_counted(server: Served) -> None:
    before = samples(server)
    windows = {"five_hour": {"utilization": 0.42, "resetsAt": time.time() + 3600, "status": "allowed"}}
    info = say.limits(unifiedWindows=windows)
    server.chat(chat(steps(*say.message("Fine."), info, say.result(total_cost_usd=0.25)), stream=True))
    wait_for(lambda: value(samples(server), "list_price_usd_total") > 0, 5, "the cost is told")
    after = samples(server)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    route = "/v1/chat/completions"
    assert grown("requests_total", endpoint=route, status="200") == 1
    assert grown("request_seconds_count", endpoint=route) == 1
    assert grown("first_delta_seconds_count", served="new") == 1
    tokens = {"input": 10, "cache_read": 7, "cache_write": 5, "output": 12}
    for kind, count in tokens.items():
        assert grown("tokens_total", model="claude-opus-5-5", kind=kind, api="openai-chat", key="") == count
    labels = {"model": "claude-opus-5-5", "api": "openai-chat", "key": ""}
    assert grown("served_total", served="new", not_continued="", **labels) == 1
    assert grown("list_price_usd_total") == 0.25
    assert value(after, "plan_utilization", window="five_hour") == 0.42
    assert value(after, "plan_reset_timestamp_seconds", window="five_hour") > time.time()
    assert value(after, "children", state="parked") == 1
    assert ("queue", ()) in after
    assert value(after, "process_resident_memory_bytes") > 1e7


def test_failures_are_counted_by_kind(server: Served) -> None:
    before = samples(server)
    server.chat(chat(json.dumps([["exit", 1]])))
    server.chat({"model": "opus", "messages": []})
    server.get("/nowhere/at/all")
    after = samples(server)
    for kind in ("cli_died", "bad_request", "unknown_path"):
        assert value(after, "errors_total", kind=kind) - value(before, "errors_total", kind=kind) == 1
    assert value(after, "requests_total", endpoint="other", status="404") == 1


def test_labels_are_no_client_s_text(server: Served) -> None:
    counts = []
    for number in range(20):
        server.get(f"/v1/models/claude-opus-{number}")
        server.get(f"/nowhere/{number}")
        server.chat({"model": f"model-{number}", "messages": []})
        counts.append(len(samples(server)))
    # The first of each sort make samples; ten more would make ten at least, if a text of theirs became a label.
    assert counts[-1] < counts[9] + 10
    assert "model-7" not in server.get("/metrics").text


def test_it_can_be_had_as_openmetrics(server: Served) -> None:
    accept = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    answer = server.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics(answer.text)}  # type: ignore[no-untyped-call]
    assert {"claude_max_api_requests", "claude_max_api_children", "process_open_fds"} <= names


@pytest.mark.parametrize(
    "accept",
    ["application/openmetrics-text; version=a.b.c", "text/plain; version=x", "text/plain; version=", "text/plain; =;;",
     "application/openmetrics-text; version=1.0.0; escaping=x", "*/*", "\xff",
     "application/openmetrics-text;version=²", "text/plain;version=2.é"],
)  # fmt: skip
def test_whatever_is_accepted_it_is_given(server: Served, accept: str) -> None:
    answer = server.get("/metrics", headers=[(b"accept", accept.encode("latin-1"))])
    assert answer.status_code == 200
    assert "claude_max_api_children" in answer.text


def test_what_a_percent_of_the_window_is_worth() -> None:
    worth = WindowEstimate(0.5, 1500.0, 3.0, 1.0)
    metrics = Metrics()
    metrics.watch(lambda: Snapshot(Counts(0, 0, 0, 0, 0), Allowance(), 2, worth))
    text = generate_latest(metrics.registry).decode()
    assert "claude_max_api_plan_percent_list_price_usd 0.5\n" in text
    assert "claude_max_api_plan_percent_tokens 1500.0\n" in text
    assert "claude_max_api_usage_entries_lost 2.0\n" in text
    metrics.watch(lambda: Snapshot(Counts(0, 0, 0, 0, 0), Allowance(), 0, None))
    assert "plan_percent" not in generate_latest(metrics.registry).decode()


def test_what_no_recording_has_is_counted_by_name(server: Served) -> None:
    new = {"type": "invented", "text": "secret"}
    server.chat(chat(steps(new, *say.answer("x"))))
    text = server.get("/metrics").text
    (row,) = [line for line in text.splitlines() if line.startswith("claude_max_api_cli_unproven_total{")]
    assert 'name="invented"' in row
    assert 'sort="line type"' in row
    assert row.endswith("} 1.0")
    assert "secret" not in text


def test_scraping_does_not_make_the_page_longer(server: Served) -> None:
    samples(server)
    lengths = {len(samples(server)) for _ in range(5)}
    assert len(lengths) == 1
