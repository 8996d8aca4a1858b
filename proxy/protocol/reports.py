"""What the CLI says beside its answers, as a `Dialogue` reports it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from proxy.protocol.lines import ControlResult, ModelUse, RateLimitInfo


class Ready(Struct, frozen=True):
    """The CLI has answered its `initialize`."""


class Cost(Struct, frozen=True):
    """What the process has cost since it last said so, in US dollars at list price."""

    usd: float


class PlanLimits(Struct, frozen=True):
    """The plan's state."""

    info: RateLimitInfo


class ModelsUsed(Struct, frozen=True):
    """What the CLI says of the models that it has used here, by name."""

    models: Mapping[str, ModelUse]


class ContextUse(Struct, frozen=True):
    """What is put in takes so many tokens, by the Messages API or as the CLI guesses it."""

    guessed: bool
    usage: ControlResult


Report = Ready | Cost | PlanLimits | ModelsUsed | ContextUse
