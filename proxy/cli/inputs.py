"""Calls of tools whose text has a grammar: they are held back until it is known whether it matches.

What comes before such a call goes out as it comes; from its beginning on all is held back until its text is complete
and has been judged, which takes a millisecond. If it matches, that goes out. If it does not, nothing more does until
the answer has ended: the model can be told then, by results of its calls that are errors, and calls again. Not so once
another call has gone out, which the client would take for one of the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from proxy.protocol.deltas import (
    Arguments,
    BlockBreak,
    Delta,
    Failed,
    Finished,
    Reason,
    Retracted,
    Started,
    Text,
    ToolCall,
    ToolEnd,
)
from proxy.protocol.judging import Item, grammars, of_grammar
from proxy.protocol.plan import Grammar, Message, Plan, TextBlock, Tool, ToolResultBlock
from proxy.protocol.schema import FREE
from proxy.protocol.tools import custom_input

CALL_MATCHING: Final = (
    "The call was not made: its input does not match the grammar of the tool. {} Call the tool again, with an input "
    "all of which matches."
)
CALL_ALL: Final = "The call was not made, because another of the same message could not be. Make it again with that."


# What is wrong with each item; nothing where that cannot be found out.
Judge = Callable[..., Awaitable[Sequence[str | None]]]


class Inputs:
    """See the module."""

    def __init__(self, plan: Plan) -> None:
        self._grammars = {tool.name: grammar for tool, grammar in grammars(plan)}
        self._held: list[Delta] = []
        # The texts under way, by the indices of their calls, and all calls that are held back.
        self._texts: dict[int, tuple[ToolCall, Grammar, list[str]]] = {}
        self._calls: list[ToolCall] = []
        # What is wrong with texts, by the ids of their calls.
        self._wrong: dict[str, str] = {}
        self._asked_again = False
        # Text has gone out, of which the next text is no continuation.
        self._said = False

    async def take(self, deltas: list[Delta], judge: Judge) -> list[Delta]:
        """What of these, and of what was held back, can go out; what is held back at the answer's end stays so."""
        if self._asked_again:
            return [one for delta in deltas for one in self._of_second(delta)]
        if not self._grammars:
            return deltas
        out: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, Failed):
                self._held.clear()
            if isinstance(delta, Retracted):
                out += self.let_go()
            if isinstance(delta, Failed | Finished | Retracted):
                out.append(delta)
                continue
            await self._look(delta, judge)
            if isinstance(delta, ToolCall) and not self._texts and not self._held:
                # It goes out: from then on none can be asked for again.
                self._grammars = {}
            if not self._texts and not self._held:
                self._said = self._said or isinstance(delta, Text)
                out.append(delta)
                continue
            self._held.append(delta)
            if not self._texts and not self._wrong:
                out += self.let_go()
                self._grammars = {}
        return out

    def _of_second(self, delta: Delta) -> Iterator[Delta]:
        """A delta of the answer that was asked for again: text of it is a paragraph of its own."""
        if isinstance(delta, Started):
            return
        if self._said and isinstance(delta, Text):
            self._said = False
            yield BlockBreak()
            yield Text("\n\n")
        yield delta

    async def _look(self, delta: Delta, judge: Judge) -> None:
        if isinstance(delta, ToolCall):
            grammar = self._grammars.get(delta.name)
            if grammar is not None:
                self._texts[delta.tool_index] = delta, grammar, []
            self._calls.append(delta)
        elif isinstance(delta, Arguments) and delta.tool_index in self._texts:
            self._texts[delta.tool_index][2].append(delta.text)
        elif isinstance(delta, ToolEnd) and delta.tool_index in self._texts:
            call, grammar, pieces = self._texts.pop(delta.tool_index)
            (wrong,) = await judge(of_grammar(grammar, custom_input("".join(pieces))))
            if wrong is not None:
                self._wrong[call.id] = wrong

    def let_go(self) -> list[Delta]:
        """What is held back, however it was judged."""
        held, self._held = self._held, []
        self._texts.clear()
        self._wrong.clear()
        return held

    def results(self, last: Delta | None) -> Message | None:
        """What the model is to be told at this end of the answer, if it is to call again."""
        if not self._wrong or not isinstance(last, Finished) or last.reason is not Reason.TOOL_USE:
            return None
        return Message("user", tuple(self._result(call.id) for call in self._calls))

    def _result(self, id: str) -> ToolResultBlock:
        wrong = self._wrong.get(id)
        words = CALL_ALL if wrong is None else CALL_MATCHING.format(wrong)
        return ToolResultBlock(id, (TextBlock(words),), is_error=True)

    def ask_again(self) -> None:
        """Another answer follows, of which all goes out: it goes on from what has gone out of this one."""
        self.let_go()
        self._asked_again = True


def question(tool: Tool | None, arguments: str) -> Item:
    """Whether these arguments of a call fit its tool. None: there is no such tool."""
    if tool is not None and tool.grammar is not None:
        return of_grammar(tool.grammar, custom_input(arguments))
    return Item("value", FREE.source if tool is None else tool.schema, arguments)
