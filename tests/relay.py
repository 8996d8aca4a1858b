"""Our server behind a relay that keeps its answers, and servers that give them changed: no answer is made twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache
from typing import Any

import httpx
from msgspec import Struct
from msgspec.structs import replace

from conformance import cases, run
from conformance.cases import Case
from conformance.results import Result
from conformance.target import Target
from tests.conftest import listening

# The cases that need no settings, and are no scenarios (tests/test_replay.py).
CASES = [case for case in cases.every() if not (case.settings or case.id.startswith("scenario/"))]


class Answer(Struct, frozen=True):
    """What passes the relay. `ends`: the last of it is sent."""

    status: int
    headers: dict[str, str]
    body: bytes
    ends: bool = True

    @property
    def json(self) -> Any:
        return json.loads(self.body) if "json" in self.headers.get("content-type", "") and self.body else None

    @property
    def events(self) -> list[Any] | None:
        """The values of a stream's events; `[DONE]` is a text."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            return None
        data = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [text if text == "[DONE]" else json.loads(text) for text in data]


def with_json(answer: Answer, value: Any) -> Answer:
    return replace(answer, body=json.dumps(value).encode())


def with_events(answer: Answer, events: list[Any]) -> Answer:
    lines = (event if isinstance(event, str) else json.dumps(event) for event in events)
    return replace(answer, body="".join(f"data: {line}\n\n" for line in lines).encode())


Wrong = Callable[[Answer], Answer]
# What answers depend on, beside path and body.
HEADERS = ("origin", "content-type", "authorization", "anthropic-version")
# Answers by method, path, headers that matter, body, and how often it had been asked.
Kept = dict[tuple[Any, ...], Answer]
UNKNOWN = Answer(404, {"content-type": "application/json"}, b'{"error": {"message": "Never asked before."}}')


def unchanged(answer: Answer) -> Answer:
    return answer


OF_THE_CONNECTION = ("content-length", "transfer-encoding", "connection")


class Relay:
    """An ASGI application between suite and server; without a server it has what was kept."""

    def __init__(self, upstream: str | None, kept: Kept, wrong: Wrong) -> None:
        self._kept = kept
        self._wrong = wrong
        self._asked: Counter[tuple[Any, ...]] = Counter()
        self._host = (upstream or "").removeprefix("http://")
        self._client = None if upstream is None else httpx.AsyncClient(base_url=upstream, timeout=60, trust_env=False)
        self.host = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if headers["host"] == self.host:
            headers["host"] = self._host
        headers.pop("transfer-encoding", None)
        path = scope["raw_path"].decode() + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
        answer = self._wrong(await self._answer(scope["method"], path, headers, body))
        told = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": told})
        if not answer.ends:
            await send({"type": "http.response.body", "body": answer.body[: len(answer.body) // 2], "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The server's own, or what it was the last time that this was asked for the n-th time."""
        told = tuple((name, headers.get(name)) for name in HEADERS)
        foreign = headers["host"] if headers["host"] != self._host else ""
        asked = (method, path, told, foreign, body)
        self._asked[asked] += 1
        if self._client is None:
            times = [self._asked[asked], *range(self._asked[asked] - 1, 0, -1)]
            return next((self._kept[asked, time] for time in times if (asked, time) in self._kept), UNKNOWN)
        came = await self._client.request(method, path, headers=headers, content=body)
        passed = {name: came.headers[name] for name in came.headers if name not in OF_THE_CONNECTION}
        answer = self._kept[asked, self._asked[asked]] = Answer(came.status_code, passed, came.content)
        return answer

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()


@contextlib.asynccontextmanager
async def serving(relay: Relay) -> AsyncIterator[str]:
    """Its URL."""
    async with listening(relay) as port:
        relay.host = f"127.0.0.1:{port}"
        try:
            yield f"http://{relay.host}"
        finally:
            await relay.close()


async def _judge(wanted: list[Case], upstream: str | None, kept: Kept, wrong: Wrong, timeout: float) -> list[Result]:
    relay = Relay(upstream, kept, wrong)
    async with serving(relay) as url:
        target = Target(url, scripted=True, timeout=timeout)

        async def target_for(case: Case) -> Target:
            return target

        try:
            return await run.judge(wanted, target_for)
        finally:
            await target.close()


class Baseline(Struct, frozen=True):
    """What our own server gave, and what the suite said of it."""

    results: dict[str, Result]
    kept: Kept


@cache
def baseline() -> Baseline:
    """Our own server, judged through a relay that changes nothing."""
    kept: Kept = {}
    with run.started({}) as (url, folder):
        results = asyncio.run(_judge(CASES, url, kept, unchanged, 20))
        assert not (folder / "differences.txt").exists(), (folder / "differences.txt").read_text()
    return Baseline({result.case: result for result in results}, kept)


def judged(wanted: list[Case], wrong: Wrong = unchanged, timeout: float = 5) -> dict[str, Result]:
    """What the suite says of a server that gives the same answers, changed like this."""
    results = asyncio.run(_judge(wanted, None, baseline().kept, wrong, timeout))
    return {result.case: result for result in results}
