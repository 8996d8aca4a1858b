"""The loopback Messages API: cassettes, faults, expectations, and recording from another API."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from conformance import cassettes, messages
from conformance.cassettes import Cassette, Library
from conformance.facts import differences
from conformance.messages import Arrived, Reply
from conformance.upstream import Live, Upstream

ANSWER = messages.message(messages.text("Hel", "lo"))


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


async def post(url: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(f"{url}/v1/messages?beta=true", json=body, headers=headers)


def cassette(path: Path, *replies: Reply, bodies: tuple[dict[str, Any] | None, ...] = ()) -> Cassette:
    cassettes.save(path, zip(bodies or [None] * len(replies), replies, strict=True), live=False)
    return cassettes.load(path)


async def test_a_function_answers_and_credentials_are_not_kept_in_the_headers() -> None:
    async with Upstream(lambda request: messages.stream(ANSWER)) as up:
        came = await post(up.url, asked("x"), authorization="Bearer abc")
        async with httpx.AsyncClient(trust_env=False) as client:
            other = await client.get(f"{up.url}/v1/models")
    assert came.headers["content-type"].startswith("text/event-stream")
    assert came.text.count("event: content_block_delta") == 2
    assert up.requests[0].body == asked("x")
    assert "authorization" not in up.requests[0].headers
    assert (other.status_code, up.others) == (404, ["GET /v1/models"])


async def test_thinking_that_leaves_no_room_is_refused_as_the_api_does() -> None:
    async with Upstream(lambda request: messages.stream(ANSWER)) as up:
        thought = {"type": "enabled", "budget_tokens": 1024}
        came = [await post(up.url, asked("x") | {"thinking": thought, "max_tokens": most}) for most in (1025, 1024)]
    assert [each.status_code for each in came] == [200, 400]
    assert "must be greater than" in came[1].json()["error"]["message"]


async def test_marks_for_the_prompt_cache_are_refused_as_the_api_does() -> None:
    """So that a release of the CLI that sets one more mark, beside which ours is too many, is told as broken."""

    def marked(*lives: str) -> dict[str, Any]:
        marks = [{"type": "ephemeral", "ttl": life} for life in lives]
        blocks = [{"type": "text", "text": "x", "cache_control": mark} for mark in marks]
        return asked("x") | {"messages": [{"role": "user", "content": blocks}]}

    async with Upstream(lambda request: messages.stream(ANSWER)) as up:
        lives = (["1h"] * 4, ["1h", "5m"], ["1h"] * 5, ["5m", "1h"], ["2h"])
        came = [await post(up.url, marked(*each)) for each in lives]
    assert [each.status_code for each in came] == [200, 200, 400, 400, 400]
    assert "Found 5" in came[2].json()["error"]["message"]


async def test_one_event_is_one_write() -> None:
    pieces: list[bytes] = []
    async with Upstream(lambda request: messages.stream(ANSWER, between=5)) as up:
        host, port = up.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps(asked("x")).encode()
        writer.write(b"POST /v1/messages HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        while not (pieces and pieces[-1].endswith(b"0\r\n\r\n")):
            pieces.append(await reader.read(1 << 16))
        writer.close()
    assert sum(b"event: " in piece for piece in pieces) == len(ANSWER)


@pytest.mark.parametrize("cut", [-1, 0, 3])
async def test_a_connection_is_cut_where_the_cassette_says(tmp_path: Path, cut: int) -> None:
    kept = cassette(tmp_path / "c.yaml", messages.stream(ANSWER, cut=cut), messages.stream(ANSWER))
    library = Library()
    library.add("x", kept)
    got = b""
    async with Upstream(library) as up, httpx.AsyncClient(trust_env=False) as client:

        async def broken() -> None:
            nonlocal got
            async with client.stream("POST", f"{up.url}/v1/messages", json=asked("x")) as stream:
                async for piece in stream.aiter_raw():
                    got += piece

        with pytest.raises(httpx.RemoteProtocolError):
            await broken()
        assert (await client.post(f"{up.url}/v1/messages", json=asked("x"))).text.count("event:") == len(ANSWER)
    assert got.count(b"event:") == max(cut, 0)


async def test_statuses_headers_and_delays_are_played_in_order(tmp_path: Path) -> None:
    limit = messages.error(429, "rate_limit_error", "slow down", {"retry-after": "7"}, before=30)
    library = Library()
    library.add("x", cassette(tmp_path / "c.yaml", limit, messages.stream(ANSWER, size=5)))
    loop = asyncio.get_running_loop()
    async with Upstream(library) as up:
        start = loop.time()
        first = await post(up.url, asked("x"))
        assert loop.time() - start >= 0.03
        second = await post(up.url, asked("x"))
    assert (first.status_code, first.headers["retry-after"], first.json()["error"]["message"]) == (
        429,
        "7",
        "slow down",
    )
    assert second.text == "".join(messages.sse(event).decode() for event in ANSWER)


async def test_the_first_user_text_picks_the_cassette_and_many_are_served_at_once(tmp_path: Path) -> None:
    library = Library()
    for name in "abc":
        answer = messages.stream(messages.message(messages.text(f"this is {name}")), between=2)
        library.add(f"ask {name}", cassette(tmp_path / f"{name}.yaml", answer))
    async with Upstream(library) as up:
        came = await asyncio.gather(*(post(up.url, asked(f"ask {name}")) for name in "abc"))
        strange = await post(up.url, asked("ask z"))
        library.rewind("ask a")
        again = await post(up.url, asked([{"type": "image"}, {"type": "text", "text": "ask a"}]))  # type: ignore[arg-type]
    assert [f"this is {name}" in one.text for name, one in zip("abc", came, strict=True)] == [True] * 3
    assert (strange.status_code, "this is a" in again.text) == (400, True)
    assert len(library.arrived("ask a")) == 1


async def test_a_session_of_an_earlier_round_gets_no_answer_of_a_later_one(tmp_path: Path) -> None:
    library = Library()
    library.add("x", cassette(tmp_path / "c.yaml", messages.stream(ANSWER)))
    async with Upstream(library) as up, httpx.AsyncClient(trust_env=False) as client:
        assert (await post(up.url, asked("x"), **{"x-claude-code-session-id": "old"})).status_code == 200
        library.rewind("x")
        late = {"x-claude-code-session-id": "old"}
        with pytest.raises(httpx.ReadTimeout):
            await client.post(f"{up.url}/v1/messages", json=asked("x"), headers=late, timeout=0.1)
        assert (await post(up.url, asked("x"), **{"x-claude-code-session-id": "new"})).status_code == 200
    assert len(library.arrived("x")) == 1


async def test_recorded_messages_must_match_and_the_difference_is_told(tmp_path: Path) -> None:
    kept = cassette(tmp_path / "c.yaml", messages.stream(ANSWER), bodies=(asked("x", system="is not compared"),))
    library = Library()
    library.add("x", kept)
    wrong = {"messages": [*asked("x")["messages"], {"role": "user", "content": "more"}]}
    right = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}]}
    async with Upstream(library) as up, httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(f"{up.url}/v1/messages", json=wrong, timeout=0.1)
        assert (await client.post(f"{up.url}/v1/messages", json=right)).status_code == 200
    assert "more" in library.surprises("x")[0]


async def test_what_was_recorded_from_an_api_answers_alike_and_holds_no_credential(tmp_path: Path) -> None:
    def real(request: Arrived) -> Reply:
        assert request.credentials == {"x-api-key": "sk-ant-hidden"}
        limits = {"status": "allowed", "5h-reset": f"{time.time() + 18000:.0f}", "fallback-percentage": "1"}
        headers = {f"anthropic-ratelimit-unified-{name}": value for name, value in limits.items()}
        return messages.stream(ANSWER, {"anthropic-organization-id": "org", **headers})

    body = asked(
        "x", metadata={"user_id": "device"}, system=[{"type": "text", "text": "x-anthropic-billing-header: v"}]
    )
    async with Upstream(real) as api:
        live = Live(api.url)
        async with Upstream(live) as up:
            first = await post(up.url, body, **{"x-api-key": "sk-ant-hidden"})
    path = tmp_path / "live.yaml"
    cassettes.save(path, live.pairs, live=True)
    kept = cassettes.load(path)
    library = Library()
    library.add("x", kept)
    async with Upstream(library) as up:
        second = await post(up.url, body)
    assert first.text == second.text
    assert second.headers["anthropic-ratelimit-unified-status"] == "allowed"
    assert second.headers["anthropic-ratelimit-unified-fallback-percentage"] == "1"
    assert dict(kept.interactions[0].reply.headers)["anthropic-ratelimit-unified-5h-reset"] == "+18000"
    for answer in (first, second):
        ends = float(answer.headers["anthropic-ratelimit-unified-5h-reset"])
        assert ends == pytest.approx(time.time() + 18000, abs=60)
    assert kept.live
    written = path.read_text()
    assert not [word for word in ("hidden", "org", "device", "billing") if word in written]


@pytest.mark.parametrize(
    "content",
    [
        "nonsense",
        "version: 1\ninteractions: []\n",
        "version: 1\ninteractions:\n- request: {method: POST}\n",
        "{version: 1, interactions: [{request: {method: POST, uri: u, body: null, headers: {}},"
        " response: {status: {code: 200}, headers: {}, body: {string: ''}, play: {cutt: 1}}}]}",
    ],
)
def test_what_is_not_a_cassette_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"c\.yaml"):
        cassettes.load(path)


@pytest.mark.parametrize(
    ("expected", "actual", "found"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, []),
        ({"a": 1}, {"a": True}, ["a: expected 1, got true"]),
        ([1], [1, 2], ["the whole: expected 1 items [1], got [1, 2]"]),
        ({"a": {"b": ["x"]}}, {"a": {"b": ["y"]}}, ["a.b[0]: expected 'x', got 'y'"]),
        ({"a": {"$absent": True}}, {}, []),
        ({"a": {"$absent": True}}, {"a": None}, ["a: expected $absent true, got null"]),
        ({"a": {"$null": True}}, {"a": None}, []),
        ({"$contains": ["b", "c"]}, "abc", []),
        ({"$lacks": "b"}, "abc", ["the whole: expected $lacks 'b', got 'abc'"]),
        ({"$json": {"a": 1}}, '{"a": 1, "b": 2}', []),
        ({"$json": {"a": 1}}, "prose", ["the whole: expected $json {\"a\": 1}, got 'prose'"]),
        ({"$matches": "^a"}, "abc", []),
        ({"$size": 3}, "abc", []),
        ({"$above": 1}, 1, ["the whole: expected $above 1, got 1"]),
    ],
)
def test_facts_are_compared_with_a_readable_difference(expected: object, actual: object, found: list[str]) -> None:
    assert differences(expected, actual) == found
