"""The CUDA source of custom losses: its text, and that NVRTC compiles it, as CuPy would have it do."""

import pytest
from fusedstep.loss import custom, math
from fusedstep.loss._emit import OPTIONS, PREAMBLE, emitted

from loss.functions import SMOOTH
from tests.cuda import nvrtc


def source_of(f, *, uniform=(), wanted=(), summed=True):
    """The source of value and gradients; with `summed` the value's sum."""
    program = f._plan(frozenset(uniform), wanted, True).program
    names = [name for name, _ in f._plan(frozenset(uniform), wanted, True).gradients]
    sums = [summed, *(name in uniform for name in names), False]
    return program, emitted(program, sums)


def test_source_of_elements():
    f = custom(lambda pred, target, scale=2.0: scale * (pred - target) ** 2 + math.exp(pred))
    _, source = source_of(f, uniform=("scale",))
    assert source.in_params == "raw T a0, raw S1 a1, float64 n0, float64 n1, float64 n2, int64 size, int64 columns"
    assert source.out_params == "raw float64 o0, raw T o1"
    text = source.operation
    assert text.count("for (") == 1  # value and gradient in one pass
    assert text.count("exp(") == 1  # which both take
    assert text.count("a0[j]") == text.count("a1[j]") == 1
    assert text.count("fma(") == 2


def test_source_of_rows():
    """A pass for each sum that waits for another, and one for the gradient."""
    f = custom(SMOOTH["softmax"])
    _, source = source_of(f)
    assert source.operation.count("for (") == 2
    assert source.operation.count("folded(") == 3
    f = custom(lambda p, t: math.sum((p - math.sum(p) / 7) ** 2) + t)
    _, source = source_of(f)
    assert source.operation.count("for (") == 3  # the mean; what deviations and the gradient sum; the gradient


def test_source_is_the_same_each_time():
    texts = {source_of(custom(SMOOTH["dice"]))[1] for _ in range(3)}
    assert len(texts) == 1


def test_the_gradient_is_written_in_the_last_pass_alone():
    """So that it may lie where the input does."""
    for function in SMOOTH.values():
        _, source = source_of(custom(function))
        body = source.operation
        assert body.rindex("o1[j] =") > body.rindex("for (")
        assert body.count("o1[j] =") == 1


nvrtc_needed = pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not installed (nvidia-cuda-nvrtc)")


@nvrtc_needed
@pytest.mark.parametrize("headers", [False, True], ids=["own", "cupys"])
@pytest.mark.parametrize("name", SMOOTH)
def test_nvrtc_compiles_it(name, headers):
    if headers and nvrtc.cupys_headers() is None:
        pytest.skip("CuPy is not installed")
    for dtypes, wanted in ((("float32", "float32"), ()), (("float64", "int32"), ("t",))):
        _, source = source_of(custom(SMOOTH[name]), wanted=wanted, summed=not wanted)
        text = nvrtc.whole(source, PREAMBLE, dtypes, headers=headers)
        assert nvrtc.compiled(text, OPTIONS)[:4] == b"\x7fELF"


@nvrtc_needed
def test_nvrtc_sees_what_is_wrong():
    _, source = source_of(custom(SMOOTH["cauchy"]))
    text = nvrtc.whole(source, PREAMBLE.replace("log1p", "log2p"), ("float32", "float32"))
    nvrtc.compiled(text)  # templates that nobody takes
    wrong = nvrtc.whole(source, PREAMBLE, ("float32", "float32")).replace("log1p(v", "log2p(v")
    with pytest.raises(RuntimeError, match="log2p"):
        nvrtc.compiled(wrong)
