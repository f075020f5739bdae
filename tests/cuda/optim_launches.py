"""Each of the optimizers' kernels in launches of few blocks, checked: for sanitizers, and for sources with a bug.

`python -m tests.cuda.optim_launches VARIANT PART ROOTS…`: PART is "updates" or "norms", ROOTS as in `build.library`.
"""

import math
import sys
from pathlib import Path

import numpy as np

from tests.cuda.launchers import BLOCK_SUM, CHUNK, NORM_BLOCK, REPORT, RULE_BYTES, Launchers, launchers
from tests.cuda.tensors import check_steps, draw, gradients, numbered, step, widen
from tests.optim.test_bits import clip, in_lanes, reference_norm


def check_updates(kernels: Launchers) -> None:
    """Both paths of the update, with heads, tails and a second chunk; and a step that is not applied."""
    rng = np.random.default_rng(1)
    for storage, master in [("f32", False), ("f16", True)]:
        places = [(0, [0] * 6), (1, [3] * 6), (77, [5] * 6), (40, [0, 0, 1, 1, 1, 1]), (CHUNK + 9, [2] * 6)]
        tensors = [draw(rng, n, storage, master, 2, offsets, False) for n, offsets in places]
        check_steps(kernels, "adam", storage, tensors, zero=True)

    tensor = draw(rng, 40, "f32", False, 2, [0] * 6)
    report = np.array((math.nan, 0, 0, 1.0, 1.0), REPORT)
    before = tensor.copy()
    step(kernels, "adam", "f32", [tensor], np.zeros(1), np.zeros(RULE_BYTES, np.uint8), report=report)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(tensor.arrays(), before.arrays(), strict=True))


def check_norms(kernels: Launchers) -> None:
    """Several blocks, warps and formats; gradients whose squares overflow; more sums than shared memory holds."""
    rng = np.random.default_rng(2)
    tensors = numbered(
        [t for storage in ("f32", "bf16") for t in gradients(rng, storage, (5, 2 * NORM_BLOCK + 33, 32))]
    )
    report = kernels.norm(tensors, max_norm=2)
    norm = reference_norm([widen(tensor.g, storage) for storage, tensor in tensors])
    assert (report["norm"], report["multiplier"]) == (norm, clip(norm, 2))

    large = numbered(gradients(rng, "f64", (NORM_BLOCK + 1,), 1e200))
    assert kernels.norm(large)["norm"] == reference_norm([large[0][1].g * 2.0**-600]) * 2.0**600

    sums = np.zeros(5000, BLOCK_SUM)
    sums["sum"], sums["number"] = rng.random(5000), np.arange(5000)
    assert kernels.finish_norm(sums)["norm"] == math.sqrt(in_lanes(sums["sum"]))
    sums["sum"][[4500, 4999]] = math.inf
    assert kernels.finish_norm(sums)["first_nonfinite"] == 4500


if __name__ == "__main__":
    variant, part, *roots = sys.argv[1:]
    {"updates": check_updates, "norms": check_norms}[part](launchers(variant, *map(Path, roots)))
