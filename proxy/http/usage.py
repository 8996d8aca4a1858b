"""`GET /v1/usage` and `GET /v1/usage/recent`: what has been used, from the ledger's file."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import falcon
import falcon.asgi
import msgspec

from proxy.http.service import Service
from proxy.protocol.failures import Failure, Kind, Rejection, bad_request
from proxy.usage.reader import Reader
from proxy.usage.report import empty, moment, recent, report

log: Final = logging.getLogger("proxy.usage")
# Seconds that a reader waits for what has just ended to be in the file.
FRESH_WAIT: Final = 1.0
# Readers of one kind at once; others wait.
MAX_READERS: Final = 2
DEFAULT_RECENT: Final = 50
MAX_RECENT: Final = 1000

T = TypeVar("T")


def _limit(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or not 1 <= int(text) <= MAX_RECENT:
        raise ValueError(f"must be a whole number between 1 and {MAX_RECENT}")
    return int(text)


def _parameters(req: falcon.asgi.Request, known: dict[str, Callable[[str], float]]) -> dict[str, float]:
    """The query, read. Raises Rejection."""
    found = {}
    for name, value in req.params.items():
        if name not in known:
            raise bad_request(f"There is no parameter {name!r} here; there is {' and '.join(known)}.", name)
        if not isinstance(value, str):
            raise bad_request(f"{name} must be given once.", name)
        try:
            # In a query a plus sign is a space: that of a time zone, if it stands there.
            found[name] = known[name](re.sub(r" (\d\d:?\d\d)$", r"+\1", value) if "T" in value else value)
        except ValueError as error:
            raise bad_request(f"{name} {error}.", name) from None
    return found


def _run(reader: Reader, reading: Callable[[Reader], T]) -> T:
    with reader:
        return reading(reader)


class _FromLedger:
    """Reads the file in a thread, which ends when nobody waits for it: the client has left, or the server ends."""

    def __init__(self, service: Service) -> None:
        self._ledger = service.accounts.ledger
        self._turns = asyncio.Semaphore(MAX_READERS)

    async def _read(self, reading: Callable[[Reader], T]) -> T:
        path = Path("/nonexistent")
        if self._ledger is not None:
            await self._ledger.written(FRESH_WAIT)
            path = self._ledger.path
        reader = Reader(path)
        try:
            async with self._turns:
                return await asyncio.to_thread(_run, reader, reading)
        except (sqlite3.Error, OSError) as error:
            log.warning("usage cannot be read from %s (%s)", path, error)
            raise Rejection(Failure(Kind.INTERNAL, f"The usage file cannot be read: {error}.")) from None
        finally:
            reader.stop()


class UsageSummary(_FromLedger):
    """Sums over a period."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        period = _parameters(req, {"since": moment, "until": lambda text: moment(text, end=True)})
        since, until = period.get("since"), period.get("until")
        if empty(since, until):
            raise bad_request("until must be later than since.", "until")
        resp.data = msgspec.json.encode(await self._read(lambda reader: report(reader, since, until)))
        resp.content_type = falcon.MEDIA_JSON

    on_head = on_get


class RecentRequests(_FromLedger):
    """One by one."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        limit = int(_parameters(req, {"limit": _limit}).get("limit", DEFAULT_RECENT))
        resp.data = msgspec.json.encode(await self._read(lambda reader: recent(reader, limit)))
        resp.content_type = falcon.MEDIA_JSON

    on_head = on_get
