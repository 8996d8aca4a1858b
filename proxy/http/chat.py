"""`POST /v1/chat/completions`."""

from __future__ import annotations

from functools import partial
from typing import Final

import falcon
import falcon.asgi

from proxy.http.answers import Job, answer, new_identity
from proxy.http.body import read_json
from proxy.http.edge import TRACE
from proxy.http.service import Service
from proxy.protocol import request as requests
from proxy.protocol.chat import Chunk, Chunks, fold, usage_chunk


class ChatCompletions:
    """The resource. `api`: what is posted to it is put to a model, and written in this API."""

    api: Final = "openai-chat"

    def __init__(self, service: Service) -> None:
        self._service = service

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        service = self._service
        request = requests.decode(await read_json(req, service.settings.max_body), service.rules)
        identity = new_identity(service, "chatcmpl", request.include_usage)
        style, thinking = request.tool_use.style, service.settings.reasoning
        job: Job[Chunk] = Job(
            identity=identity,
            plans=(request.plan,) * request.n,
            model=request.model,
            stream=request.stream,
            stop=request.stop,
            ignored=request.ignored,
            feeder=lambda index: Chunks(identity, index, style, thinking=thinking),
            usage_chunk=partial(usage_chunk, identity),
            fold=fold,
        )
        await answer(service, job, req.context.key_name, req.scope[TRACE], resp)
