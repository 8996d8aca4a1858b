"""The server's description of itself: complete, valid, and readable."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_32_VALIDATOR

from proxy.dialects.anthropic import request as messages_request
from proxy.dialects.openai import chat_body, completions
from proxy.http import docs, response_shapes
from proxy.http.openapi import ANYWHERE
from proxy.http.openapi import _name as type_name
from proxy.http.openapi import _structs as structs_in
from proxy.http.routes import ANSWERING, ROUTES, description
from proxy.protocol.failures import TABLE, Kind

ROOT = Path(__file__).parent.parent
DOCUMENT = description(False)
SCHEMAS = DOCUMENT["components"]["schemas"]
PAGE = docs.page(DOCUMENT)


def references(value: Any) -> set[str]:
    """Every `$ref` in a document."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_it_is_an_openapi_document() -> None:
    assert [error.message for error in OPENAPI_32_VALIDATOR.iter_errors(DOCUMENT)] == []


def test_every_reference_leads_somewhere_and_everything_is_referred_to() -> None:
    targets = {
        f"#/components/{kind}/{name}" for kind in ("schemas", "headers") for name in DOCUMENT["components"][kind]
    }
    assert references(DOCUMENT) == targets


def test_no_two_types_have_one_name() -> None:
    types = {
        type
        for one in ROUTES
        for type in (one.body, one.answer, one.other, one.event, one.errors.body, *one.events)
        if type is not None
    }
    names = [type_name(type) for type in structs_in(types)]
    assert sorted(names) == sorted(set(names))


def test_the_paths_are_those_of_the_application() -> None:
    routes = {route.path for route in ROUTES}
    assert set(DOCUMENT["paths"]) == routes


def test_operation_ids_are_unique() -> None:
    ids = [one["operationId"] for methods in DOCUMENT["paths"].values() for one in methods.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("name", "decoded"),
    [
        ("ChatRequest", chat_body.ChatRequest),
        ("CompletionRequest", completions.CompletionRequest),
        ("AnthropicMessagesRequest", messages_request.MessagesRequest),
        ("AnthropicCounted", messages_request.Counted),
    ],
)
def test_every_field_that_is_decoded_is_described(name: str, decoded: type[msgspec.Struct]) -> None:
    assert set(SCHEMAS[name]["properties"]) == set(decoded.__struct_fields__)


def test_a_field_without_a_shape_is_found() -> None:
    class New(msgspec.Struct):
        odd: msgspec.Raw

    with pytest.raises(ValueError, match=r"New.odd has no declared shape"):
        response_shapes.declared("New", New, {}, ())


def test_every_kind_of_failure_is_described_somewhere() -> None:
    described = {kind for one in ROUTES for kind in one.kinds} | ANYWHERE
    # What happens beside every operation: a method or a protocol that is none.
    assert set(Kind) - described == {Kind.METHOD, Kind.NO_WEBSOCKET}


def test_the_statuses_of_chat_are_those_of_the_table() -> None:
    statuses = set(DOCUMENT["paths"]["/v1/chat/completions"]["post"]["responses"])
    assert statuses == {"200"} | {str(TABLE[kind].status) for kind in ANSWERING | ANYWHERE}


def test_keys_are_asked_for_where_they_are_needed() -> None:
    closed = description(True)
    assert (closed["security"], DOCUMENT["security"]) == ([{"key": []}], [])
    free = {
        path
        for path, methods in closed["paths"].items()
        if methods["get" if "get" in methods else "post"].get("security") == []
    }
    assert free == {"/", "/health"}


def test_what_is_sent_has_no_other_fields() -> None:
    assert SCHEMAS["Completion"]["additionalProperties"] is False
    assert SCHEMAS["Message"]["required"] == ["role", "content", "refusal", "annotations"]
    assert "usage" not in SCHEMAS["Chunk"]["required"]


def test_the_page_shows_every_operation_and_type() -> None:
    ids = set(re.findall(r"id='([^']+)'", PAGE))
    assert ids >= {one.id for one in ROUTES} | set(SCHEMAS)
    assert set(re.findall(r"href='#([^']+)'", PAGE)) <= ids


def test_the_page_loads_nothing() -> None:
    assert set(re.findall(r"(?:href|src)='([^#'][^']*)'", PAGE)) == {"openapi.json"}
    assert not re.search(r"<script|@import|url\(|https?://(?!\.\*)", PAGE.replace(json.dumps("https?://"), ""))


def test_the_page_shows_text_as_text() -> None:
    odd = {"info": {"title": "<b>", "version": "1", "summary": "a `<i>` b"}, "paths": {}, "components": {"schemas": {}}}
    assert "<b>" not in docs.page(odd)
    assert "<code>&lt;i&gt;</code>" in docs.page(odd)
