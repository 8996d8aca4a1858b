"""proxy/cli/process.py: children that die, flood, do not listen, leave others behind, or are left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import process
from proxy.cli.process import STDERR_KEPT, Child, Launch
from proxy.cli.reaper import REAPER
from proxy.protocol.line_decoder import LineDecoder
from proxy.protocol.lines import Line, Unknown
from tests import cli_lines as say
from tests.conftest import PATIENCE, alive, until

Start = Callable[[str], Awaitable[Child]]


@pytest.fixture
async def sh(tmp_path: Path) -> AsyncIterator[Start]:
    """`await sh("script")`: a child that runs this shell script. After the test none is alive."""
    children: list[Child] = []

    async def start(script: str) -> Child:
        launch = Launch(("/bin/sh", "-c", script), {"PATH": os.environ["PATH"]}, str(tmp_path))
        children.append(await Child.start(launch))
        return children[-1]

    yield start
    for child in children:
        await asyncio.wait_for(child.stop(0.2), 60)
        assert not alive(child.pid)


async def python(sh: Start, tmp_path: Path, code: str) -> Child:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(code))
    return await sh(f"exec {sys.executable} -IS {path}")


async def everything(child: Child) -> list[Line]:
    """All lines up to the end of its stdout."""
    found: list[Line] = []
    while lines := await asyncio.wait_for(child.read(), 60):
        found += lines
    return found


async def test_lines_go_in_and_come_out(sh: Start) -> None:
    child = await sh("exec cat")
    child.write(say.raw(say.piece("wörld 🌍"), {"type": "new"}))
    found: list[Line] = []
    while len(found) < 2:
        found += await asyncio.wait_for(child.read(), 60)
    assert found == [*say.lines(say.piece("wörld 🌍")), Unknown("new")]
    assert child.alive
    assert child.exit_code is None


async def test_the_whole_environment_and_the_directory_are_as_given(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    script = """for value in "$ONLY" "$PWD" "${HOME-none}"; do printf '{"type":"%s"}\\n' "$value"; done"""
    child = await Child.start(Launch(("/bin/sh", "-c", script), {"ONLY": "this"}, str(here)))
    assert await everything(child) == [Unknown("this"), Unknown(str(here)), Unknown("none")]
    await child.stop(1)


async def test_characters_and_lines_cut_anywhere(sh: Start, tmp_path: Path) -> None:
    data = say.raw(say.piece("日本🌍"), {"type": "new"})
    child = await python(
        sh, tmp_path,
        f"""
        import os, time
        for at in range(len({data!r})):
            os.write(1, {data!r}[at:at+1])
            if at % 40 == 0: time.sleep(0.001)
        """,
    )  # fmt: skip
    assert await everything(child) == LineDecoder().feed(data)


async def test_the_last_line_needs_no_newline(sh: Start) -> None:
    child = await sh("""printf '{"type":"one"}\n{"type":"last"}'""")
    assert await everything(child) == [Unknown("one"), Unknown("last")]


async def test_a_line_of_six_megabytes(sh: Start, tmp_path: Path) -> None:
    child = await python(
        sh, tmp_path, """import os, sys; sys.stdout.write('{"type":"big","x":"' + "x" * 6_000_000 + '"}\\n')"""
    )
    assert await everything(child) == [Unknown("big")]


async def test_after_the_end_read_goes_on_saying_so(sh: Start) -> None:
    child = await sh("exit 7")
    assert await everything(child) == []
    assert await child.read() == []
    await asyncio.wait_for(child.exited, 60)
    assert child.exit_code == 7
    assert not child.alive


async def test_a_child_that_ends_before_it_reads_hurts_nobody(sh: Start) -> None:
    child = await sh("exec 0<&-; exit 1")
    for _ in range(20):
        child.write(b"x" * 100_000)
        await asyncio.sleep(0.002)
    assert await everything(child) == []
    child.write(b"late")
    await child.stop(1)


async def test_stopping_a_child_that_has_gone_is_nothing(sh: Start) -> None:
    child = await sh("exit 0")
    await asyncio.wait_for(child.exited, 60)
    await asyncio.sleep(0.05)
    await child.stop(1)
    await child.stop(1)


@pytest.mark.parametrize("what", ["missing", "a text", "a directory"])
async def test_a_program_that_is_missing_or_may_not_be_run_is_an_oserror(tmp_path: Path, what: str) -> None:
    program = tmp_path / "claude"
    if what == "a text":
        program.write_text("#!/bin/sh\n")
    elif what == "a directory":
        program.mkdir()
    with pytest.raises(FileNotFoundError if what == "missing" else PermissionError, match=re.escape(str(program))):
        await Child.start(Launch((str(program),), {}, str(tmp_path)))


def test_a_start_has_vfork() -> None:
    assert "preexec_fn" not in Path(process.__file__).read_text()


async def test_a_missing_directory_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        await Child.start(Launch(("/bin/sh",), {}, str(tmp_path / "nowhere")))


async def test_of_stderr_the_end_is_kept(sh: Start, tmp_path: Path) -> None:
    child = await python(
        sh, tmp_path,
        """
        import sys
        sys.stderr.write("noise 🌍\\n" * 200_000 + "the last words\\n")
        """,
    )  # fmt: skip
    assert await everything(child) == []
    await until(lambda: child.stderr.endswith("the last words"), 5, "the last words")
    assert len(child.stderr.encode()) <= STDERR_KEPT + 10


@pytest.mark.parametrize("attempt", range(5))
async def test_words_are_there_when_the_end_is_known(sh: Start, attempt: int) -> None:
    child = await sh("echo 'error: unknown option' >&2; exit 3")
    assert await everything(child) == []
    await asyncio.wait_for(child.exited, 60)
    assert child.stderr == "error: unknown option"
    assert child.exit_code == 3


async def test_its_end_is_known_when_another_process_holds_its_stderr(sh: Start, tmp_path: Path) -> None:
    holder = f"setsid sh -c 'echo $$ >{tmp_path}/holder; exec sleep 600' <&- >&- &"
    child = await sh(f"{holder} while ! [ -s {tmp_path}/holder ]; do sleep 0.01; done; echo no >&2; exit 3")
    try:
        await asyncio.wait_for(child.exited, 60)
        assert child.stderr == "no"
    finally:
        os.kill(int((tmp_path / "holder").read_text()), signal.SIGKILL)


# Ending


async def test_sigterm_is_enough_for_one_that_listens(sh: Start) -> None:
    child = await sh("exec sleep 600")
    # It does not wait for the limit.
    await asyncio.wait_for(child.stop(600), 60)
    assert child.exit_code == -signal.SIGTERM


async def test_stopping_that_is_cancelled_is_not_the_end_of_it(sh: Start) -> None:
    child = await sh("trap '' TERM; echo '{\"type\":\"ready\"}'; while :; do sleep 0.1; done")
    assert await child.read() == [Unknown("ready")]
    ended = False

    def end(_: object) -> None:
        nonlocal ended
        ended = True

    child.exited.add_done_callback(end)
    child._signal_group = lambda number: None  # type: ignore[method-assign]
    stopping = asyncio.create_task(child.stop(0))
    await asyncio.sleep(0.05)
    stopping.cancel()
    await asyncio.wait([stopping])
    assert not ended, "whoever waits for its end is not told so while it runs"
    del child._signal_group
    await asyncio.wait_for(child.stop(0), 60)
    assert (ended, child.exit_code) == (True, -signal.SIGKILL)


async def test_one_that_does_not_listen_is_killed(sh: Start) -> None:
    child = await sh("trap '' TERM; echo '{\"type\":\"ready\"}'; while :; do sleep 0.1; done")
    assert await child.read() == [Unknown("ready")]
    before = time.perf_counter()
    await child.stop(0.3)
    assert time.perf_counter() - before > 0.25
    assert child.exit_code == -signal.SIGKILL


async def pids_of(child: Child, number: int) -> list[int]:
    found: list[int] = []
    while len(found) < number:
        found += [int(line.type) for line in await asyncio.wait_for(child.read(), 60) if isinstance(line, Unknown)]
    return found


async def test_what_it_started_ends_with_it(sh: Start) -> None:
    child = await sh(
        'sleep 600 & printf \'{"type":"%s"}\\n\' $!; (trap \'\' TERM; sleep 601) & printf \'{"type":"%s"}\\n\' $!; wait'
    )
    inner = await pids_of(child, 2)
    await child.stop(1)
    await until(lambda: not any(map(alive, inner)), 2, "the grandchildren ended")


async def test_what_it_leaves_behind_when_it_dies_does_not_keep_the_answer_open(sh: Start) -> None:
    child = await sh('sleep 600 & printf \'{"type":"%s"}\\n\' $!; exit 4')
    (inner,) = await pids_of(child, 1)
    assert await asyncio.wait_for(child.read(), 60) == []
    await until(lambda: not alive(inner), 2, "the grandchild ended")


async def test_kill_ends_the_group_at_once(sh: Start) -> None:
    child = await sh("trap '' TERM; sleep 600 & printf '{\"type\":\"%s\"}\\n' $!; wait")
    (inner,) = await pids_of(child, 1)
    child.kill()
    await until(lambda: not alive(child.pid) and not alive(inner), 2, "both ended")


async def test_a_paused_child_can_be_stopped(sh: Start) -> None:
    child = await sh("exec sleep 600")
    child.pause()
    await until(lambda: Path(f"/proc/{child.pid}/stat").read_text().split()[2] == "T", 2, "it is stopped")
    await asyncio.wait_for(child.stop(600), 60)


async def test_one_that_has_exited_is_signalled_no_more(sh: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another process's by then."""
    child = await sh("exit 0")
    await child.exited
    signalled: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, number: signalled.append(pid))
    child.pause()
    child.resume()
    child.kill()
    await child.stop(1)
    assert signalled == []


async def test_it_leads_a_session_of_its_own(sh: Start) -> None:
    child = await sh("exec sleep 600")
    assert os.getpgid(child.pid) == child.pid
    assert os.getsid(child.pid) == child.pid


async def test_a_cancelled_reader_loses_nothing(sh: Start) -> None:
    child = await sh("exec cat")
    reading = asyncio.create_task(child.read())
    await asyncio.sleep(0.01)
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    child.write(b'{"type":"kept"}\n')
    assert await asyncio.wait_for(child.read(), 60) == [Unknown("kept")]


# Back-pressure


@pytest.mark.parametrize(
    ("number", "size"), [(100_000, 100), (400, 400_000)], ids=["many small lines", "few large ones"]
)
async def test_what_nobody_reads_is_left_in_the_pipe(sh: Start, tmp_path: Path, number: int, size: int) -> None:
    child = await python(
        sh, tmp_path,
        f"""
        import os
        line = b'{{"type":"' + b"x" * {size} + b'"}}\\n'
        for _ in range({number}):
            os.write(1, line)
        """,
    )  # fmt: skip
    await until(lambda: child.bytes_read > 0, 5, "something came")
    seen = -1
    while seen != child.bytes_read:
        seen = child.bytes_read
        await asyncio.sleep(0.2)
    assert seen < 6_000_000
    assert len(await everything(child)) == number


async def test_a_line_without_end_ends_the_child(sh: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MAX_LINE", 1_000_000)
    child = await sh("exec cat /dev/zero")
    assert await asyncio.wait_for(everything(child), 60)
    await asyncio.wait_for(child.exited, 60)
    assert child.exit_code == -signal.SIGKILL


async def test_many_at_once(sh: Start) -> None:
    children = await asyncio.gather(*(sh("exec cat") for _ in range(16)))
    for number, child in enumerate(children):
        child.write(b'{"type":"%d"}\n' % number)
    answers = await asyncio.gather(*(child.read() for child in children))
    assert answers == [[Unknown(str(number))] for number in range(16)]


async def test_debug_logs_the_sorts_of_lines(sh: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "proxy.cli")
    child = await sh("""echo '{"type":"system","subtype":"init"}'; echo '{"type":"new","text":"secret"}'""")
    await everything(child)
    said = " ".join(record.getMessage() for record in caplog.records if record.name == "proxy.cli")
    assert f"child {child.pid}: system/init" in said
    assert "new" in said
    assert "secret" not in said


async def test_a_child_that_cannot_be_watched_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python watches over children by a descriptor or by a thread each, once they run."""

    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    def no_descriptor(*_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    started = tmp_path / "started"
    launch = Launch(
        ("/bin/sh", "-c", f"echo $$ > {started}.part; mv {started}.part {started}; exec sleep 600"), {}, "/"
    )
    popen = subprocess.Popen

    def slow(*args: Any, **options: Any) -> Any:
        made = popen(*args, **options)
        end = time.monotonic() + PATIENCE
        while not started.exists() and time.monotonic() < end:
            time.sleep(0.005)
        return made

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", slow)
        patched.setattr(threading.Thread, "start", no_thread)
        patched.setattr(os, "pidfd_open", no_descriptor, raising=False)
        with pytest.raises(OSError, match=r"Too many open files|temporarily unavailable"):
            await Child.start(launch)
    pid = int(started.read_text())
    await until(lambda: not alive(pid), 5, "it is gone")
    assert pid not in REAPER._groups
