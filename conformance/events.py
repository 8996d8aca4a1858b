"""Reads streams whose events have names, as those of the Messages and Responses APIs."""

import json
from typing import Any


def named(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of each event; comments are no events."""
    found = []
    for part in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in part.splitlines() if line and not line.startswith(":"))
        if lines:
            found.append((lines.get("event", ""), json.loads(lines["data"])))
    return found
