"""A short soak with the real CLI; the long one is `python -m conformance soak`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conformance.soak import soak

pytestmark = pytest.mark.real_cli


async def test_results_are_paired_rightly_and_nothing_is_left() -> None:
    """It also shows that ending a conversation with open calls makes no further request to the Messages API: the CLI
    would send results of its own making there, if its stdin were closed first."""
    figures = await soak(Path(os.environ["CLAUDE_CLI"]), conversations=16, at_once=6, seed=7)
    assert not figures.wrong
    assert figures.children_left == 0
    assert {"continued", "replayed", "new"} >= set(figures.served)
