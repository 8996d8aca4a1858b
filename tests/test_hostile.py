"""Clients' schemas that cost years or gigabytes: the server, as a process, answers others meanwhile, and ends."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import fake_cli, hostile
from tests.conftest import chat
from tests.outcomes import Expects
from tests.served import Served, cpu_seconds, wait_for

USAGE = {"input_tokens": 10, "output_tokens": 12}
SKIPPED = "x-claude-proxy-validation"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("hostile")
    with Served(fake_cli.write(home), home / "state") as served:
        yield served


def event(**event: Any) -> list[Any]:
    return ["line", {"type": "stream_event", "event": event, "session_id": "s", "parent_tool_use_id": None}]


def structured(text: str) -> list[list[Any]]:
    """The CLI's answer in a given form: a call of its own tool."""
    head = {"type": "message", "role": "assistant", "model": "claude-opus-5-5", "content": [], "usage": USAGE}
    tool = {"type": "tool_use", "id": "toolu_1", "name": "StructuredOutput", "input": {}}
    result = {"type": "result", "subtype": "success", "is_error": False, "num_turns": 2, "stop_reason": "tool_use"}
    return [
        event(type="message_start", message=head | {"id": "msg_1", "stop_reason": None}),
        event(type="content_block_start", index=0, content_block=tool),
        event(type="content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": text}),
        event(type="content_block_stop", index=0),
        event(type="message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None}, usage=USAGE),
        event(type="message_stop"),
        ["line", result | {"result": "", "structured_output": json.loads(text)}],
    ]


def formatted(schema: Any, answer: str = "{}") -> dict[str, Any]:
    """A request for an answer of this form, which the fake CLI gives so. A schema of no object is wrapped for the CLI,
    and the answer is unwrapped."""
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return chat(structured(f'{{"value":{answer}}}'), response_format=format)


def offered(schema: Any) -> dict[str, Any]:
    """A request whose tool is called with `{}`."""
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"} | schema}}
    return chat([["call", "toolu_1", "weather"]], tools=[tool])


LARGE = {"enum": [f"{'x' * 20} {n}" for n in range(32_000)], "$ref": "#/nowhere"}
ANSWERED = {
    "nested": formatted(hostile.nested("allOf", depth=40), '{"a":1}'),
    "nested in a tool": offered(hostile.nested("anyOf", depth=40)),
    "matches": formatted(hostile.DEAR_MATCHES, hostile.DEAR_STRINGS),
    "patterns in a tool": offered(hostile.patterns(600)),
}
REFUSED = {
    "patterns": formatted(hostile.patterns(200)),
    "more patterns": formatted(hostile.patterns(600)),
    "large": formatted(LARGE),
    "too large": formatted({"enum": ["x" * 2_000_000]}),
}


class Asking:
    """`with Asking(server, body) as asking`: the request is under way; `answer` waits for its answer."""

    def __init__(self, server: Served, body: dict[str, Any]) -> None:
        self.found: list[httpx.Response] = []
        self.server, self.body = server, body
        self.thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        with contextlib.suppress(httpx.HTTPError):  # the server has ended
            self.found.append(self.server.chat(self.body))

    def __enter__(self) -> Asking:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join(60)

    @property
    def answered(self) -> bool:
        return not self.thread.is_alive()

    def answer(self) -> httpx.Response:
        self.thread.join(60)
        (found,) = self.found
        return found


def judging(server: Served) -> bool:
    """A child has used more of the processor than it needs to start."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    for pid in children:
        # One may have gone since.
        with contextlib.suppress(OSError):
            if cpu_seconds(int(pid)) > 0.25:
                return True
    return False


@pytest.mark.parametrize("name", [*ANSWERED, *REFUSED])
def test_others_are_answered_meanwhile(server: Served, expects: Expects, name: str) -> None:
    """The server's own work is measured, not its time: that of one judgement alone would be many seconds."""
    then = "200, marked as not validated" if name in ANSWERED else "400 that names the schema"
    expects("faults", f"a schema that costs too much: {name}", f"{then}; /health answers meanwhile")
    body = (ANSWERED | REFUSED)[name]
    before = cpu_seconds(server.pid)
    healthy = 0
    with Asking(server, body) as asking:
        while not asking.answered:
            assert server.get("/health").status_code == 200
            healthy += 1
        found = asking.answer()
    own = (cpu_seconds(server.pid) - before) / (1 + healthy)
    assert own < 0.2
    if name in ANSWERED:
        assert found.status_code == 200
        assert found.headers[SKIPPED] == "skipped"
        assert found.json()["choices"][0]["finish_reason"] in ("stop", "tool_calls")
    else:
        assert found.status_code == 400
        assert found.json()["error"]["param"] == "response_format.json_schema.schema"


def test_a_stream_says_that_it_is_not_validated(server: Served) -> None:
    with Asking(server, ANSWERED["nested"] | {"stream": True}) as asking:
        text = asking.answer().text
    assert ": validation skipped\n\n" in text
    assert text.endswith("data: [DONE]\n\n")
    assert json.dumps({"a": 1}, separators=(",", ":")).replace('"', '\\"') in text


def test_an_answer_that_was_validated_does_not_say_so(server: Served) -> None:
    point = {"type": "array", "items": {"type": "number"}}
    found = server.chat(formatted(point, "[1]"))
    assert found.json()["choices"][0]["message"]["content"] == "[1]"
    assert SKIPPED not in found.headers


def test_refused_schemas_are_not_kept(server: Served, expects: Expects) -> None:
    expects("faults", "schemas of 1 MB that are refused", "memory flat")
    for _ in range(2):
        server.chat(REFUSED["large"])
    before = server.memory()
    for _ in range(8):
        assert server.chat(REFUSED["large"]).status_code == 400
    assert server.memory() < before + 40


@pytest.mark.parametrize("name", ["nested", "patterns"])
def test_the_server_ends_when_it_is_told_to(tmp_path: Path, expects: Expects, name: str) -> None:
    expects("faults", f"SIGTERM while a schema is judged: {name}", "the server ends in order")
    with Served(fake_cli.write(tmp_path), tmp_path / "state", {"CLAUDE_PROXY_GRACE": "0.1"}) as server:
        bodies = [(ANSWERED | REFUSED)[name]] * 5
        asking = [Asking(server, body) for body in bodies]
        for one in asking:
            one.thread.start()
        wait_for(lambda: judging(server), 10, "a worker is at it")
        assert server.get("/health").status_code == 200
        assert server.end(signal.SIGTERM) == 0
        for one in asking:
            one.thread.join(60)
