"""The comparison of two CLI versions, and the verdict that is made of it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance import bump, install, versions
from conformance.compare import Change, compare, kinds, miscounted, summarise
from conformance.record import SCENARIOS, Outcome
from conformance.scenario import load
from conformance.transcript import Crossing, Header, Transcript
from tests.conftest import PATIENCE
from tests.served import ROOT, wait_for

BASE: list[dict[str, Any]] = [
    {"type": "user", "text": "hi"},
    {"type": "system", "subtype": "init", "uuid": "uuid-1", "claude_code_version": "1.0.0", "tools": ["a"]},
    {"type": "stream_event", "event": {"type": "message_stop"}, "uuid": "uuid-2"},
    {"type": "result", "subtype": "success", "cost": 1, "models": [{"value": "opus"}]},
]


def recording(*lines: dict[str, Any]) -> Transcript:
    header = Header(2, "1.0.0", "a/b", [], "recorded", "scripted")
    return Transcript(header, tuple(Crossing("cli" if line["type"] == "user" else "proxy", line) for line in lines))


def changes(*lines: dict[str, Any]) -> list[Change]:
    old = recording(*BASE)
    return list(compare(old, recording(*lines), kinds([old])))


def test_versions_and_numbered_names_are_no_differences() -> None:
    renamed = BASE[1] | {"uuid": "uuid-7", "claude_code_version": "2.0.0"}
    assert changes(BASE[0], renamed, *BASE[2:]) == []


@pytest.mark.parametrize(
    ("place", "line", "expected"),
    [
        (3, BASE[3] | {"new": 1}, Change("field added", "result/success", "new", "", "1")),
        (
            3,
            {k: v for k, v in BASE[3].items() if k != "cost"},
            Change("field removed", "result/success", "cost", "1", ""),
        ),
        (3, BASE[3] | {"cost": 2}, Change("value changed", "result/success", "cost", "1", "2")),
        (1, BASE[1] | {"tools": ["a", "b"]}, Change("value changed", "system/init", "tools[]", "[]", '["b"]')),
        (
            3,
            BASE[3] | {"models": [{"value": "opus", "x": 1}]},
            Change("field added", "result/success", "models[].x", "", "1"),
        ),
    ],
)
def test_a_changed_field_is_found(place: int, line: dict[str, Any], expected: Change) -> None:
    assert changes(*BASE[:place], line, *BASE[place + 1 :]) == [expected]


def test_lines_that_come_and_go_are_found() -> None:
    novel = {"type": "system", "subtype": "novel"}
    assert changes(*BASE[:2], novel, *BASE[2:]) == [Change("new line type", "system/novel to proxy", "", "", "")]
    assert changes(*BASE[:2], BASE[3], BASE[2]) == [Change("line moved", "result/success to proxy", "", "", "")]
    assert changes(*BASE, BASE[2]) == [Change("line more", "stream_event/message_stop to proxy", "", "", "")]
    assert changes(BASE[0], *BASE[2:]) == [Change("line less", "system/init to proxy", "", "", "")]


@pytest.mark.parametrize(
    ("lines", "doubtful"),
    [
        (BASE, False),
        ((*BASE[:2], BASE[3], BASE[2]), False),
        (BASE[:3], True),
        ((*BASE, BASE[2]), True),
        ((*BASE, {"type": "system", "subtype": "novel"}), False),
    ],
)
def test_a_recording_with_other_numbers_of_lines_is_made_once_more(lines: Any, doubtful: bool) -> None:
    old = recording(*BASE)
    assert miscounted(old, recording(*lines), kinds([old])) is doubtful


def test_a_change_is_told_once_with_the_scenarios_it_shows_in() -> None:
    old = {name: recording(*BASE) for name in ("a", "b", "c")}
    new = old | {name: recording(*BASE[:3], BASE[3] | {"new": 1}) for name in ("a", "c")}
    (summary,) = summarise(old, new)
    assert summary.scenarios == ("a", "c")
    assert str(summary) == "field added    result/success new: 1  (2 scenarios)"


# ── the verdict ─────────────────────────────────────────────────────────────────────────────────────────────

PLAIN = load(SCENARIOS / "chat" / "plain.toml", SCENARIOS)
UNKNOWN = summarise({"a": recording(*BASE)}, {"a": recording(*BASE, {"type": "novel"})})
VALUE = summarise({"a": recording(*BASE)}, {"a": recording(*BASE[:3], BASE[3] | {"cost": 2})})


def report(**parts: Any) -> bump.Report:
    standard: dict[str, Any] = {
        "version": "2.0.0",
        "base": "1.0.0",
        "refused": "",
        "outcomes": (Outcome(PLAIN, ()),),
        "changes": (),
        "replayed": {PLAIN.name: []},
    }
    return bump.Report(**standard | parts)


@pytest.mark.parametrize(
    ("parts", "verdict", "code"),
    [
        ({}, "compatible", 0),
        ({"changes": VALUE}, "compatible", 0),
        ({"changes": UNKNOWN}, "compatible with new unknowns", 3),
        ({"outcomes": (Outcome(PLAIN, ("whole: request 1: content: expected 'a', got 'b'",)),)}, "broken", 1),
        ({"replayed": {PLAIN.name: ["whole: request 1: status: expected 200, got 502"]}}, "broken", 1),
        ({"refused": "2.1.292 or newer is needed"}, "broken", 1),
        ({"outcomes": ()}, "broken", 1),
    ],
)
def test_the_verdict_is_in_the_last_line_and_in_the_exit_code(parts: Any, verdict: versions.Verdict, code: int) -> None:
    made = report(**parts)
    assert (made.verdict, bump.EXIT[made.verdict]) == (verdict, code)
    assert made.text().splitlines()[-1].startswith(f"VERDICT: 2.0.0 is {verdict}")


def test_scenarios_that_break_at_the_same_place_share_a_line() -> None:
    scenarios = [load(path, SCENARIOS) for path in sorted((SCENARIOS / "errors").glob("*.toml"))[:5]]
    outcomes = tuple(
        Outcome(one, (f"whole: request 1: status: expected 200, got {500 + number}",))
        for number, one in enumerate(scenarios)
    )
    text = report(outcomes=outcomes).text()
    assert [line.startswith("broken: ") for line in text.splitlines()].count(True) == 1
    assert "and 2 more: whole: request 1: status: expected 200, got 500" in text
    assert text.endswith("VERDICT: 2.0.0 is broken: errors")


def test_the_base_is_the_newest_recorded_version_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bump, "TRANSCRIPTS", tmp_path)
    with pytest.raises(ValueError, match="no other version"):
        bump.base_for("2.1.5")
    for version in ("2.1.9", "2.1.10", "2.1.300"):
        (tmp_path / version).mkdir()
    assert [bump.base_for(v) for v in ("2.1.300", "2.1.11", "2.1.400", "2.0.1")] == [
        "2.1.10",
        "2.1.10",
        "2.1.300",
        "2.1.9",
    ]


# ── installing ──────────────────────────────────────────────────────────────────────────────────────────────


def npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "npm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("CONFORMANCE_CACHE", str(folder / "cache"))


BINARY = 'd="$3/node_modules/@anthropic-ai/claude-code-linux-x64"; mkdir -p "$d"; '
BINARY += 'printf \'#!/bin/sh\\necho 2.1.5 \\(Claude Code\\)\\n\' > "$d/claude"; chmod +x "$d/claude"'


def test_a_cli_is_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm(tmp_path, f"echo x >> {tmp_path}/calls; {BINARY}", monkeypatch)
    assert install.install("2.1.5") == install.install("2.1.5")
    assert (tmp_path / "calls").read_text() == "x\n"


def test_processes_that_install_at_once_share_what_the_first_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first waits in npm until the other asks for the same; nothing of it is seen before it is complete."""
    package = 'd="$3/node_modules/p"; mkdir -p "$d"; echo "{}" > "$d/package.json"'
    meet = f"echo x >> {tmp_path}/calls; mkfifo {tmp_path}/go; {package}; read line < {tmp_path}/go; touch $d/last"
    npm(tmp_path, meet, monkeypatch)
    code = "from conformance import install; print((install.modules('p', '1') / 'p' / 'last').exists(), flush=True)"
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    wait_for((tmp_path / "go").exists, PATIENCE, "npm is asked")
    assert not (install.cache() / "p-1").exists()
    (tmp_path / "go").write_text("\n")
    assert [one.communicate(timeout=PATIENCE)[0] for one in both] == ["True\n", "True\n"]
    assert (tmp_path / "calls").read_text() == "x\n"


@pytest.mark.parametrize(
    ("script", "version", "words"),
    [
        ("echo 'npm error code ETARGET' >&2; exit 1", "9.9.9", "ETARGET"),
        ("exit 0", "2.1.5", "holds no binary"),
        (BINARY, "2.1.6", "the binary says 2.1.5"),
    ],
)
def test_an_install_that_failed_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, version: str, words: str
) -> None:
    npm(tmp_path, script, monkeypatch)
    with pytest.raises(install.NotInstalled, match=words):
        install.install(version)
