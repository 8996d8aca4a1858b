"""proxy/dialects/openai/content.py: text, images and files of a message, as blocks of the Messages API."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.openai import content
from proxy.dialects.openai.chat_body import TextLike, UserPart
from proxy.dialects.openai.chat_request import ChatPlan, decode
from proxy.protocol import media
from proxy.protocol.decoding import decoded
from proxy.protocol.failures import TABLE, Rejection
from proxy.protocol.plan import (
    Base64Source,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    TextSource,
    ToolResultBlock,
    UrlSource,
)

PIXEL = base64.b64encode(b"\x89PNG\r\n").decode()
PDF = base64.b64encode(b"%PDF-1.7 and so on").decode()
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\nand so on").decode()
WORDS = base64.b64encode("Some words, ü.".encode()).decode()


def blocks(*parts: Any, text_only: bool = False) -> list[media.PartBlock]:
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[TextLike if text_only else UserPart])  # type: ignore[misc]
    found = decoded(decoder, json.dumps(parts).encode(), "messages[3].content")
    return content.blocks(content.parts(found, "messages[3]"))


def refused(*parts: Any, text_only: bool = False) -> tuple[int, str]:
    """Status and parameter."""
    with pytest.raises(Rejection) as caught:
        blocks(*parts, text_only=text_only)
    failure = caught.value.failure
    assert failure.message
    assert failure.param is not None
    return TABLE[failure.kind].status, failure.param


def image(url: Any, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url} | more}


def file(**more: Any) -> dict[str, Any]:
    return {"type": "file", "file": more}


TEXT = {"type": "text", "text": "look:"}


# Text


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_text_goes_through_as_it_is(kind: str) -> None:
    assert blocks({"type": kind, "text": " a\n@b "}) == [TextBlock(" a\n@b ")]


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_what_shows_nothing_is_left_out(text: str) -> None:
    assert blocks({"type": "text", "text": text}, {"type": "refusal", "refusal": text}, TEXT) == [TextBlock("look:")]
    assert content.blocks(content.parts(text, "")) == []


def test_no_content() -> None:
    assert (
        content.blocks(content.parts(None, ""))
        == content.blocks(content.parts([], ""))
        == blocks({"type": "refusal"})
        == []
    )


# Images


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "image/gif", "image/webp"])
def test_images_inside_the_request(kind: str) -> None:
    assert blocks(TEXT, image(f"data:{kind};base64,{PIXEL}")) == [
        TextBlock("look:"),
        ImageBlock(Base64Source(kind, PIXEL)),
    ]


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("data:image/jpg;base64", "image/jpeg"),
        ("DATA:image/PNG;base64", "image/png"),
        ("data:image/png;charset=utf-8;base64", "image/png"),
        ("data: image/png ;base64", "image/png"),
    ],
)
def test_heads_of_data_urls(head: str, kind: str) -> None:
    assert blocks(image(f"{head},{PIXEL}")) == [ImageBlock(Base64Source(kind, PIXEL))]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/a.png", "https://example.com/a?b=c#d", "HTTPS://EXAMPLE.COM/", "http://[::1]/x"]
)
def test_urls_are_handed_on_and_not_fetched(url: str) -> None:
    assert blocks(image(url)) == [ImageBlock(UrlSource(url))]


@pytest.mark.parametrize("detail", ["auto", "low", "high", None])
def test_detail_is_accepted(detail: str | None) -> None:
    assert len(blocks(image("https://example.com/a", detail=detail))) == 1


def test_the_url_may_stand_alone() -> None:
    assert blocks({"type": "image_url", "image_url": "https://example.com/a"}) == [
        ImageBlock(UrlSource("https://example.com/a"))
    ]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": ""},
        image(""),
        image("file:///etc/passwd"),
        image("ftp://example.com/a.png"),
        image("/etc/passwd"),
        image("a.png"),
        image("javascript:1"),
        image("data:"),
        image("data:image/png"),
        image(f"data:image/png,{PIXEL}"),
        image(f"data:;base64,{PIXEL}"),
        image(f"data:image/svg+xml;base64,{PIXEL}"),
        image(f"data:image/tiff;base64,{PIXEL}"),
        image(f"data:text/plain;base64,{PIXEL}"),
        image("data:image/png;base64,"),
        image("data:image/png;base64,%%%"),
        image("data:image/png;base64,abc"),
        image("data:image/png;base64,ab*c="),
        image("data:image/png;base64,üüüü"),
    ],
)
def test_images_that_are_none(part: Any) -> None:
    assert refused(TEXT, part) == (400, "messages[3].content[1].image_url.url")


@pytest.mark.parametrize(("url", "place"), [(5, ".image_url.url"), (None, ".image_url.url"), ([], ".image_url.url")])
def test_an_url_is_a_text(url: Any, place: str) -> None:
    assert refused(image(url)) == (400, f"messages[3].content[0]{place}")


def test_an_image_that_is_too_large() -> None:
    most = "A" * media.MAX_IMAGE
    assert len(blocks(image(f"data:image/png;base64,{most}"))) == 1
    assert refused(image(f"data:image/png;base64,{most}AAAA")) == (413, "messages[3].content[0].image_url.url")


# Files


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (f"data:application/pdf;base64,{PDF}", None),
        (f"data:application/pdf;base64,{PDF}", "a.pdf"),
        (f"data:application/octet-stream;base64,{PDF}", "a.bin"),
        (PDF, "a.txt"),
        (PDF, None),
        (base64.b64encode(b"no magic number").decode(), "A.PDF"),
    ],
)
def test_pdfs(data: str, name: str | None) -> None:
    more = {} if name is None else {"filename": name}
    (found,) = blocks(file(file_data=data, **more))
    assert found == DocumentBlock(Base64Source("application/pdf", data.rpartition(",")[2]), name)


@pytest.mark.parametrize(
    ("data", "name"),
    [(WORDS, None), (WORDS, "a.txt"), (f"data:text/markdown;base64,{WORDS}", "a.md"), (WORDS, ""),
     (f"data:application/json;base64,{WORDS}", "odd.pdf")],
)  # fmt: skip
def test_text_files(data: str, name: str | None) -> None:
    more = {} if name is None else {"filename": name}
    assert blocks(file(file_data=data, **more)) == [DocumentBlock(TextSource("Some words, ü."), name or None)]


@pytest.mark.parametrize("data", [PNG, f"data:image/png;base64,{PNG}", f"data:application/octet-stream;base64,{PNG}"])
def test_an_image_given_as_a_file_is_an_image(data: str) -> None:
    assert blocks(file(file_data=data, filename="image-1.png")) == [ImageBlock(Base64Source("image/png", PNG))]


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "file"}, "file"),
        (file(), "file"),
        (file(filename="a.pdf"), "file"),
        (file(file_id="file-1"), "file.file_id"),
        (file(file_data=5), "file.file_data"),
        (file(file_data=""), "file.file_data"),
        (file(file_data="data:application/pdf;base64,"), "file.file_data"),
        (file(file_data="", filename="a.pdf"), "file.file_data"),
        (file(file_data="IAo="), "file.file_data"),
        (file(file_data=base64.b64encode("\u3000".encode()).decode()), "file.file_data"),
        (file(file_data="not base64!"), "file.file_data"),
        (file(file_data="data:application/pdf"), "file.file_data"),
        (file(file_data=base64.b64encode(b"\xff\xfe\x00").decode()), "file.file_data"),
        ({"type": "file", "file": "x"}, "file"),
    ],
)
def test_files_that_are_none(part: Any, param: str) -> None:
    assert refused(TEXT, part) == (400, f"messages[3].content[1].{param}")


def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_FILE", len(PDF))
    assert len(blocks(file(file_data=PDF))) == 1
    assert refused(file(file_data=PDF + "AAAA")) == (413, "messages[3].content[0].file.file_data")


def test_a_file_beside_its_id_is_taken() -> None:
    assert len(blocks(file(file_data=PDF, file_id="file-1"))) == 1


# What cannot stand here


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}, "input_audio"),
        ({"type": "video_url"}, "type"),
        ({"type": ""}, "type"),
        ({"type": None}, "type"),
        ({}, "type"),
        ({"type": "image_url"}, "image_url.url"),
        ({"type": "image_url", "image_url": None}, "image_url.url"),
        ({"type": "text"}, "text"),
        ({"type": "text", "text": None}, "text"),
        ({"type": "text", "text": 5}, "text"),
    ],
)
def test_parts_that_are_none(part: Any, param: str) -> None:
    assert refused(part) == (400, f"messages[3].content[0].{param}")


@pytest.mark.parametrize("part", [5, None, "text", []])
def test_a_part_is_an_object(part: Any) -> None:
    assert refused(TEXT, part) == (400, "messages[3].content[1]")


@pytest.mark.parametrize("part", [image("https://example.com/a"), file(file_data=PDF)])
def test_where_only_text_can_stand(part: Any) -> None:
    assert refused(part, text_only=True) == (400, "messages[3].content[0].type")
    assert blocks(TEXT, text_only=True) == [TextBlock("look:")]


# In a whole request


def request(*messages: Any) -> ChatPlan:
    return decode(json.dumps({"model": "opus", "messages": messages}).encode())


IMAGE = image(f"data:image/png;base64,{PIXEL}")
CALL = {
    "role": "assistant", "content": "a",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "get"}}],
}  # fmt: skip


def test_images_of_earlier_turns_and_in_results() -> None:
    made = request(
        {"role": "user", "content": [IMAGE]}, CALL, {"role": "tool", "tool_call_id": "c1", "content": [TEXT, IMAGE]}
    )
    first, _, last = made.plan.messages
    shown = ImageBlock(Base64Source("image/png", PIXEL))
    assert first.content == (shown,)
    assert last.content == (ToolResultBlock("c1", (TextBlock("look:"), shown)),)


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
def test_images_are_the_users(role: str) -> None:
    with pytest.raises(Rejection) as caught:
        request({"role": role, "content": [TEXT, IMAGE]}, {"role": "user", "content": "hi"})
    assert caught.value.failure.param == "messages[0].content[1].type"


def test_images_are_counted() -> None:
    many = {"role": "user", "content": [IMAGE] * (media.MAX_IMAGES - 1)}
    result = {"role": "tool", "tool_call_id": "c1", "content": [TEXT, IMAGE]}
    assert len(request(many, CALL, result).plan.messages) == 3
    for more in (
        [many, CALL, result, {"role": "user", "content": [TEXT, IMAGE]}],
        [many, CALL, {"role": "tool", "tool_call_id": "c1", "content": "x"}, {"role": "user", "content": [IMAGE] * 2}],
    ):
        with pytest.raises(Rejection) as caught:
            request(*more)
        assert TABLE[caught.value.failure.kind].status == 400
        assert caught.value.failure.param == "messages[3].content[1]"


KINDS = ["text", "refusal", "image_url", "file", "input_audio", "output_text", "x", ""]
ODD = st.none() | st.integers() | st.text(max_size=8) | st.lists(st.none(), max_size=1)
URLS = st.sampled_from(["", "data:", "data:image/png;base64,", f"data:image/png;base64,{PIXEL}", "http://", "x", PDF])
INNER = ODD | URLS | st.dictionaries(st.sampled_from(["url", "detail", "file_data", "file_id", "filename"]), ODD | URLS)


@given(
    st.dictionaries(st.sampled_from(["type", "text", "refusal", "image_url", "file"]), st.sampled_from(KINDS) | INNER)
)
def test_any_part_is_a_block_or_refused(part: Any) -> None:
    try:
        found = blocks(part)
    except Rejection as rejection:
        param = rejection.failure.param
        assert param is not None
        assert param.startswith("messages[3].content[0]")
        return
    assert len(found) <= 1
