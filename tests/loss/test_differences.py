"""Gradients of the losses of rows against finite differences in float64, every combination of options drawn.

Those of the other losses are in test_truth.py, of custom ones in test_custom.py.
"""

import numpy as np
import pytest
from fusedstep import loss
from hypothesis import given
from hypothesis import strategies as st

from loss.drawn import rows

STEP = 1e-5


def differences(f, x, target, options, classes):
    """Of each row's loss, in float64, in one class of each row; with the reduction's factor."""
    wide = {name: a.astype(np.float64) if isinstance(a, np.ndarray) else a for name, a in options.items()}
    target = target.astype(np.float64) if target.dtype.kind == "f" else target
    wide["reduction"] = "none"
    at, values = (np.arange(len(x)), classes), []
    for step in (STEP, -STEP):
        moved = x.astype(np.float64)
        moved[at] += step
        values.append(f(moved, target, grad=False, **wide))
    found = (values[0] - values[1]) / (2 * STEP)
    if options["reduction"] != "mean":
        return found
    weights = np.ones(len(x)) if "sample_weight" not in wide else wide["sample_weight"].copy()
    if target.dtype.kind == "i":
        kept = target != options.get("ignore_index", -100)
        weights *= kept
        if "weight" in wide:
            weights *= wide["weight"][np.where(kept, target, 0)]
    return found / weights.sum() if weights.sum() else np.zeros(len(x))


@pytest.mark.parametrize(
    ("f", "strategy"),
    [(loss.cross_entropy, rows((0.1, 3), (0, 50))), (loss.nll, rows((0.1, 3), (0, 50), softmax=False))],
)
@given(st.data())
def test_gradient_matches_finite_differences(f, strategy, data):
    x, target, options = data.draw(strategy)
    _, grad = f(x, target, **options)
    each = np.arange(len(x))
    for column in range(2):
        classes = data.draw(st.integers(0, x.shape[1] - 1)) + np.zeros(len(x), int)
        if column == 0 and target.dtype.kind == "i":  # the targets, where the gradient is another one
            classes = np.where((target >= 0) & (target < x.shape[1]), target, 0).astype(int)
        expected = differences(f, x, target, options, classes)
        atol = 2e-7 * max(1, np.max(np.abs(grad), initial=0))
        np.testing.assert_allclose(grad[each, classes], expected, 3e-5, atol)
