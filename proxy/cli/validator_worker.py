"""The process that judges clients' JSON Schemas and grammars: `main` reads questions from stdin until it is closed.

A question is a line of JSON, an array of `Item`. Its answer is a line of JSON for each item as soon as it is judged
(null, or the fault as a string), then one with the memory in use, in bytes. An empty line comes before all.

Whatever a schema or a grammar does, it ends this process at most: by SIGPROF when a question has taken its time of the
processor, or when no memory or no stack is left.
"""

from __future__ import annotations

import contextlib
import resource
import signal
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from proxy.protocol import grammars
from proxy.protocol.checking import fault
from proxy.protocol.judging import Item

# Seconds of the processor for one question. An ordinary tool takes 0.01 ms, a format and its answer 0.3 ms each.
MAX_CPU: Final = 0.5
# Bytes of address space; 40 MB are in use from the start. Where the system does not keep to it (macOS), the time is
# the only bound.
MAX_MEMORY: Final = 256 << 20
_decode: Final = msgspec.json.Decoder(tuple[Item, ...]).decode


def _in_use() -> int:
    """Resident memory in bytes; where the system does not tell it, the most that it ever was."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _limit() -> None:
    for what, most in ((resource.RLIMIT_AS, MAX_MEMORY), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))


def main(questions: BinaryIO, answers: BinaryIO) -> None:
    _limit()
    answers.write(b"\n")
    answers.flush()
    while question := questions.readline():
        if b'"syntax":' in question:
            # That takes a time of its own, which is no grammar's fault.
            grammars.load()
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU)
        for item in _decode(question):
            wrong = grammars.fault(item) if item.syntax else fault(item)
            answers.write(msgspec.json.encode(wrong) + b"\n")
            answers.flush()
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(b"%d\n" % _in_use())
        answers.flush()
