"""Sequences have the bits of loops over cells, however they are run: in any form, in pieces, on any machine."""

import itertools
from dataclasses import replace

import fusedstep
import numpy as np
import pytest
from digests import assert_same_under
from fusedstep.rnn import CELLS
from hypothesis import given
from hypothesis import strategies as st

from .cells import DTYPES, STATES, arrays_of, assert_same_bits, structured
from .sequences import DIGEST_CASES, MODULES, REFERENCES, cell_kind, digest, draw, mirror, thread_count

kinds = pytest.mark.parametrize("kind", MODULES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


@st.composite
def cases(draw_from, kinds=tuple(MODULES), max_layers=3, bidirectional=None, shortest=True, max_steps=6):
    """A random case of any module: few rows or more than a block of them, widths that fill no vector."""
    bidirectional = draw_from(st.booleans()) if bidirectional is None else bidirectional
    return draw(
        draw_from(st.sampled_from(sorted(kinds))),
        draw_from(st.integers(1, max_steps)),
        draw_from(st.one_of(st.integers(1, 5), st.sampled_from([17, 70, 130]))),
        draw_from(st.integers(1, 40)),
        draw_from(st.integers(1, 40)),
        draw_from(st.sampled_from(DTYPES)),
        num_layers=draw_from(st.integers(1, max_layers)),
        bidirectional=bidirectional,
        bias=draw_from(st.booleans()),
        shortest=draw_from(st.sampled_from([None, 0, 1])) if shortest else None,
        reset=draw_from(st.booleans()) and not bidirectional,
        seed=draw_from(st.integers(0, 9)),
    )


# Work for more than one thread, and for more than one block of rows, of columns and of the sums over time and batch,
# and one chunk of steps backward.
LARGE = {
    "batch": {"T": 4, "B": 130, "inputs": 70, "H": 150, "num_layers": 2, "bidirectional": True, "shortest": 0},
    "wide": {"T": 3, "B": 6, "inputs": 300, "H": 280, "num_layers": 2, "shortest": 1},
    "row": {"T": 6, "B": 1, "inputs": 128, "H": 520, "reset": True},
    "long": {"T": 70, "B": 9, "inputs": 33, "H": 64, "reset": True, "shortest": 0},
    "chunks": {"T": 130, "B": 100, "inputs": 3, "H": 5, "bidirectional": True, "shortest": 0},
}
large = pytest.mark.parametrize("name", LARGE)


def check_mirror(case):
    """A run equals the mirror to the bit; its weight gradients, summed in another order, to within their rounding."""
    actual = case.run()
    desired, gradients, sizes = mirror(case)
    assert_same_bits({name: actual[name] for name in desired}, desired)
    assert actual.keys() - desired.keys() == gradients.keys() == case.weights.keys()
    for name, true in gradients.items():
        assert actual[name].shape == true.shape, name
        assert actual[name].dtype == case.x.dtype
        bound = 20 * np.finfo(case.x.dtype).eps * max(sizes[name].max(), 1e-3)
        assert np.abs(actual[name] - true).max() <= bound, name
    states = {name: desired[name] for name in ("y", *STATES) if name in desired}
    assert_same_bits(case.infer(), states)


@given(case=cases((*CELLS, *REFERENCES)))
def test_sequence_equals_loop_over_cells(case):
    check_mirror(case)


@pytest.mark.parametrize("kind", [*CELLS, *REFERENCES])
@large
def test_large_sequence_equals_loop_over_cells(kind, name):
    check_mirror(draw(kind, **LARGE[name]))


def apart(array):
    """The array with steps, rows and what lies between them in a larger one."""
    wide = np.full([2 * n + 1 for n in array.shape], np.nan, array.dtype)
    view = wide[tuple(slice(1, 2 * n, 2) for n in array.shape[:-1])][..., 1 : 1 + array.shape[-1]]
    view[...] = array
    return view


def backwards(array):
    """The array with its first two axes reversed in memory."""
    return array[::-1, ::-1].copy()[::-1, ::-1]


def fortran(array):
    """The array with its first axis innermost but one."""
    return array.swapaxes(0, 1).copy().swapaxes(0, 1)


def filled(case):
    return {name: np.full_like(w, np.nan) for name, w in case.weights.items()}


def all_lengths(case):
    T, B, _ = case.x.shape
    return replace(case, lengths=np.full(B, T) if case.lengths is None else case.lengths.astype(np.uint8))


def all_resets(case):
    given = case.bidirectional or case.reset is not None
    return case if given else replace(case, reset=np.zeros(case.x.shape[:2], bool))


def on_threads(n, **options):
    def run(case):
        with thread_count(n):
            return case.run(**options)

    return run


# Other ways to run a case that give the same bits in everything, weight gradients too.
WAYS = {
    "lean tape": lambda case: case.run(tape="lean"),
    "batch first": lambda case: case.run(layout="batch first"),
    "apart": lambda case: case.run(wrap=apart),
    "apart, batch first": lambda case: case.run(layout="batch first", wrap=apart),
    "reversed in memory": lambda case: case.run(wrap=backwards),
    "batch first in memory": lambda case: case.run(wrap=fortran),
    "frozen": lambda case: case.run(case.module().freeze()),
    "frozen, lean tape": lambda case: case.run(case.module().freeze(), tape="lean"),
    "frozen and not": lambda case: case.run(case.module().freeze().unfreeze()),
    "out": lambda case: case.run(out=filled(case)),
    "lengths given": lambda case: all_lengths(case).run(),
    "reset given": lambda case: all_resets(case).run(),
    "1 thread": on_threads(1),
    "2 threads": on_threads(2),
    "3 threads": on_threads(3),
    "3 threads, lean tape": on_threads(3, tape="lean"),
}


@pytest.mark.parametrize("way", WAYS)
@given(case=cases())
def test_ways_to_run_agree(way, case):
    assert_same_bits(WAYS[way](case), case.run())


@kinds
@large
def test_thread_counts_agree_on_large_sequences(kind, name):
    case = draw(kind, **LARGE[name])
    frozen = case.module().freeze()
    desired, inferred = on_threads(1)(case), case.infer()
    for n, tape in itertools.product((2, 3), ("full", "lean")):
        assert_same_bits(on_threads(n, tape=tape)(case), desired)
        with thread_count(n):
            assert_same_bits(case.infer(frozen), inferred)


@kinds
@dtypes
def test_dropout_does_not_depend_on_threads_tape_or_layout(kind, dtype):
    case = draw(kind, 5, 70, 9, 40, dtype, num_layers=3, bidirectional=True, shortest=0)
    module, turned = (case.module(dropout=0.4, batch_first=first) for first in (False, True))
    desired = on_threads(1, module=module, seed=7)(case)
    for n, tape in itertools.product((1, 2, 3), ("full", "lean")):
        assert_same_bits(on_threads(n, module=module, seed=7, tape=tape)(case), desired)
    assert_same_bits(case.run(turned, "batch first", seed=7), desired)
    assert_same_bits(case.run(module.freeze(), seed=7), desired)


@given(case=cases(), data=st.data())
def test_rows_alone_equal_rows_in_batch(case, data):
    B = case.x.shape[1]
    index = data.draw(st.lists(st.integers(0, B - 1), min_size=1, max_size=4), label="rows")
    whole, part = case.run(), case.rows(index).run()
    names = whole.keys() - case.weights.keys()
    assert_same_bits({name: part[name] for name in names}, {name: whole[name][:, index] for name in names})


@kinds
@pytest.mark.parametrize("name", ["batch", "wide", "long"])
def test_rows_of_large_sequences_equal_rows_alone(kind, name):
    case, index = draw(kind, **LARGE[name]), [0, 5]
    whole, part = case.run(), case.rows(index).run()
    names = whole.keys() - case.weights.keys()
    assert_same_bits({name: part[name] for name in names}, {name: whole[name][:, index] for name in names})


@given(case=cases([kind for kind in MODULES if kind.startswith("projected")]), tape=st.sampled_from(["full", "lean"]))
def test_projection_that_selects_units_equals_none(case, tape):
    """Its h are the first units of an LSTM whose other units nothing reads; zeros may differ in their signs."""
    H, P, directions = case.hidden_size, case.width, case.directions

    def widen(array, axis=-1, parts=1):
        """Zeros after each of the parts of an axis, which are P wide, up to H."""
        before = [(0, 0)] * array.ndim
        before[axis] = (0, H - P)
        return np.concatenate([np.pad(part, before) for part in np.split(array, parts, axis)], axis)

    def widened(weights):
        return {
            name: widen(w, parts=directions if name.startswith("weight_ih") else 1)
            if name.startswith("weight_hh") or (name.startswith("weight_ih") and "_l0" not in name)
            else w
            for name, w in weights.items()
            if not name.startswith("weight_hr")
        }

    for name, w in case.weights.items():
        if name.startswith("weight_hr"):
            w[...] = np.eye(P, H)
    plain = replace(
        case,
        kind=cell_kind(case.kind),
        states=(widen(case.states[0]), case.states[1]),
        weights=widened(case.weights),
        dy=widen(case.dy, parts=directions),
        dstates=(widen(case.dstates[0]), case.dstates[1]),
    )
    desired, actual = plain.run(), case.run(tape=tape)
    first = np.concatenate([np.arange(P) + d * H for d in range(directions)])
    np.testing.assert_array_equal(actual["y"], desired["y"][..., first])
    for name in ("h", "dh"):
        np.testing.assert_array_equal(actual[name], desired[name][..., :P])
    for name in ("c", "dc", "dx"):
        np.testing.assert_array_equal(actual[name], desired[name])
    for name, gradient in widened({name: actual[name] for name in case.weights}).items():
        kept = widened({name: np.ones_like(case.weights[name])})[name]
        np.testing.assert_array_equal(gradient, desired[name] * kept, err_msg=name)


@given(case=cases(shortest=False), row=st.integers(0, 4))
def test_unbatched_equals_batch_of_one(case, row):
    part = case.rows([row % case.x.shape[1]])
    assert_same_bits(part.run(layout="unbatched"), part.run())


@given(case=cases(bidirectional=False), data=st.data())
def test_sequence_in_two_parts_equals_whole(case, data):
    T = len(case.x)
    at = data.draw(st.integers(0, T), label="at")
    module, whole = case.module(), case.run()
    (x, state, lengths), keywords, _ = case.steps(0, at).arguments()
    y_first, state, first = module.forward(x, state, lengths, **keywords)
    (x, _, lengths), keywords, _ = case.steps(at, T).arguments()
    y_second, state, second = module.forward(x, state, lengths, **keywords)
    after = module.backward(second, case.dy[at:], structured(case.dstates))
    before = module.backward(first, case.dy[:at], after.state)
    parts = {"y": np.concatenate([y_first, y_second]), "dx": np.concatenate([before.x, after.x])}
    parts |= dict(zip(STATES, arrays_of(state), strict=False))
    parts |= {f"d{name}": d for name, d in zip(STATES, arrays_of(before.state), strict=False)}
    assert_same_bits(parts, {name: whole[name] for name in parts})


@pytest.mark.parametrize("frozen", [False, True], ids=["unfrozen", "frozen"])
@given(case=cases(bidirectional=False, shortest=False), threads=st.sampled_from([1, 2]))
def test_stream_equals_sequence(case, threads, frozen):
    case = case.from_zeros()
    T, B, _ = case.x.shape
    module, desired = case.module(), case.infer()
    if frozen:
        module.freeze()
    stream = module.stream(batch=B, threads=threads)
    out = np.empty_like(case.x, shape=(T, B, case.width))
    for t in range(T):
        if case.reset is not None:
            stream.reset(np.flatnonzero(case.reset[t]))
        if t % 2:
            stream.step(case.x[t], out=out[t])
        else:
            out[t] = stream.step(case.x[t])
    assert_same_bits({"y": out, **dict(zip(STATES, arrays_of(stream.state), strict=False))}, desired)
    stream.reset()
    assert_same_bits([stream.step(case.x[0])], [out[0]])


@kinds
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_wide_stream_of_one_row_equals_sequence(kind, threads):
    case = draw(kind, 5, 1, 200, 300, num_layers=2).from_zeros()
    stream = case.module().stream(threads=threads)
    y = np.stack([stream.step(x[0]) for x in case.x])
    assert_same_bits([y], [case.infer()["y"][:, 0]])


@kinds
def test_flush_denormal_changes_nothing(kind):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing sets flush-denormal")
    case = draw(kind, 3, 3, 8, 8, num_layers=2).map(lambda array: array * np.float32(1e-38))
    desired = case.run()
    assert any(np.any((np.abs(a) > 0) & (np.abs(a) < np.finfo(np.float32).tiny)) for a in desired.values())
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU has no flush-denormal mode")
    try:
        flushed = case.run()
    finally:
        torch.set_flush_denormal(False)
    assert_same_bits(flushed, desired)


@pytest.fixture(scope="module")
def own_digest():
    return digest()


@pytest.mark.parametrize("isa", fusedstep.build_info()["isas"])
def test_instruction_sets_agree(isa, own_digest):
    assert_same_under("rnn.sequences", isa, own_digest)


def test_digest_tells_results_apart(own_digest):
    assert len(set(own_digest.values())) == len(own_digest) == len(MODULES) * len(DTYPES) * len(DIGEST_CASES)
