"""Cells against the true mathematics: the references in float64, finite differences, torch and ONNX Runtime."""

import itertools
from functools import partial

import fusedstep
import numpy as np
import pytest
from fusedstep.rnn import CELLS
from hypothesis import given
from hypothesis import strategies as st

from .cells import DTYPES, arrays_of, draw, error, structured

# Largest error over largest value. Gradients pass two products, and weight gradients sum over the batch.
OUTPUT_BOUND = {np.float32: 2e-6, np.float64: 1e-14}
GRADIENT_BOUND = {np.float32: 5e-6, np.float64: 2e-14}

kinds = pytest.mark.parametrize("kind", CELLS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
no_biases = pytest.mark.parametrize("biases", [(), ("bias_ih",), ("bias_hh",)], ids=["none", "bias_ih", "bias_hh"])

SHAPES = [(1, 1, 1), (1, 64, 64), (1, 256, 256), (5, 3, 130), (64, 100, 257), (300, 40, 33), (64, 512, 512)]


def test_table_has_every_compiled_cell_with_a_step():
    assert CELLS.keys() == {kind for kind, cell in fusedstep._core.cells().items() if cell["step"]}


def check(step, bounds):
    """Every result within its bound of the float64 reference."""
    actual, true = step.backward(), step.astype(np.float64).reference_backward()
    assert actual.keys() == true.keys()
    for name, array in true.items():
        assert actual[name].dtype == step.x.dtype
        assert actual[name].shape == array.shape, name
        assert error(actual[name], array) <= bounds[name in ("h", "c")][step.x.dtype.type], name


@kinds
@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_step_and_gradients_equal_float64_reference(kind, dtype, shape):
    check(draw(kind, *shape, dtype).with_initial_weights(), (GRADIENT_BOUND, OUTPUT_BOUND))


@kinds
def test_weights_of_unit_gain_stay_within_twice_the_bound(kind):
    """One chain over all inputs and hidden units: its error follows the size of its terms and its length."""
    for seed in range(3):
        step = draw(kind, 64, 512, 512, seed=seed)
        for actual, true in zip(step.forward(), step.astype(np.float64).reference(), strict=True):
            assert error(actual, true) <= 2 * OUTPUT_BOUND[np.float32]


@kinds
@no_biases
def test_absent_bias_counts_as_zero(kind, biases):
    check(draw(kind, 4, 6, 20, biases=biases), (GRADIENT_BOUND, OUTPUT_BOUND))


@given(
    kind=st.sampled_from(sorted(CELLS)),
    B=st.integers(1, 40),
    inputs=st.integers(1, 90),
    H=st.integers(16, 90),  # fewer may all be near zero, where no relative error is small
    seed=st.integers(0, 99),
)
def test_outputs_of_drawn_shapes_equal_float64_reference(kind, B, inputs, H, seed):
    step = draw(kind, B, inputs, H, seed=seed)
    for actual, true in zip(step.forward(), step.astype(np.float64).reference(), strict=True):
        assert error(actual, true) <= OUTPUT_BOUND[np.float32]


@kinds
def test_reference_is_within_float32(kind):
    step = draw(kind, 5, 7, 9)
    for actual, true in zip(step.reference(), step.astype(np.float64).reference(), strict=True):
        assert actual.dtype == np.float32
        assert error(actual, true) <= OUTPUT_BOUND[np.float32]


@kinds
@dtypes
def test_large_gates_saturate(kind, dtype):
    step = draw(kind, 4, 8, 20, dtype)
    step = step.map(lambda array: array * dtype(1e4))
    with np.errstate(over="ignore"):
        check(step, ({dtype: 1e-4},) * 2)


def finite_differences(step, epsilon=1e-6):
    """Gradients of Σ dout·out by central differences of the reference, of every element of every array, by name."""
    arrays = {"dx": step.x, **{f"d{n}": s for n, s in zip("hc", step.states, strict=False)}, **step.weights}
    gradients = {name: np.empty_like(array) for name, array in arrays.items()}

    def loss():
        return sum(float((d * a).sum()) for d, a in zip(step.douts, step.reference(), strict=True))

    for name, array in arrays.items():
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + epsilon
            above = loss()
            array[index] = value - epsilon
            gradients[name][index] = (above - loss()) / (2 * epsilon)
            array[index] = value
    return gradients


@kinds
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 5)], ids=str)
def test_backward_matches_finite_difference(kind, shape):
    step = draw(kind, *shape, np.float64)
    by_dtype = {dtype: step.astype(dtype).backward() for dtype in DTYPES}
    reference = step.reference_backward()
    for name, true in finite_differences(step).items():
        assert error(reference[name], true) <= 1e-7, name
        assert error(by_dtype[np.float64][name], true) <= 1e-7, name
        assert error(by_dtype[np.float32][name], true) <= 1e-5, name


@kinds
@no_biases
def test_backward_without_biases_matches_finite_difference(kind, biases):
    step = draw(kind, 2, 3, 4, np.float64, biases=biases)
    gradients = step.backward()
    for name, true in finite_differences(step).items():
        assert error(gradients[name], true) <= 1e-7, name
    assert set(gradients) - {"h", "c", "dx", "dh", "dc"} == set(step.weights)


@kinds
def test_absent_output_gradient_counts_as_zero(kind):
    step = draw(kind, 3, 4, 20, np.float64)
    row = CELLS[kind]
    _, tape = row.step(step.x, step.state, **step.weights, tape=True)
    for given_ in itertools.product([False, True], repeat=len(step.douts)):
        some = [d if is_given else None for d, is_given in zip(step.douts, given_, strict=True)]
        zeros = [d if is_given else np.zeros_like(d) for d, is_given in zip(step.douts, given_, strict=True)]
        actual, desired = row.backward(tape, *some), row.backward(tape, *zeros)
        for name in step.weights:
            np.testing.assert_array_equal(actual.weights[name], desired.weights[name])
        np.testing.assert_array_equal(actual.x, desired.x)


@kinds
def test_backward_through_time_matches_finite_difference(kind):
    """Three steps, the gradients summed over them by hand."""
    T, step = 3, draw(kind, 2, 3, 4, np.float64)
    xs = np.random.default_rng(3).standard_normal((T, 2, 3))
    row = CELLS[kind]

    def loss():
        state = step.state
        for x in xs:
            state = row.reference(x, state, **step.weights)
        return float((step.douts[0] * arrays_of(state)[0]).sum())

    state, tapes = step.state, []
    for x in xs:
        state, tape = row.step(x, state, **step.weights, tape=True)
        tapes.append(tape)
    douts, total = step.douts[:1], {name: np.zeros_like(w) for name, w in step.weights.items()}
    for tape in reversed(tapes):
        gradients = row.backward(tape, *douts)
        douts = arrays_of(gradients.state)
        for name, gradient in gradients.weights.items():
            total[name] += gradient
    for name, array in step.weights.items():
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + 1e-6
            above = loss()
            array[index] = value - 1e-6
            true = (above - loss()) / 2e-6
            array[index] = value
            assert abs(total[name][index] - true) <= 1e-8 * max(1, np.abs(total[name]).max()), (name, index)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@dtypes
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 17, 33), (300, 20, 40)], ids=str)
def test_step_and_gradients_equal_torch(kind, dtype, shape):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    step = draw(kind, *shape, dtype)
    _, inputs, H = shape
    cell = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[kind](inputs, H, dtype=torch.from_numpy(step.x).dtype)
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            parameter.copy_(torch.from_numpy(step.weights[name]))
    x, *states = (torch.from_numpy(a.copy()).requires_grad_() for a in (step.x, *step.states))
    out = arrays_of(cell(x, structured(states)))
    sum((torch.from_numpy(d) * o).sum() for d, o in zip(step.douts, out, strict=True)).backward()
    theirs = {"dx": x, **dict(zip(("dh", "dc"), states, strict=False)), **dict(cell.named_parameters())}
    theirs = {name: tensor.grad.numpy() for name, tensor in theirs.items()}
    theirs |= {name: tensor.detach().numpy() for name, tensor in zip("hc", out, strict=False)}
    ours = step.backward()
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert error(ours[name], array) <= 2 * GRADIENT_BOUND[dtype], name


def onnx_order(gates, order, coupled=False):
    """Reorder the gates of a weight or bias, (gates·H, …), as ONNX wants them."""
    blocks = np.split(gates, len(order) - coupled)
    if coupled:  # theirs is f = 1 - i, and has rows of f that nothing reads
        blocks = [-blocks[0], np.full_like(blocks[0], 9), *blocks[1:]]
    return np.concatenate([blocks[i] for i in order])


@kinds
def test_step_equals_onnxruntime(kind):
    """Also the cells that torch lacks: peepholes, and reset before the product."""
    reason = "onnx and onnxruntime are not installed: nothing to compare with"
    onnx = pytest.importorskip("onnx", reason=reason)
    onnxruntime = pytest.importorskip("onnxruntime", reason=reason)
    B, inputs, H = 5, 17, 33
    step = draw(kind, B, inputs, H)
    lstm = "lstm" in kind
    order = (0, 3, 1, 2) if lstm else (1, 0, 2)  # i o f c from i f g o, and z r h from r z n
    ordered = partial(onnx_order, coupled="coupled" in kind)
    feeds = {
        "X": step.x[None],
        "W": ordered(step.weights["weight_ih"], order)[None],
        "R": ordered(step.weights["weight_hh"], order)[None],
        "B": np.concatenate([ordered(step.weights[name], order) for name in ("bias_ih", "bias_hh")])[None],
        "": None,  # sequence_lens
        "initial_h": step.states[0][None],
    }
    if lstm:
        feeds["initial_c"] = step.states[1][None]
    if "peephole" in kind:
        feeds["P"] = ordered(step.weights["weight_ch"], (0, 2, 1)).reshape(1, -1)  # i o f from i f o
    outputs = ["", "Y_h", "Y_c"] if lstm else ["", "Y_h"]
    attributes = {"input_forget": int("coupled" in kind)} if lstm else {"linear_before_reset": int(kind == "gru")}
    node = onnx.helper.make_node("LSTM" if lstm else "GRU", list(feeds), outputs, hidden_size=H, **attributes)
    feeds.pop("")
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "cell",
        [info(name, onnx.TensorProto.FLOAT, array.shape) for name, array in feeds.items()],
        [info(name, onnx.TensorProto.FLOAT, (1, B, H)) for name in outputs[1:]],
    )
    opset = onnx.helper.make_opsetid("", 14)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for ours, theirs in zip(step.forward(), session.run(None, feeds), strict=True):
        assert error(ours, theirs[0]) <= 1e-5
