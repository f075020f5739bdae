"""The stand-in for CUDA's runtime: it runs kernels as the device does, and finds the mistakes that one can make."""

import functools
import math
import os
import subprocess

import pytest

from tests.cuda_host import build
from tests.cuda_host.selftest import Call, LaunchError, command, run

ORDERS = ("forward", "reverse", "random")


@functools.cache
def library(variant="plain"):
    return str(build.library("selftest", variant, {"tests/cuda_host/selftest.cu": build.KERNELS}))


def launch(kernel, **options):
    return run(library(), Call(kernel, **options))


def fails(match, kernel, **options):
    with pytest.raises(LaunchError, match=match):
        launch(kernel, **options)


def in_process(variant, kernel, **options):
    """Run under a sanitizer; returns the process."""
    env = {**build.environment(variant), "PYTHONMALLOC": "malloc"}  # so that arrays have bounds
    return subprocess.run(
        command(library(variant), Call(kernel, **options)), env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("order", ORDERS)
def test_every_thread_of_every_block_runs_once(order):
    _, u = launch("count", grid=(3, 2, 2), block=(5, 3, 2), order=order)
    assert u[:360] == [block * 1000 + thread for block in range(12) for thread in range(30)]


def test_threads_run_in_the_chosen_order():
    n = 2 * 64
    runs = {
        (order, seed): launch("order", grid=(2, 1, 1), block=(64, 1, 1), order=order, seed=seed)[0][:n]
        for order, seed in [("forward", 0), ("reverse", 0), ("random", 0), ("random", 1)]
    }
    assert runs["forward", 0] == list(range(n))
    assert runs["reverse", 0] == list(reversed(range(n)))
    assert sorted(runs["random", 0]) == list(range(n))
    assert len({tuple(run) for run in runs.values()}) == 4
    assert launch("order", grid=(2, 1, 1), block=(64, 1, 1), order="random", seed=1)[0][:n] == runs["random", 1]


@pytest.mark.parametrize("order", ORDERS)
def test_barriers_wait_for_the_block(order):
    x, _ = launch(
        "reverse", grid=(2, 1, 1), block=(96, 1, 1), dynamic_bytes=384, x=list(map(float, range(192))), order=order
    )
    assert x == [float(b * 96 + 95 - t) for b in range(2) for t in range(96)]


def test_shared_memory_begins_as_nan():
    x, _ = launch("poison", grid=(2, 1, 1), block=(64, 1, 1), dynamic_bytes=256)
    assert all(math.isnan(value) for value in x[:128])


@pytest.mark.parametrize("order", ORDERS)
def test_shuffles_and_votes(order):
    x, u = launch("shuffles", order=order)
    for lane in range(32):
        assert x[8 * lane : 8 * lane + 8] == [
            3,
            lane // 8 * 8 + 1,
            lane - 2 if lane >= 2 else lane,
            lane + 16 if lane < 16 else lane,
            lane ^ 5,
            lane + 3 if lane % 8 < 5 else lane,
            lane ^ 15,
            1 + 2,
        ]
    assert u[0] == sum(1 << lane for lane in range(0, 32, 3))


@pytest.mark.parametrize("order", ORDERS)
def test_warp_barriers_wait_for_the_warp(order):
    x, _ = launch("warp_exchange", block=(64, 1, 1), x=list(map(float, range(64))), order=order)
    assert x == [float(i ^ 1) for i in range(64)]


@pytest.mark.parametrize("threads", [1, 3])
def test_atomics(threads):
    x, u = launch("atomics", grid=(8, 1, 1), threads=threads, u=[0, 0, 1000, 0, 0])
    assert x[0] == 256
    assert u[:3] == [256, 255, 0]
    assert 1 <= u[3] <= 256
    assert u[4] == 7


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("order", ORDERS)
def test_a_grid_waits_for_all_its_blocks(order, threads):
    x, _ = launch(
        "rounds", grid=(5, 1, 1), cooperative=True, multiprocessors=5, n=7, order=order, threads=threads, x=[0.0] * 10
    )
    assert x == [7.0] * 5 + [6.0] * 5


@pytest.mark.parametrize("threads", [1, 2])
def test_the_last_block_sees_what_the_others_wrote(threads):
    assert launch("last_block", grid=(6, 1, 1), block=(1, 1, 1), threads=threads)[0][0] == 15


def test_a_loop_that_waits_lets_others_run():
    assert launch("flag", grid=(2, 1, 1), block=(1, 1, 1), cooperative=True)[0][1] == 5


def test_threads_that_have_exited_are_not_waited_for():
    assert launch("early_exit", block=(96, 1, 1))[0][:33] == [1.0] * 32 + [0.0]


@pytest.mark.parametrize(
    ("kernel", "match"),
    [
        ("divergent", r"^block 0, thread 16: threads of a block wait at different barriers: selftest.cu:\d+ and self"),
        ("some_wait", r"^block 0, thread 0: waits for ever at selftest.cu:\d+$"),
        ("full_mask", "mask 0xFFFFFFFF names lanes that have exited or never were: 0x0000FFFF at selftest.cu"),
        ("lane_leaves", "lane 31 exited while others wait for it at selftest.cu"),
        ("other_mask", "lane 0 is not in its own mask 0xFFFF0000"),
        ("two_places", "lanes of a warp wait at different places: selftest.cu"),
        ("throws", "block 0, thread 3: thrown"),
    ],
)
def test_mistakes_are_errors_of_the_launch(kernel, match):
    fails(match, kernel)
    assert launch("warp_exchange", x=[1.0, 2.0] * 16)[0] == [2.0, 1.0] * 16  # the next launch is as good as any


def test_a_full_mask_needs_a_full_warp():
    fails("never were: 0xFFFFFF00", "shuffles", block=(8, 1, 1))


def test_a_wait_without_end_is_an_error():
    fails("no thread got on for 0.1", "waits_for_ever", patience=0.1)
    fails("no thread got on for 0.1", "waits_for_ever", grid=(2, 1, 1), cooperative=True, threads=2, patience=0.1)


@pytest.mark.parametrize(
    ("error", "options"),
    [
        ("cudaErrorInvalidConfiguration", {"block": (1025, 1, 1)}),
        ("cudaErrorInvalidConfiguration", {"block": (1, 1, 65)}),
        ("cudaErrorInvalidConfiguration", {"grid": (0, 1, 1)}),
        ("cudaErrorInvalidConfiguration", {"grid": (1, 65536, 1)}),
        ("cudaErrorInvalidValue", {"dynamic_bytes": 48 * 1024 + 1}),
        ("cudaErrorCooperativeLaunchTooLarge", {"grid": (5, 1, 1), "cooperative": True}),
        ("cudaErrorInsufficientDriver", {"driver": False}),
    ],
)
def test_launches_that_cuda_refuses(error, options):
    fails(f"^{error}$", "count", **options)


@pytest.mark.parametrize(
    ("kernel", "options", "finding"),
    [
        ("beyond_dynamic", {"dynamic_bytes": 128}, "heap-buffer-overflow"),
        ("beyond_static", {}, "heap-buffer-overflow"),
        ("beyond_global", {"n": 1024, "grid": (33, 1, 1)}, "heap-buffer-overflow"),
        ("vectors", {"n": 1}, "misaligned address"),
    ],
)
def test_accesses_out_of_bounds_are_found(kernel, options, finding):
    done = in_process("address", kernel, **options)
    assert done.returncode
    assert finding in done.stderr
    assert "selftest.cu" in done.stderr


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ("no_barrier", {"block": (64, 1, 1), "dynamic_bytes": 256}),
        ("no_warp_barrier", {}),
        ("reused_memory", {"block": (64, 1, 1)}),
        ("blocks_race", {"grid": (2, 1, 1), "block": (1, 1, 1)}),
        ("no_fence", {"grid": (3, 1, 1), "block": (1, 1, 1)}),
    ],
)
def test_races_are_found(kernel, options):
    done = in_process("thread", kernel, **options)
    assert done.returncode == 66
    assert "data race" in done.stderr


@pytest.mark.parametrize("variant", ["address", "thread"])
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ("reverse", {"block": (64, 1, 1), "grid": (2, 1, 1), "dynamic_bytes": 256}),
        ("shuffles", {}),
        ("warp_exchange", {}),
        ("last_block", {"grid": (3, 1, 1), "block": (1, 1, 1)}),
        ("flag", {"grid": (2, 1, 1), "block": (1, 1, 1), "cooperative": True}),
        ("rounds", {"grid": (3, 1, 1), "cooperative": True, "n": 4, "threads": 2}),
        ("vectors", {"n": 4}),
    ],
)
def test_sanitizers_are_silent_where_there_is_no_mistake(variant, kernel, options):
    done = in_process(variant, kernel, **options)
    assert not done.returncode, done.stderr
    assert not done.stderr


def test_environment_has_no_sanitizer_by_default():
    assert build.environment("plain") == dict(os.environ)
