"""proxy/http/values.py: many small values are refused before anything is made of them."""

from __future__ import annotations

import base64
import json

import pytest

from proxy.http.values import MAX_TEXT, MAX_VALUES, is_utf8, too_many, too_much_text
from tests.outcomes import Expects
from tests.responses_api import client

MANY = MAX_VALUES + 1
TEXTS = ("a,[{", '\\"', "\\\\", 'é"[,', "\\")


@pytest.mark.parametrize("one", ["[]", "{}", "0", '"a"', '"a,b"', '{"a":"b"}', "1e400"])
def test_arrays(one: str) -> None:
    assert not too_many(f"[{','.join([one] * (MAX_VALUES // 4))}]".encode())
    assert too_many(f"[{','.join([one] * MANY)}]".encode())


def test_objects_and_what_is_nested() -> None:
    assert too_many(json.dumps(dict.fromkeys(map(str, range(MANY)))).encode())
    assert too_many(b"[" * MANY)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_one_value_whatever_they_hold(text: str) -> None:
    assert not too_many(json.dumps({"model": "opus", "input": text * MANY}, ensure_ascii=False).encode())


def test_what_is_no_json_ends_as_soon_as_any() -> None:
    assert too_many(b'"' + b"," * MANY + b'"' + b'""' * 4 * MANY)
    assert not too_many(b"\\" * MANY * 2)


BODIES = {
    "/v1/responses": {"model": "opus", "input": "x"},
    "/v1/responses/compact": {"model": "opus", "input": "x"},
    "/v1/responses/input_tokens": {"model": "opus", "input": "x"},
    "/v1/conversations": {},
    "/v1/messages": {"model": "opus", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]},
    "/v1/messages/count_tokens": {"model": "opus", "messages": [{"role": "user", "content": "x"}]},
    "/v1/chat/completions": {"model": "opus", "messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"model": "opus", "prompt": "x"},
    "/api/chat": {"model": "opus", "messages": [{"role": "user", "content": "x"}]},
    "/api/generate": {"model": "opus", "prompt": "x"},
    "/api/show": {"model": "opus"},
}


@pytest.mark.parametrize("path", BODIES)
async def test_no_api_takes_more(expects: Expects, path: str) -> None:
    expects("faults", f"a body of many small values to {path}", "400 before anything is made of them")
    many = b'"metadata":[' + b",".join([b"[]"] * MANY) + b"]"
    rest = json.dumps(BODIES[path]).encode()[1:]
    async with client() as http:
        body = b"{" + many + (b"," if len(rest) > 1 else b"") + rest
        answer = await http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert f"more than {MAX_VALUES} JSON values" in answer.text


def test_text_that_no_window_holds_is_refused() -> None:
    words = b'{"a": "' + b"some words, and more of them " * (MAX_TEXT // 29) + b'"}'
    assert not too_much_text(words[:MAX_TEXT])
    assert too_much_text(words + words[:200_000])
    assert too_much_text("日本".encode() * (MAX_TEXT // 5))
    # Escapes are made of the characters of base64.
    for escape in (b"\\n", b"\\u00e9", b"\\ud83d\\ude00"):
        assert too_much_text(escape * (MAX_TEXT // len(escape) + 1))


def test_media_may_be_larger() -> None:
    data = base64.encodebytes(bytes(range(256)) * 70_000)
    assert len(data) > MAX_TEXT
    assert not too_much_text(data)
    assert not too_much_text(data.replace(b"\n", b"\\r\\n"))
    assert not too_much_text(data.replace(b"\n", b"").replace(b"/", b"\\/"))


@pytest.mark.parametrize("size", [0, 1024 * 1024 - 1])
def test_what_is_no_utf8_is_found_wherever_it_is(size: int) -> None:
    assert is_utf8(b"a" * size + "é日😀".encode())
    for wrong in (b"\xff", b"\xc3", b"\xed\xa0\x80", "😀".encode()[:3]):
        assert not is_utf8(b"a" * size + wrong)
        assert not is_utf8(b"a" * size + wrong + b"a")
