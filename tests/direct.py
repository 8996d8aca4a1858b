"""Schemas and grammars judged in this process, for tests that have no hostile ones."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.cli.validator import Validator
from proxy.protocol import grammars
from proxy.protocol.checking import fault
from proxy.protocol.judging import Item, Verdicts, of_plan, rejection
from proxy.protocol.plan import Plan


class DirectValidator(Validator):
    async def judge(self, owner: str, items: Sequence[Item]) -> Verdicts:
        return Verdicts(tuple(grammars.fault(item) if item.syntax else fault(item) for item in items))


def check(plan: Plan) -> None:
    """Raises Rejection for a plan with a schema that cannot be used."""
    rejected = rejection(plan, Verdicts(tuple(map(fault, of_plan(plan)))))
    if rejected is not None:
        raise rejected
