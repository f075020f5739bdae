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
def zeros(shape: tuple[int, ...], dtype: Any) -> Array: ...
def rules() -> dict[str, tuple[tuple[str, ...], int]]: ...
def cells() -> dict[str, dict[str, int]]: ...
def math(name: str, x: Array) -> Array: ...
def fma_peak(dtype: Any, seconds: float) -> float: ...
def set_view(view: Callable[[object, str], Array]) -> None: ...
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
    def set_hyper(self, group: int, hyper: Sequence[float], maximize: bool) -> None: ...
    def step(
        self,
        grads: Any,
        max_norm: float | None,
        grad_scale: float,
        check_finite: bool,
        zero_grads: bool,
        /,
    ) -> StepInfo: ...
    steps: list[float]

@final
class Cell:
    def __init__(self, kind: str, weights: Mapping[str, Array]) -> None: ...
    frozen: bool
    def freeze(self) -> None: ...
    def unfreeze(self) -> None: ...
    def forward(self, x: Any, state: Any, out: Any, tape: bool, /) -> Any: ...

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
