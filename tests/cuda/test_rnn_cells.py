"""Cells over arrays of a GPU, whose kernels run on the host: the CPU's results, bits, forms and errors."""

import copy
import pickle
from dataclasses import replace

import fusedstep
import numpy as np
import pytest
from fusedstep.rnn import CELLS, GRUCell, LSTMCell, gru_cell, lstm_cell

from tests.cuda import foreign
from tests.cuda.rnn_cases import ORDERS, assert_close, exact, ordered, to_gpu, to_host
from tests.rnn.cells import DTYPES, arrays_of, assert_same_bits, draw, flat, structured

kinds = pytest.mark.parametrize("kind", CELLS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


@kinds
@dtypes
@pytest.mark.parametrize("shape", [(1, 1, 1), (9, 5, 33)], ids=str)
def test_steps_and_gradients_are_the_cpus(cupy, kind, dtype, shape):
    step = draw(kind, *shape, dtype)
    assert_close(to_host(to_gpu(cupy, step).backward()), step.backward())


@kinds
def test_without_biases(cupy, kind):
    step = draw(kind, 3, 4, 5, biases=())
    assert_close(to_host(to_gpu(cupy, step).backward()), step.backward())


@kinds
@dtypes
@pytest.mark.parametrize("B", [1, 11])
def test_bits_are_the_cpus_where_products_are_exact(cupy, kind, dtype, B):
    gates = fusedstep._core.cells()[kind]["gates"]
    for gate in range(gates):
        step = exact(draw(kind, B, 20, 37, dtype), gate)
        actual, desired = to_host(to_gpu(cupy, step).backward()), step.backward()
        if B > 1:  # then a weight's gradient is a sum
            actual, desired = (
                {name: array for name, array in results.items() if not name.startswith(("weight", "bias"))}
                for results in (actual, desired)
            )
        assert_same_bits(actual, desired)
        taped = [CELLS[kind].step(s.x, s.state, **s.weights, tape=True)[1].saved for s in (to_gpu(cupy, step), step)]
        assert_same_bits([taped[0].get()], [taped[1]])


@kinds
@pytest.mark.parametrize("order", ORDERS)
def test_order_of_threads_shows_in_no_bit(cupy, device, kind, order):
    step = to_gpu(cupy, draw(kind, 9, 5, 33))
    desired = to_host(step.backward())
    with ordered(device, *ORDERS[order]):
        assert_same_bits(to_host(step.backward()), desired)


@kinds
def test_sums_over_many_rows(cupy, kind):
    step = draw(kind, 1100, 2, 3)
    assert_close(to_host(to_gpu(cupy, step).backward()), step.backward(), 64)


FORMS = {
    "vector": lambda step: step.rows(2),
    "rows apart": lambda step: replace(
        step, x=step.x[::2], states=tuple(s[::2] for s in step.states), douts=(None,) * 2
    ),
    "no state": lambda step: replace(step, states=(None,) * len(step.states)),
    "no rows": lambda step: step.rows(slice(0)),
}


@kinds
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_input(cupy, kind, form):
    step = draw(kind, 6, 5, 8)

    def run(step):
        step = FORMS[form](step)
        state = None if form == "no state" else step.state
        out, tape = CELLS[kind].step(step.x, state, **step.weights, tape=True)
        douts = arrays_of(out) if step.douts[0] is None else step.douts
        return dict(zip("hc", arrays_of(out), strict=False)) | flat(CELLS[kind].backward(tape, *douts))

    assert_close(to_host(run(to_gpu(cupy, step))), run(step))


@kinds
def test_cell_moves_and_steps_in_place(cupy, kind):
    step = draw(kind, 3, 5, 8)
    cell = step.cell()
    desired = arrays_of(cell(step.x, step.state))
    weights = dict(cell.weights)
    assert cell.device == "cpu"
    assert cell.to("cuda") is cell
    assert cell.device == "cuda"
    assert all(isinstance(w, cupy.ndarray) for w in cell.weights.values())
    gpu = to_gpu(cupy, step)
    out = structured([s.copy() for s in gpu.states])
    assert cell(gpu.x, out, out=out) is out
    assert_close({str(i): a.get() for i, a in enumerate(arrays_of(out))}, {str(i): a for i, a in enumerate(desired)})
    same = cell.to("cuda").weights
    assert all(same[name] is w for name, w in cell.weights.items())
    cell.to("cpu")
    assert_same_bits(dict(cell.weights), weights)


@kinds
def test_cell_pickles_and_copies(cupy, kind):
    step = draw(kind, 3, 5, 8)
    cell, gpu = step.cell().to("cuda"), to_gpu(cupy, step)
    desired = [a.get() for a in arrays_of(cell(gpu.x, gpu.state))]
    for other in (copy.copy(cell), copy.deepcopy(cell)):
        assert other.device == "cuda"
        assert other.weights["weight_ih"].data.ptr != cell.weights["weight_ih"].data.ptr
        assert_same_bits([a.get() for a in arrays_of(other(gpu.x, gpu.state))], desired)
    assert fusedstep.rnn._base._rebuild(*cell.__reduce__()[1]).device == "cuda"
    assert pickle.loads(pickle.dumps(step.cell())).device == "cpu"


@kinds
def test_tape_of_a_step_in_place_holds_copies(cupy, kind):
    step = draw(kind, 3, 5, 8)
    cell, gpu = step.cell().to("cuda"), to_gpu(cupy, step)
    out = structured([s.copy() for s in gpu.states])
    _, tape = cell(gpu.x, out, out=out, tape=True)
    for s in arrays_of(out):
        s[...] = 7
    desired = step.backward()
    actual = cell.backward(tape, *gpu.douts)
    assert_close(to_host(actual.weights), {name: desired[name] for name in step.weights})
    assert_close({"dx": actual.x.get()}, {"dx": desired["dx"]})


def test_nothing_waits_for_the_gpu(cupy):
    step = to_gpu(cupy, draw("lstm", 3, 5, 8))
    step.backward()
    assert cupy.state.copies == 0


def test_launches_go_to_the_current_stream(cupy, device):
    step = to_gpu(cupy, draw("gru_reset_before", 3, 5, 8))
    device.launches()
    with cupy.cuda.Stream(0x77):
        step.backward()
    records = device.launches()
    assert len(records) >= 5
    assert {record.stream for record in records} == {0x77}


def test_arrays_of_other_libraries(cupy):
    step = draw("gru", 3, 5, 8)
    (h,) = step.forward()
    wrapped = step.map(foreign.Interface)
    (actual,) = arrays_of(CELLS["gru"].step(wrapped.x, wrapped.state, **wrapped.weights))
    assert isinstance(actual, cupy.ndarray)
    assert_close({"h": actual.get()}, {"h": h})
    tensors = step.map(foreign.Torch)
    assert_same_bits([CELLS["gru"].step(tensors.x, tensors.state, **tensors.weights).get()], [actual.get()])
    capsules = step.map(foreign.DLPack)
    assert_same_bits([CELLS["gru"].step(capsules.x, capsules.state, **capsules.weights).get()], [actual.get()])


@kinds
@pytest.mark.usefixtures("cupy")
def test_frozen_cells_do_not_move(kind):
    cell = draw(kind, 3, 5, 8).cell()
    cell.freeze()
    with pytest.raises(ValueError, match=r"^to: .*unfreeze"):
        cell.to("cuda")
    cell.unfreeze().to("cuda")
    with pytest.raises(ValueError, match=r"^device: expected 'cpu' or 'cuda', got 'gpu'"):
        cell.to("gpu")


# What replaces an argument of a step: of the CPU's arrays, and then of the GPU's.
WRONG = {
    "x dtype": {"x": np.zeros((4, 7))},
    "x width": {"x": np.zeros((4, 6), np.float32)},
    "x dimensions": {"x": np.zeros((1, 4, 7), np.float32)},
    "x integers": {"x": np.zeros((4, 7), np.int32)},
    "x elements apart": {"x": np.zeros((4, 14), np.float32)[:, ::2]},
    "h batch": {"h": np.zeros((3, 20), np.float32)},
    "h dtype": {"h": np.zeros((4, 20))},
    "weight_ih dimensions": {"weight_ih": np.zeros(7, np.float32)},
    "weight_ih rows": {"weight_ih": np.zeros((61, 7), np.float32)},
    "weight_ih order": {"weight_ih": np.zeros((7, 60), np.float32).T},
    "weight_hh shape": {"weight_hh": np.zeros((60, 21), np.float32)},
    "weight_hh none": {"weight_hh": None},
    "bias_ih shape": {"bias_ih": np.zeros(59, np.float32)},
    "bias_hh dtype": {"bias_hh": np.zeros(60)},
    "out shape": {"out": np.zeros((4, 21), np.float32)},
    "out order": {"out": np.zeros((4, 40), np.float32)[:, ::2]},
    "out rows apart": {"out": np.zeros((8, 20), np.float32)[::2]},
    "out dtype": {"out": np.zeros((4, 20))},
}


def as_laid_out(cupy, array):
    """The array on the GPU, with its strides."""
    if array is None or array.flags.c_contiguous:
        return array if array is None else cupy.asarray(array)
    if array.flags.f_contiguous:
        return cupy.asarray(np.ascontiguousarray(array.T)).T
    whole = cupy.asarray(array.base)
    return whole[tuple(slice(None, None, a // b) for a, b in zip(array.strides, whole.strides, strict=True))]


@pytest.mark.parametrize("what", WRONG)
def test_errors_are_the_cpus(cupy, what):
    step = draw("gru", 4, 7, 20)
    gpu = to_gpu(cupy, step)
    wrong = WRONG[what]

    def error_of(of, wrong):
        values = {"x": of.x, "h": of.state, **of.weights, "out": of.state.copy(), **wrong}
        with pytest.raises((TypeError, ValueError)) as caught:
            gru_cell(**values)
        return type(caught.value), str(caught.value)

    desired = error_of(step, wrong)
    assert error_of(gpu, {name: as_laid_out(cupy, array) for name, array in wrong.items()}) == desired
    assert desired[1].startswith(next(iter(wrong)))


def test_states_of_the_wrong_form(cupy):
    step = to_gpu(cupy, draw("lstm", 4, 7, 20))
    with pytest.raises(TypeError, match=r"^state: expected a tuple \(h, c\), got ndarray"):
        lstm_cell(step.x, step.states[0], **step.weights)
    with pytest.raises(ValueError, match=r"^out: expected a tuple \(h, c\), got 1 items"):
        lstm_cell(step.x, step.state, **step.weights, out=step.states[:1])
    with pytest.raises(ValueError, match=r"^weight_ch: lstm has no peepholes"):
        fusedstep.rnn._base.step_on_cuda(
            "lstm", {**step.weights, "weight_ch": step.states[0]}, step.x, step.state, None, False
        )


@kinds
def test_out_has_memory_of_its_own(cupy, kind):
    step = to_gpu(cupy, draw(kind, 4, 20, 20))
    states, fresh = len(step.states), [s.copy() for s in step.states]
    for name, array in (("x", step.x), ("weight_hh", step.weights["weight_hh"][:4])):
        with pytest.raises(ValueError, match=rf"^out\S*: expected memory of its own, got an overlap with {name}"):
            CELLS[kind].step(step.x, step.state, **step.weights, out=structured([array, *fresh[1:]]))
    if states == 2:
        with pytest.raises(ValueError, match=r"^out\[1\]: expected memory of its own, got an overlap with out\[0\]"):
            CELLS[kind].step(step.x, step.state, **step.weights, out=(fresh[0], fresh[0]))
        with pytest.raises(ValueError, match=r"^out\[0\]: expected memory of its own, got an overlap with c"):
            CELLS[kind].step(step.x, step.state, **step.weights, out=(step.states[1], fresh[0]))


def test_devices_must_not_be_mixed(cupy):
    step = draw("gru", 4, 7, 20)
    gpu = to_gpu(cupy, step)
    with pytest.raises(TypeError, match=r"^x: expected an array in CUDA memory as weight_ih is, got ndarray"):
        gru_cell(step.x, gpu.state, **gpu.weights)
    with pytest.raises(TypeError, match=r"^weight_ih: expected an array in CUDA memory as h is, got ndarray"):
        gru_cell(step.x, gpu.state, **step.weights)
    cell = GRUCell(7, 20, rng=0)
    with pytest.raises(TypeError, match=r"^x: expected a float32 or float64 array in CPU memory, got ndarray on"):
        cell(gpu.x, step.state)
    cell.to("cuda")
    with pytest.raises(TypeError, match=r"^x: expected an array in CUDA memory, got ndarray"):
        cell(step.x, gpu.state)
    with cupy.cuda.Device(1):
        other = cupy.asarray(step.x)
    with pytest.raises(TypeError, match=r"^x: expected an array on GPU 0, got one on GPU 1"):
        cell(other, gpu.state)


def test_gradients_of_the_wrong_form(cupy):
    step = to_gpu(cupy, draw("lstm", 4, 7, 20))
    _, tape = lstm_cell(step.x, step.state, **step.weights, tape=True)
    cell = LSTMCell(7, 20, rng=0).to("cuda")
    with pytest.raises(ValueError, match=r"^dh: expected shape \(4, 20\), got \(3, 20\)"):
        cell.backward(tape, step.douts[0][:3])
    with pytest.raises(TypeError, match=r"^dc: expected an array in CUDA memory, got ndarray"):
        cell.backward(tape, step.douts[0], step.douts[1].get())
    assert_close(
        to_host(cell.backward(tape, None, None).weights),
        {name: np.zeros(w.shape, np.float32) for name, w in step.weights.items()},
    )
