"""What is kept of each release of the CLI, which of its fields matter, and the verdicts that changed lines give."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from conformance import bump, install, sdk, transcript, versions
from conformance import record as recording
from conformance.compare import Change, is_noise, relied_on, summarise
from conformance.record import SCENARIOS, Cli, Outcome
from conformance.replay import NEWEST, TRANSCRIPTS
from conformance.scenario import load
from conformance.versions import Judged
from tests import generate_relied_on

PLAIN = load(SCENARIOS / "chat" / "plain.toml", SCENARIOS)
ROW = Judged("2.1.9", "2026-01-02", "compatible", "2.1.8", [], [], [])


def test_the_list_of_fields_that_are_read_is_that_of_the_code() -> None:
    fresh = generate_relied_on.FILE.read_text("utf-8") == generate_relied_on.text()
    assert fresh, "run `python -m tests.generate_relied_on`"


@pytest.mark.parametrize(
    ("line", "path", "reads"),
    [
        ("stream_event/content_block_delta", "event.delta.text", True),
        ("stream_event/content_block_delta", "event.delta", True),
        ("stream_event/content_block_delta", "event.delta.invented", False),
        ("result/success", "usage.input_tokens", True),
        ("result/success", "usage", True),
        ("result/success", "us", False),
        ("result/error_during_execution", "errors[]", True),
        ("result/success", "modelUsage.claude-opus-4.5.contextWindow", True),
        ("result/success", "modelUsage.claude-opus-4.5.costUSD", False),
        ("system/init", "tools[]", True),
        ("system/init", "cwd", False),
        ("system/init to proxy", "", True),
        ("keep_alive to proxy", "", False),
    ],
)
def test_a_field_is_read_if_the_servers_line_types_have_it(line: str, path: str, reads: bool) -> None:
    assert relied_on(line, path) is reads


def test_what_the_cli_tells_a_user_interface_is_noise_but_for_what_is_read() -> None:
    def noise(line: str, path: str) -> bool:
        return is_noise(Change("field added", line, path, "", "1"))

    assert noise("control_response/success", "response.response.hooks_kept")
    assert not noise("control_response/success", "response.response.models[].value")
    assert not noise("control_response/success", "response.subtype")
    assert not noise("system/init", "cwd")


def test_verdicts_are_kept_in_the_order_of_releases_each_once(tmp_path: Path) -> None:
    path = tmp_path / "versions.jsonl"
    assert versions.read(path) == {}
    versions.keep([ROW, replace(ROW, version="2.1.10")], path)
    versions.keep([replace(ROW, version="2.1.8"), replace(ROW, failing=["a/b"])], path)
    assert [(one.version, one.failing) for one in versions.read(path).values()] == [
        ("2.1.8", []),
        ("2.1.9", ["a/b"]),
        ("2.1.10", []),
    ]
    path.write_text('{"version":1}\n')
    with pytest.raises(ValueError, match=r"versions\.jsonl"):
        versions.read(path)


def test_the_table_has_the_newest_releases_and_stresses_what_matters() -> None:
    rows = [replace(ROW, version=f"2.1.{number}") for number in range(50)]
    lines = versions.table(rows).splitlines()
    assert len(lines) == versions.SHOWN + 2
    assert lines[2].startswith("| 2.1.49 | 2026-01-02 | compatible |")
    broken = replace(ROW, verdict="broken", failing=["a/b"], new=list("wxyz"), missing=["m", "n"], relied=["n"])
    assert versions.table([broken]).splitlines()[2] == (
        "| 2.1.9 | 2026-01-02 | **broken**: a/b | `w`, `x`, `y` and more | `m`, **n** |"
    )


def test_releases_come_from_npm_with_their_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"created": "2024-01-01T00:00:00Z", "modified": "", "2.1.10": "2026-03-01T01:02:03Z"}
    times |= {"2.1.9": "2026-02-01T00:00:00Z", "2.1.8": "2026-01-01T00:00:00Z", "2.1.11-beta.1": "2026-03-02T00:00:00Z"}
    monkeypatch.setattr(install, "npm", lambda *arguments: json.dumps(times))
    assert versions.released("2.1.9") == {"2.1.9": "2026-02-01", "2.1.10": "2026-03-01"}


def test_a_field_is_found_where_the_types_declare_it() -> None:
    text = "export declare type A = {\n    x: 1;\n};\nexport type B = {\n    /** y: not here */\n    y?: string;\n};\n"
    assert sdk.described("line.inner.y", text) == "sdk.d.ts:6, B"
    assert sdk.described("line.x[]", text) == "sdk.d.ts:2, A"
    assert sdk.described("line.z", text) == ""


# ── every release since one ─────────────────────────────────────────────────────────────────────────────────


def test_every_release_is_judged_once_and_compared_with_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFORMANCE_CACHE", str(tmp_path))
    kept = tmp_path / "versions.jsonl"
    monkeypatch.setattr(versions, "FILE", kept)
    released = {"2.1.901": "2026-01-01", "2.1.902": "2026-01-02", "2.1.903": "2026-01-03"}
    monkeypatch.setattr(versions, "released", lambda first: {k: v for k, v in released.items() if k >= first})
    monkeypatch.setattr(recording, "find", lambda version: Cli(tmp_path / version, version))
    removed: list[str] = []
    monkeypatch.setattr(install, "has", lambda version: version == "2.1.902")
    monkeypatch.setattr(install, "remove", removed.append)
    checked: list[tuple[str, str, str | None]] = []

    def check(cli: Cli, base: str, wanted: Any, say: Any, folder: Path, against: Path | None) -> bump.Report:
        if cli.version == "2.1.903" and len(checked) == 2:
            raise RuntimeError("stopped")
        assert against is None or against.parent == folder.parent
        checked.append((cli.version, base, None if against is None else against.name))
        return bump.Report(cli.version, base, "", (Outcome(PLAIN, ()),), (), {})

    recorded: list[str] = []
    monkeypatch.setattr(bump, "check", check)
    monkeypatch.setattr(recording, "record", lambda cli, *_, **__: recorded.append(cli.version) or ())  # type: ignore[func-returns-value]
    with pytest.raises(RuntimeError, match="stopped"):
        bump.since("2.1.901", [PLAIN], lambda line: None)
    assert (list(versions.read(kept)), removed, recorded) == (["2.1.901", "2.1.902"], ["2.1.901"], [])
    checked.append(("", "", None))
    (last,) = bump.since("2.1.903", [PLAIN], lambda line: None)
    assert (last.version, last.date, last.verdict) == ("2.1.903", "2026-01-03", "compatible")
    assert recorded == ["2.1.902"]
    assert checked == [
        ("2.1.901", NEWEST, None),
        ("2.1.902", "2.1.901", "2.1.901"),
        ("", "", None),
        ("2.1.903", "2.1.902", "2.1.902"),
    ]
    assert bump.since("2.1.901", [PLAIN], lambda line: None) == []


# ── a CLI that writes something else ────────────────────────────────────────────────────────────────────────

Change_ = Callable[[dict[str, Any]], list[dict[str, Any]]]


def invented(line: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "novelty", "value": 1}, line] if line["type"] == "result" else [line]


def without_words(line: dict[str, Any]) -> list[dict[str, Any]]:
    if line.get("event", {}).get("delta", {}).get("type") == "text_delta":
        del line["event"]["delta"]["text"]
    return [line]


def without_durations(line: dict[str, Any]) -> list[dict[str, Any]]:
    line.pop("duration_ms", None)
    return [line]


def renamed(line: dict[str, Any]) -> list[dict[str, Any]]:
    if line.get("event", {}).get("delta", {}).get("type") == "text_delta":
        line["event"]["delta"]["words"] = line["event"]["delta"].pop("text")
    return [line]


DELTA = "stream_event/content_block_delta event.delta"


@pytest.mark.parametrize(
    ("change", "verdict", "new", "missing", "relied"),
    [
        (invented, "compatible with new unknowns", ["novelty to proxy"], [], []),
        (without_durations, "compatible with new unknowns", [], ["result/success duration_ms"], []),
        (without_words, "broken", [], [f"{DELTA}.text"], [f"{DELTA}.text"]),
        (renamed, "broken", [f"{DELTA}.words"], [f"{DELTA}.text"], [f"{DELTA}.text"]),
    ],
)
def test_the_verdict_on_a_cli_that_writes_something_else(
    tmp_path: Path, change: Change_, verdict: versions.Verdict, new: list[str], missing: list[str], relied: list[str]
) -> None:
    path = TRANSCRIPTS / NEWEST / f"{PLAIN.name}.jsonl"
    old = transcript.read(path)
    lines = [
        transcript.Crossing(line.to, made)
        for line in transcript.read(path).lines
        for made in (change(line.line) if line.to == "proxy" and isinstance(line.line, dict) else [line.line])
    ]
    changed = replace(old, lines=tuple(lines))
    transcript.write(tmp_path / f"{PLAIN.name}.jsonl", changed)
    shutil.copy(TRANSCRIPTS / NEWEST / transcript.ASIDE_FILE, tmp_path)
    report = bump.Report(
        "2.1.999", NEWEST, "", (Outcome(PLAIN, ()),), tuple(summarise({"a": old}, {"a": changed})),
        asyncio.run(bump.replay("2.1.999", [PLAIN], tmp_path)),
    )  # fmt: skip
    assert report.verdict == verdict, report.text()
    row = report.judged("2026-01-01")
    assert (row.new, row.missing, row.relied) == (new, missing, relied)
    assert ("which the server reads" in report.text()) == bool(relied)
