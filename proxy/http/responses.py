"""`/v1/responses`: made at once or in the background, and what there is of those that are stored."""

from __future__ import annotations

from functools import partial
from typing import Final, Literal

import falcon
import falcon.asgi
import msgspec
from msgspec import Struct

from proxy.dialects import Dialect
from proxy.dialects.openai.responses import kept
from proxy.dialects.openai.responses.encoder import ResponsesEncoder
from proxy.http.background import Job
from proxy.http.edge import TRACE, Trace
from proxy.http.listing import INCLUDE, Query, page
from proxy.http.model_requests import Answering, ModelRequests
from proxy.http.service import Service
from proxy.offload import off_loop
from proxy.protocol.failures import bad_request

MAX_EVENTS: Final = 10**9
QUERY: Final = {
    "include": INCLUDE,
    "stream": {"type": "boolean"},
    "starting_after": {"type": "integer", "minimum": 0, "maximum": MAX_EVENTS},
}
EVENT_STREAM: Final = "text/event-stream; charset=utf-8"
NOT_IN_BACKGROUND: Final = "This response was not made in the background."
REPLAYED_NO_MORE: Final = "The events of this response cannot be had any more: get the response without `stream`."


class DeletedResponse(Struct, frozen=True):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class _Made(Struct, frozen=True):
    background: bool


_made: Final = msgspec.json.Decoder(_Made)


def _json(resp: falcon.asgi.Response, data: bytes) -> None:
    resp.data = data
    resp.content_type = falcon.MEDIA_JSON


async def _told(job: Job) -> bytes:
    """The response as it is at this moment: with its instructions and tools it may be large."""
    return await off_loop(job.size, msgspec.json.encode, job.response)


async def _in_background(found: bytes) -> bool:
    """Whether a stored response was made so."""
    return (await off_loop(len(found), _made.decode, found)).background


def _follow(req: falcon.asgi.Request, resp: falcon.asgi.Response, job: Job, after: int) -> None:
    """Make `resp` a stream of the job's events."""
    events = req.scope[TRACE].answer = job.follow(after)
    resp.content_type = EVENT_STREAM
    resp.set_header("cache-control", "no-cache")
    resp.set_header("x-accel-buffering", "no")
    resp.stream = events


class ResponseRequests(ModelRequests):
    """`POST /v1/responses`."""

    def __init__(self, service: Service, dialect: Dialect) -> None:
        super().__init__(service, dialect)
        self._service = service

    async def _answer(self, answering: Answering, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        kept, encoder, owner = self._service.kept, answering.encoder, answering.owner
        answering.keep = partial(kept.keep, owner)
        if not isinstance(encoder, ResponsesEncoder):
            await answering.respond(resp)
            return
        response = encoder.response
        if not response.background:
            if response.store:
                answering.keep = partial(kept.keep, owner, under_way=kept.begin(owner, response.id))
            await answering.respond(resp)
            return
        trace: Trace = req.scope[TRACE]
        answering.trace = trace.handed_over()
        job = Job(answering, encoder, answering.trace)
        answering.mark(resp)
        self._service.jobs.start(job, req.scope)
        if answering.request.stream:
            _follow(req, resp, job, -1)
        else:
            _json(resp, await _told(job))


class OneResponse:
    """`GET` and `DELETE /v1/responses/{id}`."""

    def __init__(self, service: Service) -> None:
        self._kept = service.kept
        self._jobs = service.jobs

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, response_id: str) -> None:
        query = Query(req)
        stream, after = query.switch("stream"), query.whole("starting_after", 0, MAX_EVENTS)
        job = self._jobs.find(req.context.owner, response_id)
        if stream and job is not None and req.method == "GET":
            _follow(req, resp, job, -1 if after is None else after)
        elif job is not None and not job.ended:
            _json(resp, await _told(job))
        else:
            found = await self.stored(req.context.owner, response_id, query.encrypted)
            if stream:
                raise bad_request(REPLAYED_NO_MORE if await _in_background(found) else NOT_IN_BACKGROUND, "stream")
            _json(resp, found)

    on_head = on_get

    async def on_delete(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, response_id: str) -> None:
        owner = req.context.owner
        job = self._jobs.find(owner, response_id)
        if job is not None:
            await job.cancel()
            self._jobs.forget(job)
        await self._kept.delete(owner, response_id)
        _json(resp, msgspec.json.encode(DeletedResponse(response_id)))

    async def stored(self, owner: str, id: str, encrypted: bool = False) -> bytes:
        """A response that has ended. Raises Rejection."""
        store = self._kept.store

        def assembled() -> bytes:
            items = store.items(owner, "response", id)
            output = kept.shown(((item.data, item.part) for item in items if item.part != "input"), encrypted)
            return kept.assembled(store.get(owner, "response", id), list(output))

        return await self._kept.call("response", None, assembled)


class CancelResponse:
    """`POST /v1/responses/{id}/cancel`."""

    def __init__(self, service: Service) -> None:
        self._responses = OneResponse(service)
        self._jobs = service.jobs

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, response_id: str) -> None:
        owner = req.context.owner
        job = self._jobs.find(owner, response_id)
        if job is not None:
            await job.cancel()
            _json(resp, await _told(job))
            return
        found = await self._responses.stored(owner, response_id)
        if not await _in_background(found):
            raise bad_request(NOT_IN_BACKGROUND, None)
        _json(resp, found)


class InputItems:
    """`GET /v1/responses/{id}/input_items`: what was sent as the input of that response alone."""

    def __init__(self, service: Service) -> None:
        self._kept = service.kept

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, response_id: str) -> None:
        told = await page(Query(req), self._kept, req.context.owner, "response", response_id, ("input",))
        _json(resp, msgspec.json.encode(told))

    on_head = on_get
