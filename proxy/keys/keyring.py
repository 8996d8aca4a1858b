"""Whose key a request brings, and what that key may use."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from proxy.keys.store import KeyLimits, StoredKey, digest
from proxy.settings import Key


class Keyring:
    """The keys of a running server; they can be replaced while it runs. Falsy where none is needed.

    `secret`: the server's own, which keeps what is made of a key from telling the key.
    """

    def __init__(self, given: tuple[Key, ...] = (), stored: tuple[StoredKey, ...] = (), secret: bytes = b"") -> None:
        self._secret = secret
        self._digests: tuple[tuple[str, str], ...] = ()
        self._limits: dict[str, KeyLimits] = {}
        self._needed = False
        self.replace(given, stored)

    def replace(self, given: tuple[Key, ...], stored: tuple[StoredKey, ...], *, needed: bool = False) -> None:
        """From now on these. `given`: those of the settings. `needed`: where there are none, nobody may ask."""
        self._needed = needed
        self._digests = (
            *((key.name, digest(key.secret.encode())) for key in given),
            *((key.name, key.digest) for key in stored),
        )
        self._limits = {key.name: key.limits for key in stored}

    def __bool__(self) -> bool:
        return self._needed or bool(self._digests)

    def find(self, given: Sequence[str]) -> tuple[str, str] | None:
        """Name and owner of the key that is among those given. Takes the same time whichever it is, or none.

        The owner is made of the key itself: another key that is given the name later has nothing of this one's.
        """
        found = None
        for text in given:
            wanted = digest(text.encode("utf-8", "surrogateescape"))
            for name, known in self._digests:
                if hmac.compare_digest(known, wanted):
                    found = name, known
        if found is None:
            return None
        name, known = found
        return name, hmac.digest(self._secret, known.encode(), "sha256").hex()[:32]

    def limits(self, name: str) -> KeyLimits:
        return self._limits.get(name, KeyLimits())
