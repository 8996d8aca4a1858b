"""One conversation on one child: the pipe and the time limits around a `Dialogue`.

A child serves one conversation, ever. `ask_new` begins it, `ask_next` goes on with it; `deltas` gives the answer piece
by piece and ends with exactly one `Finished` or `Failed`, whatever the child does.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from msgspec import Struct

from proxy.cli.process import Child
from proxy.offload import off_loop
from proxy.protocol.answer import Fold
from proxy.protocol.citations import Pages
from proxy.protocol.commands import SystemPromptMode
from proxy.protocol.counting import Count, counted
from proxy.protocol.deltas import Delta, Failed, Proposed, Tokens
from proxy.protocol.dialogue import Dialogue
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.protocol.lines import ControlResult, ModelUse, RateLimitInfo
from proxy.protocol.plan import Message, Plan, size_of, size_of_plan
from proxy.protocol.reports import ContextUse, Cost, ModelsUsed, PlanLimits, Ready

# The CLI says that it is done, or what it waits for, within milliseconds of an answer's end.
SETTLE_WAIT: Final = 5.0
# It tells the size of a model in as little.
WINDOW_WAIT: Final = 5.0
# A child whose stdout has closed has exited, or does so within this time.
EXIT_WAIT: Final = 1.0


class Timeouts(Struct, frozen=True):
    """Seconds. `idle`: longest silence; `total`: longest answer."""

    idle: float
    total: float


class Observer(Protocol):
    """Is told what the CLI says beside its answers, mostly after an answer has ended."""

    def paid(self, requests: Sequence[str], usd: float) -> None:
        """What these requests would have cost together at list price. `requests`: as `attribute_cost` was told."""

    def limits(self, info: RateLimitInfo) -> None:
        """The plan's state."""


class _Unobserved:
    def paid(self, requests: Sequence[str], usd: float) -> None:
        pass

    def limits(self, info: RateLimitInfo) -> None:
        pass


UNOBSERVED: Final = _Unobserved()


class Conversation:
    """See the module. `on_ready` is called once, when the child has answered its `initialize`."""

    def __init__(
        self,
        child: Child,
        timeouts: Timeouts,
        mode: SystemPromptMode,
        on_ready: Callable[[], None] = lambda: None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self.child = child
        # What the CLI has said of the models used here, by name.
        self.models_used: dict[str, ModelUse] = {}
        # What searches of the web have found here.
        self.pages = Pages()
        self._dialogue = Dialogue(mode)
        self._timeouts = timeouts
        self._on_ready = on_ready
        self._observer = observer
        self._deadline = 0.0
        self._heard_at = 0.0
        # What is put in, in tokens: as counted, and as guessed.
        self._context: dict[bool, ControlResult] = {}
        # Requests asked here since the CLI last said what all has cost.
        self._unpriced: tuple[str, ...] = ()

    @property
    def tokens(self) -> Tokens:
        """What the answer has used, as far as it has been said."""
        return self._dialogue.tokens

    @property
    def answer(self) -> Fold:
        """What the CLI has said in answer to the last message."""
        return self._dialogue.answer

    def attribute_cost(self, request: str) -> None:
        """The next message is asked for this request, which is to learn what it costs."""
        self._unpriced = (*self._unpriced, request)

    @property
    def sent_in_opening(self) -> bool:
        """The CLI sent what it was to keep to itself (`Dialogue`)."""
        return self._dialogue.sent_in_opening

    async def ask_new(self, plan: Plan, *, opening: bool = True) -> None:
        """Begin the conversation that `plan` describes and ask its last message (`Dialogue.begin`)."""
        await off_loop(size_of_plan(plan), partial(self._dialogue.begin, opening=opening), plan)
        self._asked()

    async def count(self, plan: Plan) -> Count:
        """How many tokens the conversation that `plan` describes has; nothing of it is answered. Raises Rejection.

        Nothing can be asked here any more.
        """
        await off_loop(size_of_plan(plan), self._dialogue.count, plan)
        await self._learn_context(guessed_only=False)
        count = counted(self._context[False], self._context[True])
        if count is None:
            raise Rejection(Failure(Kind.CLI_CONFUSED, "The CLI has counted, and does not say how many tokens."))
        return count

    async def context_window(self, model: str) -> int | None:
        """How many tokens this model takes in all; None if the CLI does not say. Raises Rejection.

        To be called only where nothing has been asked, and where nothing will be.
        """
        self._context.clear()
        self._dialogue.size(model)
        await self._learn_context(guessed_only=True)
        return self._context[True].maxTokens

    async def _learn_context(self, *, guessed_only: bool) -> None:
        self._asked()
        while True not in self._context or not (guessed_only or False in self._context):
            for delta in await self._step():
                if isinstance(delta, Failed):
                    raise Rejection(delta.failure)

    async def window_of_answer(self) -> int | None:
        """How many tokens the model takes in all that was asked last; None if the CLI does not say so at once."""
        self._context.clear()
        self._dialogue.ask_context()
        self._send()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WINDOW_WAIT):
                while True not in self._context and (lines := await self.child.read()):
                    self._dialogue.receive(lines)
                    self._send()
        usage = self._context.get(True)
        return None if usage is None else usage.maxTokens or None

    def can_ask(self, message: Message, before: Message | None = None) -> bool:
        """Whether `message` can follow here so that it reaches the model as it would in a new conversation.

        `before`: the answer that it follows, as the client has it (`Dialogue.can_ask`).
        """
        return self._dialogue.can_ask(message, before)

    async def ask_next(self, message: Message, before: Message | None = None) -> None:
        """Ask a further message, after an answer that has settled. `before`: as in `can_ask`."""
        await off_loop(size_of((message,)), self._dialogue.ask, message, before)
        self._asked()

    def proposal_judged(self, accepted: bool) -> None:
        """What was `Proposed` is the answer: the child is of no use any more. Or it is not, and the child goes on."""
        if accepted:
            # Told to end it would get to ask before it does.
            self.child.kill()
        else:
            self.child.resume()

    def _asked(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        self._deadline = self._heard_at + self._timeouts.total
        self._send()

    async def settle(self) -> bool:
        """Read on after an answer until the CLI waits for us; whether a further message can be asked then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_WAIT):
                while self._dialogue.can_settle and not self._dialogue.settled:
                    lines = await self.child.read()
                    if not lines:
                        return False
                    self._dialogue.receive(lines)
                    self._send()
        return self._dialogue.settled and self.child.alive

    async def learn_cost(self) -> None:
        """Have said what answers have cost whose calls have got no results; nothing can be asked here after that."""
        if not self._unpriced or not self._dialogue.interrupt():
            return
        self._send()
        # What it asks meanwhile it does not wait for (fixtures tools/price).
        while self._unpriced and (lines := await self.child.read()):
            self._dialogue.receive(lines)
            self._tell()

    async def deltas(self, timeout: float) -> list[Delta]:
        """The next deltas; none at all if nothing has come within `timeout` seconds.

        Not to be called after the delta that ends the answer.
        """
        until = asyncio.get_running_loop().time() + timeout
        while not self._dialogue.over:
            deltas = await self._step(until)
            if deltas or asyncio.get_running_loop().time() >= until:
                return deltas
        return []

    async def _step(self, until: float = math.inf) -> list[Delta]:
        """What there is to read, as deltas. Returns at the loop time `until` at the latest."""
        loop = asyncio.get_running_loop()
        silent_at = self._heard_at + self._timeouts.idle
        try:
            async with asyncio.timeout_at(min(until, silent_at, self._deadline)):
                lines = await self.child.read()
        except TimeoutError:
            if self.child.has_lines and loop.time() < self._deadline:
                # This process was stopped for a while, and not the CLI silent.
                lines = await self.child.read()
            elif loop.time() >= min(silent_at, self._deadline):
                return self._dialogue.fail(self._too_slow(self._deadline <= silent_at))
            else:
                return []
        self._heard_at = loop.time()
        if not lines:
            return self._dialogue.fail(await self._died())
        deltas = self._dialogue.receive(lines)
        if any(isinstance(delta, Proposed) for delta in deltas):
            # What it asks for next may not be needed.
            self.child.pause()
        self._send()
        if self._dialogue.goes_on:
            # What that costs would be nobody's. Told to end it would get to ask before it does.
            self.child.kill()
        return deltas

    def _send(self) -> None:
        """Write what is to be written, tell what is to be told."""
        for data in self._dialogue.to_send():
            self.child.write(data)
        self._tell()

    def _tell(self) -> None:
        for report in self._dialogue.reports():
            if isinstance(report, Ready):
                self._on_ready()
            elif isinstance(report, PlanLimits):
                self._observer.limits(report.info)
            elif isinstance(report, ModelsUsed):
                self.models_used |= report.models
            elif isinstance(report, ContextUse):
                self._context[report.guessed] = report.usage
            elif isinstance(report, Cost):
                unpriced, self._unpriced = self._unpriced, ()
                if unpriced:
                    self._observer.paid(unpriced, report.usd)

    def _too_slow(self, total: bool) -> Failure:
        if total:
            return Failure(Kind.TOOK_TOO_LONG, f"The answer took longer than {self._timeouts.total:g} seconds.")
        return Failure(Kind.CLI_SILENT, f"The CLI has been silent for {self._timeouts.idle:g} seconds.")

    async def _died(self) -> Failure:
        await asyncio.wait([self.child.exited], timeout=EXIT_WAIT)
        message = self.child.last_error_line
        said = f" It said: {message}" if message else ""
        return Failure(Kind.CLI_DIED, f"The CLI ended before its answer did (exit code {self.child.exit_code}).{said}")
