"""How many answers may be under way at once, and a fair queue for the rest.

- A free slot goes to the owner (an API key) with the fewest answers under way; among equals the turn goes round. So
  one who sends hundreds of requests does not keep another waiting longer than one answer takes.
- The queue is bounded in length and in time. When it is full, a newcomer takes the place of the last request of the
  owner with the most in it, if that owner has more than the newcomer's; otherwise the newcomer is turned away.
- Whoever waits can be cancelled at any moment, without a slot being lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from typing import Final

from proxy.protocol.failures import Failure, Kind, Rejection

_FULL: Final = Failure(Kind.QUEUE_FULL, "Too many requests are waiting for their turn.", retry_after=1.0)


class FairLimiter:
    """`acquire` a slot, `release` it. `slots`: how many there are; `max_queue`: most that wait; `max_wait`: seconds."""

    def __init__(self, slots: int, max_queue: int, max_wait: float) -> None:
        self._free = slots
        self._max_queue = max_queue
        self._max_wait = max_wait
        self._held: Counter[str] = Counter()
        # In the order in which they are next, as far as their answers under way are equally many.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._closed: Rejection | None = None

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    async def acquire(self, owner: str) -> None:
        """Wait for a slot. Raises Rejection: no room in the queue, too long a wait, closed."""
        if self._closed is not None:
            raise self._closed
        if self._free:
            self._free -= 1
            self._held[owner] += 1
            return
        self._make_room(owner)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            async with asyncio.timeout(self._max_wait):
                await turn
        except TimeoutError:
            if not turn.cancelled():
                turn.result()
                return
            message = f"Timed out after {self._max_wait:g} s in the queue."
            raise Rejection(Failure(Kind.QUEUE_WAIT, message, retry_after=2.0)) from None
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:
                self.release(owner)
            raise
        finally:
            self._leave(owner, turn)

    def release(self, owner: str) -> None:
        """Free a slot of the owner's: the next in the queue has it at once."""
        self._held[owner] -= 1
        self._free += 1
        while self._waiting:
            following = min(self._waiting, key=lambda each: self._held[each])
            turn = self._waiting[following].popleft()
            self._waiting.move_to_end(following)
            if not self._waiting[following]:
                del self._waiting[following]
            if not turn.done():
                self._free -= 1
                self._held[following] += 1
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
        if len(self) < self._max_queue:
            return
        greedy = max(self._waiting, key=lambda each: len(self._waiting[each]), default=owner)
        if len(self._waiting.get(greedy, ())) <= len(self._waiting.get(owner, ())) + 1:
            # In no variable: an error and the frame that names it would keep each other, and the request with them.
            raise Rejection(_FULL)
        turn = self._waiting[greedy].pop()
        if not turn.done():
            turn.set_exception(Rejection(_FULL))

    def _leave(self, owner: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(owner)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[owner]
