"""The figures of a machine, one by one: what there is, and how each is measured."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fusedstep import _core
from fusedstep.profiler import kernels

STREAMS = ("read", "copy", "triad", "update")
DTYPES = ("float32", "float64")
MEMORY = "memory"  # the level behind the caches
LEVELS = ("L1", "L2", "L3", MEMORY)

# Where a figure stands: ("bandwidth", level, stream, "one" or "all"), ("peak", dtype, "one" or "all"), ("region",),
# ("barrier",), ("calls", kind) or ("rates", part, "one" or "all").
Figure = tuple[str, ...]


class Rate(NamedTuple):
    """A rate on one thread, and on all.

    Attributes
    ----------
    one, all : float
        GB/s, GFLOP/s, or 1e9 elements a second.
    """

    one: float
    all: float


def figures() -> Iterator[Figure]:
    """Yield every figure that a machine has."""
    for count in Rate._fields:
        yield from (("bandwidth", level, stream, count) for level in LEVELS for stream in STREAMS)
        yield from (("peak", dtype, count) for dtype in DTYPES)
        yield from (("rates", part, count) for part in kernels.RATES)
    yield from (("region",), ("barrier",))
    yield from (("calls", kind) for kind in kernels.CALLS)


class Meter:
    """Measures figures on so many threads, that have so many bytes of each cache. It keeps what it has prepared."""

    def __init__(self, threads: int, caches: Mapping[str, int]) -> None:
        self.threads = threads
        # Well inside each level and well past the one before, in the middle by their logarithms: others may have half
        # of a shared L3. In memory, eight times the last, within reason.
        self._sizes = {"L1": caches["L1"] * 3 // 4}
        for before, level in (("L1", "L2"), ("L2", "L3")):
            self._sizes[level] = max(math.isqrt(caches[before] * caches[level]), 2 * caches[before])
        self._sizes[MEMORY] = min(max(8 * caches["L3"], 64 << 20), 256 << 20)
        self._probes: dict[Figure, kernels.Probe] = {}

    def measure(self, figure: Figure, seconds: float, timer: kernels.Timer = kernels.fastest) -> float:
        """Return a figure, in the units of `Machine`, of about so many seconds; calls are timed by `timer`."""
        threads = self.threads if figure[-1] == "all" else 1
        match figure:
            case ("bandwidth", level, stream, _):
                return float(_core.bandwidth(stream, self._sizes[level], seconds, threads))
            case ("peak", dtype, _):
                return float(_core.fma_peak(dtype, seconds, threads))
            case ("region" | "barrier" as name,):
                return float(getattr(_core, name)(seconds, self.threads)) if self.threads > 1 else 0.0
            case ("rates", part, "all") if part != "packing":
                # All are as many times as fast as in multiply-adds: a call of them that is short enough to be timed is
                # to a tenth or more their meeting. Packing has one, which says what else slows a thread.
                one, peak, of_all = (
                    self.measure(of, seconds / 3, timer)
                    for of in (("rates", part, "one"), ("peak", "float32", "one"), ("peak", "float32", "all"))
                )
                return one * of_all / peak
            case (_, name, *_):
                if figure not in self._probes:
                    self._probes[figure] = kernels.packing(threads) if threads > 1 else kernels.probe(name)
                return self._probes[figure].measure(seconds, timer)
            case _:
                raise KeyError(figure)
