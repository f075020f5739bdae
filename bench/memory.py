"""The memory that a step takes beyond what was there before: the high-water mark of what is resident, less its size."""

import ctypes
import gc
import resource
import sys
from pathlib import Path

from bench.cases import SequenceCase
from bench.contenders import Contender

RESET = Path("/proc/self/clear_refs")  # writing 5 lowers the high-water mark to what is resident (Linux)


def of_step(contender: Contender, case: SequenceCase) -> int:
    """Return the bytes that one step takes at its peak, results included, in a process that has run nothing else.

    A small case goes first, so that libraries are loaded and threads there.
    """
    for chosen in (case.small(), case):
        contender.release()
        step = contender.prepare(chosen)
        before = baseline()
        exec(step.statement, step.names)  # noqa: S102
    return highest() - before


def baseline() -> int:
    """Return the resident bytes, after giving back what is free."""
    gc.collect()
    if not RESET.exists():
        return highest()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # a step would use it again, unseen
        trim(0)
    RESET.write_text("5")
    return status("VmRSS")


def highest() -> int:
    """Return the high-water mark, where it can be lowered since then, otherwise since the process began."""
    if RESET.exists():
        return status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
