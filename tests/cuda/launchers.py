"""The launchers of csrc/cuda over NumPy arrays, in a build against the stand-in for CUDA's runtime."""

import ctypes
import functools
from collections.abc import Iterable, Sequence
from ctypes import POINTER, Structure, c_bool, c_char_p, c_double, c_int, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.cuda_host import build

SOURCES = dict.fromkeys(["csrc/cuda/optim.cu", "csrc/cuda/norm.cu", "tests/cuda_host/launchers.cpp"], build.KERNELS)

FORMATS = ("f32", "f64", "f16", "bf16")
RULE_BYTES = 128  # kRuleBytes of core/table.h
NORM_BLOCK = 4096  # kNormBlock
CHUNK = 4096  # kChunk of cuda/multi_tensor.cuh
TABLE_BYTES = 32_764 - 60  # kTableBytes of cuda/tensors.cuh

BLOCK_SUM = np.dtype([("sum", "f8"), ("number", "i8")])
REPORT = np.dtype([("norm", "f8"), ("first_nonfinite", "i8"), ("applied", "i8"), ("multiplier", "f8"), ("scale", "f8")])


class DeviceTensor(Structure):
    _fields_ = (
        ("p", c_void_p),
        ("g", c_void_p),
        ("state", c_void_p * 3),
        ("master", c_void_p),
        ("n", c_size_t),
        ("number", c_size_t),
        ("first_block", c_size_t),
    )


class RuleInfo(Structure):
    _fields_ = (("name", c_char_p), ("hyper", c_char_p), ("states", c_int))


class Record(Structure):
    _fields_ = (
        ("stream", ctypes.c_uint64),
        ("blocks", c_uint32),
        ("threads", c_uint32),
        ("dynamic_bytes", ctypes.c_uint64),
        ("cooperative", c_uint32),
        ("gpu", c_uint32),
    )


@dataclass
class Tensor:
    """A parameter with its gradient and states; `p` and `g` as stored, bfloat16 as its bits in uint16."""

    p: np.ndarray
    g: np.ndarray
    states: list[np.ndarray] = field(default_factory=list)
    master: np.ndarray | None = None
    number: int = 0

    def copy(self) -> "Tensor":
        master = None if self.master is None else self.master.copy()
        return Tensor(self.p.copy(), self.g.copy(), [s.copy() for s in self.states], master, self.number)

    def arrays(self) -> list[np.ndarray]:
        return [self.p, self.g, *self.states, *([] if self.master is None else [self.master])]


def unwritten() -> np.ndarray:
    """A report before a step: nothing in it may be taken for a result."""
    return np.array((np.nan, -99, -99, np.nan, np.nan), REPORT)


def blocks_of(tensor: Tensor) -> int:
    return -(-tensor.g.size // NORM_BLOCK)


def room_of(pointers: int) -> int:
    """How many tensors of so many arrays a launch holds."""
    return (TABLE_BYTES - 8) // (8 * pointers + 16)


def address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


class Launchers:
    """Functions of one shared library. An error out of a launch is a RuntimeError."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.cuda_host_records.restype = c_size_t
        self.library.cuda_host_order.restype = c_bool
        self.library.rule_info.restype = POINTER(RuleInfo)
        self.rules = {}
        for number in range(self.library.rule_count()):
            info = self.library.rule_info(number).contents
            self.rules[info.name.decode()] = (number, info.hyper.decode().split(), info.states)

    def _call(self, name: str, *arguments: object) -> None:
        function = getattr(self.library, name)
        function.restype = c_char_p
        if error := function(*arguments):
            raise RuntimeError(error.decode())

    def order(self, order: str, seed: int = 0) -> None:
        assert self.library.cuda_host_order(order.encode(), c_uint32(seed))

    def threads(self, count: int) -> None:
        self.library.cuda_host_threads(count)

    def driver(self, present: bool) -> None:
        self.library.cuda_host_driver(c_bool(present))

    def records(self) -> list[Record]:
        """What was launched since the last call."""
        room = (Record * 4096)()
        return list(room[: self.library.cuda_host_records(room, c_size_t(len(room)))])

    @staticmethod
    def _tensors(tensors: Sequence[Tensor]) -> ctypes.Array[DeviceTensor]:
        result = (DeviceTensor * len(tensors))()
        first_block = 0
        for to, tensor in zip(result, tensors, strict=True):
            to.p, to.g, to.n = address(tensor.p), address(tensor.g), tensor.p.size
            for i, state in enumerate(tensor.states):
                to.state[i] = address(state)
            to.master, to.number, to.first_block = address(tensor.master), tensor.number, first_block
            first_block += blocks_of(tensor)
        return result

    def norm(
        self,
        tensors: Sequence[tuple[str, Tensor]],
        max_norm: float = 0,
        grad_scale: float = 1,
        stream: int = 0,
    ) -> np.ndarray:
        """The report of gradients of any formats: both passes, as a step runs them."""
        every = self._tensors([tensor for _, tensor in tensors])
        sums, report = np.zeros(sum(blocks_of(tensor) for _, tensor in tensors), BLOCK_SUM), unwritten()
        sums["sum"] = np.nan
        formats = [storage for storage, _ in tensors]
        for again in (False, True) if "f64" in formats else (False,):
            for storage in dict.fromkeys(formats):
                chosen = [tensor for tensor, own in zip(every, formats, strict=True) if own == storage]
                self._call(
                    "launch_square_sums",
                    FORMATS.index(storage),
                    (DeviceTensor * len(chosen))(*chosen),
                    c_size_t(len(chosen)),
                    c_bool(again),
                    c_void_p(address(report)),
                    c_void_p(address(sums)),
                    c_void_p(stream),
                )
            self.finish_norm(sums, max_norm, grad_scale, again=again, report=report, stream=stream)
        return report

    def finish_norm(
        self,
        sums: np.ndarray,
        max_norm: float = 0,
        grad_scale: float = 1,
        *,
        again: bool = False,
        report: np.ndarray | None = None,
        stream: int = 0,
    ) -> np.ndarray:
        report = unwritten() if report is None else report
        self._call(
            "launch_finish_norm",
            c_void_p(address(sums)),
            c_size_t(sums.size),
            c_double(max_norm),
            c_double(grad_scale),
            c_bool(again),
            c_void_p(address(report)),
            c_void_p(stream),
        )
        return report

    def prepare(
        self,
        rule: str,
        storage: str,
        hyper: Iterable[float],
        numbers: Sequence[int],
        steps: np.ndarray,
        rules: np.ndarray,
        report: np.ndarray | None = None,
        stream: int = 0,
    ) -> None:
        self._call(
            "launch_prepare",
            self.rules[rule][0],
            FORMATS.index(storage),
            c_void_p(address(values := np.array(list(hyper)))),
            (c_size_t * len(numbers))(*numbers),
            c_size_t(len(numbers)),
            c_void_p(address(steps)),
            c_void_p(address(rules)),
            c_void_p(address(report)),
            c_void_p(stream),
        )
        del values

    def update(
        self,
        rule: str,
        storage: str,
        tensors: Sequence[Tensor],
        rules: np.ndarray,
        *,
        sign: float = 1,
        multiplier: float = 1,
        report: np.ndarray | None = None,
        zero: bool = False,
        stream: int = 0,
    ) -> None:
        self._call(
            "launch_update",
            self.rules[rule][0],
            FORMATS.index(storage),
            self._tensors(tensors),
            c_size_t(len(tensors)),
            c_void_p(address(rules)),
            c_double(sign),
            c_double(multiplier),
            c_void_p(address(report)),
            c_bool(zero),
            c_void_p(stream),
        )


@functools.cache
def launchers(variant: str = "plain", *roots: Path) -> Launchers:
    """The launchers as the sources of the last of these have them, or the repository's."""
    return Launchers(build.library("launchers", variant, SOURCES, *roots))
