"""The cheapest OpenAI client there can be: it shares the processor with what it measures."""

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self

import msgspec

from conformance.bench.processes import BenchError

_PATIENCE = 120.0
_FIRST = re.compile(rb'"(?:content|arguments)":"[^"]')
END = b"0\r\n\r\n"

Message = Mapping[str, Any]


def chat(messages: Sequence[Message], **more: Any) -> bytes:
    """A streamed chat request, head and body."""
    body = msgspec.json.encode({"model": "opus", "stream": True, "messages": messages, **more})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n"
    return f"{head}content-type: application/json\r\n\r\n".encode() + body


def say(text: str) -> bytes:
    """A new conversation that begins with this text."""
    return chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}])


class Answer(msgspec.Struct, frozen=True):
    """A streamed answer: seconds to the first delta, how it was served, and its first choice, to be sent back."""

    first: float
    served: str
    message: dict[str, Any]


class Connection:
    """One that is kept."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class Client(Connection):
    """It asks for chat completions."""

    def ask(self, request: bytes) -> Answer:
        """One request, its answer read to the end. Raises BenchError on any failure."""
        started = time.perf_counter()
        self._socket.sendall(request)
        came = b""
        first = None
        while not came.endswith(END):
            part = self._socket.recv(1 << 18)
            came += part
            if first is None and _FIRST.search(came):
                first = time.perf_counter() - started
            if came[:12] != b"HTTP/1.1 200":
                self._socket.settimeout(0.5)
                with contextlib.suppress(TimeoutError):
                    came += self._socket.recv(1 << 18)
                part = b""
            if not part:
                raise BenchError(f"the server answered {came[:1000]!r}")
        if first is None or b"data: [DONE]" not in came:
            raise BenchError(f"the answer is no answer: {came[-1000:]!r}")
        return _answer(first, came)


def _answer(first: float, came: bytes) -> Answer:
    head, _, _ = came.partition(b"\r\n\r\n")
    served = re.search(rb"(?im)^x-claude-proxy-served: *([a-z]+)", head)
    text = ""
    calls: dict[int, dict[str, Any]] = {}
    for event in re.findall(rb"(?m)^data: (\{.*\})\r?$", came):
        for choice in msgspec.json.decode(event)["choices"]:
            if choice["index"]:
                continue
            delta = choice["delta"]
            text += delta.get("content") or ""
            for part in delta.get("tool_calls") or []:
                if part["index"] not in calls:
                    calls[part["index"]] = part
                else:
                    calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [{key: call[key] for key in ("id", "type", "function")} for call in calls.values()]
    return Answer(first, served[1].decode() if served else "", message)


class _Burst(asyncio.Protocol):
    """Sends one request after the other; an answer is over when its last chunk is."""

    def __init__(self, requests: Iterator[bytes], served: dict[str, int]) -> None:
        self._requests = requests
        self._served = served
        self._head = self._tail = b""
        self._transport: asyncio.WriteTransport | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._next()

    def _next(self) -> None:
        assert self._transport is not None
        request = next(self._requests, None)
        self._head = self._tail = b""
        if request is None:
            self.over.set_result(None)
            self._transport.close()
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self._head:
            self._head = data
        self._tail = (self._tail + data)[-40:]
        if not self._head.startswith(b"HTTP/1.1 200"):
            self._fail(data)
        elif self._tail.endswith(END):
            if b"[DONE]" not in self._tail:
                self._fail(data)
                return
            found = re.search(rb"(?im)^x-claude-proxy-served: *([a-z]+)", self._head)
            word = found[1].decode() if found else ""
            self._served[word] = self._served.get(word, 0) + 1
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self._fail(self._tail)

    def _fail(self, data: bytes) -> None:
        if not self.over.done():
            self.over.set_exception(BenchError(f"the server answered {data[:1000]!r}"))
        if self._transport is not None:
            self._transport.abort()


async def _burst(port: int, queues: Sequence[Iterator[bytes]]) -> dict[str, int]:
    loop = asyncio.get_running_loop()
    served: dict[str, int] = {}
    connections = [
        (await loop.create_connection(partial(_Burst, queue, served), "127.0.0.1", port))[1] for queue in queues
    ]
    async with asyncio.timeout(_PATIENCE * 5):
        await asyncio.gather(*(connection.over for connection in connections))
    return served


def burst(port: int, requests: Sequence[bytes], at_once: int) -> tuple[float, dict[str, int]]:
    """Answers a second, all requests put, so many at once; and how they were served. Raises BenchError."""
    left = iter(requests)
    return _timed(port, [left] * at_once, len(requests))


def in_turn(port: int, conversations: Sequence[Sequence[bytes]]) -> tuple[float, dict[str, int]]:
    """The same for conversations side by side, each one's requests one after the other."""
    return _timed(port, [iter(requests) for requests in conversations], sum(map(len, conversations)))


def _timed(port: int, queues: Sequence[Iterator[bytes]], count: int) -> tuple[float, dict[str, int]]:
    started = time.perf_counter()
    served = asyncio.run(_burst(port, queues))
    return count / (time.perf_counter() - started), served
