"""Whether the CLI holds a call as the model wrote it.

It mends arguments to its own liking: texts that look like escapes or like JSON become what they look like. In what it
sends on the model then finds calls that it has not made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Final

from proxy.protocol.deltas import Arguments, Delta, ToolCall, ToolEnd
from proxy.protocol.plan import Message, call_ids, with_ids

# What ids of calls begin with that the Messages API gives.
UPSTREAM: Final = "toolu_"


def digest(arguments: str | bytes) -> bytes:
    """The same for the same arguments, however they are written, numbers as JavaScript has them."""
    try:
        text = json.dumps(json.loads(arguments, parse_int=float), sort_keys=True).encode()
    except (ValueError, RecursionError):
        text = arguments.encode() if isinstance(arguments, str) else arguments
    return hashlib.sha256(text).digest()


class Written:
    """The calls of one answer, from its deltas as they come from the CLI."""

    __slots__ = ("_digests", "_ids", "_pieces")

    def __init__(self) -> None:
        self._ids: dict[int, str] = {}
        self._pieces: dict[int, list[str]] = {}
        self._digests: dict[str, bytes] = {}

    def of_own(self, message: Message, before: Message | None) -> Message:
        """The message with the ids of these calls in place of those that the answer `before` it has, by their place."""
        ids = () if before is None else call_ids(before)
        return with_ids(message, dict(zip(ids, self._ids.values(), strict=False)))

    def may_be(self, before: Message | None) -> bool:
        """Whether the calls of an answer, as a client has it, may be these: those of a fork that says the same are told
        by their ids, which upstream gave them. Ids of a client's own say nothing."""
        ids = () if before is None else call_ids(before)
        return all(own == id or not id.startswith(UPSTREAM) for id, own in zip(ids, self._ids.values(), strict=False))

    def take(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            if isinstance(delta, ToolCall):
                self._ids[delta.tool_index] = delta.id
                self._pieces[delta.tool_index] = []
            elif isinstance(delta, Arguments):
                self._pieces[delta.tool_index].append(delta.text)
            elif isinstance(delta, ToolEnd):
                self._digests[self._ids[delta.tool_index]] = digest("".join(self._pieces.pop(delta.tool_index)))

    def same(self, call_id: str, arguments: bytes) -> bool:
        """Whether that call had arguments of this digest."""
        return self._digests.get(call_id) == arguments
