"""The cheapest Messages API there can be, in a process of its own: prebuilt answers, no parsing.

It prints its port. A request that offers tools and says "Please look …" after the last tool result is answered with a
call of `look_up`, every other one with text. With a file as its argument it reads what it is asked, accounts for the
prompt cache, thinks before it answers if it is told to, and keeps what it counted in the file.
"""

import asyncio
import sys
from typing import IO, Any

import msgspec

from conformance.messages import message, sse, text, thinking, tool_use
from conformance.promptcache import PromptCache, Refused

CALL = b'"tools":[{'
# A paragraph as an answer, so that a conversation grows.
WORDS = ("It is ", "a sunny day", ", as the result says. " * 12)
THOUGHTS = ("the user wants to know. ", "So the weather matters. " * 12)


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
BAD = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
MISSING = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


def answer(body: bytes, number: int) -> bytes:
    """The whole HTTP answer to a request with this body; `number` goes into its ids."""
    wants_call = CALL in body and body.rfind(b'"Please look') > body.rfind(b'"tool_result"')
    found = TOOL_CALL if wants_call else TEXT
    for identifier in (_MESSAGE, _CALL):
        found = found.replace(identifier.encode(), f"{identifier[:-6]}{number:06}".encode())
    return found


# Calls at once, where a question says "of each place".
MANY = 12
# What a system prompt says so that answers begin with thinking.
THINK = b"Think first."
# Seconds until an answer that is accounted for begins: what is asked at the same time cannot read what it writes.
DELAY = 0.1


class Accountant:
    """Answers as `answer` does, with the usage that the prompt cache makes of the request; each goes into the log."""

    def __init__(self, log: IO[bytes]) -> None:
        self._log = log
        self._cache = PromptCache()

    def answer(self, body: bytes, number: int) -> bytes:
        """The whole HTTP answer."""
        asked: dict[str, Any] = msgspec.json.decode(body)
        try:
            at = asyncio.get_running_loop().time()
            counted = self._cache.count(asked, at, begins=at + DELAY)
        except Refused as refusal:
            refused = {"type": "error", "error": {"type": "invalid_request_error", "message": str(refusal)}}
            said = msgspec.json.encode(refused)
            return BAD % (len(said), said)
        self._log.write(msgspec.json.encode(counted) + b"\n")
        wants_call = CALL in body and body.rfind(b'"Please look') > body.rfind(b'"tool_result"')
        # Long enough, and each another one: that it comes back, or does not, must show.
        thought = [thinking(f"Number {number}: ", *THOUGHTS, signature=f"c2ln{number:06}")] if THINK in body else []
        calls = range(MANY if body.rfind(b"of each place") > body.rfind(b'"tool_result"') else 1)
        ids = (f"toolu_{number:06}{call or ''}" for call in calls)
        spoken = [tool_use(id, "look_up", '{"query": ', '"weather"}') for id in ids] if wants_call else [text(*WORDS)]
        stop = "tool_use" if wants_call else "end_turn"
        identifier = f"msg_{number:06}"
        model = str(asked.get("model"))
        events = message(*thought, *spoken, stop=stop, identifier=identifier, model=model, usage=counted.usage())
        return _stream(events)


class Upstream(asyncio.Protocol):
    """One connection."""

    answers = 0

    def __init__(self, accountant: Accountant | None) -> None:
        self._accountant = accountant
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
            if self._accountant is None:
                self._transport.write(self._answer(head, body))
            else:
                asyncio.get_running_loop().call_later(DELAY, self._transport.write, self._answer(head, body))

    def _answer(self, head: bytes, body: bytes) -> bytes:
        if not head.startswith(b"post /v1/messages?") and not head.startswith(b"post /v1/messages "):
            return MISSING
        Upstream.answers += 1
        if self._accountant is not None:
            return self._accountant.answer(body, Upstream.answers)
        return answer(body, Upstream.answers)


async def _serve(accountant: Accountant | None) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(accountant), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Serves until it is ended."""
    if len(sys.argv) == 1:
        asyncio.run(_serve(None))
        return
    with open(sys.argv[1], "ab", buffering=0) as log:
        asyncio.run(_serve(Accountant(log)))
