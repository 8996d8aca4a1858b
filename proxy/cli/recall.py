"""What the model has written, as it wrote it, for as long as its conversation may come back.

Clients send an answer back without its thinking, texts joined and stripped, arguments in another order. Where a
conversation has to be put in again, each answer that is still known here takes the place of what the client sent back
for it: so thinking is there when a tool's result comes, and the prompt is the one that upstream has in its cache.
Nothing of it is written to disk, unless there is a `Disk`.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from proxy.offload import in_file
from proxy.protocol import fingerprint
from proxy.protocol.answer import Answer
from proxy.protocol.plan import Message, Plan, call_ids, with_ids

# Bytes of all answers together, as JSON.
MAX_BYTES: Final = 32 * 1024 * 1024
# Seconds from an answer's last use: as long as upstream keeps a prompt at most.
MAX_AGE: Final = 3600.0


class Disk(Protocol):
    """Where answers outlive the server, as JSON. Called in threads; what cannot be read or written is not there."""

    def find(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Those answers that are there."""

    def save(self, answers: Mapping[bytes, bytes], used: Sequence[bytes]) -> None:
        """Keep more answers. `used`: those that are to stay as long as these."""


class _Known(msgspec.Struct):
    message: Message
    size: int
    used: float
    others: Sequence[bytes]


class Recall:
    """Answers by the fingerprint of the conversation that ends with them. `clock` gives seconds."""

    def __init__(
        self,
        clock: Callable[[], float],
        max_bytes: int = MAX_BYTES,
        max_age: float = MAX_AGE,
        disk: Disk | None = None,
    ) -> None:
        self._clock = clock
        self._disk = disk
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        # Other keys of what is known, each with its first one.
        self._first: dict[bytes, bytes] = {}
        self.bytes = 0

    def keep(
        self,
        key: bytes,
        answer: Answer,
        known: fingerprint.Defaults = fingerprint.NO_DEFAULTS,
        *,
        others: Sequence[bytes] = (),
    ) -> None:
        """Remember an answer, unless clients send back all of it anyway. The oldest are forgotten for it.

        `known`: defaults of the tools that it calls (`fingerprint.defaults`); `others`: its keys as clients send it
        back that leave something out or add something.
        """
        message = fingerprint.full(answer, known) or (fingerprint.echo(answer) if others else None)
        if message is not None:
            self._put(key, message, others)

    async def load(self, keys: Sequence[bytes]) -> None:
        """Remember what is on disk of these, if it is not known here."""
        missing = [key for key in keys if self._main(key) not in self._known]
        if self._disk is None or not missing:
            return
        for key, data in (await in_file("answers", self._disk.find, missing)).items():
            # What another version has written is not there.
            with contextlib.suppress(msgspec.MsgspecError):
                self._put(key, msgspec.json.decode(data, type=Message))

    async def save(self, keys: Sequence[bytes], earlier: Sequence[bytes]) -> None:
        """Keep on disk what is known of an answer. `earlier`: the keys of those before it in its conversation."""
        if self._disk is not None:
            known = {key: self._known[self._main(key)].message for key in keys if self._main(key) in self._known}
            answers = {key: msgspec.json.encode(message) for key, message in known.items()}
            await in_file("answers", self._disk.save, answers, earlier)

    def _main(self, key: bytes) -> bytes:
        """The key under which it is kept."""
        return key if key in self._known else self._first.get(key, key)

    def _put(self, key: bytes, message: Message, others: Sequence[bytes] = ()) -> None:
        self._forget(key)
        known = _Known(message, len(msgspec.json.encode(message)), self._clock(), others)
        self._known[key] = known
        self._first.update((other, key) for other in others)
        self.bytes += known.size
        while self.bytes > self._max_bytes or (self._known and self._oldest.used < known.used - self._max_age):
            self._forget(next(iter(self._known)))

    def whole(self, plan: Plan, keys: Sequence[bytes]) -> Plan:
        """The plan with each answer that is known here as it was written, but for the ids of its calls. `keys`: of the
        plan's messages, in order."""
        messages = tuple(
            self._find(key, message) if message.role == "assistant" else message
            for key, message in zip(keys, plan.messages, strict=True)
        )
        return msgspec.structs.replace(plan, messages=messages)

    def _find(self, key: bytes, message: Message) -> Message:
        key = self._main(key)
        known = self._known.get(key)
        now = self._clock()
        if known is None or known.used < now - self._max_age:
            return message
        known.used = now
        self._known.move_to_end(key)
        # Results name the calls by the client's ids, each of which stands in the conversation once.
        return with_ids(known.message, dict(zip(call_ids(known.message), call_ids(message), strict=False)))

    @property
    def _oldest(self) -> _Known:
        return next(iter(self._known.values()))

    def _forget(self, key: bytes) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self.bytes -= known.size
            for other in known.others:
                if self._first.get(other) == key:
                    del self._first[other]
