"""The compiled module for arrays in CUDA memory. Private: its arguments are what the Python layer has already named."""

from collections.abc import Callable, Sequence
from typing import Any, final

from fusedstep._core import StepInfo
from fusedstep._device import Device

def check_driver() -> None: ...  # RuntimeError where no GPU can be used

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
