"""The body of a request: JSON, within a bound, compressed or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import falcon.asgi
import msgspec

from proxy.http import codings, values
from proxy.http.edge import ABORT
from proxy.http.paths import DEPLOYMENT
from proxy.http.uploads import UPLOADS
from proxy.offload import LARGE, OWNER, in_thread, off_loop, overdone
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import BUSY, Failure, Kind, Rejection

_Decoded = TypeVar("_Decoded")
_BOM: Final = b"\xef\xbb\xbf"
# Bodies of the largest size that may be on their way at once.
MOST_AT_ONCE: Final = 16
# A value, however short, takes as long to decode as a text of so many bytes.
VALUE_COST: Final = 64
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _too_large(max_size: int, after: str = "") -> Rejection:
    return Rejection(Failure(Kind.BODY_TOO_LARGE, f"The body is larger than {max_size} bytes{after}."))


def _decompressed(body: bytes, applied: tuple[str, ...], max_size: int) -> bytes:
    try:
        return codings.decode(body, applied, max_size)
    except codings.TooLarge:
        raise _too_large(max_size, " once it is decompressed") from None
    except codings.NotDecodable:
        message = f"The body cannot be decompressed: it is not complete, valid {', '.join(applied)}."
        raise Rejection(Failure(Kind.BAD_REQUEST, message)) from None


def _check(body: bytes) -> None:
    """Refuse what is not worth decoding. Raises Rejection."""
    if values.too_many(body):
        words = f"The body holds more than {values.MAX_VALUES} JSON values."
        raise Rejection(Failure(Kind.BAD_REQUEST, words))
    if values.too_much_text(body):
        words = f"The request is too long: it holds more than {values.MAX_TEXT} bytes of text, which no model can read."
        raise Rejection(Failure(Kind.PROMPT_TOO_LONG, words))
    if not values.is_utf8(body):
        raise Rejection(Failure(Kind.BAD_REQUEST, "The body is not valid UTF-8."))


def _with_model(body: bytes, model: str) -> bytes:
    """The JSON object with this `model`, whatever it names itself. What is none is left to whoever decodes it."""
    try:
        fields = decoded(_FIELDS, body, "")
    except Rejection:
        return body
    return msgspec.json.encode(fields | {"model": msgspec.Raw(msgspec.json.encode(model))})


# Below this path JSON need not be called so: Ollama's own examples post it with `curl -d`, as a form.
_UNTYPED: Final = "/api/"
# What browsers send with each request that a page makes. Pages can send forms and text anywhere without being asked.
_OF_PAGES: Final = ("origin", "referer", "sec-fetch-site")


def _is_json(req: falcon.asgi.Request) -> bool:
    media_type = (req.content_type or "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        return True
    return req.path.startswith(_UNTYPED) and not any(req.get_header(name) for name in _OF_PAGES)


async def read_json(
    req: falcon.asgi.Request, max_size: int, decode: Callable[[bytes], _Decoded], *, large: bool = False
) -> _Decoded:
    """What `decode`, a pure function, makes of the body of a POST, decompressed, at most `max_size` bytes.

    `large`: it may take long even for a small body.

    Raises `Rejection`. It must say that it is JSON, but where it is sure that no web page has sent it: a form or plain
    text could come from any. Where the path names the model, the body does so, too.
    """
    if not _is_json(req):
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
    pieces: list[bytes] = []
    with UPLOADS.one(MOST_AT_ONCE * max_size, req.scope.get(ABORT), OWNER.get()) as upload:
        async for piece in req.stream:
            pieces.append(piece)
            upload.grow(len(piece))
            if upload.size > max_size:
                raise _too_large(max_size)
    size = upload.size
    if applied:
        # A few bytes may become many.
        pieces = [await in_thread(_decompressed, b"".join(pieces), applied, max_size)]
        size = len(pieces[0])
    if overdone(size):
        raise Rejection(BUSY)

    def finish() -> _Decoded:
        body = b"".join(pieces).removeprefix(_BOM)
        pieces.clear()
        _check(body)
        model = req.scope.get(DEPLOYMENT)
        return decode(body if model is None else _with_model(body, model))

    if size < LARGE and large:
        return await in_thread(finish)
    if size < LARGE:
        size += VALUE_COST * sum(map(values.separators, pieces))
    return await off_loop(size, finish)
