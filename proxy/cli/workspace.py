"""The directories that CLI processes run in: private, emptied, and without the user's name in their paths.

The CLI tells the model its working directory. So that is no directory of the user's home, but one below `/tmp` that is
always the same and always empty. Anybody can write to `/tmp`: the directory is used only if it is a real one, ours, and
closed to others, in a parent where nobody else can replace it. Otherwise the state directory is used.

A process gets a directory of its own for temporary files and caches, which is removed when the process has ended. What
a server that was killed has left behind is removed by the next one: a lock tells that its owner is gone.

While it runs, the CLI tells other programs of the user about itself in the directory of its configuration. It takes
that away when it ends, but cannot when it is killed: then it is done here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct, structs

from proxy.cli.process import Child, Launch
from proxy.settings.paths import make_private

BASE: Final = Path("/tmp")
# The processes' sockets lie in their temporary directories, and a socket's path can have about 100 bytes: short names.
_RUN: Final = "run-"


class _Session(Struct):
    """What the CLI tells of itself: the path of the socket by which it can be reached."""

    messagingSocketPath: str


def _forget(child: Child, own: str, environ: Mapping[str, str]) -> None:
    """Remove what a process that was killed has told of itself, if it was this one. `own`: its directory."""
    config = Path(environ.get("CLAUDE_CONFIG_DIR") or f"{environ.get('HOME', '')}/.claude")
    session = config / "sessions" / f"{child.pid}.json"
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        path = msgspec.json.decode(session.read_bytes(), type=_Session).messagingSocketPath
        if path.startswith(f"{own}/"):
            session.unlink()
            session.with_suffix(f".{hashlib.sha256(path.encode()).hexdigest()}.key").unlink()


def _check_private(directory: Path) -> None:
    """Make the directory if it is missing. Raises OSError unless it is a real one, ours, and closed to others."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{directory} is not a directory of this user alone")


def _replaceable(parent: Path) -> bool:
    """Whether other users could put another directory in the place of one of ours in there."""
    found = os.stat(parent)
    open_to_others = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
    return bool(open_to_others) or found.st_uid not in (0, os.geteuid())


def locate(state: Path, base: Path = BASE) -> Path:
    """The directory of workspaces, with the empty one in it: below `base`, or else below `state`. Raises OSError."""
    root = base.resolve() / f"workspace-{os.geteuid()}"
    try:
        if _replaceable(root.parent):
            raise PermissionError(f"{root.parent} can be changed by other users")
        _check_private(root)
    except OSError:
        make_private(state)
        root = state / "workspace"
        _check_private(root)
    empty = root / "empty"
    _check_private(empty)
    if any(empty.iterdir()):
        raise OSError(f"{empty} must be empty: it is the working directory of the CLI")
    return root


def logs_elsewhere(root: Path, environ: Mapping[str, str], platform: str) -> Path | None:
    """Where the CLI keeps logs of these workspaces when no variable moves them: on macOS, below the home directory."""
    if platform != "darwin":
        return None
    home = Path(environ.get("HOME") or Path.home())
    return home / "Library/Caches/claude-cli-nodejs" / re.sub(r"[^a-zA-Z0-9]", "-", str(root / "empty"))


class Workspace:
    """One server's: `start` its processes with it, then `close` it. Raises OSError.

    `root`: from `locate`; `logs`: a further directory to remove at the beginning and the end. `child`: the
    kind of its processes. `cwd`: the working
    directory of all processes.
    """

    def __init__(self, root: Path, logs: Path | None = None, child: type[Child] = Child) -> None:
        self._root = root
        self._logs = logs
        self._child = child
        self._lock = -1
        self.cwd = root / "empty"
        self._remove_logs()
        self._begin()

    def _begin(self) -> None:
        with _locked(self._root / "lock"):
            for entry in self._root.glob(f"{_RUN}*"):
                if not _in_use(entry / "lock"):
                    shutil.rmtree(entry, ignore_errors=True)
            self._run = Path(tempfile.mkdtemp(prefix=_RUN, dir=self._root))
            self._unlock()
            self._lock = os.open(self._run / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _remove_logs(self) -> None:
        if self._logs is not None:
            shutil.rmtree(self._logs, ignore_errors=True)

    def _enter(self) -> str:
        """A directory for one process, in what may have been cleared away since the last one."""
        _check_private(self._root)
        _check_private(self.cwd)
        if not self._run.exists():
            self._begin()
        return tempfile.mkdtemp(prefix="", dir=self._run)

    async def start(self, launch: Launch) -> Child:
        """Start a process in its own directory. Raises OSError."""
        own = self._enter()
        env = {**launch.env, "TMPDIR": own, "XDG_CACHE_HOME": f"{own}/cache"}
        try:
            child = await self._child.start(structs.replace(launch, env=env))
        except BaseException:
            shutil.rmtree(own, ignore_errors=True)
            raise

        def ended(_: object) -> None:
            shutil.rmtree(own, ignore_errors=True)
            if child.exit_code == -signal.SIGKILL:
                _forget(child, own, env)

        child.exited.add_done_callback(ended)
        return child

    def close(self) -> None:
        """Remove what the processes have left. None may run any more."""
        shutil.rmtree(self._run, ignore_errors=True)
        self._remove_logs()
        self._unlock()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _in_use(lock: Path) -> bool:
    try:
        fd = os.open(lock, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
