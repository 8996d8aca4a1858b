"""Images and files."""

from typing import Any

from conformance.cases import case
from conformance.cases.chat import text_of
from conformance.target import Target

ROW = ["request.messages", "behaviour.images and files"]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@case("openai.types.chat.ChatCompletionContentPartImageParam", shows=ROW, uses=["media/image_data_url"])
async def an_image_can_be_asked_about(target: Target) -> None:
    """A message may hold an image as a data URL, with any detail."""
    for detail in (None, "low", "high", "auto"):
        body = target.body("media/image_data_url")
        body["messages"][-1]["content"][1]["image_url"]["detail"] = detail
        text_of(await target.whole(body))


@case("openai.types.chat.chat_completion_content_part_param.File", shows=ROW, uses=["media/pdf"])
async def a_pdf_can_be_asked_about(target: Target) -> None:
    """A message may hold a PDF as file_data."""
    text_of(await target.whole(target.body("media/pdf")))


def _image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "an_image_of_unknown_type": (_image(f"data:image/tiff;base64,{PIXEL}"), 400, "image_url.url"),
    "an_image_that_is_not_base64": (_image("data:image/png;base64,@@@"), 400, "image_url.url"),
    "a_file_of_this_computer_as_an_image": (_image("file:///etc/hostname"), 400, "image_url.url"),
    "an_image_without_url": ({"type": "image_url"}, 400, "image_url.url"),
    "an_image_that_is_too_large": (_image("data:image/png;base64," + "A" * (6 << 20)), 413, "image_url.url"),
    "a_stored_file": ({"type": "file", "file": {"file_id": "file-1"}}, 400, "file.file_id"),
    "a_file_that_is_no_text": (
        {"type": "file", "file": {"filename": "x.zip", "file_data": "data:application/zip;base64,UEsDBAr/"}},
        400, "file.file_data",
    ),
    "audio": ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, 400, "input_audio"),
    "a_part_of_unknown_type": ({"type": "video"}, 400, "type"),
}  # fmt: skip


def _refusal(name: str, part: dict[str, Any], status: int, param: str) -> None:
    words = f"It is a {status} that names the part: {name.replace('_', ' ')}."

    @case("what cannot be honoured is refused by name", name=f"refuses_{name}", requirement=words, shows=ROW)
    async def run(target: Target) -> None:
        body = target.body("chat/plain")
        body["messages"][-1]["content"] = [{"type": "text", "text": "What is this?"}, part]
        await target.refused(body, status, f"messages[0].content[1].{param}")


for _name, _case in REFUSED.items():
    _refusal(_name, *_case)
