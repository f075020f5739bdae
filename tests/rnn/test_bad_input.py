"""Bad input: one clear error that names the argument and the value, and no array changed; or what a user expects."""

import copy
import re

import numpy as np
import pytest
from fusedstep.rnn import CELLS, GRUCell, LSTMCell, gru_cell, lstm_cell

from .cells import DTYPES, arrays_of, assert_same_bits, draw, flat, same_bits, structured

kinds = pytest.mark.parametrize("kind", CELLS)
B, INPUTS, H = 4, 7, 20


def all_arrays(*steps_and_arrays):
    """Every array of a nest of tuples and dicts."""
    for item in steps_and_arrays:
        if isinstance(item, np.ndarray):
            yield item
        elif isinstance(item, dict):
            yield from all_arrays(*item.values())
        elif isinstance(item, tuple | list):
            yield from all_arrays(*item)


class Arguments:
    """The arguments of a step by the names that errors give them."""

    def __init__(self, kind):
        self.kind = kind
        self.step = draw(kind, B, INPUTS, H)
        self.states = ("h", "c")[: len(self.step.states)]
        self.outs = ("out[0]", "out[1]") if len(self.states) == 2 else ("out",)
        self.values = {"x": self.step.x, **dict(zip(self.states, self.step.states, strict=True)), **self.step.weights}
        self.values |= {out: np.full((B, H), 7, np.float32) for out in self.outs}

    def __getitem__(self, name):
        return self.values[name]

    def refuse(self, error, *parts, call=None, **replaced):
        """The step with these replaced raises one error that has every part, and changes no array.

        `state` and `out*` replace the whole state and out. `call` is a cell; without it the function is called.
        """
        values = self.values | replaced
        before = copy.deepcopy(list(all_arrays(values)))
        state = values.get("state", structured([values[name] for name in self.states]))
        out = values.get("out*", structured([values[name] for name in self.outs]))
        weights = {name: values[name] for name in self.step.weights} if call is None else {}
        pattern = ".*".join(re.escape(str(part)) for part in parts)
        with pytest.raises(error, match=pattern):
            (call or CELLS[self.kind].step)(values["x"], state, **weights, out=out)
        for after, array in zip(all_arrays(values), before, strict=True):
            assert same_bits(after, array)


@pytest.fixture(params=CELLS)
def arguments(request):
    return Arguments(request.param)


def each(*names):
    """Every cell with each of these arguments that it has; all where none is given."""
    pairs = [
        pytest.param(kind, name, id=f"{kind}-{name}")
        for kind in CELLS
        for name in Arguments(kind).values
        if name in names or not names
    ]
    return pytest.mark.parametrize(("arguments", "name"), pairs, indirect=["arguments"])


@each()
def test_wrong_length_is_refused(arguments, name):
    array = np.zeros([n + 1 for n in arguments[name].shape], np.float32)
    arguments.refuse(ValueError, f"{name}: expected shape (", f"got {array.shape}", **{name: array})


@each()
@pytest.mark.parametrize("dimensions", [0, 3])
def test_wrong_number_of_dimensions_is_refused(arguments, name, dimensions):
    array = np.zeros((1,) * dimensions, np.float32)
    arguments.refuse(ValueError, f"{name}: expected shape (", f"got {array.shape}", **{name: array})


@each()
def test_mixed_dtypes_are_refused(arguments, name):
    wrong = arguments[name].astype(np.float64)
    # The first weight decides what the others must be.
    first = "weight_hh" if name == "weight_ih" else name
    arguments.refuse(TypeError, f"{first}: expected", "float", "got", **{name: wrong})


@each()
@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.complex64, bool, object, ">f4", "U3"], ids=str)
def test_unsupported_dtype_is_refused(arguments, name, dtype):
    array = np.zeros(arguments[name].shape, dtype)
    arguments.refuse(TypeError, f"{name}: expected", "float32", "got", **{name: array})


@each()
@pytest.mark.parametrize("value", [[[1.0, 2.0]], 1.0, "x", {"a": 1}, object()], ids=lambda value: type(value).__name__)
def test_what_is_no_array_is_refused(arguments, name, value):
    arguments.refuse(TypeError, f"{name}: expected", "array", f"got {type(value).__name__}", **{name: value})


@each("x", "c", "weight_ih", "weight_hh", "out[0]", "out[1]")
def test_none_is_refused(arguments, name):
    arguments.refuse(TypeError, f"{name}: expected", "got None", **{name: None})


@each("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ch", "out", "out[0]", "out[1]")
def test_non_contiguous_is_refused(arguments, name):
    shape = arguments[name].shape
    array = np.zeros((*shape[:-1], 2 * shape[-1]), np.float32)[..., ::2]
    arguments.refuse(ValueError, f"{name}: expected", "contiguous", f"shape {shape}", **{name: array})


@each("x", "h", "c")
@pytest.mark.parametrize("layout", ["columns apart", "Fortran", "reversed rows", "broadcast rows", "transposed"])
def test_rows_that_are_not_contiguous_are_refused(arguments, name, layout):
    rows, columns = arguments[name].shape
    array = {
        "columns apart": lambda: np.zeros((rows, 2 * columns), np.float32)[:, ::2],
        "Fortran": lambda: np.zeros((rows, columns), np.float32, order="F"),
        "reversed rows": lambda: np.zeros((rows, columns), np.float32)[::-1],
        "broadcast rows": lambda: np.broadcast_to(np.zeros(columns, np.float32), (rows, columns)),
        "transposed": lambda: np.zeros((columns, rows), np.float32).T,
    }[layout]()
    arguments.refuse(ValueError, f"{name}: expected", "contiguous", f"shape {array.shape}", **{name: array})


@kinds
def test_vector_with_elements_apart_is_refused(kind):
    part = draw(kind, B, INPUTS, H).rows(0)
    with pytest.raises(ValueError, match=r"x: expected.*contiguous.*shape \(7,\)"):
        CELLS[kind].step(np.zeros(2 * INPUTS, np.float32)[::2], part.state, **part.weights)


@each()
def test_unaligned_is_refused(arguments, name):
    shape = arguments[name].shape
    array = np.zeros(4 * int(np.prod(shape)) + 1, np.uint8)[1:].view(np.float32).reshape(shape)
    arguments.refuse((TypeError, ValueError), f"{name}: expected", "align", **{name: array})


def test_read_only_out_is_refused(arguments):
    out = np.zeros((B, H), np.float32)
    out.flags.writeable = False
    arguments.refuse(ValueError, f"{arguments.outs[0]}: expected a writeable array", **{arguments.outs[0]: out})


def test_read_only_inputs_work(arguments):
    desired = arguments.step.forward()
    for array in all_arrays(arguments.step.x, arguments.step.states, arguments.step.weights):
        array.flags.writeable = False
    assert_same_bits(arguments.step.forward(), desired)


def test_out_that_overlaps_is_refused(arguments):
    own = arguments.outs[0]
    room = np.zeros(B * H + H, np.float32)
    shifted = {"h": room[: B * H].reshape(B, H), own: room[H:].reshape(B, H)}
    arguments.refuse(ValueError, f"{own}: expected memory of its own", "overlap with h", **shifted)
    x = np.zeros(B * H, np.float32)
    arguments.refuse(
        ValueError, f"{own}: expected memory of its own", "overlap with x",
        x=x[: B * INPUTS].reshape(B, INPUTS), **{own: x.reshape(B, H)},
    )  # fmt: skip
    arguments.refuse(
        ValueError, f"{own}: expected memory of its own", "overlap with weight_hh",
        **{own: arguments["weight_hh"][:B]},
    )  # fmt: skip
    apart = np.zeros((B, 2 * H), np.float32)
    arguments.refuse(
        ValueError, f"{own}: expected memory of its own", "overlap with h",
        h=apart[:, :H], **{own: apart.reshape(-1)[: B * H].reshape(B, H)},
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["lstm", "peephole_lstm", "coupled_lstm"])
def test_states_that_share_out_are_refused(kind):
    arguments = Arguments(kind)
    one = np.zeros((B, H), np.float32)
    arguments.refuse(
        ValueError, "out[1]: expected memory of its own", "overlap with out[0]", **{"out[0]": one, "out[1]": one}
    )
    swapped = {"out[0]": arguments["c"], "out[1]": arguments["h"]}
    arguments.refuse(ValueError, "out[0]: expected memory of its own", "overlap with c", **swapped)


@pytest.mark.parametrize("name", ["state", "out*"])
@pytest.mark.parametrize("kind", ["lstm", "peephole_lstm", "coupled_lstm"])
def test_wrong_structure_is_refused_by_lstm(kind, name):
    arguments = Arguments(kind)
    array = np.zeros((B, H), np.float32)
    label = name.rstrip("*")
    arguments.refuse(TypeError, f"{label}: expected a tuple (h, c)", "got numpy.ndarray", **{name: array})
    arguments.refuse(TypeError, f"{label}: expected a tuple (h, c)", "got dict", **{name: {"h": array, "c": array}})
    for count in (0, 1, 3):
        value = tuple(array.copy() for _ in range(count))
        arguments.refuse(ValueError, f"{label}: expected a tuple (h, c)", f"got {count} items", **{name: value})


@pytest.mark.parametrize("kind", ["gru", "gru_reset_before"])
def test_wrong_structure_is_refused_by_gru(kind):
    arguments = Arguments(kind)
    array = np.zeros((B, H), np.float32)
    arguments.refuse(TypeError, "h: expected", "got tuple", state=(array, array))
    arguments.refuse(TypeError, "out: expected", "got tuple", **{"out*": (array, array)})


def test_frozen_cell_and_tape_refuse_as_functions_do(arguments):
    cell = arguments.step.cell().freeze()
    for call in (cell, lambda *args, **kwargs: cell(*args, **kwargs, tape=True)):
        bad = np.zeros((B, INPUTS + 1), np.float32)
        arguments.refuse(ValueError, f"x: expected shape ({B}, {INPUTS})", f"got {bad.shape}", x=bad, call=call)
        arguments.refuse(TypeError, "h: expected", "got float64", h=np.zeros((B, H)), call=call)
        read_only = np.zeros((B, H), np.float32)
        read_only.flags.writeable = False
        arguments.refuse(
            ValueError, f"{arguments.outs[0]}: expected a writeable", call=call, **{arguments.outs[0]: read_only}
        )


def test_vector_and_batch_do_not_mix(arguments):
    vector = np.zeros(H, np.float32)
    arguments.refuse(ValueError, "h: expected shape (4, 20)", "got (20,)", h=vector)
    arguments.refuse(ValueError, "h: expected shape (20,)", "got (4, 20)", x=np.zeros(INPUTS, np.float32))


@kinds
@pytest.mark.parametrize("frozen", [False, True], ids=["unfrozen", "frozen"])
def test_empty_batch_gives_empty_state_and_zero_gradients(kind, frozen):
    step = draw(kind, 0, INPUTS, H)
    cell = step.cell()
    if frozen:
        cell.freeze()
    out = structured([np.empty((0, H), np.float32) for _ in step.states])
    for state in (cell(step.x), cell(step.x, step.state), cell(step.x, step.state, out=out)):
        assert all(array.shape == (0, H) for array in arrays_of(state))
    gradients = {name: array for name, array in step.backward().items() if name not in ("h", "c")}
    assert gradients.pop("dx").shape == (0, INPUTS)
    for name, array in gradients.items():
        assert array.shape == ((0, H) if name in ("dh", "dc") else step.weights[name].shape)
        assert not array.any(), name


@kinds
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
def test_value_that_is_not_finite_stays_in_its_row(kind, dtype, value):
    step = draw(kind, 20, INPUTS, H, dtype)
    desired = step.backward()
    step.x[5, 3] = value
    actual = step.backward()
    others = np.arange(20) != 5
    for name in ("h", "c", "dx", "dh", "dc"):
        if name in actual:
            assert same_bits(actual[name][others], desired[name][others]), name
    if np.isnan(value):
        for name, array in actual.items():
            assert np.isnan(
                array[5] if array.shape[0] == 20 and not name.startswith(("weight", "bias")) else array
            ).any()
        assert np.isnan(actual["h"][5]).all()
    else:
        assert np.isfinite(actual["h"][5]).all()  # gates saturate


@kinds
def test_one_bias_alone_is_allowed(kind):
    step = draw(kind, B, INPUTS, H, biases=("bias_hh",))
    zeros = dict(step.weights, bias_ih=np.zeros_like(step.weights["bias_hh"]))
    desired = CELLS[kind].step(step.x, step.state, **zeros)
    assert_same_bits(step.forward(), arrays_of(desired))


@pytest.mark.parametrize("cls", [LSTMCell, GRUCell])
@pytest.mark.parametrize("name", ["input_size", "hidden_size"])
@pytest.mark.parametrize("size", [0, -1, 2.0, True, None, "3", np.array([3])], ids=repr)
def test_size_that_is_no_positive_integer_is_refused(cls, name, size):
    sizes = {"input_size": 3, "hidden_size": 4} | {name: size}
    with pytest.raises(ValueError, match=re.escape(f"{name} must be an integer from 1 on, got {size!r}")):
        cls(**sizes)


@pytest.mark.parametrize("cls", [LSTMCell, GRUCell])
@pytest.mark.parametrize("dtype", ["float16", int, object, ">f8"])
def test_dtype_that_no_kernel_has_is_refused(cls, dtype):
    with pytest.raises(TypeError, match=f"dtype must be float32 or float64, got {np.dtype(dtype)}"):
        cls(3, 4, dtype=dtype)


@pytest.mark.parametrize("cls", [LSTMCell, GRUCell])
def test_options_are_keywords_that_exist(cls):
    with pytest.raises(TypeError):
        cls(3, 4, False)
    with pytest.raises(TypeError, match="projection"):
        cls(3, 4, projection=2)


def test_weights_of_another_cell_are_refused():
    lstm, gru = draw("lstm", B, INPUTS, H), draw("gru", B, INPUTS, H)
    with pytest.raises(ValueError, match=r"weight_hh: expected shape \(4\*hidden_size, hidden_size\), got \(60, 20\)"):
        lstm_cell(lstm.x, lstm.state, **gru.weights)
    with pytest.raises(ValueError, match=r"weight_hh: expected shape \(3\*hidden_size, hidden_size\), got \(80, 20\)"):
        gru_cell(gru.x, gru.state, **lstm.weights)
    with pytest.raises(TypeError, match="weight_ch"):
        gru_cell(gru.x, gru.state, **gru.weights, weight_ch=np.zeros((3, H), np.float32))


@kinds
def test_tensor_on_another_device_or_in_bfloat16_is_refused(kind):
    torch = pytest.importorskip("torch", reason="torch is not installed: no tensors of another library")
    step = draw(kind, B, INPUTS, H)
    for tensor in (torch.zeros(B, INPUTS, device="meta"), torch.zeros(B, INPUTS, dtype=torch.bfloat16)):
        with pytest.raises(TypeError, match="x: expected a float32 or float64 array in CPU memory, got Tensor"):
            CELLS[kind].step(tensor, step.state, **step.weights)


@pytest.fixture
def tape(arguments):
    step = arguments.step
    return CELLS[step.kind].step(step.x, step.state, **step.weights, tape=True)[1]


@each("h", "c")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: np.zeros((B, H + 1), np.float32), ValueError, "expected shape (4, 20), got (4, 21)"),
        (lambda: np.zeros(H, np.float32), ValueError, "expected shape (4, 20), got (20,)"),
        (lambda: np.zeros((B, H)), TypeError, "float64"),
        (lambda: np.zeros((B, H), object), TypeError, "object"),
        (lambda: [[0.0] * H] * B, TypeError, "got list"),
        (lambda: np.zeros((B, 2 * H), np.float32)[:, :H], ValueError, "contiguous"),
        (lambda: np.zeros((B, 2 * H), np.float32)[:, ::2], ValueError, "contiguous"),
    ],
    ids=["columns", "vector", "dtype", "object", "list", "rows apart", "columns apart"],
)
def test_gradient_that_does_not_fit_is_refused(arguments, name, tape, make, error, message):
    before = copy.deepcopy([*all_arrays(arguments.values), tape.saved])
    gradients = [make() if state == name else None for state in arguments.states]
    with pytest.raises(error, match=f"d{name}: .*{re.escape(message)}"):
        CELLS[arguments.kind].backward(tape, *gradients)
    for after, array in zip([*all_arrays(arguments.values), tape.saved], before, strict=True):
        assert same_bits(after, array)


def test_gradient_of_nothing_gives_zeros(arguments, tape):
    gradients = CELLS[arguments.kind].backward(tape, None)
    assert not any(array.any() for array in flat(gradients).values())
