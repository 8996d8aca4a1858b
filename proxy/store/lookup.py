"""What the dialects see of a store: the items that an owner's request goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Raw

from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.store.store import Missing, Store

NOT_STORED: Final = "No {} {!r} is stored here."
GONE: Final = "The response {!r}, which {!r} goes on from, is not stored here any more."


def not_found(kind: str, id: str, param: str | None) -> Rejection:
    """There is no such thing, for this owner. `kind`: what it is, in words."""
    return Rejection(Failure(Kind.NOT_FOUND, NOT_STORED.format(kind, id[:80]), param))


class StoredItems:
    """A `Lookup` (`proxy.dialects`) for one owner."""

    stores: Final = True

    def __init__(self, store: Store, owner: str) -> None:
        self._store = store
        self._owner = owner

    def response(self, id: str) -> Sequence[Raw]:
        try:
            return self._store.chain(self._owner, id)
        except Missing as missing:
            if missing.id != id:
                words = GONE.format(missing.id[:80], id[:80])
                raise Rejection(Failure(Kind.NOT_FOUND, words, "previous_response_id")) from None
            raise not_found("response", id, "previous_response_id") from None

    def conversation(self, id: str) -> Sequence[Raw]:
        try:
            return [item.data for item in self._store.items(self._owner, "conversation", id)]
        except Missing:
            raise not_found("conversation", id, "conversation") from None

    def item(self, id: str) -> Raw | None:
        return self._store.item(self._owner, id)
