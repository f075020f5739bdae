"""Weights of other systems: a module made of them computes what the system does, and what is unclear is refused.

torch and ONNX Runtime run where they are installed. The golden file holds what they, and Keras, computed elsewhere.
"""

import doctest
import itertools
import json
import re
import sys
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fusedstep.rnn import CELLS, GRU, LSTM, _formats

from .cells import DTYPES, STATES, arrays_of, error, same_bits, structured
from .sequences import MODULES, cell_kind, draw, width

GOLDEN = Path(__file__).parent.parent / "golden" / "rnn.npz"  # made by make_rnn.py beside it
CLASSES = {kind: LSTM if "lstm" in kind else GRU for kind in MODULES}
# torch says so where h is projected
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
T, B, INPUTS, H = 4, 2, 5, 3
BOUND = {np.float32: 1e-5, np.float64: 1e-13}

FORMS = {
    "layer": {},
    "no bias": {"bias": False},
    "directions": {"bidirectional": True},
    "layers": {"num_layers": 2},
    "layers and directions": {"num_layers": 2, "bidirectional": True},
}
kinds = pytest.mark.parametrize("kind", CELLS)  # ONNX and Keras have no projection, nor layer normalisation
GOLDEN_KINDS = ("lstm", "peephole_lstm", "gru", "gru_reset_before")
golden_kinds = pytest.mark.parametrize("kind", GOLDEN_KINDS)
kinds_of_torch = pytest.mark.parametrize("kind", ["lstm", "projected_lstm", "gru"])
forms = pytest.mark.parametrize("form", FORMS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def draw_form(kind, form, dtype=np.float32, **options):
    return draw(kind, T, B, INPUTS, H, dtype, **(FORMS[form] | options))


def refused(error, *parts):
    """The body raises one error whose message begins with the first part and has the others, in order."""
    return pytest.raises(error, match="(?s)^" + ".*".join(map(re.escape, parts)))


def assert_options(module, case, **options):
    """A module has the sizes of a case, the dtype, and these options; torch's defaults else."""
    expected = {
        "input_size": case.x.shape[-1],
        "hidden_size": case.hidden_size,
        "num_layers": case.num_layers,
        "bias": "bias_ih_l0" in case.weights,
        "bidirectional": case.bidirectional,
        "batch_first": False,
        "dropout": 0.0,
        "dtype": case.x.dtype,
    }
    kind = {"reset_after": case.kind != "gru_reset_before"}
    if "lstm" in case.kind:
        kind = {name: name in case.kind for name in ("peephole", "coupled")}
        kind["proj_size"] = case.width if case.width < case.hidden_size else 0
    kind["layer_norm"] = "layer_norm" in case.kind
    for name, value in (expected | kind | options).items():
        assert getattr(module, name) == value, name


def assert_equal_weights(module, weights):
    assert list(module.weights) == list(weights)
    for name, array in weights.items():
        assert same_bits(module.weights[name], array), name
        assert not np.shares_memory(module.weights[name], array)


def without(package, monkeypatch):
    """Make an import of a package fail."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture(name="golden", scope="module")
def load_golden():
    """What each system computed, by system and case: arrays by name."""
    with np.load(GOLDEN) as file:
        cases = {}
        for name in file:
            *case, array = name.split("/")
            cases.setdefault("/".join(case), {})[array] = file[name]
        return cases


# ---- torch


@pytest.fixture(name="torch", scope="module")
def import_torch():
    return pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")


def torch_module(torch, kind, form, dtype=np.float32, **options):
    torch.manual_seed(0)
    cls = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell_kind(kind)]
    options |= {"proj_size": width(kind, H)} if width(kind, H) < H else {}
    return cls(INPUTS, H, **FORMS[form], **options, dtype=torch.from_numpy(np.empty(0, dtype)).dtype)


@kinds_of_torch
@forms
@dtypes
def test_module_of_torch_computes_as_torch(torch, kind, form, dtype):
    theirs, case = torch_module(torch, kind, form, dtype), draw_form(kind, form, dtype)
    ours = CLASSES[kind].from_torch(theirs.state_dict())
    assert_options(ours, case)
    assert_equal_weights(ours, {name: tensor.numpy() for name, tensor in theirs.state_dict().items()})
    with torch.no_grad():
        y, state = theirs(torch.from_numpy(case.x), structured([torch.from_numpy(s) for s in case.states]))
    actual = ours(case.x, structured(list(case.states)))
    for a, b in zip((actual[0], *arrays_of(actual[1])), (y, *arrays_of(state)), strict=True):
        assert error(a, b.numpy()) <= BOUND[dtype]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@forms
def test_module_of_golden_torch_computes_as_torch(golden, kind, form):
    arrays = golden[f"torch/{kind}/{form}"]
    names = [name for name in arrays if name.startswith(("weight", "bias"))]
    module = CLASSES[kind].from_torch({name: arrays[name] for name in names})
    assert_options(module, draw_form(kind, form))
    y, state = module(arrays["x"])
    assert error(y, arrays["y"]) <= BOUND[np.float32]
    for name, array in zip(STATES, arrays_of(state), strict=False):
        assert error(array, arrays[name]) <= BOUND[np.float32]


@kinds_of_torch
@forms
def test_to_torch_is_a_state_dict(torch, kind, form):
    theirs, case = torch_module(torch, kind, form), draw_form(kind, form)
    arrays = case.module().freeze().to_torch()
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    assert list(arrays) == list(theirs.state_dict())
    assert_equal_weights(CLASSES[kind].from_torch(arrays), case.weights)


def test_to_torch_copies():
    module = LSTM(INPUTS, H, rng=0).freeze()
    for name, array in module.to_torch().items():
        assert array.flags.writeable
        assert not np.shares_memory(array, module.weights[name])


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("peephole_lstm", ("peephole=False", "peephole=True")),
        ("coupled_lstm", ("coupled=False", "coupled=True")),
        ("projected_peephole_lstm", ("peephole=False", "peephole=True")),
        ("gru_reset_before", ("reset_after=True", "=False")),
    ],
)
def test_to_torch_refuses_what_torch_lacks(kind, parts):
    with refused(ValueError, "to_torch: expected", *parts):
        MODULES[kind](INPUTS, H, rng=0).to_torch()


@kinds_of_torch
def test_names_with_a_prefix_are_read(kind):
    case = draw_form(kind, "layers")
    model = {f"encoder.rnn.{name}": array for name, array in case.weights.items()} | {"head.weight": np.ones((3, 3))}
    module = CLASSES[kind].from_torch(model, prefix="encoder.rnn.", batch_first=True, dropout=0.25)
    assert_options(module, case, batch_first=True, dropout=0.25)
    assert_equal_weights(module, case.weights)
    for prefix in ("", "encoder.", "encoder.rnn"):
        with refused(ValueError, "state_dict: expected the name", "weight_ih_l0", "prefix may be 'encoder.rnn.'"):
            CLASSES[kind].from_torch(model, prefix=prefix)


@kinds_of_torch
def test_parameters_in_any_memory_order_are_read(torch, kind):
    theirs = torch_module(torch, kind, "directions")
    weights = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    assert_equal_weights(CLASSES[kind].from_torch(dict(theirs.named_parameters())), weights)
    arrays = {name: np.asfortranarray(array) for name, array in reversed(weights.items())}
    assert_equal_weights(CLASSES[kind].from_torch(arrays), weights)


def other(name, change):
    """The weights with one changed."""
    return lambda w: w | {name: change(w[name])}


TORCH_REFUSED = {
    "no mapping": (lambda w: list(w.items()), TypeError, ("state_dict: expected a mapping", "got list")),
    "nothing": (lambda _: {}, ValueError, ("state_dict: expected the name 'weight_ih_l0'", "got []")),
    "projection of one layer": (
        lambda w: w | {"weight_hr_l0": np.ones((2, H))}, ValueError,
        ("state_dict: expected weight_ih, weight_hh, bias_ih, bias_hh, weight_hr of 2", "got no ['weight_hr_l1']"),
    ),
    "projection to as many": (
        lambda w: w | {f"weight_hr_l{k}": np.ones((H, H), np.float32) for k in range(2)}, ValueError,
        ("state_dict['weight_hr_l0']: expected shape (proj_size, hidden_size), the first smaller, got (3, 3)",),
    ),
    "projection that is flat": (
        lambda w: w | {f"weight_hr_l{k}": np.ones(H, np.float32) for k in range(2)}, ValueError,
        ("state_dict['weight_hr_l0']: expected shape (proj_size, hidden_size)", "got (3,)"),
    ),
    "projection that nothing reads": (
        lambda w: w | {f"weight_hr_l{k}": np.ones((2, H), np.float32) for k in range(2)}, ValueError,
        ("state_dict['weight_hr_l0']: expected shape (3, 3) for LSTM, got (2, 3)",),
    ),
    "missing": (
        lambda w: {n: a for n, a in w.items() if n != "bias_hh_l1"}, ValueError,
        ("state_dict: expected weight_ih, weight_hh, bias_ih, bias_hh of 2 layer(s)", "got no ['bias_hh_l1']"),
    ),
    "far layer": (
        lambda w: w | {"bias_hh_l99999999": w["bias_hh_l1"]}, ValueError,
        ("state_dict: expected", "of 100000000 layer(s)", "got no ['weight_ih_l2'"),
    ),
    "another": (
        lambda w: w | {"head.weight": np.ones(3)}, ValueError,
        ("state_dict: expected", "and also ['head.weight']"),
    ),
    "others": (
        lambda w: w | {f"head.{i}": np.ones(3) for i in range(99)}, ValueError,
        ("state_dict: expected", "and also ['head.0'", "'head.7'] and 91 more"),
    ),
    "a number": (lambda w: w | {3: np.ones(3)}, ValueError, ("state_dict: expected", "and also ['3']")),
    "peephole": (lambda w: w | {"weight_ch_l0": np.ones((3, H))}, ValueError, ("state_dict:", "['weight_ch_l0']")),
    "half": (
        other("weight_hh_l1", lambda a: a.astype(np.float16)), TypeError,
        ("state_dict['weight_hh_l1']: expected a float32 or float64 array, got dtype float16",),
    ),
    "mixed": (
        other("weight_hh_l1", lambda a: a.astype(np.float64)), TypeError,
        ("state_dict['weight_hh_l1']: expected dtype float32 as of state_dict['weight_ih_l0'], got float64",),
    ),
    "list": (other("bias_ih_l0", np.ndarray.tolist), TypeError, ("state_dict['bias_ih_l0']: expected", "got list")),
    "rows": (
        other("weight_ih_l1", lambda a: a[1:]), ValueError,
        ("state_dict['weight_ih_l1']: expected shape (12, 3) for LSTM, got (11, 3)",),
    ),
    "width": (
        other("weight_ih_l1", lambda a: np.tile(a, 2)), ValueError,
        ("state_dict['weight_ih_l1']: expected shape (12, 3) for LSTM, got (12, 6)",),
    ),
    "flat": (
        other("weight_ih_l0", np.ravel), ValueError,
        ("state_dict['weight_ih_l0']: expected shape (12, 0) for LSTM, got (60,)",),
    ),
    "no dimension": (other("weight_hh_l0", lambda _: np.ones((), np.float32)), ValueError, ("state_dict[", "got ()")),
    "another class": (
        lambda _: draw_form("gru", "layers").weights, ValueError,
        ("state_dict['weight_hh_l0']: expected shape (12, 3) for LSTM, got (9, 3)",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", TORCH_REFUSED)
def test_state_dict_that_does_not_fit_is_refused(wrong):
    make, exception, parts = TORCH_REFUSED[wrong]
    with refused(exception, *parts):
        LSTM.from_torch(make(draw_form("lstm", "layers").weights))


def test_projection_of_a_gru_is_refused():
    weights = draw_form("gru", "layer").weights | {"weight_hr_l0": np.ones((2, H), np.float32)}
    with refused(ValueError, "state_dict: expected", "and also ['weight_hr_l0']"):
        GRU.from_torch(weights)


def test_options_that_torch_does_not_hold_are_checked():
    weights = draw_form("lstm", "layer").weights
    for options in ({"dropout": 1.5}, {"batch_first": 1}, {"prefix": None}):
        with refused((TypeError, ValueError), next(iter(options)), f"got {next(iter(options.values()))!r}"):
            LSTM.from_torch(weights, **options)


def test_tensor_of_bfloat16_is_refused(torch):
    state_dict = torch_module(torch, "lstm", "layer").bfloat16().state_dict()
    with refused(TypeError, "state_dict['weight_ih_l0']: expected a float32 or float64 array", "got Tensor"):
        LSTM.from_torch(state_dict)


# ---- ONNX

ONNX_FORMS = ("layer", "no bias", "directions")  # of one node
ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}  # i o f c from i f g o, and z r h from r z n


def onnx_arrays(case, layer=0):
    """W, R, B and P of a layer, as ONNX stacks them."""
    directions = [case.cell_weights(layer, d) for d in range(case.directions)]
    order, coupled = ORDER["lstm" if "lstm" in case.kind else "gru"], "coupled" in case.kind

    def gates(array, order=order):
        blocks = np.split(array, len(order) - coupled)
        if coupled:  # theirs has rows of f that nothing reads
            blocks = [-blocks[0], np.full_like(blocks[0], 9), *blocks[1:]]
        return np.concatenate([blocks[i] for i in order])

    arrays = {
        "W": np.stack([gates(own["weight_ih"]) for own in directions]),
        "R": np.stack([gates(own["weight_hh"]) for own in directions]),
    }
    if "bias_ih" in directions[0]:
        both = [[gates(own["bias_ih"]), gates(own["bias_hh"])] for own in directions]
        arrays["B"] = np.stack([np.concatenate(pair) for pair in both])
    if "weight_ch" in directions[0]:
        arrays["P"] = np.stack([gates(own["weight_ch"], (0, 2, 1)).ravel() for own in directions])  # i o f from i f o
    return arrays


def attribute(name, value):
    """An AttributeProto's fields."""
    fields = {"s": b"", "i": 0, "f": 0.0, "floats": [], "strings": []}
    field = {str: "s", int: "i", float: "f"}.get(type(value)) or ("strings" if isinstance(value[0], str) else "floats")
    encoded = {"s": str.encode, "strings": lambda texts: [text.encode() for text in texts]}.get(field, lambda v: v)
    return SimpleNamespace(name=name, **(fields | {field: encoded(value)}))


def plain_node(case, arrays, **attributes):
    """A node as from_onnx takes it, without the package onnx; it calls its weights as ONNX's documentation does."""
    inputs = ["x", "W", "R", "B" if "B" in arrays else "", "", "", "", "P" if "P" in arrays else ""]
    attributes = onnx_attributes(case) | attributes
    return SimpleNamespace(
        op_type="LSTM" if "lstm" in case.kind else "GRU",
        input=inputs if "lstm" in case.kind else inputs[:6],
        attribute=[attribute(name, value) for name, value in attributes.items()],
    )


def onnx_attributes(case):
    attributes = {"hidden_size": case.hidden_size}
    attributes |= {"direction": "bidirectional"} if case.bidirectional else {}
    attributes |= {"input_forget": 1} if "coupled" in case.kind else {}
    return attributes | ({"linear_before_reset": 1} if case.kind == "gru" else {})


def between(onnx, case, source, target):
    """The nodes that turn Y of a layer into X of the next."""
    make = onnx.helper.make_node
    if not case.bidirectional:
        return [make("Squeeze", [source, "axis one"], [target])]
    transposed = f"{source} transposed"
    return [
        make("Transpose", [source], [transposed], perm=[0, 2, 1, 3]),
        make("Reshape", [transposed, "sides"], [target]),
    ]


def onnx_model(onnx, case, between=between, **attributes):
    """A model of a case: the initial states of each layer are inputs, and Y of the last and all states are outputs."""
    make, op = onnx.helper.make_node, "LSTM" if "lstm" in case.kind else "GRU"
    names = STATES[: len(case.states)]
    nodes, constants = [], {}
    if case.num_layers > 1:
        constants |= {"sides": np.array([0, 0, -1])} if case.bidirectional else {"axis one": np.array([1])}
    for k in range(case.num_layers):
        if k:
            nodes += between(onnx, case, f"y{k - 1}", f"x{k}")
        arrays = onnx_arrays(case, k)
        constants |= {f"{name}{k}": array for name, array in arrays.items()}
        inputs = [f"x{k}", f"W{k}", f"R{k}", f"B{k}" if "B" in arrays else "", "", *(f"{s}{k}" for s in names)]
        inputs += [f"P{k}"] * ("P" in arrays)
        outputs = [f"y{k}", *(f"{s}{k} after" for s in names)]
        options = onnx_attributes(case) | attributes
        nodes.append(make(op, inputs, outputs, name=f"layer {k}", **options))
    D, L, width = case.directions, case.num_layers, case.hidden_size
    states = [f"{s}{k}" for k in range(L) for s in names]
    info = partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    graph = onnx.helper.make_graph(
        nodes,
        "stack",
        [info("x0", shape=case.x.shape), *(info(name, shape=(D, B, width)) for name in states)],
        [info(f"y{L - 1}", shape=(T, D, B, width)), *(info(f"{n} after", shape=(D, B, width)) for n in states)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def run_onnx(onnxruntime, model, case):
    """y, h and c by name, as ONNX Runtime computes them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    D, names = case.directions, STATES[: len(case.states)]
    places = list(itertools.product(range(case.num_layers), zip(names, case.states, strict=True)))
    feeds = {f"{name}{k}": state[k * D : (k + 1) * D] for k, (name, state) in places}
    y, *states = session.run(None, {"x0": case.x, **feeds})
    y = y.transpose(0, 2, 1, 3).reshape(*case.x.shape[:2], -1)
    return {"y": y, **{n: np.concatenate(states[i :: len(names)]) for i, n in enumerate(names)}}


@pytest.fixture(name="onnx", scope="module")
def import_onnx():
    return pytest.importorskip("onnx", reason="onnx is not installed: no files to read")


@pytest.fixture(name="onnxruntime", scope="module")
def import_onnxruntime():
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: nothing to compare with")


@kinds
@forms
def test_module_of_onnx_computes_as_onnxruntime(onnx, onnxruntime, kind, form):
    case = draw_form(kind, form)
    model = onnx_model(onnx, case)
    onnx.checker.check_model(model)
    module = CLASSES[kind].from_onnx(model.SerializeToString())
    assert_options(module, case)
    assert_equal_weights(module, case.weights)
    for name, array in run_onnx(onnxruntime, model, case).items():
        assert error(case.infer(module)[name], array) <= BOUND[np.float32], name


@golden_kinds
@pytest.mark.parametrize("form", ONNX_FORMS)
def test_module_of_golden_onnx_computes_as_onnxruntime(golden, monkeypatch, kind, form):
    without("onnx", monkeypatch)
    arrays, case = golden[f"onnxruntime/{kind}/{form}"], draw_form(kind, form)
    tensors = {name: arrays[name] for name in ("W", "R", "B", "P") if name in arrays}
    module = CLASSES[kind].from_onnx(plain_node(case, arrays), tensors)
    assert_options(module, case)
    y, state = module(arrays["x"])
    assert error(y, arrays["y"]) <= BOUND[np.float32]
    for name, array in zip(STATES, arrays_of(state), strict=False):
        assert error(array, arrays[name]) <= BOUND[np.float32]


@kinds
@dtypes
@pytest.mark.parametrize("form", ONNX_FORMS)
def test_node_and_tensors_give_the_weights(kind, form, dtype):
    case = draw_form(kind, form, dtype)
    arrays = onnx_arrays(case)
    module = CLASSES[kind].from_onnx(plain_node(case, arrays), arrays, batch_first=True)
    assert_options(module, case, batch_first=True)
    assert_equal_weights(module, case.weights)


def test_node_of_the_package_is_read(onnx):
    case = draw_form("gru", "directions")
    model = onnx_model(onnx, case)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    module = GRU.from_onnx(model.graph.node[0], tensors)
    assert_options(module, case)
    assert_equal_weights(module, case.weights)


@pytest.mark.parametrize("path", [str, Path])
def test_file_is_read(onnx, tmp_path, path):
    case = draw_form("peephole_lstm", "layers and directions")
    onnx.save(onnx_model(onnx, case), tmp_path / "model.onnx")
    assert_equal_weights(LSTM.from_onnx(path(tmp_path / "model.onnx")), case.weights)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("form", ["no bias", "layers", "layers and directions"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.usefixtures("onnx")  # the exporter imports it
def test_file_that_torch_exported_is_read(torch, tmp_path, kind, form, batch_first):
    theirs = torch_module(torch, kind, form, batch_first=batch_first, **{"dropout": 0.5} if "layers" in form else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter: it is deprecated, and the batch is fixed
        x = torch.zeros(2, 3, INPUTS)
        torch.onnx.export(theirs.eval(), (x,), tmp_path / "model.onnx", dynamo=False)
    module = CLASSES[kind].from_onnx(tmp_path / "model.onnx")
    assert_equal_weights(module, {name: tensor.numpy() for name, tensor in theirs.state_dict().items()})
    assert getattr(module, "reset_after", True)


@kinds
def test_class_reads_its_own_operator_alone(onnx, kind):
    ours, others = onnx_model(onnx, draw_form(kind, "layer")), "gru" if "lstm" in kind else "lstm"
    model = onnx_model(onnx, draw_form(others, "layer")).SerializeToString()
    with refused(ValueError, "node_or_file: expected a graph with one", f"got the operators ['{others.upper()}']"):
        CLASSES[kind].from_onnx(model)
    case = draw_form(others, "layer")
    with refused(ValueError, "node_or_file: expected ONNX's operator", f"got '{others.upper()}'"):
        CLASSES[kind].from_onnx(plain_node(case, onnx_arrays(case)), onnx_arrays(case))
    del ours.graph.node[:]
    with refused(ValueError, "node_or_file: expected a graph with one", "got the operators []"):
        CLASSES[kind].from_onnx(ours.SerializeToString())


def identity_and_dropout(onnx, case, source, target):
    make = onnx.helper.make_node
    nodes = [make("Identity", [source], ["same"]), make("Dropout", ["same"], ["left"])]
    return [*nodes, *between(onnx, case, "left", target)]


def batch_first_between(onnx, case, source, target):
    """As an exporter whose layers are batch first: to it, and back."""
    make = onnx.helper.make_node
    nodes = [make("Transpose", ["time first"], ["batch first"], perm=[1, 0, 2])]
    nodes.append(make("Transpose", ["batch first"], [target], perm=[1, 0, 2]))
    return [*between(onnx, case, source, "time first"), *nodes]


def sides_alone(onnx, case, source, target):
    """Y of a layer whose layout is batch first: directions are side by side once their axis is gone."""
    del case
    return [onnx.helper.make_node("Reshape", [source, "both sides"], [target])]


def through(operator):
    def nodes(onnx, case, source, target):
        return [*between(onnx, case, source, "plain"), onnx.helper.make_node(operator, ["plain"], [target])]

    return nodes


def without_transpose(onnx, case, source, target):
    """Directions one after another over the batch: of the right shape."""
    del case
    return [onnx.helper.make_node("Reshape", [source, "sides of all"], [target])]


def of_the_input(onnx, case, source, target):
    del case, source
    return [onnx.helper.make_node("Identity", ["x0"], [target])]


def of_the_last_state(onnx, case, source, target):
    del case
    return [onnx.helper.make_node("Identity", [source.replace("y", "h") + " after"], [target])]


@pytest.mark.parametrize("path", [identity_and_dropout, batch_first_between])
@pytest.mark.parametrize("form", ["layers", "layers and directions"])
def test_stacked_layers_are_found_behind_what_moves_values(onnx, path, form):
    case = draw_form("gru_reset_before", form)
    assert_equal_weights(GRU.from_onnx(onnx_model(onnx, case, path).SerializeToString()), case.weights)


@pytest.mark.parametrize("form", ["layers", "layers and directions"])
def test_stacked_layers_of_either_layout_are_found(onnx, form):
    case = draw_form("lstm", form)
    model = onnx_model(onnx, case, sides_alone, layout=1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 0, -1]), "both sides"))
    module = LSTM.from_onnx(model.SerializeToString())
    assert_options(module, case, batch_first=True)
    assert_equal_weights(module, case.weights)
    model = onnx_model(onnx, case, layout=1)
    with refused(ValueError, "node_or_file: expected one LSTM, or layers that each take"):
        LSTM.from_onnx(model.SerializeToString())


@pytest.mark.parametrize("path", [through("Relu"), through("Tanh"), of_the_input, of_the_last_state, without_transpose])
def test_layers_that_are_not_stacked_are_refused(onnx, path):
    case = draw_form("lstm", "layers and directions")
    model = onnx_model(onnx, case, path)
    sides = np.array([T, B, 2 * H])
    model.graph.initializer.append(onnx.numpy_helper.from_array(sides, "sides of all"))
    with refused(
        ValueError, "node_or_file: expected one LSTM, or layers that each take", "got 'layer 1' after 'layer 0'"
    ):
        LSTM.from_onnx(model.SerializeToString())


@pytest.mark.parametrize("name", ["linear_before_reset", "direction", "hidden_size", "dtype"])
def test_layers_of_different_kinds_are_refused(onnx, name):
    model = onnx_model(onnx, draw_form("gru", "layers"))
    upper, tensors = model.graph.node[-1], {tensor.name: tensor for tensor in model.graph.initializer}
    if name == "linear_before_reset":
        del upper.attribute[-1]
    elif name == "direction":
        upper.attribute.append(onnx.helper.make_attribute("direction", "bidirectional"))
    elif name == "hidden_size":
        upper.attribute[0].i = H + 1
    elif name == "dtype":
        for weight in ("W1", "R1", "B1"):
            array = onnx.numpy_helper.to_array(tensors[weight]).astype(np.float64)
            tensors[weight].CopyFrom(onnx.numpy_helper.from_array(array, weight))
    title = "tensors['R1']" if name == "direction" else "node_or_file: layer 1"
    with refused(ValueError, title, "expected", "got"):
        GRU.from_onnx(model.SerializeToString())


@pytest.mark.parametrize("form", ["Constant", "Identity", "Transpose"])
def test_weights_behind_what_moves_values_are_found(onnx, form):
    case = draw_form("lstm", "directions")
    model = onnx_model(onnx, case)
    arrays, make = onnx_arrays(case), onnx.helper.make_node
    if form == "Transpose":
        array = np.ascontiguousarray(arrays["W"].swapaxes(1, 2))
        made = make("Transpose", ["kernel"], ["W0"], perm=[0, 2, 1])
    elif form == "Identity":
        array, made = arrays["W"], make("Identity", ["kernel"], ["W0"])
    else:
        array, made = arrays["W"], make("Constant", [], ["W0"], value=onnx.numpy_helper.from_array(arrays["W"]))
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "W0"]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, onnx.numpy_helper.from_array(array, "kernel")])
    nodes = [made, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    assert_equal_weights(LSTM.from_onnx(model.SerializeToString()), case.weights)


def test_weights_that_a_graph_takes_as_inputs_are_refused(onnx):
    model = onnx_model(onnx, draw_form("gru", "layer"))
    del model.graph.initializer[1]
    with refused(ValueError, "node_or_file: layer 0: R: expected one of the tensors ['W0', 'B0'], got 'R0'"):
        GRU.from_onnx(model.SerializeToString())


def test_linear_before_reset_is_no_by_default():
    """A GRU of ONNX that says nothing is the paper's: the document of the operator says so."""
    case = draw_form("gru_reset_before", "layer")
    arrays = onnx_arrays(case)
    node = plain_node(case, arrays)
    assert "linear_before_reset" not in [attribute.name for attribute in node.attribute]
    assert GRU.from_onnx(node, arrays).reset_after is False
    assert GRU.from_onnx(plain_node(case, arrays, linear_before_reset=0), arrays).reset_after is False
    assert GRU.from_onnx(plain_node(case, arrays, linear_before_reset=1), arrays).reset_after is True


@pytest.mark.parametrize(("given", "batch_first"), [(None, True), (True, True), (False, False)])
def test_layout_is_batch_first_where_the_caller_says_nothing(given, batch_first):
    case = draw_form("lstm", "layer")
    node = plain_node(case, onnx_arrays(case), layout=1)
    assert LSTM.from_onnx(node, onnx_arrays(case), batch_first=given).batch_first is batch_first


ATTRIBUTES_REFUSED = {
    "direction": ("reverse", "expected 'forward' or 'bidirectional', got 'reverse'"),
    "clip": (3.0, "expected none, got 3.0"),
    "input_forget": (2, "expected 0 or 1, got 2"),
    "layout": (2, "expected 0 or 1, got 2"),
    "linear_before_reset": (2, "expected 0 or 1, got 2"),
    "activations": (
        ["Sigmoid", "Tanh", "Relu"],
        "expected ['Sigmoid', 'Tanh', 'Tanh'], got ['Sigmoid', 'Tanh', 'Relu']",
    ),
    "activation_alpha": ([0.5], "expected [], got [0.5]"),
    "activation_beta": ([0.5], "expected [], got [0.5]"),
    "hidden_size": (7, "expected 3, as R says, got 7"),
}


@pytest.mark.parametrize("name", ATTRIBUTES_REFUSED)
def test_attribute_of_other_arithmetic_is_refused(name):
    value, message = ATTRIBUTES_REFUSED[name]
    case = draw_form("lstm", "layer")
    with refused(ValueError, f"node_or_file: attribute {name}: {message}"):
        LSTM.from_onnx(plain_node(case, onnx_arrays(case), **{name: value}), onnx_arrays(case))


def test_unknown_attribute_is_refused():
    case = draw_form("lstm", "layer")
    with refused(ValueError, "node_or_file: expected attributes among", "got 'projection'"):
        LSTM.from_onnx(plain_node(case, onnx_arrays(case), projection=1), onnx_arrays(case))


@kinds
@pytest.mark.parametrize("form", ["layer", "directions"])
def test_default_activations_may_be_said(kind, form):
    case = draw_form(kind, form)
    names = (["sigmoid", "TANH", "Tanh"] if "lstm" in kind else ["sigmoid", "tanh"]) * case.directions
    arrays = onnx_arrays(case)
    CLASSES[kind].from_onnx(plain_node(case, arrays, activations=names, output_sequence=1), arrays)
    with refused(ValueError, "node_or_file: attribute activations: expected"):
        CLASSES[kind].from_onnx(plain_node(case, arrays, activations=names[:-1]), arrays)


ONNX_REFUSED = {
    "no tensors": (lambda _: None, TypeError, ("tensors: expected a mapping", "got NoneType")),
    "missing": (
        lambda a: {n: a[n] for n in "WB"}, ValueError,
        ("node_or_file: R: expected one of the tensors ['W', 'B'], got 'R'",),
    ),
    "missing bias": (lambda a: {n: a[n] for n in "WR"}, ValueError, ("node_or_file: B: expected", "got 'B'")),
    "half": (other("B", lambda a: a.astype(np.float16)), TypeError, ("tensors['B']: expected a float32", "float16")),
    "mixed": (other("B", lambda a: a.astype(np.float64)), TypeError, ("tensors['B']: expected dtype float32",)),
    "list": (other("W", np.ndarray.tolist), TypeError, ("tensors['W']: expected", "got list")),
    "directions": (
        other("R", lambda a: np.repeat(a, 2, axis=0)), ValueError,
        ("tensors['R']: expected shape (1, 12, 3) for LSTM, got (2, 12, 3)",),
    ),
    "gates": (
        other("R", lambda a: a[:, 3:]), ValueError,
        ("tensors['R']: expected shape (1, 12, 3) for LSTM, got (1, 9, 3)",),
    ),
    "width": (
        other("W", lambda a: a[..., :0, :]), ValueError,
        ("tensors['W']: expected shape (1, 12, 5) for LSTM, got (1, 0, 5)",),
    ),
    "flat": (other("W", np.ravel), ValueError, ("tensors['W']: expected shape (1, 12, 0) for LSTM, got (60,)",)),
    "one bias": (
        other("B", lambda a: a[:, 12:]), ValueError,
        ("tensors['B']: expected shape (1, 24) for LSTM, got (1, 12)",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", ONNX_REFUSED)
def test_tensors_that_do_not_fit_are_refused(wrong):
    make, exception, parts = ONNX_REFUSED[wrong]
    case = draw_form("lstm", "layer")
    with refused(exception, *parts):
        LSTM.from_onnx(plain_node(case, onnx_arrays(case)), make(onnx_arrays(case)))


@pytest.mark.parametrize("name", ["sequence_lens", "initial_h", "initial_c"])
def test_constant_in_the_place_of_an_argument_is_refused(name):
    case = draw_form("lstm", "layer")
    arrays = onnx_arrays(case)
    node = plain_node(case, arrays)
    node.input[["sequence_lens", "initial_h", "initial_c"].index(name) + 4] = "constant"
    argument = "lengths" if name == "sequence_lens" else "state"
    with refused(ValueError, f"node_or_file: {name}: expected an input", f"`{argument}`", "the constant 'constant'"):
        LSTM.from_onnx(node, arrays | {"constant": np.ones((1, B, H), np.float32)})
    LSTM.from_onnx(node, arrays)
    if name != "sequence_lens":
        LSTM.from_onnx(node, arrays | {"constant": np.zeros((1, B, H), np.float32)})


def test_states_that_a_graph_computes_are_not_looked_at(onnx):
    case = draw_form("gru", "layer")
    model = onnx_model(onnx, case)
    nodes = [onnx.helper.make_node("RandomUniform", [], ["h0"], shape=case.states[0].shape), *model.graph.node]
    del model.graph.node[:], model.graph.input[1]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    assert_equal_weights(GRU.from_onnx(model.SerializeToString()), case.weights)


def test_what_is_no_model_is_refused(onnx, tmp_path):
    with refused(ValueError, "node_or_file: expected a model of ONNX, got 9 bytes"):
        LSTM.from_onnx(b"no model!")
    (tmp_path / "model.onnx").write_bytes(b"no model!")
    with refused(ValueError, "node_or_file: expected a model of ONNX, got", "model.onnx"):
        LSTM.from_onnx(tmp_path / "model.onnx")
    with pytest.raises(FileNotFoundError):
        LSTM.from_onnx(tmp_path / "none.onnx")
    with refused(TypeError, "node_or_file: expected a node, a path or bytes, got list"):
        LSTM.from_onnx([])
    with refused(ValueError, "tensors: expected None with a file, got dict"):
        LSTM.from_onnx(onnx_model(onnx, draw_form("lstm", "layer")).SerializeToString(), {})


def test_file_needs_the_package_and_a_node_does_not(monkeypatch):
    without("onnx", monkeypatch)
    with refused(ImportError, "from_onnx of a file needs the package onnx: pip install onnx; or pass a node"):
        LSTM.from_onnx(b"")
    case = draw_form("lstm", "layer")
    assert_equal_weights(LSTM.from_onnx(plain_node(case, onnx_arrays(case)), onnx_arrays(case)), case.weights)


# ---- Keras

KERAS_FORMS = ("layer", "no bias", "directions", "layers")
KERAS_KINDS = ("lstm", "gru", "gru_reset_before")
keras_kinds = pytest.mark.parametrize("kind", KERAS_KINDS)


def golden_keras(golden, kind, form):
    """Weights as from_keras takes them, and the other arrays."""
    arrays = golden[f"keras/{kind}/{form}"]
    weights = [arrays[name] for name in sorted(arrays) if name.isdigit()]
    half = len(weights) // 2
    return ([weights[:half], weights[half:]] if form == "layers" else weights), arrays


@keras_kinds
@pytest.mark.parametrize("form", KERAS_FORMS)
def test_module_of_golden_keras_computes_as_keras(golden, kind, form):
    weights, arrays = golden_keras(golden, kind, form)
    said = {"reset_after": kind == "gru"} if form == "no bias" and kind != "lstm" else {}
    module = CLASSES[kind].from_keras(weights, **said)
    assert_options(module, draw_form(kind, form), batch_first=True)
    y, state = module(arrays["x"])
    assert error(y, arrays["y"]) <= BOUND[np.float32]
    for name, array in zip(STATES, arrays_of(state), strict=False):
        assert error(array, arrays[name]) <= BOUND[np.float32]


def keras_arrays(case, layer=0):
    """The arrays of a layer as Keras has them; bias_hh counts for a GRU that resets after."""
    arrays = []
    for d in range(case.directions):
        own = case.cell_weights(layer, d)
        order = (0, 1, 2, 3) if "lstm" in case.kind else (1, 0, 2)  # z r h from r z n
        index = np.concatenate([np.arange(i * H, (i + 1) * H) for i in order])
        arrays += [own["weight_ih"][index].T, own["weight_hh"][index].T]
        if "bias_ih" in own:
            both = np.stack([own["bias_ih"][index], own["bias_hh"][index]])
            arrays.append(both if case.kind == "gru" else both[0])
    return arrays


@keras_kinds
@forms
@dtypes
def test_arrays_of_keras_give_the_weights(kind, form, dtype):
    case = draw_form(kind, form, dtype)
    said = {} if kind == "lstm" else {"reset_after": kind == "gru"}
    layers = [keras_arrays(case, k) for k in range(case.num_layers)]
    module = CLASSES[kind].from_keras(layers if len(layers) > 1 else layers[0], batch_first=False, **said)
    assert_options(module, case)
    zeros = {name: np.zeros_like(w) for name, w in case.weights.items() if "bias_hh" in name and kind != "gru"}
    assert_equal_weights(module, case.weights | zeros)


@pytest.mark.parametrize("kind", ["gru", "gru_reset_before"])
def test_kind_of_a_gru_is_told_by_its_bias_or_by_the_caller(kind):
    reset_after = kind == "gru"
    arrays = keras_arrays(draw_form(kind, "layer"))
    assert GRU.from_keras(arrays).reset_after is reset_after
    assert GRU.from_keras(arrays, reset_after=reset_after).reset_after is reset_after
    with refused(ValueError, f"reset_after: expected {reset_after} or None", f"got {not reset_after}"):
        GRU.from_keras(arrays, reset_after=not reset_after)
    assert GRU.from_keras(arrays[:2], reset_after=reset_after).reset_after is reset_after
    with refused(ValueError, "reset_after: expected True or False, as arrays without a bias do not tell", "got None"):
        GRU.from_keras(arrays[:2])
    for value in (1, "yes", np.array([True])):
        with refused(TypeError, f"reset_after: expected True, False or None, got {value!r}"):
            GRU.from_keras(arrays, reset_after=value)
    with refused(TypeError, "reset_after: expected None, as only a GRU has it, got True"):
        LSTM.from_keras(keras_arrays(draw_form("lstm", "layer")), reset_after=True)


def test_layer_without_bias_among_others_has_zeros():
    case = draw_form("lstm", "layers")
    module = LSTM.from_keras([keras_arrays(case, 0)[:2], keras_arrays(case, 1)])
    assert module.bias
    assert not module.weights["bias_ih_l0"].any()
    assert same_bits(module.weights["bias_ih_l1"], case.weights["bias_ih_l1"])


def keras_layers(*edits):
    """The arrays of two layers, edited: (layer, index, change)."""

    def make():
        layers = [keras_arrays(draw_form("gru", "layers"), k) for k in range(2)]
        for layer, index, change in edits:
            layers[layer][index] = change(layers[layer][index])
        return layers

    return make


KERAS_REFUSED = {
    "an array": (lambda: np.ones((3, 9)), TypeError, ("arrays: expected a list of arrays", "got ndarray")),
    "nothing": (list, ValueError, ("arrays: expected 2 or 3 arrays", "got 0")),
    "one": (lambda: keras_layers()()[0][:1], ValueError, ("arrays: expected 2 or 3 arrays", "got 1")),
    "five": (lambda: (keras_layers()()[0] * 2)[:5], ValueError, ("arrays: expected 2 or 3 arrays", "got 5")),
    "directions": (
        lambda: [keras_layers()()[0], keras_layers()()[1] * 2], ValueError, ("arrays[1]: expected", "got 6 arrays")
    ),
    "layers and arrays": (lambda: [keras_layers()()[0], np.ones(3)], TypeError, ("arrays[0]: expected", "got list")),
    "kinds": (keras_layers((1, 2, lambda a: a[0])), ValueError, ("arrays: expected GRUs of one kind", "(3*H,)")),
    "half": (keras_layers((1, 1, lambda a: a.astype(np.float16))), TypeError, ("arrays[1][1]: expected", "float16")),
    "mixed": (
        keras_layers((1, 1, lambda a: a.astype(np.float64))), TypeError,
        ("arrays[1][1]: expected dtype float32 as of arrays[0][0], got float64",),
    ),
    "torch's way": (
        keras_layers((0, 1, np.transpose)), ValueError,
        ("arrays[0][1]: expected shape (9, 27) for GRU, got (9, 3)",),
    ),
    "kernel": (
        keras_layers((0, 0, lambda a: a[:, 3:])), ValueError,
        ("arrays[0][0]: expected shape (5, 9) for GRU, got (5, 6)",),
    ),
    "width": (
        keras_layers((1, 0, lambda a: np.tile(a, (2, 1)))), ValueError,
        ("arrays[1][0]: expected shape (3, 9) for GRU, got (6, 9)",),
    ),
    "hidden": (
        keras_layers((1, 1, lambda a: np.ones((4, 12), a.dtype))), ValueError,
        ("arrays[1][1]: expected shape (3, 9) for GRU, got (4, 12)",),
    ),
    "bias": (
        keras_layers((0, 2, np.ravel)), ValueError,
        ("arrays[0][2]: expected shape (9,) for GRU, got (18,)",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", KERAS_REFUSED)
def test_arrays_that_do_not_fit_are_refused(wrong):
    make, exception, parts = KERAS_REFUSED[wrong]
    with refused(exception, *parts):
        GRU.from_keras(make())


# ---- safetensors


@pytest.fixture(name="safetensors", scope="module")
def import_safetensors():
    pytest.importorskip("safetensors", reason="safetensors is not installed: no files to write and read")
    import safetensors.numpy

    return safetensors


@pytest.mark.parametrize("kind", MODULES)
@forms
@dtypes
def test_saved_module_is_read(safetensors, tmp_path, kind, form, dtype):
    case = draw_form(kind, form, dtype)
    module = case.module(batch_first=True, dropout=0.1)
    module.freeze().save(tmp_path / "module.safetensors")
    read = CLASSES[kind].from_safetensors(tmp_path / "module.safetensors")
    assert_options(read, case, batch_first=True, dropout=0.1)
    assert_equal_weights(read, case.weights)
    assert repr(read.freeze()) == repr(module)
    if kind in ("lstm", "projected_lstm", "layer_norm_lstm", "gru", "layer_norm_gru"):
        arrays = safetensors.numpy.load_file(tmp_path / "module.safetensors")
        assert_equal_weights(CLASSES[kind].from_torch(arrays), case.weights)


@pytest.mark.usefixtures("safetensors")
def test_caller_says_other_options_of_a_saved_module(tmp_path):
    file = str(tmp_path / "module.safetensors")
    GRU(INPUTS, H, 2, batch_first=True, dropout=0.1, rng=0).save(file)
    module = GRU.from_safetensors(file, batch_first=False, dropout=0.0, reset_after=True)
    assert (module.batch_first, module.dropout, module.reset_after) == (False, 0.0, True)
    with refused(ValueError, "reset_after: expected True or None, as the source tells, got False"):
        GRU.from_safetensors(file, reset_after=False)
    with refused(ValueError, "dropout must be in [0, 1), got 2"):
        GRU.from_safetensors(file, dropout=2)


@pytest.mark.usefixtures("safetensors")
def test_saved_file_replaces_another(tmp_path):
    for module in (LSTM(INPUTS, H, rng=0), LSTM(2, 9, rng=1)):
        module.save(tmp_path / "module.safetensors")
        assert_equal_weights(LSTM.from_safetensors(tmp_path / "module.safetensors"), module.weights)


def test_lstm_that_torch_saved_is_read(torch, safetensors, tmp_path):
    import safetensors.torch

    theirs = torch_module(torch, "lstm", "layers and directions")
    model = torch.nn.ModuleDict({"encoder": theirs, "head": torch.nn.Linear(2, 2).bfloat16()})
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    module = LSTM.from_safetensors(tmp_path / "model.safetensors", prefix="encoder.")
    assert_equal_weights(module, {name: tensor.numpy() for name, tensor in theirs.state_dict().items()})
    with refused(ValueError, "file: expected the name 'weight_ih_l0'", "prefix may be 'encoder.'"):
        LSTM.from_safetensors(tmp_path / "model.safetensors")
    safetensors.torch.save_file(theirs.bfloat16().state_dict(), tmp_path / "model.safetensors")
    with refused(TypeError, "file['weight_ih_l0']: expected a float32 or float64 array, got dtype BF16"):
        LSTM.from_safetensors(tmp_path / "model.safetensors")


def test_gru_whose_kind_a_file_does_not_tell_is_refused(safetensors, tmp_path):
    case, file = draw_form("gru_reset_before", "layers"), tmp_path / "gru.safetensors"
    safetensors.numpy.save_file(case.weights, file)
    with refused(ValueError, "reset_after: expected True or False, as a file without our metadata", "got None"):
        GRU.from_safetensors(file)
    for reset_after in (False, True):
        module = GRU.from_safetensors(file, reset_after=reset_after)
        assert_options(module, case, reset_after=reset_after)
        assert_equal_weights(module, case.weights)


METADATA_REFUSED = {
    "class": ('"GRU"', "expected 'LSTM', got 'GRU'"),
    "bidirectional": ("true", "expected False, got True"),
    "peephole": ("true", "expected False, got True"),
    "num_layers": ("2", "expected 1, got 2"),
    "dropout": ("much", "expected JSON, got 'much'"),
    "proj_size": ("3", "expected 0, got 3"),
    "projection": ("3", "expected an option of LSTM, got 3"),
    "reset_after": ("true", "expected an option of LSTM, got True"),
}


@pytest.mark.parametrize("name", METADATA_REFUSED)
def test_metadata_that_does_not_fit_is_refused(safetensors, tmp_path, name):
    text, message = METADATA_REFUSED[name]
    weights = draw_form("lstm", "layer").weights
    safetensors.numpy.save_file(weights, tmp_path / "lstm.safetensors", {f"fusedstep.{name}": text, name: "another's"})
    with refused(ValueError, f"file: metadata fusedstep.{name}: {message}"):
        LSTM.from_safetensors(tmp_path / "lstm.safetensors")


@pytest.mark.parametrize(("name", "value"), [("dropout", 2.0), ("dropout", None), ("batch_first", 0)])
def test_value_in_metadata_that_the_constructor_refuses_is_named(safetensors, tmp_path, name, value):
    weights = draw_form("lstm", "layer").weights
    safetensors.numpy.save_file(weights, tmp_path / "lstm.safetensors", {f"fusedstep.{name}": json.dumps(value)})
    with refused((TypeError, ValueError), f"{name} must be", f"got {value!r}"):
        LSTM.from_safetensors(tmp_path / "lstm.safetensors")


def test_file_that_does_not_fit_is_refused(safetensors, tmp_path):
    file = tmp_path / "lstm.safetensors"
    file.write_bytes(b"no such file, though it has bytes")
    with refused(ValueError, "file: expected a file of safetensors, got", "lstm.safetensors"):
        LSTM.from_safetensors(file)
    with pytest.raises(FileNotFoundError):
        LSTM.from_safetensors(tmp_path / "none.safetensors")
    for wrong in (3, None, b"bytes"):
        with refused(TypeError, "file: expected a path, got"):
            LSTM.from_safetensors(wrong)
        with refused(TypeError, "file: expected a path, got"):
            LSTM(2, 2, rng=0).save(wrong)
    weights = draw_form("lstm", "layer").weights
    safetensors.numpy.save_file(weights | {"weight_hh_l0": np.ones((12, 4), np.float32)}, file)
    with refused(ValueError, "file['weight_hh_l0']: expected shape (16, 4) for LSTM, got (12, 4)"):
        LSTM.from_safetensors(file)
    safetensors.numpy.save_file(weights | {"weight_hh_l0": np.ones((12, 3), np.float16)}, file)
    with refused(TypeError, "file['weight_hh_l0']: expected a float32 or float64 array, got dtype F16"):
        LSTM.from_safetensors(file)
    with refused(TypeError, "reset_after: expected None, as only a GRU has it, got True"):
        safetensors.numpy.save_file(weights, file)
        LSTM.from_safetensors(file, reset_after=True)


def test_safetensors_are_needed_for_files_alone(monkeypatch, tmp_path):
    without("safetensors", monkeypatch)
    module = LSTM(INPUTS, H, rng=0)
    with refused(ImportError, "save needs the package safetensors: pip install safetensors"):
        module.save(tmp_path / "file")
    with refused(ImportError, "from_safetensors needs the package safetensors: pip install safetensors"):
        LSTM.from_safetensors(tmp_path / "file")


# ---- the golden file, and the documentation


def test_golden_file_covers_every_form(golden):
    torch_cases = {f"torch/{kind}/{form}" for kind in ("lstm", "gru") for form in FORMS}
    onnx_cases = {f"onnxruntime/{kind}/{form}" for kind in GOLDEN_KINDS for form in ONNX_FORMS}
    keras_cases = {f"keras/{kind}/{form}" for kind in KERAS_KINDS for form in KERAS_FORMS}
    assert set(golden) == {"versions"} | torch_cases | onnx_cases | keras_cases
    assert set(golden["versions"]) == {"jax", "keras", "onnx", "onnxruntime", "torch"}


METHODS = ["from_keras", "from_onnx", "from_safetensors", "from_torch", "save", "to_torch"]


@pytest.mark.parametrize("name", METHODS)
def test_docstring_examples(name):
    if name in ("save", "from_safetensors"):
        pytest.importorskip("safetensors", reason="safetensors is not installed: the example writes a file")
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(_formats.Formats, name), name, globs={})
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


def test_every_public_method_has_an_example():
    assert [name for name in sorted(vars(_formats.Formats)) if not name.startswith("_")] == METHODS
