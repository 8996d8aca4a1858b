"""Whether the CLI holds a call as the model wrote it.

It mends arguments to its own liking: texts that look like escapes or like JSON become what they look like. In what it
sends on the model then finds calls that it has not made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from typing import Any, Final

from proxy.protocol.deltas import Arguments, Delta, ToolCall, ToolEnd
from proxy.protocol.plan import Message, call_ids, with_ids

# What ids of calls begin with that the Messages API gives.
UPSTREAM: Final = "toolu_"


def digest(arguments: str | bytes) -> bytes:
    """The same for the same arguments, however they are written, numbers as JavaScript has them."""
    return _digest(arguments, _value(arguments))


def _value(arguments: str | bytes) -> Any:
    """None for what cannot be read."""
    try:
        return json.loads(arguments, parse_int=float, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None


def _no_number(name: str) -> None:
    """`NaN`, which Python takes and JavaScript does not."""
    raise ValueError(name)


def _digest(arguments: str | bytes, value: Any) -> bytes:
    text = arguments.encode() if isinstance(arguments, str) else arguments
    if value is not None:
        with contextlib.suppress(RecursionError):
            text = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(text).digest()


class Written:
    """The calls of one answer, from its deltas as they come from the CLI.

    `offered`: the tools that the CLI has the client run, by its names for them. `handed_on`: each call is of one of
    these, has an id and an object of arguments; others the CLI answers itself.
    """

    __slots__ = ("_digests", "_ids", "_offered", "_pieces", "handed_on")

    def __init__(self, offered: Iterable[str] = ()) -> None:
        self._offered = frozenset(offered)
        self.handed_on = True
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
                self.handed_on = self.handed_on and bool(delta.id) and delta.name in self._offered
            elif isinstance(delta, Arguments):
                self._pieces[delta.tool_index].append(delta.text)
            elif isinstance(delta, ToolEnd):
                text = "".join(self._pieces.pop(delta.tool_index))
                value = _value(text)
                self.handed_on = self.handed_on and isinstance(value, dict)
                self._digests[self._ids[delta.tool_index]] = _digest(text, value)

    def same(self, call_id: str, arguments: bytes) -> bool:
        """Whether that call had arguments of this digest."""
        return self._digests.get(call_id) == arguments
