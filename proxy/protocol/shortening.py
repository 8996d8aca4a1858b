"""A conversation that does not fit into the model's window, without its oldest turns."""

from __future__ import annotations

from typing import Final

import msgspec

from proxy.protocol.plan import Message, Plan, ToolResultBlock, size_of

# Of what there is, at most so much is left: each step asks upstream once more.
LEFT: Final = 0.7


def _begins(message: Message) -> bool:
    """A turn can begin with it: it is the user's, and answers no call."""
    return message.role == "user" and not any(isinstance(block, ToolResultBlock) for block in message.content)


def shorter(plan: Plan) -> Plan | None:
    """The plan with fewer of its oldest turns, each whole; None where there is but one left."""
    sizes = [size_of((message,)) for message in plan.messages]
    left = sum(sizes)
    bound = left * LEFT
    best: int | None = None
    for index, message in enumerate(plan.messages):
        if index and _begins(message):
            best = index
            if left <= bound:
                break
        left -= sizes[index]
    return None if best is None else msgspec.structs.replace(plan, messages=plan.messages[best:], caching=None)
