"""Tries the CLI that is installed, offline: `claude-max-api doctor --cli-check`.

The CLI is started as the server starts it, but for its login, which is made up, and its Messages API, which is a
server on loopback with scripted answers. What arrives there and what the CLI makes of the answers is compared with what
the recordings of this release show.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from proxy.checks import Check
from proxy.cli.conversation import Conversation, Timeouts
from proxy.cli.launch import launch
from proxy.cli.process import STOP_GRACE
from proxy.cli.unproven import UNPROVEN
from proxy.cli.workspace import Workspace
from proxy.protocol.answer import Answer
from proxy.protocol.deltas import Failed, Finished
from proxy.protocol.failures import Failure, Kind
from proxy.protocol.plan import (
    Message,
    Plan,
    Schema,
    TextBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
)
from proxy.settings import Settings

# Seconds for one case; it takes well below one.
TIMEOUT: Final = 10.0
MODEL: Final = "claude-opus-5-5"
_OBJECT: Final = b'{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'
_TOOL: Final = Tool("weather", "Tells the weather.", Raw(_OBJECT))
# Marks for the prompt cache that recorded CLIs set.
MARKS: Final = 3
_ARRIVED_LIMIT: Final = 16 << 20


class Seen(Struct, frozen=True):
    """What came of a case: the body that arrived upstream, the answer, and the failure if it ended with one."""

    body: dict[str, Any]
    answer: Answer
    failure: Failure | None


class Case(Struct, frozen=True):
    """`reply`: status and body that the Messages API answers with. `problem`: what is wrong, empty if nothing is."""

    name: str
    plan: Plan
    reply: tuple[int, bytes]
    problem: Callable[[Seen], str]


# Answers of the Messages API.


def _events(*blocks: tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]], reason: str) -> tuple[int, bytes]:
    usage = {"input_tokens": 10, "output_tokens": 1}
    message: dict[str, Any] = {
        "id": "msg_01", "type": "message", "role": "assistant", "model": MODEL, "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    events: list[Mapping[str, Any]] = [{"type": "message_start", "message": message}]
    for index, (start, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": reason, "stop_sequence": None}
    events += [{"type": "message_delta", "delta": ended, "usage": {"output_tokens": 5}}, {"type": "message_stop"}]
    rows = (f"event: {event['type']}\ndata: {msgspec.json.encode(event).decode()}\n\n" for event in events)
    return 200, "".join(rows).encode()


def _text(words: str) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
    return {"type": "text", "text": ""}, [{"type": "text_delta", "text": words}]


def _call(name: str, arguments: str) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
    start = {"type": "tool_use", "id": "toolu_01", "name": name, "input": {}}
    return start, [{"type": "input_json_delta", "partial_json": arguments}]


# What has to come of them.


def _question(body: Mapping[str, Any], words: str) -> str:
    texts = [
        block.get("text")
        for message in body.get("messages", ())
        if message.get("role") == "user" and isinstance(message.get("content"), list)
        for block in message["content"]
    ]
    plain = [message.get("content") for message in body.get("messages", ()) if isinstance(message.get("content"), str)]
    return "" if words in (*texts, *plain) else f"the question did not arrive as it was put in: {words}"


def _differs(what: str, found: object, wanted: object) -> str:
    return "" if found == wanted else f"{what} is {found!r:.100}, not {wanted!r:.100}"


def _plain(seen: Seen) -> str:
    body = seen.body
    return (
        _question(body, "What is the capital of Italy?")
        or _differs("the number of tools", len(body.get("tools", ())), 0)
        or _differs("the answer", seen.answer.text, "Rome.")
    )


def _marks(value: Any) -> int:
    """How many marks for the prompt cache are in it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return int(isinstance(value, dict) and "cache_control" in value) + sum(map(_marks, inner))


def _tool_call(seen: Seen) -> str:
    # The Messages API takes four, of which the server sets one.
    marks = _marks(seen.body)
    roles = [message.get("role") for message in seen.body.get("messages", ()) if message.get("role") != "system"]
    calls = [(call.name, call.arguments) for call in seen.answer.calls]
    return (
        _differs("the tools that arrived", [tool.get("name") for tool in seen.body.get("tools", ())], [_TOOL.name])
        or _differs("the order of messages that arrived", roles, ["user", "assistant", "user", "assistant", "user"])
        or _differs("the calls", calls, [(_TOOL.name, '{"city":"Oslo"}')])
        or (f"the CLI sets {marks} marks for the prompt cache, more than {MARKS}" if marks > MARKS else "")
    )


def _structured(seen: Seen) -> str:
    return _differs("the structured answer", seen.answer.text, '{"city":"Rome"}')


def _thinking(seen: Seen) -> str:
    return _differs("the thinking", seen.answer.thinking, "Hm.") or _differs("the answer", seen.answer.text, "Yes.")


def _error(seen: Seen) -> str:
    kind = None if seen.failure is None else seen.failure.kind
    return _differs("the kind of failure", kind, Kind.REFUSED_UPSTREAM)


def _user(words: str) -> Message:
    return Message("user", (TextBlock(words),))


_PAST: Final = (
    _user("What is the weather in Rome?"),
    Message("assistant", (ToolUseBlock("toolu_00", _TOOL.name, Raw(b'{"city":"Rome"}')),)),
    Message("user", (ToolResultBlock("toolu_00", (TextBlock("Sunny."),)),)),
    Message("assistant", (TextBlock("It is sunny."),)),
)
_REFUSED: Final = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}, "request_id": "req_1"}

CASES: Final = (
    Case(
        "plain text", Plan("opus", None, (_user("What is the capital of Italy?"),)),
        _events(_text("Rome."), reason="end_turn"), _plain,
    ),
    Case(
        "past messages, and a tool call", Plan("opus", "Be brief.", (*_PAST, _user("And in Oslo?")), (_TOOL,)),
        _events(_call(_TOOL.name, '{"city":"Oslo"}'), reason="tool_use"), _tool_call,
    ),
    Case(
        "structured answer",
        Plan("opus", None, (_user("Which city?"),), schema=Schema(Raw(_OBJECT), Raw(_OBJECT), wrapped=False)),
        _events(_call("StructuredOutput", '{"city":"Rome"}'), reason="tool_use"), _structured,
    ),
    Case(
        "thinking", Plan("opus", None, (_user("Is it so?"),), effort="high"),
        _events(
            (
                {"type": "thinking", "thinking": "", "signature": ""},
                [{"type": "thinking_delta", "thinking": "Hm."}, {"type": "signature_delta", "signature": "c2ln"}],
            ),
            _text("Yes."), reason="end_turn",
        ), _thinking,
    ),
    Case(
        "an error of the Messages API", Plan("opus", None, (_user("Is it refused?"),)),
        (400, msgspec.json.encode(_REFUSED)), _error,
    ),
)  # fmt: skip


class Upstream:
    """A Messages API on loopback that gives one answer to every request for a message; `bodies` are what arrived."""

    def __init__(self, reply: tuple[int, bytes]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._reply = reply
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in head[1:])}
            size = min(int(fields.get("content-length", "0")), _ARRIVED_LIMIT)
            body = await reader.readexactly(size)
            status, answer = 404, b"{}"
            if head[0].startswith("POST /v1/messages") and "count_tokens" not in head[0]:
                self.bodies.append(msgspec.json.decode(body, type=dict[str, Any]))
                status, answer = self._reply
            kind = "text/event-stream" if status == 200 else "application/json"
            writer.write(
                f"HTTP/1.1 {status} Answer\r\ncontent-type: {kind}\r\ncontent-length: {len(answer)}\r\n"
                "request-id: req_1\r\nconnection: close\r\n\r\n".encode()
                + answer
            )
            await writer.drain()
        writer.close()


async def _ask(case: Case, settings: Settings, path: str, environ: Mapping[str, str], workspace: Workspace) -> Seen:
    """Raises OSError if the CLI cannot be started."""
    upstream = Upstream(case.reply)
    async with upstream as url:
        scripted = replace(settings, login="subscription", upstream_url=url, retries=0)
        child = await workspace.start(launch(path, scripted, environ, str(workspace.cwd)))
        try:
            conversation = Conversation(child, Timeouts(TIMEOUT, TIMEOUT), settings.system_prompt_mode)
            await conversation.ask_new(case.plan)
            failure = None
            while True:
                deltas = await conversation.deltas(TIMEOUT)
                if deltas and isinstance(deltas[-1], Failed):
                    failure = deltas[-1].failure
                if deltas and isinstance(deltas[-1], Failed | Finished):
                    break
        finally:
            await child.stop(STOP_GRACE)
    return Seen(upstream.bodies[-1] if upstream.bodies else {}, conversation.answer.answer(), failure)


async def _check(case: Case, settings: Settings, path: str, environ: Mapping[str, str], workspace: Workspace) -> Check:
    try:
        seen = await _ask(case, settings, path, environ, workspace)
    except OSError as error:
        return Check("FAIL", "cli check", f"{case.name}: the CLI cannot be started: {error.strerror or error}.")
    problem = case.problem(seen)
    if problem and seen.failure is not None:
        problem = seen.failure.message
    return Check("FAIL" if problem else "ok", "cli check", f"{case.name}{f': {problem}' if problem else ''}")


async def check_cli(settings: Settings, path: str, environ: Mapping[str, str], root: Path) -> list[Check]:
    """A line for each case, and one for what the CLI wrote that no recording has. Nothing of the user's is read."""
    UNPROVEN.remember(None, "")
    workspace = Workspace(root)
    try:
        with tempfile.TemporaryDirectory(prefix="claude-max-api-") as scratch:
            made_up = {"HOME": scratch, "CLAUDE_CONFIG_DIR": scratch, "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-made-up"}
            found = [await _check(case, settings, path, {**environ, **made_up}, workspace) for case in CASES]
    finally:
        workspace.close()
    new = ", ".join(map(str, sorted(UNPROVEN.counts)))
    return [*found, Check("warn", "cli check", f"not in any recording: {new}")] if new else found
