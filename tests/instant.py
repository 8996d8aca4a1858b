"""A server without processes: the whole of the HTTP edge over a pool whose conversations answer at once."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from proxy.cli.conversation import Conversation
from proxy.cli.pool import Counts, Lease, Pool
from proxy.cli.process import Launch
from proxy.http.app import create_app
from proxy.http.edge import App
from proxy.http.service import Service
from proxy.protocol import turn
from proxy.protocol.answer import Fold
from proxy.protocol.citations import Pages
from proxy.protocol.counting import Count
from proxy.protocol.deltas import (
    Arguments,
    Delta,
    Finished,
    Reason,
    Signature,
    Started,
    Text,
    Thinking,
    Tokens,
    ToolCall,
    ToolEnd,
)
from proxy.protocol.lines import ListedModel
from proxy.protocol.plan import Message, Plan
from tests.conftest import base_settings
from tests.direct import DirectValidator

TOKENS = Tokens(10, 7, 5, 12, 3)


class InstantConversation(Conversation):
    """Calls the first tool when there is one, says `{}` when JSON is asked for, and a few words otherwise."""

    def __init__(self, plan: Plan, windows: Mapping[str, int]) -> None:
        self.folded = Fold()
        self.pages = Pages()
        self._windows = windows
        self._plan = plan
        self._turn = turn.Turn()

    @property
    def answer(self) -> Fold:
        return self.folded

    @property
    def tokens(self) -> Tokens:
        return TOKENS

    def attribute_cost(self, request: str) -> None:
        pass

    async def ask_new(self, plan: Plan, *, opening: bool = True) -> None:
        pass

    async def ask_next(self, message: Message, before: Message | None = None) -> None:
        self.folded = Fold()

    async def count(self, plan: Plan) -> Count:
        return Count(12, False, "claude-opus-5-5", 1_000_000)

    async def context_window(self, model: str) -> int | None:
        return self._windows.get(model)

    async def settle(self) -> bool:
        return True

    async def deltas(self, patience: float) -> list[Delta]:
        reason = Reason.END_TURN
        answer: list[Delta] = [Started("claude-opus-5-5"), Thinking("Hm."), Signature("c2ln")]
        choice = self._plan.tool_choice
        if self._plan.tools and (choice is None or choice.type != "none"):
            answer += [ToolCall(0, "toolu_1", self._plan.tools[0].name), Arguments(0, "{}"), ToolEnd(0)]
            reason = Reason.TOOL_USE
        else:
            answer += [Text("{}")] if self._plan.schema else [Text("Hello "), Text("there.")]
        answer.append(Finished(reason, TOKENS))
        self.folded.take(answer)
        return answer


class InstantPool(Pool):
    """Opens as many conversations as are asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(base_settings(**settings), Launch(("none",), {}, "/"), validator=DirectValidator())
        self.warm_pool.models = (
            ListedModel("opus", "claude-opus-5-5", ["low", "medium", "high"], True),
            ListedModel("haiku", "claude-haiku-5-5"),
        )
        self.warm_pool.models_known.set()
        self.windows: dict[str, int] = {}

    @property
    def counts(self) -> Counts:
        return Counts(2, 0, 0, 0, 0)

    async def open(self, plan: Plan, owner: str) -> Lease:
        served = "new" if len(plan.messages) == 1 else "replayed"
        return Lease(InstantConversation(plan, {}), served, b"", plan)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def spare(self, owner: str, *, search: bool = False) -> AsyncIterator[Conversation]:
        yield InstantConversation(Plan("opus", None, ()), self.windows)

    def first_delta(self, lease: Lease) -> None:
        pass

    def release(self, lease: Lease, *, keep: bool = False, to_disk: bool = False) -> None:
        pass


def application(**settings: Any) -> App:
    """The application, with nothing behind it."""
    pool = InstantPool(**settings)
    return create_app(Service(pool._settings, pool, "2.1.330", "oauth_token"))
