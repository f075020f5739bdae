"""The compiled core. Private: its arguments are what the Python layer has already named and checked."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, final

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

class StepInfo(NamedTuple):
    norm: float | None
    applied: bool
    first_nonfinite: int | str | None

def build_info() -> dict[str, Any]: ...
def num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
def stream_from(nbytes: int) -> int: ...  # past the caches, for tests; 0: the rule. What it was
def zeros(shape: tuple[int, ...], dtype: Any) -> Array: ...
def empty(shape: tuple[int, ...], dtype: Any) -> Array: ...
def rules() -> dict[str, tuple[tuple[str, ...], int]]: ...
def cells() -> dict[str, dict[str, int]]: ...  # gates, states, saved, peepholes, norms, step (whether it has one)
def math(name: str, x: Array) -> Array: ...
def fma_peak(dtype: Any, seconds: float, threads: int = 0) -> float: ...
def region(seconds: float, threads: int) -> float: ...
def barrier(seconds: float, threads: int) -> float: ...
def bandwidth(stream: str, bytes_a_thread: int, seconds: float, threads: int) -> float: ...
def update(
    rule: str, hyper: Sequence[float], t: float, grad_scale: float, names: Sequence[str], arrays: Sequence[Array]
) -> None: ...

@final
class Plan:
    def __init__(self, keys: Sequence[str] | None, single: bool) -> None: ...
    def add_group(
        self,
        rule: str,
        hyper: Sequence[float],
        maximize: bool,
        params: Sequence[Array],
        states: Sequence[Sequence[Array]],
    ) -> None: ...
    # After the last group, with the step counts.
    def start(self, steps: Sequence[float]) -> None: ...
    def set_hyper(self, group: int, hyper: Sequence[float], maximize: bool) -> None: ...
    # step(grads, max_norm, grad_scale, check_finite, zero_grads)
    def stepper(self) -> Callable[[Any, float | None, float, bool, bool], StepInfo]: ...
    steps: list[float]

class Steps:
    _step: Callable[[Any, Any, Any, bool], Any]
    def __call__(self, x: Any, state: Any = None, *, out: Any = None, tape: bool = False) -> Any: ...

@final
class Cell:
    def __init__(self, kind: str, weights: Mapping[str, Array]) -> None: ...
    frozen: bool
    def freeze(self) -> None: ...
    def unfreeze(self) -> None: ...
    # forward(x, state, out, tape)
    def stepper(self) -> Callable[[Any, Any, Any, bool], Any]: ...

# Zoneout (of h, of c) and recurrent dropout of a layer's sweeps; their masks where they are drawn.
@final
class Noise:
    def __init__(
        self,
        recurrent: float,
        zoneout: tuple[float, float],
        drawn: bool,
        seed: int,
        stream: int,
        step: int,
        row: int,
    ) -> None: ...

# A layer's forward run, for its backward one.
@final
class Run:
    nbytes: int
    spent: bool
    whole: bool  # every row has full length
    def backward(
        self,
        dy: Array | None,
        dstate: Sequence[Array],
        dx: Array | None,
        gradients: Sequence[Mapping[str, Array]],
        add: bool,
    ) -> None: ...

@final
class Layer:
    def __init__(self, kind: str, weights: Sequence[Mapping[str, Array]]) -> None: ...
    frozen: bool
    def freeze(self, weights: str) -> None: ...
    def unfreeze(self) -> None: ...
    # tape: 0 none, 1 lean, 2 full
    def forward(
        self,
        x: Array,
        y: Array,
        state: Sequence[Array],
        out: Sequence[Array],
        lengths: Array | None,
        reset: Array | None,
        noise: Noise,
        tape: int,
    ) -> Run | None: ...  # None without a tape

@final
class Stream:
    def __init__(
        self,
        kind: str,
        layers: Sequence[Mapping[str, Array]],
        batch: int,
        threads: int,
        weights: str,
        noise: Noise,
    ) -> None: ...
    state: list[Array]
    # step(x, out)
    def stepper(self) -> Callable[[Any, Any], Any]: ...

def dropout(x: Array, y: Array, p: float, seed: int, layer: int, step: int, row: int) -> None: ...
def cell_forward(kind: str, weights: Mapping[str, Array | None], x: Any, state: Any, out: Any, tape: bool) -> Any: ...
def cell_backward(
    kind: str,
    weights: Mapping[str, Array | None],
    x: Array,
    state: Sequence[Array | None],
    out: Sequence[Array],
    saved: Array,
    dout: Sequence[Array | None],
) -> tuple[Array, tuple[Array, ...], dict[str, Array]]: ...

# Losses. Reductions: 0 none, 1 sum, 2 mean, 3 mean over the sum of the weights, 4 sum over the first dimension.
def losses() -> dict[str, str]: ...  # names, and those of their hyperparameters
def loss_elements(
    name: str,
    hyper: Sequence[float],
    x: Array,
    target: Any,
    weight: Any,
    pos_weight: Any,
    reduction: int,
    grad: Array | None,
    values: Array | None,
) -> float | None: ...
def loss_rows(
    softmax: bool,
    x: Array,
    axis: int,
    index: Array | None,
    ignore_index: int,
    probabilities: Array | None,
    weight: Array | None,
    sample_weight: Array | None,
    smoothing: float,
    z_loss: float,
    reduction: int,
    grad: Array | None,
    values: Array | None,
) -> float | None: ...

@final
class Expression:
    # code: operation, whether of the rows, slot written, slots read
    def __init__(
        self,
        code: Sequence[tuple[str, bool, int, Sequence[int]]],
        inputs: int,
        uniforms: int,
        registers: int,
        outputs_of_rows: Sequence[bool],
        by_row: bool,
    ) -> None: ...
    # outputs: None for a sum; an array to write; or with True doubles that broadcast to pred, to be added to
    def run(
        self,
        pred: Array,
        inputs: Sequence[Any],
        names: Sequence[str],
        uniforms: Sequence[float],
        outputs: Sequence[tuple[Array | None, bool]],
        grad: Array | None,
    ) -> list[float | None]: ...
    # What the profiler calls it, and the operations of an element and of a row.
    def describe(self, name: str, flops: int, row_flops: int) -> None: ...
    @property
    def description(self) -> tuple[str, int, int]: ...

# The profiler's record.
record_kinds: tuple[str, ...]

def open_record() -> tuple[int, int]: ...  # how many records there are, and how many were dropped
def close_record() -> None: ...
def records(first: int) -> tuple[Array, list[str], int]: ...  # records, the methods' names, dropped
def record(kind: str, method: str, start: int, end: int, n: Sequence[int], wide: bool) -> None: ...

# Of a call on a GPU: its dtype's place in `_record.DTYPES`, and a number in the place of its times. Whether it is kept.
def record_on_gpu(kind: str, method: str, dtype: int, options: int, n: Sequence[int], number: int) -> bool: ...
def profiling() -> bool: ...  # whether a profile is open

open_profiles: int  # the address of how many are

def now() -> int: ...  # nanoseconds
