"""`response_format` of chat completions: which form an answer must have."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw, Struct

from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Schema
from proxy.protocol.schema import FREE, answer_schema


class _JsonSchema(Struct, frozen=True):
    name: str = ""
    schema: Raw = Raw()


class _Format(Struct, frozen=True):
    """`schema` stands beside `json_object` in the form of llama.cpp and Anyscale."""

    type: str
    json_schema: _JsonSchema | None = None
    schema: Raw = Raw()


_format_decoder: Final = msgspec.json.Decoder(_Format)


def response_format(raw: Raw) -> Schema | None:
    """The schema that a `response_format` asks for; None for text. Raises Rejection."""
    where = "response_format"
    format = decoded(_format_decoder, raw, where)
    if format.type == "text":
        return None
    if format.type == "json_object":
        return FREE if bytes(format.schema) in (b"", b"null") else answer_schema(format.schema, f"{where}.schema")
    if format.type != "json_schema":
        raise bad_request("Must be one of text, json_object, json_schema.", f"{where}.type")
    where = "response_format.json_schema"
    if format.json_schema is None:
        raise bad_request("A schema is needed.", where)
    if bytes(format.json_schema.schema) in (b"", b"null"):
        return FREE
    return answer_schema(format.json_schema.schema, f"{where}.schema")
