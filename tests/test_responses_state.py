"""Stored responses and conversations, with the openai package's types as judges of every answer."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.conversations import Conversation, ConversationItem, ConversationItemList
from openai.types.responses import Response
from openai.types.responses.response_item_list import ResponseItemList
from pydantic import TypeAdapter

from proxy.http.store import Kept, UnderWay
from proxy.settings import Key
from proxy.store.lookup import StoredItems
from proxy.store.store import Kind, Missing, Store
from tests.conftest import Serve, until
from tests.outcomes import Expects
from tests.responses_api import PATH, client, events, judged

LISTED: TypeAdapter[ResponseItemList] = TypeAdapter(ResponseItemList)
ITEMS: TypeAdapter[ConversationItemList] = TypeAdapter(ConversationItemList)
ITEM: TypeAdapter[ConversationItem] = TypeAdapter(ConversationItem)
CONVERSATION: TypeAdapter[Conversation] = TypeAdapter(Conversation)
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with client() as one:
        yield one


async def ok(http: httpx.AsyncClient, method: str, path: str, judge: Any = None, **more: Any) -> Any:
    answer = await http.request(method, path, **more)
    assert answer.status_code == 200, answer.text
    if judge is not None:
        judge.validate_json(answer.text, strict=True)
    return answer.json()


async def create(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    return judged(await ok(http, "POST", PATH, json={"model": "opus", "input": "Hello."} | body))


async def error(http: httpx.AsyncClient, status: int, method: str, path: str, **more: Any) -> dict[str, Any]:
    answer = await http.request(method, path, **more)
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()["error"]
    return told


async def test_a_response_is_stored_as_it_was_told(http: httpx.AsyncClient) -> None:
    for more in ({}, {"include": ["reasoning.encrypted_content"]}, {"tools": [TOOL]}, {"metadata": {"a": "b"}}):
        told = await create(http, **more)
        assert told["store"] is True
        assert judged(await ok(http, "GET", f"{PATH}/{told['id']}")) == told


async def test_a_streamed_response_is_stored_before_its_end_is_told(http: httpx.AsyncClient) -> None:
    async with http.stream("POST", PATH, json={"model": "opus", "input": "Hello.", "stream": True}) as stream:
        lines = [line async for line in stream.aiter_lines() if line.startswith("data: ")]
    last = json.loads(lines[-1].removeprefix("data: "))["response"]
    assert await ok(http, "GET", f"{PATH}/{last['id']}") == last


async def test_reasoning_can_be_had_with_what_makes_it_genuine(http: httpx.AsyncClient) -> None:
    conversation = await ok(http, "POST", "/v1/conversations", json={})
    told = await create(http, conversation=conversation["id"])
    reasoning = told["output"][0]
    assert (reasoning["type"], reasoning["encrypted_content"]) == ("reasoning", None)
    lists = f"/v1/conversations/{conversation['id']}/items"
    plain = await ok(http, "GET", lists, ITEMS)
    assert [item["type"] for item in plain["data"]] == ["message", "reasoning", "message"]
    assert plain["data"][1] == reasoning
    asked = {"include[]": "reasoning.encrypted_content"}
    sealed = (await ok(http, "GET", lists, ITEMS, params=asked))["data"][1]
    assert sealed == reasoning | {"encrypted_content": sealed["encrypted_content"]}
    for path in (f"{PATH}/{told['id']}", f"{lists}/{reasoning['id']}"):
        found = await ok(http, "GET", path, params=asked)
        assert (found["output"][0] if "output" in found else found) == sealed
    # It is genuine: a client can send it back.
    await create(http, input=[{"role": "user", "content": "x"}, sealed, {"role": "user", "content": "y"}], store=False)


async def test_what_is_not_to_be_stored_is_not(http: httpx.AsyncClient) -> None:
    told = await create(http, store=False)
    assert told["store"] is False
    found = await error(http, 404, "GET", f"{PATH}/{told['id']}")
    assert (found["type"], found["code"], told["id"] in found["message"]) == (
        "invalid_request_error",
        "not_found",
        True,
    )
    await error(http, 404, "POST", PATH, json={"model": "opus", "input": "x", "previous_response_id": told["id"]})


async def test_input_items_are_listed_with_ids(http: httpx.AsyncClient) -> None:
    items = [
        {"role": "user", "content": "One."},
        {"type": "message", "role": "assistant", "content": "Two."},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_mine"},
        {"type": "function_call_output", "call_id": "c1", "output": "3"},
        {"role": "user", "content": [{"type": "input_text", "text": "Four."}]},
    ]
    told = await create(http, input=items, tools=[TOOL])
    path = f"{PATH}/{told['id']}/input_items"
    rising = await ok(http, "GET", path, LISTED, params={"order": "asc"})
    assert [item["type"] for item in rising["data"]] == [
        "message", "message", "function_call", "function_call_output", "message",
    ]  # fmt: skip
    assert rising["data"][2]["id"] == "fc_mine"
    assert rising["data"][0]["content"] == [{"type": "input_text", "text": "One."}]
    assert (rising["has_more"], rising["first_id"]) == (False, rising["data"][0]["id"])
    falling = await ok(http, "GET", path, LISTED)
    assert falling["data"] == rising["data"][::-1]
    seen, after = [], None
    while after is None or seen[-1]["has_more"]:
        page = await ok(http, "GET", path, LISTED, params={"limit": 2} | ({"after": after} if after else {}))
        seen.append(page)
        after = page["last_id"]
    assert [item for page in seen for item in page["data"]] == falling["data"]
    for params, name in (({"limit": "0"}, "limit"), ({"limit": "x"}, "limit"), ({"order": "up"}, "order"),
                         ({"after": "msg_0"}, "after")):  # fmt: skip
        assert (await error(http, 400, "GET", path, params=params))["param"] == name


async def test_deleting(http: httpx.AsyncClient) -> None:
    told = await create(http)
    path = f"{PATH}/{told['id']}"
    assert await ok(http, "DELETE", path) == {"id": told["id"], "object": "response", "deleted": True}
    for method, rest in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        assert (await error(http, 404, method, path + rest))["code"] == "not_found"


async def test_what_was_answered_at_once_cannot_be_cancelled(http: httpx.AsyncClient) -> None:
    told = await create(http)
    assert "background" in (await error(http, 400, "POST", f"{PATH}/{told['id']}/cancel"))["message"]
    assert (await error(http, 400, "GET", f"{PATH}/{told['id']}?stream=true"))["param"] == "stream"


async def test_an_item_reference_is_what_it_refers_to(http: httpx.AsyncClient) -> None:
    first = await create(http)
    reference = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
    items = [{"role": "user", "content": "Hello."}, *reference, {"role": "user", "content": "And?"}]
    second = await create(http, input=items)
    listed = await ok(http, "GET", f"{PATH}/{second['id']}/input_items?order=asc", LISTED)
    assert [item["type"] for item in listed["data"]] == ["message", "reasoning", "message", "message"]
    assert listed["data"][2] == first["output"][1]


async def test_a_reasoning_item_that_is_given_twice_is_there_once(http: httpx.AsyncClient) -> None:
    first = await create(http)
    thought = {"type": "item_reference", "id": first["output"][0]["id"]}
    items = [{"role": "user", "content": "Hello."}, thought, thought, first["output"][1], first["output"][0]]
    response = await http.post(PATH, json={"model": "opus", "input": [*items, {"role": "user", "content": "And?"}]})
    assert response.headers["x-ignored-params"] == "input.reasoning"
    listed = await ok(http, "GET", f"{PATH}/{response.json()['id']}/input_items?order=asc", LISTED)
    assert [item["type"] for item in listed["data"]] == ["message", "reasoning", "message", "message"]


async def test_a_conversation(http: httpx.AsyncClient) -> None:
    made = await ok(
        http, "POST", "/v1/conversations", CONVERSATION,
        json={"metadata": {"a": "1"}, "items": [{"role": "user", "content": "Zero."}]},
    )  # fmt: skip
    path = f"/v1/conversations/{made['id']}"
    assert await ok(http, "GET", path, CONVERSATION) == made
    assert (await ok(http, "POST", path, CONVERSATION, json={"metadata": {"b": "2"}}))["metadata"] == {"b": "2"}
    told = await create(http, conversation={"id": made["id"]}, store=False)
    assert told["conversation"] == {"id": made["id"]}
    await create(http, conversation=made["id"], input="More.")
    items = await ok(http, "GET", f"{path}/items", ITEMS, params={"order": "asc"})
    texts = [item["content"][0]["text"] for item in items["data"] if item["type"] == "message"]
    assert texts == ["Zero.", "Hello.", "Hello there.", "More.", "Hello there."]
    added = await ok(http, "POST", f"{path}/items", ITEMS, json={"items": [{"role": "user", "content": "By hand."}]})
    one = f"{path}/items/{added['first_id']}"
    assert await ok(http, "GET", one, ITEM) == added["data"][0]
    assert (await ok(http, "DELETE", one, CONVERSATION))["metadata"] == {"b": "2"}
    await error(http, 404, "GET", one)
    await error(http, 404, "DELETE", one)
    assert (await ok(http, "DELETE", path))["object"] == "conversation.deleted"
    found = await error(http, 404, "POST", PATH, json={"model": "opus", "input": "x", "conversation": made["id"]})
    assert found["param"] == "conversation"
    for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/items"), ("GET", "/items/x"), ("DELETE", "/items/x")):
        await error(http, 404, method, path + rest)


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([{"role": "nobody", "content": "x"}], "items[0].role"),
        ([{"type": "function_call_output", "call_id": "c1", "output": "x"}], "items[0].call_id"),
        ([{"type": "item_reference", "id": "msg_0"}], "items[0].id"),
        ([{"type": "reasoning", "id": "rs_1", "encrypted_content": "forged"}], "items[0].encrypted_content"),
        ([{"role": "user", "content": "x"}] * 21, "items"),
    ],
)
async def test_items_that_no_request_could_go_on_from(http: httpx.AsyncClient, items: list[Any], param: str) -> None:
    assert (await error(http, 400, "POST", "/v1/conversations", json={"items": items}))["param"] == param
    made = await ok(http, "POST", "/v1/conversations", json={})
    found = await error(http, 400, "POST", f"/v1/conversations/{made['id']}/items", json={"items": items})
    assert found["param"] == param


async def test_what_is_too_large_to_be_stored_is_said() -> None:
    async with client(store_bytes=20_000) as http:
        large = "x" * 20_000
        answer = await http.post(PATH, json={"model": "opus", "input": large})
        assert (answer.status_code, answer.headers["x-ignored-params"]) == (200, "store")
        told = judged(answer.json())
        assert told["store"] is False
        await error(http, 404, "GET", f"{PATH}/{told['id']}")
        found = await error(http, 400, "POST", PATH, json={"model": "opus", "input": large, "background": True})
        assert found["param"] == "background"
        items = [{"role": "user", "content": large}]
        assert "20000 bytes" in (await error(http, 413, "POST", "/v1/conversations", json={"items": items}))["message"]
        made = await ok(http, "POST", "/v1/conversations", CONVERSATION, json={})
        await error(http, 413, "POST", f"/v1/conversations/{made['id']}/items", json={"items": items})
        assert (await ok(http, "GET", f"/v1/conversations/{made['id']}/items"))["data"] == []


async def test_items_without_effect_are_named(http: httpx.AsyncClient) -> None:
    items = [{"type": "something_new", "id": "x_1"}, {"role": "user", "content": "Hello."}]
    answer = await http.post("/v1/conversations", json={"items": items})
    assert (answer.status_code, answer.headers["x-ignored-params"]) == (200, "items.something_new")


async def test_only_one_of_two(http: httpx.AsyncClient) -> None:
    body = {"model": "opus", "input": "x", "conversation": "conv_x", "previous_response_id": "resp_x"}
    assert (await error(http, 400, "POST", PATH, json=body))["param"] == "conversation"


async def test_a_server_that_stores_nothing() -> None:
    async with client(store="off") as http:
        told = await create(http, store=True)
        assert told["store"] is False
        for name, value in (("previous_response_id", told["id"]), ("conversation", "conv_x"), ("background", True)):
            found = await error(http, 400, "POST", PATH, json={"model": "opus", "input": "x", name: value})
            assert found["param"] == name
        for method, path in (("GET", f"{PATH}/{told['id']}"), ("POST", "/v1/conversations"),
                             ("GET", "/v1/conversations/conv_x/items")):  # fmt: skip
            assert "stores no responses" in (await error(http, 404, method, path, json={}))["message"]


async def test_responses_belong_to_the_key_that_made_them(serve: Serve) -> None:
    server = await serve(api_keys=(Key("a", "one"), Key("b", "two")))
    async with openai.AsyncOpenAI(api_key="one", base_url=f"{server.url}/v1", max_retries=0) as mine, \
            openai.AsyncOpenAI(api_key="two", base_url=f"{server.url}/v1", max_retries=0) as other:  # fmt: skip
        told = await mine.responses.create(model="opus", input="My number is 7.")
        assert (await mine.responses.retrieve(told.id)).output_text == "echo: My number is 7."
        conversation = await mine.conversations.create(items=[{"role": "user", "content": "Mine."}])
        item = (await mine.conversations.items.list(conversation.id)).data[0]
        assert item.id is not None
        refused: list[Any] = [
            other.responses.retrieve(told.id),
            other.responses.delete(told.id),
            other.responses.cancel(told.id),
            other.responses.input_items.list(told.id),
            other.responses.create(model="opus", input="Which?", previous_response_id=told.id),
            other.responses.create(model="opus", input="Which?", conversation=conversation.id),
            other.conversations.retrieve(conversation.id),
            other.conversations.delete(conversation.id),
            other.conversations.items.list(conversation.id),
            other.conversations.items.retrieve(item.id, conversation_id=conversation.id),
        ]
        for call in refused:
            with pytest.raises(openai.NotFoundError):
                await call
        reference: Any = [{"type": "item_reference", "id": told.output[-1].id}]
        with pytest.raises(openai.BadRequestError):
            await other.responses.create(model="opus", input=reference)
        again = await mine.responses.create(model="opus", input="Which?", previous_response_id=told.id)
        assert again.previous_response_id == told.id


async def test_the_openai_package_goes_on_from_responses(serve: Serve) -> None:
    server = await serve()
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0) as api:
        first = await api.responses.create(model="opus", input="One.", instructions="Be brief.")
        raw = await api.responses.with_raw_response.create(model="opus", input="Two.", previous_response_id=first.id)
        # Without the first one's instructions it is another conversation to the CLI.
        assert raw.headers["x-claude-proxy-served"] == "replayed"
        second = raw.parse()
        # Streamed, it goes on in the same process, and so does the next.
        async with api.responses.stream(model="opus", input="Three.", previous_response_id=second.id) as stream:
            third = await stream.get_final_response()
        last = await api.responses.with_raw_response.create(model="opus", input="Four.", previous_response_id=third.id)
        assert last.headers["x-claude-proxy-served"] == "continued"
        branch = await api.responses.create(model="opus", input="Or three.", previous_response_id=second.id)
        assert branch.output_text.startswith("echo: Or three.")
        listed = [item async for item in api.responses.input_items.list(third.id)]
        assert len(listed) == 1
        await api.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError, match=first.id):
            await api.responses.create(model="opus", input="?", previous_response_id=third.id)
        conversation = await api.conversations.create()
        for words in ("One.", "Two."):
            told = await api.responses.create(model="opus", input=words, conversation=conversation.id)
            assert isinstance(told, Response)
        items = [item async for item in api.conversations.items.list(conversation.id, order="asc", limit=3)]
        assert [item.type for item in items] == ["message"] * 4


async def test_a_small_request_is_no_larger_than_a_large_one_may_be(expects: Expects) -> None:
    expects("faults", "references to one large stored item, 30 times", "413 that names the limit; no memory for them")
    expects("faults", "previous_response_id of more than a body may hold", "413 that names the limit")
    text = "x" * 5000
    async with client(max_body=20_000) as http:
        told = await create(http, input=[{"type": "message", "role": "user", "content": text, "id": "msg_1"}])
        references = [{"type": "item_reference", "id": "msg_1"}] * 30
        found = await error(http, 413, "POST", PATH, json={"model": "opus", "input": references})
        assert (found["param"], "20000 bytes" in found["message"]) == ("input", True)
        found = await error(http, 413, "POST", "/v1/conversations", json={"items": references[:20]})
        for _ in range(2):
            told = await create(http, input=text, previous_response_id=told["id"])
        last = await create(http, input=text, previous_response_id=told["id"])
        more = {"model": "opus", "input": "x", "previous_response_id": last["id"]}
        assert (await error(http, 413, "POST", PATH, json=more))["param"] == "previous_response_id"
        assert (await ok(http, "GET", f"{PATH}/{last['id']}"))["id"] == last["id"]


async def test_what_is_stored_keeps_nobody_else_waiting(monkeypatch: pytest.MonkeyPatch, expects: Expects) -> None:
    expects("faults", "a request of a few bytes that goes on from much", "read in a thread; /health answers meanwhile")
    async with client() as http:
        told = await create(http)
        begun, go_on, read = threading.Event(), threading.Event(), StoredItems.response

        def slow(self: StoredItems, id: str) -> Any:
            begun.set()
            assert go_on.wait(60)
            return read(self, id)

        monkeypatch.setattr(StoredItems, "response", slow)
        more = asyncio.create_task(create(http, previous_response_id=told["id"]))
        await until(begun.is_set, 60, "it is being read")
        await ok(http, "GET", "/api/version")
        go_on.set()
        await more


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("added", [True, False])
async def test_deleted_while_it_is_stored_it_is_not_found_afterwards(
    stream: bool, added: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`added`: it is in the store when its deletion is asked for, and whoever put it there does not know yet."""
    begun, go_on, add = threading.Event(), threading.Event(), Store.add
    ids: list[str] = []

    def slow(self: Store, owner: str, kind: Kind, id: str, *more: Any) -> None:
        if added:
            add(self, owner, kind, id, *more)
        ids.append(id)
        begun.set()
        assert go_on.wait(60)
        if not added:
            add(self, owner, kind, id, *more)

    begin, held = Kept.begin, []

    def begun_and_held(self: Kept, owner: str, id: str) -> UnderWay:
        held.append(begin(self, owner, id))
        return held[-1]

    monkeypatch.setattr(Store, "add", slow)
    # Whoever has made it may hold on to it for as long as memory is not cleaned up.
    monkeypatch.setattr(Kept, "begin", begun_and_held)
    async with client() as http:
        asked = asyncio.create_task(ok_text(http, json={"model": "opus", "input": "Hello.", "stream": stream}))
        await until(begun.is_set, 60, "it is being stored")
        path = f"{PATH}/{ids[0]}"
        assert (await ok(http, "DELETE", path))["deleted"] is True
        go_on.set()
        assert ids[0] in await asked
        await error(http, 404, "GET", path)
        await error(http, 404, "DELETE", path)
        await error(http, 404, "POST", PATH, json={"model": "opus", "input": "x", "previous_response_id": ids[0]})


async def ok_text(http: httpx.AsyncClient, **more: Any) -> str:
    answer = await http.post(PATH, **more)
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_an_answer_that_its_conversation_does_not_get_is_none(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, expects: Expects
) -> None:
    """What is asked there next would be answered without it, and nobody would know."""
    expects("faults", "an answer cannot be added to its conversation", "a 500 or response.failed that says so")
    id = (await ok(http, "POST", "/v1/conversations", json={}))["id"]
    path, body = f"/v1/conversations/{id}/items", {"model": "opus", "input": "Hello.", "conversation": id}

    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", full)
        whole = await error(http, 500, "POST", PATH, json=body)
        assert "cannot be added to its conversation" in whole["message"]
        assert "disk is full" in whole["message"]
        last = events(await ok_text(http, json=body | {"stream": True}))[-1]["response"]
        assert (last["status"], last["error"]["message"]) == ("failed", whole["message"])
        made = judged(await ok(http, "POST", PATH, json=body | {"background": True}))
        told: dict[str, Any] = {}
        async with asyncio.timeout(60):
            while told.get("status") in (None, "queued", "in_progress"):
                await asyncio.sleep(0.01)
                told = await ok(http, "GET", f"{PATH}/{made['id']}")
        assert (told["status"], told["error"]["message"]) == ("failed", whole["message"])
        assert (await ok(http, "GET", path))["data"] == []
        # One that is there no more needs nothing.
        patch.setattr(Store, "append", lambda *_: (_ for _ in ()).throw(Missing(id)))
        await create(http, conversation=id)
    await create(http, conversation=id)
    assert [item["type"] for item in (await ok(http, "GET", path))["data"]] == ["message", "reasoning", "message"]


async def test_what_is_deleted_before_it_has_ended_is_never_stored(serve: Serve) -> None:
    server = await serve()
    steps = json.dumps([["say", "a"], ["sleep", 0.3], ["say", "b"], ["end"]])
    async with openai.AsyncOpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0) as api:
        stream = await api.responses.create(model="opus", input=steps, stream=True)
        id, last = "", ""
        async for event in stream:
            last = event.type
            if event.type == "response.created":
                id = event.response.id
                await api.responses.delete(id)
        assert last == "response.completed"
        with pytest.raises(openai.NotFoundError):
            await api.responses.retrieve(id)
        other = await api.responses.create(model="opus", input="Hello.", stream=True, store=False)
        async for event in other:
            if event.type == "response.created":
                with pytest.raises(openai.NotFoundError):
                    await api.responses.delete(event.response.id)
