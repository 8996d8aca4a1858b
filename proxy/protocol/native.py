"""What a plan asks of the Messages API in its own fields, and the same plan without them.

Whether a model takes such a field can only be tried: where it does not, a demanded call is asked for in words and
looked for in the answer, no thinking becomes little of it, and a sampling parameter has no effect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from msgspec.structs import replace

from proxy.protocol.plan import Plan, Sampling, ToolChoice

TOOL_CHOICE: Final = "tool_choice"
THINKING: Final = "thinking"
SAMPLING: Final = ("temperature", "top_p", "top_k")
FIELDS: Final = (TOOL_CHOICE, THINKING, *SAMPLING)
# The effort that stands for no thinking.
LEAST_EFFORT: Final = "low"


def asked(plan: Plan) -> frozenset[str]:
    """Which of `FIELDS` the plan uses in a way that a model may refuse."""
    found = {name for name in SAMPLING if getattr(plan.sampling, name) is not None}
    if plan.tool_choice is not None and plan.tool_choice.forced:
        found.add(TOOL_CHOICE)
    if not plan.thinking:
        found.add(THINKING)
    return frozenset(found)


def known(used: frozenset[str], refusals: Iterable[Collection[str]]) -> frozenset[str]:
    """Those of the fields used that are refused, as far as is known. `refusals`: fields that were refused together."""
    return frozenset[str]().union(*(refused for refused in refusals if used.issuperset(refused)))


def without(plan: Plan, fields: Collection[str]) -> Plan:
    """The plan with these fields emulated, or without effect."""
    choice, sampling = plan.tool_choice, plan.sampling
    if TOOL_CHOICE in fields and choice is not None and choice.forced:
        plan = replace(
            plan,
            system="\n\n".join(filter(None, (plan.system, plan.demand))) or None,
            tools=tuple(tool for tool in plan.tools if choice.name in (None, tool.name)),
            tool_choice=ToolChoice("auto", disable_parallel_tool_use=True)
            if choice.disable_parallel_tool_use
            else None,
        )
    if THINKING in fields and not plan.thinking:
        plan = replace(plan, thinking=True, effort=plan.effort or LEAST_EFFORT)
    left = {name: None if name in fields else getattr(sampling, name) for name in SAMPLING}
    return replace(plan, sampling=Sampling(**left))
