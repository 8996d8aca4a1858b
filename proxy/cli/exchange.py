"""One request's answer, from the pool and back to it: what a single conversation cannot decide alone.

- A conversation that was kept alive and turns out to be dead is begun again from the messages: no client sees it.
- An answer that must call a tool and does not is asked for again in the same conversation. It is held back until its
  first call, so that nothing of the first try reaches the client. If it still does not call, it goes out as it is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from proxy.cli.pool import Place, Pool, Served
from proxy.protocol.failures import Kind
from proxy.protocol.lines import RateLimitInfo
from proxy.protocol.plan import Message, Plan, TextBlock
from proxy.protocol.turn import Delta, Failed, Finished, Tokens, ToolCall

# How often an answer without the call that it must make is asked for again.
CALL_RETRIES: Final = 1
CALL_AGAIN: Final = Message("user", (TextBlock("Answer by calling a tool, as you have been told."),))


class Exchange:
    """See the module. `deltas` gives the answer; the attributes say, from its first delta on, how it came about.

    `uncalled`: the answer was to call a tool and does not.
    """

    def __init__(self, pool: Pool, plan: Plan, owner: str) -> None:
        self._pool = pool
        self._plan = plan
        self._owner = owner
        self.served: Served = "new"
        self.uncalled = False
        self.limits: RateLimitInfo | None = None

    async def deltas(self, patience: float) -> AsyncGenerator[list[Delta], None]:
        """The answer's deltas, some at a time; an empty list after every silence of `patience` seconds.

        Ends after `Finished` or `Failed`. Raises Rejection when there is no room or no child. Whatever way it is left,
        the conversation goes back to the pool.
        """
        place = await self._pool.open(self._plan, self._owner)
        self.served = place.served
        # What must call is held back until it does: `held`, while `holding`.
        holding, held, spent = self._plan.must_call, list[Delta](), Tokens()
        tries = CALL_RETRIES
        begun = keep = False
        try:
            await _ask(place, self._plan)
            while True:
                deltas = await place.conversation.deltas(patience)
                last = deltas[-1] if deltas else None
                if isinstance(last, Failed):
                    if place.served == "continued" and not begun and last.failure.kind is Kind.CLI_DIED:
                        self._pool.release(place)
                        place = await self._pool.open(self._plan, self._owner, fresh=True)
                        self.served = place.served
                        await _ask(place, self._plan)
                        continue
                    held = []
                elif holding:
                    held += deltas
                    if isinstance(last, Finished) and not any(isinstance(delta, ToolCall) for delta in held):
                        if tries and await place.conversation.settle():
                            tries -= 1
                            spent = _sum(spent, last.tokens)
                            held = []
                            place.conversation.ask_next(CALL_AGAIN)
                            continue
                        self.uncalled = True
                    elif not any(isinstance(delta, ToolCall) for delta in deltas):
                        continue
                    deltas, held, holding = held, [], False
                if isinstance(last, Finished):
                    deltas = [*deltas[:-1], Finished(last.reason, _sum(spent, last.tokens))]
                    # What was asked again is in the CLI's conversation, but not in the client's.
                    keep = tries == CALL_RETRIES
                if deltas and not begun:
                    begun = True
                    self._pool.first_delta(place)
                yield deltas
                if isinstance(last, Finished | Failed):
                    return
        finally:
            self.limits = place.conversation.limits_seen
            self._pool.release(place, keep=keep)


async def _ask(place: Place, plan: Plan) -> None:
    if place.served == "continued":
        place.conversation.ask_next(plan.messages[-1])
    else:
        await place.conversation.ask_new(plan)


def _sum(one: Tokens, other: Tokens) -> Tokens:
    return Tokens(
        one.input + other.input,
        one.cache_read + other.cache_read,
        one.cache_write + other.cache_write,
        one.output + other.output,
        one.reasoning + other.reasoning,
    )
