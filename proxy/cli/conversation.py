"""One conversation on one child: made ready, given its past, asked, and its answer handed on as deltas.

A child serves one conversation, ever. `ask_new` begins it, `ask_next` goes on with it; `deltas` gives the answer piece
by piece and ends with exactly one `Finished` or `Failed`, whatever the child does.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from proxy.cli.process import Child
from proxy.protocol import commands
from proxy.protocol.commands import SystemPromptMode
from proxy.protocol.failures import Failure, Kind
from proxy.protocol.fingerprint import Echo
from proxy.protocol.lines import (
    ControlReply,
    ControlRequest,
    ControlResponse,
    Line,
    MessageDelta,
    MessageStart,
    MessageStop,
    ModelUse,
    RateLimit,
    RateLimitInfo,
    Result,
    StreamEvent,
    System,
)
from proxy.protocol.plan import Message, Plan, Schema, Tool, ToolResultBlock
from proxy.protocol.turn import STRUCTURED_OUTPUT, Delta, Finished, Reason, Tokens, Turn

# The CLI says that it is done, or what it waits for, within milliseconds of an answer's end.
SETTLE_WAIT: Final = 5.0


class Limits(Struct, frozen=True):
    """Seconds. `idle`: longest silence; `total`: longest answer."""

    idle: float
    total: float


class Observer(Protocol):
    """Is told what the CLI says beside its answers, mostly after an answer has ended."""

    def paid(self, requests: Sequence[str], usd: float) -> None:
        """What these requests would have cost together at list price. `requests`: as `owe` was told, each time."""

    def limits(self, info: RateLimitInfo) -> None:
        """The plan's state."""


class _Unobserved:
    def paid(self, requests: Sequence[str], usd: float) -> None:
        pass

    def limits(self, info: RateLimitInfo) -> None:
        pass


UNOBSERVED: Final = _Unobserved()


class HeldCall(Struct, frozen=True):
    """A call that the CLI waits for: its control request, and the JSON-RPC request in it."""

    request_id: str
    rpc_id: int | str | None


class Conversation:
    """See the module. `on_ready` is called once, when the child has answered its `initialize`."""

    def __init__(
        self,
        child: Child,
        limits: Limits,
        mode: SystemPromptMode,
        on_ready: Callable[[], None] = lambda: None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self.child = child
        self.echo = Echo()
        # What the CLI has said of the models used here, by name.
        self.models_used: dict[str, ModelUse] = {}
        self._limits = limits
        self._mode: SystemPromptMode = mode
        self._on_ready = on_ready
        self._observer = observer
        self._turn = Turn()
        self._tools: tuple[Tool, ...] = ()
        self._schema: Schema | None = None
        self._reason: Reason | None = None
        # Whether the CLI's turn has ended well; None: it goes on.
        self._ended_well: bool | None = None
        self._held: dict[str, HeldCall] = {}
        self._message_over = False
        self._stopped = False
        self._diverged = False
        self._deadline = 0.0
        self._heard_at = 0.0
        self._early: list[Delta] = []
        self._taken_in = 0
        # Requests asked here since the CLI last said what all has cost, and what it said.
        self._owed: tuple[str, ...] = ()
        self._cost = 0.0

    @property
    def tokens(self) -> Tokens:
        """What the answer has used, as far as it has been said."""
        return self._turn.tokens

    def owe(self, request: str) -> None:
        """The next message is asked for this request, which is to learn what it costs."""
        self._owed = (*self._owed, request)

    async def ask_new(self, plan: Plan) -> None:
        """Begin the conversation that `plan` describes and ask its last message.

        Everything up to the first message of the user's goes in one write. Assistant messages of the past need no
        answer; after each of the user's the CLI's `result` is awaited, or it would change the order (cli notes 3).
        """
        self._tools = plan.tools
        self._schema = plan.schema
        self._begin_turn()
        writing = [commands.initialize(plan, self._mode), commands.settings(plan)]
        *past, last = plan.messages
        for message in past:
            writing.append(commands.past(message))
            if message.role == "user":
                if not await self._put_in(b"".join(writing)):
                    return
                writing = []
        self.child.write(b"".join((*writing, commands.ask(last))))

    def can_ask(self, message: Message) -> bool:
        """Whether `message` can follow here so that it reaches the model as it would in a new conversation."""
        results = tuple(block for block in message.content if isinstance(block, ToolResultBlock))
        if not self._held:
            return not results
        return (
            len(results) == len(message.content)
            and {block.tool_use_id for block in results} == set(self._held)
            and commands.can_answer(results)
        )

    def ask_next(self, message: Message) -> None:
        """Ask a further message, after an answer that has settled: results answer the calls that the CLI holds."""
        held, self._held = self._held, {}
        self._begin_turn()
        if not held:
            self.child.write(commands.ask(message))
            return
        answers = []
        for block in message.content:
            assert isinstance(block, ToolResultBlock)
            call = held[block.tool_use_id]
            answers.append(commands.call_result(call.request_id, call.rpc_id, block))
        self.child.write(b"".join(answers))

    async def settle(self) -> bool:
        """Read on after an answer until the CLI waits for us; whether a further message can be asked then.

        After an answer in words that is its `result`; after calls, the request for each of them. When the CLI goes on
        by itself instead (it answers a call that it cannot parse, say) its conversation is no longer the client's.
        """
        if self._reason not in (Reason.STOP, Reason.TOOL_CALLS):
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_WAIT):
                while not self._settled():
                    if self._diverged or self._ended_well is not None:
                        return False
                    lines = await self.child.read()
                    if not lines:
                        return False
                    self._attend(lines)
                    self._turn.feed(lines)
        return self._settled() and not self._diverged and self.child.alive

    def _settled(self) -> bool:
        if self._reason is Reason.TOOL_CALLS:
            return self._stopped and self.echo.call_ids == self._held.keys()
        return self._ended_well is True

    def _begin_turn(self) -> None:
        limits = self._turn.limits
        self._turn = Turn(self._schema)
        self._turn.limits = limits
        self.echo = Echo()
        self._reason = None
        self._ended_well = None
        self._message_over = False
        self._stopped = False
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
        # What the CLI answers in spite of a command that it refused is made without it.
        deltas = self._turn.feed(lines) if failure is None else self._turn.fail(failure)
        self.echo.take(deltas)
        if deltas and isinstance(deltas[-1], Finished):
            self._reason = deltas[-1].reason
        return deltas

    def _attend(self, lines: list[Line]) -> Failure | None:
        """What lines mean beside the answer: replies to commands, past messages taken in, calls, the turn's end."""
        failure = None
        for line in lines:
            if isinstance(line, StreamEvent):
                if isinstance(line.event, MessageStart):
                    self._diverged = self._message_over
                elif isinstance(line.event, MessageDelta) and line.event.delta.stop_reason is not None:
                    self._message_over = True
                elif isinstance(line.event, MessageStop):
                    self._stopped = self._message_over
            elif isinstance(line, Result):
                if line.num_turns == 0 and not line.is_error:
                    self._taken_in += 1
                else:
                    self._ended_well = not line.is_error
                    self.models_used |= line.modelUsage
                    self._bill(line.total_cost_usd)
            elif isinstance(line, ControlResponse):
                failure = self._reply(line.response) or failure
            elif isinstance(line, ControlRequest):
                self._asked(line)
            elif isinstance(line, RateLimit):
                self._observer.limits(line.rate_limit_info)
            elif isinstance(line, System) and line.subtype == "init" and line.tools is not None:
                failure = self._check_tools(line.tools) or failure
        return failure

    def _bill(self, total: float | None) -> None:
        """`total`: what all of this process has cost so far; less than before: it does not say (`sdk.d.ts`)."""
        if total is None or total < self._cost:
            return
        cost, self._cost = total - self._cost, total
        owed, self._owed = self._owed, ()
        if owed:
            self._observer.paid(owed, cost)

    def _check_tools(self, tools: list[str]) -> Failure | None:
        """The CLI drops a schema or a tool that it cannot take without a word; its list of tools shows it."""
        if self._schema is not None and STRUCTURED_OUTPUT not in tools:
            return Failure(
                Kind.BAD_REQUEST,
                "Claude Code does not take this schema, and does not say why: a simpler one may do.",
                "response_format.json_schema.schema",
            )
        missing = next((tool.name for tool in self._tools if tool.name not in tools), None)
        if missing is not None:
            return Failure(
                Kind.BAD_REQUEST,
                f"Claude Code does not take the tool {missing!r}, and does not say why: its name or its parameters.",
                "tools",
            )
        return None

    def _asked(self, line: ControlRequest) -> None:
        """The CLI asks: a tool call is held until the client's results come, the rest of MCP is answered at once."""
        message = line.request.message
        if line.request.subtype == "mcp_message" and message.method == "tools/call":
            self._held[message.params.meta.tool_use_id] = HeldCall(line.request_id, message.id)
        elif line.request.subtype == "mcp_message":
            self.child.write(commands.mcp_reply(line, self._tools))

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
        words = self.child.last_error_line
        said = f" It said: {words}" if words else ""
        return Failure(Kind.CLI_DIED, f"The CLI ended before its answer did (exit code {self.child.exit_code}).{said}")
