"""The parts of an item's content as blocks of the Messages API.

Shapes: `openai.types.responses.response_input_message_content_list_param` of the package `openai`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from proxy.dialects.undeclared import Undeclared, named
from proxy.protocol import media
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import bad_request
from proxy.protocol.media import MAX_IMAGES, PartBlock, images_in
from proxy.protocol.plan import DocumentBlock, ImageBlock, TextBlock, UrlSource


class _Part(Struct, frozen=True):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    file_id: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None


_part_decoder: Final = msgspec.json.Decoder(_Part)
_undeclared: Final = Undeclared(_Part, {"input.content.detail": ("auto",), "input.output.detail": ("auto",)})
NO_FILES: Final = "There are no stored files here: send the file itself."


def _image(part: _Part, where: str) -> ImageBlock:
    if part.image_url:
        return media.image_by_url(part.image_url, f"{where}.image_url")
    if part.file_id is not None:
        raise bad_request(NO_FILES, f"{where}.file_id")
    raise bad_request("An image needs `image_url`.", f"{where}.image_url")


def _file(part: _Part, where: str) -> DocumentBlock | ImageBlock:
    if part.file_data is not None:
        return media.file(part.file_data, part.filename, f"{where}.file_data")
    if part.file_url is not None:
        if not media.is_url(part.file_url):
            raise bad_request("A file's URL must be an http or https URL.", f"{where}.file_url")
        return DocumentBlock(UrlSource(part.file_url), part.filename or None)
    if part.file_id is not None:
        raise bad_request(NO_FILES, f"{where}.file_id")
    raise bad_request("A file needs `file_data` or `file_url`.", where)


def blocks(
    content: str | Sequence[Raw] | None,
    where: str,
    *,
    ignored: list[str],
    text_only: bool = False,
    images_before: int = 0,
) -> list[PartBlock]:
    """The content of one item. `where`: its path. Parts without visible text are left out: the Messages API refuses
    them. `ignored`: takes the names of fields without effect. `text_only`: images and files are refused.
    `images_before`: how many there are in the items before it. Raises Rejection."""
    if content is None:
        return []
    if isinstance(content, str):
        return [TextBlock(content)] if content.strip() else []
    found: list[PartBlock] = []
    for index, raw in enumerate(content):
        place = f"{where}[{index}]"
        before = len(found)
        part = decoded(_part_decoder, raw, place)
        ignored += _undeclared(raw, named(where))
        if part.type in ("input_text", "output_text", "text"):
            if part.text is None:
                raise bad_request("A text part needs `text`.", f"{place}.text")
            if part.text.strip():
                found.append(TextBlock(part.text))
        elif part.type == "refusal":
            if part.refusal and part.refusal.strip():
                found.append(TextBlock(part.refusal))
        elif part.type == "input_image" and not text_only:
            found.append(_image(part, place))
        elif part.type == "input_file" and not text_only:
            found.append(_file(part, place))
        elif part.type == "input_audio":
            raise bad_request("Claude Code takes no audio.", f"{place}.type")
        else:
            raise bad_request(f"Parts of type {part.type!r} cannot stand here.", f"{place}.type")
        images_before += images_in(found[before:])
        if images_before > MAX_IMAGES:
            raise bad_request(f"At most {MAX_IMAGES} images can be given.", place)
    return found
