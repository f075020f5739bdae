"""What hypothesis draws: shapes, options, and all arguments of the losses of rows."""

import numpy as np
from hypothesis import strategies as st

shapes = st.lists(st.integers(0, 6), min_size=0, max_size=3).map(tuple)
reductions = st.sampled_from(["none", "sum", "mean"])
dtypes = st.sampled_from([np.float32, np.float64])


def broadcast_like(draw, rng, shape, dtype, low=0.1):
    """Weights whose shape is some suffix of `shape`, with ones among it, or none."""
    if not draw(st.booleans()):
        return None
    suffix = shape[draw(st.integers(0, len(shape))) :]
    return rng.uniform(low, 2, [1 if draw(st.booleans()) else n for n in suffix]).astype(dtype)


@st.composite
def rows(draw, sizes=(0.1, 3, 1e3), offsets=(0, 1e4), softmax=True):
    """Arguments of cross_entropy over rows (N, C), or with softmax=False of nll: every combination of options."""
    n, classes = draw(st.integers(0, 40)), draw(st.sampled_from([1, 2, 5, 16, 31, 32, 33, 70, 256, 257, 600]))
    dtype = draw(dtypes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = (rng.normal(0, draw(st.sampled_from(sizes)), (n, classes)) + draw(st.sampled_from(offsets))).astype(dtype)
    options = {"reduction": draw(reductions)}
    if draw(st.booleans()):
        options["weight"] = rng.uniform(0, 2, classes).astype(dtype)
    if draw(st.booleans()):
        options["sample_weight"] = (rng.uniform(0, 2, n) * (rng.uniform(size=n) < 0.8)).astype(dtype)
    if softmax and draw(st.booleans()):
        options["label_smoothing"] = draw(st.sampled_from([0.1, 0.5, 1.0]))
    if softmax and draw(st.booleans()):
        options["z_loss"] = 1e-3
    if softmax and draw(st.booleans()):
        t = rng.uniform(0, 1, (n, classes)) * (rng.uniform(0, 1, (n, classes)) < 0.7)
        return x, (t / np.maximum(t.sum(1, keepdims=True), 1e-9)).astype(dtype), options
    target = rng.integers(0, classes, n)
    ignored = draw(st.sampled_from([-100, 0]))
    if draw(st.booleans()):
        options["ignore_index"] = ignored
        target[rng.uniform(size=n) < 0.3] = ignored
    return x, target.astype(draw(st.sampled_from([np.int64, np.int32]))), options
