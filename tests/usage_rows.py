"""Requests that have ended, for tests of the usage file."""

from __future__ import annotations

import time
from typing import Any

from proxy.protocol.deltas import Tokens
from proxy.usage.writer import Record


def record(id: str, **more: Any) -> Record:
    values: dict[str, Any] = {
        "id": id, "began": time.time(), "key": "", "endpoint": "/v1/chat/completions", "asked": "opus",
        "model": "claude-opus-5-5", "served": "new", "outcome": "ok", "status": 200,
        "tokens": Tokens(10, 7, 5, 12, 3), "asks": 1, "duration": 1.5, "first_delta": 0.2,
    }  # fmt: skip
    return Record(**values | more)
