"""The examples for nginx and Caddy, run by the real ones in front of a server, with TLS as they have it."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests import fake_cli
from tests.conftest import chat
from tests.served import ROOT, Served, wait_for
from tests.test_haproxy import free_port

pytestmark = pytest.mark.reverse_proxies
HOST = "claude.example.org"
PLACES = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
KEY = {"authorization": "Bearer sesame"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("behind")
    settings = {"API_KEYS": "me:sesame", "CLAUDE_PROXY_HOSTS": HOST}
    with Served(fake_cli.write(path / "cli"), path / "state", settings) as served:
        yield served


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    made = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}", "-out", made[0], "-keyout", made[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


def replaced(text: str, changes: dict[str, str]) -> str:
    """The example with what is another here: ports and files. Each has to be there, once."""
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def of_nginx(port: int, behind: int, certificate: tuple[Path, Path], folder: Path) -> list[str]:
    """Its configuration in `folder`, and the command: the example is one site of it."""
    site = replaced(
        (ROOT / "deploy" / "nginx.conf").read_text(),
        {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "/etc/ssl/claude.example.org.pem": str(certificate[0]),
            "/etc/ssl/claude.example.org.key": str(certificate[1]),
            "127.0.0.1:3456": f"127.0.0.1:{behind}",
        },
    )
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nworker_processes 1;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{site}}}\n"
    )
    return [program("nginx"), "-p", str(folder), "-e", f"{folder}/error.log", "-c", str(config)]


def of_caddy(port: int, behind: int, certificate: tuple[Path, Path], folder: Path) -> list[str]:
    """The same; the certificate is ours, since nobody here would sign one for it."""
    site = replaced(
        (ROOT / "deploy" / "Caddyfile").read_text(),
        {
            "\nclaude.example.org {\n": f"\nhttps://claude.example.org:{port} {{\n\tbind 127.0.0.1\n"
            f"\ttls {certificate[0]} {certificate[1]}\n",
            "127.0.0.1:3456": f"127.0.0.1:{behind}",
        },
    )
    config = folder / "Caddyfile"
    config.write_text(f"{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{site}")
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]


def program(name: str) -> str:
    found = shutil.which(name, path=PLACES)
    assert found is not None, f"there is no {name} on PATH"
    return found


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def client(
    request: pytest.FixtureRequest,
    server: Served,
    certificate: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[httpx.Client]:
    """Of somebody who reaches the site by its name."""
    folder = tmp_path_factory.mktemp(request.param)
    port = free_port()
    command = {"nginx": of_nginx, "caddy": of_caddy}[request.param](port, server.port, certificate, folder)
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb"))
        environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(process.wait, 60)
        stack.callback(process.terminate)

        def named(sent: httpx.Request) -> None:
            sent.headers["host"] = HOST
            sent.extensions = {**sent.extensions, "sni_hostname": HOST}

        made = stack.enter_context(
            httpx.Client(
                base_url=f"https://127.0.0.1:{port}", verify=ssl.create_default_context(cafile=str(certificate[0])),
                headers=KEY, timeout=60, trust_env=False, event_hooks={"request": [named]},
            )
        )  # fmt: skip

        def up() -> bool:
            try:
                return made.get("/health").status_code == 200
            except httpx.TransportError:
                assert process.poll() is None, (folder / "log").read_text() + str(list(folder.glob("error.log")))
                return False

        wait_for(up, 30, f"{request.param} serves")
        yield made


def test_a_stream_comes_as_it_is_written_and_ends_with_its_client(client: httpx.Client, server: Served) -> None:
    """The answer never ends: what has been said of it comes all the same, and nothing goes on for nobody."""

    def cancelled() -> int:
        return [row["outcome"] for row in server.recent_of("sesame")].count("cancelled")

    before = cancelled()
    for path, body in (
        ("/v1/chat/completions", chat([["say", "early"], ["hang"]], stream=True)),
        ("/api/chat", chat([["say", "early"], ["hang"]])),
    ):
        with client.stream("POST", path, json=body) as answer:
            assert any("early" in line for line in answer.iter_lines())
    wait_for(lambda: cancelled() == before + 2, 30, "the server learns that its clients have left")


def test_a_large_request_and_its_key_arrive(client: httpx.Client) -> None:
    body = chat("hello")
    body["messages"].insert(0, {"role": "system", "content": "x" * 3_000_000})
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.json()["choices"][0]["message"]["content"] == "echo: hello"
    assert client.post("/v1/chat/completions", json=chat("hello"), headers={"authorization": ""}).status_code == 401
