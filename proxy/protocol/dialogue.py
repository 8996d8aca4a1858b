"""One conversation with the CLI, without the process: requests in, bytes for its stdin out; its lines in, deltas out.

`begin` or `ask`, then `receive` every line until the answer is over; write what `to_send` gives after each of these.
`count` puts a conversation in and has its tokens counted instead: the reports tell, and nothing may be asked after it.
After an answer `settled` tells when the CLI waits for us, so that `ask` may follow if `can_ask` says so.

The user's messages of the past go in one by one: after each the CLI's acknowledgement is awaited, or it would change
the order (its messages of the user pass through a queue, those of the assistant do not). All up to the first of them
goes in one write.

The first of them is asked, while the CLI is told that nothing is short enough to be sent: it adds what it adds to the
first question of a conversation (what it says of its environment), sends nothing, and says so. So that stands where it
stood when the conversation was young, and upstream finds the conversation in its prompt cache, however it was put to
the CLI before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from proxy.protocol import commands, kinds, replies, tool_list
from proxy.protocol.answer import Fold
from proxy.protocol.caching import in_reach
from proxy.protocol.calls import Written, digest
from proxy.protocol.commands import SystemPromptMode
from proxy.protocol.deltas import COMPLETE, Delta, Finished, Reason, Tokens
from proxy.protocol.failures import Failure, Kind
from proxy.protocol.kinds import classify
from proxy.protocol.lines import (
    Assistant,
    ControlReply,
    ControlRequest,
    ControlResult,
    Line,
    Result,
)
from proxy.protocol.pieces import PIECE
from proxy.protocol.plan import Message, Plan, Schema, Search, ToolResultBlock, has_thinking
from proxy.protocol.reports import ContextUse, Cost, ModelsUsed, PlanLimits, Ready, Report
from proxy.protocol.translation import Heard, Translation
from proxy.protocol.turn import State, Turn
from proxy.protocol.web_search import WEB_SEARCH

# Not to be seen for the CLI either.
NO_BREAK: Final = "\ufeff"
# What the CLI's result says of a question that was too long to be sent.
BLOCKED: Final = "blocking_limit"


class HeldCall(Struct, frozen=True):
    """A call that the CLI waits for: its control request, the JSON-RPC request in it, the digest of its arguments."""

    request_id: str
    rpc_id: int | str | None
    arguments: bytes


class _Unattributed(Struct, frozen=True):
    """An answer of the past with thinking of which nobody says who wrote it: the model in use, which the CLI tells."""

    index: int
    message: Message


class Dialogue:
    """See the module. `answer` folds what the turn under way has said.

    `sent_in_opening`: the CLI has sent what it was to keep to itself, and the dialogue has failed for that.
    """

    def __init__(self, mode: SystemPromptMode = "replace") -> None:
        self.answer = Fold()
        self._mode: SystemPromptMode = mode
        self._turn = Turn()
        self._translation = Translation()
        self._heard = Heard(self._translation)
        self._written = Written()
        self._schema: Schema | None = None
        self._search: Search | None = None
        self._reason: Reason | None = None
        self._out: list[bytes] = []
        # Lines for what is still to be put in, up to a message of the user's each; the last ones ask the question.
        self._chunks: deque[list[bytes | _Unattributed]] = deque()
        self._opening = False
        self._refused: Assistant | None = None
        self._model = ""
        self.sent_in_opening = False
        self._held: dict[str, HeldCall] = {}
        self._reports: list[Report] = []
        self._cost = 0.0
        # The CLI does not keep the answer.
        self._forgotten = False
        # It has told the end of its turn.
        self._done = False

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

    @property
    def goes_on(self) -> bool:
        """The answer is over, and the CLI would ask again by itself: it does so where one was cut short, refused, lost
        on its way, or says nothing that can be seen, when it has answered a call itself, or misses one."""
        if not self.over or self._done:
            return False
        if self._reason is Reason.TOOL_USE:
            return not (self.answer.call_ids and self._written.handed_on)
        return self._reason not in COMPLETE or not self.answer.text.replace(NO_BREAK, "").strip()

    def begin(self, plan: Plan, *, opening: bool = True) -> None:
        """Begin the conversation that `plan` describes and ask its last message.

        `opening`: the first of the user's messages of the past goes in as the module says; else like the others.
        """
        plan = self._translated(plan)
        *past, question = plan.messages
        self._opening = opening and any(message.role == "user" for message in past)
        self._put_in_all(plan, past, commands.ask(question, len(past), plan.caching))

    def count(self, plan: Plan) -> None:
        """Begin the conversation that `plan` describes, and have counted what it holds instead of asking anything."""
        plan = replace(self._translated(plan), caching=None)
        self._put_in_all(plan, plan.messages, commands.count() + commands.estimate())

    def size(self, model: str) -> None:
        """Have said how much of context this model takes; for a process with no conversation in it."""
        self._out.append(commands.choose(model) + commands.estimate())

    def ask_context(self) -> None:
        """Have said how much of context the model of the conversation takes."""
        self._out.append(commands.estimate())

    def interrupt(self) -> bool:
        """End a turn in which the CLI waits for results, and so says what all has cost; whether it does."""
        waits = bool(self._held) and self.settled
        self._out += [commands.interrupt()] if waits else []
        return waits

    def _translated(self, plan: Plan) -> Plan:
        self._translation = Translation(plan.tools, plan.messages)
        plan = self._translation.plan(plan)
        self._schema = plan.schema
        self._search = plan.search
        self._begin_turn()
        return plan

    def _put_in_all(self, plan: Plan, past: Sequence[Message], end: bytes) -> None:
        """Settings and past, then `end`: the first of it now, the rest as the CLI takes it in."""
        chunk: list[bytes | _Unattributed] = [
            commands.initialize(plan, self._mode), commands.settings(plan, blocked=self._opening)
        ]  # fmt: skip
        first = True
        for index, message in enumerate(past):
            if message.role == "user":
                line = commands.ask if self._opening and first else commands.past
                chunk.append(line(message, index, plan.caching))
                self._chunks.append(chunk)
                chunk, first = [], False
            elif message.written_by is None and has_thinking(message):
                chunk.append(_Unattributed(index, message))
            else:
                chunk.append(commands.past(message, index))
        self._chunks.append([*chunk, end])
        self._put_in()

    def _put_in(self) -> None:
        """The past up to the next message of the user's, or all that is left of it and the question."""
        for line in self._chunks.popleft() if self._chunks else ():
            if isinstance(line, _Unattributed):
                line = commands.past(line.message, line.index, model=self._model)
            self._out.append(line)

    def can_ask(self, message: Message, before: Message | None = None) -> bool:
        """Whether `message` can follow here so that it reaches the model as it would in a new conversation, and the
        prompt cache finds what was asked before.

        `before`: the answer that it follows, as the client has it, whose calls are those here by their place.
        """
        if not self._written.may_be(before) or not in_reach((message,) if before is None else (before, message)):
            return False
        message = self._written.of_own(message, before)
        results = tuple(block for block in message.content if isinstance(block, ToolResultBlock))
        if not self._held:
            return not results and not self._forgotten
        return (
            len(results) == len(message.content)
            and {block.tool_use_id for block in results} == set(self._held)
            and all(self._written.same(call_id, call.arguments) for call_id, call in self._held.items())
            and replies.can_answer(results)
        )

    def ask(self, message: Message, before: Message | None = None) -> None:
        """Ask a further message, after an answer that has settled: results answer the calls that the CLI holds.

        `before`: as in `can_ask`.
        """
        message = self._written.of_own(message, before)
        held, self._held = self._held, {}
        self._begin_turn()
        if not held:
            self._out.append(commands.ask(message))
            return
        for block in message.content:
            if isinstance(block, ToolResultBlock):
                call = held[block.tool_use_id]
                self._out.append(replies.call_result(call.request_id, call.rpc_id, block))

    def receive(self, lines: Iterable[Line]) -> list[Delta]:
        """What the lines mean: deltas of the answer; what is to be sent and told beside it waits to be taken."""
        for line in lines:
            kind, payload = classify(line)
            if self._opening and self._opened(kind, payload):
                continue
            failure = self._attend(kind, payload)
            if failure is not None:
                # What the CLI answers in spite of a command that it refused is made without it.
                self._fail(failure)
            self._turn.take(kind, payload)
            if kind is kinds.HISTORY_ACKNOWLEDGED:
                self._acknowledged()
            elif kind is kinds.RESULT or kind is kinds.ERROR_RESULT:
                self._done = True
                self._ended(payload)
            elif kind is kinds.LIMITS:
                self._reports.append(PlanLimits(payload.rate_limit_info))
        return self._handed_on(self._turn.drain())

    def fail(self, failure: Failure) -> list[Delta]:
        """End the answer from outside (the process died, is silent, takes too long)."""
        return self._handed_on(self._turn.fail(failure))

    def to_send(self) -> list[bytes]:
        """What is to be written to the CLI now: whole lines, at once where they are not large."""
        lines, self._out = list(filter(None, self._out)), []
        return [b"".join(lines)] if lines and sum(map(len, lines)) <= PIECE else lines

    def reports(self) -> Sequence[Report]:
        """What the CLI has said beside its answers since the last call."""
        reports, self._reports = self._reports, []
        return reports

    def _begin_turn(self) -> None:
        limits = self._turn.limits
        self._turn = Turn(self._schema, self._search)
        self._turn.limits = limits
        self._heard = Heard(self._translation)
        self._written = Written(tool.name for tool in self._translation.tools)
        self.answer = Fold()
        self._reason = None
        self._done = False

    def _handed_on(self, deltas: list[Delta]) -> list[Delta]:
        self._written.take(deltas)
        deltas = self._heard.take(deltas)
        self.answer.take(deltas)
        if deltas and isinstance(deltas[-1], Finished):
            self._reason = deltas[-1].reason
            self._forgotten = commands.is_placeholder(self.answer.text) and not self.answer.call_ids
        return deltas

    def _fail(self, failure: Failure) -> None:
        self._chunks.clear()
        self._turn.reject(failure)

    def _opened(self, kind: kinds.Kind[Any], payload: Any) -> bool:
        """Whether that was all the line means: it belongs to the first message, which is not to be sent."""
        if kind is kinds.CLI_MESSAGE:
            self._refused = payload
            return True
        if kind is kinds.MESSAGE_START or kind is kinds.RESULT:
            self._opening = False
            self.sent_in_opening = True
            self._fail(
                Failure(Kind.CLI_CONFUSED, "The CLI sent a message of the past, which it was to keep to itself.")
            )
            return True
        if kind is not kinds.ERROR_RESULT:
            return False
        self._opening = False
        if payload.terminal_reason != BLOCKED:
            if self._refused is not None:
                self._turn.take(kinds.CLI_MESSAGE, self._refused)
            return False
        self._out.append(commands.unblock())
        self._put_in()
        return True

    def _acknowledged(self) -> None:
        """The CLI has taken in a message of the past: the next may follow."""
        if not self._turn.over:
            self._put_in()

    def _ended(self, result: Result) -> None:
        self._reports.append(ModelsUsed(result.modelUsage))
        total = result.total_cost_usd
        # Less than before: it does not say (`sdk.d.ts`).
        if total is not None and total >= self._cost:
            self._reports.append(Cost(total - self._cost))
            self._cost = total

    def _attend(self, kind: kinds.Kind[Any], payload: Any) -> Failure | None:
        """Replies to commands, what the CLI asks of us, the tools that it has."""
        if kind is kinds.CONTROL_RESPONSE:
            return self._reply(payload.response)
        if kind is kinds.CONTROL_REQUEST:
            self._asked(payload)
        elif kind is kinds.INIT and payload.tools is not None:
            self._model = payload.model
            searches, in_form = self._search is not None, self._schema is not None
            return tool_list.fault(payload.tools, self._translation, searches=searches, in_form=in_form)
        return None

    def _reply(self, reply: ControlReply) -> Failure | None:
        if reply.request_id == commands.INITIALIZE_ID:
            self._reports.append(Ready())
        if reply.request_id in (commands.COUNT_ID, commands.ESTIMATE_ID) and reply.subtype == "success":
            usage = reply.response or ControlResult()
            self._reports.append(ContextUse(reply.request_id == commands.ESTIMATE_ID, usage))
        if reply.subtype == "success" or reply.request_id == commands.LIST_MODELS_ID:
            return None
        return Failure(Kind.CLI_CONFUSED, f"The CLI refused a command ({reply.request_id}): {reply.error}")

    def _asked(self, line: ControlRequest) -> None:
        """A call is held until the client's results come. Nothing of the CLI's own may run but a planned search."""
        if line.request.subtype == "hook_callback":
            asked = line.request.input
            may = asked.tool_name == WEB_SEARCH and self._turn.may_search(asked.tool_use_id)
            self._out.append(replies.search_reply(line, self._search if may else None))
            return
        message = line.request.message
        if line.request.subtype == "mcp_message" and message.method == "tools/call":
            self._held[message.params.meta.tool_use_id] = HeldCall(
                line.request_id, message.id, digest(bytes(message.params.arguments))
            )
        else:
            known = line.request.subtype == "mcp_message"
            self._out.append(replies.mcp_reply(line, self._translation.tools) if known else replies.refusal(line))
