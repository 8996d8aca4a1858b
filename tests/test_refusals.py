"""What models have refused, and that it is remembered by CLI version, as long as the file can be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy import doctor
from proxy.cli.refusals import MAX_MODELS, MAX_VERSIONS, Refusals


def test_what_is_learnt_is_there_after_a_restart_for_this_model_and_version(tmp_path: Path) -> None:
    path = tmp_path / "state" / "refusals.json"
    Refusals(path, "2.1.330").learn("opus", {"top_p", "temperature"})
    Refusals(path, "2.1.330").learn("opus", {"tool_choice"})
    again = Refusals(path, "2.1.330")
    again.learn("opus", {"tool_choice"})
    assert again.of("opus") == Refusals(path, "2.1.330").of("opus") == [["temperature", "top_p"], ["tool_choice"]]
    assert again.of("haiku") == Refusals(path, "2.1.331").of("opus") == []
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o077 == 0


def test_without_a_file_it_lasts_as_long_as_the_process() -> None:
    refusals = Refusals()
    refusals.learn("opus", {"temperature"})
    assert refusals.of("opus") == [["temperature"]]
    assert Refusals().of("opus") == []


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"2.1.330":{"opus":"temperature"}}', b"[" * 100_000])
def test_a_file_that_cannot_be_read_is_passed_over_and_written_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "refusals.json"
    path.write_bytes(content)
    refusals = Refusals(path, "2.1.330")
    assert refusals.of("opus") == []
    refusals.learn("opus", {"temperature"})
    assert Refusals(path, "2.1.330").of("opus") == [["temperature"]]


def test_a_file_that_cannot_be_written_costs_knowledge_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refusals = Refusals(tmp_path / "file" / "refusals.json", "2.1.330")
    refusals.learn("opus", {"temperature"})
    assert refusals.of("opus") == [["temperature"]]


def test_the_models_learnt_first_are_forgotten_when_there_are_too_many(tmp_path: Path) -> None:
    """Behind a gateway any name may be a model's."""
    path = tmp_path / "refusals.json"
    refusals = Refusals(path, "2.1.330")
    for number in (*range(MAX_MODELS), 0, MAX_MODELS):
        refusals.learn(f"model-{number}", {"temperature"})
    assert len(refusals.models) == len(Refusals(path, "2.1.330").models) == MAX_MODELS
    assert (refusals.of("model-1"), refusals.of("model-0")) == ([], [["temperature"]])


def test_the_doctor_tells_what_was_learnt(tmp_path: Path) -> None:
    path = tmp_path / "refusals.json"
    assert doctor.check_refusals(tmp_path, (2, 1, 330)) is None
    refusals = Refusals(path, "2.1.330")
    refusals.learn("opus", {"top_p", "temperature"})
    refusals.learn("opus", {"tool_choice"})
    for number in range(doctor.SHOWN):
        refusals.learn(f"model-{number}", {"top_k"})
    check = doctor.check_refusals(tmp_path, (2, 1, 330))
    assert check is not None
    assert check.state == "ok"
    assert "opus (temperature, tool_choice, top_p), model-0 (top_k)" in check.message
    assert check.message.endswith(f"and 1 more; delete {path} to have them tried again")
    assert doctor.check_refusals(tmp_path, (2, 1, 331)) is None


def test_old_versions_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "refusals.json"
    for number in range(MAX_VERSIONS + 1):
        Refusals(path, f"2.1.{number}").learn("opus", {"temperature"})
    assert Refusals(path, "2.1.0").of("opus") == []
    assert Refusals(path, "2.1.1").of("opus") == [["temperature"]]
