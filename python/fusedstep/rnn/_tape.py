"""A sequence's layout in the caller's arrays, the masks of a run, and the tape that it leaves."""

from typing import TYPE_CHECKING, Any, NamedTuple

from fusedstep import _core
from fusedstep._array import Array

if TYPE_CHECKING:
    from fusedstep.rnn._module import Module

TAPES = {"lean": 1, "full": 2}


def kept_as(tape: Any) -> int:
    """Check and return how much a tape keeps."""
    if not isinstance(tape, str) or tape not in TAPES:
        raise ValueError(f"tape: expected 'full' or 'lean', got {tape!r}")
    return TAPES[tape]


class Masks(NamedTuple):
    """Whether a run draws masks, and dropout between layers; their seed, and the numbers of its first step and row."""

    drawn: bool = False
    dropout: float = 0.0
    seed: int = 0
    step: int = 0
    row: int = 0


class SequenceTape:
    """What a module's `forward` leaves for its `backward`, which spends it.

    It refers to the module's weights, the input, the output and the initial state: change none of them in between.

    Attributes
    ----------
    nbytes : int
        Bytes of the arrays that the tape alone holds.
    spent : bool
        Whether a backward call has used it.
    """

    __slots__ = ("_between", "_ends", "_form", "_masks", "_module", "_runs")

    def __init__(
        self,
        module: "Module",
        ends: dict[str, Array],
        runs: list[_core.Run],
        between: list[Array],
        masks: Masks,
        form: "Form",
    ) -> None:
        self._module = module
        self._ends = ends  # x and y
        self._runs = runs
        self._between = between  # what the layers hand on: outputs and, with dropout, what was left of them
        self._masks = masks
        self._form = form

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that the tape alone holds."""
        return sum(run.nbytes for run in self._runs) + sum(array.nbytes for array in self._between)

    @property
    def spent(self) -> bool:
        """Whether a backward call has used it."""
        return any(run.spent for run in self._runs)


class Form:
    """The layout that a caller's arrays have, and the one that the engine takes: (T, B, n)."""

    __slots__ = ("B", "T", "batch_first", "batched")

    def __init__(self, x: Array, inputs: int, batch_first: bool) -> None:
        if x.ndim not in (2, 3) or x.shape[-1] != inputs:
            batched = f"(batch, time, {inputs})" if batch_first else f"(time, batch, {inputs})"
            raise ValueError(f"x: expected shape {batched} or (time, {inputs}), got {x.shape}")
        self.batched = x.ndim == 3
        self.batch_first = batch_first and self.batched
        self.T, self.B = self.inward(x).shape[:2]

    def shape(self, *after: int) -> tuple[int, ...]:
        """Return the caller's shape of an array over time and batch."""
        if not self.batched:
            return (self.T, *after)
        return (self.B, self.T, *after) if self.batch_first else (self.T, self.B, *after)

    def inward(self, array: Array) -> Array:
        """View as (T, B, …)."""
        if not self.batched:
            return array[:, None]
        return array.swapaxes(0, 1) if self.batch_first else array

    def state_shape(self, states: int, hidden: int) -> tuple[int, ...]:
        """Return the caller's shape of a state."""
        return (states, self.B, hidden) if self.batched else (states, hidden)
