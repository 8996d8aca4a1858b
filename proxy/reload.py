"""SIGHUP: the settings are read again. Keys, model names and the log level change at once; no request is dropped."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from proxy.http.service import Service
from proxy.keys import store
from proxy.settings import SETTINGS, SettingError, Settings
from proxy.settings.paths import state_dir
from proxy.settings.sources import Loaded

log: Final = logging.getLogger("proxy.serve")
# What a running server can take on. For all else it has to start anew.
LIVE: Final = ("api_keys", "models", "log_level")
GONE: Final = "{}, which held all keys, is gone or empty. To need none, start the server again."
KEPT: Final = "The settings have not been read again, those before still hold. %s"


def terminals() -> frozenset[int]:
    """Which of the standard streams are a terminal that is still there."""
    return frozenset(number for number in (0, 1, 2) if os.isatty(number))


class Reload:
    """Called for each SIGHUP. `load`: the settings as they are now, raises SettingError. `set_level`: of the log.
    `stop` ends the server: the signal also comes when the terminal is closed in which it runs."""

    def __init__(
        self,
        loaded: Loaded,
        service: Service,
        load: Callable[[], Loaded],
        set_level: Callable[[Settings], None],
        stop: Callable[[], None],
    ) -> None:
        self._started_with = loaded.settings
        self._service = service
        self._load = load
        self._set_level = set_level
        self._stop = stop
        self._directory = state_dir(loaded.settings, loaded.environ, sys.platform)
        self._given = loaded.settings.api_keys
        self._stored_keys = bool(loaded.stored_keys)
        self._path = loaded.path
        self._terminals = terminals()

    def __call__(self) -> None:
        if self._terminals - terminals():
            self._stop()
            return
        try:
            self._check_file()
            loaded = self._load()
        except SettingError as error:
            log.error(KEPT, error)
            self._drop_revoked()
            return
        if lost := self._lost_keys(loaded):
            log.error(KEPT, lost)
            return
        self._given = loaded.settings.api_keys
        self._stored_keys = bool(loaded.stored_keys)
        self._path = loaded.path
        self._service.keyring.replace(loaded.settings.api_keys, loaded.stored_keys)
        self._service.reload(loaded.settings)
        self._set_level(loaded.settings)
        log.info("The settings have been read again.")
        later = [
            setting.field
            for setting in SETTINGS
            if setting.field not in LIVE
            and getattr(loaded.settings, setting.field) != getattr(self._started_with, setting.field)
        ]
        if later:
            log.warning("These settings take effect when the server is started again: %s", ", ".join(later))

    def _check_file(self) -> None:
        """Raises SettingError for a pipe: what it held has been read, and who waits for more may wait for ever."""
        path = Path(self._path)
        if self._path and path.exists() and not path.is_file():
            raise SettingError(f"{path} is not a regular file, which could be read again.")

    def _drop_revoked(self) -> None:
        """Take on the keys that are kept, whatever is wrong elsewhere: one that has been revoked is not to be answered.
        Without any left the server answers nobody, since nothing says that it may answer everyone."""
        keyring = self._service.keyring
        with contextlib.suppress(store.KeysUnreadable):
            kept = store.read(self._directory)
            if kept or (self._directory / store.FILE).exists():
                keyring.replace(self._given, kept, needed=bool(keyring))
                self._stored_keys = bool(kept)
                log.info("The keys alone have been read again.")

    def _lost_keys(self, loaded: Loaded) -> str:
        """What is wrong where the file that held the keys is gone and no key is left: nobody has revoked them, and
        without any the server would answer everyone. A file that is being written anew may be gone, or empty."""
        if loaded.stored_keys or loaded.settings.api_keys:
            return ""
        path = self._directory / store.FILE
        if self._stored_keys and not path.exists():
            return GONE.format(path)
        said = any(given.origin.endswith(f" in {loaded.path}") for given in loaded.given.values())
        return GONE.format(self._path) if self._given and not (loaded.path and said) else ""
