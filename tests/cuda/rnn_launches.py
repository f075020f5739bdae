"""The recurrent kernels in small launches, checked: for sanitizers, and for sources with a bug.

`python -m tests.cuda.rnn_launches VARIANT ROOTS…`: ROOTS as in `build.library`. A sweep forward and back is taken
step by step, with NumPy's products, and by the persistent kernels; both must agree. So must one whose h is a projection
by the identity.
"""

import ctypes
import sys
from ctypes import Structure, c_bool, c_char_p, c_double, c_int, c_size_t, c_ssize_t, c_void_p
from pathlib import Path

import numpy as np

from tests.cuda_host import build

SOURCES = dict.fromkeys(
    ["csrc/cuda/rnn_steps.cu", "csrc/cuda/rnn_sweeps.cu", "tests/cuda_host/rnn_launchers.cpp"], build.KERNELS
)
# Of a cell: gates, those that the first product with W_hh feeds, values that a tape holds of a unit, whether it has c,
# and gradients of their own for W_hh.
CELLS = {
    "coupled_peephole_lstm": (3, 3, 3, True, False),
    "gru": (3, 3, 4, False, True),
    "gru_reset_before": (3, 2, 3, False, False),
}
BEGIN, RESET_STAGE, FORWARD, BACKWARD, RESET_BACKWARD, FINISH = range(6)


class Strided(Structure):
    _fields_ = (("data", c_void_p), ("step", c_ssize_t), ("row", c_ssize_t))


class Recurrence(Structure):
    """cuda/recurrence.h's."""

    _fields_ = (
        *((name, c_size_t) for name in ("S", "B", "H")),
        ("lengths", c_void_p),
        ("reset", c_void_p),
        ("ld_reset", c_ssize_t * 2),
        ("reverse", c_bool),
        ("replayed", c_bool),
        ("first", c_size_t),
        *((name, c_void_p) for name in ("weight_hh", "bias_ih", "bias_hh", "weight_ch")),
        *((name, c_void_p) for name in ("gain_ih", "gain_hh", "gain_c", "bias_c")),
        ("initial", c_void_p * 2),
        ("ld_initial", c_size_t * 2),
        ("input", Strided),
        ("y", Strided),
        ("h", c_void_p * 2),
        ("c", c_void_p * 2),
        ("mask", c_void_p),
        ("masked", c_void_p * 2),
        ("stays", c_void_p),
        ("zoneout", c_double * 2),
        *((name, c_void_p) for name in ("hidden", "reset_h", "late", "saved", "states", "statistics")),
        ("dy", Strided),
        *((name, c_void_p) for name in ("dh", "dc", "through")),
        ("dinput", Strided),
        *(
            (name, c_void_p)
            for name in ("dstate", "dlate", "dreset_h", "previous_h", "previous_c", "next_c", "all_reset_h", "m")
        ),
        *((name, c_void_p) for name in ("normed_c", "dnormed_c")),
    )


class ColumnSums(Structure):
    _fields_ = (
        ("n", c_size_t),
        ("columns", c_size_t),
        ("a", c_void_p),
        ("ld_a", c_size_t),
        ("b", c_void_p),
        ("ld_b", c_size_t),
        ("to", c_void_p * 2),
        ("add", c_bool),
        ("sums", c_void_p),
    )


class Noise(Structure):
    """core/table.h's."""

    _fields_ = (
        ("recurrent", c_double),
        ("zoneout", c_double * 2),
        ("drawn", c_bool),
        ("seed", ctypes.c_uint64),
        *((name, ctypes.c_uint32) for name in ("stream", "step", "row")),
    )


NOISE = Noise(0.4, (c_double * 2)(0.3, 0.6), True, 7, 2**31, 0, 1)


def strided(array):
    return Strided(array.ctypes.data, array.strides[0] // 4, array.strides[1] // 4)


class Sweep:
    """The arrays of a sweep, each memory of its own, drawn from a seed."""

    def __init__(self, kind, T, B, H, reverse, lengths, noisy=False, cell=None, more=None):
        gates, early, values, has_c, separate = cell or CELLS[kind]
        rng = np.random.default_rng([T, B, H])

        def normal(*shape):
            return (0.7 * rng.standard_normal(shape)).astype(np.float32)

        def zeros(*shape):
            return np.zeros(shape, np.float32)

        self.kind, self.sizes, self.early = kind, (T, B, H), early * H
        self.late = early < gates
        self.own = separate or self.late or reverse  # gradients that W_hh sees, apart from those that W_ih does
        state = (B, H)
        self.arrays = {
            "weight_hh": normal(gates * H, H), "bias_ih": normal(gates * H), "bias_hh": normal(gates * H),
            "input": normal(T, B, gates * H), "y": zeros(T, B, H), "hidden": zeros(B, early * H),
            "saved": zeros(T, B, values * H), "dy": normal(T, B, H), "dh": normal(*state),
            "through": zeros(*state), "dinput": zeros(T, B, gates * H), "previous_h": zeros(T, B, H),
        }  # fmt: skip
        if has_c:
            self.arrays |= {"states": zeros(T, B, H), "dc": normal(*state)}
        if "peephole" in kind:
            self.arrays |= {"weight_ch": normal(gates - 1, H), "previous_c": zeros(T, B, H), "next_c": zeros(T, B, H)}
        if self.own:
            self.arrays["dstate"] = zeros(T, B, early * H)
        if self.late:
            self.arrays |= {name: zeros(T, B, H) for name in ("dlate", "all_reset_h")}
            self.arrays |= {name: zeros(*state) for name in ("reset_h", "late", "dreset_h")}
        self.arrays |= more(normal, zeros) if more else {}
        self.lengths = lengths
        self.reset = rng.random((T, B)) < 1 / 3
        self.states = [[normal(*state) for _ in range(3)] for _ in range(1 + has_c)]  # initial, and two by turns
        self.r = Recurrence(S=T, B=B, H=H, reverse=reverse)
        self.r.lengths = None if lengths is None else lengths.ctypes.data
        if not reverse:
            self.r.reset, self.r.ld_reset[0], self.r.ld_reset[1] = self.reset.ctypes.data, B, 1
        for name, array in self.arrays.items():
            of_steps = name in ("input", "y", "dy", "dinput")
            setattr(self.r, name, strided(array) if of_steps else array.ctypes.data)
        self.seen = self.states[0][1:]  # h as W_hh sees it
        if noisy:
            self.arrays |= {"mask": zeros(*state), "stays": np.zeros((T, B, H), np.uint8)}
            self.seen = [zeros(*state) for _ in range(2)]
            self.r.mask, self.r.stays = (self.arrays[name].ctypes.data for name in ("mask", "stays"))
            self.r.masked[0], self.r.masked[1] = (seen.ctypes.data for seen in self.seen)
        for i, (initial, *turns) in enumerate(self.states):
            self.r.initial[i], self.r.ld_initial[i] = initial.ctypes.data, H
            to = (self.r.h, self.r.c)[i]
            to[0], to[1] = (turn.ctypes.data for turn in turns)

    def take_steps(self, call):
        """Forward and back step by step."""
        T, a = self.sizes[0], self.arrays
        early, late = a["weight_hh"][: self.early], a["weight_hh"][self.early :]
        call(self, BEGIN)
        for step in range(T):
            a["hidden"][...] = self.seen[step % 2] @ early.T
            if self.late:
                call(self, RESET_STAGE, step)
                a["late"][...] = a["reset_h"] @ late.T
            call(self, FORWARD, step)
        for step in reversed(range(T)):
            slot = T - 1 - step if self.r.reverse and self.lengths is None else step
            call(self, BACKWARD, step)
            if self.late:
                a["dreset_h"][...] = a["dlate"][slot] @ late
                call(self, RESET_BACKWARD, step)
            a["through"][...] = a["dstate" if self.own else "dinput"][slot] @ early
        call(self, FINISH)

    def results(self):
        state = {f"state {i}": turns[1 + self.sizes[0] % 2] for i, turns in enumerate(self.states)}
        return {name: self.arrays[name] for name in ("y", "dinput", "dh", "previous_h")} | state


class Projected(Sweep):
    """A sweep whose h is W_hr·m, W_hr the identity: the units' kernels and the outputs' by turns."""

    def take_steps(self, call):
        T, B, H = self.sizes
        a = self.arrays
        every, step = (T, B, H), (B, H)
        own = {name: np.zeros(step, np.float32) for name in ("m", "turn", "product", "dh", "dm", "zeros")}
        own |= {name: np.zeros(every, np.float32) for name in ("all m", "all dh")}
        at_each = {name: Strided(own[name].ctypes.data, 0, H) for name in ("m", "dh", "dm")}
        address = {name: array.ctypes.data for name, array in own.items()}
        units, outputs = (Recurrence.from_buffer_copy(self.r) for _ in range(2))
        units.y, units.dy, units.dh, units.through = at_each["m"], at_each["dm"], address["zeros"], address["zeros"]
        units.initial[0] = units.h[0] = units.h[1] = address["turn"]
        units.mask = units.previous_h = None
        units.m = address["all m"]
        outputs.hidden, outputs.dstate, outputs.dinput = address["product"], address["all dh"], at_each["dh"]
        outputs.input, outputs.dy = Strided(), self.r.dy
        for name in ("bias_ih", "bias_hh", "weight_ch", "saved", "states", "dc", "previous_c", "next_c"):
            setattr(outputs, name, None)
        outputs.c[0] = outputs.c[1] = None
        if "stays" in a:
            bits = {state: a["stays"] & (1 << state) for state in (0, 1)}
            outputs.stays, units.stays = bits[0].ctypes.data, bits[1].ctypes.data

        kind, r = self.kind, self.r

        def both(order, *arguments):
            for self.kind, self.r, between in order:
                call(self, *arguments)
                if between:
                    own[between[1]][...] = own[between[0]] @ np.eye(H, dtype=np.float32)

        both([(kind, units, None), ("projection", outputs, None)], BEGIN)
        for step in range(T):
            a["hidden"][...] = self.seen[step % 2] @ a["weight_hh"].T
            both([(kind, units, ("m", "product")), ("projection", outputs, None)], FORWARD, step)
        for step in reversed(range(T)):
            slot = T - 1 - step if r.reverse and self.lengths is None else step
            both([("projection", outputs, ("dh", "dm")), (kind, units, None)], BACKWARD, step)
            a["through"][...] = a["dstate" if self.own else "dinput"][slot] @ a["weight_hh"]
        both([("projection", outputs, None)], FINISH)
        self.kind, self.r = kind, r
        self.m = own["all m"]


class Launchers:
    """Functions of one shared library. An error out of a launch is a RuntimeError."""

    def __init__(self, path, multiprocessors):
        self.library = ctypes.CDLL(str(path))
        self.multiprocessors = multiprocessors
        self.library.cuda_host_multiprocessors(multiprocessors)
        self.library.has_cell.restype = c_bool

    def call(self, name, *arguments):
        function = getattr(self.library, name)
        function.restype = c_char_p
        if error := function(*arguments):
            raise RuntimeError(error.decode())

    def step(self, sweep, what, step=0):
        self.call("launch_step", sweep.kind.encode(), what, ctypes.byref(sweep.r), c_size_t(step))

    def take_persistently(self, sweeps, shared):
        both = (Recurrence * len(sweeps))(*(sweep.r for sweep in sweeps))
        for sweep in sweeps:
            self.step(sweep, BEGIN)
        for backward in (False, True):
            arrived = np.zeros(32 * len(sweeps), np.uint32)
            self.call(
                "launch_sweep", sweeps[0].kind.encode(), both, len(sweeps), c_bool(backward),
                c_void_p(arrived.ctypes.data), c_int(self.multiprocessors), c_size_t(shared),
            )  # fmt: skip


def check_sweeps(kernels, kind, T, B, H, shared, lengths=None, noisy=False):
    """Both directions of a layer."""
    pairs = [[Sweep(kind, T, B, H, reverse, lengths, noisy) for reverse in (False, True)] for _ in range(2)]
    for sweep in (*pairs[0], *pairs[1]) if noisy else ():
        masks = (c_void_p(sweep.arrays[name].ctypes.data) for name in ("mask", "stays"))
        kernels.call("launch_masks", ctypes.byref(NOISE), *map(c_size_t, (T, B, H)), *masks)
    for sweep in pairs[0]:
        sweep.take_steps(kernels.step)
    kernels.take_persistently(pairs[1], shared)
    for stepwise, persistent in zip(*pairs, strict=True):
        for name, desired in stepwise.results().items():
            np.testing.assert_allclose(persistent.results()[name], desired, rtol=2e-5, atol=2e-5, err_msg=name)


def check_projection(kernels, kind, T, B, H, lengths=None, noisy=False):
    """By the identity it changes no bit, and m is h where zoneout leaves it."""
    for reverse in (False, True):
        plain, projected = (of(kind, T, B, H, reverse, lengths, noisy) for of in (Sweep, Projected))
        for sweep in (plain, projected):
            if noisy:
                masks = (c_void_p(sweep.arrays[name].ctypes.data) for name in ("mask", "stays"))
                kernels.call("launch_masks", ctypes.byref(NOISE), *map(c_size_t, (T, B, H)), *masks)
            sweep.take_steps(kernels.step)
        for name, desired in plain.results().items():
            assert np.array_equal(projected.results()[name], desired), name
        if lengths is None:
            stays = plain.arrays["stays"][:: -1 if reverse else 1] & 1 if noisy else np.zeros((T, B, H))
            assert np.array_equal(projected.m[stays == 0], plain.arrays["y"][stays == 0])


def check_rows(kernels):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 5)).astype(np.float32)
    y, lengths = np.full_like(x, np.nan), np.array([2, 0, 1])
    kernels.call(
        "launch_rows", ctypes.byref(strided(x)), ctypes.byref(strided(y)), *map(c_size_t, x.shape),
        c_void_p(lengths.ctypes.data), c_double(0),
    )  # fmt: skip
    there = np.arange(2)[:, None] < lengths
    assert np.array_equal(y, np.where(there[..., None], x, 0))

    lengths, compact = np.array([3, 0, 2]), np.full((2, 3, 5), np.nan, np.float32)
    x = rng.standard_normal((4, 3, 5)).astype(np.float32)
    y = np.zeros_like(x)
    kernels.call(
        "launch_taken", *(ctypes.byref(strided(array)) for array in (x, compact, y)), *map(c_size_t, (2, 3, 5)),
        c_void_p(lengths.ctypes.data), c_size_t(3), c_size_t(1), c_bool(True),
    )  # fmt: skip
    zero = np.zeros(5, np.float32)
    assert np.array_equal(compact, [[x[1, 0], zero, x[0, 2]], [x[0, 0], zero, zero]])
    assert np.array_equal(y[:3], [[2 * x[0, 0], zero, 2 * x[0, 2]], [2 * x[1, 0], zero, zero], [zero] * 3])

    x = np.eye(9, 35, dtype=np.float32) * 3
    codes, scales = np.full_like(x, np.nan), np.full(9, np.nan, np.float32)
    addresses = (c_void_p(array.ctypes.data) for array in (codes, scales))
    kernels.call("launch_codes", c_void_p(x.ctypes.data), *map(c_size_t, x.shape), *addresses)
    np.testing.assert_allclose(scales, 3 / 127, rtol=1e-6)
    np.testing.assert_allclose(codes, np.outer(x[:, 0], x[0]), rtol=1e-6)  # x again, times its first row

    a, b = (rng.standard_normal((1030, 33)).astype(np.float32) for _ in range(2))
    to, room = np.zeros(33, np.float32), np.zeros((3, 33))
    call = ColumnSums(1030, 33, a.ctypes.data, 33, b.ctypes.data, 33, add=False, sums=room.ctypes.data)
    call.to[0] = to.ctypes.data
    kernels.call("launch_sums", ctypes.byref(call))
    np.testing.assert_allclose(to, (a.astype(float) * b).sum(axis=0), rtol=1e-6)


def check(kernels, variant):
    """Several blocks; all rows at once and some at a time; lengths; units that are no multiple of a tile."""
    kinds = [kind for kind in CELLS if kernels.library.has_cell(kind.encode())]
    assert kinds
    for kind in kinds:
        check_sweeps(kernels, kind, 2, 2, 3, 1 << 14, noisy=True)
        if variant != "thread":  # which takes seconds for each
            check_sweeps(kernels, kind, 2, 2, 3, 1 << 14)
            check_sweeps(kernels, kind, 2, 9, 5, 600, np.array([2, 0, 1, 2, 2, 1, 0, 2, 1]))
        if "lstm" in kind:
            check_projection(kernels, kind, 3, 2, 5, noisy=True)
            check_projection(kernels, kind, 2, 9, 5, np.array([2, 0, 1, 2, 2, 1, 0, 2, 1]))
    check_rows(kernels)


if __name__ == "__main__":
    variant, *roots = sys.argv[1:]
    library = build.library("rnn", variant, SOURCES, *map(Path, roots))
    check(Launchers(library, 4), variant)
