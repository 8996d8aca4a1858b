"""One request's answer, from the pool and back to it: what a single conversation cannot decide alone.

- A conversation that was kept alive and turns out to be dead is begun again from the messages: no client sees it. So
  is one whose CLI sends a message of the past that it was to keep to itself.
- An answer that must call a tool and does not, or that does not fit its schema, is asked for again in the same
  conversation, once. It is held back meanwhile, so that nothing of the first try reaches the client: until its first
  call, or to its end if it is not streamed. If it is no better then, an answer without a call goes out as it is; one
  that does not fit becomes a refusal, or a failure if some of it has gone out.
- A call whose text does not match the grammar of its tool (`inputs`) is asked for again likewise, by its result, which
  is an error. If it is no better then it goes out as it is.
- JSON that the model has written as prose is the answer if it fits: it ends there, although the CLI asks again.
- A request that is refused upstream and uses fields which a model may refuse is asked for once more without them. If
  it is answered then, the refusal is remembered: the fields are left out of later requests from the start.
- A stop sequence ends the answer and its conversation.
- What the answer cites of a search is found where its text is final.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final

import msgspec

from proxy.cli.conversation import Conversation
from proxy.cli.inputs import Inputs, question
from proxy.cli.parked import NotContinued
from proxy.cli.pool import Lease, Pool, Served
from proxy.cli.silences import with_silences
from proxy.protocol import native
from proxy.protocol.citations import Citing
from proxy.protocol.deltas import (
    COMPLETE,
    Delta,
    Failed,
    Finished,
    Proposed,
    Reason,
    Refusal,
    Retracted,
    Searching,
    Started,
    Text,
    Tokens,
    ToolCall,
    last_of,
    standing,
)
from proxy.protocol.failures import SHUTTING_DOWN, Failure, Kind, Rejection, bad_request, with_window
from proxy.protocol.judging import Item
from proxy.protocol.plan import Message, Plan, TextBlock
from proxy.protocol.stop import StopCutter

# How often an answer that is not what it must be is asked for again.
REPAIRS: Final = 1
CALL_AGAIN: Final = "Answer by calling a tool, as you have been told."
FIT_AGAIN: Final = "Your answer does not fit the required schema. {} Give it again, complete and valid."
MISFIT: Final = "The model's answer does not fit the schema. {}"


class Exchange:
    """See the module. `deltas` gives the answer; the attributes say, from its first delta on, how it came about.

    `tool_choice_unmet`: the answer was to call a tool and does not. `invalid_calls`: how many of its calls do not fit
    the tool's schema or grammar; they are handed on.
    `unvalidated`: whether it or its calls fit their schemas could not be found out within the bounds for that.
    `attempts`: how often a conversation was asked; each time costs.
    `emulated`: fields of the Messages API (`native.FIELDS`) that were asked for and not used.
    `request`: who is told the cost (`Observer`). `to_disk`: as in `Pool.release`.
    """

    def __init__(
        self,
        pool: Pool,
        plan: Plan,
        owner: str,
        *,
        streamed: bool = True,
        stop: Sequence[str] = (),
        request: str = "",
        to_disk: bool = False,
    ) -> None:
        self._pool = pool
        self.emulated = native.known(native.asked(plan), pool.refusals.of(plan.model))
        self._plan = native.without(plan, self.emulated)
        # Fields that a refused request had, until it is known whether it was for them.
        self._suspects = frozenset[str]()
        self._owner = owner
        self._streamed = streamed
        self._request = request
        self._to_disk = to_disk
        self._cutter = StopCutter(stop) if stop and plan.schema is None else None
        self._citing: Citing | None = None
        self._inputs = Inputs(self._plan)
        self._repairs = REPAIRS
        self._spent = Tokens()
        self._held: list[Delta] = []
        self._begun = False
        self._opened: Lease | None = None
        self._let_through_at = 0.0
        # An answer, and what is wrong with it.
        self._judged: tuple[str, str | None] | None = None
        self.served: Served = "new"
        self.not_continued: NotContinued = ""
        self.tool_choice_unmet = False
        self.invalid_calls = 0
        self.unvalidated = False
        self.attempts = 0

    @property
    def tokens(self) -> Tokens:
        """What has been used, as far as it has been said; all of it when the answer is over, however it ended."""
        return self._spent if self._opened is None else self._spent + self._opened.conversation.tokens

    async def deltas(self, timeout: float) -> AsyncGenerator[list[Delta], None]:
        """The answer's deltas, some at a time; an empty list after every silence of `timeout` seconds.

        Ends after `Finished` or `Failed`. Whatever way it is left, the conversation goes back to the pool.
        """
        keep = False
        clock = asyncio.get_running_loop().time
        told_at = clock()
        begin: Callable[[], Coroutine[Any, Any, None]] | None = self._begin
        try:
            while True:
                if begin is not None:
                    async with aclosing(with_silences(begin(), timeout)) as silences:
                        async for _ in silences:
                            yield []
                    begin = None
                    told_at = clock()
                lease = self._opened
                assert lease is not None
                deltas = await lease.conversation.deltas(timeout)
                if self._refused(deltas):
                    begin = self._begin_plainly
                    continue
                if self._lost(lease, deltas):
                    begin = self._begin_again
                    continue
                if deltas and not isinstance(deltas[-1], Failed):
                    self._answered()
                if any(isinstance(delta, Proposed) for delta in deltas):
                    deltas, settled = await self._settled(deltas)
                    lease.conversation.proposal_judged(settled)
                    if settled:
                        yield deltas
                        return
                if deltas and not self._begun:
                    self._pool.first_delta(lease)
                held_back = bool(deltas)
                deltas = await self._inputs.take(deltas, self._faults)
                again = await self._fault(lease.conversation, deltas)
                if again is not None and await lease.conversation.settle():
                    deltas = deltas[:-1] if isinstance(again, Message) else []
                    await self._ask_again(lease.conversation, again)
                elif isinstance(last_of(deltas), Finished):
                    deltas = [*deltas[:-1], *self._inputs.let_go(), deltas[-1]]
                ready = None if held_back and not deltas else await self._ready(lease.conversation, deltas)
                if ready is None:
                    # What is held back is a silence, too.
                    if clock() - told_at < timeout:
                        continue
                    ready = []
                told_at = clock()
                last = last_of(ready)
                # What was asked again, or cut, is not in the client's conversation as it is in the CLI's.
                keep = isinstance(last, Finished) and self._repairs == REPAIRS and not self._stopped
                self._begun = self._begun or bool(ready)
                yield ready if self._citing is None else self._citing.take(ready)
                if isinstance(last, Finished | Failed):
                    return
        except Rejection as rejection:
            yield [Failed(rejection.failure)]
        finally:
            if self._opened is not None:
                self._give_back(self._opened, keep=keep)

    @property
    def _stopped(self) -> bool:
        return self._cutter is not None and self._cutter.stopped

    async def _begin(self) -> None:
        """Get a conversation and ask it."""
        if not self._droppable(self.emulated):
            name = next(field for field in native.SAMPLING if field in self.emulated)
            raise bad_request(f"This model takes no `{name}`, and the server is set to refuse such.", name)
        self._let_through_at = self._pool.plan_limits.check(self._plan.model, self._request)
        self._opened = await self._pool.open(self._plan, self._owner)
        await self._ask(self._opened)

    async def _begin_again(self) -> None:
        """Put the messages into another conversation, instead of the one that has died."""
        assert self._opened is not None
        self._forget()
        lost = self._opened.conversation
        self._opened = await self._pool.renew(self._opened)
        self._spent += lost.tokens
        await self._ask(self._opened)

    def _forget(self) -> None:
        """What is held back is no part of the answer any more."""
        self._held = []
        self._inputs = Inputs(self._plan)

    def _refused(self, deltas: Sequence[Delta]) -> bool:
        """The request was refused upstream, and it may have been for a field that it can do without."""
        last = last_of(deltas)
        refused = isinstance(last, Failed) and last.failure.kind is Kind.REFUSED_UPSTREAM
        return (
            refused and not self._begun and bool(native.asked(self._plan)) and self._droppable(native.asked(self._plan))
        )

    def _droppable(self, fields: frozenset[str]) -> bool:
        """Whether the client can do without: not without effect where it is to be told of that with an error."""
        return not (self._pool.strict and fields.intersection(native.SAMPLING))

    async def _begin_plainly(self) -> None:
        """Ask without the fields that may have been refused."""
        assert self._opened is not None
        self._forget()
        self._suspects = native.asked(self._plan)
        self.emulated |= self._suspects
        self._plan = native.without(self._plan, self._suspects)
        self._opened = await self._pool.renew(
            msgspec.structs.replace(self._opened, plan=native.without(self._opened.plan, self._suspects))
        )
        await self._ask(self._opened)

    def _answered(self) -> None:
        """There is an answer: the plan is not used up, and what was left out of its request had been refused."""
        self._pool.plan_limits.answered(self._plan.model, self._let_through_at)
        if self._suspects:
            self._pool.refusals.learn(self._plan.model, self._suspects)
            self._suspects = frozenset()

    async def _ask(self, lease: Lease) -> None:
        self.served = lease.served
        self.not_continued = lease.not_continued
        self._attribute(lease.conversation)
        self._citing = None if self._plan.search is None else Citing(lease.conversation.pages)
        if lease.served == "continued":
            await lease.conversation.ask_next(*self._plan.ending)
        else:
            await lease.conversation.ask_new(lease.plan, opening=self._pool.keeps_first)

    def _give_back(self, lease: Lease, *, keep: bool = False) -> None:
        self._spent += lease.conversation.tokens
        self._opened = None
        self._pool.release(lease, keep=keep, to_disk=self._to_disk)

    def _attribute(self, conversation: Conversation) -> None:
        self.attempts += 1
        conversation.attribute_cost(self._request)

    def _lost(self, lease: Lease, deltas: Sequence[Delta]) -> bool:
        """A conversation that was kept alive has died since, or one could not be put in as this CLI's are, before
        anything of its answer went out."""
        last = last_of(deltas)
        if not isinstance(last, Failed) or self._begun:
            return False
        if lease.conversation.sent_in_opening:
            self._pool.keeps_first = False
            return True
        return last.failure.kind is Kind.CLI_DIED and lease.served == "continued"

    async def _fault(self, conversation: Conversation, deltas: Sequence[Delta]) -> Message | str | None:
        """What gets a better answer, when this one has ended, is not as it must be, and can be repaired."""
        last = last_of(deltas)
        results = self._inputs.results(last) if self._repairs else None
        if results is not None:
            return results
        if not isinstance(last, Finished) or last.reason not in COMPLETE or self._begun or not self._repairs:
            return None
        if self._plan.must_call and not conversation.answer.called:
            return CALL_AGAIN
        wrong = await self._misfit(conversation, (*self._held, *deltas))
        return None if wrong is None else FIT_AGAIN.format(wrong)

    async def _ask_again(self, conversation: Conversation, asked: Message | str) -> None:
        """`asked`: the results of calls, which the answer goes on from; or words about an answer that is given up."""
        self._repairs -= 1
        self._spent += conversation.tokens
        self._attribute(conversation)
        if isinstance(asked, Message):
            self._inputs.ask_again()
        else:
            self._held, asked = [], Message("user", (TextBlock(asked),))
        await conversation.ask_next(asked)

    async def _misfit(self, conversation: Conversation, deltas: Iterable[Delta]) -> str | None:
        schema = self._plan.schema
        if schema is None or any(isinstance(delta, Refusal) for delta in deltas):
            return None
        text = conversation.answer.text
        if self._judged is None or self._judged[0] != text:
            (fault,) = await self._faults(Item("value", schema.source, text))
            self._judged = (text, fault)
        return self._judged[1]

    async def _settled(self, deltas: list[Delta]) -> tuple[list[Delta], bool]:
        """The deltas without what is proposed; and whether that has been the answer, which ends with it.

        The CLI waits meanwhile: it would ask again.
        """
        schema = self._plan.schema
        for at, proposed in enumerate(deltas):
            if not isinstance(proposed, Proposed) or schema is None or self._plan.must_call:
                continue
            if self._begun and any(isinstance(delta, Retracted) for delta in deltas[:at]):
                break
            before = standing((*self._held, *deltas[:at]))
            faults = await self._faults(*(Item("value", schema.source, text) for text in proposed.texts))
            if None in faults:
                text = [] if proposed.handed_on else [Text(proposed.texts[faults.index(None)])]
                return [*before, *text, Finished(Reason.END_TURN, self._spent + proposed.tokens)], True
            if self._begun and proposed.handed_on:
                return [Failed(Failure(Kind.SCHEMA_UNMET, MISFIT.format(faults[0])))], True
        return [delta for delta in deltas if not isinstance(delta, Proposed)], False

    async def _faults(self, *items: Item) -> tuple[str | None, ...]:
        """What is wrong with each; nothing where that cannot be found out."""
        verdicts = await self._pool.validator.judge(self._owner, items)
        missing = len(items) - len(verdicts.faults)
        self.unvalidated = self.unvalidated or missing > 0
        return (*verdicts.faults, *(None,) * missing)

    async def _ready(self, conversation: Conversation, deltas: list[Delta]) -> list[Delta] | None:
        """What of the answer can go out now; None while it is held back."""
        last = last_of(deltas)
        if isinstance(last, Failed):
            if self._pool.closing and last.failure.kind is Kind.CLI_DIED:
                last = Failed(SHUTTING_DOWN)
            self._pool.plan_limits.failed(self._plan.model, last.failure)
            if last.failure.kind is Kind.PROMPT_TOO_LONG:
                window = await conversation.window_of_answer()
                last = last if window is None else Failed(with_window(last.failure, window))
            if not self._begun:
                return [last]
            deltas = [*deltas[:-1], last]
            return self._cut(conversation, deltas)
        if any(isinstance(delta, Retracted) for delta in deltas):
            if self._begun:
                return [Failed(Failure(Kind.SCHEMA_UNMET, MISFIT.format("It was asked for again.")))]
            deltas, self._held = standing((*self._held, *deltas)), []
        if isinstance(last, Finished):
            return await self._end(conversation, deltas, last)
        if self._held_back(deltas):
            self._held += deltas
            return None if deltas else []
        deltas, self._held = self._held + deltas, []
        return self._cut(conversation, deltas)

    def _held_back(self, deltas: Sequence[Delta]) -> bool:
        if self._begun:
            return False
        if self._plan.must_call:
            return not any(isinstance(delta, ToolCall | Searching) for delta in deltas)
        return self._plan.schema is not None and not self._streamed

    async def _end(self, conversation: Conversation, deltas: list[Delta], last: Finished) -> list[Delta]:
        """The end of the answer, with all that was held back."""
        deltas, self._held = self._held + deltas, []
        finished = Finished(last.reason, self._spent + last.tokens, last.stop_sequence, last.details, last.remarks)
        tools = {tool.name: tool for tool in self._plan.tools}
        calls = conversation.answer.answer().calls
        faults = await self._faults(*(question(tools.get(call.name), call.arguments) for call in calls))
        self.invalid_calls = len(faults) - faults.count(None)
        if last.reason in COMPLETE:
            self.tool_choice_unmet = self._plan.must_call and not conversation.answer.called
            wrong = await self._misfit(conversation, deltas)
            if wrong is not None and self._begun:
                return [Failed(Failure(Kind.SCHEMA_UNMET, MISFIT.format(wrong)))]
            if wrong is not None:
                started = [delta for delta in deltas if isinstance(delta, Started)][:1]
                return [*started, Refusal(MISFIT.format(wrong)), finished]
        deltas[-1] = finished
        return self._cut(conversation, deltas)

    def _cut(self, conversation: Conversation, deltas: list[Delta]) -> list[Delta]:
        """The deltas up to a stop sequence in a text; arguments of calls are left alone."""
        cutter = self._cutter
        if cutter is None:
            return deltas
        out: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, Failed):
                # What was held back may have been the beginning of a stop sequence.
                return [*out, delta]
            text = cutter.feed(delta.text) if isinstance(delta, Text) else cutter.close()
            if text:
                out.append(Text(text))
            if cutter.stopped:
                return [*out, Finished(Reason.STOP_SEQUENCE, self.tokens, cutter.matched)]
            if not isinstance(delta, Text):
                out.append(delta)
        return out
