"""The parts of a message's content as blocks of the Messages API.

Text goes through as it is. Images and files are handed on inline, or by a URL that the Messages API fetches, never we.
Shapes: `openai.types.chat.chat_completion_content_part_param`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from proxy.protocol import media
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.media import MAX_IMAGES, PartBlock
from proxy.protocol.plan import DocumentBlock, ImageBlock, TextBlock


class _ImageUrl(Struct, frozen=True):
    url: str
    detail: str | None = None


class _File(Struct, frozen=True):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _Source(Struct, frozen=True):
    """Of an image in the form of the Messages API."""

    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""


class Part(Struct, frozen=True):
    """A content part. Those of the Messages API stand in the messages of clients that know Claude by its name."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | str | None = None
    file: _File | None = None
    source: _Source | None = None
    id: str = ""
    name: str = ""
    input: Raw = Raw()
    tool_use_id: str = ""
    content: str | list[Raw] | None = None
    is_error: bool | None = None
    thinking: str = ""
    signature: str = ""
    data: str = ""


_part_decoder: Final = msgspec.json.Decoder(Part)


def parts(content: str | Sequence[Raw] | None, where: str) -> list[tuple[Part, str]]:
    """The parts of one message, each with its path; text alone is one part. `where`: the path of the message."""
    if content is None:
        return []
    if isinstance(content, str):
        return [(Part("text", content), f"{where}.content")]
    places = (f"{where}.content[{index}]" for index in range(len(content)))
    return [(decoded(_part_decoder, raw, place), place) for raw, place in zip(content, places, strict=True)]


def _sourced(source: _Source | None, where: str) -> ImageBlock:
    if source is not None and source.type == "base64":
        return media.image(source.media_type, source.data, f"{where}.source.data")
    if source is not None and source.type == "url":
        return media.image_by_url(source.url, f"{where}.source.url")
    raise bad_request("An image needs a source of type base64 or url.", f"{where}.source")


def _image(given: _ImageUrl | str | None, where: str) -> ImageBlock:
    url = given.url if isinstance(given, _ImageUrl) else given
    place = f"{where}.image_url.url"
    if not url:
        raise bad_request("An image part needs a URL.", place)
    return media.image_by_url(url, place)


def _file(file: _File | None, where: str) -> DocumentBlock:
    where = f"{where}.file"
    if file is None or (file.file_data is None and file.file_id is None):
        raise bad_request("A file part needs `file_data`.", where)
    if file.file_data is None:
        raise bad_request("There are no stored files here: send the file itself in `file_data`.", f"{where}.file_id")
    place = f"{where}.file_data"
    media_type, data = "", file.file_data
    if media.is_data_url(data):
        media_type, data = media.data_url(data, place)
    return media.document(media_type, data, file.filename, place)


def blocks(found: Sequence[tuple[Part, str]], *, text_only: bool = False, images_before: int = 0) -> list[PartBlock]:
    """The parts as the model gets them. Those without visible text are left out: the Messages API refuses them.
    `text_only`: images and files are refused, as in a system prompt. `images_before`: how many there are in the
    messages before it."""
    made: list[PartBlock] = []
    for part, place in found:
        if part.type in ("text", "input_text", "output_text"):
            if part.text is None:
                raise bad_request("A text part needs `text`.", f"{place}.text")
            if part.text.strip():
                made.append(TextBlock(part.text))
        elif part.type == "refusal":
            if part.refusal and part.refusal.strip():
                made.append(TextBlock(part.refusal))
        elif part.type in ("image_url", "image") and not text_only:
            images_before += 1
            if images_before > MAX_IMAGES:
                raise bad_request(f"At most {MAX_IMAGES} images can be given.", place)
            made.append(_image(part.image_url, place) if part.type == "image_url" else _sourced(part.source, place))
        elif part.type == "file" and not text_only:
            made.append(_file(part.file, place))
        elif part.type == "input_audio":
            raise bad_request("Claude Code takes no audio.", f"{place}.input_audio")
        else:
            raise bad_request(f"Parts of type {part.type!r} cannot stand here.", f"{place}.type")
    return made
