"""The compiled module for arrays in CUDA memory. Private: its arguments are what the Python layer has already named."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final, overload

from fusedstep._core import StepInfo
from fusedstep._device import Device

def check_driver() -> None: ...  # RuntimeError where no GPU can be used
def use_gpu(number: int) -> None: ...  # for this thread's launches: the module's runtime is not CuPy's
def is_captured(stream: int) -> bool: ...  # into a graph

# Checks an array that is to be updated, called `name` in errors. Returns its address, shape and dtype's name.
def parameter(array: Any, name: str, device: Device) -> tuple[int, tuple[int, ...], str]: ...

# As _core.update.
def update(
    device: Device,
    rule: str,
    hyper: Sequence[float],
    t: float,
    grad_scale: float,
    names: Sequence[str],
    arrays: Sequence[Any],
) -> None: ...

# As _core.Plan. The states of a half-precision parameter are float32, and may be followed by a float32 copy of it.
@final
class Plan:
    def __init__(self, keys: Sequence[str] | None, single: bool, device: Device) -> None: ...
    def add_group(
        self,
        rule: str,
        hyper: Sequence[float],
        maximize: bool,
        params: Sequence[Any],
        states: Sequence[Sequence[Any]],
    ) -> None: ...
    # After the last group, with the step counts: allocates all that steps need.
    def start(self, steps: Sequence[float]) -> None: ...
    def set_hyper(self, group: int, hyper: Sequence[float], maximize: bool) -> None: ...
    def stepper(self) -> Callable[[Any, float | None, float, bool, bool], StepInfo]: ...
    steps: list[float]

# Memory (address, bytes) that is not to be written by this module, for as long as the object lives.
@final
class Frozen:
    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None: ...

# A direction of a layer; arrays by the names of csrc/cuda/recurrence.h. `step` is the number of a step as it is taken,
# `stream` an address.
@final
class Sweep:
    @overload
    def __init__(
        self,
        kind: str,
        T: int,
        steps: int,
        B: int,
        H: int,
        reverse: bool,
        arrays: Mapping[str, Any],
    ) -> None: ...
    # One step of a cell: addresses of arrays whose shapes are checked.
    @overload
    def __init__(self, kind: str, single: bool, B: int, H: int, addresses: Mapping[str, int]) -> None: ...
    def begin(self, stream: int) -> None: ...
    def reset_stage(self, step: int, stream: int) -> None: ...
    def forward(self, step: int, stream: int) -> None: ...
    def backward(self, step: int, stream: int) -> None: ...
    def reset_backward(self, step: int, stream: int) -> None: ...
    def finish(self, stream: int) -> None: ...

# gates, states, values (of a tape), state_gates, separate, peepholes: (gate, whether it sees c') for each
def recurrent_cells() -> dict[str, dict[str, Any]]: ...

arrivals: int  # zeros (uint32) that a persistent sweep counts with

# device: (multiprocessors, bytes of shared memory) in the place of the current one's
def persistent_fits(
    kind: str, single: bool, B: int, H: int, sweeps: int, backward: bool, device: tuple[int, int] | None
) -> bool: ...
def persistent_sweep(
    sweeps: Sequence[Sweep], backward: bool, arrived: Any, stream: int, device: tuple[int, int] | None
) -> None: ...
def sums_size(rows: int, columns: int) -> int: ...  # doubles
def column_sums(a: Any, b: Any, to: Sequence[Any], add: bool, room: Any, stream: int) -> None: ...
def dropout(x: Any, y: Any, p: float, seed: int, layer: int, step: int, row: int, stream: int) -> None: ...

# noise: the fields of `_core.Noise`; mask (B, H), stays (steps, B, H) uint8
def recurrent_mask(
    noise: tuple[float, tuple[float, float], bool, int, int, int, int], mask: Any, stream: int
) -> None: ...
def zoneout_mask(
    noise: tuple[float, tuple[float, float], bool, int, int, int, int], stays: Any, stream: int
) -> None: ...
def copy_rows(x: Any, y: Any, lengths: Any, stream: int) -> None: ...

# The steps first, first+1, … of a sweep of `steps`, as it takes them: from x (T, B, n) to a compact array, or back.
def take_steps(x: Any, compact: Any, lengths: Any, steps: int, first: int, reverse: bool, stream: int) -> None: ...
def give_steps(
    x: Any, compact: Any, lengths: Any, steps: int, first: int, reverse: bool, add: bool, stream: int
) -> None: ...

# x (rows, n) as codes and scales, products of codes times their scales: csrc/cuda/quantize.cuh.
def quantize(x: Any, codes: Any, scales: Any, stream: int) -> None: ...
def scale(products: Any, of_rows: Any, of_columns: Any, stream: int) -> None: ...
def add(to: Any, array: Any, stream: int) -> None: ...
