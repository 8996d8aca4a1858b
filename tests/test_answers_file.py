"""Answers that outlive the server: what is found again, for how long, and by whom the file can be read."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.store.answers import AnswersFile
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1e9)


@pytest.fixture
def file(tmp_path: Path, clock: Clock) -> Iterator[AnswersFile]:
    opened = AnswersFile(tmp_path / "answers.sqlite3", 1000, 100.0, clock)
    yield opened
    opened.close()


def there(file: AnswersFile, *keys: bytes) -> list[bytes]:
    return sorted(file.find(keys))


def test_what_is_saved_is_there_for_this_user_alone_when_it_is_opened_again(tmp_path: Path, clock: Clock) -> None:
    for words in (b"once", b"again"):
        file = AnswersFile(tmp_path / "answers.sqlite3", 1000, 100.0, clock)
        assert file.find([b"a", b"c"]) == ({} if words == b"once" else {b"a": b"once"})
        file.save({b"a": words, b"b": words}, ())
        assert file.find([b"a", b"c"]) == {b"a": words}
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
        file.close()


def test_two_servers_share_a_file(tmp_path: Path, file: AnswersFile, clock: Clock) -> None:
    other = AnswersFile(tmp_path / "answers.sqlite3", 1000, 100.0, clock)
    file.save({b"a": b"1"}, ())
    other.save({b"b": b"2"}, ())
    assert there(file, b"a", b"b") == there(other, b"a", b"b") == [b"a", b"b"]
    other.close()


def test_an_answer_is_there_for_an_age_after_its_conversation_was_used(file: AnswersFile, clock: Clock) -> None:
    file.save({b"a": b"1", b"b": b"2"}, ())
    for clock.now in (1e9 + 60, 1e9 + 120):
        file.save({}, [b"a", b"unknown"])
    assert there(file, b"a", b"b") == [b"a"]


def test_what_is_too_old_is_gone_from_the_disk(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "answers.sqlite3"
    file = AnswersFile(path, 1000, 100.0, clock)
    file.save({b"a": b"secret words"}, ())
    file.close()
    clock.now += 101
    AnswersFile(path, 1000, 100.0, clock).close()
    assert not any(b"secret words" in found.read_bytes() for found in tmp_path.iterdir())


def test_the_least_recently_used_make_room(file: AnswersFile, clock: Clock) -> None:
    for number in (1, 2, 3):
        clock.now += 30
        file.save({b"%d" % number: b"x" * 400}, [b"1"])
    assert there(file, b"1", b"2", b"3") == [b"1", b"3"]
    file.save({b"huge": b"x" * 1001}, ())
    assert there(file, b"1", b"3", b"huge") == [b"1", b"3"], "what could never stay costs nothing"


def test_a_file_that_cannot_be_written_is_told_and_costs_no_answer(
    tmp_path: Path, file: AnswersFile, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(tmp_path / "answers.sqlite3") as connection:
        connection.execute("DROP TABLE answers")
    connection.close()
    file.save({b"a": b"1"}, ())
    assert file.find([b"a"]) == {}
    assert [record.message for record in caplog.records].count(
        f"{tmp_path / 'answers.sqlite3'}: no such table: answers"
    ) == 2
