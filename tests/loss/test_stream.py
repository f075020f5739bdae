"""Gradients that go past the caches are those that do not, bit for bit, and nothing beside them is written."""

import numpy as np
import pytest
from fusedstep import _core, loss

from loss.methods import METHODS
from loss.test_bits import CUSTOM

DTYPES = (np.float32, np.float64)
SIZES = (1, 15, 16, 17, 511, 512, 513, 4095, 4096, 4097, 9001)
CLASSES = (1, 2, 7, 10, 31, 32, 33, 255, 256, 257, 1000, 2049, 5003)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
# Elements between a cache line's first byte and the gradient's.
offsets = pytest.mark.parametrize("offset", [0, 1, 4, 7])


@pytest.fixture
def streamed():
    """Run a call with every gradient streamed."""
    before = []

    def run(call):
        before.append(_core.stream_from(1))
        try:
            return call()
        finally:
            _core.stream_from(before.pop())

    yield run
    assert not before


class Guarded:
    """An array at an offset from a cache line, between numbers that no one may write."""

    MARK = 12345

    def __init__(self, shape, dtype, offset):
        size = int(np.prod(shape))
        self.memory = _core.zeros((offset + size + 32,), dtype)
        self.memory[:] = self.MARK
        assert self.memory.ctypes.data % 64 == 0
        self.begin, self.end = offset, offset + size
        self.array = self.memory[self.begin : self.end].reshape(shape)

    def untouched(self):
        return (self.memory[: self.begin] == self.MARK).all() and (self.memory[self.end :] == self.MARK).all()


def same(a, b):
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def check(call, shape, dtype, offset, streamed):
    """Compare call(out) with and without streaming, into an array at an offset."""
    value, grad = call(np.empty(shape, dtype))
    guarded = Guarded(shape, dtype, offset)
    found, out = streamed(lambda: call(guarded.array))
    assert out is guarded.array
    assert same(found, value)
    assert same(out, grad)
    assert guarded.untouched()


@dtypes
@offsets
@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.name}-{method.target}")
def test_elementwise(method, dtype, offset, streamed):
    rng = np.random.default_rng(0)
    for n in SIZES:
        x, t = method.draw(rng, (n,), dtype)
        check(lambda out, x=x, t=t: method(x, t, out=out, **method.options[-1]), (n,), dtype, offset, streamed)


@dtypes
@offsets
@pytest.mark.parametrize("name", CUSTOM)
def test_custom(name, dtype, offset, streamed):
    rng = np.random.default_rng(0)
    for shape in [(1, n) for n in SIZES] + [(37, 33), (5, 700)]:
        x, t = (rng.normal(0, 2, shape).astype(dtype) for _ in range(2))
        check(lambda out, x=x, t=t: CUSTOM[name](x, t, out=out), shape, dtype, offset, streamed)
        column = t[:, :1].copy()  # copied chunk by chunk
        check(lambda out, x=x, t=column: CUSTOM[name](x, t, out=out), shape, dtype, offset, streamed)


@dtypes
@offsets
@pytest.mark.parametrize("kind", ["classes", "smoothed", "weighted", "probabilities", "left out"])
def test_cross_entropy(kind, dtype, offset, streamed):
    rng = np.random.default_rng(0)
    for classes in CLASSES:
        rows = 70 if classes < 300 else 9
        x, y = rng.normal(0, 3, (rows, classes)).astype(dtype), rng.integers(0, classes, rows)
        weight, own = (rng.uniform(0.5, 2, n).astype(dtype) for n in (classes, rows))
        options = {
            "classes": {},
            "smoothed": {"label_smoothing": 0.1, "z_loss": 1e-3},
            "weighted": {"weight": weight, "sample_weight": own},
            "probabilities": {},
            "left out": {"ignore_index": int(y[0])},
        }[kind]
        target = rng.uniform(0, 1, x.shape).astype(dtype) if kind == "probabilities" else y

        def call(out, x=x, target=target, options=options):
            return loss.cross_entropy(x, target, out=out, **options)

        check(call, x.shape, dtype, offset, streamed)


@dtypes
@offsets
def test_nll(dtype, offset, streamed):
    rng = np.random.default_rng(0)
    for classes in CLASSES:
        x, y = rng.normal(0, 3, (70, classes)).astype(dtype), rng.integers(0, classes, 70)
        y[::9] = -100
        check(lambda out, x=x, y=y: loss.nll(x, y, out=out), x.shape, dtype, offset, streamed)


@dtypes
@pytest.mark.parametrize("classes", [10, 300])
def test_in_place_and_over_another_axis(classes, dtype, streamed):
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 3, (20, classes, 3)).astype(dtype), rng.integers(0, classes, (20, 3))
    t = rng.normal(0, 3, x.shape).astype(dtype)
    for call in (
        lambda x, out=None: loss.cross_entropy(x, y, axis=1, out=out),
        lambda x, out=None: loss.mse(x, t, out=out),
        lambda x, out=None: loss.nll(x, y, axis=1, out=out),
        lambda x, out=None: CUSTOM["mixed"](x, t, out=out),
        lambda x, out=None: CUSTOM["dice"](x, t, out=out),
    ):
        value, grad = call(x)
        own = x.copy()
        for found, out in (streamed(lambda call=call: call(x)), streamed(lambda call=call, own=own: call(own, own))):
            assert same(found, value)
            assert same(out, grad)


def test_values_without_reduction(streamed):
    rng = np.random.default_rng(0)
    x, t = (rng.normal(0, 2, (7, 701)).astype(np.float32) for _ in range(2))
    for f in (CUSTOM["mixed"], CUSTOM["dice"], loss.huber):
        values, grad = f(x, t, reduction="none")
        found, out = streamed(lambda f=f: f(x, t, reduction="none"))
        assert same(found, values)
        assert same(out, grad)


@pytest.mark.parametrize("beside", [-1, 0, 1])
def test_threshold(beside):
    """Below it, at it and above it, for one thread and two."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 3, (64, 1001)).astype(np.float32), rng.integers(0, 1001, 64)
    expected = loss.cross_entropy(x, y)
    threads = _core.num_threads()
    before = _core.stream_from(x.nbytes + beside)
    try:
        assert _core.stream_from(x.nbytes + beside) == x.nbytes + beside
        for count in (1, 2):
            _core.set_num_threads(count)
            value, grad = loss.cross_entropy(x, y)
            assert same(value, expected[0])
            assert same(grad, expected[1])
    finally:
        _core.set_num_threads(threads)
        _core.stream_from(before)


def test_large_gradient_equals_that_of_its_pieces():
    """Under the rule itself: 48 MB are more than half of most last levels."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 3, (12000, 1001)).astype(np.float32), rng.integers(0, 1001, 12000)
    _, grad = loss.cross_entropy(x, y, reduction="sum")
    for first in range(0, len(x), 1000):
        rows = slice(first, first + 1000)
        assert same(loss.cross_entropy(x[rows], y[rows], reduction="sum")[1], grad[rows])
