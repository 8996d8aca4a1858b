"""What a tool must be, whatever API it came by. How it is made to pass is the affair of `translation`."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.schema import check_size

MAX_TOOLS: Final = 1024
NAMELESS: Final = "A tool needs a name."
# A tool that takes free text is offered as one with this argument.
CUSTOM_ARGUMENT: Final = "input"
CUSTOM_SCHEMA: Final = Raw(
    b'{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}'
)
MUST_CALL_ANY: Final = "You must answer by calling at least one of the tools that you have been given."
MUST_CALL_ONE: Final = "You must answer by calling the tool `{}`."

_schema_decoder: Final = msgspec.json.Decoder(dict[str, Any])


def parameters(raw: Raw, where: str) -> Raw:
    """The parameters as a schema of an object, which is all that a tool can take. Raises Rejection.

    `where`: their path. Whether they are a JSON Schema at all is left to be judged.
    """
    if bytes(raw) in (b"", b"null"):
        return Raw(b'{"type":"object","properties":{}}')
    check_size(raw, where)
    schema = decoded(_schema_decoder, raw, where)
    kind = schema.setdefault("type", "object")
    if kind != "object":
        raise bad_request("The parameters of a tool must be a JSON Schema of type object.", f"{where}.type")
    return Raw(msgspec.json.encode(schema))


def checked_name(name: str, where: str, seen: set[str]) -> str:
    """The name, which is then among those `seen`. Raises Rejection."""
    if not name:
        raise bad_request(NAMELESS, where)
    if name in seen:
        raise bad_request(f"Two tools have the name {name!r}.", where)
    seen.add(name)
    return name
