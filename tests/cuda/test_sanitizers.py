"""The kernels under AddressSanitizer with UndefinedBehaviorSanitizer, and under ThreadSanitizer."""

import subprocess
import sys

import pytest

from tests.cuda_host import build


def few_rules():
    """The sources with two rules: what bugs look like does not depend on the rule."""
    return build.changed("few-rules", [("optim/rules.h", r"TemplateList<.*?>", "TemplateList<Adam, Adagrad>")])


def run(variant, *arguments):
    """Python with the sanitizer of a variant."""
    env = {**build.environment(variant), "FUSEDSTEP_CUDA_HOST": variant}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=env, cwd=build.ROOT, capture_output=True, text=True, check=False
    )


def test_memory_is_accessed_within_bounds():
    """All tests of the update and norm kernels, where an array's memory ends with its last element."""
    tests = ["tests/cuda/test_update_kernels.py", "tests/cuda/test_norm_kernels.py"]
    orders = ["-k", "not forward and not reverse"]
    done = run("address", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *orders, *tests)
    assert not done.returncode, done.stdout + done.stderr
    assert " passed" in done.stdout


# The tests of the module: all kernels, with every cell and type.
OF_THE_MODULE = ("custom_losses", "dispatch", "losses", "optimizers", "profile", "rnn_cells", "rnn_frozen", "rnn_int8")
OF_THE_MODULE += ("rnn_kernels", "rnn_lean", "rnn_noise", "rnn_norm", "rnn_sequences", "rnn_stream")


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_THE_MODULE)
def test_the_module_accesses_memory_within_bounds(name):
    """A file of tests, whole: the kernels, the bindings and the runtime are instrumented, Python is not."""
    options = ["-q", "-x", "-p", "no:cacheprovider", "--capture=sys"]  # what the sanitizer says is not Python's
    done = run("address", "-m", "pytest", *options, f"tests/cuda/test_{name}.py")
    assert not done.returncode, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("part", ["updates", "norms"])
def test_threads_do_not_race(part):
    done = run("thread", "-m", "tests.cuda.optim_launches", "thread", part, few_rules())
    assert not done.returncode, done.stdout + done.stderr
    assert not done.stderr


# What is changed, the variant that shows it, and what it says.
MUTANTS = {
    "sums-read-before-they-are-written": (
        ("cuda/reduce.cuh", r"__syncthreads\(\);(\n    if \(warp == 0\)\n)", r"\1"),
        "thread",
        "data race",
    ),
    "sums-overwritten-before-they-are-read": (
        ("cuda/reduce.cuh", r"(sum \+= shared.sums\[i\];\n)    __syncthreads\(\);\n", r"\1"),
        "thread",
        "data race",
    ),
    "warps-read-before-they-are-written": (
        ("cuda/reduce.cuh", r"(shared.nonfinite\[warp\] = nonfinite;\n)  __syncthreads\(\);\n", r"\1"),
        "thread",
        "data race",
    ),
    "half-of-the-lanes-shuffle": (
        ("cuda/reduce.cuh", r"(half /= 2\)) (sum \+= __shfl)", r"\1 if (threadIdx.x % kWarp < half) \2"),
        "plain",
        "exited while others wait for it at reduce.cuh",
    ),
    "no-second-scale": (
        ("cuda/reduce.cuh", r"double x = double\(widened\(loaded\[k\]\)\) \* scale", "double x = widened(loaded[k])"),
        "plain",
        "AssertionError",
    ),
    "tail-too-long": (
        ("cuda/multi_tensor.cuh", r"(i) < (size - turns \* Chunk::width; i \+=)", r"\1 <= \2"),
        "address",
        "heap-buffer-overflow",
    ),
    "states-not-looked-at": (
        ("cuda/multi_tensor.cuh", r"    for [^\n]* addresses \|= [^\n]*state\[i\] \+ at\);\n", ""),
        "address",
        "misaligned address",
    ),
    "chunk-too-short": (
        ("cuda/multi_tensor.cuh", r"(std::size_t end = std::size_t\(part \+ 1\) \* kChunk \+ head)", r"\1 - 1"),
        "plain",
        "AssertionError",
    ),
    "not-applied-is-applied": (
        ("cuda/multi_tensor.cuh", r"  if \(report && !report->applied\) return;\n", ""),
        "plain",
        "AssertionError",
    ),
    "the-tensor-after": (("cuda/tensors.cuh", r"part < (tensors\[middle\])", r"part <= \1"), "plain", "AssertionError"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_bug_in_the_sources_is_found(mutant):
    edit, variant, finding = MUTANTS[mutant]
    part = "norms" if edit[0] == "cuda/reduce.cuh" else "updates"
    base = few_rules()
    done = run(variant, "-m", "tests.cuda.optim_launches", variant, part, base, build.changed(mutant, [edit], base))
    assert done.returncode, "the bug was not found"
    assert finding in done.stderr


@pytest.mark.parametrize("side", ["RELEASE", "ACQUIRE"])
def test_a_wrong_order_of_the_grids_barrier_is_found(side):
    from tests.cuda_host.selftest import Call, command

    call = Call("rounds", grid=(2, 1, 1), cooperative=True, n=4)
    edit = ("cuda/block.cuh", f"__NV_ATOMIC_{side}", "__NV_ATOMIC_RELAXED")
    sources = {"tests/cuda_host/selftest.cu": build.KERNELS}
    library = build.library("selftest", "thread", sources, build.changed(f"barrier-{side}", [edit]))
    env = build.environment("thread")
    done = subprocess.run(command(str(library), call), env=env, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "data race" in done.stderr
