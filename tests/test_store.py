"""What is kept of responses and conversations: whose it is, what goes on from what, and when it goes."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from proxy.protocol.failures import Kind, Rejection
from proxy.store.lookup import StoredItems
from proxy.store.store import Item, Limits, Missing, Part, Store, TooLarge
from tests.clock import Clock

FREE = Limits(1000, 10**9, 3600.0)


@pytest.fixture(params=["memory", "file"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return None if request.param == "memory" else tmp_path / "responses.sqlite3"


@pytest.fixture
def clock() -> Clock:
    return Clock(1e9)


@pytest.fixture
def store(path: Path | None, clock: Clock) -> Iterator[Store]:
    kept = Store(path, FREE, clock)
    yield kept
    kept.close()


def item(name: str, text: str = "") -> Item:
    return Item(name, Raw(b'{"id":"%s","text":"%s"}' % (name.encode(), text.encode())))


def add(store: Store, id: str, previous: str = "", owner: str = "a", text: str = "") -> None:
    store.add(
        owner, "response", id, b'{"id":"%s"}' % id.encode(), [item(f"in_{id}", text), item(f"out_{id}")], previous
    )


def chain(store: Store, id: str, owner: str = "a") -> list[str]:
    return [bytes(raw).decode().split('"')[3] for raw in store.chain(owner, id)]


def there(store: Store, *ids: str) -> list[str]:
    found = []
    for id in ids:
        try:
            store.get("a", "response", id)
        except Missing:
            continue
        found.append(id)
    return found


def test_a_response_goes_on_from_those_before_it(store: Store) -> None:
    add(store, "r1")
    add(store, "r2", "r1")
    add(store, "r3", "r2")
    add(store, "other", "r1")
    assert chain(store, "r3") == ["in_r1", "out_r1", "in_r2", "out_r2", "in_r3", "out_r3"]
    assert chain(store, "other") == ["in_r1", "out_r1", "in_other", "out_other"]
    assert bytes(store.get("a", "response", "r2")) == b'{"id":"r2"}'


def test_nobody_sees_what_is_another_s(store: Store) -> None:
    add(store, "r1")
    store.add("a", "conversation", "c1", b"{}", [item("i1")])
    for call in (
        lambda: store.get("b", "response", "r1"),
        lambda: store.chain("b", "r1"),
        lambda: store.items("b", "conversation", "c1"),
        lambda: store.remove("b", "response", "r1"),
        lambda: store.append("b", "c1", [item("i2")]),
        lambda: store.update("b", "conversation", "c1", b"[]"),
        lambda: store.remove_item("b", "c1", "i1"),
        lambda: store.get("a", "conversation", "r1"),
    ):
        with pytest.raises(Missing):
            call()
    assert store.item("b", "in_r1") is None
    assert store.item("a", "in_r1") == item("in_r1").data
    with pytest.raises(Rejection) as caught:
        StoredItems(store, "b").response("r1")
    assert caught.value.failure.kind is Kind.NOT_FOUND


def test_going_on_from_another_s_response_leaves_it_alone(store: Store) -> None:
    add(store, "r1")
    add(store, "r2", "r1", owner="b")
    with pytest.raises(Missing):
        store.chain("b", "r2")


def test_a_gap_is_told(store: Store) -> None:
    add(store, "r1")
    add(store, "r2", "r1")
    store.remove("a", "response", "r1")
    with pytest.raises(Rejection) as caught:
        StoredItems(store, "a").response("r2")
    assert "'r1'" in caught.value.failure.message
    assert store.item("a", "in_r1") is None


def test_a_conversation_grows_and_shrinks(store: Store) -> None:
    store.add("a", "conversation", "c1", b"{}", [item("i1"), item("i2")])
    store.append("a", "c1", [item("i3")])
    store.remove_item("a", "c1", "i3")
    store.append("a", "c1", [item("i4")])
    store.update("a", "conversation", "c1", b'{"m":1}')
    assert [one.id for one in store.items("a", "conversation", "c1")] == ["i1", "i2", "i4"]
    assert bytes(store.get("a", "conversation", "c1")) == b'{"m":1}'
    with pytest.raises(Missing):
        store.remove_item("a", "c1", "i3")


def test_what_is_not_used_goes(store: Store, clock: Clock) -> None:
    add(store, "r1")
    clock.now += 3000
    add(store, "r2", "r1")
    add(store, "alone")
    clock.now += 3000
    assert chain(store, "r2") == ["in_r1", "out_r1", "in_r2", "out_r2"]
    clock.now += 1000
    assert there(store, "r1", "r2", "alone") == []
    assert store.item("a", "in_r1") is None


def test_too_many(path: Path | None, clock: Clock) -> None:
    store = Store(path, Limits(3, 10**9, 3600.0), clock)
    for name in ("r1", "r2", "r3"):
        clock.now += 1
        add(store, name)
    clock.now += 1
    add(store, "r4", "r1")
    assert there(store, "r1", "r2", "r3", "r4") == ["r1", "r3", "r4"]
    # The owner with the most loses something, not another.
    add(store, "b1", owner="b")
    assert store.get("b", "response", "b1")
    store.close()


def test_too_large(path: Path | None, clock: Clock) -> None:
    store = Store(path, Limits(1000, 10_000, 3600.0), clock)
    add(store, "b1", owner="b")
    for number in range(5):
        clock.now += 1
        add(store, f"r{number}", text="x" * 3000)
    assert there(store, "r0", "r1", "r2", "r3", "r4") == ["r3", "r4"]
    assert store.get("b", "response", "b1")
    # What could never be kept costs nobody anything.
    with pytest.raises(TooLarge):
        add(store, "huge", text="x" * 20_000)
    assert there(store, "r3", "r4", "huge") == ["r3", "r4"]
    # Sizes go when rows go: the same fits again.
    for name in ("r3", "r4"):
        store.remove("a", "response", name)
    add(store, "r5", text="x" * 5000)
    add(store, "r6", text="x" * 2000)
    assert there(store, "r5", "r6") == ["r5", "r6"]
    store.close()


def test_a_conversation_that_grows_too_large_stays_as_it_is(path: Path | None, clock: Clock) -> None:
    store = Store(path, Limits(1000, 10_000, 3600.0), clock)
    add(store, "r1")
    store.add("a", "conversation", "c1", b"{}", [item("i1")])
    with pytest.raises(TooLarge):
        store.append("a", "c1", [item("i2", "x" * 10_000)])
    with pytest.raises(TooLarge):
        store.update("a", "conversation", "c1", b"x" * 10_000)
    assert [one.id for one in store.items("a", "conversation", "c1")] == ["i1"]
    assert bytes(store.get("a", "conversation", "c1")) == b"{}"
    assert there(store, "r1") == ["r1"]
    store.close()


PARTS: tuple[Part, ...] = ("input", "hidden", "output", "input", "sealed", "input")


@pytest.fixture
def paged(store: Store) -> Store:
    """A conversation of six items, of which one id stands twice; another's, and one more of the same ids."""
    items = [Item(f"i{number % 5}", Raw(b"%d" % number), part) for number, part in enumerate(PARTS)]
    store.add("a", "conversation", "c1", b"{}", items)
    store.add("a", "conversation", "c2", b"{}", [Item("i3", Raw(b"9"))])
    return store


@pytest.mark.parametrize(
    ("parts", "limit", "more", "found", "has_more"),
    [
        (("input", "output", "sealed"), 10, {}, "02345", False),
        (("input", "output", "sealed"), 10, {"newest_first": True}, "54320", False),
        (("input",), 3, {}, "035", False),
        (("input",), 2, {}, "03", True),
        (("input",), 2, {"after": "i3"}, "5", False),
        (("input",), 2, {"after": "i3", "newest_first": True}, "0", False),
        (("input",), 1, {"after": "i0"}, "3", True),
        (("input",), 9, {"after": "i0", "newest_first": True}, "30", False),
        (("sealed",), 9, {"after": "i4"}, "", False),
        (("input", "output", "sealed"), 10, {"most": 3}, "023", True),
        (("input", "output", "sealed"), 10, {"most": 3, "after": "i3"}, "45", False),
        (("input", "output", "sealed"), 10, {"most": 0}, "0", True),
        (("input",), 1, {"most": 0, "after": "i3"}, "5", False),
    ],
)
def test_items_are_read_a_page_at_a_time(
    paged: Store, parts: tuple[Part, ...], limit: int, more: dict[str, Any], found: str, has_more: bool
) -> None:
    items, left = paged.page("a", "conversation", "c1", parts, limit, **more)
    assert "".join(bytes(item.data).decode() for item in items) == found
    assert left is has_more


def test_a_page_begins_behind_an_item_of_its_list(paged: Store) -> None:
    for after in ("i9", "i1", "i2"):
        with pytest.raises(KeyError):
            paged.page("a", "conversation", "c1", ("input",), 1, after=after)
    for owner, id in (("a", "c9"), ("b", "c1")):
        with pytest.raises(Missing):
            paged.page(owner, "conversation", id, ("input",), 1)


def test_one_item_of_an_entry(paged: Store) -> None:
    assert paged.item_of("a", "conversation", "c1", "i0") == Item("i0", Raw(b"0"), "input")
    assert paged.item_of("a", "conversation", "c2", "i3") == Item("i3", Raw(b"9"), "input")
    for owner, id, name in (("a", "c2", "i0"), ("a", "c9", "i0"), ("b", "c1", "i0")):
        with pytest.raises(Missing):
            paged.item_of(owner, "conversation", id, name)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_is_stored_takes_little_more_memory_than_it_has_bytes() -> None:
    """In a process of its own: memory that others have left would be used again."""
    program = """
        from pathlib import Path
        from msgspec import Raw
        from proxy.store.store import Item, Limits, Store
        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
        store = Store(None, Limits(10**6, 10**9, 1e9))
        text, before = b'"' + b"x" * 4600 + b'"', resident()
        for number in range(2000):
            store.add("a", "response", f"resp_{number:048}", b"y" * 800, [Item("a", Raw(text)), Item("b", Raw(text))])
        print((resident() - before) / 2000)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert 10_000 < float(ran.stdout) < 14_000


@pytest.mark.parametrize("items", [1, 2, 5, 9, 20])
def test_responses_of_10_kb_take_little_more_however_many_items_they_have(items: int) -> None:
    store = Store(None, FREE)
    for number in range(500):
        text = Raw(b'"%s"' % (b"x" * (9200 // items)))
        store.add("a", "response", f"resp_{number:048}", b"y" * 800, [Item(f"msg_{number:036}", text)] * items)
    pages, size = (store._writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    assert pages * size / 500 < 14_000
    store.close()


def test_a_file_outlives_the_server_and_is_private(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "responses.sqlite3"
    store = Store(path, FREE, clock)
    add(store, "r1", text="secret words")
    files = list(tmp_path.iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    store.close()
    # Copied here by other means.
    for name in ("", "-wal", "-shm"):
        copied = path.with_name(path.name + name)
        copied.touch()
        copied.chmod(0o644)
    again = Store(path, FREE, clock)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    assert there(again, "r1") == ["r1"]
    again.remove("a", "response", "r1")
    assert not any(b"secret words" in file.read_bytes() for file in tmp_path.iterdir())
    again.close()


def test_two_servers_share_a_file(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "responses.sqlite3"
    one, other = Store(path, FREE, clock), Store(path, FREE, clock)
    add(one, "r1")
    add(other, "r2", "r1")
    assert chain(one, "r2") == ["in_r1", "out_r1", "in_r2", "out_r2"]
    one.close()
    other.close()


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite3"
    Store(path, FREE).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(sqlite3.DatabaseError, match="newer version"):
        Store(path, FREE)


def test_nothing_is_half_written(store: Store) -> None:
    add(store, "r1")
    with pytest.raises(sqlite3.IntegrityError):
        add(store, "r1", "r1")
    add(store, "r2", "r1")
    assert chain(store, "r2") == ["in_r1", "out_r1", "in_r2", "out_r2"]


def test_another_body_counts_like_a_new_entry(path: Path | None, clock: Clock) -> None:
    store = Store(path, Limits(1000, 10_000, 3600.0), clock)
    for number in range(5):
        clock.now += 1
        store.add("a", "conversation", f"c{number}", b"{}", [])
        store.update("a", "conversation", f"c{number}", b"x" * 4000)
    left = [number for number in range(5) if has(store, f"c{number}")]
    store.close()
    assert left == [3, 4]


def has(store: Store, id: str) -> bool:
    try:
        store.get("a", "conversation", id)
    except Missing:
        return False
    return True


def test_no_more_is_read_than_a_request_may_hold(store: Store) -> None:
    text = "x" * 1000
    for number in range(5):
        add(store, f"r{number}", f"r{number - 1}" if number else "", text=text)
    store.add("a", "conversation", "c", b"{}", [item(f"i{number}", text) for number in range(5)])

    def lookup(most: int) -> StoredItems:
        return StoredItems(store, "a", most)

    assert len(lookup(6000).response("r4")) == 10
    assert len(lookup(6000).conversation("c")) == 5
    with pytest.raises(Rejection) as refused:
        lookup(4000).response("r4")
    assert refused.value.failure.kind is Kind.BODY_TOO_LARGE
    with pytest.raises(Rejection, match="larger than 4000 bytes"):
        lookup(4000).conversation("c")
    # One item counts as often as it is referred to.
    found = lookup(3500)
    assert all(found.item("i1") for _ in range(3))
    with pytest.raises(Rejection, match="larger than 3500 bytes"):
        found.item("i1")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, clock: Clock) -> None:
    store = Store(tmp_path / "responses.sqlite3", FREE, clock)
    store.close()
    with pytest.raises(Rejection) as refused:
        StoredItems(store, "a", 1000).response("r")
    assert refused.value.failure.kind is Kind.INTERNAL
