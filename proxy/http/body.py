"""The body of a request: JSON, within a bound, compressed or not."""

from __future__ import annotations

import asyncio
from typing import Final

import falcon.asgi
import msgspec

from proxy.http import codings
from proxy.http.paths import DEPLOYMENT
from proxy.protocol.failures import Failure, Kind, Rejection

_BOM: Final = b"\xef\xbb\xbf"
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _too_large(max_size: int, after: str = "") -> Rejection:
    return Rejection(Failure(Kind.BODY_TOO_LARGE, f"The body is larger than {max_size} bytes{after}."))


async def _decoded(body: bytes, applied: tuple[str, ...], max_size: int) -> bytes:
    try:
        # The libraries let other threads run meanwhile.
        return await asyncio.to_thread(codings.decode, body, applied, max_size)
    except codings.TooLarge:
        raise _too_large(max_size, " once it is decompressed") from None
    except codings.NotDecodable:
        message = f"The body cannot be decompressed: it is not complete, valid {', '.join(applied)}."
        raise Rejection(Failure(Kind.BAD_REQUEST, message)) from None


def _with_model(body: bytes, model: str) -> bytes:
    """The JSON object with this `model`, whatever it names itself. What is none is left to whoever decodes it."""
    try:
        fields = _FIELDS.decode(body)
    except msgspec.DecodeError:
        return body
    return msgspec.json.encode(fields | {"model": msgspec.Raw(msgspec.json.encode(model))})


async def read_json(req: falcon.asgi.Request, max_size: int) -> bytes:
    """The body of a POST, decompressed, at most `max_size` bytes. Raises `Rejection`.

    It must say that it is JSON: a form or plain text could come from any web page. Where the path names the model, the
    body does so, too.
    """
    media_type = (req.content_type or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Rejection(Failure(Kind.CONTENT_TYPE, "The body must be sent as `content-type: application/json`."))
    applied = codings.parse(req.get_header("content-encoding"))
    unknown = codings.unsupported(applied)
    if unknown is not None:
        message = f"The content encoding {unknown[:40]!r} is not supported. Supported are {codings.SUPPORTED}."
        raise Rejection(Failure(Kind.CONTENT_TYPE, message))
    if len(applied) > codings.MAX_CODINGS:
        message = f"The body has more than {codings.MAX_CODINGS} content encodings."
        raise Rejection(Failure(Kind.CONTENT_TYPE, message))
    if (req.content_length or 0) > max_size:
        raise _too_large(max_size)
    read = bytearray()
    async for piece in req.stream:
        read += piece
        if len(read) > max_size:
            raise _too_large(max_size)
    body = bytes(read)
    if applied:
        body = await _decoded(body, applied, max_size)
    body = body.removeprefix(_BOM)
    model = req.scope.get(DEPLOYMENT)
    return body if model is None else _with_model(body, model)
