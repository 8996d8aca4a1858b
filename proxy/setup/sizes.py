"""How large the models are, as the running server knows it: clients cut their prompts by it."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

# Seconds: a server that has just started asks the CLI first, once for each model.
PATIENCE: Final = 30.0
# The most that is read of an answer, in bytes.
LIMIT: Final = 1_000_000


class Size(Struct, frozen=True):
    """In tokens, by the names of the list; None: not known. `context_length`: what the model takes in all;
    `max_completion_tokens`: the longest answer."""

    context_length: int | None = None
    max_completion_tokens: int | None = None


class _Model(Size, frozen=True, kw_only=True):
    id: str


class _Models(Struct, frozen=True):
    data: tuple[_Model, ...]


def asked(url: str, key: str) -> Mapping[str, Size]:
    """The models of the server at this address (without `/v1`), by name; none when it does not say."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        with contextlib.closing(kind(parts.hostname or "", parts.port, timeout=PATIENCE)) as connection:
            connection.request("GET", f"{parts.path}/v1/models", headers={"authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            found = msgspec.json.decode(answer.read(LIMIT), type=_Models) if answer.status == 200 else _Models(())
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    return {model.id: model for model in found.data}
