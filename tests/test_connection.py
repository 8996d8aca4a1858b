"""proxy/http/connection.py: what a connection may hold, how long it may take, and what comes ahead of its turn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.http import connection
from proxy.http import server as serving
from proxy.http.connection import (
    MAX_FIELDS,
    MAX_HEAD,
    MAX_PIPELINED,
    MAX_PIPELINED_BYTES,
    Closable,
    Connection,
    Connections,
)
from proxy.http.edge import Edge, Receive, Scope, Send
from tests.conftest import listening, until
from tests.outcomes import Expects

HEAD = b"POST %s HTTP/1.1\r\nhost: localhost\r\n%s\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
# Several times what the system takes from the server for a client that does not read.
LARGE = 16 * 1024 * 1024
OFFER = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"


class Application:
    """`/whole` says what it has read, `/early` does not read, `/slow` goes on when `go_on` is set, in two parts.
    `/large` says `LARGE` bytes."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.begun = 0
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        text = b"x" * LARGE if scope["path"] == "/large" else f"{scope['path']} {len(body)}".encode()
        self.begun += 1
        self.under_way += 1
        try:
            if scope["path"] == "/slow":
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
                await self.go_on.wait()
                await send({"type": "http.response.body", "body": b"ended"})
            else:
                headers = [(b"content-length", b"%d" % len(text))]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": text})
        finally:
            self.under_way -= 1


class Client:
    """A connection, as bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.came = b""

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def until(self, what: bytes) -> None:
        while what not in self.came:
            part = await asyncio.wait_for(self._reader.read(65536), 60)
            assert part, self.came
            self.came += part

    async def rest(self) -> bytes:
        """All that comes until the server hangs up."""
        with contextlib.suppress(ConnectionError):
            while part := await asyncio.wait_for(self._reader.read(65536), 60):
                self.came += part
        return self.came

    async def flood(self, piece: bytes, most: int) -> int:
        """Send pieces until the server hangs up, or so many bytes; how many were sent."""
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < most and not self._reader.at_eof():
                self.writer.write(piece)
                await self.writer.drain()
                sent += len(piece)
                with contextlib.suppress(TimeoutError):
                    self.came += await asyncio.wait_for(self._reader.read(65536), 0.001)
        return sent

    async def drip(self, piece: bytes) -> None:
        """Send a piece now and then until the server hangs up; fails if it does not."""
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionError):
                while not self._reader.at_eof():
                    self.writer.write(piece)
                    await self.writer.drain()
                    with contextlib.suppress(TimeoutError):
                        self.came += await asyncio.wait_for(self._reader.read(65536), 0.05)


class Server:
    """The application, and connections to it."""

    def __init__(self, app: Application, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.app = app
        self._port = port
        self._tls = tls
        self._clients: list[Client] = []

    async def connect(self, *, small: bool = False) -> Client:
        """`small`: the system takes little from the server that is not read."""
        sock = socket.socket(proto=socket.IPPROTO_TCP)
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        name = "localhost" if self._tls else None
        self._clients.append(Client(*await asyncio.open_connection(sock=sock, ssl=self._tls, server_hostname=name)))
        return self._clients[-1]

    def close(self) -> None:
        for client in self._clients:
            client.writer.transport.abort()


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """Parametrised indirectly with the keep-alive time."""
    app = Application()
    async with listening(Edge(app), keep_alive=getattr(request, "param", 75)) as port:
        running = Server(app, port)
        yield running
        running.close()
        app.go_on.set()


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert [record.message for record in caplog.records if record.name in ("uvicorn.error", "asyncio")] == []


def statuses(came: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", came)]


# What is not body

FLOODS = {
    "trailers": b"0\r\n" + b"a: b\r\n" * 10_000,
    "one endless trailer": b"0\r\na: " + b"b" * 50_000,
    "extensions": b"1;" + b"x=y;" * 10_000,
    "chunks of one byte": b"1\r\nx\r\n" * 10_000,
}
QUICK = pytest.mark.parametrize("server", [1], indirect=True)


@pytest.mark.parametrize("path", [b"/whole", b"/early"])
@pytest.mark.parametrize("kind", FLOODS)
async def test_what_surrounds_a_body_is_bounded(server: Server, kind: str, path: bytes) -> None:
    client = await server.connect()
    begin, _, rest = FLOODS[kind].partition(b"\r\n") if kind != "extensions" else (b"", b"", FLOODS[kind])
    client.send(HEAD % (path, CHUNKED) + (begin + b"\r\n" if begin != b"1" else b""))
    piece = FLOODS[kind] if begin == b"1" else rest
    assert await client.flood(piece, 20_000_000) < 8_000_000
    assert server.app.under_way == 0


async def test_its_end_is_told(server: Server) -> None:
    client = await server.connect()
    client.send(HEAD % (b"/whole", CHUNKED) + b"0\r\n" + b"a: b\r\n" * (MAX_HEAD // 6))
    came = await client.rest()
    assert statuses(came) == [431]
    assert json.loads(came.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


async def test_small_chunks_and_a_few_trailers_are_taken(server: Server) -> None:
    client = await server.connect()
    client.send(HEAD % (b"/whole", CHUNKED))
    for _ in range(40):
        client.send(b"9;x=y\r\n123456789\r\n" * 1000)
        await client.writer.drain()
    client.send(b"0\r\ndigest: x\r\n\r\n" + HEAD % (b"/early", b""))
    await client.until(b"/early 0")
    assert statuses(client.came) == [200, 200]
    assert b"/whole 360000" in client.came


@QUICK
@pytest.mark.parametrize("begun", [b"0\r\na: b", b"5\r\nab", b""], ids=["trailers", "a chunk", "nothing"])
async def test_one_that_drips_after_its_answer_is_left(server: Server, begun: bytes) -> None:
    client = await server.connect()
    client.send(HEAD % (b"/early", CHUNKED) + begun)
    await client.until(b"/early 0")
    await client.drip(b"b" if begun else b"1\r\nx\r\n")


@QUICK
@pytest.mark.parametrize("piece", [b"x", b"\r\n"])
async def test_one_that_drips_a_head_is_left(server: Server, piece: bytes) -> None:
    client = await server.connect()
    await client.drip(piece)


# What comes while an answer is under way


@pytest.mark.parametrize(
    "more",
    [b"\r\n", b"POST /wh", HEAD % (b"/whole", b""), HEAD % (b"/whole", b"content-length: 200000\r\n") + b"x" * 100_000,
     b"\x00 garbage"],
    ids=["crlf", "half a head", "a request", "a large body", "garbage"],
)  # fmt: skip
async def test_one_that_leaves_is_noticed_whatever_it_sent_before(server: Server, more: bytes) -> None:
    client = await server.connect()
    client.send(HEAD % (b"/slow", b"") + more)
    await client.until(b"begun")
    client.writer.close()
    await until(lambda: server.app.under_way == 0, 5, "the answer is cancelled")
    assert server.app.begun == 1


@QUICK
@pytest.mark.parametrize("more", [b"\r\n", b"POST /wh"], ids=["crlf", "half a head"])
async def test_what_comes_next_does_not_cut_an_answer(server: Server, more: bytes) -> None:
    client = await server.connect()
    client.send(HEAD % (b"/slow", b""))
    await client.until(b"begun")
    client.send(more)
    # Longer than the time that a head may take.
    await asyncio.sleep(1.2)
    server.app.go_on.set()
    rest = HEAD % (b"/whole", b"")
    client.send(rest[8:] if more.startswith(b"POST") else rest)
    await client.until(b"/whole 0")
    assert statuses(client.came) == [200, 200]
    assert b"ended" in client.came


@pytest.mark.parametrize(
    ("more", "status"),
    [(b"\x00 garbage", 400), (b"GET / HTTP/1.1\r\nx: " + b"y" * MAX_HEAD, 431),
     (HEAD % (b"/whole", b"content-length: 9000000\r\n") + b"x" * (MAX_PIPELINED_BYTES + 1), 413),
     (HEAD % (b"/whole", b"x: %s\r\n" % (b"y" * 50_000)) * 6, 413), (HEAD % (b"/whole", b"a:b\r\n" * 250) * 10, 413)],
    ids=["garbage", "a long head", "a large body", "long heads", "heads of many fields"],
)  # fmt: skip
async def test_what_cannot_be_read_is_told_after_the_answer(server: Server, more: bytes, status: int) -> None:
    client = await server.connect()
    client.send(HEAD % (b"/slow", b"") + HEAD % (b"/whole", b"") + more)
    await client.until(b"begun")
    await client.flood(b"z" * 10_000, 400_000)
    server.app.go_on.set()
    came = await client.rest()
    found = statuses(came)
    # Those that were complete and within the bound are answered.
    assert found == [200] * (len(found) - 1) + [status]
    assert 3 <= len(found) < 12
    assert b"ended" in came
    assert b"/whole 0" in came


@pytest.mark.parametrize("count", [MAX_PIPELINED, 600])
@pytest.mark.parametrize("offer", [b"", OFFER], ids=["plain", "h2c"])
async def test_many_at_once(server: Server, count: int, offer: bytes) -> None:
    client = await server.connect()
    client.send(HEAD % (b"/whole", offer) * count + b"\x00")
    found = statuses(await client.rest())
    assert found == [200] * min(count, MAX_PIPELINED + 1) + [400]


@pytest.mark.parametrize("framing", [b"content-length: x\r\n", b"transfer-encoding: x\r\n"])
async def test_a_body_that_cannot_be_read_is_told(server: Server, framing: bytes) -> None:
    client = await server.connect()
    client.send(HEAD % (b"/whole", framing))
    assert statuses(await client.rest()) == [400]


async def test_chunks_that_are_none_are_told(server: Server) -> None:
    client = await server.connect()
    client.send(HEAD % (b"/whole", CHUNKED) + b"5\r\nabcdefgh\r\n")
    assert statuses(await client.rest()) == [400]
    assert server.app.begun == server.app.under_way == 0


# HTTP/1.0


@pytest.mark.parametrize("path", [b"/slow", b"/whole"])
async def test_old_clients_get_no_chunks(server: Server, path: bytes) -> None:
    server.app.go_on.set()
    client = await server.connect()
    client.send(b"POST %s HTTP/1.0\r\nhost: localhost\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\nhi" % path)
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == (b"begun ended" if path == b"/slow" else b"/whole 2")


# Before there is a key


@pytest.mark.parametrize("under_way", [False, True], ids=["alone", "behind an answer"])
async def test_fields_of_a_head_are_bounded(server: Server, under_way: bool) -> None:
    client = await server.connect()
    if under_way:
        client.send(HEAD % (b"/slow", b""))
        await client.until(b"begun")
    # There is a host, too.
    client.send(HEAD % (b"/whole", b"a:b\r\n" * (MAX_FIELDS - 1)) + HEAD % (b"/whole", b"a:b\r\n" * MAX_FIELDS))
    server.app.go_on.set()
    assert statuses(await client.rest()) == [200] * under_way + [200, 431]


async def test_fields_of_a_head_that_does_not_end_are_not_kept(server: Server) -> None:
    client = await server.connect()
    client.send(b"GET /whole HTTP/1.1\r\nhost: localhost\r\n")
    assert await client.flood(b"a:b\r\n" * 100, 1_000_000) < 100_000
    assert statuses(await client.rest()) == [431]


@pytest.mark.parametrize(
    "begin", [b"GET /whole\r\n\r\n", b"GET /whole HTTP/0.9\r\n\r\n", b"GET /whole HTTP/2.0\r\n\r\n"]
)
async def test_other_versions_are_refused(server: Server, begin: bytes) -> None:
    client = await server.connect()
    client.send(begin)
    assert statuses(await client.rest()) == [505]
    assert server.app.begun == 0


MOST = 4


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", MOST)


@pytest.mark.parametrize(
    "idle", [b"", b"POST /wh", HEAD % (b"/whole", b"content-length: 5\r\n") + b"x", HEAD % (b"/whole", b"")],
    ids=["silent", "half a head", "half a body", "answered"],
)  # fmt: skip
async def test_idle_connections_make_room_for_new_ones(few: None, server: Server, idle: bytes) -> None:
    working = await server.connect()
    working.send(HEAD % (b"/slow", b""))
    await working.until(b"begun")
    others = []
    for _ in range(3 * MOST):
        others.append(await server.connect())
        others[-1].send(idle)
        if idle.endswith(b"\r\n\r\n"):
            await others[-1].until(b"/whole 0")
    for one in others[: -MOST + 1]:
        assert set(statuses(await one.rest())) <= {200}
    last = await server.connect()
    last.send(HEAD % (b"/whole", b""))
    await last.until(b"/whole 0")
    # What is answered is not cut.
    server.app.go_on.set()
    await working.until(b"ended")


async def test_when_all_are_answered_a_new_one_is_told(few: None, server: Server) -> None:
    working = [await server.connect() for _ in range(MOST)]
    for one in working:
        one.send(HEAD % (b"/slow", b""))
        await one.until(b"begun")
    assert statuses(await (await server.connect()).rest()) == [503]
    server.app.go_on.set()
    for one in working:
        await one.until(b"ended")
    last = await server.connect()
    last.send(HEAD % (b"/whole", b""))
    await last.until(b"/whole 0")


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[Closable]:
    """Connections that have ended, in their order."""
    ended: list[Closable] = []
    lose = Connections.lost

    def noted(self: Connections, one: Closable) -> None:
        ended.append(one)
        lose(self, one)

    monkeypatch.setattr(Connections, "lost", noted)
    return ended


@pytest.mark.parametrize("server", [1], indirect=True)
@pytest.mark.parametrize("kind", [b"", b"connection: close\r\n"])
async def test_an_answer_that_nobody_takes_is_not_kept(
    server: Server, lost: list[Closable], expects: Expects, kind: bytes
) -> None:
    expects("security", f"{kind or b'keep-alive'!r} and an answer that is not read", "the connection is cut in the end")
    client = await server.connect(small=True)
    client.send(HEAD % (b"/large", kind))
    await until(lambda: len(ended(lost)) == 1, 60, "the connection has ended")
    assert len(await client.rest()) < LARGE


def ended(lost: list[Closable]) -> list[Closable]:
    """Without handshakes that are done."""
    return [one for one in lost if isinstance(one, Connection)]


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
async def either(request: pytest.FixtureRequest, certificate: tuple[Path, Path]) -> AsyncIterator[Server]:
    """A server without TLS, and one with it."""
    app = Application()
    cert, key = map(str, certificate)
    tls = (cert, key) if request.param else (None, None)
    async with listening(Edge(app), tls=tls) as port:
        server = Server(app, port, ssl.create_default_context(cafile=cert) if request.param else None)
        yield server
        server.close()


async def test_what_clients_do_not_take_is_bounded_together(
    either: Server, lost: list[Closable], monkeypatch: pytest.MonkeyPatch, expects: Expects
) -> None:
    expects("security", "many clients that do not read large answers", "those silent longest are cut")
    monkeypatch.setattr(connection, "MAX_UNREAD", LARGE)
    clients = []
    for number in range(4):
        clients.append(await either.connect(small=True))
        clients[-1].send(HEAD % (b"/large", b"connection: close\r\n"))
        await until(lambda number=number: len(ended(lost)) == number, 60, "the one before has ended")  # type: ignore[misc]
    *others, last = clients
    for one in others:
        assert len(await one.rest()) < LARGE
    assert len(await last.rest()) > LARGE


def test_half_of_the_open_files_are_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, most in ((resource.RLIM_INFINITY, 1024), (65_536, 1024), (1024, 512), (256, 128)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, resource.RLIM_INFINITY))
        assert serving.max_connections() == most
