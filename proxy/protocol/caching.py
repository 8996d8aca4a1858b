"""Where the Messages API's prompt cache finds a conversation again.

It keeps what precedes a mark. Each mark of a later request looks for that at its own block and at the 19 before it, no
further; the CLI marks the end of the conversation. So where a request adds more (a dozen calls and their results)
nothing of the conversation is found, unless the end of what was asked before is marked once more. That is done where a
conversation is put in again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from msgspec.structs import replace

from proxy.protocol.plan import CacheLife, Caching, Message, Plan

# Blocks that a mark looks at, with its own.
LOOK_BACK: Final = 20
# Blocks that may be there and are not seen here: thinking, what the CLI says of its environment.
UNSEEN: Final = 3


def in_reach(messages: Sequence[Message]) -> bool:
    """Whether a mark at the end of these finds what ends before them."""
    return sum(len(message.content) for message in messages) + UNSEEN < LOOK_BACK


def remarked(plan: Plan, keys: Sequence[bytes], asked: Collection[bytes], ttl: CacheLife) -> Plan:
    """The plan with a mark at the end of what was asked before, where the mark at its own end does not find that.

    `keys`: of the plan's messages up to each; `asked`: those of conversations that were; where none of them is known it
    is taken to have been asked step by step. A mark of the client's stays. `ttl`: the CLI's own, for all marks.
    """
    places = range(len(plan.messages) - 3, -1, -2)
    place = next((place for place in places if keys[place] in asked), places[0] if places else None)
    given = plan.caching
    if place is None or in_reach(plan.messages[place + 1 :]) or (given is not None and given.mark is not None):
        return plan
    mark = place, len(plan.messages[place].content) - 1
    return replace(plan, caching=Caching(ttl if given is None else given.ttl, mark))
