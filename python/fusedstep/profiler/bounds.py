"""The ceiling that binds a call: the roofline, and the fixed cost of a call beside it."""

from typing import NamedTuple

from fusedstep.profiler.ceilings import Machine
from fusedstep.profiler.figures import MEMORY, Rate
from fusedstep.profiler.work import Work

BANDWIDTH, COMPUTE, OVERHEAD = "bandwidth-bound", "compute-bound", "overhead-bound"
HELD = 7 / 8  # of a cache, by one call's arrays: the stack, code and arguments lie there too
INT8_PRODUCTS = 4  # of int8 in the place of one of float32
CALL_OF = {"cell_backward": "cell", "loss_rows": "loss", "custom_loss": "loss"}  # calls that cost about the same


class Bounds(NamedTuple):
    """What a call would take at the machine's ceilings.

    Attributes
    ----------
    moving, computing, fixed : float
        Seconds of its bytes at the bandwidth of the level where its arrays fit, of its FLOPs at the peak, and of the
        smallest call of its kind on as many threads.
    level : str
        That level.
    """

    moving: float
    computing: float
    fixed: float
    level: str

    @property
    def seconds(self) -> float:
        """At the ceiling that binds: the larger one."""
        return max(self.moving, self.computing)

    @property
    def verdict(self) -> str:
        """Which one binds; overhead where the work takes less than the fixed cost."""
        if self.seconds < self.fixed:
            return OVERHEAD
        return BANDWIDTH if self.moving >= self.computing else COMPUTE


def on_threads(rate: Rate, threads: int, machine: Machine) -> float:
    """Return a rate on so many threads: between one and all, a straight line."""
    if machine.threads == 1:
        return rate.one
    share = (min(threads, machine.threads) - 1) / (machine.threads - 1)
    return rate.one + share * (rate.all - rate.one)


def level_of(resident: float, threads: int, machine: Machine) -> str:
    """Return the smallest cache that holds so many bytes beside others, shared out over the threads; or memory."""
    return next((level for level, size in machine.caches.items() if resident / threads <= HELD * size), MEMORY)


def bandwidth(level: str, threads: int, machine: Machine) -> float:
    """Return the bytes a second from a level: of the fastest stream there."""
    return max(on_threads(rate, threads, machine) for rate in machine.bandwidth[level].values()) * 1e9


def bounds_of(work: Work, machine: Machine) -> Bounds:
    """Set a call against the ceilings.

    Weights that each step needs again come from the level that holds them; all other bytes from the one that holds all
    of the call's arrays.
    """
    threads = work.threads
    level, near = level_of(work.resident, threads, machine), level_of(work.weights, threads, machine)
    weights = min(work.weights_moved, work.cost.bytes)
    moving = weights / bandwidth(near, threads, machine)
    moving += (work.cost.bytes - weights) / bandwidth(level, threads, machine)
    peak = on_threads(machine.peak[work.dtype], threads, machine) * 1e9
    if "int8" in work.options:
        peak *= INT8_PRODUCTS
    fixed = machine.calls.get(CALL_OF.get(work.kind, work.kind), machine.calls["optimizer"])
    fixed += machine.region * (threads > 1)
    return Bounds(moving, work.cost.flops / peak, fixed, near if 2 * weights > work.cost.bytes else level)
