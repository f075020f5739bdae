"""The kernels of the norm, launched one by one: the bits of the CPU's norm, and its report."""

import math

import numpy as np
import pytest

from tests.cuda.launchers import BLOCK_SUM, NORM_BLOCK, Tensor, room_of
from tests.cuda.tensors import gradients, narrow, numbered, widen
from tests.optim.test_bits import clip, in_lanes, reference_norm

SIZES = (0, 1, 31, 32, 33, 255, 256, 257, NORM_BLOCK - 1, NORM_BLOCK, NORM_BLOCK + 1, 3 * NORM_BLOCK + 77, 0, 5)


@pytest.mark.parametrize("storage", ["f32", "f64", "f16", "bf16"])
@pytest.mark.usefixtures("order")
def test_norm_has_the_bits_of_the_cpu(kernels, storage):
    tensors = numbered(gradients(np.random.default_rng(7), storage, SIZES))
    wide = [widen(tensor.g, storage) for _, tensor in tensors]
    report = kernels.norm(tensors, max_norm=2.5, grad_scale=4)
    norm = reference_norm(wide) / 4
    assert report["norm"] == norm
    assert report["multiplier"] == clip(norm, 2.5) / 4
    assert (report["applied"], report["first_nonfinite"], report["scale"]) == (1, -1, 1)


def test_norm_of_all_formats_together(kernels):
    rng = np.random.default_rng(8)
    tensors = numbered([t for storage in ("f16", "f64", "bf16", "f32", "f64") for t in gradients(rng, storage, SIZES)])
    report = kernels.norm(tensors)
    assert report["norm"] == reference_norm([widen(tensor.g, storage) for storage, tensor in tensors])
    assert report["multiplier"] == 1


def test_norm_of_more_tensors_than_a_launch_holds(kernels):
    rng = np.random.default_rng(9)
    room = room_of(2)
    tensors = numbered(gradients(rng, "f32", rng.integers(0, 6, 3 * room // 2)))
    kernels.records()
    assert kernels.norm(tensors)["norm"] == reference_norm([tensor.g for _, tensor in tensors])
    assert room < sum(tensor.g.size > 0 for _, tensor in tensors) <= 2 * room
    assert len(kernels.records()) == 2 + 1


@pytest.mark.parametrize("value", [1e200, 3e-200, 1e307])
@pytest.mark.usefixtures("order")
def test_squares_may_leave_the_range_of_double(kernels, value):
    """float64 gradients whose squares overflow or underflow, among float32 ones, are summed again, scaled."""
    rng = np.random.default_rng(10)
    tensors = numbered(gradients(rng, "f64", (7, 5000), value) + gradients(rng, "f32", (40,), value > 1))
    scale = 2.0**-600 if value > 1 else 2.0**600
    wide = [tensor.g.astype(float) * scale for _, tensor in tensors]
    report = kernels.norm(tensors, max_norm=1, grad_scale=8)
    assert report["scale"] == scale
    with np.errstate(over="ignore"):
        assert report["norm"] == np.float64(reference_norm(wide)) / scale / 8
    assert report["multiplier"] == clip(report["norm"], 1) / 8
    assert (report["applied"], report["first_nonfinite"]) == (1, -1)


def test_a_norm_past_the_largest_double_is_infinite_and_applied(kernels):
    """As on the CPU: the gradients are finite."""
    tensors = numbered([("f64", Tensor(g := np.full(9000, 1.7e308), g))])
    report = kernels.norm(tensors, max_norm=1)
    assert (report["norm"], report["multiplier"], report["applied"]) == (math.inf, 0, 1)


@pytest.mark.parametrize("storage", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.usefixtures("order")
def test_the_first_gradient_that_is_not_finite_is_named(kernels, storage, value):
    rng = np.random.default_rng(11)
    tensors = numbered(gradients(rng, storage, (40, 0, 9000, 1, 5000)), 10)
    for bad, at in ((4, 17), (2, 8999)):
        wide = widen(tensors[bad][1].g, storage)
        wide[at] = value
        tensors[bad][1].g[...] = narrow(wide, storage)
        report = kernels.norm(tensors)
        assert (report["applied"], report["first_nonfinite"]) == (0, 10 + bad)
        assert not math.isfinite(report["norm"])


@pytest.mark.usefixtures("order")
def test_sums_of_more_blocks_than_shared_memory_holds(kernels):
    """`finish_norm` alone, over sums as those of 9,000 blocks."""
    rng = np.random.default_rng(12)
    sums = np.zeros(9000, BLOCK_SUM)
    sums["sum"], sums["number"] = rng.random(9000), np.arange(9000) // 7
    assert kernels.finish_norm(sums)["norm"] == math.sqrt(in_lanes(sums["sum"]))
    sums["sum"][[8999, 4096, 8000]] = math.nan
    report = kernels.finish_norm(sums)
    assert (report["applied"], report["first_nonfinite"]) == (0, 4096 // 7)


def test_no_gradient_at_all_has_norm_zero(kernels):
    report = kernels.norm([])
    assert (report["norm"], report["applied"], report["first_nonfinite"]) == (0, 1, -1)
