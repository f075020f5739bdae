"""Tensors in every storage format, and a step of them by the CPU's kernels.

The half formats are computed as float32: widened exactly, and rounded.
"""

import numpy as np
from fusedstep import _core

from tests.cuda.launchers import RULE_BYTES, Tensor
from tests.optim.methods import assert_same_bits, normal
from tests.optim.test_bits import SPECIAL

TYPES = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": np.uint16}
# Values at which every term of a rule counts.
HYPER = {
    "lr": 0.01,
    "beta1": 0.9,
    "beta2": 0.99,
    "alpha": 0.95,
    "eps": 1e-6,
    "weight_decay": 0.1,
    "decoupled": 0,
    "momentum": 0.8,
    "lr_decay": 0.25,
}


def arithmetic(storage):
    return np.float64 if storage == "f64" else np.float32


def widen(array, storage):
    """To the arithmetic's type, in memory of its own."""
    if storage == "bf16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(arithmetic(storage))


def narrow(array, storage):
    """To the stored type, to nearest, ties to even."""
    if storage == "bf16":
        bits = array.view(np.uint32)
        rounded = ((bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        return np.where(np.isnan(array), np.uint16(0x7FFF), rounded)
    with np.errstate(over="ignore"):
        return array.astype(TYPES[storage])


def placed(array, offset):
    """The same values so many elements after a multiple of 16 bytes, where the memory ends with them."""
    copy = np.empty(array.size + offset, array.dtype)[offset:]
    copy[...] = array
    return copy


def hyper_of(kernels, rule):
    return [HYPER[name] for name in kernels.rules[rule][1]]


def draw(rng, n, storage, master, states, offsets, special=True):
    """A tensor of random arrays at these offsets."""
    T = arithmetic(storage)
    p, g, *own = (normal(rng, n, T) for _ in range(2 + states))
    if special:
        values = SPECIAL[T]
        g[rng.integers(n, size=n // 8)] = rng.choice(values, n // 8)
    p, g = narrow(p, storage), narrow(g, storage)
    copy = widen(p, storage) * T(1 + 2**-12) if master else None  # the master copy has bits that p lacks
    arrays = [p, g, *map(np.abs, own), *([copy] if master else [])]
    arrays = [placed(a, k) for a, k in zip(arrays, offsets, strict=False)]
    return Tensor(*arrays[:2], arrays[2 : 2 + states], arrays[2 + states] if master else None)


def step_on_cpu(tensor, storage, rule, hyper, step, multiplier, zero):
    """The same step by the CPU's kernels, in place."""
    wide = tensor.master if tensor.master is not None else widen(tensor.p, storage)
    g = widen(tensor.g, storage)
    names = ["p", "g", *(f"state {i}" for i in range(len(tensor.states)))]
    _core.update(rule, hyper, step, multiplier, names, [wide, g, *tensor.states])
    tensor.p[...] = narrow(wide, storage)
    if zero:
        tensor.g[...] = 0


def assert_same_tensors(actual, desired, storage):
    for i, (a, d) in enumerate(zip(actual, desired, strict=True)):
        for name, x, y in zip(["p", "g", "0", "1", "2", "3"], a.arrays(), d.arrays(), strict=False):
            if x.dtype == np.uint16:  # a NaN is not told from its bits
                assert_same_bits(widen(x, storage), widen(y, storage), f"{name} of {i}, {x.size} elements")
            else:
                assert_same_bits(x, y, f"{name} of {i}, {x.size} elements")


def step(kernels, rule, storage, tensors, steps, rules, *, report=None, **options):
    numbers = [tensor.number for tensor in tensors]
    kernels.prepare(rule, storage, hyper_of(kernels, rule), numbers, steps, rules, report)
    kernels.update(rule, storage, tensors, rules, report=report, **options)


def check_steps(kernels, rule, storage, tensors, zero=False, sign=1.0):
    """Two steps equal the CPU's, bit for bit."""
    for number, tensor in enumerate(tensors):
        tensor.number = number
    desired = [tensor.copy() for tensor in tensors]
    steps, rules = np.zeros(len(tensors)), np.zeros((len(tensors), RULE_BYTES), np.uint8)
    for t in (1, 2):
        step(kernels, rule, storage, tensors, steps, rules, sign=sign, multiplier=0.3, zero=zero)
        for tensor in desired:
            step_on_cpu(tensor, storage, rule, hyper_of(kernels, rule), t, sign * 0.3, zero)
        assert_same_tensors(tensors, desired, storage)
    assert (steps == 2).all()


def gradients(rng, storage, sizes, scale=1.0):
    """Tensors that are nothing but a gradient."""
    T = arithmetic(storage)
    arrays = [narrow((rng.standard_normal(n) * scale).astype(T), storage) for n in sizes]
    return [(storage, Tensor(g, placed(g, rng.integers(16)))) for g in arrays]


def numbered(tensors, first=0):
    for number, (_, tensor) in enumerate(tensors, first):
        tensor.number = number
    return tensors
