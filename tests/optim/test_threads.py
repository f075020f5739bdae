"""Threads and processes: two at once, after a fork, and beside a library that flushes subnormals."""

import math
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fusedstep.optim import Adam

from .methods import Mirror, assert_same_bits, normal


def run(method, params, grads, steps, **options):
    """Parameters after some steps over them."""
    optimizer = method.optimizer(params)
    for _ in range(steps):
        optimizer.step(grads, **options)
    return params


def test_python_threads_step_their_own_optimizers_at_once(method, dtype, rng, threads):
    threads(2)
    work = [
        ([normal(rng, n, dtype) for n in (100_003, 7)], [normal(rng, n, dtype) for n in (100_003, 7)]) for _ in "ab"
    ]
    desired = [run(method, [p.copy() for p in params], grads, 10, max_norm=1.0) for params, grads in work]
    with ThreadPoolExecutor(2) as pool:
        actual = list(pool.map(lambda job: run(method, *job, 10, max_norm=1.0), work))
    for own, wanted in zip(actual, desired, strict=True):
        for a, d in zip(own, wanted, strict=True):
            assert_same_bits(a, d)


def test_python_threads_share_one_optimizer(threads):
    """Each of their steps happens once, whatever the order: the gradients are equal."""
    threads(2)
    n = 50_000
    p, g = np.ones(n), np.linspace(-1, 1, n)
    desired = run_adam(np.ones(n), g, 40)
    optimizer = Adam(p)

    def work(_):
        for _ in range(20):
            optimizer.step(g)
            optimizer.lr = 1e-3

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    assert optimizer.state[0]["step"] == 40
    assert_same_bits(p, desired)


def run_adam(p, g, steps):
    optimizer = Adam(p)
    for _ in range(steps):
        optimizer.step(g)
    return p


def test_number_of_threads_may_change_between_steps(method, dtype, rng, threads):
    params, grads = ([normal(rng, n, dtype) for n in (100_003, 7)] for _ in range(2))
    mirror = Mirror(method, params)
    optimizer = method.optimizer(params)
    for count in (1, 2, 4, 1, 3):
        threads(count)
        optimizer.step(grads)
        mirror.step(grads)
    mirror.assert_equals(params, optimizer)


def test_gil_is_released(threads):
    """Another thread runs while a step does: it wakes up often, although no step lets go of the GIL by itself."""
    threads(1)
    p, g = np.ones(20_000_000, np.float32), np.ones(20_000_000, np.float32)
    optimizer = Adam(p)
    optimizer.step(g)  # the states' memory is there
    wakes, stop = [], threading.Event()

    def wake():
        while not stop.is_set():
            wakes.append(time.perf_counter())
            time.sleep(0.0005)

    other = threading.Thread(target=wake)
    other.start()
    try:
        begin = time.perf_counter()
        optimizer.step(g, check_finite=True)
        end = time.perf_counter()
    finally:
        stop.set()
        other.join()
    assert sum(begin < t < end for t in wakes) >= 3


FORK = """
import os, fusedstep, numpy as np
from fusedstep.optim import Adam

def run():
    p, g = np.ones(200_000), np.linspace(-1, 1, 200_000)
    optimizer = Adam(p)
    for _ in range(3):
        optimizer.step(g, max_norm=1.0)
    return p

fusedstep.set_num_threads(2)
desired = run()  # the threads run before the fork
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(run(), desired) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(run(), desired)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_after_use():
    """The child steps on threads of its own and gets the parent's bits; so does the parent afterwards."""
    # A process of its own: libraries that other tests have loaded forbid a fork.
    forked = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert forked.returncode == 0, forked.stderr


@pytest.fixture
def flush():
    """torch.set_flush_denormal, which concerns the thread that calls it, undone afterwards."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.set_flush_denormal(False):
        pytest.skip("this machine has no such mode")
    yield torch.set_flush_denormal
    torch.set_flush_denormal(False)


def test_flushing_subnormals_elsewhere_changes_no_bit(method, dtype, flush, threads):
    """Parameters, states and norms; and afterwards the setting is as torch left it."""
    tiny = np.finfo(dtype).tiny
    start = np.linspace(-8, 8, 100_003).astype(dtype) * tiny
    g = start[::-1] * dtype(0.3)
    mirror = Mirror(method, [start])
    norm = method.optimizer(start.copy()).step(g, check_finite=True).norm
    for _ in range(3):
        mirror.step([g])
    for count in (1, 2, 5):  # new threads inherit the mode of the one that starts them
        p = start.copy()
        optimizer = method.optimizer(p)
        threads(count)
        flush(True)
        infos = [optimizer.step(g, check_finite=True) for _ in range(3)]
        still_flushes = (start[50_001:50_003] * dtype(0.25) == 0).all()
        flush(False)
        assert still_flushes
        assert [info.norm for info in infos] == [norm] * 3
        mirror.assert_equals([p], optimizer)


def test_norm_is_stable_between_runs(threads, rng):
    grads = [normal(rng, n, np.float32) for n in (300_000, 5, 70_001)]
    norms = set()
    for count in (1, 2, 1, 2):
        threads(count)
        norms.add(Adam([np.zeros_like(g) for g in grads]).step(grads, check_finite=True).norm)
    assert len(norms) == 1
    assert math.isfinite(norms.pop())
