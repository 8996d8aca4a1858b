"""Conversations between two requests, each with its process, by the fingerprint of what it holds.

The next request that extends exactly one of them goes on there. Losing one costs time and tokens only; why one is there
no more is remembered for a while, to be told with the request that would have gone on with it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, Literal

from proxy.cli.capacity import worth
from proxy.cli.conversation import Conversation
from proxy.protocol.plan import Message

# Why a request with earlier turns could not go on in a process that holds them. `expired`: kept as long as the settings
# allow. `evicted`: its memory was needed. `continued`: another request has gone on with it (a fork, an answer asked for
# anew). `ended`: its process was gone, or had gone on by itself. `unfit`: what follows cannot be put to a living
# process (a large tool result, say), or would lose the prompt cache there (many calls at once). `settings`: it was here
# with others (another model or tools, say). `edited`: a beginning of it was here, or its last answer (of a client that
# leaves out what is old). `unknown`: it was never here, or before a restart.
NotContinued = Literal["", "expired", "evicted", "continued", "ended", "unfit", "settings", "edited", "unknown"]
MAX_REMEMBERED: Final = 4096


class _Parked:
    """`keys`: by which it is found. `settling` tells whether it can go on; `tokens`: its size; `since`: loop time.
    `exited` is called when its child exits, until it is parked no more."""

    __slots__ = ("conversation", "exited", "keys", "settling", "since", "tokens")

    def __init__(
        self,
        keys: Sequence[bytes],
        conversation: Conversation,
        settling: asyncio.Task[bool],
        since: float,
        exited: Callable[[object], None],
    ) -> None:
        self.keys = keys
        self.conversation = conversation
        self.exited = exited
        self.settling = settling
        self.since = since
        self.tokens = conversation.tokens.prompt + conversation.tokens.output


class ParkedConversations:
    """`park` one, `take` it for its next message. `end` is called with each that is given up, and its settling if
    that is under way.

    `settled` is called with each when its CLI waits for the next message.
    """

    def __init__(
        self,
        end: Callable[[Conversation, asyncio.Task[bool] | None], None],
        settled: Callable[[Conversation], None] = lambda _: None,
    ) -> None:
        self._end = end
        self._settled = settled
        self._parked: dict[bytes, _Parked] = {}
        # The further fingerprints of those, each with the first of the same conversation.
        self._further: dict[bytes, bytes] = {}
        self._gone: OrderedDict[bytes, NotContinued] = OrderedDict()
        # Fingerprints of messages that were here, whatever the settings.
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        # Those that a request is to go on with as soon as they have settled.
        self._taken: set[_Parked] = set()

    def __len__(self) -> int:
        return len(self._parked)

    def __iter__(self) -> Iterator[Conversation]:
        return (parked.conversation for parked in self._parked.values())

    def park(self, keys: Sequence[bytes], conversation: Conversation) -> None:
        """Keep it under the fingerprints of all that it holds, of which there is one at least. What is there already
        gives way."""
        loop = asyncio.get_running_loop()
        key = keys[0]

        def drop(_: object) -> None:
            if self._parked.get(key) is parked:
                self._give_up(key, "ended")

        def settled(task: asyncio.Task[bool]) -> None:
            self._settled(conversation)
            if task.cancelled() or not task.result():
                drop(task)

        parked = _Parked(keys, conversation, loop.create_task(conversation.settle()), loop.time(), drop)
        for each in keys:
            self._give_up(each, "evicted")
        self._parked[key] = parked
        self._further |= dict.fromkeys(keys[1:], key)
        parked.settling.add_done_callback(settled)
        conversation.child.exited.add_done_callback(drop)

    async def take(self, key: bytes, message: Message, before: Message | None = None) -> Conversation | None:
        """The conversation that `message` can go on, if there is one. It is parked no more then.

        `before`: the answer that it follows, as the client has it.
        """
        parked = self._removed(key)
        if parked is None:
            return None
        self._taken.add(parked)
        why: NotContinued = "continued"
        try:
            if not await parked.settling or not parked.conversation.child.alive:
                why = "ended"
            elif not parked.conversation.can_ask(message, before):
                why = "unfit"
        except asyncio.CancelledError:
            why = "ended"
            raise
        finally:
            self._taken.remove(parked)
            self._remember(parked.keys, why)
            if why != "continued":
                self._end(parked.conversation, None)
        return parked.conversation if why == "continued" else None

    @property
    def known(self) -> Collection[bytes]:
        """Fingerprints of messages that were put to a conversation or answered there, whatever the settings."""
        return self._seen.keys()

    def seen(self, *past: bytes) -> None:
        """These messages have been put to a conversation, or answered there. `past`: fingerprints without settings."""
        self._seen |= dict.fromkeys(past)
        while len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)

    def why_not(self, key: bytes, past: Sequence[bytes]) -> NotContinued:
        """Why there is none with this fingerprint. `past`: that of its last answer alone, and those of its messages up
        to each, without settings."""
        if key in self._gone:
            return self._gone[key]
        if past[-1] in self._seen:
            return "settings"
        return "edited" if any(each in self._seen for each in past) else "unknown"

    def expire(self, max_age: float) -> None:
        """Give up those that have been parked longer."""
        now = asyncio.get_running_loop().time()
        for key in [key for key, parked in self._parked.items() if now - parked.since > max_age]:
            self._give_up(key, "expired")

    def trim(self, size: int) -> None:
        """Give up those that are worth least until `size` are left."""
        now = asyncio.get_running_loop().time()
        while len(self._parked) > size:
            key = min(self._parked, key=lambda key: worth(self._parked[key].tokens, now - self._parked[key].since))
            self._give_up(key, "evicted")

    def close(self) -> tuple[Conversation, ...]:
        """Give all up. Those that a request waits for are returned: their processes are the caller's to end."""
        for key in tuple(self._parked):
            self._give_up(key, "ended")
        return tuple(parked.conversation for parked in self._taken)

    def _removed(self, key: bytes) -> _Parked | None:
        """The one under this key, which is parked no more."""
        parked = self._parked.pop(self._further.get(key, key), None)
        if parked is not None:
            for each in parked.keys[1:]:
                del self._further[each]
            # A conversation is parked after each of its answers.
            parked.conversation.child.exited.remove_done_callback(parked.exited)
        return parked

    def _give_up(self, key: bytes, why: NotContinued) -> None:
        parked = self._removed(key)
        if parked is not None:
            self._remember(parked.keys, why)
            self._end(parked.conversation, parked.settling)

    def _remember(self, keys: Sequence[bytes], why: NotContinued) -> None:
        for key in keys:
            self._gone[key] = why
            self._gone.move_to_end(key)
        while len(self._gone) > MAX_REMEMBERED:
            self._gone.popitem(last=False)
