"""The cases: what is timed, the bytes or operations it takes, who takes part, and what fusedstep should reach."""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace

from fusedstep import _core

Shape = tuple[int, ...]
PYTHON_ELEMENTS = 10_000  # pure Python is timed on no more than this, and scaled


@dataclass(frozen=True)
class Case:
    """One row of the tables.

    `targets` holds the largest time to reach, relative to a peer or to the ceiling, or, under "seconds", absolute.
    Where there are several, one is enough.
    """

    method: str
    peers: tuple[str, ...]
    _: KW_ONLY
    targets: Mapping[str, float] = field(default_factory=dict)
    full: bool = False  # only with --full
    full_peers: tuple[str, ...] = ()  # those that join with --full


@dataclass(frozen=True)
class OptimCase(Case):
    shapes: tuple[Shape, ...] = ()
    note: str = ""  # in words, where they differ
    max_norm: float | None = None
    check_finite: bool = False
    zero_grads: bool = False

    group = "optim"
    unit = "GB/s"

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    @property
    def states(self) -> int:
        return _core.rules()["adam" if self.method == "adamw" else self.method][1]

    @property
    def norm_pass(self) -> bool:
        return self.max_norm is not None or self.check_finite

    @property
    def work(self) -> int:
        """Bytes a step moves: gradient read, parameter and states read and written, and what the options add."""
        return 4 * sum(self.sizes) * (3 + 2 * self.states + self.norm_pass + self.zero_grads)

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
class CellCase(Case):
    batch: int = 1
    size: int = 1  # input and hidden
    frozen: bool = True

    group = "rnn"
    unit = "GFLOP/s"
    memory = 0

    @property
    def gates(self) -> int:
        return _core.cells()[self.method]["gates"]

    @property
    def work(self) -> int:
        """Operations of the two products."""
        return 2 * self.batch * self.gates * self.size * 2 * self.size

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


def gpt2() -> tuple[Shape, ...]:
    """Return the shapes of GPT-2's 148 parameters, 124,439,808 elements (Radford et al. 2019)."""
    block: tuple[Shape, ...] = (
        *((768,), (768,)),  # ln_1
        *((768, 2304), (2304,), (768, 768), (768,)),  # attn
        *((768,), (768,)),  # ln_2
        *((768, 3072), (3072,), (3072, 768), (768,)),  # mlp
    )
    return ((50257, 768), (1024, 768), *block * 12, (768,), (768,))


ARRAY_PEERS = ("pure", "numpy", "torch", "optax")
CELL_PEERS = ("pure", "numpy", "torch", "onnxruntime")
GPT2_NOTE = "GPT-2's 148"
MILLION = ((1_048_576,),)
LARGE = ((25_000_000,),)

OPTIM = (
    OptimCase("adam", ("pure", "numpy", "torch", "thinc", "optax"), shapes=((1,),), targets={"seconds": 1e-6}),
    OptimCase("adam", ("torch",), shapes=((1,),) * 1000, targets={"seconds": 41e-6}),
    OptimCase("adam", (*ARRAY_PEERS, "thinc"), shapes=((262_144,),), targets={"torch": 0.5}),
    OptimCase("adam", (*ARRAY_PEERS, "thinc"), shapes=MILLION, targets={"torch": 0.65}),
    OptimCase("adam", ("torch",), shapes=MILLION, check_finite=True, targets={"torch": 0.85}),
    OptimCase("adam", (*ARRAY_PEERS, "thinc"), shapes=LARGE, targets={"ceiling": 1.05}),
    OptimCase("adamw", ("numpy", "torch"), shapes=((256,),) * 1000, targets={"torch": 1 / 25}),
    OptimCase("adamw", ("numpy", "torch"), shapes=gpt2(), note=GPT2_NOTE, full_peers=("optax",)),
    OptimCase(
        "adamw", ("torch",), shapes=gpt2(), note=GPT2_NOTE, max_norm=1.0, zero_grads=True, targets={"torch": 0.7}
    ),
    OptimCase(
        "rmsprop",
        ("torch",),
        shapes=gpt2(),
        note=GPT2_NOTE,
        full_peers=("numpy", "optax"),
        targets={"torch": 1 / 3},
    ),
    OptimCase("rmsprop", ARRAY_PEERS, shapes=MILLION),
    OptimCase("adagrad", ARRAY_PEERS, shapes=MILLION),
    OptimCase("rmsprop", ARRAY_PEERS, shapes=LARGE, full=True),
    OptimCase("adagrad", ARRAY_PEERS, shapes=LARGE, full=True),
    OptimCase("adagrad", ("torch",), shapes=gpt2(), note=GPT2_NOTE, full=True),
)

RNN = (
    CellCase("lstm", CELL_PEERS, size=1, targets={"seconds": 1e-6}),
    CellCase("lstm", CELL_PEERS, size=64, targets={"onnxruntime": 0.2, "seconds": 1.8e-6}),
    CellCase("lstm", CELL_PEERS, size=256, targets={"onnxruntime": 0.5}),
    CellCase("lstm", CELL_PEERS, size=512),
    *(CellCase("lstm", ("torch",), size=size, frozen=False, targets={"torch": 1.0}) for size in (64, 256, 512)),
    CellCase("lstm", CELL_PEERS, batch=64, size=512, targets={"ceiling": 1 / 0.85}),
    CellCase("lstm", ("torch",), batch=64, size=512, frozen=False, targets={"ceiling": 1 / 0.65}),
    CellCase("gru", CELL_PEERS, size=64),
    CellCase("gru", CELL_PEERS, size=256),
    *(CellCase("gru", ("torch",), size=size, frozen=False, targets={"torch": 1.0}) for size in (64, 256)),
    CellCase("gru", CELL_PEERS, batch=64, size=512, targets={"ceiling": 1 / 0.85}),
    CellCase("gru", ("torch",), batch=64, size=512, frozen=False, targets={"ceiling": 1 / 0.65}),
    *(CellCase(m, CELL_PEERS, batch=b, size=n, full=True) for m in ("lstm", "gru") for b, n in ((8, 256), (256, 1024))),
)


def select(only: str | None = None, *, full: bool = False, smoke: bool = False) -> list[Case]:
    """Return the cases of a run, each once."""
    cases: list[OptimCase | CellCase] = [
        replace(case, peers=case.peers + case.full_peers * full)
        for case in OPTIM + RNN
        if only in (None, case.group) and (full or not case.full)
    ]
    if smoke:
        cases = [case.small() for case in cases]
    return list({case.name: case for case in cases}.values())
