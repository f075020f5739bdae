"""The same bits: alone or in a batch, on any number of threads and any instruction set, frozen or not, in any array."""

import itertools

import fusedstep
import numpy as np
import pytest
from digests import assert_same_under
from fusedstep.rnn import CELLS
from hypothesis import given
from hypothesis import strategies as st

from .cells import DTYPES, arrays_of, assert_same_bits, digest, draw, structured

kinds = pytest.mark.parametrize("kind", CELLS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
biases = st.sampled_from([(), ("bias_ih",), ("bias_hh",), ("bias_ih", "bias_hh")])


@st.composite
def steps(draw_from, min_rows=0, max_rows=40, max_width=70):
    """A random step of any cell, dtype and shape."""
    return draw(
        draw_from(st.sampled_from(sorted(CELLS))),
        draw_from(st.integers(min_rows, max_rows)),
        draw_from(st.integers(1, max_width)),
        draw_from(st.integers(1, max_width)),
        draw_from(st.sampled_from(DTYPES)),
        biases=draw_from(biases),
        seed=draw_from(st.integers(0, 9)),
    )


@kinds
@dtypes
def test_row_alone_equals_row_in_batch(kind, dtype):
    step = draw(kind, 70, 23, 37, dtype)
    whole = step.forward()
    for B in range(1, 71):
        assert_same_bits(step.rows(slice(B)).forward(), [a[:B] for a in whole])
        assert_same_bits(step.rows(slice(B - 1, B)).forward(), [a[B - 1 : B] for a in whole])
        assert_same_bits(step.rows(B - 1).forward(), [a[B - 1] for a in whole])


@kinds
@dtypes
def test_gradients_of_row_alone_equal_those_in_batch(kind, dtype):
    step = draw(kind, 70, 23, 37, dtype)
    whole = step.backward()
    of_rows = [name for name in whole if not name.startswith(("weight", "bias"))]
    for B in range(1, 71):
        for rows in (slice(B), slice(B - 1, B), B - 1):
            part = step.rows(rows).backward()
            assert_same_bits({name: part[name] for name in of_rows}, {name: whole[name][rows] for name in of_rows})


@given(step=steps(), rows=st.data())
def test_frozen_functional_out_in_place_and_strided_agree(step, rows):
    desired = step.forward()
    B, inputs = step.x.shape
    if ("bias_ih" in step.weights) == ("bias_hh" in step.weights):  # cells have both or none
        cell = step.cell()
        assert_same_bits(arrays_of(cell(step.x, step.state)), desired)
        cell.freeze()
        assert_same_bits(arrays_of(cell(step.x, step.state)), desired)
        in_place = tuple(s.copy() for s in step.states)
        cell(step.x, structured(in_place), out=structured(in_place))
        assert_same_bits(in_place, desired)

    out = tuple(np.full_like(s, np.nan) for s in step.states)
    step.forward(out=structured(out))
    assert_same_bits(out, desired)

    in_place = tuple(s.copy() for s in step.states)
    CELLS[step.kind].step(step.x, structured(in_place), **step.weights, out=structured(in_place))
    assert_same_bits(in_place, desired)

    apart = np.full((B, 3, inputs + 1), np.nan, step.x.dtype)
    apart[:, 1, :inputs] = step.x
    states_apart = [np.full((2 * B, s.shape[1] + 3), np.nan, s.dtype) for s in step.states]
    for wide, s in zip(states_apart, step.states, strict=True):
        wide[::2, : s.shape[1]] = s
    states = structured([wide[::2, : s.shape[1]] for wide, s in zip(states_apart, step.states, strict=True)])
    assert_same_bits(arrays_of(CELLS[step.kind].step(apart[:, 1, :inputs], states, **step.weights)), desired)

    if B > 0:
        row = rows.draw(st.integers(0, B - 1), label="row")
        assert_same_bits(step.rows(row).forward(), [a[row] for a in desired])


@given(step=steps(min_rows=1, max_rows=300, max_width=150))
def test_thread_counts_agree(step):
    before = fusedstep.num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            fusedstep.set_num_threads(threads)
            results.append(step.backward())
    finally:
        fusedstep.set_num_threads(before)
    for result in results[1:]:
        assert_same_bits(result, results[0])


@kinds
@dtypes
@pytest.mark.parametrize("shape", [(1, 300, 280), (2, 128, 520), (64, 128, 128), (600, 40, 33)], ids=str)
def test_thread_counts_agree_on_large_steps(kind, dtype, shape, threads):
    step = draw(kind, *shape, dtype)
    cell = step.cell().freeze()
    threads(1)
    desired, frozen = step.backward(), arrays_of(cell(step.x, step.state))
    for n in (2, 3):
        threads(n)
        assert_same_bits(step.backward(), desired)
        assert_same_bits(arrays_of(cell(step.x, step.state)), frozen)


@kinds
@dtypes
@pytest.mark.parametrize("frozen", [False, True], ids=["unfrozen", "frozen"])
@pytest.mark.parametrize("B", [1, 5])
def test_stream_in_place_equals_fresh_arrays(kind, dtype, frozen, B):
    T = 12
    step = draw(kind, B, 19, 35, dtype)
    cell = step.cell()
    if frozen:
        cell.freeze()
    x = np.random.default_rng(1).standard_normal((B, T, 19)).astype(dtype)  # batch first: x[:, t] has rows apart
    fresh, stream = step.state, structured([s.copy() for s in step.states])
    for t in range(T):
        fresh = cell(x[:, t].copy(), fresh)
        assert cell(x[:, t], stream, out=stream) is stream
    assert_same_bits(arrays_of(stream), arrays_of(fresh))


@kinds
@dtypes
def test_gradients_do_not_depend_on_out(kind, dtype):
    step = draw(kind, 6, 9, 20, dtype)
    row = CELLS[kind]
    buffers = tuple(s.copy() for s in step.states)
    _, tape = row.step(step.x, structured(buffers), **step.weights, out=structured(buffers), tape=True)
    gradients = row.backward(tape, *step.douts)
    desired = step.backward()
    assert_same_bits(
        [gradients.x, *arrays_of(gradients.state)], [desired["dx"], *(desired[n] for n in ("dh", "dc") if n in desired)]
    )
    assert_same_bits(gradients.weights, {name: desired[name] for name in step.weights})


@kinds
def test_flush_denormal_changes_nothing(kind):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing sets flush-denormal")
    step = draw(kind, 3, 8, 8).map(lambda array: array * np.float32(1e-38))
    desired = step.backward()
    assert any(np.any((np.abs(a) > 0) & (np.abs(a) < np.finfo(np.float32).tiny)) for a in desired.values())
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU has no flush-denormal mode")
    try:
        flushed = step.backward()
    finally:
        torch.set_flush_denormal(False)
    assert_same_bits(flushed, desired)


@pytest.fixture(scope="module")
def own_digest():
    return digest()


@pytest.mark.parametrize("isa", fusedstep.build_info()["isas"])
def test_instruction_sets_agree(isa, own_digest):
    assert_same_under("rnn.cells", isa, own_digest)


def test_digest_tells_results_apart(own_digest):
    assert all(a != b for a, b in itertools.combinations(own_digest.values(), 2))
