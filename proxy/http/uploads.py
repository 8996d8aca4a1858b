"""Bodies that are on their way, and what they have come to together: clients may take their time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final


class Upload:
    """One of them. `size`: bytes that have come; `abort`: ends its connection; `owner`: of its API key."""

    def __init__(self, uploads: Uploads, most: int, abort: Callable[[], None] | None, owner: str) -> None:
        self._uploads = uploads
        self.owner = owner
        self._most = most
        self.abort = abort
        self.size = 0

    def grow(self, by: int) -> None:
        """So many bytes more have come."""
        self.size += by
        self._uploads.grown(self, by, self._most)


class Uploads:
    """When there is too much, what has been on its way for the longest time is cut, of the owner with most of it."""

    def __init__(self) -> None:
        self._size = 0
        self._open: dict[Upload, None] = {}

    @contextmanager
    def one(self, most: int, abort: Callable[[], None] | None, owner: str = "") -> Iterator[Upload]:
        """A body begins. `most`: bytes of all together, for others to be cut."""
        upload = Upload(self, most, abort, owner)
        self._open[upload] = None
        try:
            yield upload
        finally:
            self._forget(upload)

    def grown(self, upload: Upload, by: int, most: int) -> None:
        if upload not in self._open:
            return
        self._size += by
        while self._size > most and len(self._open) > 1:
            sizes: Counter[str] = Counter()
            for each in self._open:
                sizes[each.owner] += each.size
            ((owner, _),) = sizes.most_common(1)
            oldest = next(each for each in self._open if each.owner == owner)
            self._forget(oldest)
            if oldest.abort is not None:
                oldest.abort()

    def _forget(self, upload: Upload) -> None:
        if upload in self._open:
            del self._open[upload]
            self._size -= upload.size


UPLOADS: Final = Uploads()
