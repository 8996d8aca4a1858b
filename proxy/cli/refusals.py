"""Which fields of the Messages API a model has refused, by CLI version, kept in a file.

A refusal is learnt by asking: a request with such fields is refused, the same request without them is not. Another
version of the CLI sends other requests, so it is asked anew.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from proxy import files
from proxy.settings.paths import make_private

log: Final = logging.getLogger("proxy.refusals")
# By CLI version, by model: fields that were refused together.
_Refused = dict[str, dict[str, list[list[str]]]]
_decoder: Final = msgspec.json.Decoder(_Refused)
# In the state directory.
FILE: Final = "refusals.json"
# So many versions are remembered, and models of each: the newest.
MAX_VERSIONS: Final = 8
MAX_MODELS: Final = 64


class Refusals:
    """`path` None: remembered until the end of the process. A file that cannot be used costs knowledge only."""

    def __init__(self, path: Path | None = None, version: str = "") -> None:
        self._path = path
        self._version = version
        self._refused: _Refused = {}
        if path is not None:
            try:
                self._refused = _decoder.decode(path.read_bytes())
            except FileNotFoundError:
                pass
            except (OSError, ValueError, RecursionError) as error:
                log.warning("%s is not used: %s", path, error)

    @property
    def models(self) -> Collection[str]:
        """Those that have refused something."""
        return self._refused.get(self._version, {}).keys()

    def of(self, model: str) -> list[list[str]]:
        """What this model has refused, each as the fields that were refused together."""
        return self._refused.get(self._version, {}).get(model, [])

    def learn(self, model: str, fields: Collection[str]) -> None:
        """The model has refused these fields together."""
        found = sorted(fields)
        refused = self._refused.pop(self._version, {})
        known = refused.pop(model, [])
        refused[model] = known if found in known else [*known, found]
        self._refused[self._version] = refused
        while len(refused) > MAX_MODELS:
            del refused[next(iter(refused))]
        while len(self._refused) > MAX_VERSIONS:
            del self._refused[next(iter(self._refused))]
        log.info("%s refuses %s; it is not sent any more", model, ", ".join(found))
        if self._path is not None:
            try:
                make_private(self._path.parent)
                files.replace(self._path, msgspec.json.encode(self._refused))
            except OSError as error:
                log.warning("%s cannot be written: %s", self._path, error)
