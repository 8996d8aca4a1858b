"""What is kept of every request beyond its answer: counts, a row of usage, what the plan still allows.

The edge says when a request ends, Falcon when it has found its resource, the CLI's conversations what answers cost.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import falcon.asgi

from proxy.dialects.anthropic.messages import Messages
from proxy.http.edge import TRACE, Trace
from proxy.http.metrics import Metrics
from proxy.protocol.allowance import REJECTED, Allowance, current, take_in, tightest
from proxy.protocol.deltas import Tokens
from proxy.protocol.lines import RateLimitInfo, Window
from proxy.usage.writer import Ledger, Record

# Names of OpenAI's where they fit; these are ours.
PLAN_HEADER: Final = "x-claude-plan-{window}-{what}"

# The API whose clients read the plan's state in headers of these names.
MESSAGES: Final = Messages.name
UNIFIED: Final = "anthropic-ratelimit-unified-{}"
SHORT: Final = {"five_hour": "5h", "seven_day": "7d"}


def outcome(trace: Trace) -> str:
    """How the request ended; see `Record`."""
    if trace.outcome:
        return trace.outcome
    if trace.left:
        return "cancelled"
    return "ok" if trace.complete else "interrupted"


def duration(seconds: float) -> str:
    """A time as OpenAI's headers give it: `1h2m3s`, `6m0s`, `12s`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def plan_headers(allowance: Allowance, now: float) -> list[tuple[str, str]]:
    """What is known of the plan, for an answer's head.

    Utilisation and end (seconds since 1970) of each window; in OpenAI's words when the tightest one starts anew, and
    that nothing remains when it is used up. How many requests remain otherwise nobody knows.
    """
    allowance = current(allowance, now)
    headers = []
    found = tightest(allowance)
    if found is not None and found[1].resetsAt is not None:
        headers.append(("x-ratelimit-reset-requests", duration(found[1].resetsAt - now)))
    if found is not None and found[1].status == REJECTED:
        headers.append(("x-ratelimit-remaining-requests", "0"))
    for name, window in allowance.windows.items():
        values = {"utilization": window.utilization, "reset": window.resetsAt}
        headers += [
            (PLAN_HEADER.format(window=name.replace("_", "-"), what=what), f"{value:.15g}")
            for what, value in values.items()
            if value is not None
        ]
    return headers


def anthropic_headers(allowance: Allowance, request_id: str, now: float) -> list[tuple[str, str]]:
    """The request's name and the plan's windows as the Messages API has them, for its clients."""
    allowance = current(allowance, now)
    headers = [("request-id", request_id)]
    found = tightest(allowance)
    if found is not None:
        name, window = found
        headers.append((UNIFIED.format("status"), window.status or allowance.status))
        headers.append((UNIFIED.format("representative-claim"), name))
        headers += [(UNIFIED.format("reset"), f"{window.resetsAt:.0f}")] if window.resetsAt is not None else []
    for name, short in SHORT.items():
        window = allowance.windows.get(name) or Window()
        values = {
            "status": window.status,
            "reset": None if window.resetsAt is None else f"{window.resetsAt:.0f}",
            "utilization": None if window.utilization is None else f"{window.utilization:.15g}",
        }
        headers += [(UNIFIED.format(f"{short}-{what}"), value) for what, value in values.items() if value]
    return [(name, value) for name, value in headers if value]


class Accounts:
    """One per server: middleware of Falcon's, the edge's `RequestObserver`, the pool's `Observer`.

    `ledger` None: none is kept.
    `allowance`: the plan's state as last reported.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger = ledger
        self.metrics = Metrics()
        self.allowance = Allowance()

    @property
    def lost(self) -> int:
        """How many entries of usage could not be written."""
        return 0 if self.ledger is None else self.ledger.lost

    async def process_resource(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: object, params: dict[str, Any]
    ) -> None:
        trace: Trace = req.scope[TRACE]
        trace.endpoint = req.uri_template or ""
        trace.key_name, trace.owner = req.context.key_name, req.context.owner
        # Resources that put what is posted to a model say which API it is written in; no others do.
        trace.api = getattr(resource, "api", "")
        if trace.api and req.method == "POST" and self.ledger is not None:
            trace.kept = True
            self.ledger.begun(trace.id, trace.at, trace.key_name, trace.endpoint, trace.api)

    def headers(self, trace: Trace) -> list[tuple[bytes, bytes]]:
        if not trace.attempts and not trace.requested_model:
            return []
        headers = plan_headers(self.allowance, time.time())
        if trace.api == MESSAGES:
            # An error says its own request's name.
            named = anthropic_headers(self.allowance, trace.id, time.time())
            headers += named if trace.status < 400 else named[1:]
        return [(name.encode(), value.encode()) for name, value in headers]

    def ended(self, trace: Trace) -> None:
        how = outcome(trace)
        if trace.kept and self.ledger is not None:
            record = Record(
                trace.id, trace.at, trace.key_name, trace.endpoint, trace.requested_model, trace.model, trace.served,
                how, trace.status, trace.tokens or Tokens(), trace.attempts, trace.seconds, trace.first_delta,
                trace.api, trace.not_continued, trace.web_searches, trace.login, trace.fallback,
                trace.estimated,
            )  # fmt: skip
            self.ledger.ended(record)
        for tell in trace.ended:
            tell()
        self.metrics.ended(trace, how)

    def paid(self, requests: Sequence[str], usd: float) -> None:
        self.metrics.paid(usd)
        if self.ledger is not None:
            self.ledger.paid(requests, usd)

    def limits(self, info: RateLimitInfo) -> None:
        self.allowance = take_in(self.allowance, info, time.time())
        if self.ledger is not None:
            self.ledger.allowance(self.allowance)
