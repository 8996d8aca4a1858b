"""A request to chat completions with a body of the Responses API, as Cursor's agent sends it; the answer is chat's.

Nothing is stored by it, and it goes on from nothing that is stored.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from proxy.dialects import NoLookup, Rules, parameters
from proxy.dialects.openai.chat_body import StreamOptions
from proxy.dialects.openai.chat_request import ChatPlan
from proxy.dialects.openai.responses import request
from proxy.dialects.openai.tools import CallStyle
from proxy.dialects.undeclared import Undeclared
from proxy.protocol.decoding import decoded

_NO_MESSAGES: Final = (b"", b"null", b"[]")


class _Own(Struct, frozen=True):
    """What is read here, as it has another meaning in an answer of chat, or none."""

    messages: Any = None
    stream_options: StreamOptions | None = None
    include: Any = None
    store: Any = None
    truncation: Any = None


_fields: Final = msgspec.json.Decoder(dict[str, Raw])
_own: Final = msgspec.json.Decoder(_Own)
_undeclared: Final = Undeclared(StreamOptions, {"stream_options.include_obfuscation": (False,)})


def decode(body: bytes, rules: Rules) -> ChatPlan | None:
    """The request, None where it has messages of chat or no input. Raises Rejection."""
    try:
        fields = _fields.decode(body)
    except (ValueError, RecursionError):
        return None
    if "input" not in fields or bytes(fields.get("messages", b"")).strip() not in _NO_MESSAGES:
        return None
    given = {name: fields.pop(name) for name in _Own.__struct_fields__ if name in fields}
    own = decoded(_own, msgspec.json.encode(given), "")
    asked = request.decode(msgspec.json.encode(fields), replace(rules, lookup=NoLookup()))
    ignored = (
        *asked.ignored, *_undeclared(given.get("stream_options", b"{}"), "stream_options"),
        *(("include",) if own.include else ()), *(("store",) if own.store else ()),
        *(("truncation",) if own.truncation not in (None, "disabled") else ()),
    )  # fmt: skip
    return ChatPlan(
        plan=asked.plan,
        model=asked.model,
        stream=asked.stream,
        include_usage=bool(asked.stream and own.stream_options and own.stream_options.include_usage),
        ignored=parameters.told(ignored, rules, asked.ignored),
        style=CallStyle(frozenset(name for name, form in asked.forms.items() if form.kind == "custom")),
        stop=(),
        n=1,
        to_disk=own.store is not False,
    )
