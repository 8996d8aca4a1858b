"""What a server says of itself: health, its description, its docs."""

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

from conformance.cases import case
from conformance.target import QUIET, Target, Unmet, body_of, need, same


@case("README, endpoints", shows=["endpoint.GET /health"], settings=QUIET)
async def health_tells_the_state(target: Target) -> None:
    """/health tells status, versions, the login as far as it is known, and the processes."""
    body = body_of(await target.http.get("/health"))
    same({"status": "ok", "version": {"$matches": r"^\d"}, "cli_version": {"$matches": r"^\d"}}, body, "health")
    need({"waiting", "busy", "parked", "queued"} <= set(body["children"]), f"children {body['children']}")
    need("works" in body["login"], f"login {body['login']}")


@case("README, endpoints", shows=["endpoint.GET /health"], uses=["chat/plain"], settings=QUIET)
async def health_knows_of_the_last_answer(target: Target) -> None:
    """After a good answer /health knows that the login works, and since when."""
    await target.whole(target.body("chat/plain"))
    login = body_of(await target.http.get("/health"))["login"]
    need(login["last_success"] is not None, f"login {login}")


@case("RFC 9110, 9.3.2", shows=["endpoint.GET /health"], settings=QUIET)
async def head_is_get_without_a_body(target: Target) -> None:
    """HEAD gives what GET gives, without the body."""
    for path in ("/health", "/v1/models", "/openapi.json", "/docs"):
        answer = await target.send("HEAD", path)
        need(answer.status_code == 200 and not answer.content, f"{path}: {answer.status_code}, {len(answer.content)}")


@case("OpenAPI 3.2", shows=["endpoint.GET /openapi.json"], scripted=True)
async def it_describes_itself(target: Target) -> None:
    """/openapi.json describes the operations that this suite asks."""
    body = body_of(await target.send("GET", "/openapi.json"))
    same({"openapi": {"$matches": r"^3\."}}, body, "document")
    need(
        {"/v1/chat/completions", "/v1/models", "/v1/completions", "/health"} <= set(body["paths"]),
        f"paths {list(body['paths'])}",
    )


@case("README, endpoints", shows=["endpoint.GET /docs"], scripted=True)
async def it_can_be_read(target: Target) -> None:
    """/docs is a page that loads nothing from elsewhere."""
    answer = await target.send("GET", "/docs")
    need(answer.status_code == 200 and answer.headers["content-type"].startswith("text/html"), "no page")
    need(not re.search(r"<script|src=|<link", answer.text), "it loads something")


async def _once(target: Target, path: str, holds: Callable[[Any], object]) -> Any:
    """What is at a path once it holds: a request is written down a moment after its answer."""
    body = None
    for _ in range(50):
        body = body_of(await target.send("GET", path))
        if holds(body):
            return body
        await asyncio.sleep(0.05)
    raise Unmet(f"{path} does not tell of the request: {json.dumps(body)[:300]}")


@case("README, usage", shows=["endpoint.GET /v1/usage"], uses=["chat/plain"], scripted=True)
async def what_was_used_is_summed_up(target: Target) -> None:
    """After an answer /v1/usage counts its tokens, in all and for its model."""
    used = (await target.whole(target.body("chat/plain")))["usage"]
    body = await _once(target, "/v1/usage", lambda body: body["totals"]["requests"])
    same({"object": "usage", "totals": {"requests": {"$above": 0}}}, body, "usage")
    need(body["by_model"] and body["by_day"], "there are no groups")
    need(body["totals"]["completion_tokens"] >= used["completion_tokens"], f"totals {body['totals']}")


@case(
    "README, usage",
    shows=["endpoint.GET /v1/usage", "behaviour.the plan in sight"],
    uses=["limits/plan_windows"],
    settings=QUIET,
    scripted=True,
)
async def the_plans_windows_are_told(target: Target) -> None:
    """Once an answer has told of them, /v1/usage and /metrics show the plan's windows: the share used, and the end."""
    await target.whole(target.body("limits/plan_windows"))
    body = await _once(target, "/v1/usage", lambda body: body["plan"]["windows"]["five_hour"]["utilization"])
    now = time.time()
    for name, used, ahead in (("five_hour", 0.42, 18_000), ("seven_day", 0.13, 432_000)):
        window = body["plan"]["windows"][name]
        same(used, window["utilization"], f"{name}.utilization")
        need(abs(window["resets_at"] - now - ahead) < 60, f"{name} ends {window['resets_at'] - now} s from now")
        metrics = (await target.send("GET", "/metrics")).text
        same({"$matches": rf'(?m)^claude_max_api_plan_utilization{{window="{name}"}} {used}$'}, metrics, "metrics")
    need(abs(body["plan"]["seen_at"] - now) < 60, f"seen at {body['plan']['seen_at']}")


@case("README, usage", shows=["endpoint.GET /v1/usage"], scripted=True)
async def a_period_that_is_none_is_refused(target: Target) -> None:
    """A period that cannot be read is a 400 that names it."""
    for name in ("since", "until"):
        answer = await target.send("GET", f"/v1/usage?{name}=soon")
        need(answer.status_code == 400, f"{name}: status {answer.status_code}")
        same(name, answer.json()["error"]["param"], "param")


@case("README, usage", shows=["endpoint.GET /v1/usage/recent"], uses=["chat/plain"], scripted=True)
async def the_latest_requests_are_listed(target: Target) -> None:
    """/v1/usage/recent lists the latest requests without any text of theirs."""
    await target.whole(target.body("chat/plain"))
    body = await _once(target, "/v1/usage/recent?limit=5", lambda body: body["data"])
    need(0 < len(body["data"]) <= 5, "not one to five of them")
    need("Italy" not in json.dumps(body), "there is text of a message")


@case("Prometheus, text format", shows=["endpoint.GET /metrics"], scripted=True)
async def metrics_can_be_read(target: Target) -> None:
    """/metrics is lines of names and numbers, each name with its type."""
    answer = await target.send("GET", "/metrics")
    same({"$matches": "^text/plain"}, answer.headers["content-type"], "content-type")
    lines = [line for line in answer.text.splitlines() if line]
    values = [line for line in lines if not line.startswith("#")]
    wrong = [line for line in values if not re.fullmatch(r"[a-z_]+(\{.*\})? ([0-9.eE+-]+|\+Inf)", line)]
    need(values and not wrong, f"lines {wrong[:3]}")
    types = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    names = {re.split(r"[{ ]", line)[0] for line in values}
    untyped = {name for name in names if name not in types and re.sub("_(sum|count|bucket)$", "", name) not in types}
    same([], sorted(untyped), "names without a type")


@case(
    "README, the page",
    shows=["endpoint.GET /", "endpoint.GET /v1/status", "endpoint.GET /v1/inspector",
           "endpoint.GET /v1/inspector/{request_id}"],
    uses=["chat/plain"],
    scripted=True,
)  # fmt: skip
async def the_latest_requests_can_be_looked_at(target: Target) -> None:
    """The page is there without a key; /v1/status and /v1/inspector tell of the requests, without text of theirs."""
    page = await target.send("GET", "/")
    same({"$matches": "^text/html"}, page.headers["content-type"], "content-type of /")
    await target.whole(target.body("chat/plain"))
    listed = await _once(target, "/v1/inspector", lambda body: body["data"])
    one = body_of(await target.send("GET", f"/v1/inspector/{listed['data'][0]['id']}"))
    same(listed["data"][0]["id"], one["request"]["id"], "the request's id")
    need("Italy" not in json.dumps([listed, one]), "there is text of a message")
    same({"$above": -1}, body_of(await target.send("GET", "/v1/status"))["under_way"], "under_way")
