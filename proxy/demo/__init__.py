"""The demo mode: recorded answers of the real CLI, played back without any CLI or login.

The transcripts beside this file are copies of those of the newest CLI in `fixtures/transcripts/*/demo`; a test compares
them. A demo child takes the commands that a CLI takes and answers each question with what the CLI wrote when it was
recorded, so that everything but the child is what it is with Claude.
"""

from __future__ import annotations

import asyncio
from functools import cache
from importlib import resources
from typing import Final

import msgspec
from msgspec import Raw, Struct, field

from proxy.cli.process import Child, Launch
from proxy.protocol import replies

# Seconds between two lines of an answer; the recording's own times are those of a scripted upstream.
PACE: Final = 0.02
# The first question of a conversation gets the first, all others the second.
ANSWERS: Final = ("welcome", "further")
# What is said instead of a count: characters of a token, and a model with its size.
CHARACTERS: Final = 4
WINDOW: Final = 1_000_000
MODEL: Final = "claude-opus-5-5"
_PLAYED: Final = frozenset(("stream_event", "assistant", "rate_limit_event", "result"))


class _Crossed(Struct, frozen=True):
    """A line of a transcript. The header has no `to`."""

    to: str = ""
    line: Raw = Raw()
    cli: str = ""


class _Kind(Struct, frozen=True):
    type: str


class _Env(Struct, frozen=True):
    limit: str | None = field(default=None, name="CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE")


class _Settings(Struct, frozen=True):
    env: _Env = _Env()


class _Request(Struct, frozen=True):
    subtype: str = ""
    settings: _Settings = _Settings()


class _Command(Struct, frozen=True):
    """What is read of a line to the CLI."""

    type: str
    request_id: str = ""
    request: _Request = _Request()
    shouldQuery: bool = True


_crossed: Final = msgspec.json.Decoder(_Crossed)
_kind: Final = msgspec.json.Decoder(_Kind)
_command: Final = msgspec.json.Decoder(_Command)


@cache
def _transcript(name: str) -> tuple[_Crossed, ...]:
    text = resources.files(__name__).joinpath(f"{name}.jsonl").read_bytes()
    return tuple(map(_crossed.decode, text.splitlines()))


@cache
def _answer(name: str) -> tuple[bytes, ...]:
    lines = (bytes(crossed.line) for crossed in _transcript(name) if crossed.to == "proxy")
    return tuple(line for line in lines if _kind.decode(line).type in _PLAYED)


def version() -> str:
    """The version of the CLI that was recorded."""
    return _transcript(ANSWERS[0])[0].cli


class DemoChild(Child):
    """A child without a process."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0
        self._blocked = False
        self._size = 0
        self._playing: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, launch: Launch) -> DemoChild:
        return cls()

    def write(self, data: bytes) -> None:
        for line in data.splitlines():
            command = _command.decode(line)
            if command.type == "control_request":
                limit = command.request.settings.env.limit
                self._blocked = self._blocked if limit is None else bool(limit)
                counts = command.request.subtype == "get_context_usage"
                self._say(self._guess(command.request_id) if counts else replies.success(command.request_id))
            else:
                self._size += len(line)
            if command.type == "user" and not command.shouldQuery:
                self._asked += 1
                self._say(b'{"type":"result","subtype":"success","num_turns":0}\n')
            elif command.type == "user" and self._blocked:
                self._asked += 1
                self._say(b'{"type":"result","is_error":true,"num_turns":1,"terminal_reason":"blocking_limit"}\n')
            elif command.type == "user":
                name = ANSWERS[min(self._asked, len(ANSWERS) - 1)]
                self._asked += 1
                task = asyncio.get_running_loop().create_task(self._play(name))
                self._playing.add(task)
                task.add_done_callback(self._playing.discard)

    def _guess(self, request_id: str) -> bytes:
        """How many tokens it has been told, roughly: nobody counts here."""
        tokens = self._size // CHARACTERS
        part = {"name": "Messages", "tokens": tokens, "kind": "used"}
        usage = {"categories": [part], "totalTokens": tokens, "maxTokens": WINDOW, "model": MODEL}
        response = {"subtype": "success", "request_id": request_id, "response": usage}
        return msgspec.json.encode({"type": "control_response", "response": response}) + b"\n"

    async def _play(self, name: str) -> None:
        for line in _answer(name):
            await asyncio.sleep(PACE)
            self._say(line + b"\n")

    def _say(self, data: bytes) -> None:
        self.pipe_data_received(1, data)

    async def stop(self, grace: float) -> None:
        for task in self._playing:
            task.cancel()
        self.pipe_connection_lost(1, None)
        if not self.exited.done():
            self.exited.set_result(None)
