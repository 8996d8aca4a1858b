"""proxy/cli/capacity.py: how many processes are kept, for computers of all sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cli.capacity import (
    HALF_CHANCE,
    IDLE_COST,
    MAX_IDLE,
    MAX_PARKED,
    MIN_FREE,
    PARKED_COST,
    QUIET,
    Memory,
    max_idle,
    max_parked,
    taken,
    worth,
)

GB = 1 << 30
UNKNOWN = Memory(None, None)


@pytest.mark.parametrize(
    ("free", "total", "parked"),
    [
        (6.0, 8, 19), (3.0, 8, 7), (1.5, 8, 1), (1.0, 8, 0), (0.3, 8, 0),
        (0.8, 1, 1), (10.0, 16, 31), (50.0, 64, 32), (5.0, 64, 3), (2.0, 64, 0),
        (None, 8, 3), (None, 16, 7), (None, 64, 31), (None, None, 0),
    ],
)  # fmt: skip
def test_what_is_parked_depends_on_the_computer(free: float | None, total: int | None, parked: int) -> None:
    memory = Memory(None if free is None else int(free * GB), None if total is None else total * GB)
    assert max_parked("auto", memory, 0, PARKED_COST) == parked


@pytest.mark.parametrize(
    ("setting", "free", "parked"), [(7, None, 7), (7, MIN_FREE, 7), (7, MIN_FREE - 1, 0), (0, 9 * GB, 0)]
)
def test_a_number_is_kept_to_unless_memory_runs_short(setting: int, free: int | None, parked: int) -> None:
    assert max_parked(setting, Memory(free, 16 * GB), 3, PARKED_COST) == parked


@given(st.integers(0, 64 * GB), st.integers(1, 128), st.integers(50 << 20, 500 << 20))
def test_parking_as_many_as_may_be_settles(free: int, total: int, cost: int) -> None:
    """The more are parked the less is free: no number is taken for too large that was just allowed."""
    memory = Memory(min(free, total * GB), total * GB)
    assert memory.free is not None
    allowed = max_parked("auto", memory, 0, cost)
    after = Memory(memory.free - allowed * cost, memory.total)
    assert max_parked("auto", after, allowed, cost) == allowed
    assert after.free is not None
    assert allowed == 0 or after.free >= MIN_FREE
    assert allowed <= MAX_PARKED


@given(st.integers(0, 8 * GB), st.integers(0, 32))
def test_under_pressure_memory_is_given_back(free: int, parked: int) -> None:
    left = max_parked("auto", Memory(free, 8 * GB), parked, PARKED_COST)
    assert left <= max_parked("auto", Memory(free + GB, 8 * GB), parked, PARKED_COST)
    if free + parked * PARKED_COST < GB:
        assert left == 0


@pytest.mark.parametrize(
    ("quiet", "asked", "free", "idle"),
    [
        (0.0, 0, None, 2), (0.0, 3, 9 * GB, 3), (0.0, 50, 9 * GB, MAX_IDLE), (QUIET - 1, 0, 9 * GB, 2),
        (QUIET, 0, 9 * GB, 1), (0.0, 50, MIN_FREE - 1, 1),
    ],
)  # fmt: skip
def test_idle_ones_follow_use(quiet: float, asked: int, free: int | None, idle: int) -> None:
    assert max_idle("auto", Memory(free, None), quiet, asked) == idle
    assert max_idle(5, Memory(free, None), quiet, asked) == 5


def test_the_largest_and_the_latest_are_worth_most() -> None:
    assert worth(100_000, 60) > worth(1_000, 60)
    assert worth(1_000, 0) > worth(1_000, 60)
    assert worth(1_000, HALF_CHANCE) == pytest.approx(worth(1_000, 0) / 2)
    # A short one whose client may be typing, against a long one that was left an hour ago.
    assert worth(1_000, 0) > worth(100_000, 3600)


def test_what_processes_take() -> None:
    assert taken(2, 8, 4) == 2 * IDLE_COST + 12 * PARKED_COST
