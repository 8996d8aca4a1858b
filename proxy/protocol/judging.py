"""What is asked of a judge of clients' JSON Schemas, and what it answers.

A schema of a kilobyte can take years to judge, and gigabytes. So nothing here judges: whoever needs a verdict awaits a
`Judge`, which bounds time and memory (`checking` is what it runs, in a process of its own).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Literal, Protocol

from msgspec import Raw, Struct


class Item(Struct, frozen=True):
    """One schema to be judged.

    `task`: `tool`, whether a tool can have the schema; `format`, whether answers can be checked against it; `value`,
    whether `text` is JSON that fits it, as far as the schema can be used.
    """

    task: Literal["tool", "format", "value"]
    schema: Raw
    text: str = ""


class Limit(Enum):
    """Why there is no verdict. The first two are the schema's own doing; `BUSY`: others took the time."""

    TIME = "It cannot be validated in time."
    MEMORY = "It cannot be validated: it takes too much memory."
    BUSY = "It could not be validated: the server is busy."


class Verdicts(Struct, frozen=True):
    """`faults`: for each item in order, what is wrong with it, in a sentence; None when nothing is.

    With a `limit` there are fewer than items: the first without one is that which met the limit.
    """

    faults: tuple[str | None, ...]
    limit: Limit | None = None


class Judge(Protocol):
    """Judges within bounds of time and memory, and never raises. `owner`: all of one owner's wait in one line."""

    async def judge(self, owner: str, items: Sequence[Item]) -> Verdicts: ...
