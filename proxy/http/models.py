"""`GET /v1/models` and `/v1/models/{id}`, in OpenAI's form or, with the header `anthropic-version`, in Anthropic's."""

from __future__ import annotations

from typing import Final, Literal

import falcon
import falcon.asgi
import msgspec
from msgspec import UNSET, Struct, UnsetType

from proxy.dialects.anthropic.models import ModelInfo, capabilities_of, line_of, page
from proxy.http.service import Service
from proxy.protocol.failures import Failure, Kind, Rejection
from proxy.protocol.lines import ListedModel, ModelUse
from proxy.protocol.models import FAMILIES, bare

# Clients sort and compare by it, so it must not change from call to call; the CLI reports no dates.
CREATED: Final = 1_735_689_600
# A request with this header is one of Anthropic's clients.
VERSION: Final = "anthropic-version"


class Model(Struct, frozen=True):
    """`context_length` and `max_completion_tokens` in tokens, as far as the CLI has said them: the second is known once
    the model has answered."""

    id: str
    object: Literal["model"] = "model"
    created: int = CREATED
    owned_by: str = "anthropic"
    context_length: int | UnsetType = UNSET
    max_completion_tokens: int | UnsetType = UNSET


class ModelList(Struct, frozen=True):
    data: tuple[Model, ...]
    object: Literal["list"] = "list"


class Described(Struct, frozen=True):
    """What is known of a name: the CLI's own entry for it, if it lists one, and sizes in tokens.

    `web_search`: the server has the web searched.
    """

    id: str
    listed: ListedModel
    context: int | None
    answer: int | None
    web_search: bool

    @property
    def openai(self) -> Model:
        return Model(self.id, context_length=self.context or UNSET, max_completion_tokens=self.answer or UNSET)

    @property
    def anthropic(self) -> ModelInfo:
        resolved = self.listed.resolvedModel or self.listed.value
        own = self.id not in (resolved, self.listed.value)
        return ModelInfo(
            id=self.id,
            display_name=self.id if own else self.listed.displayName or self.id,
            max_input_tokens=self.context,
            max_tokens=self.answer,
            capabilities=capabilities_of(self.listed, web_search=self.web_search)
            if self.listed.resolvedModel
            else None,
            line=line_of(resolved),
        )


def model_ids(service: Service) -> tuple[str, ...]:
    """The names on offer: the user's own, the families, and what the CLI itself reports, each once."""
    own = [model.name for model in service.settings.models]
    listed = [model.resolvedModel for model in service.pool.warm_pool.models] + [
        model.value for model in service.pool.warm_pool.models
    ]
    return tuple(dict.fromkeys(id for id in (*own, *FAMILIES, *listed) if id and id != "default"))


async def learn_sizes(service: Service) -> None:
    """Have the CLI say how much context the models on offer take, as far as it has not yet."""
    await service.counter.windows(map(service.model_for, model_ids(service)))


def described(service: Service, id: str) -> Described:
    """The model that answers to `id`, with what is known of it by now; see `learn_sizes`."""
    target = service.model_for(id)
    entries = (model for model in service.pool.warm_pool.models if target in (model.value, model.resolvedModel))
    listed = next(entries, ListedModel(target))
    used = service.pool.models_used.get(listed.resolvedModel or target, ModelUse())
    known = service.counter.known_windows
    sizes = (known.get(name) for name in (target, listed.value, listed.resolvedModel))
    context = used.contextWindow or next(filter(None, sizes), None)
    return Described(id, listed, context or None, used.maxOutputTokens or None, service.settings.web_search)


class Models:
    """All of them."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        service = self._service
        await learn_sizes(service)
        known = [described(service, id) for id in model_ids(service)]
        # All that there are are in use.
        stages = req.get_param_as_list("lifecycle[]") or req.get_param_as_list("lifecycle") or ["active"]
        found = page(
            [model.anthropic for model in known] if "active" in stages else (),
            before_id=req.get_param("before_id"),
            after_id=req.get_param("after_id"),
            limit=req.get_param("limit"),
        )
        openai = ModelList(tuple(model.openai for model in known))
        resp.content_type = falcon.MEDIA_JSON
        resp.append_header("vary", VERSION)
        resp.data = msgspec.json.encode(openai if req.get_header(VERSION) is None else found)

    on_head = on_get


class OneModel:
    """One by its id, which may contain slashes. 404 for names that mean no model of Claude."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, model_id: str) -> None:
        if not self._service.is_claude(model_id):
            raise Rejection(Failure(Kind.UNKNOWN_MODEL, "No model of Claude has this name.", "model"))
        await learn_sizes(self._service)
        known = described(self._service, bare(model_id))
        resp.content_type = falcon.MEDIA_JSON
        resp.append_header("vary", VERSION)
        resp.data = msgspec.json.encode(known.openai if req.get_header(VERSION) is None else known.anthropic)

    on_head = on_get
