"""`response_format` of chat completions: which form an answer must have."""

from __future__ import annotations

from proxy.dialects.openai.chat_body import JsonFormat, SchemaFormat
from proxy.dialects.openai.chat_tools import PlainText
from proxy.protocol.plan import Schema
from proxy.protocol.schema import FREE, answer_schema


def response_format(format: PlainText | JsonFormat | SchemaFormat | None) -> Schema | None:
    """The schema that answers must fit; None for text. Raises Rejection."""
    if format is None or isinstance(format, PlainText):
        return None
    if isinstance(format, JsonFormat):
        schema, where, description = format.schema, "response_format.schema", None
    else:
        asked = format.json_schema
        schema, where, description = asked.schema, "response_format.json_schema.schema", asked.description
    return FREE if bytes(schema) in (b"", b"null") else answer_schema(schema, where, description)
