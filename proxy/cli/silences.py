"""Work that may take long, for whoever has to say meanwhile that it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any


async def with_silences(work: Coroutine[Any, Any, None], timeout: float) -> AsyncGenerator[None, None]:
    """Do the work; a value after every `timeout` seconds that it takes. When nobody asks any more it is cancelled."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        while not (await asyncio.wait((task,), timeout=timeout))[0]:
            yield
        task.result()
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            # Looked at, or else the loop complains of an error that nobody has seen.
            task.exception()
        # Its error has this frame, which would keep it with all that the request holds.
        del task
