"""`claude-max-api setup [CLIENT]`: shows what would change, asks, writes, keeps the file as it was beside it."""

from __future__ import annotations

import argparse
import difflib
import getpass
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from proxy import files
from proxy.address import base_url, ours
from proxy.http.routes import ROUTES
from proxy.settings import SettingError, Settings
from proxy.settings.paths import make_private
from proxy.settings.sources import load
from proxy.settings.values import url as read_url
from proxy.setup import sizes
from proxy.setup.clients import CLIENTS, CONTEXT, Client, Edit, Place, Target
from proxy.setup.edits import Default, Unreadable, edited

# Beside a file: what it was before the first change, or that it was not there.
BEFORE: Final = ".before-claude-max-api"
CREATED: Final = ".created-by-claude-max-api"
HIDDEN: Final = "(key not shown)"
NOT_KNOWN: Final = "YOUR_KEY"


class Change(Struct, frozen=True):
    """A file's text before and after; None: there is no file."""

    path: Path
    old: str | None
    new: str | None

    def diff(self) -> Iterator[str]:
        """As `diff -u` shows it."""
        old, new = (text.splitlines() if text else [] for text in (self.old, self.new))
        names = (
            "/dev/null" if self.old is None else str(self.path),
            "/dev/null" if self.new is None else str(self.path),
        )
        yield from difflib.unified_diff(old, new, *names, lineterm="")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _text(path: Path) -> str | None:
    """None when there is no such file. Raises Unreadable."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(getattr(error, "strerror", None) or "it is not UTF-8") from None


def planned(edit: Edit) -> Change:
    """What setting up would do to the file. Raises Unreadable."""
    old = _text(edit.path)
    try:
        return Change(edit.path, old, edited(edit.format, old or "", edit.wanted))
    except Unreadable as error:
        raise Unreadable(f"{edit.path} is left alone: {error}") from None


def undone(edit: Edit) -> Change:
    """What restoring would do to it. Raises Unreadable."""
    old = _text(edit.path)
    if _beside(edit.path, CREATED).exists():
        return Change(edit.path, old, None)
    before = _text(_beside(edit.path, BEFORE))
    return Change(edit.path, old, old if before is None else before)


def _write(path: Path, text: str) -> None:
    """In one go; links and permissions stay. A new file is private: it may hold a key. Raises OSError."""
    path = path.resolve()
    make_private(path.parent)
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
    files.replace(path, text.encode(), mode=mode)


def _check_same(change: Change) -> None:
    if _text(change.path) != change.old:
        raise Unreadable(f"{change.path} has just been changed by somebody else. Run this again.")


def apply(change: Change) -> None:
    """Write it, and keep what was there before the first change. Raises OSError, and Unreadable when the file is not
    any more what the change was made from: its program may have written it meanwhile."""
    assert change.new is not None
    _check_same(change)
    kept = _beside(change.path, BEFORE), _beside(change.path, CREATED)
    make_private(change.path.parent)
    if change.old is None:
        kept[1].touch()
    elif not any(path.exists() for path in kept):
        # It may hold a key: no moment with wider permissions than its own.
        files.replace(kept[0], change.old.encode(), mode=stat.S_IMODE(change.path.stat().st_mode))
    _write(change.path, change.new)


def restore(change: Change) -> None:
    """Undo it, and forget what was kept. Raises as `apply` does."""
    _check_same(change)
    if change.new is None:
        # Where a link leads, not the link.
        change.path.resolve().unlink(missing_ok=True)
    elif change.new != change.old:
        _write(change.path, change.new)
    for suffix in (BEFORE, CREATED):
        _beside(change.path, suffix).unlink(missing_ok=True)


# What is said.


def installed(client: Client, edits: Sequence[Edit], place: Place) -> bool:
    """A program of its name is there, or its first file, or that one's directory if it is the client's own."""
    if any(shutil.which(program, path=place.environ.get("PATH", os.defpath)) for program in client.programs):
        return True
    shared = (place.home, Path.cwd())
    return any(
        edit.path.exists() or (edit.path.parent not in shared and edit.path.parent.is_dir()) for edit in edits[:1]
    )


def state(edits: Sequence[Edit]) -> str:
    """Whether the client's files hold what they should."""
    if not edits:
        return "by hand"
    try:
        return "yes" if all(change.old == change.new for change in map(planned, edits)) else "no"
    except Unreadable:
        return "unreadable"


def listing(target: Target, place: Place) -> Iterator[str]:
    """A line for each client."""
    yield f"{'Client':<12} {'Installed':<10} {'Set up':<11} {'API':<21} File"
    for client in CLIENTS:
        edits = client.edits(target, place)
        there = "yes" if installed(client, edits, place) else "no"
        path = str(edits[0].path) if edits else ""
        yield f"{client.name:<12} {there:<10} {state(edits):<11} {client.surface:<21} {path}".rstrip()
    yield ""
    yield "claude-max-api setup CLIENT shows the change and asks before it writes."
    yield "Clients that speak only Ollama's API find the server by themselves: claude-max-api --ollama-port 11434"


def _target(settings: Settings, url: str | None, *, stored: bool) -> Target:
    """Raises ValueError."""
    if url is not None:
        base = read_url(url).rstrip("/").removesuffix("/v1")
    elif settings.uds is not None or settings.port == 0:
        raise ValueError("name the server's address with --url, as clients reach it: http://127.0.0.1:3456")
    else:
        base = base_url(settings, settings.port)
    if settings.api_keys:
        return Target(base, settings.api_keys[0].secret, needs_key=True)
    return Target(base, NOT_KNOWN, needs_key=True) if stored else Target(base)


def _with_sizes(target: Target) -> Target:
    return msgspec.structs.replace(target, sizes=sizes.asked(target.url, target.key))


def _asked(question: str) -> bool:
    try:
        return input(f"{question} [Y/n] ").strip().lower() in ("", "y", "yes")
    except EOFError:
        print()
        return False


def _chosen(client: Client, target: Target, place: Place, file: str | None) -> tuple[Edit, ...]:
    """Its edits, the first of them of the file that the user names."""
    edits = client.edits(target, place)
    if file is None:
        return edits
    if not edits:
        raise ValueError(f"{client.title} has no file that could be set up")
    return (msgspec.structs.replace(edits[0], path=Path(file).expanduser().absolute()), *edits[1:])


def _set_up(client: Client, edits: Sequence[Edit], target: Target, *, only_print: bool, yes: bool) -> int:
    def hidden(line: str) -> str:
        return line.replace(target.key, HIDDEN) if target.needs_key else line

    changes = [change for change in map(planned, edits) if change.old != change.new]
    for change in changes:
        print("\n".join(map(hidden, change.diff())))
    if edits and not changes:
        print(f"{client.title} is set up already.")
    elif changes and not only_print:
        if not yes and not sys.stdin.isatty():
            print("Nothing has been written: this is no terminal. Add --yes to write it.", file=sys.stderr)
            return 2
        if not yes and not _asked("Write this?"):
            return 1
        for change in changes:
            apply(change)
        print(f"Written. To undo it: claude-max-api setup {client.name} --restore")
    print("\n".join((f"{client.title}:", *(f"  {hidden(step)}" for step in client.steps(target)))))
    return 0


def _restore(client: Client, edits: Sequence[Edit], *, yes: bool) -> int:
    kept = [edit for edit in edits if any(_beside(edit.path, suffix).exists() for suffix in (BEFORE, CREATED))]
    if not kept:
        print(f"There is nothing to restore for {client.title}.")
        return 1
    changes = list(map(undone, kept))
    print("\n".join(line for change in changes for line in change.diff()))
    if not yes and not (sys.stdin.isatty() and _asked("Restore this?")):
        return 1
    for change in changes:
        restore(change)
    print("Restored.")
    return 0


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """The command; its exit code. 1: declined, or a file that cannot be changed; 2: what it was told is of no use."""
    try:
        loaded = load(vars(arguments), environ)
        target = _target(loaded.settings, arguments.url, stored=bool(loaded.stored_keys))
        client = next((each for each in CLIENTS if each.name == arguments.client), None)
        if arguments.client and client is None:
            raise ValueError(f"there is no client {arguments.client!r}, but {', '.join(each.name for each in CLIENTS)}")
        place = Place(Path(environ.get("HOME") or Path.home()), environ, sys.platform)
        if client is None:
            print("\n".join(listing(_with_sizes(target), place)))
            return 0
        if target.key == NOT_KNOWN and not arguments.restore:
            # Stored keys are kept as hashes: the user has to say the one that was made for this client.
            if not sys.stdin.isatty():
                raise ValueError("the server needs a key: run this in a terminal to be asked for it, or set API_KEYS")
            target = msgspec.structs.replace(target, key=getpass.getpass(f"The key for {client.title}: ").strip())
        if not arguments.restore:
            target = _with_sizes(target)
        edits = _chosen(client, target, place, arguments.file)
    except (SettingError, ValueError) as error:
        print(f"claude-max-api setup: {error}", file=sys.stderr)
        return 2
    try:
        if arguments.restore:
            return _restore(client, edits, yes=arguments.yes)
        code = _set_up(client, edits, target, only_print=arguments.print, yes=arguments.yes)
    except (Unreadable, OSError) as error:
        print(f"claude-max-api setup: {files.in_words(error)}", file=sys.stderr)
        return 1
    if code == 0 and client.surface not in {route.path for route in ROUTES}:
        print(f"Note: this version does not serve {client.surface} yet, which {client.title} needs.")
    if code == 0 and arguments.url is None and not ours(loaded.settings):
        print("The server is not running; start it with: claude-max-api")
    if code == 0 and any(str(Default(CONTEXT)) in str(edit.wanted) for edit in edits):
        print(f"It did not say how much its models take: {CONTEXT:,} tokens are assumed. Set up again when it runs.")
    return code
