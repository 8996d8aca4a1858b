"""What is asked about clients' JSON Schemas and grammars, and what the answer means to the request.

A schema of a kilobyte can take years to judge, and gigabytes; so can a grammar. So nothing is judged here, nor wherever
a request is decoded: `checking` and `grammars` do it, which run where time and memory are bounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import Enum
from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct

from proxy.protocol.failures import About, Failure, Kind, Rejection
from proxy.protocol.plan import Grammar, Plan, Tool

# A schema of a few lines can lead to 2^n schemas by its references: so many are looked at for one value at most, and so
# many a schema may have.
MAX_SCHEMAS: Final = 10_000
TOO_DEEP: Final = "It is nested too deeply."
BAD_PARAMETERS: Final = "The parameters of a tool must be a JSON Schema. {}"
BAD_FORMAT: Final = "This is not a JSON Schema that can be used: {}"


class Item(Struct, frozen=True, omit_defaults=True):
    """One schema or grammar to be judged.

    `task`: `tool`, whether a tool can have the schema; `format`, whether answers can be checked against it; `value`,
    whether `text` is JSON that fits it, as far as the schema can be used. With a `syntax` it is a grammar's, and
    `schema` its definition, as a JSON string: `grammar`, whether texts can be checked against it; `input`, whether
    `text` matches it, as far as it can be used.
    """

    task: Literal["tool", "format", "value", "grammar", "input"]
    schema: Raw
    text: str = ""
    syntax: Literal["", "lark", "regex"] = ""


class Limit(Enum):
    """Why there is no verdict. The first two are the schema's own doing; `BUSY`: others took the time."""

    TIME = "It cannot be validated in time."
    MEMORY = "It cannot be validated: it takes too much memory."
    BUSY = "It could not be validated in time: the server is busy."


class Verdicts(Struct, frozen=True):
    """`faults`: for each item in order, what is wrong with it, in a sentence; None when nothing is.

    With a `limit` there are fewer than items: the first without one is that which met the limit.
    """

    faults: tuple[str | None, ...]
    limit: Limit | None = None


def of_grammar(grammar: Grammar, text: str | None = None) -> Item:
    """Whether the grammar can be used, or whether this text matches it."""
    definition = Raw(msgspec.json.encode(grammar.definition))
    return Item("grammar" if text is None else "input", definition, text or "", grammar.syntax)


def grammars(plan: Plan) -> Iterator[tuple[Tool, Grammar]]:
    """The tools of a request that have a grammar."""
    for tool in plan.tools:
        if tool.grammar is not None:
            yield tool, tool.grammar


def without_grammars(plan: Plan, where: Collection[str]) -> Plan:
    """The plan whose grammars at these paths are told to the model, and not checked."""
    tools = [
        tool if tool.grammar is None or tool.grammar.where not in where else msgspec.structs.replace(tool, grammar=None)
        for tool in plan.tools
    ]
    return msgspec.structs.replace(plan, tools=tuple(tools))


def of_plan(plan: Plan) -> tuple[Item, ...]:
    """All schemas of a request, the answer's last."""
    tools = tuple(Item("tool", tool.schema) for tool in plan.tools)
    return tools if plan.schema is None else (*tools, Item("format", plan.schema.source))


def rejection(plan: Plan, verdicts: Verdicts) -> Rejection | None:
    """What a request with these verdicts on its schemas (`of_plan`) is told; None when all can be used."""
    faults = verdicts.faults if verdicts.limit is None else (*verdicts.faults, verdicts.limit.value)
    for index, words in enumerate(faults):
        if words is not None:
            return _rejection(plan, index, words, busy=words == Limit.BUSY.value)
    return None


def _rejection(plan: Plan, index: int, words: str, *, busy: bool) -> Rejection:
    about, text, where = About.SCHEMA, BAD_FORMAT, "" if plan.schema is None else plan.schema.where
    if index < len(plan.tools):
        about, text, where = About.TOOLS, BAD_PARAMETERS, plan.tools[index].where
    if busy:
        return Rejection(Failure(Kind.QUEUE_WAIT, words, where or None, about, retry_after=1.0))
    return Rejection(Failure(Kind.BAD_REQUEST, text.format(words), where or None, about))
