"""What a tool must be, whatever API it came by. How it is made to pass is the affair of `translation`."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.plan import Grammar, Tool
from proxy.protocol.schema import check_size

MAX_TOOLS: Final = 1024
# Bytes of all tools' schemas and descriptions together: more than any model's window holds.
MAX_TOOLS_BYTES: Final = 8 << 20
NAMELESS: Final = "A tool needs a name."
# A tool that takes free text is offered as one with this argument.
CUSTOM_ARGUMENT: Final = "input"
CUSTOM_SCHEMA: Final = Raw(
    b'{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}'
)
MUST_CALL_ANY: Final = "You must answer by calling at least one of the tools that you have been given."
MUST_CALL_ONE: Final = "You must answer by calling the tool `{}`."


class _CustomInput(Struct, frozen=True):
    input: str


_schema_decoder: Final = msgspec.json.Decoder(dict[str, Any])
_custom_input: Final = msgspec.json.Decoder(_CustomInput)


def custom_input(arguments: str) -> str:
    """The free text of a custom call. What a model wrote that is not of the tool's shape is handed on as it is."""
    try:
        return _custom_input.decode(arguments).input
    except (ValueError, RecursionError):
        return arguments


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


class Offer:
    """The tools of a request, by name, while they are gathered. `where`: the parameter that holds them."""

    def __init__(self, where: str = "tools") -> None:
        self.tools: dict[str, Tool] = {}
        self._where = where
        self._bytes = 0

    def add(
        self,
        name: str,
        description: str | None,
        schema: Raw | None,
        where: str,
        field: str = "parameters",
        *,
        again: bool = False,
        grammar: Grammar | None = None,
    ) -> None:
        """A tool at `where`, whose schema stands in `field`; None: it takes free text, which has to match the grammar,
        if there is one. `again`: it may replace another.

        Raises Rejection for a name that is missing or another's, and for what is too much in all.
        """
        place = f"{where}.{field}"
        if not name:
            raise bad_request(NAMELESS, f"{where}.name")
        if name in self.tools and not again:
            raise bad_request(f"Two tools have the name {name!r}.", f"{where}.name")
        # Counted before anything is decoded.
        self._bytes += len(name) + len(description or "") + len(bytes(schema or b""))
        if self._bytes > MAX_TOOLS_BYTES:
            message = f"The tools of a request can have {MAX_TOOLS_BYTES} bytes of schemas and descriptions in all."
            raise bad_request(message, place)
        made = CUSTOM_SCHEMA if schema is None else parameters(schema, place)
        self.tools[name] = Tool(name, description or "", made, "" if schema is None else place, grammar)
        if len(self.tools) > MAX_TOOLS:
            raise bad_request(f"At most {MAX_TOOLS} tools can be given.", self._where)
