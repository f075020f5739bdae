"""fusedstep over CuPy's arrays, and its ceiling: a copy on the device that moves the same bytes."""

from collections.abc import Callable
from typing import Any

import cupy
import fusedstep

from bench.cases import AnyCase, OptimCase, RnnCase
from bench.contenders import Array
from bench.contenders import fusedstep as cpu
from bench.contenders.cuda import copy_ceiling, cupy_clock
from bench.contenders.fusedstep import Ceiling


class Contender(cpu.Contender):
    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.queue = cupy.cuda.Stream(non_blocking=True)  # the default one cannot be captured
        self.queue.use()

    def describe(self) -> dict[str, Any]:
        gpu = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
        free, _ = cupy.cuda.runtime.memGetInfo()
        major, minor = gpu["major"], gpu["minor"]
        return {
            **fusedstep.build_info(),
            "gpu": gpu["name"].decode(),
            "isa": f"sm_{major}{minor}",
            "multiprocessors": gpu["multiProcessorCount"],
            "driver": cupy.cuda.runtime.driverGetVersion(),
            "cupy": cupy.__version__,
            "free_memory": free,
        }

    def clock(self) -> Callable[[], float]:
        return cupy_clock()

    def parameter(self, values: Array) -> Any:
        return cupy.asarray(values)

    def argument(self, values: Array) -> Any:
        return cupy.asarray(values)

    def result(self, array: Any) -> Array:
        return cupy.asnumpy(array)  # type: ignore[no-any-return]

    def moved(self, module: Any) -> Any:
        return module.to("cuda")

    def optim_ceiling(self, case: OptimCase, *_: Any) -> Ceiling:
        return copy_ceiling(case, self.clock())

    def rnn_ceiling(self, case: RnnCase) -> None:
        """Return none: what bounds a step is the latency of launches and barriers, of which no loop is a measure."""

    def predict(self, case: AnyCase) -> None:  # noqa: ARG002 - docs/gpu.md has the model of a GPU
        return None

    def memory_facts(self, arrays: list[Any]) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def release(self) -> None:
        super().release()
        cupy.get_default_memory_pool().free_all_blocks()
