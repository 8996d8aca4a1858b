"""The example for HAProxy, run by the real one in front of two servers: streams, keep-alive, affinity, failover."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests import fake_cli
from tests.conftest import chat
from tests.served import ROOT, Served, wait_for

pytestmark = pytest.mark.haproxy
PROGRAM = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
KEYS = {"API_KEYS": ",".join(f"k{number}:secret-{number}" for number in range(12)), "CLAUDE_PROXY_WAITING": "1"}


class Site:
    """HAProxy and the servers behind it."""

    def __init__(self, url: str, servers: dict[str, Served]) -> None:
        self.url = url
        self.servers = servers

    def requests(self) -> dict[str, int]:
        """How many each server has answered."""
        counts = {}
        for name, server in self.servers.items():
            if server.process.poll() is None:
                counts[name] = len(server.recent_of("secret-0"))
        return counts

    def chat(self, number: int, text: str = "hi", **more: object) -> httpx.Response:
        body = chat(text) | more
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=key(number), timeout=60)


def key(number: int) -> dict[str, str]:
    return {"authorization": f"Bearer secret-{number}"}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    assert PROGRAM is not None, "there is no haproxy on PATH"
    text = (ROOT / "deploy" / "haproxy.cfg").read_text()
    with ExitStack() as stack:
        servers = {}
        for name, port in (("one", "3457"), ("two", "3458")):
            served = Served(fake_cli.write(tmp_path / name / "cli"), tmp_path / name / "state", KEYS)
            servers[name] = stack.enter_context(served)
            assert text.count(f"server {name} 127.0.0.1:{port}") == 1
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{served.port}")
        port = str(free_port())
        text, changed = re.subn(r"bind 127\.0\.0\.1:3456", f"bind 127.0.0.1:{port}", text)
        assert changed == 1
        config = tmp_path / "haproxy.cfg"
        config.write_text(text)
        process = subprocess.Popen([PROGRAM, "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
        stack.callback(process.wait, 10)
        stack.callback(process.terminate)
        url = f"http://127.0.0.1:{port}"

        def up() -> bool:
            try:
                return httpx.get(f"{url}/health", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(up, 15, "HAProxy serves")
        yield Site(url, servers)


def test_the_example_is_valid() -> None:
    ran = subprocess.run(
        [str(PROGRAM), "-c", "-f", str(ROOT / "deploy" / "haproxy.cfg")], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, "WARNING" in ran.stderr) == (0, False), ran.stderr


def test_a_key_stays_with_its_server_and_all_are_used(site: Site) -> None:
    for number in range(12):
        first = chat("first") | {"messages": [{"role": "user", "content": "first"}]}
        url = f"{site.url}/v1/chat/completions"
        assert httpx.post(url, json=first, headers=key(number), timeout=60).headers["x-claude-proxy-served"] == "new"
        if number < 4:
            # The second turn finds the process that holds the first.
            past = [*first["messages"], {"role": "assistant", "content": "echo: first"}]
            second = first | {"messages": [*past, {"role": "user", "content": "second"}]}
            answer = httpx.post(url, json=second, headers=key(number), timeout=60)
            assert answer.headers["x-claude-proxy-served"] == "continued"
    counts = site.requests()
    assert sum(counts.values()) == 16
    assert min(counts.values()) > 0


def test_streams_come_as_they_are_written_and_connections_are_kept(site: Site) -> None:
    steps = [["say", "early"], ["sleep", 1.5], ["say", "late"], ["end"]]
    with httpx.Client(base_url=site.url, headers=key(1), timeout=60) as client:
        ports = set()
        for _ in range(3):
            with client.stream("POST", "/v1/chat/completions", json=chat(steps, stream=True)) as answer:
                ports.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
                moments = {}
                for line in answer.iter_lines():
                    for word in ("early", "late", "[DONE]"):
                        if word in line:
                            moments[word] = time.monotonic()
            assert moments["late"] - moments["early"] > 1
            assert "[DONE]" in moments
        assert len(ports) == 1


def test_when_a_server_goes_its_clients_move_and_no_request_is_lost(site: Site) -> None:
    for number in range(12):
        assert site.chat(number).status_code == 200
    before = site.requests()
    gone = site.servers["one"]
    gone.end(signal.SIGKILL)
    statuses = Counter(site.chat(number).status_code for number in range(12))
    assert statuses == {200: 12}
    assert site.requests() == {"two": before["two"] + 12}


def test_an_answer_that_is_cut_is_not_given_twice(site: Site) -> None:
    before = site.requests()
    body = chat([["say", "begun"], ["hang"]], stream=True)
    url = f"{site.url}/v1/chat/completions"
    with httpx.stream("POST", url, headers=key(3), timeout=60, json=body) as answer:
        lines = answer.iter_lines()
        while "begun" not in next(lines):
            pass
        (name,) = [name for name, count in site.requests().items() if count > before[name]]
        site.servers[name].end(signal.SIGKILL)
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
    (left,) = site.requests()
    assert site.requests()[left] == before[left]
