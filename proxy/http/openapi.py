"""`GET /openapi.json` and `GET /docs`: the server's own description, made from the types that it decodes and encodes.

OpenAPI 3.2, whose `itemSchema` describes the events of a stream. Every route lists the failures that it can give;
their statuses, types and codes come from `failures.TABLE` and the dialects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, get_args

import falcon
import falcon.asgi
import msgspec
from msgspec import Struct, UnsetType, structs

import proxy
from proxy.dialects import CountingDialect, Dialect, Framing
from proxy.dialects.openai.errors import CODES, ErrorEnvelope
from proxy.http import docs
from proxy.http.openapi_headers import ALWAYS, COUNTED, HEADERS, PLAN, RETRIES, SERVED
from proxy.http.service import Service
from proxy.protocol.failures import TABLE, Kind

JSON: Final = "application/json"
SSE: Final = "text/event-stream"
REF: Final = "#/components/schemas/{name}"

# What can happen to any request, by access control, the router or a fault of ours.
ANYWHERE: Final = frozenset((Kind.NO_KEY, Kind.BAD_KEY, Kind.FORBIDDEN, Kind.INTERNAL))


class Errors(Struct, frozen=True):
    """How an API answers failures: the type of the body, each kind's status, and the schema of what is said of some."""

    body: type[Struct]
    status: Callable[[Kind], int]
    said: Callable[[Sequence[Kind]], Mapping[str, Any]]


def _openai_said(kinds: Sequence[Kind]) -> dict[str, Any]:
    rows = [CODES[kind] for kind in kinds]
    said = {
        "type": {"enum": list(dict.fromkeys(row.type for row in rows))},
        "code": {"enum": list(dict.fromkeys(row.code for row in rows))},
    }
    return {"properties": {"error": {"properties": said}}}


OPENAI: Final = Errors(ErrorEnvelope, lambda kind: TABLE[kind].status, _openai_said)


class Route(Struct, frozen=True):
    """One method of one path. `answer`: the type of a body as JSON; `event`: of an event of a stream, which has no name
    and ends with `[DONE]`, or of its JSON lines; `events`: of the events of a stream that are named after their `type`.

    `other`: the type of the answer to a request with the header `anthropic-version`, and `other_errors` its errors.

    `dialect`: a request to a model, in this dialect; `counting`: one whose tokens are counted; `resource`: what serves
    it where not all such are served alike.

    `statuses`: those that come with `answer`; `kinds`: failures beyond those that can happen anywhere.
    """

    method: str
    path: str
    id: str
    summary: str
    description: str
    answer: type[Struct] | None
    body: type[Struct] | None = None
    example: Mapping[str, Any] = {}
    event: type[Struct] | None = None
    events: tuple[type[Struct], ...] = ()
    errors: Errors = OPENAI
    other: type[Struct] | None = None
    other_errors: Errors | None = None
    media_type: str = JSON
    statuses: tuple[int, ...] = (200,)
    kinds: frozenset[Kind] = frozenset()
    parameters: tuple[str, ...] = ()
    query: Mapping[str, Mapping[str, Any]] = {}
    open: bool = False
    dialect: Dialect | None = None
    counting: CountingDialect | None = None
    resource: Callable[[Service], object] | None = None


# Types of these packages are called after their API.
_PREFIXES: Final = {
    "proxy.dialects.anthropic": "Anthropic",
    "proxy.dialects.ollama": "Ollama",
    "proxy.dialects.openai.responses": "Responses",
}


def document(routes: Sequence[Route], keys: bool) -> dict[str, Any]:
    """The document. `keys`: the server wants one of its API keys."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = _route(route)
        if route.method == "get":
            paths[route.path]["head"] = _head(route)
    return {
        "openapi": "3.2.0",
        "info": {
            "title": "claude-max-api-proxy",
            "version": proxy.__version__,
            "summary": "OpenAI's chat API, answered by the Claude Code CLI of this computer.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}] if keys else [],
        "paths": paths,
        "components": {
            "schemas": dict(sorted((_requests(routes) | _answers(routes)).items())),
            "headers": HEADERS,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Needed once the server has `API_KEYS`.",
                }
            },
        },
    }


def _components(types: Iterable[type[Struct]]) -> dict[str, Any]:
    """The schemas of these types. Those of one API are called after it: APIs have types of the same name."""
    groups: dict[str, list[type[Struct]]] = {}
    for type in sorted(set(types), key=_name):
        groups.setdefault(_prefix(type), []).append(type)
    found: dict[str, Any] = {}
    for prefix, members in groups.items():
        _, schemas = msgspec.json.schema_components(members, ref_template=REF.format(name=prefix + "{name}"))
        found |= {prefix + name: schema for name, schema in schemas.items()}
    return found


def _requests(routes: Sequence[Route]) -> dict[str, Any]:
    return _components(route.body for route in routes if route.body is not None)


def _answers(routes: Sequence[Route]) -> dict[str, Any]:
    """What is sent: every field is there, unless it can be unset, and no other."""
    types = {
        type
        for one in routes
        for type in (one.answer, one.other, one.event, one.errors.body, *one.events)
        if type is not None
    }
    schemas = _components(types)
    for type in _structs(types):
        schema = schemas[_name(type)]
        for field in structs.fields(type):
            schema["properties"][field.encode_name].pop("default", None)
        schema["required"] = [
            *([type.__struct_config__.tag_field] if type.__struct_config__.tag_field else []),
            *(field.encode_name for field in structs.fields(type) if UnsetType not in get_args(field.type)),
        ]
        schema["additionalProperties"] = False
    return schemas


def _prefix(type: type[Struct]) -> str:
    return next((prefix for package, prefix in _PREFIXES.items() if type.__module__.startswith(package)), "")


def _name(type: type[Struct]) -> str:
    return _prefix(type) + type.__name__


def _structs(types: Iterable[Any]) -> set[type[Struct]]:
    """All Structs in these types, however deep."""
    found: set[type[Struct]] = set()
    left = list(types)
    while left:
        one = left.pop()
        left += get_args(one)
        if isinstance(one, type) and issubclass(one, Struct) and one not in found:
            found.add(one)
            left += [field.type for field in structs.fields(one)]
    return found


def _route(one: Route) -> dict[str, Any]:
    found: dict[str, Any] = {"operationId": one.id, "summary": one.summary, "description": one.description}
    if one.open:
        found["security"] = []
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in one.parameters
    ]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in one.query.items()]
    if one.other is not None:
        words = "Asks for the form of Anthropic's API, whatever it says: `2023-06-01`."
        parameters.append(
            {"name": "anthropic-version", "in": "header", "description": words, "schema": {"type": "string"}}
        )
    if parameters:
        found["parameters"] = parameters
    if one.body is not None:
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": _ref(one.body), "example": one.example}}}
    responses = {str(status): _success(one, status) for status in one.statuses}
    return found | {"responses": responses | _failures(one)}


def _head(one: Route) -> dict[str, Any]:
    """The same route without bodies."""
    found = _route(one)
    bare = {status: {**response, "content": {}} for status, response in found["responses"].items()}
    words = {"operationId": f"{one.id}Head", "summary": f"{one.summary} Without the body."}
    return found | words | {"responses": bare}


def _ref(type: type[Struct]) -> dict[str, str]:
    return {"$ref": REF.format(name=_name(type))}


def _headers(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _success(one: Route, status: int) -> dict[str, Any]:
    words = "The answer." if status == 200 else "The same form, when no answer can be expected."
    response: dict[str, Any] = {"description": words, "headers": _headers(ALWAYS)}
    body: dict[str, Any] = {"type": "string"} if one.media_type != JSON else {"type": "object"}
    if one.answer is not None:
        body = _ref(one.answer) if one.other is None else {"oneOf": [_ref(one.answer), _ref(one.other)]}
    response["content"] = {one.media_type: {"schema": body}}
    if one.counting is not None:
        response["headers"] |= _headers((*COUNTED, *PLAN))
    if one.event is not None or one.events:
        response["headers"] |= _headers((*SERVED, *PLAN))
        response["content"] |= _stream(one)
    return response


def _stream(one: Route) -> dict[str, Any]:
    if one.event is not None and one.dialect is not None and one.dialect.framing is Framing.NDJSON:
        return {Framing.NDJSON.value: {"itemSchema": {"anyOf": [_ref(one.event), _ref(one.errors.body)]}}}
    return {SSE: {"itemSchema": _named(one) if one.events else _event(one)}}


def _event(one: Route) -> dict[str, Any]:
    """An event of a stream: only `data`, which is a chunk, an error, or the word at the end.

    An event without a name has, by the standard, the name `message`.
    """
    assert one.event is not None
    values = {"oneOf": [_ref(one.event), _ref(one.errors.body)]}
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": values}
    return {
        "type": "object",
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}, "event": {"const": "message"}},
        "required": ["data"],
        "additionalProperties": False,
    }


def _named(one: Route) -> dict[str, Any]:
    """An event of a stream whose events are named after the `type` of their data."""
    names = [str(type.__struct_config__.tag) for type in one.events]
    values = {"anyOf": [*map(_ref, one.events), _ref(one.errors.body)]}
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": values}
    return {
        "type": "object",
        "properties": {"data": data, "event": {"enum": [*names, "error"]}},
        "required": ["data", "event"],
        "additionalProperties": False,
    }


def _failures(one: Route) -> dict[str, Any]:
    """The failures of an route by status; the schema says which types and codes go with it."""
    kinds = one.kinds | ({Kind.FORBIDDEN, Kind.INTERNAL} if one.open else ANYWHERE)
    by_status: dict[int, list[Kind]] = {}
    for kind in sorted(kinds, key=list(Kind).index):
        by_status.setdefault(one.errors.status(kind), []).append(kind)
    return {str(status): _failure(one, by_status[status]) for status in sorted(by_status)}


def _said(errors: Errors, kinds: list[Kind]) -> dict[str, Any]:
    return {"allOf": [_ref(errors.body), errors.said(kinds)]}


def _failure(one: Route, kinds: list[Kind]) -> dict[str, Any]:
    words = ", ".join(kind.value.replace("_", " ").replace("cli", "CLI") for kind in kinds)
    response: dict[str, Any] = {"description": f"{words[0].upper()}{words[1:]}.", "headers": _headers(ALWAYS)}
    if one.dialect is not None or one.counting is not None:
        response["headers"] |= _headers((*RETRIES, *PLAN))
    schema = _said(one.errors, kinds)
    if one.other_errors is not None:
        schema = {"anyOf": [schema, _said(one.other_errors, kinds)]}
    return response | {"content": {JSON: {"schema": schema}}}


class OpenApi:
    """The document as JSON."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._body = msgspec.json.encode(document)

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = falcon.MEDIA_JSON
        resp.data = self._body

    on_head = on_get


class Docs:
    """The document as a page."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._body = docs.page(document).encode()

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = falcon.MEDIA_HTML
        # The page has no script and loads nothing; whatever could get into it has no effect either.
        resp.set_header("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'")
        resp.data = self._body

    on_head = on_get
