"""`claude-max-api keys add | list | revoke NAME`."""

from __future__ import annotations

import argparse
import re
import sqlite3
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from proxy import files, running
from proxy.keys import store
from proxy.keys.quota import midnight
from proxy.keys.store import KeyLimits, KeysUnreadable, StoredKey
from proxy.settings import SettingError
from proxy.settings.paths import state_dir, usage_file
from proxy.settings.sources import Loaded, load
from proxy.usage.reader import Reader

ACTIONS: Final = ("add", "list", "revoke")
NAME: Final = r"[\w.@-]{1,64}"

LAST: Final = (
    "It was the last one: from now on clients need no key; but a server that other computers can reach answers nobody."
)


def _whole(arguments: argparse.Namespace, name: str) -> int | None:
    text = getattr(arguments, name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,15}", text, re.ASCII) or int(text) < 1:
        raise ValueError(f"--{name.replace('_', '-')} must be a whole number of 1 or more")
    return int(text)


def _usd(arguments: argparse.Namespace) -> float | None:
    text = arguments.usd_per_day
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text, re.ASCII) or float(text) <= 0:
        raise ValueError("--usd-per-day must be a number above 0")
    return float(text)


def _told(directory: Path) -> str:
    count = running.reload(directory)
    return f"The running server{'s have' if count > 1 else ' has'} taken it." if count else "No server is running."


def _add(loaded: Loaded, directory: Path, name: str, limits: KeyLimits) -> int:
    keys = store.read(directory)
    if name in {key.name for key in keys} | {key.name for key in loaded.settings.api_keys}:
        raise ValueError(f"there is a key {name!r} already")
    secret = store.new_secret()
    store.write(directory, (*keys, StoredKey(name, store.digest(secret.encode()), time.time(), limits)))
    first = not keys and not loaded.settings.api_keys
    print(f"{secret}\n", flush=True)
    print(f"This is the key {name!r} ({limits}). It is not kept and cannot be shown again.", file=sys.stderr)
    if first:
        print("It is the first one: from now on every client needs a key.", file=sys.stderr)
    print(_told(directory), file=sys.stderr)
    return 0


def _list(loaded: Loaded, directory: Path) -> int:
    with Reader(usage_file(loaded.settings, loaded.environ, sys.platform)) as reader:
        today = {group.name: group for group in reader.summary(midnight(time.time()), None).by_key}
    rows = [(key.name, datetime.fromtimestamp(key.created).strftime("%Y-%m-%d"), str(key.limits))
            for key in store.read(directory)]  # fmt: skip
    rows += [(key.name, "API_KEYS", str(KeyLimits())) for key in loaded.settings.api_keys]
    if not rows:
        print("There are no keys: every client is answered. To make one: claude-max-api keys add NAME")
        return 0
    print(f"{'Name':<24} {'Since':<10} {'Requests':>8} {'Tokens':>10} {'$':>8}  Limits")
    for name, since, limits in rows:
        used = today.get(name)
        requests, tokens, usd = (
            (used.requests, used.prompt_tokens + used.completion_tokens, used.list_price_usd) if used else (0, 0, 0.0)
        )
        print(f"{name:<24} {since:<10} {requests:>8} {tokens:>10} {usd:>8.2f}  {limits}")
    print("\nRequests, tokens and list price are today's.")
    return 0


def _revoke(loaded: Loaded, directory: Path, name: str) -> int:
    keys = store.read(directory)
    if name in {key.name for key in loaded.settings.api_keys}:
        raise ValueError(f"{name!r} is a key of API_KEYS: take it out there")
    if name not in {key.name for key in keys}:
        raise ValueError(f"there is no key {name!r}")
    store.write(directory, tuple(key for key in keys if key.name != name))
    if len(keys) == 1 and not loaded.settings.api_keys:
        print(LAST, file=sys.stderr)
    print(f"The key {name!r} is revoked. {_told(directory)}", file=sys.stderr)
    return 0


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """The command; its exit code: 1 for a file that cannot be used, 2 for words that cannot."""
    try:
        limits = KeyLimits(
            _whole(arguments, "requests_per_minute"), _whole(arguments, "tokens_per_day"), _usd(arguments)
        )
        if arguments.action not in ACTIONS:
            raise ValueError(f"say one of {', '.join(ACTIONS)}")
        if arguments.action != "list" and not re.fullmatch(NAME, arguments.name or ""):
            raise ValueError("name the key with letters, digits and any of _ . @ -")
        loaded = load(vars(arguments), environ, serving=False)
        directory = state_dir(loaded.settings, loaded.environ, sys.platform)
        if arguments.action == "list":
            return _list(loaded, directory)
        with store.changing(directory):
            if arguments.action == "add":
                return _add(loaded, directory, arguments.name, limits)
            return _revoke(loaded, directory, arguments.name)
    except (SettingError, ValueError) as error:
        print(f"claude-max-api keys: {error}", file=sys.stderr)
        return 2
    except (KeysUnreadable, OSError, sqlite3.Error) as error:
        print(f"claude-max-api keys: {files.in_words(error)}", file=sys.stderr)
        return 1
