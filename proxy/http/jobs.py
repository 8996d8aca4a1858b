"""The responses that are made in the background: those under way, and for a while those that have ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from proxy.http.accounts import Accounts
from proxy.http.edge import write_log

if TYPE_CHECKING:
    from proxy.http.background import Job

# Seconds for which the events of one that has ended can still be had, and the bytes and number of all such.
REPLAYED_FOR: Final = 600.0
MAX_REPLAYED: Final = 32 * 1024 * 1024
MAX_ENDED: Final = 1000


class Jobs:
    """See the module. `accounts`: what is told of each when it ends."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._jobs: dict[str, Job] = {}

    def find(self, owner: str, id: str) -> Job | None:
        job = self._jobs.get(id)
        return job if job is not None and job.owner == owner else None

    def start(self, job: Job, scope: dict[str, Any]) -> None:
        """Begin. `scope`: of the request that has asked for it."""
        self._jobs[job.id] = job

        def ended(task: asyncio.Task[None]) -> None:
            write_log(job.trace, scope)
            self._accounts.ended(job.trace)
            self._trim()
            asyncio.get_running_loop().call_later(REPLAYED_FOR, self._jobs.pop, job.id, None)

        job.start()
        job.task.add_done_callback(ended)

    def forget(self, job: Job) -> None:
        self._jobs.pop(job.id, None)

    async def drain(self, seconds: float) -> None:
        """Wait so long for those under way."""
        tasks = [job.task for job in self._jobs.values() if not job.task.done()]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    def _trim(self) -> None:
        ended = [job for job in self._jobs.values() if job.ended]
        size = sum(job.size for job in ended)
        while ended and (size > MAX_REPLAYED or len(ended) > MAX_ENDED):
            job = ended.pop(0)
            size -= job.size
            self.forget(job)
