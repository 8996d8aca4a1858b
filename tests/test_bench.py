"""The bench's arithmetic, and its instant CLI. Nothing here is timed."""

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from conformance import bench
from conformance.bench import apis, messages_api
from conformance.bench.figures import Figure, median, paired, ratio, table
from conformance.bench.processes import FLAGS, BenchError, Place, ask, begin, server, upstream
from conformance.promptcache import Counted


def test_median_keeps_the_spread() -> None:
    figure = median("first delta", "ms", [3.0, 1.0, 2.0])
    assert (figure.value, figure.low, figure.high, figure.samples) == (2.0, 1.0, 3.0, 3)
    assert median("first delta", "ms", []).value is None


@pytest.mark.parametrize(
    ("figure", "met", "verdict"),
    [
        (Figure("a", 2.0, "×", at_most=2.0), True, "≤ 2 ×: met"),
        (Figure("a", 3.0, "×", at_most=2.0), False, "≤ 2 ×: MISSED by 50%"),
        (Figure("a", 3.0, "×", at_least=4.0), False, "≥ 4 ×: MISSED by 25%"),
        (Figure("a", 0.0, "×", at_least=4.0), False, "≥ 4 ×: MISSED by 100%"),
        (Figure("a", None, "×", at_least=4.0), None, "≥ 4 ×: not available"),
        (Figure("a", 3.0, "×"), None, ""),
    ],
)
def test_verdicts(figure: Figure, met: bool | None, verdict: str) -> None:
    assert (figure.met, figure.verdict) == (met, verdict)


def test_ratios() -> None:
    fast, slow = median("fast", "ms", [10.0]), median("slow", "ms", [40.0])
    assert ratio("slow / fast", slow, fast, at_least=4).met
    absent = ratio("slow / none", slow, median("none", "ms", [], note="served: new"))
    assert (absent.value, absent.note) == (None, "served: new")
    assert paired("pairs", [2.0, 30.0, 8.0], [1.0, 10.0, 2.0], at_most=3.0).value == 3.0


def test_the_table_has_all_figures() -> None:
    shown = table({"speed": [Figure("new", 12.5, "ms", note="noisy")], "size": [Figure("memory", None, "MB")]})
    assert shown.splitlines()[0] == "speed"
    assert "new" in shown
    assert "12.5 ms" in shown
    assert "noisy" in shown
    assert "memory" in shown


def test_upstream_calls_the_tool_once_for_each_question() -> None:
    asked = b'{"tools":[{"name":"look_up"}],"messages":[{"role":"user","content":"Please look"}]}'
    told = asked[:-2] + b',{"content":[{"type":"tool_result"}]}]}'
    assert b'"tool_use"' in messages_api.answer(asked, 1)
    assert b'"tool_use"' not in messages_api.answer(told, 2)
    assert b'"tool_use"' not in messages_api.answer(b'{"messages":[{"content":"Please look"}]}', 3)


def test_no_two_answers_of_the_upstream_have_the_same_ids() -> None:
    one, other = (messages_api.answer(b'{"tools":[{}],"x":"Please look"}', number) for number in (1, 2))
    assert b"msg_000001" in one
    assert b"toolu_000002" in other
    assert len(one) == len(other)


async def test_the_accountant_answers_with_what_the_cache_makes_of_a_request(tmp_path: Path) -> None:
    system = [{"type": "text", "text": "Think first. " * 500, "cache_control": {"type": "ephemeral"}}]
    body: dict[str, Any] = {"model": "claude-x", "system": system, "messages": [{"role": "user", "content": "Hello"}]}
    with (tmp_path / "log").open("w+b", buffering=0) as log:
        accountant = messages_api.Accountant(log)
        first, second = (accountant.answer(msgspec.json.encode(body), number) for number in (1, 2))
        # What is asked while the first answer has not begun reads nothing of it.
        assert b'"cache_read_input_tokens":0' in first
        assert b'"cache_read_input_tokens":0' in second
        await asyncio.sleep(messages_api.DELAY)
        third = accountant.answer(msgspec.json.encode(body), 3)
        marked = accountant.answer(msgspec.json.encode(body | {"system": system * 5}), 4)
        log.seek(0)
        counted = [msgspec.json.decode(line, type=Counted) for line in log]
    assert f'"cache_read_input_tokens":{round(counted[2].read)}'.encode() in third
    assert counted[2].read > 1600
    assert len({each.total for each in counted}) == 1
    assert third.count(b'"thinking_delta"') == 3
    assert b'"text_delta"' in third
    assert marked.startswith(b"HTTP/1.1 400 ")


@pytest.fixture(scope="module")
def instant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler")
    return bench.compile_instant(tmp_path_factory.mktemp("instant"))


def run(instant: Path, data: bytes, *arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run([instant, *arguments], input=data, capture_output=True, timeout=60, check=True)
    return [msgspec.json.decode(line) for line in done.stdout.splitlines()]


def test_instant_cli_has_a_version_and_a_login(instant: Path) -> None:
    said = subprocess.run([instant, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == "2.1.330 (Claude Code)\n"
    [login] = run(instant, b"", "--setting-sources", "", "auth", "status", "--json")
    assert login["loggedIn"] is True


def test_instant_cli_plays_a_conversation(instant: Path) -> None:
    past = ask("before").replace(b'"client_composed"', b'"shouldQuery":false,"client_composed"')
    first, *rest = run(instant, begin("deltas=3 size=2") + past + ask("deltas=1 each"), *FLAGS)
    assert first["response"]["request_id"] == "r0"
    assert first["response"]["response"]["models"]
    events = [line["event"] for line in rest if line["type"] == "stream_event"]
    kinds = [event["type"] for event in events]
    assert kinds[:6] == ["message_start", "content_block_start", *["content_block_delta"] * 3, "content_block_stop"]
    assert kinds[6:8] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_delta") == 4
    assert events[2]["delta"] == {"type": "text_delta", "text": "yy"}
    results = [line for line in rest if line["type"] == "result"]
    assert [result["num_turns"] for result in results] == [1, 0, 1]
    assert results[0]["result"] == "yyyyyy"


def test_every_delta_of_a_long_answer_comes(instant: Path) -> None:
    lines = run(instant, ask("deltas=5000 size=6"))
    pieces = [
        line["event"]["delta"]["text"]
        for line in lines
        if line["type"] == "stream_event" and line["event"]["type"] == "content_block_delta"
    ]
    assert pieces == ["yyyyyy"] * 5000


def test_what_cannot_be_measured_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    arguments = ["--only", "back", "--cli", str(tmp_path / "missing"), "--out", str(out)]
    assert bench.main([*arguments, "--check"]) == 1
    assert "not measured" in capsys.readouterr().out
    report = msgspec.json.decode(out.read_bytes(), type=bench.Report)
    assert [figure.value for group in report.figures.values() for figure in group] == [None]


def test_every_api_is_spoken(instant: Path, tmp_path: Path) -> None:
    home, empty = tmp_path / "home", tmp_path / "empty"
    home.mkdir()
    empty.mkdir()
    with upstream() as port, server(Place(str(instant), home, empty, port)) as running:
        for api in ("chat", "responses", "messages"):
            with apis.Speaker(running.port, api) as speaker:
                heard = speaker.ask([{"role": "user", "content": f"Say it to {api}. deltas=3"}])
                assert 0 < heard.event <= heard.text
                assert heard.served == "new"
                with pytest.raises(BenchError, match="400"):
                    speaker.ask([{"role": "nobody", "content": "x"}])
        for api in ("chat", "responses"):
            with apis.following(running, api) as turn:
                assert turn() > 0
