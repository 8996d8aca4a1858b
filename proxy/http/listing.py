"""Lists of items, a page at a time, and the parameters that such resources take in their query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import falcon.asgi
from msgspec import Raw, Struct

from proxy.dialects.openai.responses.kept import shown
from proxy.dialects.openai.responses.request import ENCRYPTED
from proxy.http.store import Kept
from proxy.protocol.failures import bad_request
from proxy.store.store import Item, Kind, Part

MAX_PAGE: Final = 100
DEFAULT_PAGE: Final = 20
# Bytes of a page's items, but for a single one: it is made in one go, and kept for a client that does not take it.
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024
VISIBLE: Final[tuple[Part, ...]] = ("input", "output", "sealed")
INCLUDE: Final[Mapping[str, Any]] = {"type": "array", "items": {"type": "string"}}
PAGE: Final[Mapping[str, Mapping[str, Any]]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE},
    "order": {"enum": ["asc", "desc"], "default": "desc"},
    "after": {"type": "string"},
    "include": INCLUDE,
}


class ItemList(Struct, frozen=True):
    """A page. `first_id` and `last_id` are null where it is empty."""

    data: tuple[Raw, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class Query:
    """The query of a request. What is not known is ignored, as api.openai.com does."""

    def __init__(self, req: falcon.asgi.Request) -> None:
        self._params = req.params

    def text(self, name: str) -> str | None:
        value = self._params.get(name)
        if isinstance(value, list):
            raise bad_request(f"{name} must be given once.", name)
        return value

    def whole(self, name: str, least: int, most: int) -> int | None:
        text = self.text(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 18 and least <= int(text) <= most):
            raise bad_request(f"{name} must be a whole number between {least} and {most}.", name)
        return int(text)

    def switch(self, name: str) -> bool:
        text = self.text(name) or "false"
        if text.lower() not in ("true", "false", "1", "0"):
            raise bad_request(f"{name} must be true or false.", name)
        return text.lower() in ("true", "1")

    @property
    def encrypted(self) -> bool:
        """`include` asks for reasoning as it can be sent back."""
        asked: list[str] = []
        for name in ("include", "include[]"):
            value = self._params.get(name, [])
            asked += [value] if isinstance(value, str) else value
        return any(ENCRYPTED in one.split(",") for one in asked)


async def page(query: Query, kept: Kept, owner: str, kind: Kind, id: str, parts: Sequence[Part] = VISIBLE) -> ItemList:
    """The page of the entry's items of these parts, in their order, that is asked for. Raises Rejection."""
    limit = query.whole("limit", 1, MAX_PAGE) or DEFAULT_PAGE
    order = query.text("order") or "desc"
    if order not in ("asc", "desc"):
        raise bad_request("order must be one of asc, desc.", "order")
    after = query.text("after") or None
    try:
        items, more = await kept.call(
            kind, None, kept.store.page, owner, kind, id, parts, limit, newest_first=order == "desc", after=after,
            most=MAX_PAGE_BYTES,
        )  # fmt: skip
    except KeyError:
        raise bad_request(f"There is no item {(after or '')[:80]!r} in this list.", "after") from None
    return whole_list(items, more, query.encrypted)


def whole_list(items: Sequence[Item], more: bool = False, encrypted: bool = False) -> ItemList:
    """A list of these."""
    data = tuple(shown(((item.data, item.part) for item in items), encrypted))
    return ItemList(data, items[0].id if items else None, items[-1].id if items else None, more)
