"""The recurrent kernels under AddressSanitizer with UndefinedBehaviorSanitizer and under ThreadSanitizer; and bugs in
them, which these, or the comparison of both ways to take steps, find."""

import functools

import pytest

from tests.cuda.test_sanitizers import run
from tests.cuda_host import build


@functools.cache
def changed(name, cells):
    """The sources with few cells, blocks of fewer threads, and float32 alone: bugs look the same in all of them."""
    edits = [
        ("rnn/cells.h", r"TemplateList<.*?>", f"TemplateList<{cells}>"),
        ("cuda/product.cuh", "kThreads = 256", "kThreads = 64"),
        ("cuda/pointwise.cuh", "kUnits = 32, kRows = 8", "kUnits = 4, kRows = 2"),
        ("cuda/row_sums.cuh", "kRowThreads = 512", "kRowThreads = 64"),
        ("cuda/noise.cuh", "kMaskUnits = 32, kMaskRows = 8", "kMaskUnits = 4, kMaskRows = 2"),
        ("cuda/rnn_steps.cu", r"operator\(\)<double>", "operator()<float>"),
    ]
    return build.changed(name, edits)


def one_cell():
    return changed("one-cell", "GRUResetBefore")


def two_cells():
    return changed("two-cells", "CoupledPeepholeLSTM, GRUResetBefore")


def normed_cell():
    return changed("normed-cell", "LayerNormLSTM")


def launches(variant, *roots, of="rnn"):
    return run(variant, "-m", f"tests.cuda.{of}_launches", variant, *roots)


@pytest.mark.parametrize(("cells", "of"), [(two_cells, "rnn"), (normed_cell, "norm")], ids=["cells", "norms"])
def test_memory_is_accessed_within_bounds(cells, of):
    done = launches("address", cells(), of=of)
    assert not done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("cells", "of"), [(one_cell, "rnn"), (normed_cell, "norm")], ids=["cells", "norms"])
def test_threads_do_not_race(cells, of):
    done = launches("thread", cells(), of=of)
    assert not done.returncode, done.stdout + done.stderr
    assert not done.stderr


# What is changed, the variant that shows it, and what it says.
MUTANTS = {
    "vectors-read-before-they-are-written": (
        ("cuda/rnn.cuh", r"(kThreads\);\n)    __syncthreads\(\);\n(    multiply\()", r"\1\2"),
        "thread",
        "data race",
    ),
    "blocks-do-not-wait": (
        ("cuda/rnn.cuh", r"(finish\(own, a, s\);\n      \}\);\n)      slice\.meet\(\);\n", r"\1"),
        "thread",
        "data race",
    ),
    "a-value-too-many": (("cuda/product.cuh", r"i < n; i \+= threads", "i <= n; i += threads"), "address", "overflow"),
    "dropped-units-are-seen": (
        ("cuda/rnn.cuh", r"\(r.mask \? r.masked : r.h\)", "r.h"),
        "plain",
        "AssertionError",
    ),
    "m-after-zoneout": (
        (
            "cuda/recurrence.cuh",
            r"Cell::output\(from.a\[Cell::O\], next\[1\]\)",
            "Cell::output(from.a[Cell::O], from.next_c)",
        ),
        "address",
        "AssertionError",
    ),
    "operands-of-another-chunk": (
        ("cuda/rnn.cuh", r"if \(step > \(more", "if (slice.mine(row0) && step > (more"),
        "plain",
        "AssertionError",
    ),
}


# The same of the kernels that normalise rows.
NORM_MUTANTS = {
    "sums-read-before-they-are-left": (
        ("cuda/row_sums.cuh", r"(F make\) const \{\n)    __syncthreads\(\);\n", r"\1"),
        "thread",
        "data race",
    ),
    "values-read-before-they-are-made": (
        ("cuda/row_sums.cuh", r"(T\(other.raw\);\n    \}\n)    __syncthreads\(\);\n", r"\1"),
        "thread",
        "data race",
    ),
    "sums-of-no-units": (("cuda/row_sums.cuh", r"unit >= H \|\| threadIdx", "threadIdx"), "address", "overflow"),
    "a-short-block-as-a-whole-one": (
        ("rnn/norm.h", "return H - unit < kNormUnits . H - unit : kNormUnits", "return unit > H ? 0 : kNormUnits"),
        "plain",
        "AssertionError",
    ),
    "dropped-lanes": (
        ("cuda/row_sums.cuh", r"half = kNormUnits / 2; half;", "half = 4; half;"),
        "plain",
        "AssertionError",
    ),
}


@pytest.mark.parametrize("mutant", [*MUTANTS, *NORM_MUTANTS])
def test_a_bug_in_the_sources_is_found(mutant):
    of_norms = mutant in NORM_MUTANTS
    edit, variant, finding = (NORM_MUTANTS if of_norms else MUTANTS)[mutant]
    base = normed_cell() if of_norms else two_cells() if variant == "address" else one_cell()
    done = launches(variant, base, build.changed(mutant, [edit], base), of="norm" if of_norms else "rnn")
    assert done.returncode, "the bug was not found"
    assert finding in done.stderr
