"""Limits of keys, looked at before a request is put to the model."""

from __future__ import annotations

import logging
import sqlite3
from typing import Any, Final

import falcon.asgi

from proxy.http.counting import CountTokens
from proxy.keys.keyring import Keyring
from proxy.keys.quota import Quota, UsedToday, midnight
from proxy.keys.store import KeyLimits
from proxy.offload import in_file
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.usage.reader import Reader
from proxy.usage.writer import Ledger

log: Final = logging.getLogger("proxy.keys")
# Seconds to wait for what has just ended to be in the usage file.
FRESH_WAIT: Final = 1.0
NOT_TOLD: Final = "What this key uses in a day cannot be {}, so that its limits cannot be kept."


class KeyQuota:
    """Falcon middleware. What a key has used in a day is read from the usage file: a restart forgets nothing, and
    several servers on one file share the limits of a day (each counts its own minutes)."""

    def __init__(self, keyring: Keyring, ledger: Ledger | None) -> None:
        self._keyring = keyring
        self._ledger = ledger
        self._quota = Quota()

    async def process_resource(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: object, params: dict[str, Any]
    ) -> None:
        name: str = req.context.key_name
        limits = self._keyring.limits(name)
        # Resources of an API put what is posted to the model. To count takes a process, but no tokens.
        asks, counts = getattr(resource, "api", ""), isinstance(resource, CountTokens)
        if req.method != "POST" or not limits or not (asks or counts):
            return
        if counts:
            limits = KeyLimits(limits.requests_per_minute)
        used = await self._used(name) if limits.by_day else UsedToday()
        if failure := self._quota.spent(name, limits, used):
            raise Rejection(failure)

    async def _used(self, name: str) -> UsedToday:
        """Raises Rejection when it cannot be told: a limit that is not looked at is none."""
        if self._ledger is None:
            return UsedToday()
        if not await self._ledger.written(FRESH_WAIT) and self._ledger.failing:
            raise Rejection(Failure(Kind.INTERNAL, NOT_TOLD.format("written")))
        path, since = self._ledger.path, midnight(self._quota.now())

        def read() -> UsedToday:
            with Reader(path) as reader:
                return UsedToday(*reader.used(name, since))

        try:
            return await in_file("usage", read)
        except (sqlite3.Error, OSError) as error:
            log.warning("usage cannot be read from %s (%s)", path, error)
            raise Rejection(Failure(Kind.INTERNAL, NOT_TOLD.format("read"))) from None
