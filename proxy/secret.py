"""The server's own secret: a file with random bytes that only this user can read."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

from proxy import files
from proxy.settings.paths import make_private

SIZE: Final = 32
FILE: Final = "secret"


def server_secret(directory: Path) -> bytes:
    """The secret that is kept in `directory`; made there if there is none. Raises OSError.

    Servers that start at the same time get the same one.
    """
    make_private(directory)
    file = directory / FILE
    if not file.is_file():
        new = directory / f"{FILE}.{os.getpid()}.{secrets.token_hex(4)}"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(secrets.token_bytes(SIZE))
            with contextlib.suppress(FileExistsError):
                os.link(new, file)
        finally:
            new.unlink()
    files.make_private(file)
    secret = file.read_bytes()
    if len(secret) < SIZE:
        raise OSError(f"{file} is not a secret of {SIZE} bytes: delete it.")
    return secret
