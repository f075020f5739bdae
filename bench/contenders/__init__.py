"""The contenders: a module each, imported in a process of its own and nowhere else.

Those that run on a device other than the CPU are in a folder of its name.
"""

import importlib
import importlib.util
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

from bench.cases import AnyCase, CellCase, LossCase, OptimCase, SequenceCase, StreamCase

Array = NDArray[Any]


class Entry(NamedTuple):
    """A contender as the tables know it: its title, and the packages that it takes."""

    title: str
    requires: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)

    @property
    def installed(self) -> bool:
        return all(importlib.util.find_spec(package) for package in self.requires)


# By the name of the module.
CONTENDERS = {
    "fusedstep": Entry("fusedstep", devices=("cpu", "cuda")),
    "graph": Entry("as a graph", ("cupy",), ("cuda",)),
    "plain": Entry("plain fusedstep", devices=("cpu", "cuda")),
    "pure": Entry("pure Python"),
    "numpy": Entry("NumPy"),
    "torch": Entry("torch", ("torch",), ("cpu", "cuda")),
    "compiled": Entry("torch.compile", ("torch",)),
    "numexpr": Entry("numexpr", ("numexpr",)),
    "torch_foreach": Entry("torch foreach", ("torch",), ("cuda",)),
    "torch_graph": Entry("torch as a graph", ("torch",), ("cuda",)),
    "elementwise": Entry("CuPy Elementwise", ("cupy",), ("cuda",)),
    "fuse": Entry("cupy.fuse", ("cupy",), ("cuda",)),
    "apex": Entry("apex", ("torch", "apex", "amp_C"), ("cuda",)),
    "thinc": Entry("thinc", ("thinc",)),
    "onnxruntime": Entry("ONNX Runtime", ("onnxruntime", "onnx")),
    "optax": Entry("optax jit", ("optax", "jax")),
}


@dataclass
class Step:
    """What is timed: one statement over some names, as a user writes it."""

    statement: str
    names: dict[str, Any]
    result: Callable[[], list[Array]]  # what `inputs.error` checks, after the statement ran
    variant: str = ""  # which of the contender's implementations
    setup: str = "pass"  # run before a sample, not timed
    clock: Callable[[], float] = time.perf_counter  # tells seconds
    zeroes: bool = False  # whether a step leaves its gradients zero
    rounding: float = 0.0  # what rounded weights may add to the error
    ceiling: Callable[[float], float] | None = None  # from seconds to sample, to the seconds of a step at the ceiling
    computing: Callable[[float], float] | None = None  # likewise, of its arithmetic alone
    predicted: Callable[[float], float] | None = None  # likewise, as the cost model tells with ceilings measured now
    facts: dict[str, Any] = field(default_factory=dict)  # what else is worth a line


class Contender:
    """Base of the contenders."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.stack = ExitStack()  # left when a case is done

    def describe(self) -> dict[str, Any]:
        """Return versions and the like."""
        return {}

    def fit(self, case: AnyCase) -> AnyCase:
        """Return the case that is run: a smaller one where this contender cannot finish `case`."""
        return case

    def prepare(self, case: AnyCase) -> Step:
        match case:
            case OptimCase():
                return self.optim(case)
            case CellCase():
                return self.cell(case)
            case SequenceCase():
                return self.sequence(case)
            case StreamCase():
                return self.stream(case)
            case LossCase():
                return self.loss(case)

    def optim(self, case: OptimCase) -> Step:
        raise NotImplementedError

    def cell(self, case: CellCase) -> Step:
        raise NotImplementedError

    def sequence(self, case: SequenceCase) -> Step:
        raise NotImplementedError

    def stream(self, case: StreamCase) -> Step:
        raise NotImplementedError

    def loss(self, case: LossCase) -> Step:
        raise NotImplementedError

    def release(self) -> None:
        """Drop what a case left."""
        self.stack.close()


def load(name: str, threads: int, device: str = "cpu") -> Contender:
    folder = "" if device == "cpu" else f"{device}."
    contender: Contender = importlib.import_module(f"bench.contenders.{folder}{name}").Contender(threads)
    return contender
