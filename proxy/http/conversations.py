"""`/v1/conversations`: items that requests go on from and add to, in the order in which they came."""

from __future__ import annotations

import time
import uuid
from typing import Final, Literal

import falcon
import falcon.asgi
import msgspec
from msgspec import Raw, Struct

from proxy.dialects.openai.responses import kept
from proxy.dialects.openai.responses.items import Talk
from proxy.dialects.openai.responses.reasoning import Seal
from proxy.dialects.openai.responses.request import checked_metadata
from proxy.http.body import read_json
from proxy.http.listing import Query, page, whole_list
from proxy.http.service import Service
from proxy.http.store import stored
from proxy.offload import in_thread
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import Failure, Kind, Rejection, bad_request
from proxy.store.lookup import not_found
from proxy.store.store import Item, TooLarge

MAX_ITEMS: Final = 20
TOO_LONG: Final = "The conversation has more than {} bytes (`CLAUDE_PROXY_MAX_BODY`): no request could go on from it."


class Conversation(Struct, frozen=True):
    id: str
    created_at: int
    metadata: dict[str, str]
    object: Literal["conversation"] = "conversation"


class DeletedConversation(Struct, frozen=True):
    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: Literal[True] = True


class NewConversation(Struct, frozen=True):
    """The body of `POST /v1/conversations`."""

    items: list[Raw] | None = None
    metadata: dict[str, str] | None = None


class ChangedConversation(Struct, frozen=True):
    """The body of `POST /v1/conversations/{id}`."""

    metadata: dict[str, str] | None = None


class NewItems(Struct, frozen=True):
    """The body of `POST /v1/conversations/{id}/items`."""

    items: list[Raw]


_conversation: Final = msgspec.json.Decoder(Conversation)
_new: Final = msgspec.json.Decoder(NewConversation)
_changed: Final = msgspec.json.Decoder(ChangedConversation)
_items: Final = msgspec.json.Decoder(NewItems)


class _Resource:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._kept = service.kept

    def _tell(self, resp: falcon.asgi.Response, told: Struct | bytes) -> None:
        resp.data = told if isinstance(told, bytes) else msgspec.json.encode(told)
        resp.content_type = falcon.MEDIA_JSON

    async def _get(self, owner: str, id: str) -> Conversation:
        store = self._kept.store
        return _conversation.decode(await self._kept.call("conversation", None, store.get, owner, "conversation", id))

    async def _all(self, owner: str, id: str) -> list[Item]:
        """Its items, as far as a request can go on from them all. Raises Rejection."""
        most, store = self._service.settings.max_body, self._kept.store

        def read() -> list[Item]:
            try:
                return store.items(owner, "conversation", id, most)
            except TooLarge:
                raise Rejection(Failure(Kind.BODY_TOO_LARGE, TOO_LONG.format(most), "items")) from None

        return await self._kept.call("conversation", None, read)

    def _checked(self, owner: str, past: list[Item], raws: list[Raw], resp: falcon.asgi.Response) -> list[Item]:
        """New items as they are kept, once it is known that requests can go on from them; what of them has no effect is
        named in `resp`. Raises Rejection. It may take long."""
        if len(raws) > MAX_ITEMS:
            raise bad_request(f"At most {MAX_ITEMS} items can be given at once.", "items")
        rules = self._service.rules_for(owner)
        talk = Talk(None, rules.lookup, Seal(rules.secret, owner))
        talk.take_all([item.data for item in past], "conversation")
        talk.ignored.clear()
        talk.past.clear()
        talk.take_all(raws, "items")
        if ignored := tuple(dict.fromkeys(name.replace("input.", "items.", 1) for name in (*talk.ignored, *talk.past))):
            resp.set_header("x-ignored-params", ", ".join(ignored))
        return stored(kept.listed(talk.sent, uuid.uuid4().hex))


class Conversations(_Resource):
    """`POST /v1/conversations`."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        store, owner = self._kept.store, req.context.owner
        asked = await read_json(
            req, self._service.settings.max_body, lambda body: decoded(_new, Raw(body.strip() or b"{}"), "")
        )
        made = Conversation(f"conv_{uuid.uuid4().hex}", int(time.time()), checked_metadata(asked.metadata))
        items = await in_thread(self._checked, owner, [], asked.items or [], resp)
        await self._kept.call(
            "conversation", None, store.add, owner, "conversation", made.id, msgspec.json.encode(made), items
        )
        self._tell(resp, made)


class OneConversation(_Resource):
    """`GET`, `POST` and `DELETE /v1/conversations/{id}`."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, conversation_id: str) -> None:
        self._tell(resp, await self._get(req.context.owner, conversation_id))

    on_head = on_get

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, conversation_id: str) -> None:
        owner = req.context.owner
        found = await self._get(owner, conversation_id)
        asked = await read_json(req, self._service.settings.max_body, lambda body: decoded(_changed, body, ""))
        changed = msgspec.structs.replace(found, metadata=checked_metadata(asked.metadata))
        update, body = self._kept.store.update, msgspec.json.encode(changed)
        await self._kept.call("conversation", None, update, owner, "conversation", conversation_id, body)
        self._tell(resp, changed)

    async def on_delete(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, conversation_id: str) -> None:
        remove = self._kept.store.remove
        await self._kept.call("conversation", None, remove, req.context.owner, "conversation", conversation_id)
        self._tell(resp, DeletedConversation(conversation_id))


class ConversationItems(_Resource):
    """`GET` and `POST /v1/conversations/{id}/items`."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, conversation_id: str) -> None:
        told = await page(Query(req), self._kept, req.context.owner, "conversation", conversation_id)
        self._tell(resp, told)

    on_head = on_get

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, conversation_id: str) -> None:
        owner = req.context.owner
        past = await self._all(owner, conversation_id)
        asked = await read_json(req, self._service.settings.max_body, lambda body: decoded(_items, body, ""))
        items = await in_thread(self._checked, owner, past, asked.items, resp)
        await self._kept.call("conversation", None, self._kept.store.append, owner, conversation_id, items)
        self._tell(resp, whole_list(items))


class OneConversationItem(_Resource):
    """`GET` and `DELETE /v1/conversations/{id}/items/{item_id}`."""

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, conversation_id: str, item_id: str
    ) -> None:
        query, read = Query(req), self._kept.store.item_of
        item = await self._kept.call("item", None, read, req.context.owner, "conversation", conversation_id, item_id)
        told = list(kept.shown([(item.data, item.part)], query.encrypted))
        if not told:
            raise not_found("item", item_id, None)
        self._tell(resp, bytes(told[0]))

    on_head = on_get

    async def on_delete(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, conversation_id: str, item_id: str
    ) -> None:
        owner = req.context.owner
        found = await self._get(owner, conversation_id)
        await self._kept.call("item", None, self._kept.store.remove_item, owner, conversation_id, item_id)
        self._tell(resp, found)
