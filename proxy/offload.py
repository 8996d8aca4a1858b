"""Work on large values, in a thread: the event loop goes on serving others meanwhile.

One thread for each owner, and two for all: a call that does not let go of the interpreter keeps the loop waiting for as
long as it takes, and several of them for as long as they take together.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Final, Literal, ParamSpec, TypeVar, get_args

from proxy.fair_line import FairLine, Threads

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")
# In bytes or characters. What is smaller is done in a few milliseconds, for which a thread is not worth its while.
LARGE: Final = 256 * 1024
# Seconds after which a thread that computes lets another one go on.
SWITCH: Final = 0.0005


# From so many on what has not been accepted yet is to be turned away: each holds on to its value.
MAX_IN_LINE: Final = 64
# Whose request it is that a task works for: owners take turns.
OWNER: Final[ContextVar[str]] = ContextVar("OWNER", default="")
_large: Final = FairLine(2, 1, MAX_IN_LINE, "large")
# For what may take long, or may not: who asks for little does not stand behind large values.
_unsure: Final = FairLine(4, 2, MAX_IN_LINE, "unsure")
# For what waits for a file that another program holds, or for the lock behind that: nothing else stands behind it.
File = Literal["store", "answers", "usage"]
_FILES: Final = {name: Threads(4, thread_name_prefix=name) for name in get_args(File)}


def start() -> None:
    """Have a thread of each kind, also of the running loop's own, before the system may have none to give."""
    usual = Threads(thread_name_prefix="usual")
    asyncio.get_running_loop().set_default_executor(usual)
    for threads in (_large.threads, _unsure.threads, *_FILES.values(), usual):
        threads.submit(int)


def give_way_quickly() -> None:
    """Have threads that compute let the event loop go on ten times as soon as Python has them do by itself: the loop
    waits for them at each call to the system, of which a burst of requests takes thousands."""
    sys.setswitchinterval(SWITCH)


def overdone(size: int) -> bool:
    """Whether there is too much to do for a new value of this size, of the owner whom this task works for."""
    return size >= LARGE and _large.full(OWNER.get())


async def off_loop(size: int, work: Callable[_Args, _Result], *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
    """What `work` gives for a value of this size. It must be pure: it may run in another thread, and then to its end
    even when nobody waits for it any more."""
    if size < LARGE:
        return work(*args, **kwargs)
    return await _large.run(OWNER.get(), partial(work, *args, **kwargs))


async def in_thread(work: Callable[_Args, _Result], *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
    """What `work` gives, of which nobody knows how long it takes. As for `off_loop`, it must be pure."""
    return await _unsure.run(OWNER.get(), partial(work, *args, **kwargs))


async def in_file(file: File, work: Callable[_Args, _Result], *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
    """What `work` gives, which reads or writes that file, in one of the file's own threads."""
    return await asyncio.get_running_loop().run_in_executor(_FILES[file], partial(work, *args, **kwargs))
