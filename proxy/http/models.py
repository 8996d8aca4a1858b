"""`GET /v1/models` and `/v1/models/{id}`."""

from __future__ import annotations

from typing import Final, Literal

import falcon
import falcon.asgi
import msgspec
from msgspec import UNSET, Struct, UnsetType

from proxy.http.service import Service
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.protocol.lines import ModelUse
from proxy.protocol.models import FAMILIES, bare

# Clients sort and compare by it, so it must not change from call to call; the CLI reports no dates.
CREATED: Final = 1_735_689_600


class Model(Struct, frozen=True):
    """`context_length` and `max_completion_tokens` in tokens; left out until the CLI has said them of an answer."""

    id: str
    object: Literal["model"] = "model"
    created: int = CREATED
    owned_by: str = "anthropic"
    context_length: int | UnsetType = UNSET
    max_completion_tokens: int | UnsetType = UNSET


class ModelList(Struct, frozen=True):
    data: tuple[Model, ...]
    object: Literal["list"] = "list"


def model_ids(service: Service) -> tuple[str, ...]:
    """The names on offer: the user's own, the families, and what the CLI itself reports, each once."""
    own = [model.name for model in service.settings.models]
    listed = [model.resolvedModel for model in service.pool.warm_pool.models] + [
        model.value for model in service.pool.warm_pool.models
    ]
    return tuple(dict.fromkeys(id for id in (*own, *FAMILIES, *listed) if id and id != "default"))


def described(service: Service, id: str) -> Model:
    """The model that answers to `id`, with what is known of it."""
    target = service.model_for(id)
    listed = next((model.resolvedModel for model in service.pool.warm_pool.models if model.value == target), target)
    used = service.pool.models_used.get(listed, ModelUse())
    return Model(id, context_length=used.contextWindow or UNSET, max_completion_tokens=used.maxOutputTokens or UNSET)


class Models:
    """All of them."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(
            ModelList(tuple(described(self._service, id) for id in model_ids(self._service)))
        )

    on_head = on_get


class OneModel:
    """One by its id, which may contain slashes. 404 for names that mean no model of Claude."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, model_id: str) -> None:
        if not self._service.is_claude(model_id):
            raise Rejection(Failure(Kind.UNKNOWN_MODEL, "No model of Claude has this name.", "model"))
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(described(self._service, bare(model_id)))

    on_head = on_get
