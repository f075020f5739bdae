"""What the profiler's tests share: a machine with known ceilings."""

import fusedstep
import pytest
from fusedstep.profiler import kernels
from fusedstep.profiler.figures import Rate


def machine_of(threads=2):
    """A machine of round numbers, the same everywhere: 100 GB/s from L1 on one thread, half as much from each level."""
    streams = ("read", "copy", "triad", "update")
    levels = {"L1": 100.0, "L2": 50.0, "L3": 25.0, "memory": 12.5}
    rates = {"products": 80.0, "functions": 25.0, "roots": 2.0, "norms": 5.0, "packing": 8.0}
    return fusedstep.profiler.Machine(
        cpu="a CPU",
        isa="avx2",
        threads=threads,
        caches={"L1": 1 << 15, "L2": 1 << 20, "L3": 1 << 24},
        bandwidth={level: dict.fromkeys(streams, Rate(rate, threads * rate)) for level, rate in levels.items()},
        peak={"float32": Rate(100.0, threads * 100.0), "float64": Rate(50.0, threads * 50.0)},
        region=1e-6,
        barrier=500e-9,
        calls=dict.fromkeys(kernels.CALLS, 200e-9) | {"tensor": 20e-9},
        rates={name: Rate(rate, threads * rate) for name, rate in rates.items()},
    )


@pytest.fixture
def machine():
    return machine_of()
