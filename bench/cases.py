"""What a case is: what is timed, the bytes or operations it takes, who takes part, and what fusedstep should reach."""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from fusedstep import _core
from fusedstep.optim._cost import step_cost
from fusedstep.rnn._cost import Sizes

Shape = tuple[int, ...]
PYTHON_ELEMENTS = 10_000  # pure Python is timed on no more than this, and scaled


@dataclass(frozen=True)
class Case:
    """One row of the tables.

    `targets` holds the largest time to reach, relative to a peer, the ceiling or the roofline, or, under "seconds",
    absolute.
    """

    method: str
    peers: tuple[str, ...]
    _: KW_ONLY
    targets: Mapping[str, float] = field(default_factory=dict)
    every: bool = False  # whether every target counts; otherwise one is enough
    pace: float = 0.0  # seconds from the start of a step to that of the next, asleep between them; 0: at once
    threads: int = 0  # that fusedstep takes, where they are not those of the run
    full: bool = False  # only with --full
    full_peers: tuple[str, ...] = ()  # those that join with --full


@dataclass(frozen=True)
class OptimCase(Case):
    shapes: tuple[Shape, ...] = ()
    note: str = ""  # in words, where they differ
    max_norm: float | None = None
    check_finite: bool = False
    zero_grads: bool = False

    group = table = "optim"
    unit = "GB/s"

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    @property
    def rule(self) -> str:
        """The compiled one."""
        return "adam" if self.method == "adamw" else self.method

    @property
    def states(self) -> int:
        return _core.rules()[self.rule][1]

    @property
    def norm_pass(self) -> bool:
        return self.max_norm is not None or self.check_finite

    @property
    def work(self) -> int:
        """Bytes a step moves: gradient read, parameter and states read and written, and what the options add."""
        return step_cost(self.rule, sum(self.sizes), 4, frozenset(), norm=self.norm_pass, zero=self.zero_grads).bytes

    @property
    def memory(self) -> int:
        """Bytes of a contender's arrays."""
        return 4 * sum(self.sizes) * (2 + self.states)

    @property
    def overhead(self) -> bool:
        """Whether the time of the call, not of the work, is what counts."""
        return max(self.sizes) == 1

    @property
    def name(self) -> str:
        method = {"adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop", "adagrad": "Adagrad"}[self.method]
        count, first = len(self.shapes), self.sizes[0]
        size = self.note or (f"{first:,}" if count == 1 else f"{count:,} of {first:,}")
        options = ["clip"] * (self.max_norm is not None) + ["check"] * self.check_finite + ["zero"] * self.zero_grads
        return f"{method}, {size}{', ' * bool(options)}{' + '.join(options)}"

    def small(self) -> "OptimCase":
        """Return the case for --smoke: the same number of tensors, shrunk until it takes no time."""
        limit = 5000 if len(self.shapes) == 1 else 16
        return replace(self, shapes=tuple(tuple(min(d, limit) for d in s) for s in self.shapes), targets={})

    def for_python(self) -> "OptimCase":
        """Return one array of a size that pure Python can finish."""
        return replace(self, shapes=((min(sum(self.sizes), PYTHON_ELEMENTS),),))


@dataclass(frozen=True)
class RnnCase(Case):
    batch: int = 1
    size: int = 1  # input and hidden

    group = "rnn"
    unit = "GFLOP/s"
    memory = 0
    overhead = False

    @property
    def gates(self) -> int:
        return self.sizes.gates

    @property
    def states(self) -> int:
        return self.sizes.states

    @property
    def sizes(self) -> Sizes:
        """The layer, as costs are computed of it."""
        return Sizes(self.method, self.size, self.size, self.size)

    @property
    def row(self) -> int:
        """Operations of the two products of a step, for one row."""
        return self.sizes.product_flops


@dataclass(frozen=True)
class CellCase(RnnCase):
    frozen: bool = True

    table = "cells"

    @property
    def work(self) -> int:
        return self.batch * self.row

    @property
    def overhead(self) -> bool:
        return self.size == 1

    @property
    def name(self) -> str:
        return f"{self.method.upper()}, B={self.batch} I=H={self.size}, {'frozen' if self.frozen else 'unfrozen'}"

    def small(self) -> "CellCase":
        """Return the case for --smoke."""
        return replace(self, batch=min(self.batch, 5), size=min(self.size, 19), targets={})

    def for_python(self) -> "CellCase":
        """Return one row: pure Python is linear in the batch."""
        return replace(self, batch=1)


# What modules may do beside the plain cell, by the arguments that ask for it.
OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "layer norm": {"layer_norm": True},
    "recurrent dropout": {"recurrent_dropout": 0.25},
    "zoneout": {"zoneout": 0.1},
}


@dataclass(frozen=True)
class SequenceCase(RnnCase):
    """All time steps in one call, forward or forward and backward."""

    steps: int = 1
    frozen: bool = True
    varied: bool = False  # every second row is half as long
    option: str = ""  # of the modules, one of OPTIONS
    taped: bool = False  # forward alone, as training runs it: with masks and a tape
    backward: bool = False

    table = "sequences"

    @property
    def lengths(self) -> list[int]:
        """Time steps of each row."""
        return [self.steps // 2 if self.varied and i % 2 else self.steps for i in range(self.batch)]

    @property
    def work(self) -> int:
        """Operations of the products; backward has two for each of forward's."""
        return sum(self.lengths) * self.row * (3 if self.backward else 1)

    @property
    def memory(self) -> int:
        """Bytes of input, output and weights, and of a tape or of as many gates."""
        return 4 * self.size * (self.steps * self.batch * (3 + self.gates) + 2 * self.gates * self.size)

    @property
    def name(self) -> str:
        how = "forward + backward" if self.backward else "frozen" if self.frozen else "unfrozen"
        how += ", lengths vary" * self.varied + ", taped" * self.taped + f", {self.option}" * bool(self.option)
        return f"{self.method.upper()}, T={self.steps} B={self.batch} I=H={self.size}, {how}"

    def small(self) -> "SequenceCase":
        """Return the case for --smoke."""
        return replace(self, steps=min(self.steps, 4), batch=min(self.batch, 5), size=min(self.size, 19), targets={})

    def for_python(self) -> "SequenceCase":
        """Return two steps of one row: pure Python is linear in both."""
        return replace(self, steps=min(self.steps, 2), batch=1)


@dataclass(frozen=True)
class StreamCase(RnnCase):
    """One time step a call, of a state that stays with the contender."""

    weights: str = "float32"  # how fusedstep packs them

    table = "streams"

    @property
    def work(self) -> int:
        return self.batch * self.row

    @property
    def name(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        pace = f", {1e-3 / self.pace:g} kHz" if self.pace else ""
        weights = "" if self.weights == "float32" else f", {self.weights} weights"
        return f"{self.method.upper()}, B={self.batch} I=H={self.size}, {threads}{pace}{weights}"

    def small(self) -> "StreamCase":
        """Return the case for --smoke."""
        return replace(self, size=min(self.size, 19), targets={})


@dataclass(frozen=True)
class LossCase(Case):
    """Value and gradient of a mean, in one call. `method` is a loss of fusedstep's, or one of `losses.CUSTOM`."""

    shape: Shape = ()

    group = "loss"
    table = "losses"
    unit = "GB/s"
    overhead = False

    @property
    def classes(self) -> bool:
        """Whether the targets are classes of rows."""
        return self.method == "cross_entropy"

    @property
    def work(self) -> int:
        """Bytes of the input and the gradient, and of targets that are as large."""
        return 4 * math.prod(self.shape) * (2 if self.classes else 3)

    @property
    def memory(self) -> int:
        return 2 * self.work  # torch keeps what backward needs

    @property
    def name(self) -> str:
        size = ", ".join(f"{n:,}" if len(self.shape) == 1 else str(n) for n in self.shape)
        return f"{self.method}, {size}" if len(self.shape) == 1 else f"{self.method}, ({size})"

    def small(self) -> "LossCase":
        """Return the case for --smoke."""
        return replace(self, shape=tuple(min(n, 300) for n in self.shape), targets={})


AnyCase = OptimCase | CellCase | SequenceCase | StreamCase | LossCase
