"""proxy/http/codings.py and body.py: bodies that come compressed, or with a mark before them."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from proxy.http import codings
from tests.conftest import Serve, chat

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DATA = json.dumps(chat("Hello, compressed world.")).encode()


def raw_deflate(data: bytes) -> bytes:
    maker = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return maker.compress(data) + maker.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": lambda data: zstd.compress(data),
}


@pytest.mark.parametrize("coding", ENCODERS)
def test_what_was_encoded_is_decoded(coding: str) -> None:
    encode = ENCODERS[coding]
    assert codings.decode(encode(DATA), [coding], len(DATA)) == DATA
    assert codings.decode(encode(DATA[:20]) + encode(DATA[20:]), [coding], len(DATA)) == DATA
    assert codings.decode(encode(b""), [coding], 10) == b""


def test_deflate_without_its_header() -> None:
    assert codings.decode(raw_deflate(DATA), ["deflate"], len(DATA)) == DATA


def test_several_are_undone_from_the_last_to_the_first() -> None:
    body = zstd.compress(zlib.compress(gzip.compress(DATA)))
    assert codings.decode(body, ["gzip", "deflate", "zstd"], 1000) == DATA


@pytest.mark.parametrize("coding", ENCODERS)
def test_what_is_no_such_thing(coding: str) -> None:
    whole = ENCODERS[coding](DATA)
    for body in (b"", b"{}", DATA, whole[:-1], whole[: len(whole) // 2], whole + b"more", whole * 17):
        with pytest.raises(codings.NotDecodable):
            codings.decode(body, [coding], 1_000_000)


@pytest.mark.parametrize("coding", ENCODERS)
def test_a_bomb_is_not_blown_up(coding: str) -> None:
    bomb = ENCODERS[coding](b"\0" * 50_000_000)
    with pytest.raises(codings.TooLarge):
        codings.decode(bomb, [coding], 1_000_000)
    with pytest.raises(codings.TooLarge):
        codings.decode(ENCODERS[coding](DATA), [coding], len(DATA) - 1)


def test_a_window_that_nobody_has_to_hold_is_refused() -> None:
    parameter = zstd.CompressionParameter
    level: dict[int, int] = {parameter.window_log: 26, parameter.enable_long_distance_matching: 1}
    maker = zstd.ZstdCompressor(options=level)
    body = maker.compress(DATA) + maker.flush()
    with pytest.raises(codings.NotDecodable):
        codings.decode(body, ["zstd"], 1_000_000)


@pytest.mark.parametrize(
    ("header", "names"),
    [(None, ()), ("", ()), ("identity", ()), ("GZIP", ("gzip",)), (" gzip , zstd,identity", ("gzip", "zstd"))],
)
def test_the_header(header: str | None, names: tuple[str, ...]) -> None:
    assert codings.parse(header) == names


# As requests


async def ask(local: Serve, body: bytes, coding: str | None, **settings: Any) -> Any:
    server = await local(**settings)
    headers = {"content-type": "application/json"} | ({} if coding is None else {"content-encoding": coding})
    async with server.client() as client:
        return await client.post("/v1/chat/completions", content=body, headers=headers)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_compressed_requests_are_served(local: Serve, path: str) -> None:
    server = await local()
    body = json.dumps(chat("Hi.") | {"prompt": "Hi."}).encode()
    headers = {"content-type": "application/json", "content-encoding": "gzip, zstd"}
    async with server.client() as client:
        answer = await client.post(path, content=zstd.compress(gzip.compress(body)), headers=headers)
    assert answer.status_code == 200
    assert "echo: Hi." in answer.text


@pytest.mark.parametrize(
    ("body", "coding", "status", "said"),
    [
        (gzip.compress(b" " * 2_000_000), "gzip", 413, "larger than 1000000 bytes once it is decompressed"),
        (zstd.compress(gzip.compress(b" " * 2_000_000)), "gzip, zstd", 413, "once it is decompressed"),
        (DATA, "br", 415, "'br'"),
        (DATA, "gzip, compress", 415, "'compress'"),
        (DATA, "gzip,gzip,gzip,gzip", 415, "more than 3"),
        (DATA, "gzip", 400, "valid gzip"),
        (gzip.compress(b"{"), "gzip", 400, "JSON"),
    ],
    ids=["a bomb", "a bomb in a bomb", "unknown", "one unknown", "too many", "not compressed", "no JSON"],
)
async def test_what_cannot_be_taken_is_told(local: Serve, body: bytes, coding: str, status: int, said: str) -> None:
    answer = await ask(local, body, coding, max_body=1_000_000)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("coding", [None, "gzip"])
async def test_a_mark_of_the_byte_order_is_not_part_of_the_body(local: Serve, coding: str | None) -> None:
    body = b"\xef\xbb\xbf" + DATA
    answer = await ask(local, gzip.compress(body) if coding else body, coding)
    assert answer.json()["choices"][0]["message"]["content"] == "echo: Hello, compressed world."
