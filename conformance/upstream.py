"""A Messages API on loopback: answers from cassettes or from a function, and keeps what arrived.

A header's value such as `+18000` is the time so many seconds after it is sent, in seconds since 1970: the CLI drops
windows of the plan that end long ago, or more than a year ahead.
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import msgspec

from conformance import promptcache
from conformance.cassettes import COUNTING, REAL, chunks
from conformance.messages import Answer, Arrived, Play, Reply, error, simplified

MESSAGES = "/v1/messages"
_BODY_LIMIT = 64 << 20

_KEPT_HEADERS = ("content-type", "retry-after", "anthropic-ratelimit-unified-")
_PLAN_RESET = re.compile(r"anthropic-ratelimit-unified-(\w+-)?reset")
_HOP = {"host", "connection", "content-length", "accept-encoding", "transfer-encoding"}


def _from_now(name: str, value: str) -> str:
    """A header as a cassette keeps it: when the plan's windows end counted from the answer, in whole minutes."""
    if not _PLAN_RESET.fullmatch(name) or not value.isdecimal():
        return value
    return f"+{max(0, round((int(value) - time.time()) / 60) * 60)}"


class Live:
    """Forwards every request to the real API and keeps the pairs, ready to be saved as a cassette.

    The answer is handed on when it is complete. Only an allow-list of headers is kept, request ids are numbered,
    and of a request only what its sender decides (`simplified`): no credential, device, account or host data.
    """

    def __init__(self, target: str = REAL) -> None:
        self.target = target.rstrip("/")
        self.pairs: list[tuple[dict[str, Any], Reply]] = []

    async def __call__(self, request: Arrived) -> Reply:
        import httpx

        async with httpx.AsyncClient(timeout=600) as client:
            headers = {name: value for name, value in request.headers.items() if name not in _HOP}
            answer = await client.post(
                self.target + request.target,
                headers=headers | dict(request.credentials),
                content=msgspec.json.encode(request.body),
            )
        kept = tuple(
            (name.lower(), _from_now(name.lower(), value))
            for name, value in answer.headers.items()
            if name.lower().startswith(_KEPT_HEADERS)
        )
        shown_headers = (*kept, ("request-id", f"req_{len(self.pairs) + 1:02}"))
        reply = Reply(answer.status_code, shown_headers, tuple(chunks(answer.content, shown_headers, Play())))
        self.pairs.append((simplified(request.body), reply))
        return reply


# ── the server ──────────────────────────────────────────────────────────────────────────────────────────────

_CREDENTIALS = {"authorization", "x-api-key", "cookie"}


class Upstream:
    """`async with Upstream(answer) as up`: serves on `up.url`; what arrived is in `up.requests`.

    `answer` is a function of the request, a Library or a Live. Anything but POST to MESSAGES or COUNTING is a 404 and
    lands in `up.others`. Marks for the prompt cache, and budgets of thinking, that the API would refuse are refused
    whatever the answer is.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.url = ""
        self.requests: list[Arrived] = []
        self.others: list[str] = []
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        serving = list(filter(None, self._open.values()))
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*serving, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = asyncio.current_task()
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left, as it may
        finally:
            del self._open[writer]
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        length = int(headers.get("content-length", 0))
        if length > _BODY_LIMIT or "transfer-encoding" in headers:
            await _write(writer, error(413, "request_too_large", "more than this loopback takes"))
            return False
        content = await reader.readexactly(length)
        if method != "POST" or target.partition("?")[0] not in (MESSAGES, COUNTING):
            self.others.append(f"{method} {target}")
            return await _write(writer, error(404, "not_found_error", target))
        request = Arrived(
            asyncio.get_running_loop().time(),
            target,
            {name: value for name, value in headers.items() if name not in _CREDENTIALS},
            {name: value for name, value in headers.items() if name in _CREDENTIALS},
            json.loads(content),
            len(self.requests),
        )
        self.requests.append(request)
        try:
            promptcache.check(request.body)
            _check_room(request.body)
        except promptcache.Refused as refusal:
            return await _write(writer, error(400, "invalid_request_error", str(refusal)))
        answer = self.answer(request)
        reply = answer if isinstance(answer, Reply) else await answer
        goes_on = await _write(writer, reply)
        if reply.play.hang is not None:
            await reader.read(1)  # until the client gives up
        return goes_on


def _check_room(body: Mapping[str, Any]) -> None:
    """Raises promptcache.Refused where the budget of thinking leaves no room for an answer, as the API does."""
    budget = (body.get("thinking") or {}).get("budget_tokens")
    if budget is not None and "max_tokens" in body and budget >= body["max_tokens"]:
        raise promptcache.Refused("`max_tokens` must be greater than `thinking.budget_tokens`.")


def _dated(value: str) -> str:
    return str(round(time.time()) + int(value)) if re.fullmatch(r"\+\d+", value) else value


async def _write(writer: asyncio.StreamWriter, reply: Reply) -> bool:
    """Plays a reply; False when the connection is not to be used again."""
    play = reply.play
    end = play.hang if play.cut is None else play.cut
    await asyncio.sleep(play.before / 1000)
    if end == -1:
        return False
    headers = (f"{name}: {_dated(value)}" for name, value in reply.headers)
    lines = [f"HTTP/1.1 {reply.status} Scripted", *headers]
    writer.write(("\r\n".join([*lines, "transfer-encoding: chunked"]) + "\r\n\r\n").encode("latin-1"))
    await writer.drain()
    for number, chunk in enumerate(reply.chunks):
        if number:
            await asyncio.sleep(play.between / 1000)
        if number == end:
            break
        writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        await writer.drain()
    if end is not None:
        return False
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True
