"""tests/grouped.py: no case is lost, whatever fails before it."""

from __future__ import annotations

import pytest

from tests.grouped import for_each, run


@for_each("number", range(1, 5))
@pytest.mark.parametrize("other", [0, 10])
def test_each_case_is_given(number: int, other: int) -> None:
    assert isinstance(number, int)
    assert other in (0, 10)


def test_all_that_fail_are_told() -> None:
    seen: list[int] = []

    def law(case: int) -> None:
        seen.append(case)
        assert case % 2 == 0

    with pytest.raises(ExceptionGroup) as caught:
        run(law, "case", range(5), str, {})
    assert seen == [0, 1, 2, 3, 4]
    assert [error.__notes__ for error in caught.value.exceptions] == [["the case: 1"], ["the case: 3"]]
    assert "the case: 1, the case: 3" in str(caught.value)
    run(law, "case", (0, 2), str, {})
