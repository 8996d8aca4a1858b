"""What the CLI's two answers about its use of context come to: a count of tokens, and whether it is a true one."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from proxy.protocol.lines import ControlResult
from proxy.protocol.plan import Plan

# Categories of what a request holds; the others are room that is free or kept.
USED: Final = "used"


class Count(Struct, frozen=True):
    """The tokens of a request. `estimated`: by the CLI itself, since the Messages API did not count (all of) it.

    `model`: that answers, as upstream names it; `context_window`: how many tokens it can take in all.
    """

    tokens: int
    estimated: bool
    model: str
    context_window: int


def counted(full: ControlResult, guess: ControlResult) -> Count | None:
    """The count that `full` gives; None if it gives none.

    Where the Messages API does not count, the CLI puts its own guess in the place of the number, category by category,
    and says nothing of it: so `guess` is asked for as well, and a number that is the same in both is no count.
    """
    if full.totalTokens is None or not full.maxTokens:
        return None
    guessed = {part.name: part.tokens for part in guess.categories if part.kind == USED}
    estimated = any(part.tokens == guessed.get(part.name) for part in full.categories if part.kind == USED)
    return Count(full.totalTokens, estimated, full.model, full.maxTokens)


def countable(plan: Plan) -> Plan:
    """The plan without what changes no count, so that the same conversation is the same plan."""
    return Plan(
        plan.model,
        plan.system,
        plan.messages,
        plan.tools,
        thinking=plan.thinking,
        schema=plan.schema,
        search=plan.search,
    )
