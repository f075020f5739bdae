"""Streams on a GPU: the CPU's steps, state and errors."""

import numpy as np
import pytest

from tests.cuda.rnn_cases import KINDS, assert_close, module_on_gpu
from tests.rnn.cells import DTYPES, arrays_of, assert_same_bits
from tests.rnn.sequences import draw

kinds = pytest.mark.parametrize("kind", KINDS)


def named(h, stream):
    states = {f"state {i}": state for i, state in enumerate(arrays_of(stream.state))}
    return {"h": h, **states}


@kinds
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("zoneout", [0.0, 0.25])
def test_steps_are_the_cpus(cupy, kind, dtype, zoneout):
    case = draw(kind, 5, 3, 4, 33, num_layers=2, dtype=dtype)
    on_cpu = case.module(zoneout=zoneout).stream(batch=3)
    on_gpu = module_on_gpu(case, zoneout=zoneout).stream(batch=3, threads=2)
    assert on_gpu.weights == np.dtype(dtype).name
    for x in case.x:
        out = cupy.empty((3, case.width), dtype)
        assert on_gpu.step(cupy.asarray(x), out) is out
        desired = named(on_cpu.step(x), on_cpu)
        assert_close({name: array.get() for name, array in named(out, on_gpu).items()}, desired)


@kinds
def test_state_is_the_streams_own(cupy, kind):
    """It is set by writing to it, and the weights are a snapshot."""
    case = draw(kind, 2, 3, 4, 8)
    module = module_on_gpu(case)
    stream, other = module.stream(batch=3), module.stream(batch=3)
    x = cupy.asarray(case.x[0])
    first = stream.step(x).get()
    for array in module.weights.values():
        array[...] = 0
    stream.step(x)
    stream.reset()
    assert_same_bits([stream.step(x).get()], [first])
    assert_same_bits([other.step(x).get()], [first])
    stream.reset(1)
    for state in arrays_of(stream.state):
        assert not state.get()[:, 1].any()
        assert state.get()[:, [0, 2]].any()


@kinds
def test_one_row_takes_vectors(cupy, kind):
    case = draw(kind, 3, 1, 4, 8)
    rows, vectors = (module_on_gpu(case).stream() for _ in range(2))
    for x in case.x:
        h = vectors.step(cupy.asarray(x[0]))
        assert h.shape == (case.width,)
        assert_same_bits([h.get()], [rows.step(cupy.asarray(x)).get()[0]])


# What replaces an argument of a step; every second column of it where the name says so.
WRONG = {
    "x shape": {"x": np.zeros((2, 4), np.float32)},
    "x dtype": {"x": np.zeros((3, 4))},
    "x columns apart": {"x": np.zeros((3, 8), np.float32)},
    "out shape": {"out": np.zeros((3, 7), np.float32)},
    "out dtype": {"out": np.zeros((3, 8))},
    "out columns apart": {"out": np.zeros((3, 16), np.float32)},
}


@pytest.mark.parametrize("what", WRONG)
def test_errors_are_the_cpus_and_the_state_stays(cupy, what):
    case = draw("lstm", 2, 3, 4, 8)
    columns = slice(None, None, 2 if "apart" in what else 1)

    def error_of(module, placed, host):
        stream = module.stream(batch=3)
        stream.step(placed(case.x[0]))
        before = [host(state).copy() for state in arrays_of(stream.state)]
        wrong = {name: placed(array)[:, columns] for name, array in WRONG[what].items()}
        with pytest.raises((TypeError, ValueError)) as caught:
            stream.step(**{"x": placed(case.x[1]), **wrong})
        assert_same_bits([host(state) for state in arrays_of(stream.state)], before)
        return type(caught.value), str(caught.value)

    desired = error_of(case.module(), np.asarray, np.asarray)
    assert error_of(module_on_gpu(case), cupy.asarray, lambda array: array.get()) == desired


def test_out_has_memory_of_its_own(cupy):
    case = draw("lstm", 1, 3, 8, 8)
    stream, x = module_on_gpu(case).stream(batch=3), cupy.asarray(case.x[0])
    with pytest.raises(ValueError, match=r"^out: expected memory of its own, got an overlap with x"):
        stream.step(x, out=x)
    with pytest.raises(ValueError, match=r"^out: expected memory of its own, got an overlap with state"):
        stream.step(x, out=stream.state[0][0])


def test_steps_go_to_the_current_stream_and_wait_for_nothing(cupy, device):
    case = draw("gru_reset_before", 1, 3, 4, 8, num_layers=2)
    stream, x = module_on_gpu(case).stream(batch=3), cupy.asarray(case.x[0])
    device.launches()
    with cupy.cuda.Stream(0x77):
        stream.step(x)
    launches = device.launches()
    assert len(launches) == 2 * 2  # of each layer r and z, and the rest
    assert {launch.stream for launch in launches} == {0x77}
    assert cupy.state.copies == 0
