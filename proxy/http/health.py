"""`GET /health`: whether this server can answer, as far as it knows from what has happened."""

from __future__ import annotations

import time
from typing import Final, Literal

import falcon
import falcon.asgi
import msgspec
from msgspec import Struct

import proxy
from proxy.cli.pool import Counts
from proxy.http.service import Service

# Seconds for which a failure of the login is reported: only a request can show that it works again, and a load balancer
# sends none to a server that reports one.
LOGIN_RETRY: Final = 60.0


class Login(Struct, frozen=True):
    """`works`: what the last real answer showed; null before the first. Times in seconds since 1970."""

    method: str
    works: bool | None
    last_success: float | None
    last_failure: float | None


class Health(Struct, frozen=True):
    """`mode` demo: every answer is a recorded one. `ledger_entries_lost`: how many could not be written.

    `plan_limits`: until when the plan is known to be used up, in seconds since 1970, by model.
    """

    status: Literal["ok", "login_failed", "cli_unavailable", "shutting_down"]
    mode: Literal["live", "demo"]
    version: str
    cli_version: str
    login: Login
    children: Counts
    ledger_entries_lost: int
    plan_limits: dict[str, float] = {}


def health(service: Service) -> Health:
    seen = service.login
    pool = service.pool
    status: Literal["ok", "login_failed", "cli_unavailable", "shutting_down"] = "ok"
    if pool.closing:
        status = "shutting_down"
    elif pool.warm_pool.starts_fail and not pool.counts.waiting and not pool.counts.busy:
        status = "cli_unavailable"
    elif seen.works is False and abs(time.time() - (seen.last_failure or 0.0)) < LOGIN_RETRY:
        status = "login_failed"
    login = Login(service.login_method, seen.works, seen.last_success, seen.last_failure)
    mode: Literal["live", "demo"] = "demo" if service.demo else "live"
    return Health(
        status,
        mode,
        proxy.__version__,
        service.cli_version,
        login,
        pool.counts,
        service.accounts.lost,
        pool.plan_limits.ends,
    )


class HealthCheck:
    """Open to all: it says nothing of keys, paths or messages. 503 when no answer can be expected."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        found = health(self._service)
        resp.status = 200 if found.status == "ok" else 503
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(found)

    on_head = on_get
