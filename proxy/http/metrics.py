"""`GET /metrics`: the server's figures in Prometheus' formats.

Labels have few values: routes as declared, statuses, kinds of failure, models that answered. Never a client's text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import falcon
import falcon.asgi
from msgspec import Struct
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    exposition,
    values,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from proxy.cli.pool import Counts
from proxy.http.edge import Trace
from proxy.protocol.allowance import Allowance, current
from proxy.protocol.unproven import Unproven
from proxy.usage.estimate import WindowEstimate

PREFIX: Final = "claude_max_api"
OPENMETRICS: Final = "application/openmetrics-text"
UNROUTED: Final = "other"
# From what a living conversation takes to the longest answers.
SECONDS: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)


class Snapshot(Struct, frozen=True):
    """The server at a moment. `lost`: entries of usage that could not be written. `worth`: of the five-hour window.

    `unproven`: what the CLI of `cli_version` has written that no recording has, and how often. `plan_limits`: when each
    ends, by model.
    """

    counts: Counts
    allowance: Allowance
    lost: int
    worth: WindowEstimate | None
    cli_version: str = ""
    unproven: Mapping[Unproven, int] = {}
    plan_limits: Mapping[str, float] = {}


class Metrics(Collector):
    """What is counted as requests end, and the state of the server when the page is asked for."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        # Inherited variables for servers of several processes (PROMETHEUS_MULTIPROC_DIR) do not concern this one.
        values.ValueClass = values.MutexValue
        self.registry = registry = CollectorRegistry()
        self._take_snapshot: Callable[[], Snapshot] | None = None
        self._requests = Counter(
            f"{PREFIX}_requests", "Requests that have ended.", ("endpoint", "status"), registry=registry
        )
        self._seconds = Histogram(
            f"{PREFIX}_request_seconds", "From a request's head to the end of its answer.", ("endpoint",),
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._first_delta = Histogram(
            f"{PREFIX}_first_delta_seconds", "From a request's head to the first piece of its answer.", ("served",),
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._tokens = Counter(
            f"{PREFIX}_tokens", "Tokens used; `input` is what was neither read from the prompt cache nor put there.",
            ("model", "kind", "api", "key"), registry=registry,
        )  # fmt: skip
        self._served = Counter(
            f"{PREFIX}_served",
            "Answered requests by how they met their process, and why they were not continued in a living one.",
            ("served", "not_continued", "model", "api", "key"), registry=registry,
        )  # fmt: skip
        self._searches = Counter(f"{PREFIX}_web_searches", "Searches of the web.", registry=registry)
        self._errors = Counter(f"{PREFIX}_errors", "Requests that failed, by kind.", ("kind",), registry=registry)
        self._cost = Counter(
            f"{PREFIX}_list_price_usd", "What answers would have cost at list price, where the CLI has said so.",
            registry=registry,
        )  # fmt: skip
        registry.register(self)
        ProcessCollector(registry=registry)

    def watch(self, take_snapshot: Callable[[], Snapshot]) -> None:
        """What tells the server's state when the page is asked for."""
        self._take_snapshot = take_snapshot

    def ended(self, trace: Trace, outcome: str) -> None:
        endpoint = trace.endpoint or UNROUTED
        self._requests.labels(endpoint, str(trace.status or "none")).inc()
        self._seconds.labels(endpoint).observe(trace.seconds)
        if trace.first_delta is not None:
            self._first_delta.labels(trace.served).observe(trace.first_delta)
        if trace.tokens is not None and trace.model:
            tokens = trace.tokens
            for kind, count in (
                ("input", tokens.input), ("cache_read", tokens.cache_read), ("cache_write", tokens.cache_write),
                ("output", tokens.output), ("reasoning", tokens.reasoning),
            ):  # fmt: skip
                if count:
                    self._tokens.labels(trace.model, kind, trace.api, trace.key_name).inc(count)
        if trace.served and trace.model:
            labels = trace.served, trace.not_continued, trace.model, trace.api, trace.key_name
            self._served.labels(*labels).inc()
        if trace.web_searches:
            self._searches.inc(trace.web_searches)
        if outcome != "ok":
            self._errors.labels(outcome).inc()

    def paid(self, usd: float) -> None:
        self._cost.inc(usd)

    def collect(self) -> Iterator[Metric]:
        if self._take_snapshot is None:
            return
        snapshot = self._take_snapshot()
        counts = snapshot.counts
        children = GaugeMetricFamily(f"{PREFIX}_children", "CLI processes by state.", labels=("state",))
        for state in ("waiting", "starting", "busy", "parked"):
            children.add_metric((state,), getattr(counts, state))
        yield children
        if counts.memory is not None:
            yield GaugeMetricFamily(
                f"{PREFIX}_children_memory_bytes", "Memory of all CLI processes together (PSS).", counts.memory
            )
        yield GaugeMetricFamily(f"{PREFIX}_queue", "Requests waiting for their turn.", counts.queued)
        used = GaugeMetricFamily(
            f"{PREFIX}_plan_utilization", "Used share of a window of the plan.", labels=("window",)
        )
        resets = GaugeMetricFamily(
            f"{PREFIX}_plan_reset_timestamp_seconds", "When a window of the plan ends.", labels=("window",)
        )
        for name, window in current(snapshot.allowance, time.time()).windows.items():
            if window.utilization is not None:
                used.add_metric((name,), window.utilization)
            if window.resetsAt is not None:
                resets.add_metric((name,), window.resetsAt)
        yield used
        yield resets
        limits = GaugeMetricFamily(
            f"{PREFIX}_plan_limit_end_timestamp_seconds",
            "Until when the plan is known to be used up for a model.",
            labels=("model",),
        )
        for model, ends in snapshot.plan_limits.items():
            limits.add_metric((model,), ends)
        yield limits
        yield GaugeMetricFamily(
            f"{PREFIX}_usage_entries_lost",
            "Entries of usage that could not be written.",
            snapshot.lost,
        )
        unproven = CounterMetricFamily(
            f"{PREFIX}_cli_unproven",
            "Types of line, fields, stop reasons and the like of the CLI that no recording of this release has.",
            labels=("sort", "name", "cli_version"),
        )
        for one, count in snapshot.unproven.items():
            unproven.add_metric((one.sort, one.name, snapshot.cli_version), count)
        yield unproven
        if snapshot.worth is not None:
            yield GaugeMetricFamily(
                f"{PREFIX}_plan_percent_list_price_usd",
                "What a percent of the five-hour window has been worth lately at list price: an estimate.",
                snapshot.worth.list_price_usd_per_percent,
            )
            yield GaugeMetricFamily(
                f"{PREFIX}_plan_percent_tokens",
                "What a percent of the five-hour window has been worth lately in tokens: an estimate.",
                snapshot.worth.tokens_per_percent,
            )


class MetricsPage:
    """The resource."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        media_types = {entry.partition(";")[0].strip().lower() for entry in (req.get_header("accept") or "").split(",")}
        # The versions that every collector reads; the library fails at some of those that a client may name.
        chosen = f"{OPENMETRICS};version=1.0.0" if OPENMETRICS in media_types else ""
        encode, content_type = exposition.choose_encoder(chosen)
        resp.data = encode(self._metrics.registry)
        resp.content_type = content_type

    on_head = on_get
