"""Bytes and FLOPs: the formulas against counts that know nothing of them."""

import functools
import shutil
import subprocess
from pathlib import Path

import fusedstep
import numpy as np
import pytest
from fusedstep import _core, _cost, loss
from fusedstep.loss._compile import FLOPS as OPERATIONS
from fusedstep.loss._cost import FLOPS
from fusedstep.optim import OPTIMIZERS
from fusedstep.optim._cost import element_flops
from fusedstep.rnn import CELLS, UNIT_FLOPS, layer_norm

from tests.optim.methods import METHODS, VARIANTS
from tests.rnn.cells import draw

ROOT = Path(__file__).parents[2]
FUNCTIONS = {name.lower(): value for name, value in vars(_cost).items() if name.isupper()}


@pytest.fixture(scope="session")
def counts(tmp_path_factory):
    """By kind, name and bits: the operations of the very rules, run over a type that counts."""
    if not shutil.which("g++"):
        pytest.skip("needs g++, which is not installed")
    program = tmp_path_factory.mktemp("count") / "count"
    command = ["g++", "-std=c++20", "-O0", "-ffp-contract=off", "-DISA=counted", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, str(Path(__file__).with_name("count.cpp")), "-o", str(program)], check=True)
    lines = subprocess.check_output([str(program)], text=True).splitlines()
    rows = [line.split() for line in lines]
    return {(kind, name, int(bits)): (int(forward), int(back)) for kind, name, bits, forward, back in rows}


def used(names, bits):
    return frozenset(name for i, name in enumerate(names) if bits >> i & 1)


@pytest.mark.parametrize("rule", _core.rules())
def test_rules_take_the_operations_they_state(counts, rule):
    hyper, _ = _core.rules()[rule]
    for bits in range(1 << len(hyper)):
        assert element_flops(rule, used(hyper, bits)) == counts["rule", rule, bits][0], used(hyper, bits)


@pytest.mark.parametrize("name", _core.losses())
def test_losses_take_the_operations_they_state(counts, name):
    hyper = _core.losses()[name].split()
    for bits in range(1 << len(hyper)):
        assert FLOPS[name](used(hyper, bits)) == counts["loss", name, bits][0], used(hyper, bits)


@pytest.mark.parametrize("kind", CELLS)
def test_cells_take_the_operations_they_state(counts, kind):
    assert UNIT_FLOPS[kind] == counts["cell", kind, 0]


@pytest.mark.parametrize(("kind", "values"), [("layer_norm_lstm", 9), ("layer_norm_gru", 6)])
def test_normalised_cells_add_their_norms(counts, kind, values):
    forward, backward = counts["cell", kind, 0]
    assert UNIT_FLOPS[kind] == (forward + 7 * values, backward + 11 * values)
    assert UNIT_FLOPS.keys() == _core.cells().keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_take_the_operations_they_state(counts, name):
    assert FUNCTIONS[name] == counts["function", name, 0][0]
    if name in OPERATIONS:
        assert OPERATIONS[name] == FUNCTIONS[name]


class Counted:
    """A number that counts what is done with it."""

    done = 0

    def __init__(self, value=1.0):
        self.value = float(getattr(value, "value", value))

    def _operation(self, _=None):
        Counted.done += 1
        return Counted(self.value)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _operation
    sqrt = _operation

    def __lt__(self, other):
        return True


def counted(*shape):
    array = np.empty(shape, object)
    array.ravel()[:] = [Counted() for _ in range(array.size)]
    return array


def operations(f):
    Counted.done = 0
    f()
    return Counted.done


def test_normalisation_takes_seven_operations_a_value_forward():
    def run(n):
        a, gain, bias = (counted(n) for _ in range(3))
        return operations(lambda: gain * layer_norm.normalized(a) + bias)

    assert run(200) - run(100) == 100 * layer_norm.NORM_FLOPS[0]


def test_normalisation_takes_eleven_operations_a_value_backward():
    """The formulas of csrc/cpu/norm_back.h."""

    def backward(n):
        normalized, dy, gain, dgain, dbias = (counted(n) for _ in range(5))
        sigma = Counted()
        d = gain * dy
        (d - d.sum() / n - normalized * ((d * normalized).sum() / n)) / sigma
        dgain + dy * normalized
        dbias + dy

    assert operations(lambda: backward(200)) - operations(lambda: backward(100)) == 100 * layer_norm.NORM_FLOPS[1]


# Whole calls: FLOPs of the products by multiplying counted numbers, bytes of the arrays that are there.


@functools.cache
def product_operations(rows, inner, columns):
    """Those of NumPy's product, and the addition of what each sum begins with: the bias, or the product before."""
    a, b = counted(rows, inner), counted(inner, columns)
    return operations(lambda: a @ b) + rows * columns


def only(prof):
    (group,) = prof.groups()
    assert group.calls == 1
    return group.work


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_step_moves_every_array_that_it_reads_or_writes(method, dtype):
    p, g = np.ones((7, 5), dtype), np.ones((7, 5), dtype)
    opt = method.optimizer([p])
    states = [a for state in opt.state for name, a in state.items() if name != "step"]
    moved = g.nbytes + 2 * p.nbytes + 2 * sum(a.nbytes for a in states)
    for options, more in (({}, 0), ({"max_norm": 1.0}, g.nbytes), ({"zero_grads": True}, g.nbytes)):
        with fusedstep.profile() as prof:
            opt.step([g], **options)
        assert only(prof).cost.bytes == moved + more
    with fusedstep.profile() as prof:
        opt.step([np.full_like(g, np.nan)], check_finite=True)
    assert only(prof).cost == (g.nbytes, 2 * g.size)
    assert "skipped" in only(prof).title


@pytest.mark.parametrize("method", VARIANTS, ids=str)
def test_step_takes_the_operations_of_its_options(method, counts):
    p = np.ones(10)
    opt = method.optimizer(p)
    (values,) = opt.param_groups
    rule, hyper = opt.rule(dict(values))
    bits = sum(1 << i for i, value in enumerate(hyper) if value)
    with fusedstep.profile() as prof:
        opt.step(np.ones(10))
    assert only(prof).cost.flops == 10 * (counts["rule", rule, bits][0] + 1)


def matrix_operations(B, weights):
    """Two operations for each weight of a matrix and row."""
    matrices = [w for name, w in weights.items() if w.ndim == 2 and name != "weight_ch"]
    return sum(product_operations(B, w.shape[1], w.shape[0]) for w in matrices)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cell_step_moves_its_arrays(kind, dtype, counts):
    step = draw(kind, 3, 5, 4, dtype)
    weights = sum(w.nbytes for w in step.weights.values())
    states = sum(s.nbytes for s in step.states)
    products = matrix_operations(3, step.weights)
    forward, backward = counts["cell", kind, 0]
    with fusedstep.profile() as prof:
        step.forward()
    assert only(prof).cost == (step.x.nbytes + 2 * states + weights, products + 3 * 4 * forward)
    with fusedstep.profile() as prof:
        _, tape = CELLS[kind].step(step.x, step.state, **step.weights, tape=True)
    assert only(prof).cost.bytes == step.x.nbytes + 2 * states + weights + tape.saved.nbytes
    with fusedstep.profile() as prof:
        CELLS[kind].backward(tape, *step.douts)
    work = only(prof)
    assert work.cost.bytes == 2 * step.x.nbytes + 4 * states + tape.saved.nbytes + 2 * weights
    sums = 3 * (step.weights["bias_ih"].size + 4 * (kind == "gru"))
    sums += 3 * 2 * step.weights["weight_ch"].size if "weight_ch" in step.weights else 0
    assert work.cost.flops == 2 * products + 3 * 4 * backward + sums


MODULES = {
    "lstm": lambda **o: fusedstep.rnn.LSTM(5, 6, rng=0, **o),
    "peephole_lstm": lambda **o: fusedstep.rnn.LSTM(5, 6, peephole=True, rng=0, **o),
    "coupled_lstm": lambda **o: fusedstep.rnn.LSTM(5, 6, coupled=True, rng=0, **o),
    "coupled_peephole_lstm": lambda **o: fusedstep.rnn.LSTM(5, 6, coupled=True, peephole=True, rng=0, **o),
    "layer_norm_lstm": lambda **o: fusedstep.rnn.LSTM(5, 6, layer_norm=True, rng=0, **o),
    "gru": lambda **o: fusedstep.rnn.GRU(5, 6, rng=0, **o),
    "gru_reset_before": lambda **o: fusedstep.rnn.GRU(5, 6, reset_after=False, rng=0, **o),
    "layer_norm_gru": lambda **o: fusedstep.rnn.GRU(5, 6, layer_norm=True, rng=0, **o),
}


def test_every_kind_of_cell_has_a_sequence_here():
    assert MODULES.keys() == _core.cells().keys()


def matrices(module):
    """The weights of the state, which each step reads, and the others."""
    again = [w for name, w in module.weights.items() if name.startswith(("weight_hh", "weight_hr"))]
    once = [w for name, w in module.weights.items() if not name.startswith(("weight_hh", "weight_hr"))]
    return sum(w.nbytes for w in again), sum(w.nbytes for w in once)


OPTIONS = [{}, {"bidirectional": True}, {"bias": False}, {"proj_size": 2}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", MODULES)
def test_sequence_moves_its_arrays_and_the_weights_of_the_state_at_each_step(kind, options):
    if "proj_size" in options and (not kind.endswith("lstm") or kind.startswith("layer_norm")):
        options = {}  # no projection there
    module = MODULES[kind](**options)
    D, T, B = 1 + module.bidirectional, 4, 3
    x = np.ones((T, B, 5), np.float32)
    again, once = matrices(module)
    unit = [D * T * B * 6 * flops for flops in UNIT_FLOPS[kind]]
    products = matrix_operations(T * B, {n: w for n, w in module.weights.items() if not n.startswith("weight_ch")})
    with fusedstep.profile() as prof:
        y, state = module(x)
    states = sum(s.nbytes for s in (state if isinstance(state, tuple) else (state,)))
    cost = only(prof).cost
    assert cost == (D * x.nbytes + y.nbytes + 2 * states + once + T * again, products + unit[0])

    cell = _core.cells()[kind]
    second = D * T * B * 6 * 4 * (cell["states"] - 1)
    gates = D * T * B * 4 * (cell["saved"] * 6 + 2 * cell["norms"])
    biases = sum(w.size for name, w in module.weights.items() if name.startswith("bias_ih"))
    sums = 0 if cell["norms"] else T * B * (biases + (D * 6 if kind == "gru" and biases else 0))
    sums += D * T * B * 6 * 2 * cell["peepholes"]
    # Read: x, y, dy, the second state, the states' gradients, the weights. Written: dx and the other gradients.
    moved = 2 * D * x.nbytes + 2 * y.nbytes + second + 2 * states + once + T * again + once + again
    for tape, passes, replayed in (("full", 3, 0), ("lean", 4, products + unit[0])):
        with fusedstep.profile() as prof:
            *_, kept = module.forward(x, tape=tape)
        assert only(prof).cost.bytes == cost.bytes + kept.nbytes
        with fusedstep.profile() as prof:
            module.backward(kept, y)
        assert only(prof).cost == (moved + passes * gates, 2 * products + unit[1] + sums + replayed)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_stream_moves_its_weights_as_they_are_packed(storage):
    module = fusedstep.rnn.LSTM(5, 6, num_layers=2, rng=0)
    stream = module.stream(weights=storage)
    x = np.ones(5, np.float32)
    with fusedstep.profile() as prof:
        h = stream.step(x)
    matrix = sum(w.size for name, w in module.weights.items() if name.startswith("weight"))
    biases = sum(w.nbytes for name, w in module.weights.items() if name.startswith("bias"))
    states = sum(s.nbytes for s in stream.state)
    matrix *= {"float32": 4, "bfloat16": 2, "int8": 1}[storage]
    # The second layer reads h of the first.
    assert only(prof).cost.bytes == x.nbytes + h.nbytes + 2 * states + biases + matrix


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_move_their_arrays(dtype):
    x, t = np.ones((6, 5), dtype), np.zeros((6, 5), dtype)
    with fusedstep.profile() as prof:
        _, grad = loss.mse(x, t)
    assert only(prof).cost == (x.nbytes + t.nbytes + grad.nbytes, 30 * (3 + 2))
    with fusedstep.profile() as prof:
        loss.mse(x, t[:1], grad=False, weight=np.ones((6, 1), dtype))
    assert only(prof).cost == (x.nbytes + t[:1].nbytes + 6 * x.itemsize, 30 * (3 + 1 + 2))
    with fusedstep.profile() as prof:
        values, grad = loss.mse(x, np.zeros((6, 5), np.uint8), reduction="none")
    assert only(prof).cost == (x.nbytes + 30 + grad.nbytes + values.nbytes, 30 * (3 + 1))


def test_losses_of_rows_move_their_arrays():
    x, classes = np.zeros((6, 5), np.float32), np.zeros(6, np.int64)
    with fusedstep.profile() as prof:
        _, grad = loss.cross_entropy(x, classes)
    plain = only(prof).cost
    assert plain.bytes == x.nbytes + classes.nbytes + grad.nbytes
    with fusedstep.profile() as prof:
        loss.cross_entropy(x, np.full((6, 5), 0.2, np.float32), z_loss=0.1)
    assert only(prof).cost.bytes == 3 * x.nbytes
    assert only(prof).cost.flops > plain.flops
    with fusedstep.profile() as prof:
        loss.nll(x, classes, grad=False)
    assert only(prof).cost.bytes == 6 * 4 + classes.nbytes


def test_custom_loss_has_its_programs_operations():
    def scaled(pred, target):
        return (pred - target) ** 2

    f, x = loss.custom(scaled), np.ones((4, 3))
    with fusedstep.profile() as prof:
        _, grad = f(x, np.zeros((4, 1)))
    work = only(prof)
    (plan,) = f._plans.values()
    assert work.title == "scaled (custom)"
    assert work.cost == (x.nbytes + 4 * 8 + grad.nbytes, 12 * sum(step.flops for step in plan.program.code))


def test_registry_has_a_formula_for_every_rule():
    stated = {rule for cls in OPTIMIZERS.values() for rule in cls.flops(frozenset())}
    assert stated == {rule for rule in _core.rules() if not rule.startswith("touch")}
