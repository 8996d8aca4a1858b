"""What is known of a plan that is used up: for which models, until when, and who may try all the same.

Until a limit ends, requests to the model that met it are answered from here: no process, no request upstream. One of
them may try every now and then, so that a limit that is lifted early is noticed. What one model has met says nothing of
another: some windows of a plan are for one family alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from proxy.protocol.failures import Failure, Kind, Rejection


class _Known(Struct, frozen=True):
    """`failure`: what was said. `tried_at`: when last, `tried_by`: by which request; empty: the one that met it."""

    failure: Failure
    tried_at: float
    tried_by: str = ""


class PlanLimits:
    """One for each login. `retry`: seconds from one try to the next; 0: every request tries.

    `clock`: seconds since 1970, as the limits' ends are.
    """

    def __init__(self, retry: float, clock: Callable[[], float] = time.time) -> None:
        self._retry = retry
        self._clock = clock
        self._known: dict[str, _Known] = {}

    @property
    def ends(self) -> dict[str, float]:
        """When the known limits end, in seconds since 1970, by what the CLI is asked for."""
        now = self._clock()
        ends = {model: known.failure.resets_at or 0.0 for model, known in self._known.items()}
        return {model: end for model, end in ends.items() if end > now}

    def check(self, model: str, request: str = "") -> float:
        """The time, for `answered`. Raises Rejection when there is a limit, and it is not this request's turn to try.

        `request`: its id; what has once been let through may ask as often as it needs to.
        """
        now = self._clock()
        known = self._known.get(model)
        if known is None or not self._retry or (request and known.tried_by == request):
            return now
        if not _lasts(known.failure, now):
            del self._known[model]
            return now
        # A clock that was set back is no reason to wait for longer.
        if 0 <= now - known.tried_at < self._retry:
            raise Rejection(known.failure)
        self._known[model] = msgspec.structs.replace(known, tried_at=now, tried_by=request)
        return now

    def failed(self, model: str, failure: Failure) -> None:
        """A request to this model has failed upstream."""
        now = self._clock()
        if failure.kind is Kind.PLAN_LIMIT and _lasts(failure, now):
            self._known[model] = _Known(failure, now)

    def answered(self, model: str, asked_at: float) -> None:
        """A request to this model, let through at that time, is being answered: a limit met before is no more."""
        known = self._known.get(model)
        if known is not None and known.tried_at <= asked_at:
            del self._known[model]


def _lasts(failure: Failure, now: float) -> bool:
    return failure.resets_at is not None and failure.resets_at > now
