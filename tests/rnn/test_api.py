"""What a user sees of the cells: forms of arguments, out=, tapes, freezing, copies, arrays of other libraries."""

import copy
import gc
import inspect
import pickle
import threading
import weakref

import fusedstep
import numpy as np
import pytest
from fusedstep import _pure
from fusedstep.rnn import CELLS, GRUCell, LSTMCell

from .cells import arrays_of, assert_same_bits, draw, flat, same_bits, structured

kinds = pytest.mark.parametrize("kind", CELLS)
B, INPUTS, H = 4, 7, 20
DEEP_COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda obj: pickle.loads(pickle.dumps(obj)),
    "pickle5": lambda obj: pickle.loads(pickle.dumps(obj, protocol=5)),
}


@pytest.fixture(params=CELLS)
def step(request):
    return draw(request.param, B, INPUTS, H)


def copies(arrays):
    return structured([array.copy() for array in arrays])


def test_new_state_has_the_form_of_the_old(step):
    state = CELLS[step.kind].step(step.x, step.state, **step.weights)
    assert isinstance(state, tuple) == ("lstm" in step.kind)
    for array in arrays_of(state):
        assert type(array) is np.ndarray
        assert (array.shape, array.dtype) == ((B, H), np.float32)
        assert array.flags.c_contiguous
        assert array.flags.owndata


def test_no_state_counts_as_zeros(step):
    zeros = structured([np.zeros_like(s) for s in step.states])
    row = CELLS[step.kind]
    desired, tape = row.step(step.x, zeros, **step.weights, tape=True)
    actual, tape_of_none = row.step(step.x, None, **step.weights, tape=True)
    assert_same_bits(arrays_of(actual), arrays_of(desired))
    assert_same_bits(flat(row.backward(tape_of_none, *step.douts)), flat(row.backward(tape, *step.douts)))
    cell = step.cell()
    assert_same_bits(arrays_of(cell(step.x)), arrays_of(desired))
    assert_same_bits(arrays_of(cell(step.x[0])), [a[0] for a in arrays_of(desired)])


def test_vector_is_a_row(step):
    row, part = CELLS[step.kind], step.rows(1)
    state, tape = row.step(part.x, part.state, **step.weights, tape=True)
    gradients = row.backward(tape, *part.douts)
    assert all(a.shape == (H,) for a in arrays_of(state))
    assert gradients.x.shape == (INPUTS,)
    assert all(a.shape == (H,) for a in arrays_of(gradients.state))
    assert_same_bits(
        flat(gradients).values(), [a[0] if name.startswith("d") else a for name, a in flat_of_one_row(step, 1).items()]
    )


def flat_of_one_row(step, row):
    part = step.rows(slice(row, row + 1))
    return {name: array for name, array in part.backward().items() if name not in ("h", "c")}


def test_out_is_written_and_returned(step):
    desired = step.forward()
    for call in (
        step.cell(),
        step.cell().freeze(),
        lambda *args, **kw: CELLS[step.kind].step(*args, **step.weights, **kw),
    ):
        out = structured([np.full_like(s, np.nan) for s in step.states])
        assert call(step.x, step.state, out=out) is out
        assert_same_bits(arrays_of(out), desired)
        result, _ = call(step.x, step.state, out=out, tape=True)
        assert result is out


def test_inputs_are_left_as_they_were(step):
    before = copy.deepcopy(step)
    _, tape = CELLS[step.kind].step(step.x, step.state, **step.weights, tape=True)
    CELLS[step.kind].backward(tape, *step.douts)
    for after, desired in zip(
        (step.x, *step.states, *step.weights.values(), *step.douts),
        (before.x, *before.states, *before.weights.values(), *before.douts),
        strict=True,
    ):
        assert same_bits(after, desired)


def test_tape_refers_to_arguments_and_copies_where_out_is_given(step):
    new, tape = CELLS[step.kind].step(step.x, step.state, **step.weights, tape=True)
    assert tape.kind == step.kind
    assert tape.x is step.x
    assert all(a is b for a, b in zip((*tape.state, *tape.out), (*step.states, *arrays_of(new)), strict=True))
    out = copies(step.states)
    _, tape = CELLS[step.kind].step(step.x, step.state, **step.weights, out=out, tape=True)
    kept, buffers = (tape.x, *tape.state, *tape.out), (step.x, *step.states, *arrays_of(out))
    assert not any(np.shares_memory(a, b) for a in kept for b in buffers)


@pytest.mark.parametrize("frozen", [False, True], ids=["unfrozen", "frozen"])
def test_tapes_of_a_stream_in_place_equal_those_of_fresh_arrays(frozen, step):
    cell = step.cell()
    if frozen:
        cell.freeze()
    xs = np.random.default_rng(1).standard_normal((5, B, INPUTS)).astype(np.float32)
    buffer, fresh, stream, x_buffer = [], step.state, copies(step.states), np.empty_like(xs[0])
    tapes = []
    for x in xs:
        fresh, tape = cell(x, fresh, tape=True)
        tapes.append(tape)
        x_buffer[...] = x
        _, tape = cell(x_buffer, stream, out=stream, tape=True)
        buffer.append(tape)
    for ours, desired in zip(reversed(buffer), reversed(tapes), strict=True):
        assert_same_bits(flat(cell.backward(ours, *step.douts)), flat(cell.backward(desired, *step.douts)))


def test_cell_backward_equals_function(step):
    _, tape = step.cell()(step.x, step.state, tape=True)
    desired = {name: array for name, array in step.backward().items() if name not in ("h", "c")}
    assert_same_bits(flat(step.cell().backward(tape, *step.douts)), desired)


@kinds
def test_weights_have_torch_names_shapes_and_spread(kind):
    gates = fusedstep._core.cells()[kind]["gates"]
    cell = CELLS[kind].cell(30, 50, rng=3)
    shapes = {
        "weight_ih": (gates * 50, 30),
        "weight_hh": (gates * 50, 50),
        "bias_ih": (gates * 50,),
        "bias_hh": (gates * 50,),
    }
    if "peephole" in kind:
        shapes["weight_ch"] = (gates - 1, 50)
    assert {name: array.shape for name, array in cell.weights.items()} == shapes
    for array in cell.weights.values():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert np.abs(array).max() <= 50**-0.5
        assert np.abs(array).max() > 0.9 * 50**-0.5
    assert CELLS[kind].cell(30, 50, bias=False).weights.keys() == shapes.keys() - {"bias_ih", "bias_hh"}


@kinds
def test_seed_decides_the_weights(kind):
    new = CELLS[kind].cell
    assert_same_bits(dict(new(3, 4, rng=1).weights), dict(new(3, 4, rng=1).weights))
    assert_same_bits(dict(new(3, 4, rng=np.random.default_rng(1)).weights), dict(new(3, 4, rng=1).weights))
    assert not same_bits(new(3, 4, rng=1).weights["weight_ih"], new(3, 4, rng=2).weights["weight_ih"])
    assert not same_bits(new(3, 4).weights["weight_ih"], new(3, 4).weights["weight_ih"])


def test_dtype_decides_the_kernels():
    cell = LSTMCell(np.int64(3), np.int32(4), dtype="float64", rng=0)
    h, c = cell(np.ones(3))
    assert h.dtype == c.dtype == np.float64


def test_weights_cannot_be_replaced_but_changed_in_place():
    cell = GRUCell(3, 4, rng=0)
    with pytest.raises(TypeError, match="item assignment"):
        cell.weights["weight_ih"] = np.zeros((12, 3), np.float32)
    with pytest.raises(AttributeError):
        cell.weights = {}
    before = cell(np.ones(3, np.float32))
    cell.weights["bias_ih"][...] = 1
    assert not same_bits(cell(np.ones(3, np.float32)), before)


def test_freeze_marks_weights_read_only_until_unfreeze(step):
    cell = step.cell()
    desired = arrays_of(cell(step.x, step.state))
    assert not cell.frozen
    assert cell.freeze() is cell
    assert cell.frozen
    for name, array in cell.weights.items():
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
        assert same_bits(array, step.weights[name])
    assert_same_bits(arrays_of(cell(step.x, step.state)), desired)
    assert cell.unfreeze() is cell
    assert not cell.frozen
    cell.weights["weight_ih"][...] = 0
    zeroed = dict(step.weights, weight_ih=np.zeros_like(step.weights["weight_ih"]))
    for _ in range(2):
        assert_same_bits(
            arrays_of(cell(step.x, step.state)), arrays_of(CELLS[step.kind].step(step.x, step.state, **zeroed))
        )
        cell.freeze().freeze()  # packs what the weights are now; once more changes nothing


@pytest.mark.parametrize("method", ["adam", "adamw", "rmsprop", "adagrad"])
def test_optimizer_does_not_step_frozen_weights(method, step):
    cell = step.cell()
    optimizer = fusedstep.optim.OPTIMIZERS[method](cell.weights)
    gradients = {name: np.ones_like(array) for name, array in cell.weights.items()}
    cell.freeze()
    with pytest.raises(ValueError, match=r"weight_ih.*read-only"):
        optimizer.step(gradients)
    assert_same_bits(dict(cell.weights), step.weights)
    assert [state["step"] for state in optimizer.state] == [0] * len(gradients)
    assert all(
        not array.any() for state in optimizer.state for array in state.values() if isinstance(array, np.ndarray)
    )
    cell.unfreeze()
    assert optimizer.step(gradients).applied
    assert not any(same_bits(array, step.weights[name]) for name, array in cell.weights.items())


def test_optimizer_is_not_made_over_frozen_weights():
    with pytest.raises(ValueError, match=r"weight_ih.*read-only"):
        fusedstep.optim.Adam(LSTMCell(3, 4).freeze().weights)


@pytest.mark.parametrize("frozen", [False, True], ids=["unfrozen", "frozen"])
@pytest.mark.parametrize("duplicate", [copy.copy, *DEEP_COPIES.values()], ids=["copy", *DEEP_COPIES])
def test_copies_are_equal_and_independent(frozen, duplicate, step):
    cell = step.cell()
    if frozen:
        cell.freeze()
    twin = duplicate(cell)
    assert type(twin) is type(cell)
    assert twin.frozen == cell.frozen == frozen
    assert (twin.input_size, twin.hidden_size) == (INPUTS, H)
    assert_same_bits(dict(twin.weights), dict(cell.weights))
    assert all(array.flags.writeable != frozen for array in twin.weights.values())
    desired = arrays_of(cell(step.x, step.state))
    assert_same_bits(arrays_of(twin(step.x, step.state)), desired)
    for array in twin.unfreeze().weights.values():
        array[...] = 0
    assert cell.frozen == frozen
    assert_same_bits(arrays_of(cell(step.x, step.state)), desired)


@pytest.mark.parametrize("duplicate", DEEP_COPIES.values(), ids=DEEP_COPIES)
def test_cell_and_optimizer_copied_together_stay_together(duplicate):
    cell = GRUCell(3, 4, rng=0)
    twin, optimizer = duplicate((cell, fusedstep.optim.Adam(cell.weights)))
    before = copy.deepcopy(dict(twin.weights))
    optimizer.step({name: np.ones_like(array) for name, array in twin.weights.items()})
    assert not any(same_bits(array, before[name]) for name, array in twin.weights.items())
    assert_same_bits(dict(cell.weights), before)


@pytest.mark.parametrize(
    ("args", "named", "error"),
    [
        ((), {}, "x: expected an array, got no argument"),
        ((1, 2, 3), {}, "expected x and state as positional arguments, got 3"),
        ((1,), {"y": 1}, "got an unknown argument 'y'"),
        ((1,), {"x": 1}, "got x twice"),
    ],
    ids=["none", "three", "unknown", "twice"],
)
def test_wrong_number_or_names_of_arguments(args, named, error):
    with pytest.raises(TypeError, match=f"^{error}$"):
        GRUCell(2, 3)(*args, **named)


def test_classes_derived_from_a_cell():
    class Plain(GRUCell):
        pass

    class Own(GRUCell):
        def __call__(self, x, state=None, *, out=None, tape=False):
            return "own", super().__call__(x, state, out=out, tape=tape)

    x, cell = np.ones(2, np.float32), GRUCell(2, 3, rng=0)
    assert_same_bits(Plain(2, 3, rng=0)(x=x, state=None), cell(x))
    own, (h, tape) = Own(2, 3, rng=0)(x, tape=True)
    assert own == "own"
    assert_same_bits(h, cell(x))
    assert fusedstep.rnn.gru_cell_backward(tape, h).x.shape == (2,)
    with pytest.raises(TypeError, match="that __init__ has made"):
        GRUCell.__new__(GRUCell)(x)


def test_call_is_documented():
    assert "Raises\n------" in LSTMCell.__call__.__doc__
    assert "(self, /, x, state=None, *, out=None, tape=False)" in str(inspect.signature(LSTMCell.__call__))


def test_cells_are_collected_with_what_refers_back_to_them():
    cell = LSTMCell(2, 3)
    cell.itself, seen = cell, weakref.ref(cell)
    del cell
    gc.collect()
    assert seen() is None


def test_repr_tells_kind_widths_and_dtype():
    assert repr(LSTMCell(3, 4, peephole=True)) == "LSTMCell(3, 4, kind='peephole_lstm', dtype=float32)"
    assert repr(GRUCell(3, 4, dtype=np.float64).freeze()) == "GRUCell(3, 4, kind='gru', dtype=float64, frozen)"
    _, tape = GRUCell(3, 4, bias=False)(np.ones(3, np.float32), tape=True)
    gradients = fusedstep.rnn.gru_cell_backward(tape, np.ones(4, np.float32))
    assert repr(gradients) == "Gradients(x, state, weights: weight_ih, weight_hh)"


def test_torch_tensors_work_in_place(step):
    torch = pytest.importorskip("torch", reason="torch is not installed: no tensors of another library")
    desired = step.backward()
    tensors = step.map(torch.from_numpy)
    weights = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in tensors.weights.items()}
    row = CELLS[step.kind]
    out = structured([torch.zeros_like(s) for s in tensors.states])
    result, tape = row.step(tensors.x, tensors.state, **weights, out=out, tape=True)
    assert result is out
    assert all(isinstance(tensor, torch.Tensor) for tensor in arrays_of(out))
    actual = dict(zip("hc", (tensor.numpy() for tensor in arrays_of(out)), strict=False))
    assert_same_bits(actual | flat(row.backward(tape, *tensors.douts)), desired)

    stream = structured([s.clone() for s in tensors.states])
    step.cell().freeze()(tensors.x, stream, out=stream)
    assert_same_bits([tensor.numpy() for tensor in arrays_of(stream)], step.forward())


def test_buffers_and_dlpack_work_in_place(step):
    class Dlpack:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    for wrap in (memoryview, Dlpack):
        out = [np.zeros_like(s) for s in step.states]
        wrapped = step.map(wrap)
        CELLS[step.kind].step(wrapped.x, wrapped.state, **wrapped.weights, out=structured([wrap(a) for a in out]))
        assert_same_bits(out, step.forward())


@kinds
def test_python_threads_share_a_frozen_cell(kind):
    step = draw(kind, 32, 64, 64)
    cell, desired, failures = step.cell().freeze(), step.forward(), []

    def work():
        out = structured([np.empty_like(s) for s in step.states])
        for _ in range(50):
            cell(step.x, step.state, out=out)
            if not all(map(same_bits, arrays_of(out), desired)):
                failures.append(out)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_pure_python_step_equals_reference(kind):
    step = draw(kind, 1, 3, 5, np.float64)
    x, *states = (array[0].tolist() for array in (step.x, *step.states))
    weights = {name: array.tolist() for name, array in step.weights.items()}
    state = getattr(_pure, f"{kind}_cell")(x, *states, **weights)
    for ours, reference in zip(arrays_of(state), step.reference(), strict=True):
        np.testing.assert_allclose(ours, reference[0], rtol=1e-13, atol=1e-15)
