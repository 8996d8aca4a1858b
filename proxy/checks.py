"""What a check of the doctor's, or of the start, comes to."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Check(Struct, frozen=True):
    """One line. `help`: what to type or to set, a line for each way."""

    state: Literal["ok", "warn", "FAIL"]
    name: str
    message: str
    help: str = ""

    def __str__(self) -> str:
        helps = f" -> {self.help}".replace("\n", "; ") if self.help else ""
        return f"{self.state:<4}  {self.name:<9}  {self.message}{helps}"
