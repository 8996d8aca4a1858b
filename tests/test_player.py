"""The fake CLI: it plays what was recorded, and refuses everything else with a readable difference."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conformance import launch, player, transcript
from conformance.replay import NEWEST, TRANSCRIPTS, player_shim

ARGV = [
    "--print",
    "--input-format",
    "stream-json",
    "--output-format",
    "stream-json",
    "--verbose",
    "--tools",
    "",
    "--x",
    "y",
]
ENVIRONMENT = ["CLAUDE_CODE_MAX_RETRIES", "ANTHROPIC_BASE_URL", "HOME"]
Row = tuple[str, Any]


def control(identifier: str, **request: Any) -> dict[str, Any]:
    return {"type": "control_request", "request_id": identifier, "request": request}


def reply(identifier: str, **response: Any) -> dict[str, Any]:
    return {"type": "control_response", "response": {"subtype": "success", "request_id": identifier, **response}}


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "user", "message": {"role": "user", "content": text}, **more}


def result(text: str) -> dict[str, Any]:
    return {"type": "result", "subtype": "success", "result": text, "uuid": "uuid-9"}


HELLO: list[Row] = [
    ("cli", control("request-1", subtype="initialize", systemPrompt=[])),
    ("cli", user("hello")),
    ("proxy", reply("request-1", response={"models": []})),
    ("proxy", {"type": "stream_event", "event": {"type": "content_block_delta", "delta": {"text": "Grüße 🎉"}}}),
    ("proxy", result("Grüße 🎉")),
    ("cli", user("more")),
    ("proxy", result("that was more")),
]
# Begins like HELLO, but the CLI was quicker: its first answer came before the user's line was read.
BYE: list[Row] = [HELLO[0], HELLO[2], ("cli", user("bye")), ("proxy", result("bye"))]
TOOL: list[Row] = [
    ("cli", control("request-1", subtype="initialize", systemPrompt=["tools"])),
    ("cli", user("call it")),
    ("proxy", control("request-2", subtype="mcp_message", message={"id": 1})),
    ("cli", reply("request-2", response={"mcp_response": {"id": 1}})),
    ("proxy", result("called")),
]
SENT = [line for to, line in HELLO if to == "cli"]


def write(
    path: Path, rows: Sequence[Row], *, needs: Sequence[str] = (), code: int | None = None, ends: str = "result"
) -> Path:
    header = transcript.Header(transcript.FORMAT, "2.1.999", path.stem, list(needs), "written", "scripted", ends)
    lines = tuple(transcript.Crossing(to, line) for to, line in rows)  # type: ignore[arg-type]
    ended = None if code is None else transcript.Exit(code)
    transcript.write(path, transcript.Transcript(header, lines, ended))
    return path


@pytest.fixture
def recordings(tmp_path: Path) -> dict[str, Path]:
    return {
        name: write(tmp_path / f"{name}.jsonl", rows)
        for name, rows in (("a/hello", HELLO), ("b/bye", BYE), ("c/tool", TOOL))
    }


class Played:
    """One run of the player, fed with lines and then with the end of its stdin."""

    def __init__(
        self, shim: Path, lines: Sequence[Any], argv: list[str] | None = None, environment: Sequence[str] = ENVIRONMENT
    ) -> None:
        data = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
        ran = subprocess.run(
            [shim, *(ARGV if argv is None else argv)],
            input=data,
            capture_output=True,
            env=dict.fromkeys(environment, "1"),
            timeout=30,
        )
        self.code, self.out, self.stderr = ran.returncode, ran.stdout, ran.stderr.decode()

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def test_it_plays_what_was_recorded(tmp_path: Path, recordings: dict[str, Path]) -> None:
    played = Played(player_shim(tmp_path, "2.1.999", recordings=recordings), SENT)
    assert played.lines == [line for to, line in HELLO if to == "proxy"]
    assert (played.code, played.stderr) == (0, "")


def test_it_picks_by_what_it_is_sent_and_says_the_first_answer_once(
    tmp_path: Path, recordings: dict[str, Path]
) -> None:
    shim = player_shim(tmp_path, "2.1.999", recordings=recordings)
    assert Played(shim, [SENT[0], user("bye")]).lines == [BYE[1][1], BYE[3][1]]
    early = {"a/bye": recordings["b/bye"], "b/hello": recordings["a/hello"]}
    shim = player_shim(tmp_path, "2.1.999", recordings=early)
    assert Played(shim, SENT).lines == [line for to, line in HELLO if to == "proxy"]


def test_an_interrupt_ends_what_no_recording_interrupts(tmp_path: Path, recordings: dict[str, Path]) -> None:
    stop = control("interrupt", subtype="interrupt")
    assert Played(player_shim(tmp_path, "2.1.999", recordings=recordings), [*SENT, stop]).code == 0
    path = write(tmp_path / "a.jsonl", [("cli", SENT[0]), ("cli", stop), ("proxy", {"type": "result"})])
    shim = player_shim(tmp_path, "2.1.999", recordings={**recordings, "stop": path})
    assert Played(shim, [SENT[0], stop]).lines[-1] == {"type": "result"}


def test_windows_of_the_plan_end_as_long_ahead_as_they_did(tmp_path: Path) -> None:
    recorded = {"far": {"resetsAt": 4102444800}, "near": {"resetsAt": transcript.EPOCH + 18000}, "none": {}}
    rows = [HELLO[0], ("proxy", {"type": "rate_limit_event", "rate_limit_info": recorded})]
    played = Played(
        player_shim(tmp_path, "2.1.999", recordings={"a": write(tmp_path / "a.jsonl", rows, ends="rate_limit_event")}),
        [SENT[0]],
    )
    (line,) = played.lines
    windows = line["rate_limit_info"]
    assert (windows["far"], windows["none"]) == ({"resetsAt": 4102444800}, {})
    assert windows["near"]["resetsAt"] == pytest.approx(time.time() + 18000, abs=10)


def test_ids_are_the_proxys_own_and_stay_the_same(tmp_path: Path, recordings: dict[str, Path]) -> None:
    shim = player_shim(tmp_path, "2.1.999", recordings=recordings)
    lines = [control("my-id", subtype="initialize", systemPrompt=["tools"]), user("call it")]
    good = Played(shim, [*lines, reply("request-2", response={"mcp_response": {"id": 1}})])
    assert (good.code, good.lines[-1]) == (0, result("called"))
    assert Played(shim, [control("my-id", subtype="initialize", systemPrompt=[]), user("bye")]).lines[0] == reply(
        "my-id", response={"models": []}
    )
    bad = Played(shim, [*lines, reply("another", response={"mcp_response": {"id": 1}})])
    assert (bad.code, "request-2" in bad.stderr) == (player.MISMATCH, True)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([user("hello")], "type: expected"),
        ([SENT[0], user("hello ")], 'message.content: expected "hello", got "hello "'),
        ([SENT[0], user("hello", extra=1)], "extra is not in the recording"),
        ([SENT[0], {"type": "user"}], "message is missing"),
        ([*SENT, user("again")], "the recording ends before this line"),
        ([control("x", subtype="initialize", systemPrompt=["", ""])], "systemPrompt: 2 items instead of"),
        ([b"not json\n"], "not JSON"),
    ],
)
def test_what_was_not_recorded_ends_it_with_the_difference(
    tmp_path: Path, recordings: dict[str, Path], lines: list[Any], words: str
) -> None:
    played = Played(player_shim(tmp_path, "2.1.999", recordings=recordings), lines)
    assert played.code == player.MISMATCH
    assert words in played.stderr.splitlines()[-1]
    assert words in (tmp_path / "differences.txt").read_text()


def test_flags_and_variables_that_no_recording_needs_may_come_and_go(
    tmp_path: Path, recordings: dict[str, Path]
) -> None:
    shim = player_shim(tmp_path, "2.1.999", recordings=recordings)
    for argv, environment in ((ARGV[:-2], []), ([*ARGV, "--new-flag"], [*ENVIRONMENT, "NEW_VARIABLE"])):
        assert Played(shim, SENT, argv, environment).code == 0


@pytest.mark.parametrize("flag", ["--print", "--input-format", "--output-format", "--verbose"])
def test_without_lines_of_json_there_is_no_conversation(tmp_path: Path, recordings: dict[str, Path], flag: str) -> None:
    played = Played(
        player_shim(tmp_path, "2.1.999", recordings=recordings), SENT, [word for word in ARGV if word != flag]
    )
    assert (played.code, played.out) == (player.MISMATCH, b"")
    assert f"launched without {flag}" in played.stderr


@pytest.mark.parametrize("need", ["--tools", "--tools ", "--x y", "CLAUDE_CODE_MAX_RETRIES"])
def test_what_a_recording_needs_is_checked_once_it_is_known_which_one_it_is(tmp_path: Path, need: str) -> None:
    files = {
        "a/needy": write(tmp_path / "a.jsonl", HELLO, needs=[need]),
        "b/bye": write(tmp_path / "b.jsonl", BYE),
    }
    shim = player_shim(tmp_path, "2.1.999", recordings=files)
    assert Played(shim, SENT).code == 0
    argv = ["--print", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose", "--x", "z"]
    assert Played(shim, [SENT[0], user("bye")], argv, ["HOME"]).code == 0
    lacking = Played(shim, SENT, argv, ["HOME"])
    assert (lacking.code, f"launched without {need}, which a/needy needs" in lacking.stderr) == (player.MISMATCH, True)
    assert "a/needy" in (tmp_path / "differences.txt").read_text()


def test_the_reply_that_is_kept_once_is_said_in_full(tmp_path: Path) -> None:
    kept = {"commands": [], "models": ["Größe"]}
    launch.Launch("2.1.999", ARGV, ENVIRONMENT, kept).save(tmp_path / "2.1.999")
    rows: list[Row] = [HELLO[0], ("proxy", reply("request-1", response=kept | {"parked": 1})), HELLO[1], HELLO[-1]]
    path = tmp_path / "2.1.999" / "a" / "one.jsonl"
    crossings = tuple(transcript.Crossing(to, line) for to, line in rows)  # type: ignore[arg-type]
    one = transcript.Transcript(transcript.Header(2, "2.1.999", "a/one", [], "written", "scripted"), crossings)
    transcript.write(path, one, kept)
    assert b"models" not in path.read_bytes()
    assert transcript.read(path) == one
    shim = player_shim(
        tmp_path / "x", "2.1.999", recordings={"a/one": path}, asides=tmp_path / "2.1.999" / "asides.jsonl"
    )
    assert Played(shim, SENT[:1]).lines == [reply("request-1", response=kept | {"parked": 1})]


def test_it_answers_for_version_and_login(tmp_path: Path, recordings: dict[str, Path]) -> None:
    shim = player_shim(tmp_path, "2.1.999", recordings=recordings)
    assert Played(shim, [], ["--version"]).out == b"2.1.999 (Claude Code)\n"
    assert Played(shim, [], ["auth", "status", "--json"]).lines[0]["loggedIn"] is True
    out = Played(player_shim(tmp_path, "2.1.999", recordings=recordings, logged_in=False), [], ["auth", "status"])
    assert (out.code, out.lines[0]["loggedIn"]) == (1, False)


def test_requests_that_are_no_part_of_the_conversation_are_answered_at_any_time(
    tmp_path: Path, recordings: dict[str, Path]
) -> None:
    rows: list[Row] = [
        ("cli", control("request-1", subtype="list_models")),
        ("proxy", reply("request-1", response={"models": ["opus"]})),
    ]
    asides = write(tmp_path / "asides.jsonl", rows)
    shim = player_shim(tmp_path, "2.1.999", recordings=recordings, asides=asides)
    ask = control("mine", subtype="list_models")
    played = Played(shim, [ask, *SENT[:2], ask, SENT[2]])
    assert [line for line in played.lines if line != reply("mine", response={"models": ["opus"]})] == [
        line for to, line in HELLO if to == "proxy"
    ]
    assert (played.code, len(played.lines)) == (0, 6)


def test_its_stdin_may_end_at_any_time(tmp_path: Path, recordings: dict[str, Path]) -> None:
    shim = player_shim(tmp_path, "2.1.999", recordings=recordings)
    assert [Played(shim, SENT[:count]).code for count in range(4)] == [0, 0, 0, 0]


@pytest.mark.parametrize("kept", range(2, len(HELLO)))
def test_a_recording_that_lost_its_end_fails_at_once_and_names_what_cannot_come(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path / "cut.jsonl", HELLO[:kept])
    rows = [line for to, line in HELLO[:kept] if to == "cli"]
    shim = player_shim(tmp_path, "2.1.999", recordings={"a/cut": path})
    with subprocess.Popen(
        [shim, *ARGV], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=dict.fromkeys(ENVIRONMENT, "1"),
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"".join(json.dumps(line).encode() + b"\n" for line in rows))
        process.stdin.flush()
        if kept == 5:  # it ends with the first answer, as a whole one may
            process.stdin.close()
            assert process.wait(60) == 0
        else:
            assert process.wait(60) == player.MISMATCH
            assert "player: the recording of a/cut ends with " in process.stderr.read().decode()


def test_it_exits_as_the_cli_did(tmp_path: Path) -> None:
    path = write(tmp_path / "died.jsonl", HELLO[:4], code=137)
    assert Played(player_shim(tmp_path, "2.1.999", recordings={"died": path}), SENT[:2]).code == 137


def test_it_starts_with_little(tmp_path: Path, recordings: dict[str, Path]) -> None:
    """It is started for every conversation: what it imports is what its start costs."""
    shim = player_shim(tmp_path, "2.1.999", recordings=recordings)
    command = [sys.executable, "-ISX", "importtime", str(shim), *ARGV]
    ran = subprocess.run(command, input=b"", capture_output=True, env=dict.fromkeys(ENVIRONMENT, "1"), timeout=60)
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.decode().splitlines() if "|" in line}
    assert "json" in imported
    assert imported & {"asyncio", "typing", "subprocess", "threading", "pathlib", "msgspec", "conformance"} == set()


# ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────


def faulty(tmp_path: Path, recordings: dict[str, Path], **fault: Any) -> Played:
    return Played(player_shim(tmp_path, "2.1.999", recordings=recordings, **fault), SENT)


DELTA = "stream_event/content_block_delta"


@pytest.mark.parametrize(("place", "written"), [(0, 0), (2, 2), (DELTA, 2)])
def test_it_dies_after_a_line(tmp_path: Path, recordings: dict[str, Path], place: int | str, written: int) -> None:
    played = faulty(tmp_path, recordings, die=place, exit_code=7)
    assert (played.code, len(played.lines)) == (7, written)


def test_it_cuts_within_a_character(tmp_path: Path, recordings: dict[str, Path]) -> None:
    played = faulty(tmp_path, recordings, cut=DELTA)
    assert (played.code, played.out.endswith(b"\xc3")) == (1, True)
    with pytest.raises(UnicodeDecodeError):
        played.out.decode()


def test_it_writes_garbage_unknown_and_giant_lines(tmp_path: Path, recordings: dict[str, Path]) -> None:
    good = [line for to, line in HELLO if to == "proxy"]
    garbage = faulty(tmp_path, recordings, garbage=1).out.splitlines()
    assert (len(garbage), b"\xff\xfe" in garbage[1]) == (len(good) + 1, True)
    unknown = faulty(tmp_path, recordings, unknown=1).lines
    assert [line for line in unknown if "conformance_unknown" not in json.dumps(line)] == good
    assert len(unknown) == 2 * len(good)
    giant = faulty(tmp_path, recordings, big=1).out.splitlines()
    assert (len(giant), len(giant[1]) > 6_000_000) == (len(good) + 1, True)
    assert faulty(tmp_path, recordings, chunk=3).lines == good


def test_it_falls_silent_but_stays(tmp_path: Path, recordings: dict[str, Path]) -> None:
    played = faulty(tmp_path, recordings, silence=1)
    assert (played.code, len(played.lines)) == (0, 1)


def test_it_exits_without_reading_starts_slowly_and_makes_noise(tmp_path: Path, recordings: dict[str, Path]) -> None:
    refused = faulty(tmp_path, recordings, exit_at_start=True, exit_code=2)
    assert (refused.code, refused.out, "unknown option" in refused.stderr) == (2, b"", True)
    start = time.monotonic()
    noisy = faulty(tmp_path, recordings, slow_start=0.3, stderr=100_000)
    assert time.monotonic() - start > 0.3
    assert (noisy.code, len(noisy.stderr) >= 99_000) == (0, True)


def test_a_stubborn_one_has_to_be_killed(tmp_path: Path, recordings: dict[str, Path]) -> None:
    shim = player_shim(tmp_path, "2.1.999", recordings=recordings, stubborn=True)
    with subprocess.Popen(
        [shim, *ARGV], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict.fromkeys(ENVIRONMENT, "1")
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"".join(json.dumps(line).encode() + b"\n" for line in SENT[:2]))
        process.stdin.close()
        process.stdout.readline()
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        os.kill(process.pid, 9)


# ── a recording that is changed does not pass unnoticed ─────────────────────────────────────────────────────


def mutations(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    dropped = [(f"line {n} dropped", [*rows[:n], *rows[n + 1 :]]) for n in range(len(rows))]
    swapped = [
        (f"lines {n} and {n + 1} swapped", [*rows[:n], rows[n + 1], rows[n], *rows[n + 2 :]])
        for n in range(len(rows) - 1)
        if rows[n] != rows[n + 1]
    ]
    return dropped + swapped


def test_every_dropped_or_swapped_line_of_a_real_recording_shows(tmp_path: Path) -> None:
    original = transcript.read(TRANSCRIPTS / NEWEST / "chat" / "ten_turns.jsonl")
    rows: list[Row] = [(line.to, line.line) for line in original.lines]
    sent = [line for to, line in rows if to == "cli"]
    launched = launch.load(TRANSCRIPTS / NEWEST)
    assert launched is not None

    def play(changed: list[Row]) -> Played:
        path = tmp_path / "changed.jsonl"
        crossings = tuple(transcript.Crossing(to, line) for to, line in changed)  # type: ignore[arg-type]
        transcript.write(path, transcript.Transcript(original.header, crossings))
        return Played(player_shim(tmp_path, NEWEST, recordings={"x": path}), sent, launched.argv, launched.environment)

    good = play(rows)
    assert (good.code, good.lines) == (0, [line for to, line in rows if to == "proxy"])
    for what, changed in mutations(rows)[::7]:
        one, two = [[line for to, line in each if to == "cli"] for each in (rows, changed)]
        played = play(changed)
        assert (played.code == player.MISMATCH) if one != two else (played.out != good.out or _moved(rows, changed)), (
            what
        )


def _moved(rows: list[Row], changed: list[Row]) -> bool:
    """Only the moment of a line has changed: between what is sent and what is answered."""
    return [row for row in rows if row[0] == "proxy"] == [row for row in changed if row[0] == "proxy"]
