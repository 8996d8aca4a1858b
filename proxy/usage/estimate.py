"""What a percent of the plan's five-hour window has been worth lately: an estimate.

The CLI reports the used share of the window now and then. Between two reports of the same window this server's requests
have cost so much at list price and used so many tokens; the share has risen by so many percent. A report has the share
before the answer that it comes with, so the requests that ended between the two belong to the rise.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from msgspec import Struct

from proxy.protocol.allowance import Allowance

WINDOW: Final = "five_hour"
# Windows looked at, the newest; and the least rise in percent over all of them that an estimate stands on.
LATELY: Final = 14
MIN_PERCENT: Final = 2.0
# Moments at which windows end are the same within so many seconds.
SAME_END: Final = 600
# Seconds that an answer takes at most, for the look-up.
LONGEST: Final = 3600

# The share is told in steps: what was used before the first rise of a window belongs to a step that nobody has seen
# from its beginning, so counting starts at the first rise.
_REPORT: Final = """
INSERT INTO five_hours (resets, first_at, first_used, last_at, last_used, rises)
VALUES (:resets, :at, :used, :at, :used, 0)
ON CONFLICT (resets) DO UPDATE SET
    first_at = CASE rises WHEN 0 THEN excluded.first_at ELSE first_at END,
    first_used = CASE rises WHEN 0 THEN excluded.first_used ELSE first_used END,
    last_at = excluded.last_at, last_used = excluded.last_used, rises = rises + 1
WHERE excluded.last_used > last_used
"""
_ESTIMATE: Final = f"""
WITH lately AS (SELECT * FROM five_hours ORDER BY resets DESC LIMIT {LATELY}),
used AS (
    SELECT total(cost) AS usd, total(input + cache_read + cache_write + output) AS tokens
    FROM lately CROSS JOIN requests ON began BETWEEN first_at - {LONGEST} AND last_at
    WHERE began + duration > first_at AND began + duration <= last_at
)
SELECT total(last_used - first_used) * 100, min(first_at), usd, tokens FROM lately, used
"""
PRUNE_REPORTS: Final = f"""
DELETE FROM five_hours WHERE resets NOT IN (SELECT resets FROM five_hours ORDER BY resets DESC LIMIT {LATELY})
"""


class WindowEstimate(Struct, frozen=True):
    """An estimate of what one percent of the five-hour window has been worth lately, from requests through this server.

    It is too low where something else uses the same plan, and its price where the CLI has not said what answers cost.
    `percent`: how much was used while it was looked at. `since`: from when on, in seconds since 1970.
    """

    list_price_usd_per_percent: float
    tokens_per_percent: float
    percent: float
    since: float


def reported(allowance: Allowance) -> tuple[str, dict[str, float]] | None:
    """The statement that keeps what a report says of the window."""
    window = allowance.windows.get(WINDOW)
    if allowance.seen is None or window is None or window.utilization is None or window.resetsAt is None:
        return None
    resets = round(window.resetsAt / SAME_END) * SAME_END
    return _REPORT, {"resets": resets, "at": allowance.seen, "used": window.utilization}


def estimate(connection: sqlite3.Connection) -> WindowEstimate | None:
    """From the file; None: too little has been seen. Raises sqlite3.Error."""
    percent, since, usd, tokens = connection.execute(_ESTIMATE).fetchone()
    if percent < MIN_PERCENT:
        return None
    return WindowEstimate(round(usd / percent, 6), round(tokens / percent, 1), round(percent, 2), since)
