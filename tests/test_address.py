"""Where the server listens: addresses of both kinds, Unix sockets, TLS, and what is said when that cannot be."""

from __future__ import annotations

import contextlib
import errno
import http.server
import signal
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from proxy import address
from proxy.checks import Check
from proxy.settings import Settings
from tests import fake_cli
from tests.conftest import chat
from tests.outcomes import Expects
from tests.served import Served


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body: bytes = self.server.body  # type: ignore[attr-defined]
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def somebody(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server whose `/health` says `request.param`."""
    with http.server.HTTPServer(("127.0.0.1", 0), Health) as server:
        server.body = request.param  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


OURS = b'{"status": "login_failed", "version": "0.1.0", "cli_version": "2.1.330"}'


@pytest.mark.parametrize("somebody", [OURS], indirect=True)
def test_our_own_server_on_the_port(somebody: int) -> None:
    settings = Settings(port=somebody)
    assert address.check_address(settings) == Check(
        "ok", "address", f"127.0.0.1, port {somebody}: claude-max-api is serving there"
    )
    with pytest.raises(OSError, match="in use") as caught:
        address.bind(settings.host, settings.port)
    refused = address.address_refused(settings, caught.value)
    assert refused.state == "FAIL"
    assert "already running" in refused.message
    assert refused.help == f"claude-max-api {somebody + 1 if somebody < 65535 else 1}"


@pytest.mark.parametrize("somebody", [b"{}", b"hello", b"[]", b"7"], indirect=True)
def test_another_server_on_the_port(somebody: int) -> None:
    check = address.check_address(Settings(port=somebody))
    assert (check.state, "another program" in check.message) == ("FAIL", True)


def test_the_second_port_has_the_address_of_the_first() -> None:
    assert address.of_ollama(Settings()) is None
    assert address.of_ollama(Settings(host="::1", port=1, ollama_port=2)) == Settings(host="::1", port=2, ollama_port=2)
    other = address.of_ollama(Settings(uds="/run/c.sock", ollama_port=2))
    assert other is not None
    assert other.uds is None


@pytest.mark.parametrize("somebody", [b"Ollama is running"], indirect=True)
def test_ollama_on_the_second_port(somebody: int) -> None:
    other = address.of_ollama(Settings(ollama_port=somebody))
    assert other is not None
    check = address.check_address(other)
    assert (check.state, "Ollama itself" in check.help) == ("FAIL", True)


def test_an_address_that_is_not_ours() -> None:
    check = address.check_address(Settings(host="192.0.2.1", port=0))
    assert (check.state, "192.0.2.1, port 0, cannot be served on" in check.message) == ("FAIL", True)


def test_a_host_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    check = address.check_address(Settings(host="nas.example", port=0))
    assert (check.state, check.message.endswith("Name or service not known.")) == ("FAIL", True)


def test_localhost_is_the_address_that_clients_are_told() -> None:
    with address.bind("localhost", 0) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"


# IPv6.


def test_an_ipv6_loopback_address_is_served_on_alone() -> None:
    with address.bind("::1", 0) as sock:
        sock.listen()
        port = sock.getsockname()[1]
        socket.create_connection(("::1", port), 5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)
    assert address.base_url(Settings(host="::"), 8) == "http://[::1]:8"


def test_two_colons_are_every_address_of_either_kind() -> None:
    with address.bind("::", 0) as sock:
        sock.listen()
        for host in ("::1", "127.0.0.1"):
            socket.create_connection((host, sock.getsockname()[1]), 5).close()


def test_the_server_answers_on_ipv6(tmp_path: Path) -> None:
    with Served(fake_cli.write(tmp_path / "cli"), tmp_path / "state", {"CLAUDE_PROXY_HOST": "::1"}) as server:
        assert server.url.startswith("http://[::1]:")
        assert server.chat(chat("hello")).json()["choices"][0]["message"]["content"] == "echo: hello"


# A Unix socket.


def test_the_server_answers_on_a_unix_socket_that_is_private(tmp_path: Path) -> None:
    path = tmp_path / "claude.sock"
    with Served(fake_cli.write(tmp_path / "cli"), tmp_path / "state", {"CLAUDE_PROXY_UDS": str(path)}) as server:
        assert server.url == str(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
            answer = client.post("/v1/chat/completions", json=chat("hello"), timeout=15)
            assert answer.json()["choices"][0]["message"]["content"] == "echo: hello"
            assert client.get("/health", headers={"host": "evil.example"}).status_code == 403
        settings = Settings(uds=str(path))
        assert address.check_address(settings) == Check("ok", "address", f"{path}: claude-max-api is serving there")
        with pytest.raises(OSError, match="in use") as caught, address.bound(settings):
            pass
        assert "already running" in address.address_refused(settings, caught.value).message
        assert server.end(signal.SIGTERM) == 0
    assert not path.exists()


def test_a_socket_that_a_killed_server_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "claude.sock"
    address.bind_unix(path).close()
    assert path.exists()
    with address.bound(Settings(uds=str(path))) as sock:
        sock.listen()
        address._connect_unix(path).close()
    assert not path.exists()


@pytest.mark.parametrize("listens", [True, False])
def test_nothing_of_anybody_elses_is_replaced(tmp_path: Path, listens: bool) -> None:
    path = tmp_path / "theirs"
    with socket.socket(socket.AF_UNIX) as theirs:
        if listens:
            theirs.bind(str(path))
            theirs.listen()
        else:
            path.write_text("a file")
        with pytest.raises(OSError, match="in use") as caught:
            address.bind_unix(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert path.exists()


# TLS.


def test_the_server_speaks_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    tls = {"CLAUDE_PROXY_TLS_CERT": str(cert), "CLAUDE_PROXY_TLS_KEY": str(key)}
    with Served(fake_cli.write(tmp_path / "cli"), tmp_path / "state", tls) as server:
        assert server.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=cert)
        with (
            httpx.Client(verify=context, base_url=server.url, timeout=60) as client,
            client.stream("POST", "/v1/chat/completions", json=chat("hello", stream=True)) as answer,
        ):
            assert answer.read().endswith(b"data: [DONE]\n\n")
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url.replace("https", "http"), timeout=60)
        settings = Settings(port=server.port, tls_cert=str(cert), tls_key=str(key))
        assert address.check_address(settings).message.endswith("claude-max-api is serving there")


def test_silent_handshakes_keep_nobody_out(tmp_path: Path, certificate: tuple[Path, Path], expects: Expects) -> None:
    expects("faults", "600 TLS connections that say nothing, with room for 512 open files", "others are answered")
    cert, key = certificate
    tls = {"CLAUDE_PROXY_TLS_CERT": str(cert), "CLAUDE_PROXY_TLS_KEY": str(key)}
    files = ("sh", "-c", 'ulimit -n 512; exec "$@"', "sh")
    with (
        Served(fake_cli.write(tmp_path / "cli"), tmp_path / "state", tls, wrapper=files) as server,
        contextlib.ExitStack() as silent,
    ):
        for number in range(600):
            sock = silent.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
            if number % 2:
                sock.sendall(b"\x16\x03\x01")
        context = ssl.create_default_context(cafile=cert)
        with httpx.Client(verify=context, base_url=server.url, timeout=20, trust_env=False) as client:
            for _ in range(3):
                body = chat("x" * 300_000 + "end")
                assert client.post("/v1/chat/completions", json=body).text.count("x" * 300_000) == 1
        assert "accepted" not in server.log()
        assert "Traceback" not in server.log()
        assert server.end(signal.SIGTERM) == 0


def test_a_certificate_and_a_key_that_do_not_belong_together(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = map(str, certificate)
    assert address.check_tls(Settings(tls_cert=cert, tls_key=key)).state == "ok"
    other = tmp_path / "other.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", other],
        check=True, capture_output=True,
    )  # fmt: skip
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "ec", "-aes128", "-passout", "pass:sesame", "-in", key, "-out", locked],
        check=True, capture_output=True,
    )  # fmt: skip
    for wrong in (str(other), str(locked), str(tmp_path / "none.pem"), cert):
        check = address.check_tls(Settings(tls_cert=cert, tls_key=wrong))
        assert (check.state, check.message.startswith(f"{cert} and {wrong} cannot be used: ")) == ("FAIL", True)
