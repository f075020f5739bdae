"""The steps of the machine that runs custom losses: what is fused has the bits of its parts, also in a sum."""

import numpy as np
import pytest
from fusedstep import _core
from fusedstep.loss import custom, math
from fusedstep.loss._compile import PAIRS, REVERSED

DTYPES = (np.float32, np.float64)
COMPARISONS = ("less", "less_equal")
# Groups of vectors are 16 to 128 elements, a sum's block 4096.
LENGTHS = (1, 31, 32, 33, 127, 128, 129, 300, 4095, 4096, 4097, 9000)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def run(code, registers, arrays):
    """One output of a program over arrays. Slots: arrays, registers, the output."""
    x = arrays[0]
    out = np.empty_like(x)
    program = _core.Expression(code, len(arrays), 0, registers, [False], False)
    program.run(x, list(arrays), [f"x{i}" for i in range(len(arrays))], [], [(out, False)], None)
    return out


def same(a, b):
    """Equal bits; NaN counts as NaN."""
    unsigned = f"u{a.itemsize}"
    return np.all((a.view(unsigned) == b.view(unsigned)) | (np.isnan(a) & np.isnan(b)))


def drawn(n, dtype, count=4):
    """Numbers of all sizes, the special ones among them, and 1."""
    rng = np.random.default_rng(n)
    info = np.finfo(dtype)
    special = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, info.tiny, info.max, info.smallest_subnormal], dtype)
    arrays = [(rng.normal(size=n) * 10.0 ** rng.integers(-3, 4, n)).astype(dtype) for _ in range(count)]
    for array in arrays:
        at = rng.random(n) < 0.3
        array[at] = rng.choice(special, at.sum())
    return arrays


# The operands of the fused step: 4 is the result of the step before, which stays in registers.
@dtypes
@pytest.mark.parametrize("operands", [(0, 1, 2), (4, 1, 2), (0, 4, 2), (0, 1, 4), (4, 4, 2), (4, 4, 4), (1, 1, 1)])
def test_pairs_have_the_bits_of_their_parts(operands, dtype):
    a, b, c = operands
    before = ("absolute", False, 4, [3])
    arrays = drawn(300, dtype)
    for (first, second), name in PAIRS.items():
        known = next(key for key, value in REVERSED.items() if second in (key, value))
        order = [5, c] if second == known else [c, 5]
        # Apart, in an order in which no step finds its operand in registers.
        apart = [before, (first, False, 5, [a, b]), ("copy", False, 6, [0]), (known, False, 7, order)]
        fused = [before, (name, False, 7, [a, b, c])]
        assert same(run(fused, 3, arrays), run(apart, 3, arrays)), name


@dtypes
@pytest.mark.parametrize(
    "operands", [(0, 1, 2, 3), (4, 1, 2, 3), (0, 4, 2, 3), (0, 1, 4, 3), (0, 1, 2, 4), (4, 4, 2, 3)]
)
def test_choices_have_the_bits_of_their_parts(operands, dtype):
    a, b, c, d = operands
    before = ("negative", False, 4, [3])
    for n in LENGTHS:
        arrays = drawn(n, dtype)
        for name in COMPARISONS:
            apart = [before, (name, False, 5, [a, b]), ("copy", False, 6, [0]), ("where", False, 7, [5, c, d])]
            fused = [before, (f"where_{name}", False, 7, [a, b, c, d])]
            assert same(run(fused, 3, arrays), run(apart, 3, arrays)), (name, n)


def names_of(f, grad=True):
    return [step.name for step in f._plan(frozenset(), (), grad).program.code]


def test_what_one_step_alone_takes_is_fused():
    assert names_of(custom(lambda p, t: (p - t) / (1 + t * t)), grad=False) == ["multiply_add", "subtract_then_divide"]
    assert names_of(custom(lambda p, t: 3 / (p + t)), grad=False) == ["add_then_divide_into"]
    assert names_of(custom(lambda p, t: math.where(p > t, p, 2.0)), grad=False) == ["where_less"]
    assert names_of(custom(lambda p, t: math.tanh(p * t) * (p * t)), grad=False) == ["multiply", "tanh", "multiply"]


def test_a_constant_divides_once_a_call():
    names = names_of(custom(lambda p, t: math.exp(-(((p - t) / 1.4) ** 2))))
    assert not any("divide" in name for name in names)


def test_a_constant_without_a_normal_reciprocal_divides():
    assert names_of(custom(lambda p, t: p * t / 1e39), grad=False) == ["multiply_then_divide"]


def test_uniform_values_follow_the_numbers_of_a_call():
    f = custom(lambda p, t, a=1.0: (p - t) / (1 / a))
    x, t = np.float64([1, 2, 4]), np.float64([0, 0, 0])
    assert f(x, t, a=2.0, reduction="sum")[0] == 14
    assert f(x, t, a=0.0, reduction="sum")[0] == 0
    assert np.signbit(f(x, t, a=-0.0, reduction="none")[0]).all()
    assert not np.signbit(f(x, t, a=0.0, reduction="none")[0]).any()


def tree(values):
    """The sum in the promised order: blocks of 4096, lane j of 32 taking the terms j, j+32, …, folded in halves."""

    def folded(terms):
        lanes = np.zeros(32)
        for row in np.pad(terms, (0, -terms.size % 32)).reshape(-1, 32):
            lanes += row
        while lanes.size > 1:
            lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
        return lanes[0]

    terms = values.astype(np.float64)
    return folded(np.array([folded(terms[i : i + 4096]) for i in range(0, terms.size, 4096)]))


# The value is read by the next step, by a later one, by none; a step between steps, the last one, one of two.
SUMMED = {
    "next": custom(lambda p, t: math.exp(p - t)),
    "later": custom(lambda p, t: math.sigmoid(p - t)),
    "none": custom(lambda p, t: (p - t) ** 2),
    "step": custom(lambda p, t: math.where(p > t, 0.3, 0.7) * abs(p - t)),
}


@dtypes
@pytest.mark.parametrize("name", SUMMED)
def test_sum_is_that_of_the_values(name, dtype):
    f = SUMMED[name]
    for n in LENGTHS:
        rng = np.random.default_rng(n)
        p, t = rng.normal(size=n).astype(dtype), rng.normal(size=n).astype(dtype)
        values, grad = f(p, t, reduction="none")
        total, own = f(p, t, reduction="sum")
        assert total == tree(values), n
        np.testing.assert_array_equal(own, grad)
        assert f(p, t, reduction="sum", grad=False) == total


@dtypes
@pytest.mark.parametrize("name", SUMMED)
def test_broadcast_arguments_have_the_bits_of_whole_ones(name, dtype):
    """They are copied, in small chunks."""
    f = SUMMED[name]
    rng = np.random.default_rng(1)
    for shape, own in (((3001, 3), (3,)), ((41, 129), (41, 1)), ((7, 5, 11), (5, 1)), ((9000,), (1,))):
        p, t = rng.normal(size=shape).astype(dtype), rng.normal(size=own).astype(dtype)
        total, grad = f(p, t, reduction="sum")
        expected, wanted = f(p, np.ascontiguousarray(np.broadcast_to(t, shape)), reduction="sum")
        assert total == expected
        np.testing.assert_array_equal(grad, wanted)
