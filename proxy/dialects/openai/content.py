"""The parts of a message's content as blocks of the Messages API.

Text goes through as it is. Images and files are handed on inline, or by a URL that the Messages API fetches, never we.
Shapes: `openai.types.chat.chat_completion_content_part_param`.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.dialects.marks import CacheControl, Marks
from proxy.dialects.openai.chat_body import (
    AnyPart,
    AudioPart,
    Base64Image,
    FileData,
    FilePart,
    ImagePart,
    ImageUrl,
    ImageUrlPart,
    InputFilePart,
    RefusalPart,
    TextPart,
)
from proxy.protocol import media
from proxy.protocol.failures import bad_request
from proxy.protocol.media import MAX_IMAGES, PartBlock, images_in
from proxy.protocol.plan import DocumentBlock, ImageBlock, TextBlock


def parts(content: str | Sequence[AnyPart] | None, where: str) -> list[tuple[AnyPart, str]]:
    """The parts of one message, each with its path; text alone is one part. `where`: the path of the message."""
    if content is None:
        return []
    if isinstance(content, str):
        return [(TextPart(content), f"{where}.content")]
    return [(part, f"{where}.content[{index}]") for index, part in enumerate(content)]


def _sourced(part: ImagePart, where: str) -> ImageBlock:
    if isinstance(part.source, Base64Image):
        return media.image(part.source.media_type, part.source.data, f"{where}.source.data")
    return media.image_by_url(part.source.url, f"{where}.source.url")


def _image(given: ImageUrl | str | None, where: str) -> ImageBlock:
    url = given.url if isinstance(given, ImageUrl) else given
    place = f"{where}.image_url.url"
    if not url:
        raise bad_request("An image part needs a URL.", place)
    return media.image_by_url(url, place)


def _file(file: FileData, where: str) -> DocumentBlock | ImageBlock:
    if file.file_data is None and file.file_id is None:
        raise bad_request("A file part needs `file_data`.", where)
    if file.file_data is None:
        raise bad_request("There are no stored files here: send the file itself in `file_data`.", f"{where}.file_id")
    return media.file(file.file_data, file.filename, f"{where}.file_data")


def mark_of(part: AnyPart) -> CacheControl | None:
    """Its mark for the prompt cache; most kinds of parts can have one."""
    mark: CacheControl | None = getattr(part, "cache_control", None)
    return mark


def blocks(
    found: Sequence[tuple[AnyPart, str]], *, images_before: int = 0, marks: Marks | None = None
) -> list[PartBlock]:
    """The text, images and files among the parts as the model gets them. Parts without visible text are left out: the
    Messages API refuses them. `images_before`: how many images there are in the messages before it. `marks`: takes
    those of the parts. Raises Rejection.
    """
    made: list[PartBlock] = []
    for part, place in found:
        before = len(made)
        if isinstance(part, TextPart | RefusalPart):
            text = part.text if isinstance(part, TextPart) else part.refusal
            if text and text.strip():
                made.append(TextBlock(text))
        elif isinstance(part, ImageUrlPart | ImagePart):
            made.append(_image(part.image_url, place) if isinstance(part, ImageUrlPart) else _sourced(part, place))
        elif isinstance(part, FilePart):
            made.append(_file(part.file, f"{place}.file"))
        elif isinstance(part, InputFilePart):
            made.append(_file(part, place))
        elif isinstance(part, AudioPart):
            raise bad_request("Claude Code takes no audio.", f"{place}.input_audio")
        images_before += images_in(made[before:])
        if images_before > MAX_IMAGES:
            raise bad_request(f"At most {MAX_IMAGES} images can be given.", place)
        if marks is not None:
            marks.on(made[-1] if len(made) > before else None, mark_of(part))
    return made
