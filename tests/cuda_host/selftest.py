"""Runs a kernel of selftest.cu, in a process of its own without NumPy: `python selftest.py LIBRARY CALL`."""

import ctypes
import json
import sys
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_size_t, c_uint32
from dataclasses import asdict, dataclass, field


@dataclass
class Call:
    """A launch: its shape, and the sizes and first values of the arrays that it gets."""

    kernel: str
    grid: tuple[int, int, int] = (1, 1, 1)
    block: tuple[int, int, int] = (32, 1, 1)
    dynamic_bytes: int = 0
    cooperative: bool = False
    n: int = 0
    x: list[float] = field(default_factory=lambda: [0.0] * 1024)
    u: list[int] = field(default_factory=lambda: [0] * 1024)
    order: str = "forward"
    seed: int = 0
    threads: int = 1
    multiprocessors: int = 4
    patience: float = 60.0
    driver: bool = True


class LaunchError(RuntimeError):
    """What the launch threw, or CUDA's error."""


def run(path: str, call: Call) -> tuple[list[float], list[int]]:
    """Launch, and return the arrays."""
    library = ctypes.CDLL(path)
    library.cuda_host_order.restype = c_bool
    assert library.cuda_host_order(call.order.encode(), c_uint32(call.seed))
    library.cuda_host_threads(c_int(call.threads))
    library.cuda_host_multiprocessors(c_int(call.multiprocessors))
    library.cuda_host_patience(ctypes.c_double(call.patience))
    library.cuda_host_driver(c_bool(call.driver))
    x, u = (c_float * len(call.x))(*call.x), (c_uint32 * len(call.u))(*call.u)
    library.run_kernel.restype = c_char_p
    library.run_kernel.argtypes = [c_char_p, *[POINTER(c_uint32)] * 2, c_size_t, c_bool, *[ctypes.c_void_p] * 2, c_int]
    error = library.run_kernel(
        call.kernel.encode(),
        (c_uint32 * 3)(*call.grid),
        (c_uint32 * 3)(*call.block),
        call.dynamic_bytes,
        call.cooperative,
        x,
        u,
        call.n,
    )
    if error:
        raise LaunchError(error.decode())
    return list(x), list(u)


def command(path: str, call: Call) -> list[str]:
    """What runs this call in a process of its own."""
    return [sys.executable, __file__, path, json.dumps(asdict(call))]


if __name__ == "__main__":
    run(sys.argv[1], Call(**json.loads(sys.argv[2])))
