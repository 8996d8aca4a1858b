"""The recorder between a proxy and a CLI, the normaliser, and what is refused to be kept."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conformance import recordings, transcript
from conformance.recorder import shim
from conformance.recordings import Raw

ARGV = ["--print", "--input-format", "stream-json"]
UUIDS = [f"{n}{n}{n}{n}{n}{n}{n}{n}-aaaa-bbbb-cccc-{n}23456789012" for n in range(1, 4)]

# Echoes each line with ids and paths of its own; goes on after SIGTERM for a moment, as the real one does.
FAKE = f"""#!{sys.executable}
import json, os, signal, sys, time
if "--version" in sys.argv:
    print("1.2.3 (Claude Code)"); sys.exit()
if "auth" in sys.argv:
    print('{{"loggedIn": true}}'); sys.exit(1)
def tail(*_):
    print(json.dumps({{"type": "result", "text": "the tail"}}), flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
for line in sys.stdin:
    if "die" in line:
        sys.exit(7)
    if "kill" in line:
        os.kill(os.getpid(), 9)
    print(json.dumps({{"type": "echo", "of": json.loads(line), "cwd": os.getcwd()}}), flush=True)
    if "tail" in line:
        time.sleep(0.2)
        tail()
"""


@pytest.fixture
def cli(tmp_path: Path) -> Path:
    path = tmp_path / "cli" / "real"
    path.parent.mkdir()
    path.write_text(FAKE)
    path.chmod(0o755)
    return shim(tmp_path, path, claim=None)


def start(cli: Path, *argv: str) -> subprocess.Popen[bytes]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(cli.parent), "CLAUDE_CODE_X": "1"}
    empty = cli.parent / "empty"
    empty.mkdir(exist_ok=True)
    return subprocess.Popen(
        [cli, *(argv or ARGV)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=empty
    )


def raw_of(cli: Path) -> Raw:
    (path,) = cli.parent.glob("*.raw")
    return recordings.read_raw(path)


def test_both_directions_are_written_down_in_order(cli: Path) -> None:
    out, _ = start(cli).communicate(b'{"type":"user","text":"Gr\xc3\xbc\xc3\x9fe"}\n{"type":"user"}\n', timeout=60)
    raw = raw_of(cli)
    assert [
        line for to, line in [(to, text) for _, to, text in raw.lines] if to == "proxy"
    ] == out.decode().splitlines()
    assert [json.loads(text) for _, to, text in raw.lines if to == "cli"] == [
        {"type": "user", "text": "Grüße"},
        {"type": "user"},
    ]
    assert raw.whole
    assert (raw.launch["argv"], raw.launch["environment"], raw.exit) == (ARGV, ["CLAUDE_CODE_X", "HOME", "PATH"], None)
    assert abs(raw.launch["time"] - time.time()) < 60
    kept = recordings.normalised(raw, transcript.Header(2, "1.2.3", "a/b", [], "recorded", "scripted"))
    assert kept.lines[-1].line == {"type": "echo", "of": {"type": "user"}, "cwd": "/empty"}


@pytest.mark.parametrize(("word", "code"), [("die", 7), ("kill", 137)])
def test_a_cli_that_ends_by_itself_is_written_down_with_its_code(cli: Path, word: str, code: int) -> None:
    process = start(cli)
    assert process.stdin is not None
    process.stdin.write(b'{"word":"%s"}\n' % word.encode())
    process.stdin.flush()
    assert process.wait(60) == code
    process.communicate()
    ended = raw_of(cli).exit
    assert ended is not None
    assert ended.exit == code


def test_what_the_cli_writes_after_it_was_told_to_end_is_kept(cli: Path) -> None:
    process = start(cli)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"word":"tail"}\n')
    process.stdin.flush()
    process.stdout.readline()
    process.terminate()
    assert process.wait(60) == 143
    process.communicate()
    raw = raw_of(cli)
    assert json.loads(raw.lines[-1][2]) == {"type": "result", "text": "the tail"}
    assert (raw.exit, raw.whole) == (None, True)


def test_a_killed_recorder_leaves_a_usable_file(cli: Path) -> None:
    process = start(cli)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"word":"hello"}\n')
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [to for _, to, _ in raw_of(cli).lines] == ["cli", "proxy"]
    assert not raw_of(cli).whole


def test_other_calls_go_straight_to_the_cli_or_are_answered_for_it(cli: Path) -> None:
    login = start(cli, "auth", "status")
    assert (login.communicate(timeout=60)[0], login.returncode) == (b'{"loggedIn": true}\n', 1)
    assert start(cli, "--version").communicate(timeout=60)[0] == b"1.2.3 (Claude Code)\n"
    claiming = shim(cli.parent, cli.parent / "cli" / "real", claim="9.9.9")
    assert start(claiming, "--version").communicate(timeout=60)[0] == b"9.9.9 (Claude Code)\n"
    assert not list(cli.parent.glob("*.raw"))


# ── the normaliser ──────────────────────────────────────────────────────────────────────────────────────────


def test_equal_values_get_equal_names_and_times_go() -> None:
    names = transcript.Names({"/tmp/xyz/empty": "/empty", "/home/ann": "/user"})
    line = {
        "type": "system",
        "session_id": UUIDS[0],
        "uuid": UUIDS[1],
        "text": f"{UUIDS[1]} again, {UUIDS[2]} new, in {UUIDS[0]}",
        "cwd": "/tmp/xyz/empty",
        "memory": "/home/ann/.claude/projects/-tmp-xyz-empty/memory",
        "socket": "/tmp/cc-socks/12.sock",
        "gateway": "check (127.0.0.1:3456) at http://localhost:99/x",
        "request_id": "req_abc",
        "said": "Request ID: req_abc",
        "timestamp": "2026-11-23T15:36:46.024Z",
        "duration_ms": 153,
        "durationSeconds": 0.153,
        "pid": 4711,
        "cost": 0.25,
        "retry_delay_ms": 8684,
        "error_status": 529,
    }
    assert names.line(line) == {
        "type": "system",
        "session_id": "session-1",
        "uuid": "uuid-1",
        "text": "uuid-1 again, uuid-2 new, in session-1",
        "cwd": "/empty",
        "memory": "/user/.claude/projects/-empty/memory",
        "socket": "/socket-1",
        "gateway": "check (loopback-1) at http://loopback-2/x",
        "request_id": "request-1",
        "said": "Request ID: request-1",
        "timestamp": "2000-01-01T00:00:00.000Z",
        "duration_ms": 0,
        "durationSeconds": 0,
        "pid": 1,
        "cost": 0.25,
        "retry_delay_ms": 10_000,
        "error_status": 529,
    }


@pytest.mark.parametrize(
    ("ends", "kept"),
    [
        (1_800_018_000.4, transcript.EPOCH + 18000),
        (1_800_017_975, transcript.EPOCH + 18000),
        (1_799_999_000, 1_799_999_000),
        (4_102_444_800, 4_102_444_800),
    ],
)
def test_the_end_of_a_window_is_kept_as_long_ahead_as_it_was(ends: float, kept: float) -> None:
    line = {"type": "rate_limit_event", "rate_limit_info": {"resetsAt": ends, "windows": [{"resetsAt": ends}]}}
    info = transcript.Names({}).line(line, 1_800_000_000.0)["rate_limit_info"]
    assert info == {"resetsAt": kept, "windows": [{"resetsAt": kept}]}


def test_the_account_of_a_login_gets_no_further() -> None:
    line: dict[str, Any] = {"type": "x", "account": {"email": "ann@company.com", "subscriptionType": "max"}}
    assert transcript.Names({}).line(line)["account"] == {"email": "account-email", "subscriptionType": "max"}


@pytest.mark.parametrize(
    "value",
    [
        "sk-ant-oat01-abcdef",
        "Authorization: Bearer abcdef123456",
        "-----BEGIN RSA PRIVATE KEY",
        "write to ann.b@company.co.uk",
        "from 192.168.1.20, please",
        "in /home/ann/projects",
        "in /Users/ann",
        "in /root/x",
    ],
)
def test_anything_private_is_refused_and_nothing_is_written(tmp_path: Path, value: str) -> None:
    header = transcript.Header(2, "1.2.3", "a/b", [], "recorded", "scripted")
    lines = (transcript.Crossing("proxy", {"type": "x", "text": value}),)
    with pytest.raises(ValueError, match="would keep"):
        transcript.write(tmp_path / "t.jsonl", transcript.Transcript(header, lines))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value", ["version 2.1.330", "1.2.3.4.5", "/homework/x", "a @ b", "ann@example.com", "bearer of news"]
)
def test_what_only_looks_private_is_kept(value: str) -> None:
    assert transcript.private(value) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "t.jsonl:1"),
        (
            '{"format":1,"cli":"","scenario":"","needs":[],"origin":"recorded","upstream":"live"}',
            "format 1",
        ),
        ("HEADER\nnonsense\n", "t.jsonl:2"),
        ('HEADER\n{"silence":1}\n', "neither a crossing nor an exit"),
        ('HEADER\n{"to":"nobody","line":{}}\n', "t.jsonl:2"),
        ('HEADER\n{"exit":1}\n{"to":"cli","line":{}}\n', "after the exit"),
        ('HEADER\n{"to":"cli","line":{},"more":1}\n', "more"),
    ],
)
def test_what_is_not_a_transcript_is_named_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    header = '{"format":2,"cli":"","scenario":"","needs":[],"origin":"recorded","upstream":"live"}'
    path = tmp_path / "t.jsonl"
    path.write_text(content.replace("HEADER", header))
    with pytest.raises(ValueError, match=words):
        transcript.read(path)


def test_a_line_that_is_not_json_and_an_exit_survive(tmp_path: Path) -> None:
    header = transcript.Header(2, "1.2.3", "a/b", [], "written", "live")
    lines = (transcript.Crossing("proxy", "Segmentation fault", 60), transcript.Crossing("cli", {"type": "user"}))
    one = transcript.Transcript(header, lines, transcript.Exit(139))
    transcript.write(tmp_path / "t.jsonl", one)
    assert transcript.read(tmp_path / "t.jsonl") == one


def raw(*lines: tuple[int, str, Any]) -> Raw:
    launch = {"argv": ARGV, "environment": [], "cwd": "/x/empty", "home": "/x", "cli": "/x/cli", "time": 0.0, "at": 0}
    return Raw(launch, 1, tuple((at, to, json.dumps(line)) for at, to, line in lines), None)  # type: ignore[misc]


HEADER = transcript.Header(2, "1.2.3", "a/b", [], "recorded", "scripted")


def test_only_silences_that_the_upstream_kept_are_kept_and_no_times() -> None:
    delta = {"type": "stream_event", "event": {"type": "content_block_delta"}}
    stop = {"type": "result"}
    made = raw((5, "cli", {"type": "user"}), (90, "proxy", delta), (190, "proxy", delta), (210, "proxy", stop))
    assert [line.silence for line in recordings.normalised(made, HEADER).lines] == [0, 0, 0, 0]
    assert [line.silence for line in recordings.normalised(made, HEADER, silence=100).lines] == [0, 0, 100, 0]
    late = raw((5, "cli", {"type": "user"}), (90, "proxy", delta), (187, "proxy", delta), (222, "proxy", stop))
    assert recordings.normalised(late, HEADER, silence=100) == recordings.normalised(made, HEADER, silence=100)


@pytest.mark.parametrize(
    ("ends", "code", "why"),
    [
        ("result", None, "it ends with stream_event/message_stop, not with result"),
        ("stream_event", None, ""),
        ("user+", None, "it has no user"),
        ("stream_event/message_start+", None, ""),
        ("result", 137, ""),
    ],
)
def test_a_recording_ends_as_its_scenario_says_or_with_the_cli(ends: str, code: int | None, why: str) -> None:
    events = ({"type": "stream_event", "event": {"type": f"message_{name}"}} for name in ("start", "stop"))
    header = transcript.Header(2, "1.2.3", "a/b", [], "recorded", "scripted", ends)
    exit = None if code is None else transcript.Exit(code)
    assert (
        transcript.unended(
            transcript.Transcript(header, tuple(transcript.Crossing("proxy", event) for event in events), exit)
        )
        == why
    )


def test_a_conversation_is_known_by_its_first_text_and_when_it_was_said(tmp_path: Path) -> None:
    said = {"type": "user", "message": {"role": "user", "content": "hello"}}
    path, one = tmp_path / "5000000000-7.raw", raw((1, "cli", {"type": "control_request"}), (2000, "cli", said))
    assert recordings.opened(path, one, "hello", 6_000_000_000)
    assert not recordings.opened(path, one, "hello", 7_900_000_000)
    assert not recordings.opened(path, one, "hello", 6_000_000_000, 6_900_000_000)
    assert not recordings.opened(path, one, "goodbye", 0)


def test_requests_that_may_come_at_any_time_are_kept_apart() -> None:
    ask = {"type": "control_request", "request_id": "m", "request": {"subtype": "list_models"}}
    answer = {"type": "control_response", "response": {"subtype": "success", "request_id": "m"}}
    said = {"type": "user"}
    lines: Any = [(0, "cli", json.dumps(ask)), (1, "cli", json.dumps(said)), (2, "proxy", json.dumps(answer))]
    conversation, asides = recordings.without_asides(Raw({}, 1, tuple(lines), None))
    assert [json.loads(text) for _, _, text in conversation.lines] == [said]
    assert [json.loads(text) for _, _, text in asides.lines] == [ask, answer]


def test_a_recording_goes_on_to_what_ends_it_and_no_further() -> None:
    said, ends = {"type": "user"}, {"type": "rate_limit_event"}
    beat, result = {"type": "tool_progress"}, {"type": "result", "subtype": "error_during_execution"}
    stop = {"type": "control_request", "request_id": "i", "request": {"subtype": "interrupt"}}

    def kept(ends: str, *lines: tuple[str, Any]) -> list[Any]:
        made = recordings.uninterrupted(raw(*((at, to, line) for at, (to, line) in enumerate(lines))), ends)
        return [json.loads(text) for _, _, text in made.lines]

    late = (("cli", said), ("proxy", beat), ("cli", stop), ("proxy", ends), ("proxy", result))
    assert kept("rate_limit_event", *late) == [said, beat, ends]
    early = (("cli", said), ("proxy", ends), ("proxy", beat), ("cli", stop), ("proxy", result))
    assert kept("rate_limit_event", *early) == [said, ends]
    assert kept("result", *early) == [said, ends, beat, stop, result]
    assert kept("rate_limit_event", *early[:3]) == [said, ends, beat]


def test_the_recorder_starts_with_little(cli: Path) -> None:
    """It is started for every conversation: what it imports is what its start costs."""
    command = [sys.executable, "-ISX", "importtime", str(cli), *ARGV]
    environment = {"PATH": os.environ["PATH"], "HOME": str(cli.parent)}
    ran = subprocess.run(command, input=b"", capture_output=True, env=environment, cwd=cli.parent, timeout=60)
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.decode().splitlines() if "|" in line}
    assert "subprocess" in imported
    assert imported & {"asyncio", "typing", "msgspec", "httpx", "conformance"} == set()
