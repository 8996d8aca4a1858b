"""One conversation with the CLI, without the process: requests in, bytes for its stdin out; its lines in, deltas out.

`begin` or `ask`, then `receive` every line until the answer is over; write what `to_send` gives after each of these.
After an answer `settled` tells when the CLI waits for us, so that `ask` may follow if `can_ask` says so.

The user's messages of the past go in one by one: after each the CLI's acknowledgement is awaited, or it would change
the order (its messages of the user pass through a queue, those of the assistant do not). All up to the first of them
goes in one write.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from proxy.protocol import commands, kinds
from proxy.protocol.answer import Fold
from proxy.protocol.assembly import STRUCTURED_OUTPUT
from proxy.protocol.commands import SystemPromptMode
from proxy.protocol.deltas import COMPLETE, Delta, Finished, Reason, Tokens
from proxy.protocol.failures import About, Failure, Kind
from proxy.protocol.kinds import classify
from proxy.protocol.lines import (
    ControlReply,
    ControlRequest,
    ControlResponse,
    Line,
    ModelUse,
    RateLimitInfo,
    Result,
    System,
)
from proxy.protocol.plan import Message, Plan, Schema, ToolResultBlock
from proxy.protocol.translation import Heard, Translation
from proxy.protocol.turn import State, Turn


class Ready(Struct, frozen=True):
    """The CLI has answered its `initialize`."""


class Cost(Struct, frozen=True):
    """What the process has cost since it last said so, in US dollars at list price."""

    usd: float


class PlanLimits(Struct, frozen=True):
    """The plan's state."""

    info: RateLimitInfo


class ModelsUsed(Struct, frozen=True):
    """What the CLI says of the models that it has used here, by name."""

    models: Mapping[str, ModelUse]


Report = Ready | Cost | PlanLimits | ModelsUsed


class HeldCall(Struct, frozen=True):
    """A call that the CLI waits for: its control request, and the JSON-RPC request in it."""

    request_id: str
    rpc_id: int | str | None


class Dialogue:
    """See the module. `answer` folds what the turn under way has said."""

    def __init__(self, mode: SystemPromptMode = "replace") -> None:
        self.answer = Fold()
        self._mode: SystemPromptMode = mode
        self._turn = Turn()
        self._translation = Translation()
        self._heard = Heard(self._translation)
        self._schema: Schema | None = None
        self._reason: Reason | None = None
        self._out: list[bytes] = []
        self._history: deque[bytes] = deque()
        self._held: dict[str, HeldCall] = {}
        self._reports: list[Report] = []
        self._cost = 0.0

    @property
    def tokens(self) -> Tokens:
        """What the answer has used, as far as it has been said."""
        return self._turn.tokens

    @property
    def over(self) -> bool:
        """The answer has ended, well or not."""
        return self._turn.over

    @property
    def settled(self) -> bool:
        """The CLI waits for us: after an answer in words it has said that it is done, after calls it asks for each."""
        if self._reason is Reason.TOOL_USE:
            return self._turn.state is State.STOPPED and self.answer.call_ids == self._held.keys()
        return self._reason in COMPLETE and self._turn.state is State.IDLE

    @property
    def can_settle(self) -> bool:
        """`settled` may still come. Not so once the CLI goes on by itself: it answers a call that it cannot parse, say,
        or asks again after an answer that was cut short."""
        if self._reason not in COMPLETE and self._reason is not Reason.TOOL_USE:
            return False
        return self.settled or self._turn.state in (State.FINISHED, State.STOPPED)

    def begin(self, plan: Plan) -> None:
        """Begin the conversation that `plan` describes and ask its last message."""
        self._translation = Translation(plan.tools, plan.messages)
        plan = self._translation.plan(plan)
        self._schema = plan.schema
        self._begin_turn()
        chunk = [commands.initialize(plan, self._mode), commands.settings(plan)]
        *past, last = plan.messages
        for message in past:
            chunk.append(commands.past(message))
            if message.role == "user":
                self._history.append(b"".join(chunk))
                chunk = []
        self._history.append(b"".join((*chunk, commands.ask(last))))
        self._out.append(self._history.popleft())

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

    def ask(self, message: Message) -> None:
        """Ask a further message, after an answer that has settled: results answer the calls that the CLI holds."""
        held, self._held = self._held, {}
        self._begin_turn()
        if not held:
            self._out.append(commands.ask(message))
            return
        for block in message.content:
            if isinstance(block, ToolResultBlock):
                call = held[block.tool_use_id]
                self._out.append(commands.call_result(call.request_id, call.rpc_id, block))

    def receive(self, lines: Iterable[Line]) -> list[Delta]:
        """What the lines mean: deltas of the answer; what is to be sent and told beside it waits to be taken."""
        for line in lines:
            kind, payload = classify(line)
            failure = self._attend(line) if kind is kinds.OTHER else None
            if failure is not None:
                # What the CLI answers in spite of a command that it refused is made without it.
                self._fail(failure)
            self._turn.take(kind, payload)
            if kind is kinds.HISTORY_ACKNOWLEDGED:
                self._acknowledged()
            elif kind is kinds.RESULT or kind is kinds.ERROR_RESULT:
                self._ended(payload)
            elif kind is kinds.LIMITS:
                self._reports.append(PlanLimits(payload.rate_limit_info))
        return self._handed_on(self._turn.drain())

    def fail(self, failure: Failure) -> list[Delta]:
        """End the answer from outside (the process died, is silent, takes too long)."""
        return self._handed_on(self._turn.fail(failure))

    def to_send(self) -> bytes:
        """What is to be written to the CLI now; whole lines."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def reports(self) -> Sequence[Report]:
        """What the CLI has said beside its answers since the last call."""
        reports, self._reports = self._reports, []
        return reports

    def _begin_turn(self) -> None:
        limits = self._turn.limits
        self._turn = Turn(self._schema)
        self._turn.limits = limits
        self._heard = Heard(self._translation)
        self.answer = Fold()
        self._reason = None

    def _handed_on(self, deltas: list[Delta]) -> list[Delta]:
        deltas = self._heard.take(deltas)
        self.answer.take(deltas)
        if deltas and isinstance(deltas[-1], Finished):
            self._reason = deltas[-1].reason
        return deltas

    def _fail(self, failure: Failure) -> None:
        self._history.clear()
        self._turn.reject(failure)

    def _acknowledged(self) -> None:
        """The CLI has taken in a message of the past: the next may follow."""
        if self._history and not self._turn.over:
            self._out.append(self._history.popleft())

    def _ended(self, result: Result) -> None:
        self._reports.append(ModelsUsed(result.modelUsage))
        total = result.total_cost_usd
        # Less than before: it does not say (`sdk.d.ts`).
        if total is not None and total >= self._cost:
            self._reports.append(Cost(total - self._cost))
            self._cost = total

    def _attend(self, line: Line) -> Failure | None:
        """Replies to commands, what the CLI asks of us, the tools that it has."""
        if isinstance(line, ControlResponse):
            return self._reply(line.response)
        if isinstance(line, ControlRequest):
            self._asked(line)
        elif isinstance(line, System) and line.subtype == "init" and line.tools is not None:
            return self._check_tools(line.tools)
        return None

    def _reply(self, reply: ControlReply) -> Failure | None:
        if reply.request_id == commands.INITIALIZE_ID:
            self._reports.append(Ready())
        if reply.subtype == "success" or reply.request_id == commands.LIST_MODELS_ID:
            return None
        return Failure(Kind.CLI_CONFUSED, f"The CLI refused a command ({reply.request_id}): {reply.error}")

    def _asked(self, line: ControlRequest) -> None:
        """A tool call is held until the client's results come, the rest of MCP is answered at once."""
        message = line.request.message
        if line.request.subtype == "mcp_message" and message.method == "tools/call":
            self._held[message.params.meta.tool_use_id] = HeldCall(line.request_id, message.id)
        elif line.request.subtype == "mcp_message":
            self._out.append(commands.mcp_reply(line, self._translation.tools))

    def _check_tools(self, tools: Sequence[str]) -> Failure | None:
        """The CLI drops a schema or a tool that it cannot take without a word; its list of tools shows it."""
        if self._schema is not None and STRUCTURED_OUTPUT not in tools:
            message = "Claude Code does not take this schema, and does not say why: a simpler one may do."
            return Failure(Kind.BAD_REQUEST, message, about=About.SCHEMA)
        sent = (tool.name for tool in self._translation.tools)
        missing = next((self._translation.call_name(name) for name in sent if name not in tools), None)
        if missing is not None:
            message = (
                f"Claude Code does not take the tool {missing!r}, and does not say why: its name or its parameters."
            )
            return Failure(Kind.BAD_REQUEST, message, about=About.TOOLS)
        return None
