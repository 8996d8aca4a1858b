"""Work on large values, in a thread: the event loop goes on serving others meanwhile.

One thread for all of it: a call that does not let go of the interpreter keeps the loop waiting for as long as it takes,
and several of them for as long as they take together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Literal, ParamSpec, TypeVar

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")
# In bytes or characters. What is smaller is done in a few milliseconds, for which a thread is not worth its while.
LARGE: Final = 256 * 1024
_thread: Final = ThreadPoolExecutor(1, thread_name_prefix="large")
# For what waits for a file that another program holds, or for the lock behind that: nothing else stands behind it.
_FILES: Final = {name: ThreadPoolExecutor(4, thread_name_prefix=name) for name in ("store", "answers")}


async def off_loop(size: int, work: Callable[_Args, _Result], *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
    """What `work` gives for a value of this size. It must be pure: it may run in another thread, and then to its end
    even when nobody waits for it any more."""
    if size < LARGE:
        return work(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_thread, partial(work, *args, **kwargs))


async def in_file(
    file: Literal["store", "answers"], work: Callable[_Args, _Result], *args: _Args.args, **kwargs: _Args.kwargs
) -> _Result:
    """What `work` gives, which reads or writes that file, in one of the file's own threads."""
    return await asyncio.get_running_loop().run_in_executor(_FILES[file], partial(work, *args, **kwargs))
