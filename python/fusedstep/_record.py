"""The profiler's record: its options, and calls on a GPU.

A GPU comes to a call after the call has returned. So CUDA events stand before and after its work on the stream, and
what they tell is asked for when the profile is read; nothing waits before. A record of the compiled core
(csrc/python/record.h) has a number in the place of its times until then.
"""

import itertools
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fusedstep import _core
from fusedstep._array import Array

if TYPE_CHECKING:
    from fusedstep._device import Device

# The options of csrc/python/record.h.
NORM, ZERO, SKIPPED, MORE, MASTER = (1 << i for i in range(16, 21))
FROZEN, TAPE, LEAN, BIAS, DX, DY, ADD = (1 << i for i in range(7))
GRAD, VALUES, WEIGHT, PROBABILITIES, SMOOTHING, Z_LOSS = (1 << i for i in range(16, 22))
STORAGE = 8  # where its two bits begin

DTYPES = ("float32", "float64", "float16", "bfloat16")  # by their numbers in a record

# Whose call a record is, where it ran on a GPU: no Python thread's, but a stream's.
ON_GPU, GPU, STREAM = 1 << 63, 32, 0xFFFFFFFF  # a bit; from which on is the GPU's number; the stream's number


def flags(**bits: bool) -> int:
    """Give the options of these names that are true, of cells and sequences."""
    known = {"frozen": FROZEN, "tape": TAPE, "lean": LEAN, "bias": BIAS, "dx": DX, "dy": DY, "add": ADD}
    return sum(known[name] for name, is_set in bits.items() if is_set)


def track_name(thread: int) -> str | None:
    """Name a record's thread where it is a GPU's stream."""
    if not thread & ON_GPU:
        return None
    return f"GPU {(thread & ~ON_GPU) >> GPU}, stream {thread & STREAM}"


class Timed(NamedTuple):
    """A call's events, and its number."""

    begin: Any
    end: Any
    number: int
    track: int


class Clock:
    """The events of one GPU: those whose work may not be done yet, and what the others told."""

    def __init__(self, device: "Device") -> None:
        cuda = device.cupy.cuda
        self._cuda = cuda
        self._number = device.number
        self._free: list[Any] = []
        self._pending: deque[Timed] = deque()
        self._streams: dict[int, int] = {}
        self.times: dict[int, tuple[int, int, int]] = {}  # start, end and track of calls that are done, by number
        self._lock = threading.Lock()
        # On a stream that has nothing to do, it comes at once: when was that?
        self._own = cuda.Stream(non_blocking=True)
        self._base = cuda.Event()
        self._base.record(self._own)
        self._start = _core.now()

    def mark(self) -> Any:
        """Put an event on the current stream."""
        with self._lock:
            event = self._free.pop() if self._free else self._cuda.Event()
        event.record()
        return event

    def keep(self, begin: Any, end: Any, number: int, stream: int) -> None:
        """Keep a call's events; those of calls that are done are used again."""
        with self._lock:
            ordinal = self._streams.setdefault(stream, len(self._streams))
            self._pending.append(Timed(begin, end, number, ON_GPU | self._number << GPU | ordinal))
            while self._pending and self._pending[0].end.done and self._base.done:
                self._read(self._pending.popleft())

    def wait(self) -> None:
        """Read all events."""
        with self._lock:
            if self._pending:
                self._base.synchronize()
            while self._pending:
                self._pending[0].end.synchronize()
                self._read(self._pending.popleft())

    def _read(self, call: Timed) -> None:
        elapsed = self._cuda.get_elapsed_time  # in ms, to half a µs
        start = self._start + round(elapsed(self._base, call.begin) * 1e6)
        self.times[call.number] = start, start + round(elapsed(call.begin, call.end) * 1e6), call.track
        self._free += [call.begin, call.end]


_clocks: dict[int, Clock] = {}
_numbers = itertools.count()


class Recording:
    """A call on a GPU from here on. One that fails is not recorded."""

    __slots__ = ("_begin", "_clock", "_number", "_stream")

    def __init__(self, device: "Device", stream: int) -> None:
        clock = _clocks.get(device.number)
        self._clock = clock or _clocks.setdefault(device.number, Clock(device))
        self._stream = stream
        self._begin = self._clock.mark()
        self._number = -1

    def add(self, kind: str, method: str, dtype: Any, options: int, n: Sequence[int]) -> None:
        """Record its end, as what it was; once more, as what it was besides."""
        first = self._number < 0
        if first:
            end, self._number = self._clock.mark(), next(_numbers)
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
        kept = _core.record_on_gpu(kind, method, DTYPES.index(name), options, n, self._number)
        if first and kept:
            self._clock.keep(self._begin, end, self._number, self._stream)


def begin(device: "Device") -> Recording | None:
    """Begin to record a call; None while no profile is open, and where the stream is captured into a graph."""
    if not _core.profiling():
        return None
    stream = device.launch_stream()
    return None if device.core.is_captured(stream) else Recording(device, stream)


def timed(rows: Array) -> Array:
    """Give records their times and tracks in the place of numbers; waits for the GPU where there are such."""
    on_gpu = np.flatnonzero(rows["threads"] == 0)
    if not on_gpu.size:
        return rows
    known: dict[int, tuple[int, int, int]] = {}
    for clock in list(_clocks.values()):
        clock.wait()
        known |= clock.times
    lost = []  # of a profile that was closed meanwhile
    for i in map(int, on_gpu):
        times = known.get(int(rows["start"][i]))
        if times is None:
            lost.append(i)
        else:
            rows["start"][i], rows["end"][i], rows["thread"][i] = times
    kept: Array = np.delete(rows, lost)
    return kept


def forget() -> None:
    """Drop all times, where no profile is open."""
    if not _core.profiling():
        _clocks.clear()
