"""proxy/http/edge.py and the streams it surrounds: clients that leave, clients that are slow, ids, the log line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import socket
from typing import Any

import pytest

from proxy.http import model_requests
from tests import fake_cli
from tests.conftest import Running, Serve, alive, chat, until

COMPLETIONS = "/v1/chat/completions"
# A client that leaves ends its child within a second; the machine that tests may be busy.
SOON = 3.0


class Client:
    """One connection, as bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def post(cls, server: Running, body: dict[str, Any], sock: socket.socket | None = None) -> Client:
        """Ask. With `sock` on that connection, of which little is taken unless it is read."""
        data = json.dumps(body).encode()
        where: dict[str, Any] = {"host": "127.0.0.1", "port": server.port} if sock is None else {"sock": sock}
        reader, writer = await asyncio.open_connection(**where, limit=1024 if sock else 1 << 20)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n" % len(data) + data
        )
        await writer.drain()
        return cls(reader, writer)

    async def until(self, what: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(what), 60)

    def leave(self) -> None:
        self.writer.transport.abort()


async def narrow(server: Running) -> socket.socket:
    """A connection that buffers little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    return sock


@pytest.fixture(autouse=True)
def _errors_of_uvicorn_fail_the_test(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert [record.message for record in caplog.records if record.name == "uvicorn.error"] == []


# Clients that leave


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_one_that_leaves_before_the_first_byte_ends_its_child(serve: Serve, stream: bool) -> None:
    server = await serve()
    client = await Client.post(server, chat([["hang"]], stream=stream))
    await until(lambda: len(server.children()) == 1, 5, "a child")
    client.leave()
    await server.idle(SOON)


async def test_one_that_leaves_in_mid_stream_ends_its_child(serve: Serve) -> None:
    server = await serve()
    client = await Client.post(server, chat([["say", "half"], ["hang"]], stream=True))
    await client.until(b'"half"')
    assert len(server.children()) == 1
    client.leave()
    await server.idle(SOON)


async def test_one_that_leaves_a_whole_call_in_mid_answer_ends_its_child(serve: Serve) -> None:
    server = await serve()
    client = await Client.post(server, chat([["say", "half"], ["hang"]]))
    await until(lambda: server.pool.counts.busy == 1 and len(server.children()) == 1, 5, "a child")
    await asyncio.sleep(0.1)
    client.leave()
    await server.idle(SOON)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_one_that_leaves_the_queue_gives_up_its_place(serve: Serve, stream: bool) -> None:
    server = await serve(max_conversations=1)
    first = await Client.post(server, chat([["hang"]]))
    await until(lambda: server.pool.counts.busy == 1, 5, "one is served")
    second = await Client.post(server, chat("queued", stream=stream))
    await until(lambda: server.pool.counts.queued == 1, 5, "one waits")
    second.leave()
    await until(lambda: server.pool.counts.queued == 0, SOON, "nobody waits")
    first.leave()
    await server.idle(SOON)
    assert len(fake_cli.pids(server.directory)) <= 1


async def test_one_that_leaves_while_its_child_starts(serve: Serve) -> None:
    server = await serve({"slow": 5})
    client = await Client.post(server, chat())
    await until(lambda: server.pool.counts.busy == 1, 5, "a child is starting")
    client.leave()
    await server.idle(SOON)


async def test_one_that_leaves_while_its_past_is_put_in(serve: Serve) -> None:
    server = await serve({"mute": True})
    past = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    client = await Client.post(server, {"model": "opus", "messages": past})
    await until(lambda: len(server.children()) == 1, 5, "a child")
    client.leave()
    await server.idle(SOON)


async def test_one_that_stops_reading_and_leaves_ends_its_child(serve: Serve) -> None:
    server = await serve()
    steps: list[list[Any]] = [["many", 200, "x" * 50_000], ["hang"]]
    client = await Client.post(server, chat(steps, stream=True), await narrow(server))
    assert await client.reader.readline()
    await asyncio.sleep(0.5)
    assert server.pool.counts.busy == 1
    client.leave()
    await server.idle(SOON)


async def test_one_that_says_it_will_send_no_more_is_taken_for_gone(serve: Serve) -> None:
    server = await serve()
    client = await Client.post(server, chat([["hang"]], stream=True))
    await until(lambda: len(server.children()) == 1, 5, "a child")
    client.writer.write_eof()
    await server.idle(SOON)
    client.writer.close()


async def test_one_that_uploads_a_byte_at_a_time_is_left(serve: Serve) -> None:
    server = await serve(client_timeout=0.6)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: 1000\r\n\r\n"
    )
    # Each byte comes in time, all of them do not.
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b" ")
                with contextlib.suppress(TimeoutError):
                    assert await asyncio.wait_for(reader.read(1), 0.1) == b""
    writer.close()


async def test_one_that_leaves_in_mid_upload_costs_nothing(serve: Serve) -> None:
    server = await serve()
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b'content-length: 1000\r\n\r\n{"model"'
    )
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.transport.abort()
    await asyncio.sleep(0.1)
    assert fake_cli.pids(server.directory) == []
    async with server.client() as client:
        assert (await client.get("/health")).status_code == 200


async def test_one_that_does_not_listen_to_sigterm_ends_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.cli.pool.STOP_GRACE", 0.2)
    server = await serve({"stubborn": True})
    client = await Client.post(server, chat([["hang"]], stream=True))
    await until(lambda: len(server.children()) == 1, 5, "a child")
    await asyncio.sleep(0.1)
    client.leave()
    await server.idle(SOON)


async def test_what_its_child_started_ends_too(serve: Serve) -> None:
    server = await serve({"child": True})
    client = await Client.post(server, chat([["say", "x"], ["hang"]], stream=True))
    await client.until(b'"x"')
    grandchild = int((server.directory / "grandchild").read_text())
    assert alive(grandchild)
    client.leave()
    await until(lambda: not alive(grandchild), SOON, "the grandchild ended")


async def test_many_that_leave_leave_nothing(serve: Serve) -> None:
    server = await serve(max_conversations=4, max_queue=64)
    clients = [await Client.post(server, chat([["hang"]], stream=bool(number % 2))) for number in range(12)]
    await until(lambda: server.pool.counts.queued == 8, 5, "eight wait")
    for client in clients:
        client.leave()
    await server.idle(SOON)
    assert server.pool.counts.queued == 0
    async with server.client() as http:
        assert (await http.post(COMPLETIONS, json=chat())).status_code == 200


async def test_one_that_stays_on_its_connection_asks_again(serve: Serve) -> None:
    server = await serve()
    async with server.client() as client:
        for number in range(3):
            answer = await client.post(COMPLETIONS, json=chat(str(number)))
            assert answer.json()["choices"][0]["message"]["content"] == f"echo: {number}"


async def test_the_slot_is_held_until_the_stream_has_ended(serve: Serve) -> None:
    server = await serve(max_conversations=1)
    first = await Client.post(server, chat([["say", "a"], ["sleep", 0.4], ["say", "b"], ["end"]], stream=True))
    await first.until(b'"a"')
    second = await Client.post(server, chat("next", stream=True))
    await asyncio.sleep(0.1)
    assert (server.pool.counts.busy, server.pool.counts.queued) == (1, 1)
    await first.until(b"[DONE]")
    await second.until(b"[DONE]")
    first.leave()
    second.leave()


# Streams


def events(data: bytes) -> list[str]:
    """What stands in the data lines."""
    return [line.removeprefix("data: ") for line in data.decode().split("\n\n") if line.startswith("data: ")]


async def test_headers_of_a_stream(local: Serve) -> None:
    server = await local()
    async with server.client() as client:
        answer = await client.post(COMPLETIONS, json=chat(stream=True))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-request-id"].startswith("req_")
    assert events(answer.content)[-1] == "[DONE]"


async def test_deltas_arrive_when_they_are_written(serve: Serve) -> None:
    server = await serve()
    client = await Client.post(
        server, chat([["say", "first"], ["sleep", 0.6], ["say", "second"], ["end"]], stream=True)
    )
    before = asyncio.get_running_loop().time()
    assert b'"second"' not in await client.until(b'"first"')
    first_at = asyncio.get_running_loop().time()
    await client.until(b'"second"')
    assert asyncio.get_running_loop().time() - first_at > 0.3
    assert first_at >= before
    client.leave()


async def test_silence_before_the_first_delta_begins_the_stream(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_requests, "KEEP_ALIVE_EVERY", 0.1)
    server = await serve()
    client = await Client.post(server, chat([["sleep", 0.5], ["say", "late"], ["end"]], stream=True))
    head = await client.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    body = await client.until(b'"late"')
    assert body.count(b": keep-alive\n\n") >= 2
    await client.until(b"data: [DONE]\n\n")
    client.leave()


@pytest.mark.parametrize("why", ["queued", "past"])
async def test_a_stream_begins_in_time_whatever_is_waited_for(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(model_requests, "KEEP_ALIVE_EVERY", 0.1)
    server = await serve(None if why == "queued" else {"mute": True}, max_conversations=1, idle_timeout=3.0)
    past = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    clients = []
    if why == "queued":
        clients.append(await Client.post(server, chat([["hang"]])))
        await until(lambda: server.pool.counts.busy == 1, 5, "one is served")
    body = chat(stream=True)
    clients.append(await Client.post(server, body | {"messages": [*past, *body["messages"]]}))
    try:
        assert (await asyncio.wait_for(clients[-1].reader.readuntil(b"\r\n"), 60)).startswith(b"HTTP/1.1 200 ")
    finally:
        for client in clients:
            client.leave()


async def test_silence_in_mid_stream_is_kept_alive(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_requests, "KEEP_ALIVE_EVERY", 0.1)
    server = await serve()
    client = await Client.post(server, chat([["say", "a"], ["sleep", 0.5], ["say", "b"], ["end"]], stream=True))
    await client.until(b'"a"')
    assert (await client.until(b'"b"')).count(b": keep-alive\n\n") >= 2
    client.leave()


async def test_silence_of_a_whole_call_changes_nothing(local: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_requests, "KEEP_ALIVE_EVERY", 0.05)
    server = await local()
    async with server.client() as client:
        answer = await client.post(COMPLETIONS, json=chat([["sleep", 0.3], ["say", "late"], ["end"]]))
    assert answer.json()["choices"][0]["message"]["content"] == "late"


@pytest.mark.parametrize(
    ("then", "code"),
    [([["exit", 1]], "cli_died"), ([["hang"]], "cli_silent"), ([["raw", '{"type":"result"}\n']], "upstream_error")],
)
async def test_a_failure_in_mid_stream_is_an_error_event_and_no_done(
    local: Serve, then: list[list[Any]], code: str
) -> None:
    server = await local(idle_timeout=0.5)
    async with server.client() as client:
        answer = await client.post(COMPLETIONS, json=chat([["say", "half"], ["sleep", 0.2], *then], stream=True))
    assert answer.status_code == 200
    found = events(answer.content)
    assert json.loads(found[1])["choices"][0]["delta"] == {"content": "half"}
    error = json.loads(found[-1])["error"]
    assert error["code"] == code
    assert list(error) == ["message", "type", "param", "code"]
    assert b"[DONE]" not in answer.content
    assert b'"finish_reason":"' not in answer.content


async def test_a_failure_in_mid_answer_of_a_whole_call_is_a_status(local: Serve) -> None:
    server = await local()
    async with server.client() as client:
        answer = await client.post(COMPLETIONS, json=chat([["say", "half"], ["exit", 1]]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "cli_died")
    assert "half" not in answer.text


async def test_a_slow_reader_does_not_fill_the_memory(serve: Serve) -> None:
    server = await serve()
    pieces, size = 1500, 20_000
    client = await Client.post(server, chat([["many", pieces, "x" * size], ["end"]], stream=True), await narrow(server))
    assert await client.reader.readline()
    (lease,) = server.pool._busy.values()
    seen = -1
    while seen != lease.conversation.child.bytes_read:
        seen = lease.conversation.child.bytes_read
        await asyncio.sleep(0.3)
    assert seen < pieces * size / 2, "all of it was taken in though nobody reads it"
    received = 0
    while data := await asyncio.wait_for(client.reader.read(1 << 20), 60):
        received += len(data)
        if b"[DONE]" in data:
            break
    assert received > pieces * size - 200_000
    client.leave()


# Ids and the log line


async def test_every_answer_has_an_id_of_its_own(local: Serve) -> None:
    server = await local()
    async with server.client() as client:
        answers = [
            await client.get("/v1/models"),
            await client.get("/nowhere"),
            await client.get("/health", headers={"host": "evil.example"}),
            await client.post(COMPLETIONS, json=chat()),
            await client.post(COMPLETIONS, json=chat(stream=True)),
            await client.post(COMPLETIONS, content=b"x" * 10, headers={"content-type": "text/plain"}),
        ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", id) for id in ids)
    assert all(int(answer.headers["openai-processing-ms"]) >= 0 for answer in answers)


async def test_the_log_line_says_who_what_and_how_long_and_no_text(
    local: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = await local()
    async with server.client() as client:
        body = chat("my secret question", model="claude-opus-4")
        answer = await client.post(COMPLETIONS, json=body, headers={"authorization": "Bearer sk-secret"})
    (line,) = [record.getMessage() for record in caplog.records if record.name == "proxy.request"]
    assert answer.headers["x-request-id"] in line
    for part in (
        "POST /v1/chat/completions 200 ",
        "ms",
        "model=claude-opus-4",
        "answered=claude-opus-5-5",
        "in=22",
        "out=12",
    ):
        assert part in line
    everything = "\n".join(record.getMessage() for record in caplog.records)
    assert "secret" not in everything


async def test_the_log_line_of_one_that_left(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "proxy.request")
    server = await serve()
    client = await Client.post(server, chat([["hang"]], stream=True))
    await until(lambda: server.pool.counts.busy == 1, 5, "it is served")
    client.leave()
    await server.idle(SOON)
    await until(lambda: "client left" in caplog.text, SOON, "the log line")


async def test_the_log_line_of_a_failure(local: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "proxy.request")
    server = await local({"exit": 1})
    async with server.client() as client:
        await client.post(COMPLETIONS, json=chat())
    assert " 502 " in caplog.text
    assert "cli_died" in caplog.text


@pytest.mark.parametrize("model", ["opus\r\nINFO forged line", "opus\x1b[2J", "x" * 10_000, "opus\u2028new"])
async def test_a_log_line_cannot_be_forged(local: Serve, caplog: pytest.LogCaptureFixture, model: str) -> None:
    caplog.set_level(logging.INFO, "proxy.request")
    server = await local()
    async with server.client() as client:
        await client.post(COMPLETIONS, json=chat(model=model))
        await client.get("/v1/%0d%0aINFO%20forged%1b")
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert len(record.getMessage()) < 500


async def test_what_is_not_http_passes_through() -> None:
    from proxy.http.edge import Edge

    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    await Edge(inner)({"type": "lifespan"}, nothing, nothing)
    assert seen == [{"type": "lifespan"}]


# Connections that are no good


async def told(server: Running, data: bytes) -> tuple[int, dict[str, Any]]:
    """The status and the error that these bytes get; the server hangs up after it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    error: dict[str, Any] = json.loads(body)["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return int(head.split()[1]), error


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100,
        b"GET /v1/models HTTP/1.1\r\nhost localhost\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)  # fmt: skip
async def test_bytes_that_are_no_request(serve: Serve, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    server = await serve()
    assert (await told(server, data))[0] == 400
    caplog.clear()


@pytest.mark.parametrize(
    "flood", [(b"x-flood: " + b"x" * 1000 + b"\r\n") * 66, b"x-" + b"y" * 66_000 + b": 1\r\n"], ids=["many", "long"]
)
async def test_a_flood_of_headers(serve: Serve, flood: bytes) -> None:
    server = await serve()
    status, _ = await told(server, b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n" + flood)
    assert status == 431


async def test_a_head_that_never_ends_is_given_up(serve: Serve) -> None:
    server = await serve(keep_alive=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /v1/models HTTP/1.1\r\nhost: local")
    try:
        async with asyncio.timeout(60):
            while not reader.at_eof():
                writer.write(b"x")
                with contextlib.suppress(TimeoutError):
                    assert await asyncio.wait_for(reader.read(1), 0.2) == b""
    except ConnectionError:
        assert writer.is_closing()
    finally:
        writer.close()


async def test_two_requests_in_one_write_are_answered_in_order(serve: Serve) -> None:
    server = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    get = b"GET /v1/models/%s HTTP/1.1\r\nhost: localhost\r\n\r\n"
    writer.write(get % b"opus" + get % b"nothing" + get % b"haiku")
    text = b""
    while text.count(b"HTTP/1.1 ") < 3 or b'"haiku"' not in text:
        text += await asyncio.wait_for(reader.read(65536), 60)
    assert re.findall(rb"HTTP/1\.1 (\d+)", text) == [b"200", b"404", b"200"]
    writer.close()


# Offers of another protocol, as Java's client and `curl --http2` make them with every request

OFFER = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.mark.parametrize("cut", [0, 1, 30, 200, 400])
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_offer_of_another_protocol_is_declined(serve: Serve, chunked: bool, cut: int) -> None:
    server = await serve()
    body = json.dumps(chat("Hello, you.")).encode()
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{OFFER}{framing}"
    )
    request = f"{head}\r\n\r\n".encode() + framed
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for part in (
        request[:cut],
        request[cut:],
        HEALTH + OFFER.encode() + b"\r\n",
        HEALTH + b"Connection: close\r\n\r\n",
    ):
        writer.write(part)
        await asyncio.sleep(0.05)
    said = (await asyncio.wait_for(reader.read(), 60)).decode()
    writer.close()
    assert "echo: Hello, you." in said
    assert said.count("HTTP/1.1 200 OK") == said.count("HTTP/1.1 ") == 3


@pytest.mark.parametrize("framing", ["Content-Length: 5\r\nContent-Length: 6", "Transfer-Encoding: chunked, x"])
async def test_an_offer_does_not_hide_a_body_that_can_be_read_in_two_ways(serve: Serve, framing: str) -> None:
    server = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n{OFFER}{framing}\r\n\r\n"
    writer.write(head.encode() + b"12345" + HEALTH + b"\r\n")
    said = (await asyncio.wait_for(reader.read(), 60)).decode()
    writer.close()
    assert "200 OK" not in said
