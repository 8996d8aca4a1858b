"""One conversation on one child: made ready, given its past, asked, and its answer handed on as deltas.

A child serves one conversation, ever. `ask_new` begins it; `deltas` gives the answer piece by piece and ends with
exactly one `Finished` or `Failed`, whatever the child does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from msgspec import Struct

from proxy.cli.process import Child
from proxy.protocol import commands
from proxy.protocol.commands import SystemPromptMode
from proxy.protocol.failures import Failure, Kind
from proxy.protocol.lines import ControlReply, ControlResponse, Line, RateLimitInfo, Result
from proxy.protocol.plan import Message, Plan
from proxy.protocol.turn import Delta, Turn


class Limits(Struct, frozen=True):
    """Seconds. `idle`: longest silence; `total`: longest answer."""

    idle: float
    total: float


class Conversation:
    """See the module. `on_ready` is called once, when the child has answered its `initialize`."""

    def __init__(
        self, child: Child, limits: Limits, mode: SystemPromptMode, on_ready: Callable[[], None] = lambda: None
    ) -> None:
        self.child = child
        self.settled: Result | None = None
        self._limits = limits
        self._mode: SystemPromptMode = mode
        self._on_ready = on_ready
        self._turn = Turn()
        self._deadline = 0.0
        self._heard_at = 0.0
        self._early: list[Delta] = []
        self._taken_in = 0

    @property
    def limits_seen(self) -> RateLimitInfo | None:
        """The plan's state as last reported in this conversation."""
        return self._turn.limits

    @property
    def over(self) -> bool:
        """The answer has ended, well or not."""
        return self._turn.over

    async def ask_new(self, plan: Plan) -> None:
        """Begin the conversation that `plan` describes and ask its last message.

        Everything up to the first message of the user's goes in one write. Assistant messages of the past need no
        answer; after each of the user's the CLI's `result` is awaited, or it would change the order (cli notes 3).
        """
        self._begin_turn()
        writing = [commands.initialize(plan, self._mode), commands.settings(plan)]
        *past, last = plan.messages
        for message in past:
            writing.append(commands.past(message))
            if message.role == "user" and not await self._put_in(b"".join(writing)):
                return
            if message.role == "user":
                writing = []
        self.child.write(b"".join((*writing, commands.ask(last))))

    async def ask_next(self, message: Message) -> None:
        """Ask a further message in the conversation, after an answer that has settled."""
        self._begin_turn()
        self.child.write(commands.ask(message))

    def _begin_turn(self) -> None:
        limits = self._turn.limits
        self._turn = Turn()
        self._turn.limits = limits
        self.settled = None
        self._heard_at = asyncio.get_running_loop().time()
        self._deadline = self._heard_at + self._limits.total

    async def _put_in(self, data: bytes) -> bool:
        """Write past messages that end with one of the user's; True when the CLI has taken it in."""
        wanted = self._taken_in + 1
        self.child.write(data)
        while self._taken_in < wanted and not self._turn.over:
            self._early += await self._step()
        return not self._turn.over

    async def deltas(self, patience: float) -> list[Delta]:
        """The next deltas; none at all if nothing has come within `patience` seconds.

        Not to be called after the delta that ends the answer.
        """
        if self._early:
            early, self._early = self._early, []
            return early
        until = asyncio.get_running_loop().time() + patience
        while not self._turn.over:
            deltas = await self._step(until)
            if deltas or asyncio.get_running_loop().time() >= until:
                return deltas
        return []

    async def _step(self, until: float = math.inf) -> list[Delta]:
        """Read what there is and feed it to the turn. Returns at the loop time `until` at the latest."""
        loop = asyncio.get_running_loop()
        silent_at = self._heard_at + self._limits.idle
        try:
            async with asyncio.timeout_at(min(until, silent_at, self._deadline)):
                lines = await self.child.read()
        except TimeoutError:
            if loop.time() >= min(silent_at, self._deadline):
                return self._turn.fail(self._too_slow(self._deadline <= silent_at))
            return []
        self._heard_at = loop.time()
        if not lines:
            return self._turn.fail(await self._died())
        failure = self._attend(lines)
        deltas = self._turn.feed(lines)
        if failure is not None:
            deltas += self._turn.fail(failure)
        return deltas

    def _attend(self, lines: list[Line]) -> Failure | None:
        """What the lines mean beside the answer: replies to commands, past messages taken in, the end of the turn."""
        failure = None
        for line in lines:
            if isinstance(line, Result):
                if line.num_turns == 0 and not line.is_error:
                    self._taken_in += 1
                else:
                    self.settled = line
            elif isinstance(line, ControlResponse):
                failure = self._reply(line.response) or failure
        return failure

    def _reply(self, reply: ControlReply) -> Failure | None:
        if reply.request_id == commands.INITIALIZE_ID:
            self._on_ready()
        if reply.subtype == "success" or reply.request_id == commands.LIST_MODELS_ID:
            return None
        return Failure(Kind.CLI_CONFUSED, f"The CLI refused a command ({reply.request_id}): {reply.error}")

    def _too_slow(self, total: bool) -> Failure:
        if total:
            return Failure(Kind.TOOK_TOO_LONG, f"The answer took longer than {self._limits.total:g} seconds.")
        return Failure(Kind.CLI_SILENT, f"The CLI has been silent for {self._limits.idle:g} seconds.")

    async def _died(self) -> Failure:
        await asyncio.wait([self.child.exited], timeout=1)
        words = self.child.stderr.splitlines()
        said = f" It said: {words[-1][:300]}" if words else ""
        return Failure(Kind.CLI_DIED, f"The CLI ended before its answer did (exit code {self.child.exit_code}).{said}")
