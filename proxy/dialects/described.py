"""Types of a body's fields that several APIs have, as they are decoded and as `/openapi.json` describes them.

A bound that is enforced in words of its own is `documented`: it stands in the description, and decoding leaves it to
the code beside it. Descriptions are tolerant where decoding is: null for whatever is optional, unknown fields anywhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta, Raw

from proxy.protocol.models import EFFORTS


def documented(description: str | None = None, **keywords: Any) -> Meta:
    """Keywords of JSON Schema for the description alone."""
    return Meta(description=description, extra_json_schema=keywords)


BASE64: Final = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})"
IMAGE_URL: Final = rf"^(?:https?://.*|data:image/(?:png|jpe?g|gif|webp);base64,{BASE64})$"
FILE_DATA: Final = rf"^(?:data:(?:application/pdf|text/[a-z]+);base64,)?{BASE64}$"

Model = Annotated[str, documented("A name of `/v1/models`; any other means the latest Opus.", pattern=r"\S")]
TokenLimit = Annotated[int, documented("null, 0 and -1 mean no limit.", minimum=-1)]
Effort = Annotated[str, documented(enum=list(EFFORTS))]
ToolName = Annotated[str, documented(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
_SAMPLING: Final = "Without effect for models that refuse it; then `x-ignored-params` says so."
Temperature = Annotated[float, documented(_SAMPLING, minimum=0, maximum=2)]
Share = Annotated[float, documented(_SAMPLING, minimum=0, maximum=1)]
# Kept as it came: what is checked, translated and passed on is the client's own text.
ToolParameters = Annotated[
    Raw,
    documented(
        "A JSON Schema of an object.",
        anyOf=[
            {
                "type": "object",
                "properties": {
                    "type": {"const": "object"},
                    "properties": {"type": "object", "propertyNames": {"pattern": r"^[a-zA-Z0-9_.-]{1,64}$"}},
                },
            },
            {"type": "null"},
        ],
    ),
]
AnswerSchema = Annotated[
    Raw, documented("A JSON Schema.", anyOf=[{"type": one} for one in ("object", "boolean", "null")])
]
NoEffect = Annotated[Any, documented("Has no effect, which the response header `x-ignored-params` says.")]
