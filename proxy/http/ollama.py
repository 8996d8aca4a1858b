"""What Ollama's API says of its models and of itself: `GET /api/version`, `/api/tags`, `/api/ps`, `POST /api/show`."""

from __future__ import annotations

import hashlib
import re
import time
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec
from msgspec import UNSET, Struct, UnsetType

from proxy.dialects.ollama.encoder import moment
from proxy.dialects.ollama.request import ShowRequest
from proxy.http.body import read_json
from proxy.http.models import CREATED, described, learn_sizes, model_ids
from proxy.http.service import Service
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import Failure, Kind, Rejection, bad_request
from proxy.protocol.models import LATEST, untagged

# That of an Ollama which has all that is served here. Clients look at it: VS Code wants 0.6.4, and those that use
# `/v1/messages` or thinking levels later ones.
VERSION: Final = "0.20.0"
# What the CLI has not said yet: all models of Claude read as much, those of this name more.
CONTEXT: Final = 200_000
LONG_CONTEXT: Final = 1_000_000
CAPABILITIES: Final = ("completion", "tools", "vision", "thinking")
ARCHITECTURE: Final = "claude"
_show_decoder: Final = msgspec.json.Decoder(ShowRequest)


class Version(Struct, frozen=True):
    version: str = VERSION


class Details(Struct, frozen=True, kw_only=True):
    """What is empty Anthropic does not tell."""

    parent_model: str = ""
    format: str = ""
    family: str = ARCHITECTURE
    families: tuple[str, ...] = (ARCHITECTURE,)
    parameter_size: str = ""
    quantization_level: str = ""


class Tag(Struct, frozen=True, kw_only=True):
    """`remote_model`: what the CLI says that answers. `digest`: of the name. `size`: 0 bytes of it are here."""

    name: str
    model: str
    remote_model: str | UnsetType = UNSET
    modified_at: str = moment(CREATED)
    size: int = 0
    digest: str
    details: Details = Details()


class Tags(Struct, frozen=True):
    models: tuple[Tag, ...]


class Process(Struct, frozen=True, kw_only=True):
    """`expires_at`: when no conversation with it is kept alive any more, at the latest."""

    name: str
    model: str
    size: int = 0
    digest: str
    details: Details = Details()
    expires_at: str
    size_vram: int = 0
    context_length: int


class Running(Struct, frozen=True):
    models: tuple[Process, ...]


class Shown(Struct, frozen=True, kw_only=True):
    """`model_info`: among others the context length, in tokens, under the name of the architecture."""

    license: str = ""
    modelfile: str
    parameters: str = ""
    template: str = "{{ .Prompt }}"
    details: Details = Details()
    model_info: dict[str, Any]
    capabilities: tuple[str, ...] = CAPABILITIES
    modified_at: str = moment(CREATED)
    remote_model: str | UnsetType = UNSET


def tagged(name: str) -> str:
    """The name as Ollama has it: with a tag."""
    return name if ":" in name else name + LATEST


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _answering(service: Service, id: str) -> str | UnsetType:
    """What answers to the name, as far as the CLI has said."""
    target = service.model_for(id)
    listed = (model.resolvedModel for model in service.pool.warm_pool.models if model.value == target)
    return next((name for name in listed if name), UNSET)


def _tag(service: Service, id: str) -> Tag:
    name = tagged(id)
    return Tag(name=name, model=name, remote_model=_answering(service, id), digest=_digest(name))


def context_length(service: Service, id: str) -> int:
    """In tokens."""
    said = described(service, id).context
    if said is not None:
        return said
    return LONG_CONTEXT if service.model_for(id).endswith("[1m]") else CONTEXT


def _title(name: str) -> str:
    """`claude-opus-5-5` → `Claude Opus 5.5`, for lists to choose from."""
    words = re.sub(r"(?<=\d)-(?=\d{1,2}(?!\d))", ".", name).split("-")
    return " ".join(word[:1].upper() + word[1:] for word in words)


class _Answer:
    """A resource that answers a GET with a value."""

    def value(self) -> Struct:
        raise NotImplementedError

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(self.value())

    on_head = on_get


class VersionResource(_Answer):
    def value(self) -> Version:
        return Version()


class TagsResource(_Answer):
    def __init__(self, service: Service) -> None:
        self._service = service

    def value(self) -> Tags:
        return Tags(tuple(_tag(self._service, id) for id in model_ids(self._service)))


class RunningResource(_Answer):
    def __init__(self, service: Service) -> None:
        self._service = service

    def value(self) -> Running:
        service = self._service
        expires = moment(time.time() + service.settings.parked_age)
        found = []
        for id, used in sorted(service.pool.models_held.items()):
            name, length = tagged(id), used.contextWindow or context_length(service, id)
            found.append(
                Process(name=name, model=name, digest=_digest(name), expires_at=expires, context_length=length)
            )
        return Running(tuple(found))


class ShowResource:
    """404 for names that mean no model of Claude, as for `/v1/models/{id}`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        service = self._service
        asked = await read_json(req, service.settings.max_body, lambda body: decoded(_show_decoder, body, ""))
        name = (asked.model or asked.name).strip()
        if not name:
            raise bad_request("A model must be named.", "model")
        if not service.is_claude(name):
            raise Rejection(Failure(Kind.UNKNOWN_MODEL, f"model {name[:200]!r} not found"))
        await learn_sizes(service)
        answering = _answering(service, name)
        shown = Shown(
            modelfile=f"FROM {untagged(name)}\n",
            model_info={
                "general.architecture": ARCHITECTURE,
                "general.basename": _title(untagged(name) if answering is UNSET else answering),
                f"{ARCHITECTURE}.context_length": context_length(service, name),
            },
            remote_model=answering,
        )
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(shown)
