"""Make optim.npz: what torch.optim computes for every optimizer and option. `python tests/golden/make.py`, with torch.

The for-loop implementation is asked, neither `foreach` nor `fused`. The file keeps the version of torch. Each
entry is an array of a parameter and its states, in the order of our state names, after the gradients in the file.
"""

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from optim.methods import DTYPES, VARIANTS  # noqa: E402
from optim.peers import torch_optimizer  # noqa: E402


def trajectory(method, start, grads):
    """A parameter and its states after torch stepped it through `grads`."""
    p = torch.tensor(start)
    optimizer = torch_optimizer(method, [p])
    for g in grads:
        p.grad = torch.tensor(g)
        optimizer.step()
    return np.stack([p.numpy(), *(optimizer.state[p][name].numpy() for name in method.state_names)])


def main():
    rng = np.random.default_rng(2)
    start = rng.standard_normal(12)
    grads = rng.standard_normal((8, 12)) * 10 ** rng.uniform(-3, 1, 12)
    results = {
        f"{method}/{np.dtype(dtype)}": trajectory(method, start.astype(dtype), grads.astype(dtype))
        for method in VARIANTS
        for dtype in DTYPES
    }
    np.savez_compressed(HERE / "optim.npz", torch=torch.__version__, start=start, grads=grads, **results)


if __name__ == "__main__":
    main()
