"""`POST /v1/completions`, the legacy one."""

from __future__ import annotations

from functools import partial
from typing import Final

import falcon
import falcon.asgi

from proxy.http.answers import Job, answer, new_identity
from proxy.http.body import read_json
from proxy.http.edge import TRACE
from proxy.http.service import Service
from proxy.protocol import completions
from proxy.protocol.completions import TextChunks, TextCompletion, fold_text, text_usage_chunk


class LegacyCompletions:
    """The resource. `api`: what is posted to it is put to a model, and written in this API."""

    api: Final = "openai-completions"

    def __init__(self, service: Service) -> None:
        self._service = service

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        service = self._service
        asked = completions.decode(await read_json(req, service.settings.max_body), service.rules)
        identity = new_identity(service, "cmpl", asked.include_usage)
        job: Job[TextCompletion] = Job(
            identity=identity,
            plans=asked.plans,
            model=asked.model,
            stream=asked.stream,
            stop=asked.stop,
            ignored=asked.ignored,
            feeder=partial(TextChunks, identity),
            usage_chunk=partial(text_usage_chunk, identity),
            fold=partial(fold_text, identity),
        )
        await answer(service, job, req.context.key_name, req.scope[TRACE], resp)
