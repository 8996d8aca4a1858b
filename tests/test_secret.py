"""proxy/secret.py: the server's own secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.secret import FILE, SIZE, server_secret


def test_it_is_made_once_and_only_for_this_user(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "state"
    secret = server_secret(directory)
    assert len(secret) == SIZE
    (directory / FILE).chmod(0o644)
    assert server_secret(directory) == secret
    assert (directory / FILE).stat().st_mode & 0o777 == 0o600
    assert [file.name for file in directory.iterdir()] == [FILE]


def test_no_two_are_equal(tmp_path: Path) -> None:
    assert server_secret(tmp_path / "a") != server_secret(tmp_path / "b")


def test_one_that_is_too_short_is_none(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"short")
    with pytest.raises(OSError, match="is not a secret of 32 bytes"):
        server_secret(tmp_path)
