"""What goes wrong, each with its outcome: children, bytes, upstream, disk, clock, signals, clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from conformance import replay
from conformance.scenario import Scenario, load
from proxy.cli.conversation import Conversation, Timeouts
from proxy.cli.process import Child
from proxy.protocol.deltas import Failed
from proxy.protocol.failures import Kind
from proxy.protocol.lines import Line
from proxy.protocol.plan import Message, Plan, TextBlock
from tests import cli_lines as say
from tests import fake_cli
from tests.conftest import Serve, alive, chat
from tests.outcomes import Expects
from tests.served import Served, wait_for

IDLE = 1
SCENARIOS = replay.FIXTURES / "scenarios"
COMPLETE = "200, complete, [DONE] once"
HALF_A_LETTER = (
    '{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\udcc3'
)
ANSWER = [["say", "Hello "], ["say", "there."], ["end"]]
WITH_FEW_FILES = ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("faults")
    with Served(fake_cli.write(home), home / "state", {"CLAUDE_PROXY_CLIENT_TIMEOUT": "2"}) as served:
        # What is compared with its memory later is a server that has answered before.
        served.chat(chat("warm"))
        served.recent(1)
        yield served


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """For the cases of a CLI that falls silent: under load every one does now and then."""
    home = tmp_path_factory.mktemp("impatient")
    with Served(fake_cli.write(home), home / "state", {"CLAUDE_PROXY_IDLE_TIMEOUT": str(IDLE)}) as served:
        yield served


def outcome(server: Served, body: dict[str, Any]) -> str:
    """What a client sees, in words."""
    answer = server.chat(body)
    if answer.headers["content-type"] == "application/json":
        found = answer.json()
        if answer.status_code == 200:
            return f"200, {found['choices'][0]['message']['content']!r}"
        retry = {"false": ", not to be retried"}.get(answer.headers.get("x-should-retry", ""), "")
        return f"{answer.status_code} {found['error']['code']}{retry}"
    events = [event[6:] for event in answer.text.split("\n\n") if event.startswith("data: ")]
    if events[-1] == "[DONE]":
        text = "".join(
            choice["delta"].get("content") or "" for event in events[:-1] for choice in json.loads(event)["choices"]
        )
        times = {1: "once"}.get(events.count("[DONE]"), "more than once")
        return f"200, {'complete' if text == 'Hello there.' else text[:60]}, [DONE] {times}"
    return f"200, then error event {json.loads(events[-1])['error']['code']}, no [DONE]"


def late(steps: list[Any]) -> list[Any]:
    """After a first delta that has certainly gone out."""
    return [["say", "Hello "], ["sleep", 0.25], *steps]


Case = tuple[str, list[Any], bool, str]
CASES: tuple[Case, ...] = (
    ("the CLI dies before its first line", [["exit", 1]], True, "502 cli_died"),
    ("the CLI dies after some lines, whole answer", [["say", "Hello "], ["exit", 1]], False, "502 cli_died"),
    ("the CLI dies after some lines, stream", late([["exit", 1]]), True, "200, then error event cli_died, no [DONE]"),
    (
        "the CLI dies in mid-character",
        late([["raw", HALF_A_LETTER], ["exit", 0]]),
        True,
        "200, then error event cli_died, no [DONE]",
    ),
    ("the CLI is killed", late([["exit", 137]]), True, "200, then error event cli_died, no [DONE]"),
    ("the CLI hangs before its first line", [["hang"]], True, "504 cli_silent"),
    ("the CLI hangs in mid-stream", late([["hang"]]), True, "200, then error event cli_silent, no [DONE]"),
    ("garbage between lines", [["raw", "\udcff\udcfe garbage {]\n"], *ANSWER], True, COMPLETE),
    ("empty lines, lines of spaces", [["raw", "\n   \n\r\n"], *ANSWER], True, COMPLETE),
    ("JSON that is no object", [["raw", 'null\n[]\n5\n"x"\n'], *ANSWER], True, COMPLETE),
    ("lines of unknown types", [["line", {"type": "new"}], *ANSWER, ["line", {"type": "new"}]], True, COMPLETE),
    ("events of unknown types", [["line", say.event({"type": "content_block_dance"})], *ANSWER], True, COMPLETE),
    ("a known line of another shape", [["line", {"type": "stream_event", "event": {"type": "content_block_start"}}]],
     True, "502 cli_protocol_error"),
    ("a result twice", [*ANSWER, ["line", say.result()]], True, COMPLETE),
    ("an answer without a message", [["line", say.result()]], True, "502 cli_protocol_error"),
    ("a message that never ends, then a result", late([["line", say.result()]]), True,
     "200, then error event upstream_cut, no [DONE]"),
    ("a last line without a newline", [["raw", "{}"], ["exit", 0]], True, "502 cli_died"),
)  # fmt: skip


@pytest.mark.parametrize(("name", "steps", "stream", "then"), CASES, ids=[case[0] for case in CASES])
def test_a_child(
    request: pytest.FixtureRequest, expects: Expects, name: str, steps: list[Any], stream: bool, then: str
) -> None:
    expects("faults", name, then)
    server: Served = request.getfixturevalue("impatient" if ["hang"] in steps else "server")
    assert outcome(server, chat(steps, stream=stream)) == then


def test_a_giant_line_of_an_unknown_type(server: Served, tmp_path: Path, expects: Expects) -> None:
    expects("faults", "a line of 6 MB of an unknown type, at each delta", "200, complete")
    shim = replay.player_shim(tmp_path / "player", big="stream_event/content_block_delta")
    with replay.Server(shim, {}) as player:
        problems = asyncio.run(replay.drive(scenario("chat/plain"), "stream", player.url))
    assert problems == []


def test_a_giant_delta(server: Served, expects: Expects) -> None:
    expects("faults", "a delta of 8 MB", "200, complete")
    text = [["say", "x" * 8_000_000], ["end"]]
    assert len(server.chat(chat(text)).json()["choices"][0]["message"]["content"]) == 8_000_000


def test_a_flood_on_stderr(tmp_path: Path, expects: Expects) -> None:
    expects("faults", "50 MB on stderr", "200, complete; memory flat")
    shim = replay.player_shim(tmp_path / "player", stderr=50_000_000)
    with Served(shim, tmp_path / "state", {"CLAUDE_PROXY_WAITING": "0"}) as server:
        assert asyncio.run(replay.drive(scenario("chat/plain"), "stream", server.url)) == []
        before = server.memory()
        for _ in range(2):
            assert asyncio.run(replay.drive(scenario("chat/plain"), "stream", server.url)) == []
        assert server.memory() < before + 40


def test_no_descriptor_is_left(tmp_path: Path, expects: Expects) -> None:
    expects("faults", "no descriptor is left", "one line in the log; served again when there are some")
    cli = fake_cli.write(tmp_path)
    with Served(cli, tmp_path / "state", {"CLAUDE_PROXY_WAITING": "0"}, wrapper=WITH_FEW_FILES) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(80):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 5))
            wait_for(lambda: "No connection can be accepted: [Errno 24]" in server.log(), 5, "it runs out of them")
            time.sleep(1.5)
            assert server.log().count("accept") == 1
        wait_for(lambda: outcome(server, chat(ANSWER)) == "200, 'Hello there.'", 5, "it serves again")


def test_a_late_result_after_the_client_has_left(tmp_path: Path, expects: Expects) -> None:
    then = "the child is killed, the next answer is its own"
    expects("faults", "lines after the client has left, from a CLI that ignores SIGTERM", then)
    settings = {"CLAUDE_PROXY_WAITING": "0", "CLAUDE_PROXY_PARKED": "0"}
    with Served(fake_cli.write(tmp_path, stubborn=True), tmp_path / "state", settings) as server:
        with httpx.Client(trust_env=False, timeout=60) as client:
            steps = chat(late([["sleep", 0.5], ["say", "late"], ["end"]]), stream=True)
            with client.stream("POST", f"{server.url}/v1/chat/completions", json=steps) as stream:
                lines = stream.iter_lines()
                next(lines)
        answers = server.chat(chat("next")).json()["choices"][0]["message"]["content"]
        assert answers == "echo: next"
        [first, *_] = fake_cli.pids(tmp_path)
        wait_for(lambda: not alive(first), 5, "the child of the client that left is gone")


def scenario(name: str) -> Scenario:
    return load(SCENARIOS / f"{name}.toml", SCENARIOS)


ERRORS = sorted(path.stem for path in (SCENARIOS / "errors").glob("*.toml"))


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    shim = replay.player_shim(tmp_path_factory.mktemp("player"))
    with replay.Server(shim, {}) as server:
        yield server.url


@pytest.mark.parametrize("name", ERRORS)
def test_upstream_as_recorded(player: str, expects: Expects, name: str) -> None:
    """What the real CLI wrote for each of these answers of the Messages API (fixtures/transcripts)."""
    found = scenario(f"errors/{name}")
    if not (replay.TRANSCRIPTS / replay.NEWEST / "errors" / f"{name}.jsonl").exists():
        pytest.skip("not recorded yet")
    [asked] = found.request
    came = asyncio.run(replay.ask(player, asked.speaks, asked.request("stream")))
    error = came.get("error")
    if error is None:
        then = f"{came['status']}, {came['content']!r}"
    elif came["status"] == 200:
        then = f"200, then error event {error['code']}"
    else:
        then = f"{came['status']} {error['code']}"
    expects("faults", f"upstream: {name.replace('_', ' ')}", then)
    assert asked.differences(came, "stream") == []


# Children that cannot be started. Nothing waits, so that each request starts its own.

STARTS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("the CLI dies at its start", {"exit": 1, "stderr": "bad flag"}, "502 cli_died"),
    ("the CLI hangs at its start", {"mute": True}, "504 cli_silent"),
    ("the CLI starts slowly", {"slow": 0.7}, COMPLETE),
    ("the CLI refuses `initialize`", {"refuse": "initialize"}, "502 cli_protocol_error"),
)


class Written(Child):
    """A child that has written these lines, all at once, before anybody looks."""

    def __init__(self, lines: list[Line]) -> None:
        super().__init__()
        self._lines = lines


async def test_a_refusal_that_comes_together_with_the_answer(expects: Expects) -> None:
    """The answer was made without what the refused command was to bring."""
    expects("faults", "the CLI refuses `initialize` and answers all the same", "cli_protocol_error, no answer")
    refusal = {"subtype": "error", "request_id": "initialize", "error": "no"}
    refused = {"type": "control_response", "response": refusal}
    child = Written(say.lines(refused, *say.answer("Hello.")))
    conversation = Conversation(child, Timeouts(1.0, 1.0), "replace")
    await conversation.ask_new(Plan("opus", "Be brief.", (Message("user", (TextBlock("hi"),)),)))
    [failed] = await conversation.deltas(1.0)
    assert isinstance(failed, Failed)
    assert failed.failure.kind is Kind.CLI_CONFUSED


@pytest.mark.parametrize(("name", "faults", "then"), STARTS, ids=[start[0] for start in STARTS])
def test_a_start(tmp_path: Path, expects: Expects, name: str, faults: dict[str, Any], then: str) -> None:
    expects("faults", name, then)
    settings = {"CLAUDE_PROXY_IDLE_TIMEOUT": str(IDLE), "CLAUDE_PROXY_WAITING": "0"}
    with Served(fake_cli.write(tmp_path, **faults), tmp_path / "state", settings) as server:
        assert outcome(server, chat(ANSWER, stream=True)) == then
        assert server.get("/health").status_code in (200, 503)


def becomes_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


UNSTARTABLE: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("the CLI is missing", Path.unlink),
    ("the CLI is not executable", lambda path: path.chmod(0o644)),
    ("the CLI is a directory", becomes_a_directory),
)


def test_a_cli_that_goes_while_the_server_runs(tmp_path: Path, expects: Expects) -> None:
    then = "502 cli_unavailable, not to be retried"
    for name, _ in UNSTARTABLE:
        expects("faults", name, f"{then}; health 503; well again once the CLI is")
    cli = fake_cli.write(tmp_path)
    whole = cli.read_bytes()
    with Served(cli, tmp_path / "state", {"CLAUDE_PROXY_WAITING": "0"}) as server:
        for _, spoil in UNSTARTABLE:
            spoil(cli)
            assert outcome(server, chat(ANSWER, stream=True)) == then
            assert server.get("/health").status_code == 503
            if cli.is_dir():
                cli.rmdir()
            cli.write_bytes(whole)
            cli.chmod(0o755)
            assert outcome(server, chat(ANSWER, stream=True)) == COMPLETE


# The ledger's file.


def test_a_disk_that_is_full(tmp_path: Path, expects: Expects) -> None:
    """No file may grow beyond 48 kB, as if the disk were full then."""
    expects("faults", "disk full for usage", "every answer 200, one warning, the file is whole")
    wrapper = ("bash", "-c", 'ulimit -f 48; exec "$@"', "bash")
    with Served(fake_cli.write(tmp_path), tmp_path / "state", {"LOG_LEVEL": "warn"}, wrapper=wrapper) as server:
        for number in range(25):
            assert server.chat(chat(f"{number}")).status_code == 200
        wait_for(lambda: "usage cannot be written" in server.log(), 5, "the warning")
        assert server.get("/v1/usage").status_code == 200
        assert server.log().count("usage cannot be written") == 1
    with contextlib.closing(sqlite3.connect(server.usage)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_disk_that_is_full_for_responses(tmp_path: Path, expects: Expects) -> None:
    then = "every answer 200, one line in the log each; what cannot be stored is a 500 that says why; the file is whole"
    expects("faults", "disk full for stored responses", then)
    wrapper = ("bash", "-c", 'ulimit -f 400; exec "$@"', "bash")
    settings = {"CLAUDE_PROXY_STORE": "file", "LOG_LEVEL": "warn"}
    with Served(fake_cli.write(tmp_path), tmp_path / "state", settings, wrapper=wrapper) as server:

        def post(path: str, body: dict[str, Any]) -> httpx.Response:
            return httpx.post(f"{server.url}/v1/{path}", json=body, trust_env=False, timeout=60)

        text = "x" * 60_000
        answers = [post("responses", {"model": "opus", "input": text}) for _ in range(12)]
        assert [answer.status_code for answer in answers] == [200] * 12
        assert server.get(f"/v1/responses/{answers[-1].json()['id']}").status_code == 404
        refused = post("conversations", {"items": [{"role": "user", "content": text}]})
        assert (refused.status_code, "disk" in refused.text) == (500, True), refused.text
        assert f"{answers[-1].json()['id']} is not stored" in server.log()
        assert "Traceback" not in server.log()
        assert server.get(f"/v1/responses/{answers[0].json()['id']}").status_code == 200
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "responses.sqlite3")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_usage_file_that_is_locked(server: Served, expects: Expects) -> None:
    expects("faults", "usage file locked by another program", "answers as fast as ever; rows written afterwards")
    server.chat(chat("before"))
    with contextlib.closing(sqlite3.connect(server.usage, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.perf_counter()
        ids = [server.chat(chat("locked")).headers["x-request-id"] for _ in range(5)]
        took = time.perf_counter() - began
        other.execute("ROLLBACK")
    assert took < 5
    wait_for(lambda: {row["id"] for row in server.recent()} >= set(ids), 8, "all rows are there")


# Signals and the clock.


@contextlib.contextmanager
def streaming(server: Served, steps: list[Any]) -> Iterator[Any]:
    """An open stream and its lines, the first of which has come."""
    url, body = f"{server.url}/v1/chat/completions", chat(steps, stream=True)
    with httpx.Client(trust_env=False, timeout=60) as client, client.stream("POST", url, json=body) as stream:
        lines = stream.iter_lines()
        yield lines, next(lines)


def test_sigterm(tmp_path: Path, expects: Expects) -> None:
    expects(
        "faults", "SIGTERM of the server", "answers under way end well within the grace; exit code 0; no child left"
    )
    with Served(fake_cli.write(tmp_path), tmp_path / "state", {"CLAUDE_PROXY_GRACE": "5"}) as server:
        with streaming(server, [["say", "Hello "], ["sleep", 0.5], ["say", "there."], ["end"]]) as (lines, _):
            server.process.send_signal(signal.SIGTERM)
            assert "data: [DONE]" in list(lines)
        assert server.end(signal.SIGTERM) == 0
        assert not any(map(alive, fake_cli.pids(tmp_path)))


def test_sigterm_with_an_answer_that_does_not_end(tmp_path: Path, expects: Expects) -> None:
    expects(
        "faults", "SIGTERM, and an answer that outlasts the grace", "error event, no [DONE]; exit code 0; no child left"
    )
    with Served(fake_cli.write(tmp_path), tmp_path / "state", {"CLAUDE_PROXY_GRACE": "1"}) as server:
        with streaming(server, [["say", "Hello "], ["sleep", 30]]) as (lines, _):
            assert server.end(signal.SIGTERM) == 0
            said = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        assert said[-1]["error"]["code"] == "shutting_down"
        assert not any(map(alive, fake_cli.pids(tmp_path)))


def test_sigkill(tmp_path: Path, expects: Expects) -> None:
    expects("faults", "SIGKILL of the server", "no child left; the request shows as interrupted after the restart")
    cli = fake_cli.write(tmp_path)
    with Served(cli, tmp_path / "state") as server, streaming(server, [["say", "Hello "], ["sleep", 30]]):
        wait_for(lambda: server.rows(1), 10, "the row is opened")
        server.end(signal.SIGKILL)
    wait_for(lambda: not any(map(alive, fake_cli.pids(tmp_path))), 5, "the children are gone")
    with Served(cli, tmp_path / "state") as again:
        assert again.recent()[0]["outcome"] == "interrupted"


@pytest.mark.parametrize("jump", [400 * 86_400.0, -400 * 86_400.0])
async def test_the_clock_jumps(serve: Serve, monkeypatch: pytest.MonkeyPatch, expects: Expects, jump: float) -> None:
    expects("faults", f"the clock jumps {jump / 86_400:+.0f} days in mid-answer", "200, complete; no time-out, no wait")
    server = await serve()
    async with server.client() as client:
        steps = [["say", "a"], ["sleep", 0.3], ["say", "b"], ["end"]]
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=chat(steps)))
        await asyncio.sleep(0.1)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        answer = await asking
        assert answer.json()["choices"][0]["message"]["content"] == "ab"
        assert int(answer.headers["openai-processing-ms"]) < 60_000
        again = await client.post("/v1/chat/completions", json=chat("hi"))
    assert again.status_code == 200


# Clients.


def connection(server: Served) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    return found


def closed(sock: socket.socket) -> bool:
    """The server has ended the connection."""
    try:
        while sock.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def head(path: str = "/v1/chat/completions", *more: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", *more)
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def test_a_body_of_100_mb(server: Served, expects: Expects) -> None:
    expects("faults", "a body of 100 MB, announced", "413 at its first bytes")
    with connection(server) as sock:
        sock.sendall(head("/v1/chat/completions", "content-length: 100000000") + b"{" * 1000)
        assert b" 413 " in sock.recv(4096)


def test_a_body_of_100_mb_that_is_not_announced(server: Served, expects: Expects) -> None:
    """What is free in the process the allocator may keep for the next body: four bodies take no more than one."""
    expects("faults", "a body of 100 MB, in chunks", "413; less than 200 MB more memory meanwhile, none of it kept")
    before = server.memory()
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    peak = before
    for _ in range(4):
        with connection(server) as sock:
            sock.sendall(head("/v1/chat/completions", "transfer-encoding: chunked"))
            with contextlib.suppress(OSError):
                for _ in range(100):
                    sock.sendall(piece)
                    peak = max(peak, server.memory())
            with contextlib.suppress(OSError):
                assert b" 413 " in sock.recv(4096)
        wait_for(lambda: server.recent(1)[0]["outcome"] == "body_too_large", 5, "its row is completed")
    assert peak < before + 200


@pytest.mark.parametrize("flood", [b"x-flood: " + b"x" * 1000 + b"\r\n", b"x", b"a: b\r\n"])
def test_a_flood_of_headers(server: Served, expects: Expects, flood: bytes) -> None:
    expects("faults", f"a head that does not end, of {flood[:12]!r}", "431 after 64 kB or 256 fields; memory flat")
    before = server.memory()
    with connection(server) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + (b"" if len(flood) > 1 else b"x-flood: "))
        sent = 0
        try:
            while sent < 50_000_000:
                sock.sendall(flood * (65_536 // len(flood)))
                sent += 65_536
        except OSError:
            pass
        assert sent < 10_000_000
    assert server.memory() < before + 30
    assert server.get("/health").status_code == 200


def test_a_million_messages(server: Served, expects: Expects) -> None:
    expects("faults", "a body of a million messages", "400 before anything is made of it; the server answers others")
    pair = b'{"role":"user","content":"a"},{"role":"assistant","content":"b"},'
    body = b'{"model":"opus","messages":[' + pair * 500_000 + b'{"role":"user","content":"a"}]}'
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"}, timeout=60,
        trust_env=False,
    )  # fmt: skip
    assert answer.status_code == 400
    assert "250000 JSON values" in answer.json()["error"]["message"]


@pytest.mark.parametrize("flood", [b"a: b\r\n", b"x"], ids=["many", "one"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/nowhere"])
def test_a_flood_of_trailers(server: Served, expects: Expects, path: str, flood: bytes) -> None:
    then = "no more than 64 kB are taken beside a body, and no more than a body's size after the answer; memory flat"
    expects("faults", f"trailers that do not end, of {flood[:12]!r}, to {path}", then)
    before = peak = server.memory()
    with connection(server) as sock:
        sock.sendall(head(path, "transfer-encoding: chunked") + b"0\r\nx-flood: x")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 60_000_000:
                sock.sendall(flood * (65_536 // len(flood)))
                sent += 65_536
                peak = max(peak, server.memory())
        assert sent < 10_000_000
    assert peak < before + 30
    assert server.get("/health").status_code == 200


def test_clients_that_leave_after_asking_twice(server: Served, expects: Expects) -> None:
    expects("faults", "8 clients that ask twice without waiting, and leave", "no child and no slot is used for them")
    body = json.dumps(chat([["say", "a"], ["hang"]], stream=True)).encode()
    whole = head("/v1/chat/completions", f"content-length: {len(body)}") + body
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            sock = stack.enter_context(connection(server))
            sock.sendall(whole + whole)
        wait_for(lambda: server.get("/health").json()["children"]["busy"] > 0, 5, "they are answered")

    def rest() -> bool:
        counts = server.get("/health").json()["children"]
        return bool(counts["busy"] == counts["queued"] == 0)

    wait_for(rest, 5, "nothing is under way")
    assert {row["outcome"] for row in server.recent(8)} == {"cancelled"}


async def test_a_head_that_does_not_go_on(serve: Serve, expects: Expects) -> None:
    expects("faults", "half-open: a connection that sends nothing, or half a head", "closed after 75 s (here 1 s)")
    server = await serve(keep_alive=1)
    for begun in (b"", b"GET /health HTTP/1.1\r\nhost: loc"):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(begun)
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()


def test_a_body_that_does_not_go_on(server: Served, expects: Expects) -> None:
    then = "closed after CLAUDE_PROXY_CLIENT_TIMEOUT (here 2 s)"
    expects("faults", "half-open: half a body", then)
    with connection(server) as sock:
        sock.sendall(head("/v1/chat/completions", "content-length: 1000") + b'{"model"')
        assert closed(sock)
    wait_for(lambda: server.recent(1)[0]["outcome"] == "cancelled", 5, "its row is completed")


def test_a_client_that_takes_nothing(server: Served, expects: Expects) -> None:
    then = "ended after CLAUDE_PROXY_CLIENT_TIMEOUT (here 2 s), child and slot with it"
    expects("faults", "half-open: a client that does not read its answer", then)
    before = server.memory()
    body = json.dumps(chat([["many", 40_000, "x" * 2000], ["end"]], stream=True)).encode()
    with connection(server) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(head("/v1/chat/completions", f"content-length: {len(body)}") + body)
        wait_for(lambda: server.get("/health").json()["children"]["busy"] == 1, 5, "it is answered")
        wait_for(lambda: server.get("/health").json()["children"]["busy"] == 0, 10, "it is ended")
        assert server.memory() < before + 60
    assert server.recent(1)[0]["outcome"] == "cancelled"


def test_requests_that_are_no_http(server: Served, expects: Expects) -> None:
    expects("faults", "bytes that are no HTTP", "400 in OpenAI's form, connection closed")
    for sent in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100):
        with connection(server) as sock:
            sock.sendall(sent)
            answer = sock.recv(4096)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
            assert closed(sock)


def test_many_slow_readers(tmp_path: Path, expects: Expects) -> None:
    """Each is sent 20 MB, and takes almost nothing; the soak does it with 1,000."""
    expects(
        "faults",
        "20 slow readers of 20 MB each (1,000 in the soak)",
        "less than 5 MB of memory for each; others are served",
    )
    slow_readers(tmp_path, 20, 6)


def slow_readers(home: Path, count: int, at_once: int) -> float:
    """So many clients that do not read; the server's memory meanwhile, in MB."""
    settings = {
        "CLAUDE_PROXY_MAX_CONVERSATIONS": str(at_once + 1), "CLAUDE_PROXY_MAX_QUEUE": str(count), "LOG_LEVEL": "error",
        "CLAUDE_PROXY_WAITING": "0",
    }  # fmt: skip
    body = json.dumps(chat([["many", 10_000, "x" * 2000], ["end"]], stream=True)).encode()
    with Served(fake_cli.write(home), home / "state", settings) as server, contextlib.ExitStack() as stack:
        server.chat(chat("warm"))
        before = server.memory()
        for _ in range(count):
            sock = stack.enter_context(connection(server))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(head("/v1/chat/completions", f"content-length: {len(body)}") + body)
        peak = before

        def full() -> bool:
            nonlocal peak
            peak = max(peak, server.memory())
            counts = server.get("/health").json()["children"]
            return bool(counts["busy"] >= at_once and counts["busy"] + counts["queued"] >= count)

        wait_for(full, 60, "all are answered or wait")
        for _ in range(10):
            full()
            time.sleep(0.1)
        assert peak - before < 5 * (at_once + 1) + 0.2 * count + 20
        assert server.get("/v1/models").status_code == 200
        return peak


def test_a_client_that_sends_all_at_once(server: Served, expects: Expects) -> None:
    expects("faults", "20 requests on one connection without waiting", "each answered, in order")
    with connection(server) as sock:
        for number in range(20):
            body = json.dumps(chat(f"{number}")).encode()
            sock.sendall(head("/v1/chat/completions", f"content-length: {len(body)}") + body)
        came = b""
        while came.count(b'"echo: ') < 20:
            part = sock.recv(65536)
            assert part
            came += part
    order = [int(part.split(b'"')[0]) for part in came.split(b'"echo: ')[1:]]
    assert order == list(range(20))


def test_clients_that_leave_at_every_moment(server: Served, expects: Expects) -> None:
    expects("faults", "60 clients that leave at random moments", "no child, no slot and no descriptor is left")
    server.chat(chat("warm"))
    before = server.descriptors()
    body = json.dumps(chat([["say", "a"], ["sleep", 0.2], ["say", "b"], ["end"]], stream=True)).encode()
    whole = head("/v1/chat/completions", f"content-length: {len(body)}") + body

    def leave(number: int) -> None:
        with connection(server) as sock:
            sock.sendall(whole[: len(whole) * (number % 12) // 9])
            time.sleep((number % 7) * 0.05)

    threads = [threading.Thread(target=leave, args=(number,)) for number in range(60)]
    for act in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            act(thread)

    def children() -> Any:
        return server.get("/health").json()["children"]

    wait_for(lambda: children()["busy"] == children()["queued"] == 0, 15, "nothing is under way")
    wait_for(lambda: server.descriptors() <= before + 8, 10, "no descriptor is left")
    assert server.chat(chat("after")).json()["choices"][0]["message"]["content"] == "echo: after"
