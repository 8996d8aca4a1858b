"""Images and documents as blocks of the Messages API, checked so that it takes them.

They are handed on inline, or by a URL that the Messages API fetches, never we.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final

from proxy.protocol.failures import Failure, Kind, Rejection, bad_request
from proxy.protocol.plan import Base64Source, ContentSource, DocumentBlock, ImageBlock, TextSource, UrlSource
from proxy.protocol.plan import PartBlock as PartBlock

IMAGE_TYPES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")
PDF: Final = "application/pdf"
# The Messages API takes 100 images, 5 MB each (as base64 text), and PDFs that fit into its 32 MB request.
MAX_IMAGES: Final = 100
MAX_IMAGE: Final = 5 * 1024 * 1024
MAX_FILE: Final = 30 * 1024 * 1024
# Characters of a data URL up to its data: they are taken apart.
MAX_TYPE: Final = 1000
# Characters of base64 that are looked at in one go; each four stand for three bytes.
_PIECE: Final = 1024 * 1024


def is_url(url: str) -> bool:
    """Whether it is an address that the Messages API can fetch."""
    return url.lower().startswith(("http://", "https://"))


def is_data_url(url: str) -> bool:
    return url[:5].lower() == "data:"


def data_url(url: str, where: str) -> tuple[str, str]:
    """Media type and base64 text of a `data:` URL. Raises Rejection."""
    comma = url.find(",", 0, MAX_TYPE)
    media_type, *options = url[len("data:") : max(comma, 0)].split(";")
    if comma < 0 or "base64" not in (option.strip().lower() for option in options):
        raise bad_request("A data URL must be of the form `data:TYPE;base64,DATA`.", where)
    return media_type.strip().lower(), url[comma + 1 :]


def unbroken(data: str) -> str:
    """Base64 text without the white space that some encoders put into it, which the Messages API does not take."""
    return "".join("".join(data[at : at + _PIECE].split()) for at in range(0, len(data), _PIECE))


def checked_base64(data: str, where: str) -> bytes:
    """What the base64 text holds; line breaks in it are allowed. Raises Rejection."""
    return _bytes(unbroken(data), where)


def _bytes(data: str, where: str) -> bytes:
    try:
        # In pieces: one call for all of it would keep other threads waiting. Only the last can be padded.
        *pieces, last = (data[at : at + _PIECE] for at in range(0, max(1, len(data)), _PIECE))
        if any("=" in piece for piece in pieces):
            raise ValueError
        return b"".join(base64.b64decode(piece, validate=True) for piece in (*pieces, last))
    except (binascii.Error, ValueError):
        raise bad_request("This is not valid base64.", where) from None


def image(media_type: str, data: str, where: str) -> ImageBlock:
    """An image given as base64 text. Raises Rejection."""
    media_type = {"image/jpg": "image/jpeg"}.get(media_type, media_type)
    if media_type not in IMAGE_TYPES:
        raise bad_request(f"Images can be {', '.join(IMAGE_TYPES)}.", where)
    data = unbroken(data)
    if len(data) > MAX_IMAGE:
        raise _too_large("The image", MAX_IMAGE, where)
    if not _bytes(data, where):
        raise bad_request("The image is empty.", where)
    return ImageBlock(Base64Source(media_type, data))


# How the types of images begin.
_BEGINNINGS: Final = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
}
# So many characters of base64 hold what tells the type.
_HEAD: Final = 32


def sniffed_image(data: str, where: str) -> ImageBlock:
    """An image as base64 text without its type, which its first bytes tell, or as a data URL. Raises Rejection."""
    if is_data_url(data):
        return image(*data_url(data, where), where)
    data = unbroken(data)
    return image(_image_type(data, where), data, where)


def _image_type(data: str, where: str) -> str:
    """The type of the image that this base64 text is, by its first bytes; empty: it is none. Raises Rejection."""
    head = data[:_HEAD]
    start = checked_base64(head + "=" * (-len(head) % 4), where)
    return next((type for type, begins in _BEGINNINGS.items() if begins.match(start)), "")


def image_by_url(url: str, where: str) -> ImageBlock:
    """An image given as a data URL, or as an address. Raises Rejection."""
    if is_data_url(url):
        return image(*data_url(url, where), where)
    if not is_url(url):
        raise bad_request("An image's URL must be a data, http or https URL.", where)
    return ImageBlock(UrlSource(url))


def file(data: str, name: str | None, where: str) -> DocumentBlock | ImageBlock:
    """A file given as base64 text or as a data URL: a PDF, text or an image. Raises Rejection."""
    media_type = ""
    if is_data_url(data):
        media_type, data = data_url(data, where)
    image_type = _image_type(unbroken(data[: 2 * _HEAD]), where)
    return image(image_type, data, where) if image_type else document(media_type, data, name, where)


def document(media_type: str, data: str, name: str | None, where: str) -> DocumentBlock:
    """A PDF or text file given as base64 text; `media_type` empty: not known. Raises Rejection."""
    data = unbroken(data)
    if len(data) > MAX_FILE:
        raise _too_large("The file", MAX_FILE, where)
    content = _bytes(data, where)
    if not content:
        raise bad_request("The file is empty.", where)
    named_pdf = not media_type and (name or "").lower().endswith(".pdf")
    if media_type == PDF or content[:5] == b"%PDF-" or named_pdf:
        return DocumentBlock(Base64Source(PDF, data), name or None)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise bad_request(f"Files can be PDF, UTF-8 text, {', '.join(IMAGE_TYPES)}.", where) from None
    if not text.strip():
        raise bad_request("The file is empty.", where)
    return DocumentBlock(TextSource(text), name or None)


def images_in(blocks: Iterable[object]) -> int:
    """How many images there are, those within documents among them."""
    return sum(map(_images, blocks))


def _images(block: object) -> int:
    if isinstance(block, DocumentBlock) and isinstance(block.source, ContentSource):
        return images_in(block.source.content)
    return isinstance(block, ImageBlock)


def _too_large(what: str, limit: int, where: str) -> Rejection:
    return Rejection(Failure(Kind.BODY_TOO_LARGE, f"{what} is larger than {limit} bytes.", where))
