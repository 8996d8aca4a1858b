"""The cheapest Messages API there can be, in a process of its own: prebuilt answers, no parsing.

It prints its port. A request that offers tools and says "Please look …" after the last tool result is answered with a
call of `look_up`, every other one with text.
"""

import asyncio
import sys
from typing import IO

from conformance.upstream import message, sse, text, tool_use

CALL = b'"tools":[{'
# A paragraph as an answer, so that a conversation grows.
WORDS = ("It is ", "a sunny day", ", as the result says. " * 12)


def _stream(events: list[dict[str, object]]) -> bytes:
    parts = [sse(event) for event in events]
    return b"".join(
        [
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nrequest-id: req_01\r\n",
            b"transfer-encoding: chunked\r\n\r\n",
            *(b"%x\r\n%s\r\n" % (len(part), part) for part in parts),
            b"0\r\n\r\n",
        ]
    )


# Ids are as long as these in every answer, and no two alike: the CLI joins messages that have the same id.
_MESSAGE, _CALL = "msg_000000", "toolu_000000"
TEXT = _stream(message(text(*WORDS), identifier=_MESSAGE))
TOOL_CALL = _stream(
    message(tool_use(_CALL, "look_up", '{"query": ', '"weather"}'), stop="tool_use", identifier=_MESSAGE)
)
MISSING = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


def answer(body: bytes, number: int) -> bytes:
    """The whole HTTP answer to a request with this body; `number` goes into its ids."""
    wants_call = CALL in body and body.rfind(b'"Please look') > body.rfind(b'"tool_result"')
    found = TOOL_CALL if wants_call else TEXT
    for identifier in (_MESSAGE, _CALL):
        found = found.replace(identifier.encode(), f"{identifier[:-6]}{number:06}".encode())
    return found


class Upstream(asyncio.Protocol):
    """One connection."""

    answers = 0

    def __init__(self, log: IO[bytes]) -> None:
        self._log = log
        self._data = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            length = 0
            if (at := head.find(b"content-length:")) >= 0:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self._data) < end + 4 + length:
                return
            body, self._data = self._data[end + 4 : end + 4 + length], self._data[end + 4 + length :]
            assert self._transport is not None
            self._transport.write(self._answer(head, body))

    def _answer(self, head: bytes, body: bytes) -> bytes:
        if not head.startswith(b"post /v1/messages?") and not head.startswith(b"post /v1/messages "):
            return MISSING
        self._log.write(body + b"\n")
        Upstream.answers += 1
        return answer(body, Upstream.answers)


async def _serve(log: IO[bytes]) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(log), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serves until it is ended; keeps the bodies it gets in the file named by the only argument."""
    with open(sys.argv[1], "ab", buffering=0) as log:
        asyncio.run(_serve(log))
