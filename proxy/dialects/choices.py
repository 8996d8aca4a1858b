"""`tool_choice` as the Messages API has it, which clients of chat send, too. How a tool is named is each API's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from proxy.dialects.parameters import Mode


class PlainChoice(Struct, frozen=True):
    disable_parallel_tool_use: bool | None = None


class AutoChoice(PlainChoice, frozen=True, tag="auto"):
    pass


class AnyChoice(PlainChoice, frozen=True, tag="any"):
    pass


class NoChoice(PlainChoice, frozen=True, tag="none"):
    pass


MODES: Final[Mapping[type[PlainChoice], Mode]] = {AutoChoice: "auto", AnyChoice: "required", NoChoice: "none"}
