"""What the dialects see of a store: the items that an owner's request goes on from."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from msgspec import Raw

from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.store.store import Missing, Store, TooLarge

NOT_STORED: Final = "No {} {!r} is stored here."
GONE: Final = "The response {!r}, which {!r} goes on from, is not stored here any more."


def not_found(kind: str, id: str, param: str | None) -> Rejection:
    """There is no such thing, for this owner. `kind`: what it is, in words."""
    return Rejection(Failure(Kind.NOT_FOUND, NOT_STORED.format(kind, id[:80]), param))


def unreadable(error: sqlite3.Error) -> Rejection:
    return Rejection(Failure(Kind.INTERNAL, f"What is stored cannot be read or written: {error}."))


class StoredItems:
    """A `Lookup` (`proxy.dialects`) for one request of an owner's, which gets at most `most` bytes in all."""

    stores: Final = True

    @property
    def most_stored(self) -> int:
        return self._store.most

    def __init__(self, store: Store, owner: str, most: float = math.inf) -> None:
        self._store = store
        self._owner = owner
        self._most = most
        self._left = most

    def response(self, id: str) -> Sequence[Raw]:
        param = "previous_response_id"
        with self._errors(param):
            try:
                return self._counted(self._store.chain(self._owner, id, self._left))
            except Missing as missing:
                if missing.id != id:
                    words = GONE.format(missing.id[:80], id[:80])
                    raise Rejection(Failure(Kind.NOT_FOUND, words, param)) from None
                raise not_found("response", id, param) from None

    def conversation(self, id: str) -> Sequence[Raw]:
        param = "conversation"
        with self._errors(param):
            try:
                found = self._store.items(self._owner, "conversation", id, self._left)
            except Missing:
                raise not_found("conversation", id, param) from None
            return self._counted([item.data for item in found])

    def item(self, id: str) -> Raw | None:
        with self._errors("input"):
            found = self._store.item(self._owner, id)
            if found is not None:
                self._counted([found])
            return found

    def _counted(self, found: Sequence[Raw]) -> Sequence[Raw]:
        self._left -= sum(len(bytes(raw)) for raw in found)
        if self._left < 0:
            raise TooLarge
        return found

    @contextmanager
    def _errors(self, param: str) -> Iterator[None]:
        try:
            yield
        except TooLarge:
            words = f"What the request goes on from and refers to is larger than {self._most:.0f} bytes."
            raise Rejection(Failure(Kind.BODY_TOO_LARGE, words, param)) from None
        except sqlite3.Error as error:
            raise unreadable(error) from None
