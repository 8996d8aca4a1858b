"""proxy/protocol/allowance.py: what the plan allows, put together from reports that each say a part of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol.allowance import MAX_WINDOWS, REJECTED, Allowance, current, take_in, tightest
from proxy.protocol.lines import RateLimitInfo, Window

NOW = 1_750_000_000.0
FIVE = Window(0.4, NOW + 3600, "allowed")
SEVEN = Window(0.1, NOW + 86400, "allowed")
KNOWN = Allowance("allowed", NOW - 60, {"five_hour": FIVE, "seven_day": SEVEN})


def after(info: RateLimitInfo, known: Allowance = KNOWN, now: float = NOW) -> dict[str, Window]:
    found = take_in(known, info, now)
    assert found.seen == now
    return dict(found.windows)


def test_a_report_of_all_windows() -> None:
    info = RateLimitInfo("allowed", unifiedWindows={"five_hour": FIVE, "seven_day": SEVEN})
    assert after(info, Allowance()) == {"five_hour": FIVE, "seven_day": SEVEN}


def test_what_a_report_leaves_out_is_as_it_was() -> None:
    assert after(RateLimitInfo("allowed")) == KNOWN.windows
    more = Window(0.5, NOW + 3600, "allowed_warning")
    assert after(RateLimitInfo("allowed", unifiedWindows={"five_hour": more})) == {
        "five_hour": more,
        "seven_day": SEVEN,
    }


def test_a_report_of_one_window_by_its_name() -> None:
    info = RateLimitInfo("allowed_warning", NOW + 5, "seven_day_opus", 0.9)
    assert after(info)["seven_day_opus"] == Window(0.9, NOW + 5, "allowed_warning")
    # What the windows themselves say counts more.
    both = RateLimitInfo("allowed", NOW + 5, "five_hour", 0.9, {"five_hour": FIVE})
    assert after(both)["five_hour"] == FIVE


@pytest.mark.parametrize("windows", [{}, {"five_hour": FIVE}])
def test_a_window_that_is_used_up(windows: dict[str, Window]) -> None:
    found = after(RateLimitInfo(REJECTED, None, "five_hour", unifiedWindows=windows))
    assert found["five_hour"].status == REJECTED
    assert tightest(Allowance(REJECTED, NOW, found)) == ("five_hour", found["five_hour"])


def test_a_window_that_has_ended_is_known_no_more() -> None:
    rejected = Allowance(REJECTED, NOW, {"five_hour": FIVE, "seven_day": SEVEN})
    assert current(rejected, NOW) == rejected
    assert current(rejected, NOW + 3600) == Allowance("", NOW, {"seven_day": SEVEN})
    assert current(KNOWN, NOW + 3600).status == "allowed"


@pytest.mark.parametrize("name", ["", "A", "a b", "a\nb", 'a"', "x" * 41])
def test_odd_names_are_left_out(name: str) -> None:
    assert after(RateLimitInfo("allowed", unifiedWindows={name: FIVE})) == KNOWN.windows


def test_the_tightest() -> None:
    assert tightest(Allowance()) is None
    assert tightest(KNOWN) == ("five_hour", FIVE)
    assert tightest(Allowance("", None, {"a": Window(), "b": Window(0.0)})) == ("a", Window())


WINDOW = st.builds(
    Window, st.none() | st.floats(0, 2), st.none() | st.floats(NOW - 10, NOW + 10), st.none() | st.text()
)
INFO = st.builds(
    RateLimitInfo,
    st.sampled_from(["", "allowed", REJECTED]),
    st.none() | st.floats(NOW - 10, NOW + 10),
    st.none() | st.sampled_from(["five_hour", "odd name", ""]),
    st.none() | st.floats(0, 2),
    st.dictionaries(st.text("abc_0 ", max_size=4), WINDOW, max_size=20),
)


@given(st.lists(INFO, max_size=4))
def test_any_reports_leave_a_bounded_number_of_windows_under_way(reports: list[RateLimitInfo]) -> None:
    known = Allowance()
    for info in reports:
        known = take_in(known, info, NOW)
    assert len(known.windows) <= MAX_WINDOWS
    assert all(window.resetsAt is None or window.resetsAt > NOW for window in known.windows.values())
    tightest(known)


def test_a_rejection_without_an_end_keeps_the_end_that_is_known() -> None:
    info = RateLimitInfo(REJECTED, rateLimitType="five_hour")
    assert after(info)["five_hour"] == Window(FIVE.utilization, FIVE.resetsAt, REJECTED)
