"""`GET /`: the page that shows what the server does. One static file, nothing from elsewhere, no data in it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

import falcon
import falcon.asgi

STYLE: Final = (Path(__file__).parent / "style.css").read_text()
TEMPLATE: Final = (Path(__file__).parent / "page.html").read_text()


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


class Page:
    """The resource."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = falcon.MEDIA_HTML
        resp.set_header("content-security-policy", POLICY)
        resp.set_header("x-content-type-options", "nosniff")
        resp.set_header("referrer-policy", "no-referrer")
        resp.set_header("cache-control", "no-cache")
        resp.data = PAGE.encode()

    on_head = on_get
