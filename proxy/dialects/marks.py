"""Marks that clients set for the prompt cache: what precedes one is to be kept upstream.

The Messages API takes four in a request, all of one time to live, or longer ones before shorter. The CLI sets three: at
the ends of its own and the whole system prompt, and at the end of the conversation. So a client's marks there are met
without more; the last of its others that stands at a block of the user's takes the place that is left, and all marks of
the conversation get one time to live.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from proxy.protocol.plan import Block, CacheLife, Caching, Message

NAME: Final = "cache_control"


class CacheControl(Struct, frozen=True):
    """`ttl` None: five minutes."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Marks:
    """Collects a request's marks: `on` a block, or where they can, or cannot, be met."""

    def __init__(self) -> None:
        self._on: list[tuple[Block, CacheControl]] = []
        self._met: list[CacheControl] = []
        self._lost = False

    def on(self, block: Block | None, mark: CacheControl | None) -> None:
        """A mark on this block of the user's; None: on something that the CLI gets in another form."""
        if mark is not None and block is not None:
            self._on.append((block, mark))
        self._lost = self._lost or (mark is not None and block is None)

    def at_ends(self, marks: Sequence[CacheControl | None]) -> None:
        """Marks on all tools, or all parts of the system prompt, in order: the CLI has one at the end of them."""
        *others, last = marks or (None,)
        self._met += [] if last is None else [last]
        self._lost = self._lost or any(mark is not None for mark in others)

    def placed(self, messages: Sequence[Message], ttl: CacheLife | None) -> tuple[Caching | None, tuple[str, ...]]:
        """What comes of them in these messages, and the names of what comes of nothing.

        `ttl`: the time to live whatever the client says; None: as it says.
        """
        if not self._on and not self._met:
            return None, (NAME,) if self._lost else ()
        places = {
            id(block): (index, at)
            for index, message in enumerate(messages)
            for at, block in enumerate(message.content)
            if message.role == "user"
        }
        end = (len(messages) - 1, len(messages[-1].content) - 1)
        chosen: tuple[int, int] | None = None
        met, lost = list(self._met), self._lost
        for block, mark in reversed(self._on):
            place = places.get(id(block))
            if place is None or (place not in (end, chosen) and chosen is not None):
                lost = True
                continue
            met.append(mark)
            chosen = chosen if place == end else place
        life: CacheLife = ttl or ("1h" if any(mark.ttl == "1h" for mark in met) else "5m")
        names = [NAME] if lost else []
        names += [f"{NAME}.ttl"] if any(mark.ttl not in (None, life) for mark in met) else []
        caching = None if chosen is None and ttl is not None else Caching(life, chosen)
        return caching, tuple(names)
