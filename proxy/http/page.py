"""`GET /`: the page that shows what the server does. One static file, nothing from elsewhere, no data in it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

import falcon
import falcon.asgi

STYLE: Final = (Path(__file__).parent / "style.css").read_text("utf-8")
TEMPLATE: Final = (Path(__file__).parent / "page.html").read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _inside(tag: str, page: str) -> str:
    found = re.search(rf"<{tag}>(.*)</{tag}>", page, re.DOTALL)
    assert found is not None
    return found[1]


PAGE: Final = TEMPLATE.replace("/* style.css */", STYLE)
# Only this style and this script; requests to nowhere but this server.
POLICY: Final = (
    f"default-src 'none'; style-src {_hash(_inside('style', PAGE))}; script-src {_hash(_inside('script', PAGE))}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


# What Ollama says here, and its clients look for, on the port that they know.
OLLAMA: Final = b"Ollama is running"


class Page:
    """The resource. `ollama_port`: where clients of Ollama expect it, if they do."""

    def __init__(self, ollama_port: int | None = None) -> None:
        self._ollama_port = ollama_port

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        if self._ollama_port is not None and req.scope["server"][1] == self._ollama_port:
            resp.content_type = falcon.MEDIA_TEXT
            resp.data = OLLAMA
            return
        resp.content_type = falcon.MEDIA_HTML
        resp.set_header("content-security-policy", POLICY)
        resp.set_header("x-content-type-options", "nosniff")
        resp.set_header("referrer-policy", "no-referrer")
        resp.set_header("cache-control", "no-cache")
        resp.data = PAGE.encode()

    on_head = on_get
