"""Counting the tokens of a request, in whatever API: `POST /v1/messages/count_tokens` and the like."""

from __future__ import annotations

from typing import Final

import falcon
import falcon.asgi
import msgspec

from proxy.dialects import CountingDialect
from proxy.dialects.openai.responses.counting import ResponsesCount
from proxy.http.body import read_json
from proxy.http.edge import TRACE, Trace
from proxy.http.service import Service

# Says that nobody counted: the number is the CLI's guess.
HEADER: Final = "x-claude-proxy-count"


class CountTokens:
    """The resource; one for each path and API. Nothing is answered and nothing is billed."""

    def __init__(self, service: Service, dialect: CountingDialect) -> None:
        self._service = service
        self._dialect = dialect

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        service = self._service
        trace: Trace = req.scope[TRACE]
        owner: str = req.context.owner
        rules = service.rules_for(owner)
        large = isinstance(self._dialect, ResponsesCount)
        request = await read_json(
            req, service.settings.max_body, lambda body: self._dialect.decode(body, rules), large=large
        )
        trace.requested_model = request.model
        await service.pool.validator.check(owner, request.plan)
        count = await service.counter.count(request.plan, owner)
        if count.estimated:
            resp.set_header(HEADER, "estimated")
        if request.ignored:
            resp.set_header("x-ignored-params", ", ".join(request.ignored))
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(self._dialect.encode(count.tokens))
