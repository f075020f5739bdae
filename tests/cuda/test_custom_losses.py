"""Custom losses over arrays of a GPU, whose kernel runs on the host: the CPU's results, forms and errors."""

import numpy as np
import pytest
from fusedstep import loss
from fusedstep.loss import custom, math

from tests.cuda import foreign
from tests.cuda.elementwise import ElementwiseKernel
from tests.loss.functions import SMOOTH

SOME = ("huber", "asymmetric", "sigmoid_focal", "log_cosh", "comparisons", "power_0_3", "softmax", "normalized", "dice")
RTOL = {np.float32: 2e-5, np.float64: 1e-12}


def scaled(pred, target, weight=1.0, power=2.0):
    return weight * abs(pred - target) ** power


def draw(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1.3, shape).astype(dtype), rng.normal(0, 1.3, shape).astype(dtype)


def assert_close(actual, desired):
    """An array of the GPU against the CPU's."""
    dtype = desired.dtype.type
    scale = np.max(np.abs(desired), initial=1e-3)
    np.testing.assert_allclose(actual.get(), desired, RTOL[dtype], RTOL[dtype] * scale)
    assert actual.dtype == desired.dtype
    assert actual.shape == desired.shape


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("name", SOME)
def test_as_on_the_cpu(cupy, name, reduction):
    f = custom(SMOOTH[name])
    wide = [(np.float64, (2, 5, 7))] if name in ("huber", "dice") else []
    for dtype, shape in [(np.float32, (3, 300)), *wide]:
        p, t = draw(shape, dtype)
        value, grad = f(cupy.array(p), cupy.array(t), reduction=reduction)
        expected, slope = f(p, t, reduction=reduction)
        assert_close(grad, slope)
        if reduction == "none":
            assert_close(value, expected)
        else:
            assert value.shape == ()
            assert float(value) == pytest.approx(expected, rel=RTOL[dtype])


def test_bits_of_arithmetic_are_the_cpus(cupy):
    """Nothing but + − × ÷ √ and fma: the same steps."""
    f = custom(lambda p, t: (p * t + 0.3) / math.sqrt(1 + p * p) - math.maximum(p, t) * 0.7)
    p, t = draw((17, 99), np.float32)
    value, grad = f(cupy.array(p), cupy.array(t), reduction="none")
    expected, slope = f(p, t, reduction="none")
    np.testing.assert_array_equal(value.get(), expected)
    np.testing.assert_array_equal(grad.get(), slope)


@pytest.mark.parametrize("shape", [(), (7,), (6, 1), (5, 1, 7), (5, 6, 7)])
def test_targets_and_parameters_broadcast(cupy, shape):
    f = custom(scaled)
    p, _ = draw((5, 6, 7), np.float64)
    rng = np.random.default_rng(3)
    t, w = rng.normal(size=shape), rng.uniform(1, 2, shape)
    value, grad, more = f(
        cupy.array(p), cupy.array(t), weight=cupy.array(w), power=3.0, wrt=("target", "weight", "power")
    )
    expected, slope, others = f(p, t, weight=w, power=3.0, wrt=("target", "weight", "power"))
    assert float(value) == pytest.approx(expected)
    assert_close(grad, slope)
    assert_close(more["target"], np.asarray(others["target"]))
    assert_close(more["weight"], np.asarray(others["weight"]))
    assert float(more["power"]) == pytest.approx(others["power"])


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.bool_])
def test_targets_may_be_integers(cupy, dtype):
    f = custom(SMOOTH["bce"])
    p, _ = draw((4, 40), np.float32)
    t = (p > 0.3).astype(dtype)
    assert_close(f(cupy.array(p), cupy.array(t))[1], f(p, t)[1])
    assert_close(f(cupy.array(p), 1)[1], f(p, 1)[1])


@pytest.mark.parametrize("name", ["huber", "softmax", "normalized"])
def test_gradient_in_place(cupy, name):
    f = custom(SMOOTH[name])
    p, t = (cupy.array(a) for a in draw((9, 70), np.float32))
    value, grad = f(p, t)
    place = p.copy()
    other, same = f(place, t, out=place)
    assert same is place
    assert float(other) == float(value)
    np.testing.assert_array_equal(place.get(), grad.get())
    assert float(f(p, t, grad=False)) == float(value)


@pytest.mark.parametrize("shape", [(), (1,), (256,), (257,), (0,), (0, 3)])
def test_shapes(cupy, shape):
    for f in (custom(SMOOTH["charbonnier"]), custom(SMOOTH["dice"])):
        p, t = draw(shape, np.float64)
        if f.name == "<lambda>" and f._by_row and (not shape or not shape[-1]):
            with pytest.raises(ValueError, match="p: expected a last axis with elements"):
                f(cupy.array(p), cupy.array(t))
            continue
        value, grad = f(cupy.array(p), cupy.array(t))
        expected, slope = f(p, t)
        assert float(value) == pytest.approx(expected)
        assert_close(grad, slope)


def test_value_and_gradient_are_one_kernel_and_nothing_waits(cupy, monkeypatch):
    calls = []
    run = ElementwiseKernel.__call__
    monkeypatch.setattr(ElementwiseKernel, "__call__", lambda *a, **b: calls.append(a[0]) or run(*a, **b))
    f = custom(scaled)
    p, t = (cupy.array(a) for a in draw((4, 50), np.float32))
    for _ in range(2):
        f(p, t, weight=cupy.array(np.float32([[1.0], [2.0], [3.0], [4.0]])), wrt="weight")
    assert len(calls) == 2
    assert calls[0] is calls[1]  # compiled once
    assert cupy.state.copies == 0


def test_arrays_of_other_libraries(cupy):
    f = custom(SMOOTH["cauchy"])
    p, t = draw((4, 50), np.float32)
    value, grad = f(foreign.Interface(p), foreign.DLPack(t))
    expected, slope = f(p, t)
    assert float(value) == pytest.approx(expected)
    assert_close(grad, slope)
    assert isinstance(grad, cupy.ndarray)


def test_arguments_are_checked(cupy):
    f = custom(scaled)
    x, t = cupy.zeros((3, 4), np.float32), cupy.zeros((3, 4), np.float32)

    def refused(error, message, *args, **options):
        with pytest.raises(error) as caught:
            f(*args, **options)
        assert str(caught.value).startswith(message)

    refused(TypeError, "target: expected an array in CUDA memory as pred is, got ndarray", x, np.zeros(3))
    refused(TypeError, "pred: expected an array in CUDA memory as target is, got ndarray", np.zeros((3, 4)), t)
    refused(TypeError, "pred: expected a float32 or float64 array, got dtype int32", x.astype(np.int32), t)
    refused(ValueError, "pred: expected a C-contiguous array, got shape (4, 3)", x.T, t)
    refused(TypeError, "target: expected dtype float32, int32, int64, uint8 or bool, got float64", x, t.astype(float))
    refused(ValueError, "target: expected a shape that broadcasts to (3, 4), got (3,)", x, cupy.zeros(3, np.float32))
    refused(ValueError, "out: expected shape (3, 4), got (3,)", x, t, out=cupy.zeros(3, np.float32))
    refused(TypeError, "out: expected dtype float32, got float64", x, t, out=cupy.zeros((3, 4)))
    refused(ValueError, "out: expected memory of its own, got an overlap with target", x, t, out=t)
    refused(ValueError, "out: expected None where grad=False", x, t, out=x, grad=False)
    with cupy.cuda.Device(1):
        other = cupy.zeros((3, 4), np.float32)
    refused(TypeError, "target: expected an array on GPU 0 as pred is, got one on GPU 1", x, other)
    refused(RuntimeError, "the arrays are on GPU 1", other, 0.0)


def test_standard_losses_say_that_they_are_not_there(cupy):
    x = cupy.zeros((3, 4), np.float32)
    for f in (loss.mse, loss.cross_entropy):
        with pytest.raises(NotImplementedError, match="input: expected an array in CPU memory, got ndarray on"):
            f(x, 0)
