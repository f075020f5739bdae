"""The contenders on a GPU. What they share: a clock of CUDA events, and the copy that is the ceiling."""

from collections.abc import Callable
from typing import Any

from bench.cases import OptimCase
from bench.timing import Sampler


class Clock:
    """Seconds on the device. A reading is an event that waits for all that was asked of the device before it.

    `event` makes one, `milliseconds` tells what lies between two.
    """

    def __init__(self, event: Callable[[], Any], milliseconds: Callable[[Any, Any], float]) -> None:
        self._event, self._milliseconds = event, milliseconds
        self._seconds, self._last = 0.0, self._record()

    def _record(self) -> Any:
        event = self._event()
        event.record()
        event.synchronize()
        return event

    def __call__(self) -> float:
        event = self._record()
        self._seconds += float(self._milliseconds(self._last, event)) / 1e3  # a float32: precise between neighbours
        self._last = event
        return self._seconds


def cupy_clock() -> Clock:
    import cupy  # noqa: PLC0415 - torch's contenders do without

    return Clock(cupy.cuda.Event, cupy.cuda.get_elapsed_time)


def copy_ceiling(case: OptimCase, clock: Clock) -> Callable[[float], float]:
    """Return the sampler of a copy on the device that moves a step's bytes: half of them read, half written."""
    import cupy  # noqa: PLC0415

    half = case.work // 2
    source, target = (cupy.zeros(half, cupy.uint8) for _ in range(2))
    names = {"source": source.data, "target": target.data, "n": half, "stream": cupy.cuda.get_current_stream()}
    return Sampler("target.copy_from_device_async(source, n, stream)", names, clock=clock).sample
