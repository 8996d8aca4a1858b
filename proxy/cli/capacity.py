"""How many processes are kept for later, by memory and use. Pure: what is measured comes from elsewhere.

Sizes in bytes, times in seconds. `auto` keeps what a computer can spare: half of what is free beyond a reserve goes to
parked conversations, and what they hold already counts as free for them, so that they are given back when others need
the memory. Idle processes are as many as requests have needed of late. Where processes and threads are limited in
number, conversations are parked only as far as enough of these are left.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

Auto = Literal["auto"]
AUTO: Final = "auto"

# What one process takes (PSS, several of them running), until it has been measured.
IDLE_COST: Final = 100 << 20
PARKED_COST: Final = 130 << 20
# With less than this free nothing stays parked, whatever the settings say.
MIN_FREE: Final = 512 << 20
MAX_RESERVE: Final = 4 << 30
MAX_PARKED: Final = 32
MAX_IDLE: Final = 4
USUAL_IDLE: Final = 2
# Threads of one process (8 of one that waits), and how many of all must be left for those that answer or start.
TASKS: Final = 12
MIN_TASKS: Final = 64
# Without a request for so long, one idle process is enough.
QUIET: Final = 600.0
# A conversation's chance of being continued halves after this time, is a third after twice of it, and so on.
HALF_CHANCE: Final = 120.0
# What it takes to put any conversation in again, however short, in tokens of the prompt.
LEAST_WORTH: Final = 5000


class Memory(Struct, frozen=True):
    """Of this computer, or of the container. `tasks`: processes and threads that may still be started. None: not known,
    or without limit."""

    free: int | None
    total: int | None
    tasks: int | None = None


def max_parked(setting: int | Auto, memory: Memory, parked: int, cost: int) -> int:
    """How many conversations may be parked. `parked`: how many are now; `cost`: of one."""
    most = _by_memory(setting, memory, parked, cost)
    if memory.tasks is None:
        return most
    return max(0, min(most, (memory.tasks + parked * TASKS - MIN_TASKS) // TASKS))


def _by_memory(setting: int | Auto, memory: Memory, parked: int, cost: int) -> int:
    free, total = memory.free, memory.total
    if setting != AUTO:
        return setting if free is None or free >= MIN_FREE else 0
    if free is None:
        # Where only the whole is known, a sixteenth of that.
        return min(MAX_PARKED, (total or 0) // 16 // cost)
    reserve = max(MIN_FREE, min((total or 0) // 8, MAX_RESERVE))
    spare = free + parked * cost - reserve
    return max(0, min(MAX_PARKED, spare // 2 // cost))


def max_idle(setting: int | Auto, memory: Memory, quiet: float, taken: int) -> int:
    """How many idle processes to keep. `quiet`: since the last request; `taken`: processes taken in the last minute."""
    if setting != AUTO:
        return setting
    if quiet >= QUIET or (memory.free is not None and memory.free < MIN_FREE):
        return 1
    return max(USUAL_IDLE, min(taken, MAX_IDLE))


def taken(idle: int, busy: int, parked: int) -> int:
    """What so many processes take."""
    return idle * IDLE_COST + (busy + parked) * PARKED_COST


def worth(tokens: int, age: float) -> float:
    """What a parked conversation is worth: its size times its chance of being continued. The least goes first."""
    return (tokens + LEAST_WORTH) / (1 + age / HALF_CHANCE)
