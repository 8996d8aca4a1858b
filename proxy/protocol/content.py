"""The parts of a message's content as blocks of the Messages API.

Text goes through as it is. Images and files are handed on inline, or by a URL that the Messages API fetches, never we.
Shapes: `openai.types.chat.chat_completion_content_part_param`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from proxy.protocol.decoding import decoded
from proxy.protocol.failures import Failure, Kind, Rejection, bad_request
from proxy.protocol.plan import (
    Base64Source,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    TextSource,
    UrlSource,
)

IMAGE_TYPES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")
PDF: Final = "application/pdf"
# The Messages API takes 100 images, 5 MB each (as base64 text), and PDFs that fit into its 32 MB request.
MAX_IMAGES: Final = 100
MAX_IMAGE: Final = 5 * 1024 * 1024
MAX_FILE: Final = 30 * 1024 * 1024

PartBlock = TextBlock | ImageBlock | DocumentBlock


class _ImageUrl(Struct, frozen=True):
    url: str
    detail: str | None = None


class _File(Struct, frozen=True):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _Part(Struct, frozen=True):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | str | None = None
    file: _File | None = None


_part_decoder: Final = msgspec.json.Decoder(_Part)


def _too_large(what: str, most: int, where: str) -> Rejection:
    return Rejection(Failure(Kind.BODY_TOO_LARGE, f"{what} is larger than {most} bytes.", where))


def _data_url(url: str, where: str) -> tuple[str, str]:
    """Media type and base64 text of a `data:` URL."""
    head, comma, data = url[5:].partition(",")
    media_type, *options = head.split(";")
    if not comma or "base64" not in options:
        raise bad_request("A data URL must be of the form `data:TYPE;base64,DATA`.", where)
    return media_type.strip().lower(), data


def _checked_base64(data: str, where: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise bad_request("This is not valid base64.", where) from None


def _image(image: _ImageUrl | str | None, where: str) -> ImageBlock:
    url = image.url if isinstance(image, _ImageUrl) else image
    place = f"{where}.image_url.url"
    if not url:
        raise bad_request("An image part needs a URL.", place)
    if url[:5].lower() != "data:":
        if not url.lower().startswith(("http://", "https://")):
            raise bad_request("An image's URL must be a data, http or https URL.", place)
        return ImageBlock(UrlSource(url))
    media_type, data = _data_url(url, place)
    media_type = {"image/jpg": "image/jpeg"}.get(media_type, media_type)
    if media_type not in IMAGE_TYPES:
        raise bad_request(f"Images can be {', '.join(IMAGE_TYPES)}.", place)
    if len(data) > MAX_IMAGE:
        raise _too_large("The image", MAX_IMAGE, place)
    if not _checked_base64(data, place):
        raise bad_request("The image is empty.", place)
    return ImageBlock(Base64Source(media_type, data))


def _file(file: _File | None, where: str) -> DocumentBlock:
    where = f"{where}.file"
    if file is None or (file.file_data is None and file.file_id is None):
        raise bad_request("A file part needs `file_data`.", where)
    if file.file_data is None:
        raise bad_request("There are no stored files here: send the file itself in `file_data`.", f"{where}.file_id")
    place = f"{where}.file_data"
    name = file.filename or ""
    media_type, data = "", file.file_data
    if data[:5].lower() == "data:":
        media_type, data = _data_url(data, place)
    if len(data) > MAX_FILE:
        raise _too_large("The file", MAX_FILE, place)
    content = _checked_base64(data, place)
    title = file.filename or None
    if not content:
        raise bad_request("The file is empty.", place)
    if media_type == PDF or content[:5] == b"%PDF-" or (not media_type and name.lower().endswith(".pdf")):
        return DocumentBlock(Base64Source(PDF, data), title)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise bad_request("Files can be PDF or UTF-8 text; an image goes into an `image_url` part.", place) from None
    if not text.strip():
        raise bad_request("The file is empty.", place)
    return DocumentBlock(TextSource(text), title)


def images_in(blocks: Iterable[object]) -> int:
    """How many images there are."""
    return sum(isinstance(block, ImageBlock) for block in blocks)


def blocks(
    content: str | Sequence[Raw] | None, where: str, *, text_only: bool = False, images_before: int = 0
) -> list[PartBlock]:
    """The content of one message. `where`: the path of the message. Parts without visible text are left out: the
    Messages API refuses them. `text_only`: images and files are refused, as in a system prompt. `images_before`: how
    many there are in the messages before it."""
    if content is None:
        return []
    if isinstance(content, str):
        return [TextBlock(content)] if content.strip() else []
    found: list[PartBlock] = []
    for index, raw in enumerate(content):
        place = f"{where}.content[{index}]"
        part = decoded(_part_decoder, raw, place)
        if part.type in ("text", "input_text", "output_text"):
            if part.text is None:
                raise bad_request("A text part needs `text`.", f"{place}.text")
            if part.text.strip():
                found.append(TextBlock(part.text))
        elif part.type == "refusal":
            if part.refusal and part.refusal.strip():
                found.append(TextBlock(part.refusal))
        elif part.type == "image_url" and not text_only:
            images_before += 1
            if images_before > MAX_IMAGES:
                raise bad_request(f"At most {MAX_IMAGES} images can be given.", place)
            found.append(_image(part.image_url, place))
        elif part.type == "file" and not text_only:
            found.append(_file(part.file, place))
        elif part.type == "input_audio":
            raise bad_request("Claude Code takes no audio.", f"{place}.input_audio")
        else:
            raise bad_request(f"Parts of type {part.type!r} cannot stand here.", f"{place}.type")
    return found
