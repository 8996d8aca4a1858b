"""Many cheap cases in one test: pytest takes longer for a test of its own than they take. All that fail are told."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

Test = Callable[..., None]


class Cases(list[Any]):
    """The cases of one test; shown by their number."""

    def __repr__(self) -> str:
        return f"{len(self)} cases"


def run(law: Test, argument: str, cases: Iterable[Any], name: Callable[[Any], str], given: dict[str, Any]) -> None:
    """Raises ExceptionGroup with the failures of all cases, each with its case's name."""
    failed: list[Exception] = []
    for case in cases:
        try:
            law(**{argument: case}, **given)
        except Exception as error:  # noqa: BLE001
            error.add_note(f"the case: {name(case)}")
            failed.append(error)
    if failed:
        raise ExceptionGroup(f"{len(failed)} cases fail: {', '.join(error.__notes__[-1] for error in failed)}", failed)


def for_each(
    argument: str, cases: Sequence[Any], name: Callable[[Any], str] = str, *, later: Sequence[Any] = ()
) -> Callable[[Test], Test]:
    """As `pytest.mark.parametrize`, in one test. `later`: cases that only CI runs, in a test of their own."""
    groups = [pytest.param(Cases(cases), id="each")] if cases else []
    groups += [pytest.param(Cases(later), id="later", marks=pytest.mark.ci)] if later else []

    def decorate(law: Test) -> Test:
        def test(**given: Any) -> None:
            run(law, argument, given.pop(argument), name, given)

        test.__name__, test.__qualname__ = law.__name__, law.__qualname__
        test.__module__, test.__doc__ = law.__module__, law.__doc__
        test.__signature__ = inspect.signature(law)  # type: ignore[attr-defined]
        test.pytestmark = getattr(law, "pytestmark", [])  # type: ignore[attr-defined]
        marked: Test = pytest.mark.parametrize(argument, groups)(test)
        return marked

    return decorate
