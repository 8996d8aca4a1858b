"""The store as the resources use it: off the event loop, for there may be much, and with errors of the API's."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from msgspec import structs

from proxy.dialects import NOTHING_STORED, Encoder
from proxy.dialects.openai.responses import kept
from proxy.dialects.openai.responses.encoder import ResponsesEncoder
from proxy.offload import in_file
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.settings import Settings
from proxy.store.lookup import not_found, unreadable
from proxy.store.store import Item, Limits, Missing, Store, TooLarge

log: Final = logging.getLogger("proxy.store")
_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")
DAY: Final = 86_400.0
NOT_ADDED: Final = "The answer cannot be added to its conversation. {}"
TOO_LARGE: Final = "It is larger than all that can be stored here: {} bytes (`CLAUDE_PROXY_STORE_BYTES`)."


def limits(settings: Settings) -> Limits:
    return Limits(settings.store_entries, settings.store_bytes, settings.store_days * DAY)


def stored(items: Iterable[kept.KeptItem]) -> list[Item]:
    """The dialect's items as the store has them."""
    return [Item(item.id, item.data, item.part) for item in items]


class UnderWay:
    """A response while it is made. `deleted`: it is not to be kept."""

    def __init__(self, owner: str, id: str) -> None:
        self.owner = owner
        self.id = id
        self.deleted = False


class Kept:
    """`store` None: nothing is kept."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        # Until each is kept, or whoever makes it lets go of it.
        self._under_way: WeakValueDictionary[str, UnderWay] = WeakValueDictionary()

    @property
    def store(self) -> Store:
        """Raises Rejection where nothing is kept."""
        if self._store is None:
            raise Rejection(Failure(Kind.NOT_FOUND, NOTHING_STORED))
        return self._store

    async def call(
        self, what: str, param: str | None, work: Callable[_Args, _Result], *args: _Args.args, **more: _Args.kwargs
    ) -> _Result:
        """What a method of the store gives. `what`, `param`: what a missing one is called. Raises Rejection."""
        try:
            return await in_file("store", work, *args, **more)
        except Missing as missing:
            raise not_found(what, missing.id, param) from None
        except TooLarge:
            raise Rejection(Failure(Kind.BODY_TOO_LARGE, TOO_LARGE.format(self.store.most), param)) from None
        except sqlite3.Error as error:
            log.error("%s: %s", self.store.path or "memory", error)
            raise unreadable(error) from None

    def begin(self, owner: str, id: str) -> UnderWay:
        """A response begins, and can be deleted from now on."""
        response = self._under_way[id] = UnderWay(owner, id)
        return response

    async def delete(self, owner: str, id: str) -> None:
        """Forget a response, also one that is still to be kept. Raises Rejection."""
        response = self._under_way.get(id)
        if response is None or response.owner != owner:
            await self.call("response", None, self.store.remove, owner, "response", id)
            return
        # Before it is looked for: whoever keeps it then sees this, or has kept it by now.
        response.deleted = True
        await self.call("response", None, self._removed, owner, id)

    def _removed(self, owner: str, id: str) -> None:
        with contextlib.suppress(Missing):
            self.store.remove(owner, "response", id)

    async def keep(self, owner: str, encoder: Encoder, under_way: UnderWay | None = None) -> None:
        """Keep a response that has ended, if the client wants that. What cannot be written is told to the log.

        `under_way`: the response, where it could be deleted meanwhile. Raises Rejection for an answer that cannot be
        added to its conversation: what is asked there next would be answered without it.
        """
        if not isinstance(encoder, ResponsesEncoder) or encoder.ended is None or self._store is None:
            return
        ended, response = encoder.ended, encoder.ended.response
        previous, store, conversation = response.previous_response_id or "", self._store, response.conversation

        def items() -> list[Item]:
            return [*stored(kept.listed(ended.input, response.id)), *stored(kept.answered(ended))]

        def add() -> None:
            if ended.store and not (under_way is not None and under_way.deleted):
                store.add(owner, "response", response.id, kept.body(ended), items(), previous)
                if under_way is not None and under_way.deleted:
                    self._removed(owner, response.id)

        try:
            if conversation is not None:
                append = partial(store.append, owner, conversation.id)
                failure = await self._failure("conversation", response.id, lambda: append(items()))
                # It may have been deleted while it was answered. Of one that has failed the client knows.
                answered = response.status in ("completed", "incomplete")
                if failure is not None and failure.kind is not Kind.NOT_FOUND and answered:
                    raise Rejection(structs.replace(failure, message=NOT_ADDED.format(failure.message)))
            await self._failure("response", response.id, add)
        finally:
            self._under_way.pop(response.id, None)

    async def _failure(self, what: str, response: str, write: Callable[[], None]) -> Failure | None:
        """Write, and tell the log what cannot be written of a response, and why."""
        try:
            await self.call(what, None, write)
        except Rejection as rejection:
            log.warning("%s is not stored: %s", response, rejection.failure.message)
            return rejection.failure
        return None
