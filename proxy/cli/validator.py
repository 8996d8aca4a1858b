"""The validator of clients' JSON Schemas and grammars: worker processes (`validator_worker`), each with bounds of time
and memory.

- Two workers at most, started when they are needed. A schema that is too dear ends its worker, nothing else.
- Owners take turns, so that one's dear schemas make another wait for one judgement at most, which is half a second of
  the processor. Within one owner's line it is first come, first served.
- Nothing is kept of what was judged. A worker whose memory has grown is ended.
- A worker has an empty environment and a process group of its own, and dies with the server as every child does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from proxy.cli.process import USED_UP
from proxy.cli.reaper import REAPER
from proxy.protocol.judging import Item, Limit, Verdicts, grammars, of_grammar, of_plan, rejection
from proxy.protocol.plan import Plan

log: Final = logging.getLogger("proxy.cli")

MAX_WORKERS: Final = 2
# Seconds that a worker has for a question, and for its start, however busy the machine is.
MAX_WALL: Final = 10.0
# Seconds until whoever asks is told that the server is busy.
MAX_WAIT: Final = 15.0
# Questions that wait, each with its request, which may be large.
MAX_WAITING: Final = 64
# Seconds between the end of a worker's stdout and its own.
EXIT_GRACE: Final = 1.0
# Bytes of memory that a worker may hold when it has nothing to do; it begins with 20 MB.
MAX_RETAINED: Final = 64 << 20

# Where modules are found is told by arguments: with an empty environment the worker would not know.
_PROGRAM: Final = """
import sys
sys.path = sys.argv[1:]
from proxy.cli.validator_worker import main
main(sys.stdin.buffer, sys.stdout.buffer)
"""


def command() -> tuple[str, ...]:
    """The worker's command line."""
    return (sys.executable, "-I", "-S", "-c", _PROGRAM, *(os.path.abspath(path) for path in sys.path))


class _Worker:
    """One process. Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._started = False
        self.pid = process.pid
        REAPER.watch(self.pid)
        self.exited = asyncio.create_task(self._watch())

    async def _watch(self) -> int:
        code = await self._process.wait()
        REAPER.forget(self.pid)
        return code

    @classmethod
    async def start(cls) -> _Worker:
        """Raises OSError."""
        process = await asyncio.create_subprocess_exec(
            *command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, cwd="/",
            start_new_session=True,
        )  # fmt: skip
        return cls(process)

    async def judge(self, question: bytes, count: int) -> Verdicts:
        """The verdicts on so many items. After a limit, or when it holds too much memory, the worker has ended."""
        faults: list[str | None] = []
        unjudged = False
        try:
            async with asyncio.timeout(MAX_WALL):
                if not self._started:
                    await self._line()
                    self._started = True
                self._stdin.write(question)
                await self._stdin.drain()
                while len(faults) < count:
                    faults.append(msgspec.json.decode(await self._line(), type=str | None))
                retained = msgspec.json.decode(await self._line(), type=int)
        except TimeoutError:
            unjudged = True
        except (EOFError, ConnectionError):
            # It is about to be gone, and its exit code says why.
            await asyncio.wait((self.exited,), timeout=EXIT_GRACE)
            unjudged = not self._started
        else:
            if retained > MAX_RETAINED:
                await self.end()
            return Verdicts(tuple(faults))
        await self.end()
        code = self.exited.result()
        if code == -signal.SIGPROF:
            return Verdicts(tuple(faults), Limit.TIME)
        killed = code in (-signal.SIGKILL, -signal.SIGTERM)
        return Verdicts(tuple(faults), Limit.BUSY if unjudged or killed else Limit.MEMORY)

    async def _line(self) -> bytes:
        """Raises EOFError when the worker has gone."""
        line = await self._stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return line

    @property
    def alive(self) -> bool:
        return not self.exited.done()

    def kill(self) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Returns when the process is gone."""
        self.kill()
        await asyncio.wait((self.exited,))


class _Job(Struct, frozen=True):
    """`question`: the line that holds `count` items."""

    question: bytes
    count: int
    verdicts: asyncio.Future[Verdicts]


class Validator:
    """See the module. `close` ends the workers, and what is asked from then on is not judged."""

    def __init__(self, workers: int = MAX_WORKERS) -> None:
        self._most = workers
        # Owners in the order of their turns.
        self._waiting: dict[str, deque[_Job]] = {}
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._working = 0
        self._closed = False
        # Called when the system has no process for a worker: whether there may be one now.
        self.make_room: Callable[[], Awaitable[bool]] | None = None

    @property
    def pids(self) -> frozenset[int]:
        """The workers that are alive."""
        return frozenset(worker.pid for worker in self._workers if worker.alive)

    async def warm(self) -> None:
        """Have a worker before it is needed."""
        await self.judge("", (Item("format", Raw(b"{}")),))

    async def check(self, owner: str, plan: Plan) -> None:
        """Raises Rejection for a plan with a schema that cannot be used, or cannot be judged."""
        verdicts = await self.judge(owner, of_plan(plan))
        if (rejected := rejection(plan, verdicts)) is not None:
            try:
                raise rejected
            finally:
                # The error has this frame, which would keep it with all that the request holds.
                del rejected

    async def unusable(self, owner: str, plan: Plan) -> frozenset[str]:
        """The paths of the plan's grammars that no text can be checked against, or not within the bounds for that."""
        asked = [grammar for _, grammar in grammars(plan)]
        verdicts = await self.judge(owner, [of_grammar(grammar) for grammar in asked])
        checked = len(verdicts.faults)
        wrong = [grammar.where for grammar, fault in zip(asked, verdicts.faults, strict=False) if fault is not None]
        return frozenset((*wrong, *(grammar.where for grammar in asked[checked:])))

    async def judge(self, owner: str, items: Sequence[Item]) -> Verdicts:
        """Never raises. `owner`: the name of the API key, whose requests wait in one line."""
        if not items:
            return Verdicts(())
        if self._closed:
            return Verdicts((), Limit.BUSY)
        # Line feeds are white space between the client's values, if there are any.
        question = msgspec.json.encode(items).replace(b"\n", b" ") + b"\n"
        job = _Job(question, len(items), asyncio.get_running_loop().create_future())
        if not self._has_room(owner):
            return Verdicts((), Limit.BUSY)
        self._waiting.setdefault(owner, deque()).append(job)
        if self._working < self._most:
            self._working += 1
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            async with asyncio.timeout(MAX_WAIT):
                return await job.verdicts
        except TimeoutError:
            return Verdicts((), Limit.BUSY)

    def _has_room(self, owner: str) -> bool:
        """Whether a question of this owner's can wait: when too many do, the last one of the longest line goes."""
        if sum(map(len, self._waiting.values())) < MAX_WAITING:
            return True
        longest = max(self._waiting.values(), key=len)
        if len(longest) <= len(self._waiting.get(owner, ())) + 1:
            return False
        last = longest.pop()
        if not last.verdicts.done():
            last.verdicts.set_result(Verdicts((), Limit.BUSY))
        return True

    def _next(self) -> _Job | None:
        """The next job that somebody still waits for, of the owner whose turn it is."""
        while self._waiting:
            owner = next(iter(self._waiting))
            jobs = self._waiting.pop(owner)
            job = jobs.popleft()
            if jobs:
                self._waiting[owner] = jobs
            if not job.verdicts.done():
                return job
        return None

    async def _work(self) -> None:
        """Judge until nothing waits."""
        try:
            while (job := self._next()) is not None:
                verdicts = await self._judged(job)
                if not job.verdicts.done():
                    job.verdicts.set_result(verdicts)
        finally:
            self._working -= 1

    async def _started(self) -> _Worker:
        """Raises OSError."""
        try:
            return await _Worker.start()
        except OSError as error:
            if error.errno not in USED_UP or self.make_room is None or not await self.make_room():
                raise
        return await _Worker.start()

    async def _judged(self, job: _Job) -> Verdicts:
        worker = self._idle.pop() if self._idle else None
        if worker is None or not worker.alive:
            try:
                worker = await self._started()
            except OSError as error:
                log.error("No process can be started to validate schemas: %s", error)
                return Verdicts((), Limit.BUSY)
            self._workers = {one for one in self._workers if one.alive} | {worker}
            if self._closed:
                worker.kill()
        verdicts = await worker.judge(job.question, job.count)
        if worker.alive:
            self._idle.append(worker)
        if verdicts.limit is not None and not self._closed:
            log.warning("A schema was not validated: %s", verdicts.limit.value)
        return verdicts

    async def close(self) -> None:
        """Ends what is under way, and returns when no worker is left."""
        self._closed = True
        while (job := self._next()) is not None:
            job.verdicts.set_result(Verdicts((), Limit.BUSY))
        for worker in self._workers:
            worker.kill()
        # Not gathered: when this is cancelled the futures that are waited for must not be.
        left = {*self._tasks, *(worker.exited for worker in self._workers)}
        if left:
            await asyncio.wait(left)
