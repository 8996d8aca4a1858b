"""One room for each API: what only that API knows, and what all rooms share with the HTTP edge.

A dialect decodes a body into a `Request`, encodes deltas into events, makes the whole answer and the error body. It is
pure: no I/O, clock or randomness. The core knows no dialect, and dialects do not know each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, Literal, Protocol

from msgspec import Raw, Struct

from proxy.protocol import models
from proxy.protocol.answer import Answer
from proxy.protocol.deltas import Delta, Tokens
from proxy.protocol.failures import Failure, bad_request
from proxy.protocol.models import Abilities
from proxy.protocol.plan import CacheLife, Plan


class Framing(Enum):
    """How a stream is written: server-sent events, or one JSON value a line."""

    SSE = "text/event-stream; charset=utf-8"
    NDJSON = "application/x-ndjson"

    @property
    def content_type(self) -> str:
        return self.value


class Event(Struct, frozen=True):
    """One event of a stream. `data`: a value to encode, or text as it stands; `name`: its `event:` line, if any."""

    data: Struct | str
    name: str = ""


class Comment(Struct, frozen=True):
    """A line that says nothing, to keep a stream alive (server-sent events only)."""

    text: str


class Timing(Struct, frozen=True):
    """How far a request is. `began`: seconds since 1970; `seconds`: since then; `first`: from then to the first of its
    answer, None before that."""

    began: float = 0.0
    seconds: float = 0.0
    first: float | None = None


class Identity(Struct, frozen=True):
    """What all parts of one answer share; made once, at the HTTP edge.

    `token`: random, in hexadecimal, for ids; `created`: seconds since 1970; `fingerprint`: names the CLI; `timing`: how
    far the request is whenever it is asked.
    """

    token: str
    created: int
    fingerprint: str
    timing: Callable[[], Timing] = Timing


class Lookup(Protocol):
    """What is kept of earlier requests, for the key that asks. `stores`: something is kept at all; `most_stored`: bytes
    of one response or conversation that can be."""

    @property
    def stores(self) -> bool: ...

    @property
    def most_stored(self) -> int: ...

    def response(self, id: str) -> Sequence[Raw]:
        """All items up to and with the answer of that response. Raises `Rejection` where there is none."""

    def conversation(self, id: str) -> Sequence[Raw]:
        """All items of that conversation. Raises `Rejection` where there is none."""

    def item(self, id: str) -> Raw | None:
        """The item of that id, if it is kept."""


NOTHING_STORED: Final = "This server stores no responses: send the whole conversation as `input`."


class NoLookup:
    """Nothing is kept."""

    stores: Final = False
    most_stored: Final = 0

    def response(self, id: str) -> Sequence[Raw]:
        raise bad_request(NOTHING_STORED, "previous_response_id")

    def conversation(self, id: str) -> Sequence[Raw]:
        raise bad_request(NOTHING_STORED, "conversation")

    def item(self, id: str) -> Raw | None:
        return None


# The forms in which clients of chat completions get thinking with its signature, and send it back.
SignedForm = Literal["thinking_blocks", "reasoning_details"]


class Rules(Struct, frozen=True):
    """What the server's settings add to a request. `model_for`: a client's model name → what the CLI is asked for.

    `native`: what a model may refuse is asked for in the Messages API's own fields (`proxy.protocol.native`). `strict`:
    a parameter without effect is refused. `web_search`: a client may have the web searched. `reasoning`: the client is
    shown the model's thinking; `signed`: and gets it in a form that it can send back. `owner`: whose key it is
    that asks. `cache_ttl`: for how long the prompt cache keeps a conversation that a client marks in it; None: as
    the client says. `secret`: by which the server knows again what it has signed. `lookup`: what is kept for the owner.
    """

    model_for: Callable[[str], str] = models.resolve
    abilities_of: Callable[[str], Abilities] = lambda model: Abilities()
    native: bool = False
    strict: bool = False
    reasoning: bool = True
    web_search: bool = True
    owner: str = ""
    secret: bytes = b""
    lookup: Lookup = NoLookup()
    cache_ttl: CacheLife | None = None
    signed: SignedForm | None = None


RULES: Final = Rules()


class Encoder(Protocol):
    """Makes the answer of one request, all its choices; either the events of a stream, or `whole`."""

    def open(self) -> Sequence[Event]:
        """What a stream begins with, once it is known that there is an answer."""

    def idle(self) -> Event | Comment:
        """What a silent stream is kept alive with."""

    def feed(self, choice: int, deltas: Sequence[Delta]) -> Sequence[Event]:
        """The events for these deltas. `Failed` is not among them."""

    def close(self, tokens: Tokens) -> Sequence[Event]:
        """What ends a stream that succeeded. `tokens`: of all choices."""

    def fail(self, failure: Failure) -> Sequence[Event]:
        """What ends a stream that failed after its first event."""

    def whole(self, answers: Sequence[Answer], tokens: Tokens) -> Struct:
        """The answer that is not streamed: one `Answer` for each choice."""


class Request(Struct, frozen=True):
    """A decoded request. `model`: as the client named it. `stop`: stop sequences.

    `plans`: one for every choice; none where no model is to be asked, and the answer is what is made of no answers.

    `ignored`: parameters without effect. `encoder`: makes the answer. `shorten`: where the conversation does not fit
    into the model's window, its oldest turns may be left out. `to_disk`: what the model writes may be kept in a file
    for requests that go on from it, if the server has one; not so what the API stores by itself, or is told not to.
    """

    model: str
    plans: tuple[Plan, ...]
    stream: bool
    encoder: Callable[[Identity], Encoder]
    stop: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    shorten: bool = False
    to_disk: bool = False


class CountRequest(Struct, frozen=True):
    """A request whose tokens are to be counted. `model`: as the client named it; `ignored`: as in `Request`."""

    model: str
    plan: Plan
    ignored: tuple[str, ...] = ()


class CountingDialect(Protocol):
    """An API's way to ask for a count."""

    def decode(self, body: bytes, rules: Rules) -> CountRequest:
        """What is to be counted. Raises `Rejection`."""

    def encode(self, tokens: int) -> Struct:
        """The answer."""


class ErrorReply(Struct, frozen=True):
    """An error as the API answers it."""

    status: int
    body: Struct
    headers: tuple[tuple[str, str], ...] = ()


class Dialect(Protocol):
    """One API. `name`: short, for the usage file."""

    @property
    def name(self) -> str: ...

    @property
    def framing(self) -> Framing: ...

    def decode(self, body: bytes, rules: Rules) -> Request:
        """The request that `body` holds, under the server's rules. Raises `Rejection`."""

    def error(self, failure: Failure, now: float, request_id: str) -> ErrorReply:
        """The answer that stands for `failure`. `now`: seconds since 1970."""
