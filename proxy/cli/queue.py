"""The places for answers, and a fair queue for them.

- A free place goes to the owner (an API key) with the fewest answers under way; among equals the turn goes round. So
  one who sends hundreds of requests does not keep another waiting longer than one answer takes.
- The queue is bounded in length and in time. When it is full, a newcomer takes the place of the last request of the
  owner with the most in it, if that owner has more than the newcomer's; otherwise the newcomer is turned away.
- Whoever waits can be cancelled at any moment, without a place being lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque

from proxy.protocol.failures import Failure, Kind, Rejection


class Places:
    """`take` one, `give_back` it. `places`: how many there are; `most`: longest queue; `wait`: longest wait, s."""

    def __init__(self, places: int, most: int, wait: float) -> None:
        self._free = places
        self._most = most
        self._wait = wait
        self._taken: Counter[str] = Counter()
        # In the order in which they are next, as far as their answers under way are equally many.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._closed: Rejection | None = None

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    async def take(self, owner: str) -> None:
        """Wait for a place. Raises Rejection: no room in the queue, too long a wait, closed."""
        if self._closed is not None:
            raise self._closed
        if self._free:
            self._free -= 1
            self._taken[owner] += 1
            return
        self._make_room(owner)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            async with asyncio.timeout(self._wait):
                await turn
        except TimeoutError:
            if not turn.cancelled():
                turn.result()
                return
            words = f"No place became free within {self._wait:g} seconds."
            raise Rejection(Failure(Kind.QUEUE_WAIT, words, retry_after=2.0)) from None
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:
                self.give_back(owner)
            raise
        finally:
            self._leave(owner, turn)

    def give_back(self, owner: str) -> None:
        """Free a place of the owner's: the next in the queue has it at once."""
        self._taken[owner] -= 1
        self._free += 1
        while self._waiting:
            following = min(self._waiting, key=lambda each: self._taken[each])
            turn = self._waiting[following].popleft()
            self._waiting.move_to_end(following)
            if not self._waiting[following]:
                del self._waiting[following]
            if not turn.done():
                self._free -= 1
                self._taken[following] += 1
                turn.set_result(None)
                return

    def close(self, rejection: Rejection) -> None:
        """Turn away all who wait, and all who come."""
        self._closed = rejection
        for turns in self._waiting.values():
            for turn in turns:
                if not turn.done():
                    turn.set_exception(rejection)

    def _make_room(self, owner: str) -> None:
        if len(self) < self._most:
            return
        full = Rejection(Failure(Kind.QUEUE_FULL, "Too many requests are waiting for their turn.", retry_after=1.0))
        greedy = max(self._waiting, key=lambda each: len(self._waiting[each]), default=owner)
        if len(self._waiting.get(greedy, ())) <= len(self._waiting.get(owner, ())) + 1:
            raise full
        turn = self._waiting[greedy].pop()
        if not turn.done():
            turn.set_exception(full)

    def _leave(self, owner: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(owner)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[owner]
