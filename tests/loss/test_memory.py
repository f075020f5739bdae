"""Peak memory of a call: nothing of the input's size beyond the gradient."""

import subprocess
import sys

import pytest

MIB = 1 << 20
# Arrays are made without temporaries, and `out` is touched: what is resident at its peak grows by what a call takes.
SETUP = """
import resource, sys
import numpy as np
from fusedstep import loss
from fusedstep.loss import custom, math

def array(*shape):
    a = np.empty(shape, np.float32)
    for row in a:
        row[...] = 0.5
    return a

def peak():
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used

f = custom(lambda p, t, a=1.0: math.softplus(a * p) - p * t)
small, target = array(8, 8), np.zeros(8, np.int64)
for call in (loss.cross_entropy, loss.nll):
    call(small, target, out=array(8, 8))
loss.mse(small, small), f(small, small, a=small[:, :1].copy(), wrt="a")
"""

CASES = {
    "cross_entropy": (
        "x, out, y = array(256, 50257), array(256, 50257), np.arange(256)",
        "cross_entropy(x, y, out=out)",
    ),
    "smoothed": (
        "x, out, y = array(256, 50257), array(256, 50257), np.arange(256)",
        "cross_entropy(x, y, label_smoothing=0.1, z_loss=1e-4, out=out)",
    ),
    "in place": ("x, y = array(256, 50257), np.arange(256)", "cross_entropy(x, y, out=x)"),
    "probabilities": (
        "x, out, t = array(128, 50257), array(128, 50257), array(128, 50257)",
        "cross_entropy(x, t, out=out)",
    ),
    "short rows": (
        "x, out, y = array(1 << 20, 10), array(1 << 20, 10), np.arange(1 << 20) % 10",
        "cross_entropy(x, y, out=out)",
    ),
    "another axis": (
        "x, out, y = array(32, 1000, 300), array(32, 1000, 300), np.zeros((32, 300), np.int64)",
        "cross_entropy(x, y, axis=1, out=out)",
    ),
    "value alone": ("x, y = array(256, 50257), np.arange(256)", "cross_entropy(x, y, grad=False)"),
    "nll": ("x, out, y = array(256, 50257), array(256, 50257), np.arange(256)", "nll(x, y, out=out)"),
    "elementwise": ("x, t, out = array(256, 50257), array(256, 50257), array(256, 50257)", "huber(x, t, out=out)"),
    "custom": ("x, t, out = array(256, 50257), array(256, 50257), array(256, 50257)", "f(x, t, out=out)"),
    "custom with a gradient of a row's parameter": (
        "x, t, out, a = array(256, 50257), array(256, 50257), array(256, 50257), array(256, 1)",
        "f(x, t, a=a, wrt='a', out=out)",
    ),
    "custom with a gradient of a column's parameter": (
        "x, t, out, a = array(25600, 503), array(25600, 503), array(25600, 503), array(503, 1)[:, 0].copy()",
        "f(x, t, a=a, wrt='a', out=out)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_no_memory_beyond_the_gradient(name):
    arrays, call = CASES[name]
    call = call if call.startswith("f(") else f"loss.{call}"
    code = f"{SETUP}\n{arrays}\nbefore = peak()\n{call}\nprint(peak() - before, x.nbytes)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    extra, size = map(int, done.stdout.split())
    assert extra <= 4 * MIB < size / 5, f"{extra / MIB:.1f} MiB beside arrays of {size / MIB:.1f} MiB"
