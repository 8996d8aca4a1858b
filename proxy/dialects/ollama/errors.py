"""Errors in Ollama's form, which is a sentence; the status says the rest."""

from __future__ import annotations

import json
import math
from typing import Final

from proxy.dialects import ErrorReply
from proxy.dialects.ollama.types import ErrorLine
from proxy.protocol.failures import About, Failure

_PARAMS: Final = {About.MODEL: "model", About.SCHEMA: "format", About.TOOLS: "tools"}


def error(failure: Failure) -> ErrorLine:
    """The message names the parameter at fault, in front where it is not in its words."""
    param = failure.param or (None if failure.about is None else _PARAMS[failure.about])
    if param is None or f"`{param}`" in failure.message:
        return ErrorLine(failure.message)
    return ErrorLine(f"{param}: {failure.message}")


def reply(failure: Failure, now: float) -> ErrorReply:
    """The same with its status, and the headers that tell a client whether to try again."""
    headers: list[tuple[str, str]] = []
    wait = failure.wait(now)
    if wait is not None:
        headers.append(("retry-after", str(math.ceil(wait))))
    if failure.row.retry is not None:
        headers.append(("x-should-retry", json.dumps(failure.row.retry)))
    return ErrorReply(failure.row.status, error(failure), tuple(headers))
