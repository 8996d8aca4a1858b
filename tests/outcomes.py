"""Tables of what is expected to happen, which the suite prints at its end.

A test says first what it expects: `expects("faults", "the CLI is missing", "502 cli_unavailable")`. The row shows
whether it was so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

TABLES = ("faults", "security", "load")
Expects = Callable[[str, str, str], None]


@pytest.fixture
def expects(record_property: Callable[[str, object], None]) -> Expects:
    """`expects(table, what is done, what then happens)`; the last call of a test for one thing counts."""

    def note(table: str, what: str, then: str) -> None:
        assert table in TABLES
        record_property(table, (what, then))

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [
        report
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.stats.get(outcome, ())
        if getattr(report, "when", "") == "call"
    ]
    for table in TABLES:
        rows = {
            (report.nodeid, value[0]): (report.passed, *value)
            for report in reports
            for name, value in report.user_properties
            if name == table
        }
        if not rows:
            continue
        terminalreporter.section(f"{table}: {sum(row[0] for row in rows.values())} of {len(rows)} as expected")
        width = max(len(what) for _, what, _ in rows.values())
        for passed, what, then in rows.values():
            terminalreporter.line(f"{'ok' if passed else 'FAILED':<6}  {what:<{width}}  {then}")
