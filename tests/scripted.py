"""Conversations that say what a test has written down for them, and the pool that opens them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from proxy.cli.conversation import Conversation
from proxy.cli.pool import Lease, Pool, Served
from proxy.cli.process import Launch
from proxy.protocol.answer import Fold
from proxy.protocol.deltas import Arguments, Delta, Failed, Finished, Reason, Started, Text, Tokens, ToolCall, ToolEnd
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.protocol.plan import Message, Plan
from tests.conftest import base_settings
from tests.direct import DirectValidator

USED = Tokens(10, 7, 5, 12, 3)
NO_TOKENS = Tokens()
BEGUN = Started("claude-opus-5-5")
DIED = Failed(Failure(Kind.CLI_DIED, "gone"))
OVERLOADED = Failed(Failure(Kind.OVERLOADED, "busy"))
# A silence, as long as the patience of whoever asks.
SILENCE: list[Delta] = []
Script = Sequence[list[Delta]]


def end(reason: Reason = Reason.END_TURN) -> Finished:
    return Finished(reason, USED)


def says(*texts: str) -> list[Delta]:
    return [BEGUN, *map(Text, texts), end()]


def calls(arguments: str = '{"city":"Rome"}', name: str = "weather") -> list[Delta]:
    return [BEGUN, ToolCall(0, "toolu_1", name), Arguments(0, arguments), ToolEnd(0), end(Reason.TOOL_USE)]


class Scripted(Conversation):
    """Says one script for each time it is asked. `settles`: whether it can be asked again.

    A silence of it takes no time: who asks with a long patience gets the silences of the script and no others.
    """

    def __init__(self, *scripts: Script, settles: bool = True) -> None:
        self.folded = Fold()
        # Whether it sends what it was to keep to itself, and whether it was told to keep it.
        self.leaks = False
        self.openings: list[bool] = []
        self.asked: list[Any] = []
        self.owed: list[str] = []
        self.judged: list[bool] = []
        self.window: int | None = None
        self._scripts = list(scripts)
        self._batches: list[list[Delta]] = []
        self._settles = settles
        self._used = NO_TOKENS

    @property
    def answer(self) -> Fold:
        return self.folded

    @property
    def tokens(self) -> Tokens:
        return self._used

    def attribute_cost(self, request: str) -> None:
        self.owed.append(request)

    @property
    def sent_in_opening(self) -> bool:
        return self.leaks

    def proposal_judged(self, accepted: bool) -> None:
        self.judged.append(accepted)

    async def ask_new(self, plan: Plan, *, opening: bool = True) -> None:
        self.openings.append(opening)
        self._ask(plan)

    async def ask_next(self, message: Message, before: Message | None = None) -> None:
        self._ask(message)

    def _ask(self, what: Any) -> None:
        self.asked.append(what)
        self.folded = Fold()
        self._used = NO_TOKENS
        self._batches = [list(batch) for batch in self._scripts.pop(0)]

    async def settle(self) -> bool:
        return self._settles

    async def window_of_answer(self) -> int | None:
        return self.window

    async def deltas(self, patience: float) -> list[Delta]:
        if not self._batches:
            await asyncio.Event().wait()
        batch = self._batches.pop(0)
        await asyncio.sleep(0)
        if batch and batch != [DIED]:
            self._used = USED
        self.folded.take(batch)
        return batch


class ScriptedPool(Pool):
    """Opens the conversations that it is given, in their order, and notes what comes back."""

    def __init__(self, *conversations: Scripted, served: Sequence[Served] = ("new",)) -> None:
        super().__init__(base_settings(), Launch(("none",), {}, "/"), validator=DirectValidator())
        self.conversations = list(conversations)
        self.back: list[tuple[Conversation, bool]] = []
        self.opened: list[Conversation] = []
        self.renewed: list[Conversation] = []
        self._served = list(served)

    async def open(self, plan: Plan, owner: str) -> Lease:
        if not self.conversations:
            raise Rejection(Failure(Kind.QUEUE_FULL, "No room."))
        self.opened.append(self.conversations.pop(0))
        return Lease(self.opened[-1], self._served.pop(0), b"", plan)

    async def renew(self, lease: Lease) -> Lease:
        new = await self.open(lease.plan, "")
        self.renewed.append(lease.conversation)
        self.release(lease)
        return new

    def release(self, lease: Lease, *, keep: bool = False, to_disk: bool = False) -> None:
        if all(found is not lease.conversation for found, _ in self.back):
            self.back.append((lease.conversation, keep))

    @property
    def kept(self) -> list[bool]:
        """For each conversation, in the order in which they came back; all that were opened have."""
        assert {id(one) for one, _ in self.back} == {id(one) for one in self.opened}
        return [keep for _, keep in self.back]
