"""The recorder: a program that the proxy takes for the CLI, runs the real one, and writes down both directions.

Its settings are baked into a small executable file, because a child of the proxy gets hardly any environment. It
writes each line to its file before it passes it on, so a recording is usable even if the recorder is killed.
Standard library only: it is started for every conversation.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType


def shim(directory: Path, cli: Path, *, claim: str | None = None, setpriv: str | None = None) -> Path:
    """Writes the executable to hand to the proxy as its CLI; recordings appear in `directory` as `*.raw`.

    `claim` is a version that it answers instead of its own, to get past a proxy's lower bound. With `setpriv` the
    real CLI dies with the recorder whatever happens.
    """
    return executable(
        directory, "recorder", {"cli": str(cli), "directory": str(directory), "claim": claim, "setpriv": setpriv}
    )


def executable(directory: Path, module: str, settings: dict[str, object]) -> Path:
    """An executable `claude` in `directory` that calls `main(settings)` of a module of this package."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "claude"
    # Not the package: importing it by its folder alone keeps the start quick and needs no site-packages.
    path.write_text(
        f"#!{sys.executable} -IS\n"
        "import sys\n"
        f"sys.path.append({str(Path(__file__).parent)!r})\n"
        f"from {module} import main\n"
        f"sys.exit(main({settings!r}, sys.argv[1:]))\n",
        "utf-8",
    )
    path.chmod(0o755)
    return path


# A proxy ends the CLI as soon as it has its answer. How long the CLI then still has after its last line, and at most,
# so that every recording goes on to the same end, however quick the proxy was. A proxy kills what does not end in 2 s.
_TAIL = 0.4
_LONGEST_TAIL = 1.4
# How long the rest of what an ended CLI wrote may take to be read.
_REST = 10


class _Log:
    """A file in that directory. Its name says when it was begun, from which the times of its lines count."""

    def __init__(self, directory: str) -> None:
        start = time.monotonic_ns()
        path = f"{directory}/{start}-{os.getpid()}.raw"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()
        self._start = start / 1e9
        self.latest = self._start

    def write(self, entry: dict[str, object]) -> None:
        with self._lock:
            self.latest = time.monotonic()
            at = round((self.latest - self._start) * 1000)
            os.write(self._file, json.dumps({"at": at} | entry).encode() + b"\n")


def main(settings: dict[str, object], argv: list[str]) -> int:
    cli = str(settings["cli"])
    if argv[:1] == ["--version"] and settings["claim"]:
        print(f"{settings['claim']} (Claude Code)")
        return 0
    if "--input-format" not in argv:
        os.execv(cli, [cli, *argv])
    if os.environ.get("LC_CTYPE") == "C.UTF-8":
        del os.environ["LC_CTYPE"]  # Python's own doing (PEP 538): the CLI gets what the proxy gave
    log = _Log(str(settings["directory"]))
    log.write(
        {
            "argv": argv,
            "environment": sorted(os.environ),
            "cwd": os.getcwd(),
            "home": os.environ.get("HOME", ""),
            "cli": cli,
            "time": time.time(),
        }
    )
    guard = [str(settings["setpriv"]), "--pdeathsig", "KILL", "--"] if settings["setpriv"] else []
    # Out of reach of a signal to the proxy's whole group: the CLI is to finish its lines first.
    child = subprocess.Popen(
        [*guard, cli, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    log.write({"pid": child.pid})
    assert child.stdin is not None
    assert child.stdout is not None
    into, out = child.stdin.fileno(), child.stdout.fileno()

    told_to_end, terminated = threading.Event(), threading.Event()

    def end(_: int, __: FrameType | None) -> None:
        if not terminated.is_set():
            told_to_end.set()
            terminated.set()
            threading.Thread(target=let_end, daemon=True).start()

    def let_end() -> None:
        told = time.monotonic()
        while (now := time.monotonic()) < min(max(told, log.latest) + _TAIL, told + _LONGEST_TAIL):
            time.sleep(max(0.01, min(max(told, log.latest) + _TAIL, told + _LONGEST_TAIL) - now))
        child.terminate()

    signal.signal(signal.SIGTERM, end)

    def feed() -> None:
        _copy(0, into, "cli", log)
        told_to_end.set()
        # A CLI that is terminated never sees the end of its stdin: with a tool call open it would take that for an
        # interrupted call, and ask the Messages API again before it dies (fixtures tools/result_replayed).
        if not terminated.wait(2 * _TAIL):
            assert child.stdin is not None
            child.stdin.close()

    threading.Thread(target=feed, daemon=True).start()
    reader = threading.Thread(target=_copy, args=(out, 1, "proxy", log), daemon=True)
    reader.start()
    ended = child.wait()
    reader.join(_REST)
    code = ended if ended >= 0 else 128 - ended
    if not told_to_end.is_set():
        log.write({"exit": code})
    if not reader.is_alive():
        log.write({"whole": True})
    return code


def _copy(source: int, target: int, to: str, log: _Log) -> None:
    """Passes bytes on as they come; each line is logged before its last byte is passed on."""
    rest = b""
    while data := os.read(source, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            log.write({"to": to, "text": line.decode("utf-8", "replace")})
        with contextlib.suppress(OSError):  # the other side may have gone; what is written still counts
            while data:
                data = data[os.write(target, data) :]
    if rest:
        log.write({"to": to, "text": rest.decode("utf-8", "replace")})
