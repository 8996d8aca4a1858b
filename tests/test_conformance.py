"""The conformance suite: it runs against our own server, and does not fool itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from conformance import cases, judge, results, run
from conformance.__main__ import COMMANDS, main
from conformance.cases import Case
from conformance.results import RESULTS, Report, Result
from conformance.run import judge_one
from conformance.target import Skip, Target, Unmet, need
from tests.relay import baseline

CASES = cases.every()


async def nothing(target: Target) -> None:
    pass


@pytest.fixture(scope="module")
def report() -> Report:
    """All cases but the scenarios: those run in tests/test_replay.py, and all together in CI (`matrix --check`)."""
    done = baseline().results
    rest = [case for case in CASES if not (case.id in done or case.id.startswith("scenario/"))]
    apart = asyncio.run(run.scripted(rest, lambda result: None))
    found = sorted((*done.values(), *apart.results), key=lambda result: result.case)
    return Report(apart.header, tuple(found))


def test_our_server_meets_every_requirement(report: Report) -> None:
    known = results.known_failures()
    here = {result.case for result in report.results}
    assert results.unexpected(report.results, {case: why for case, why in known.items() if case in here}) == []


def test_the_committed_results_are_those(report: Report) -> None:
    kept = {result.case: result for result in results.read(RESULTS).results}
    assert [result for result in report.results if kept.get(result.case) != result] == []


def test_every_case_says_what_it_requires_and_why() -> None:
    requirements = [case.requirement for case in CASES if not case.id.startswith("scenario/")]
    assert len(set(requirements)) == len(requirements)
    assert [case.id for case in CASES if len(case.requirement) < 20 or not case.source] == []


def test_every_scenario_is_a_case() -> None:
    used = {name for case in CASES if case.id.startswith("scenario/") for name in case.uses}
    assert {name for case in CASES for name in case.uses} == used


def test_two_cases_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two cases are called chat/answers_with_a_completion"):
        cases.add(next(case for case in CASES if case.id == "chat/answers_with_a_completion"))


def test_a_case_without_a_requirement_is_refused() -> None:
    with pytest.raises(ValueError, match="the requirement is a sentence"):
        cases.add(Case("module/mute", "", "somewhere", nothing))


# What a run makes of its results.


def test_a_failure_that_is_not_known_fails_the_run() -> None:
    found = [Result("a", "pass"), Result("b", "fail", "broken"), Result("c", "error", "gone"), Result("d", "skipped")]
    assert results.unexpected(found, {}) == ["fail: b: broken", "error: c: gone"]
    assert results.unexpected(found, {"b": "a bug", "c": "a bug"}) == []


def test_a_known_failure_that_passes_fails_the_run() -> None:
    assert results.unexpected([Result("a", "pass")], {"a": "a bug", "z": "a bug"}) == [
        "a is a known failure, but passes",
        "z is a known failure, but there is no such case",
    ]


def test_a_known_failure_needs_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_text('"a/b" = " "\n')
    with pytest.raises(ValueError, match="a/b has no reason"):
        results.known_failures(path)


def test_results_are_read_as_they_were_written(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(report.encoded())
    assert results.read(path) == report


def test_results_that_are_cut_are_refused(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "results.jsonl"
    for cut in (report.encoded()[:-40], b"".join(report.encoded().splitlines(keepends=True)[:-2]), b""):
        path.write_bytes(cut)
        with pytest.raises(ValueError, match=r"results\.jsonl"):
            results.read(path)


# What comes of one case.


@pytest.mark.parametrize(
    ("fault", "outcome", "why"),
    [
        (None, "pass", ""),
        (Unmet("one", "two"), "fail", "one; two"),
        (Skip("not here"), "skipped", "not here"),
        (KeyError("choices"), "fail", "KeyError: 'choices'"),
        (TimeoutError(), "error", "TimeoutError: "),
    ],
)
async def test_what_a_case_raises_decides(fault: Exception | None, outcome: str, why: str) -> None:
    async def one(target: Target) -> None:
        if fault is not None:
            raise fault

    target = Target("http://127.0.0.1:9", scripted=True, timeout=1)
    assert await judge_one(Case("m/c", "", "", one), target) == Result("m/c", outcome, why)  # type: ignore[arg-type]
    await target.close()


async def test_a_case_that_never_ends_is_an_error() -> None:
    async def one(target: Target) -> None:
        await asyncio.sleep(60)

    target = Target("http://127.0.0.1:9", scripted=True, timeout=0.01)
    assert (await judge_one(Case("m/c", "", "", one), target)).outcome == "error"
    await target.close()


async def test_a_server_that_is_not_there_is_an_error() -> None:
    async def one(target: Target) -> None:
        await target.send("GET", "/v1/models")

    target = Target("http://127.0.0.1:9", scripted=True, timeout=1)
    result = await judge_one(Case("m/c", "", "", one), target)
    assert (result.outcome, result.why.partition(":")[0]) == ("error", "ConnectError")
    await target.close()


async def test_cases_that_need_what_a_foreign_server_has_not_are_skipped() -> None:
    async def one(target: Target) -> None:
        need(False, "it ran")

    wanted = [
        Case("m/scripted", "", "", one, scripted=True),
        Case("m/settings", "", "", one, settings={"API_KEYS": "x"}),
    ]
    target = Target("http://127.0.0.1:9", scripted=False, timeout=1)
    report = await run.live(wanted, target, lambda result: None)
    assert [result.why for result in report.results] == [
        "needs the recorded answers",
        "needs a server started with API_KEYS",
    ]


def test_the_command_lists_the_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--list", "streaming/only*"]) == 0
    assert capsys.readouterr().out.startswith("streaming/only_data_and_comments: An event stream has data lines")
    assert run.main(["no/such/case"]) == 2


# The judge.


def test_fields_that_are_no_one_s_are_forbidden() -> None:
    model = {"id": "x", "object": "model", "created": 1, "owned_by": "y"}
    assert judge.misshapen("model", model | {"context_length": 5}) == []
    assert judge.misshapen("model", model | {"frob": 5}) != []
    assert judge.misshapen("model", model | {"created": "now"}) != []
    assert judge.misshapen("model", {"id": "x"}) != []


def test_every_object_of_every_schema_is_closed() -> None:
    def closed(part: Any) -> bool:
        if isinstance(part, list):
            return all(map(closed, part))
        if not isinstance(part, dict):
            return True
        own = part.get("type") != "object" or "properties" not in part or part.get("additionalProperties") is False
        return own and all(map(closed, part.values()))

    assert [kind for kind in judge.SHAPES.kinds if not closed(judge.SHAPES.schema(kind))] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m conformance {name} [-h]")
