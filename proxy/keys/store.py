"""Keys that the server keeps: a file in the state directory with their names, hashes and limits, never themselves."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from proxy import files
from proxy.settings.paths import make_private

FILE: Final = "keys.json"
LOCK: Final = "keys.lock"
PREFIX: Final = "cmx-"


class KeyLimits(Struct, frozen=True, omit_defaults=True):
    """What a key may use; None: as much as it likes. A day is that of this computer's calendar.

    Tokens are all of a request's: input, cached or not, and output. `usd_per_day`: at list price.
    """

    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    usd_per_day: float | None = None

    def __bool__(self) -> bool:
        return self != KeyLimits()

    @property
    def by_day(self) -> bool:
        return self.tokens_per_day is not None or self.usd_per_day is not None

    def __str__(self) -> str:
        said = (
            f"{self.requests_per_minute} requests a minute" if self.requests_per_minute is not None else "",
            f"{self.tokens_per_day} tokens a day" if self.tokens_per_day is not None else "",
            f"${self.usd_per_day:g} a day at list price" if self.usd_per_day is not None else "",
        )
        return ", ".join(filter(None, said)) or "no limits"


class StoredKey(Struct, frozen=True):
    """`digest`: SHA-256 of the key, in hexadecimal digits. A key is 256 random bits: nobody can guess what has a
    certain digest, so neither salt nor a slow hash is needed. `created`: seconds since 1970."""

    name: str
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    created: float
    limits: KeyLimits = KeyLimits()


class Stored(Struct, frozen=True):
    """The file."""

    keys: tuple[StoredKey, ...] = ()


class KeysUnreadable(Exception):
    """The file cannot be used. Says why; without it no key of it could be told from another."""


def digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def read(directory: Path) -> tuple[StoredKey, ...]:
    """The keys in the state directory; none if there is no file. Raises KeysUnreadable."""
    path = directory / FILE
    try:
        # A pipe would be waited for.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise KeysUnreadable(f"{path} is not a regular file.")
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise KeysUnreadable(f"{path} cannot be read: {error.strerror or error}.") from None
    if status.st_uid not in (os.geteuid(), 0) or stat.S_IMODE(status.st_mode) & 0o022:
        raise KeysUnreadable(f"{path} can be changed by other users. Make it yours alone: chmod 600 '{path}'")
    try:
        keys = msgspec.json.decode(data, type=Stored).keys
    except (msgspec.MsgspecError, RecursionError) as error:
        raise KeysUnreadable(f"{path} is damaged: {error}.") from None
    if len({key.name for key in keys}) != len(keys):
        raise KeysUnreadable(f"{path} is damaged: it holds two keys of one name.")
    return keys


@contextlib.contextmanager
def changing(directory: Path) -> Iterator[None]:
    """While the keys are read and written again: no other program of this does so. Raises OSError."""
    make_private(directory)
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write(directory: Path, keys: tuple[StoredKey, ...]) -> None:
    """In one go. Raises OSError."""
    make_private(directory)
    data = msgspec.json.format(msgspec.json.encode(Stored(keys)), indent=2) + b"\n"
    files.replace(directory / FILE, data)
