"""What the tests of the optimizers share: every method with every option, random arrays, and comparisons of bits."""

import functools
import inspect
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fusedstep.optim import OPTIMIZERS
from fusedstep.optim import _hyper as checks

DTYPES = (np.float32, np.float64)

# A value other than the default for each kind of hyperparameter; those of betas and alpha take the other side of lerp.
OTHER = {checks.flag: True, checks.betas: (0.3, 0.6), checks.unit: 0.3, checks.fraction: 0.3, checks.nonnegative: 0.1}


@functools.cache
def defaults(cls):
    """The hyperparameters of a method's mathematics, as its constructor has them."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name != "master"}


@dataclass(frozen=True)
class Method:
    """An optimizer and the options that differ from its defaults."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def cls(self):
        return OPTIMIZERS[self.name]

    @property
    def hyper(self):
        return {**defaults(self.cls), **self.options}

    @property
    def state_names(self):
        return self.cls.state_names(self.hyper)

    def optimizer(self, params):
        return self.cls(params, **self.options)

    def states(self, p):
        """The states of a parameter before its first step."""
        return tuple(np.full_like(p, self.cls.initial_state(self.hyper)) for _ in self.state_names)

    def reference(self, p, g, states, step, multiplier=1.0):
        with np.errstate(all="ignore"):
            self.cls.reference(p, g, states, step=step, multiplier=multiplier, **self.hyper)

    def __str__(self):
        return "-".join([self.name, *self.options])


def variants(name):
    """A method with every combination of its options; lr and eps, which take no other path, stay as they are."""
    cls = OPTIMIZERS[name]
    keys = [key for key in defaults(cls) if key not in ("lr", "eps")]
    for chosen in itertools.product((False, True), repeat=len(keys)):
        yield Method(name, {k: OTHER[cls.hyper(k).check] for k, other in zip(keys, chosen, strict=True) if other})


METHODS = [Method(name) for name in OPTIMIZERS]
VARIANTS = [method for name in OPTIMIZERS for method in variants(name)]


def normal(rng, shape, dtype):
    """Normal numbers times powers of ten from 1e-6 to 1e3."""
    return (rng.standard_normal(shape) * 10 ** rng.uniform(-6, 3, shape)).astype(dtype)


def draw(dtype=np.float32, shapes=((3, 4), (5,)), seed=0):
    """Random arrays, the same for the same arguments."""
    rng = np.random.default_rng(seed)
    return [normal(rng, shape, dtype) for shape in shapes]


def copies(arrays):
    return [a.copy() for a in arrays]


def placed(array, offset):
    """The same values in fresh memory that begins `offset` elements after a cache line."""
    memory = np.empty(array.size + offset + 16, array.dtype)
    begin = -memory.ctypes.data % 64 // array.itemsize + offset
    copy = memory[begin : begin + array.size].reshape(array.shape)
    copy[...] = array
    return copy


def assert_same_bits(actual, desired, what=""):
    """Two arrays have the same bits; a NaN equals any NaN."""
    assert actual.dtype == desired.dtype
    assert actual.shape == desired.shape
    bits = np.dtype(f"u{actual.itemsize}")
    wrong = actual.view(bits) != desired.view(bits)
    if wrong.any():
        wrong &= ~(np.isnan(actual) & np.isnan(desired))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{what}: {wrong.sum()} of {wrong.size} differ, {at}: {actual[at]!r} is not {desired[at]!r}"
        )


def assert_same(actual, desired):
    """assert_same_bits for each pair of two lists."""
    for i, (a, d) in enumerate(zip(actual, desired, strict=True)):
        assert_same_bits(a, d, f"[{i}]")


class Mirror:
    """Parameters and states that the reference steps, to compare an optimizer's with."""

    def __init__(self, method, params):
        self.method = method
        self.params = [p.copy() for p in params]
        self.states = [method.states(p) for p in params]
        self.steps = [0] * len(params)

    def step(self, grads, multiplier=1.0):
        for i, g in enumerate(grads):
            if g is not None:
                self.steps[i] += 1
                self.method.reference(self.params[i], g, self.states[i], self.steps[i], multiplier)

    def assert_equals(self, params, optimizer):
        for i, (actual, desired) in enumerate(zip(params, self.params, strict=True)):
            assert_same_bits(actual, desired, f"params[{i}]")
        for i, own in enumerate(optimizer.state):
            assert own["step"] == self.steps[i]
            for name, desired in zip(self.method.state_names, self.states[i], strict=True):
                assert_same_bits(own[name], desired, f"{name} of params[{i}]")
