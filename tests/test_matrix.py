"""COMPATIBILITY.md: complete, fresh, and honest about what no case shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conformance import cases, matrix, results
from conformance.cases import Case
from conformance.matrix import Claim
from conformance.results import RESULTS, Header, Report, Result
from conformance.target import Target
from proxy.http.routes import ROUTES

ROOT = Path(__file__).parent.parent
CASES = cases.every()
CLAIMS = matrix.claims()


async def nothing(target: Target) -> None:
    pass


def case(id: str, *shows: str, uses: tuple[str, ...] = ()) -> Case:
    return Case(id, "It is so.", "somewhere", nothing, shows, uses)


def words(outcome: results.Outcome, id: str = "module/case", word: str = "native") -> matrix.Row:
    """The row of a claimed field with one case that came out like this."""
    known = {"request": {"model": Claim(word)}}  # type: ignore[arg-type]
    found = matrix.rows(known, [case(id, "request.model", uses=("chat/plain",))], [Result(id, outcome)])
    return next(row for row in found["request"] if row.name == "model")


def test_the_page_is_that_of_the_results() -> None:
    assert (ROOT / "COMPATIBILITY.md").read_text() == matrix.page(results.read(RESULTS), CLAIMS, CASES)


def test_the_results_are_those_of_the_cases_there_are() -> None:
    assert [result.case for result in results.read(RESULTS).results] == [each.id for each in CASES]


def test_claims_and_cases_fit_the_rows() -> None:
    assert matrix.misfits(CLAIMS, CASES) == []


def test_what_does_not_fit_is_found() -> None:
    assert matrix.misfits({"request": {"frobs": Claim("native")}}, [case("m/c", "request.frob")]) == [
        "claims.toml: request.frobs is no field of the installed package",
        "m/c shows request.frob, which is no row",
    ]


def test_every_field_of_the_package_has_a_row_that_was_tested() -> None:
    found = matrix.rows(CLAIMS, CASES, results.read(RESULTS).results)
    for section, names in matrix.fields().items():
        assert {row.name for row in found[section]} == set(names)
    assert [(section, row.name) for section in found for row in found[section] if row.word == "untested"] == []


def test_every_endpoint_has_a_row() -> None:
    assert {f"{one.method.upper()} {one.path}" for one in ROUTES} <= set(CLAIMS["endpoint"])


def test_a_new_field_shows_as_untested() -> None:
    row = next(row for row in matrix.rows({}, [], [])["request"] if row.name == "model")
    assert row == matrix.Row("model", "untested", "", (), "")


def test_a_claim_needs_a_case_that_ran() -> None:
    assert words("pass").word == "native"
    assert words("skipped").word == "untested"
    assert words("fail").word == "failing"
    assert words("error").word == "failing"


def test_that_a_wrong_value_is_refused_shows_nothing_of_a_right_one() -> None:
    assert words("pass", "module/refuses_this").word == "untested"
    assert words("pass", "module/refuses_this", "refused").word == "refused"


def test_a_row_names_the_weakest_origin() -> None:
    assert words("pass").origin == "recorded, scripted"
    assert words("skipped").origin == ""


def test_links_lead_somewhere() -> None:
    page = (ROOT / "COMPATIBILITY.md").read_text()
    targets = set(re.findall(r"\]\((?!https?:)([^)#]+)\)", page))
    assert [target for target in sorted(targets) if not (ROOT / target).exists()] == []


def test_a_failing_case_is_on_the_page_with_its_reason() -> None:
    report = Report(Header(2, "x", "2.1.330", "3"), (Result("chat/x", "fail", "it is broken"),))
    assert "- `chat/x`: it is broken" in matrix.page(report, CLAIMS, CASES)


def test_the_command_checks_what_is_committed(capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix.main(["--check", "--keep"]) == 0
    assert capsys.readouterr().err == ""


def test_the_command_finds_a_stale_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "PAGE", tmp_path / "COMPATIBILITY.md")
    assert matrix.main(["--check", "--keep"]) == 1
    assert "COMPATIBILITY.md is not what the suite gives now" in capsys.readouterr().err
    assert matrix.main(["--keep"]) == 0
    assert (tmp_path / "COMPATIBILITY.md").read_bytes() == (ROOT / "COMPATIBILITY.md").read_bytes()
