"""What the real CLI says after its answers: what they cost, and the plan's state, from the headers of its upstream."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests import cli_lines as say
from tests.conftest import chat
from tests.served import Served, wait_for

pytestmark = pytest.mark.real_cli
RESETS = {"5h": time.time() + 9000, "7d": time.time() + 300_000}
USED = {"5h": 0.42, "7d": 0.13}


class Upstream(BaseHTTPRequestHandler):
    """A Messages API that says a word, and how much of the plan is used."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("anthropic-ratelimit-unified-status", "allowed")
        self.send_header("anthropic-ratelimit-unified-representative-claim", "five_hour")
        self.send_header("anthropic-ratelimit-unified-reset", f"{RESETS['5h']:.0f}")
        for window, used in USED.items():
            self.send_header(f"anthropic-ratelimit-unified-{window}-utilization", str(used))
            self.send_header(f"anthropic-ratelimit-unified-{window}-reset", f"{RESETS[window]:.0f}")
            self.send_header(f"anthropic-ratelimit-unified-{window}-status", "allowed")
        self.end_headers()
        for line in say.message("Fine."):
            event = line.get("event")
            if event is not None:
                self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    cli = os.environ.get("CLAUDE_CLI", "")
    assert Path(cli).is_file(), "CLAUDE_CLI must be the path of the CLI"
    settings = {"CLAUDE_PROXY_UPSTREAM_URL": f"http://127.0.0.1:{upstream.server_address[1]}"}
    with Served(Path(cli), tmp_path / "state", settings) as served:
        yield served
    upstream.shutdown()
    upstream.server_close()


def test_costs_and_the_plan(server: Served) -> None:
    first = chat("one")
    server.chat(first)
    wait_for(lambda: server.recent(1)[0]["list_price_usd"] is not None, 10, "what the first one costs")
    cost = server.recent(1)[0]["list_price_usd"]
    assert cost > 0
    past = [*first["messages"], {"role": "assistant", "content": "Fine."}, {"role": "user", "content": "two"}]
    again = server.chat(first | {"messages": past})
    assert again.headers["x-claude-proxy-served"] == "continued"
    wait_for(lambda: server.recent(1)[0]["list_price_usd"] is not None, 10, "what the second one costs")
    assert server.recent(1)[0]["list_price_usd"] == pytest.approx(cost)
    windows = server.get("/v1/usage").json()["plan"]["windows"]
    assert {name: window["utilization"] for name, window in windows.items()} == {"five_hour": 0.42, "seven_day": 0.13}
    assert windows["seven_day"]["resets_at"] == pytest.approx(RESETS["7d"], abs=1)
    assert again.headers["x-claude-plan-five-hour-utilization"] == "0.42"
