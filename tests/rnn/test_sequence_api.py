"""What a user sees of the modules: shapes, weights, tapes, freezing, copies, streams, training, threads, Ctrl-C."""

import copy
import doctest
import importlib
import os
import pickle
import subprocess
import sys
import textwrap
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fusedstep
import numpy as np
import pytest
from fusedstep.rnn import GRU, LSTM

from bench.memory import RESET

from .cells import STATES, arrays_of, assert_same_bits, flat, same_bits
from .sequences import MODULES, cell_kind, draw, width
from .test_api import DEEP_COPIES

kinds = pytest.mark.parametrize("kind", MODULES)
T, B, INPUTS, H = 6, 4, 7, 20
TESTS = Path(__file__).parents[1]


@pytest.fixture(params=MODULES)
def case(request):
    return draw(request.param, T, B, INPUTS, H, num_layers=2, bidirectional=True)


def one_direction(case):
    return draw(case.kind, T, B, INPUTS, H, num_layers=2)


def all_arrays(case):
    return (case.x, *case.states, *case.weights.values(), case.dy, *case.dstates)


@kinds
@pytest.mark.parametrize("layout", ["time first", "batch first", "unbatched"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "directions"])
def test_results_have_the_forms_of_arguments(kind, layout, bidirectional):
    directions, W = 1 + bidirectional, width(kind, H)
    module = MODULES[kind](
        INPUTS, H, 3, bidirectional=bidirectional, batch_first=layout == "batch first", dtype=np.float64, rng=0
    )
    outer, rows = {"time first": ((T, B), (B,)), "batch first": ((B, T), (B,)), "unbatched": ((T,), ())}[layout]
    x = np.random.default_rng(0).standard_normal((*outer, INPUTS))
    y, state, tape = module.forward(x)
    g = module.backward(tape, np.ones_like(y))
    for out, of_state in (module(x), (y, state), (y, g.state)):
        assert type(out) is np.ndarray
        assert (out.shape, out.dtype) == ((*outer, directions * W), np.float64)
        assert isinstance(of_state, tuple) == ("lstm" in kind)
        assert len(arrays_of(of_state)) == 1 + ("lstm" in kind)
        for array, n in zip(arrays_of(of_state), (W, H), strict=False):
            assert type(array) is np.ndarray
            assert (array.shape, array.dtype) == ((3 * directions, *rows, n), np.float64)
    assert (g.x.shape, g.x.dtype) == (x.shape, np.float64)
    assert list(g.weights) == list(module.weights)
    for name, gradient in g.weights.items():
        assert (gradient.shape, gradient.dtype) == (module.weights[name].shape, np.float64)


@kinds
def test_unbatched_takes_the_form_of_its_results(kind):
    module = MODULES[kind](INPUTS, H, 2, batch_first=True, rng=0)
    x = np.random.default_rng(0).standard_normal((T, INPUTS)).astype(np.float32)
    _, state = module(x)
    y, after = module(x, state)
    y_of_batch, after_of_batch = module(x[None], tuple(s[:, None] for s in state) if "lstm" in kind else state[:, None])
    assert same_bits(y, y_of_batch[0])
    assert_same_bits(arrays_of(after), [s[:, 0] for s in arrays_of(after_of_batch)])


def test_no_state_counts_as_zeros(case):
    module, (dy, dstate) = case.module(), case.arguments()[2]
    desired = case.from_zeros().run()
    y, state, tape = module.forward(case.x)
    actual = flat(module.backward(tape, dy, dstate)) | {"y": y, **dict(zip(STATES, arrays_of(state), strict=False))}
    assert_same_bits(actual, desired)
    assert same_bits(module(case.x)[0], y)


def test_lengths_are_any_integers(case):
    module, desired = case.module(), None
    for lengths in ([3, 6, 0, 1], (3, 6, 0, 1), *(np.array([3, 6, 0, 1], t) for t in (np.int8, np.uint64, ">i2"))):
        y, _ = module(case.x, None, lengths)
        desired = y if desired is None else desired
        assert same_bits(y, desired)
    for row, length in enumerate((3, 6, 0, 1)):
        assert not y[length:, row].any()
        assert y[:length, row].all()


def test_row_of_length_zero_passes_its_state_on(case):
    none = case.rows([0, 1])
    y, state, tape = none.module().forward(none.x, none.arguments()[0][1], [0, 0])
    assert not y.any()
    assert_same_bits(arrays_of(state), none.states)
    assert not any(np.shares_memory(a, b) for a in arrays_of(state) for b in none.states)
    g = tape_backward(none, tape)
    assert not g.x.any()
    assert_same_bits(arrays_of(g.state), none.dstates)
    assert not any(gradient.any() for gradient in g.weights.values())


def tape_backward(case, tape):
    """A backward run by the module that made the tape."""
    return tape._module.backward(tape, *case.arguments()[2])


def test_what_lies_past_a_length_is_not_read(case):
    short = draw(case.kind, T, B, INPUTS, H, num_layers=2, bidirectional=True, shortest=0, seed=1)
    desired = short.run()
    for row, length in enumerate(short.lengths):
        short.x[length:, row] = np.nan
        short.dy[length:, row] = np.nan
    assert_same_bits(short.run(), desired)


def test_inputs_are_left_as_they_were(case):
    for given in (case, draw(case.kind, T, B, INPUTS, H, num_layers=2, shortest=0, reset=True)):
        before = copy.deepcopy(given)
        given.run()
        given.infer()
        assert_same_bits(all_arrays(given), all_arrays(before))
        np.testing.assert_array_equal(given.lengths, before.lengths)
        np.testing.assert_array_equal(given.reset, before.reset)


def test_read_only_arguments_work(case):
    desired = case.run()
    for array in (case.x, *case.states, case.dy, *case.dstates):
        array.flags.writeable = False
    assert_same_bits(case.run(), desired)


def test_results_are_new_arrays(case):
    module, (args, keywords, gradients) = case.module(), case.arguments()
    y, state, tape = module.forward(*args, **keywords)
    g = module.backward(tape, *gradients)
    results = (y, *arrays_of(state), g.x, *arrays_of(g.state), *g.weights.values())
    for array in results:
        assert array.flags.writeable
        assert not any(np.shares_memory(array, given) for given in (*all_arrays(case), *module.weights.values()))


# ---- weights


def expected_shapes(kind, num_layers, directions, bias=True):
    gates, W, shapes = fusedstep._core.cells()[cell_kind(kind)]["gates"], width(kind, H), {}
    for layer in range(num_layers):
        below = directions * W if layer else INPUTS
        for ending in (f"_l{layer}", f"_l{layer}_reverse")[:directions]:
            shapes |= {f"weight_ih{ending}": (gates * H, below), f"weight_hh{ending}": (gates * H, W)}
            if bias:
                shapes |= {f"bias_ih{ending}": (gates * H,), f"bias_hh{ending}": (gates * H,)}
            if "peephole" in kind:
                shapes[f"weight_ch{ending}"] = (gates - 1, H)
            if W < H:
                shapes[f"weight_hr{ending}"] = (W, H)
            if "layer_norm" in kind:
                shapes |= {f"gain_ih{ending}": (gates * H,), f"gain_hh{ending}": (gates * H,)}
            if kind == "layer_norm_lstm":
                shapes[f"gain_c{ending}"] = (H,)
                shapes |= {f"bias_c{ending}": (H,)} if bias else {}
    return shapes


@kinds
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "directions"])
def test_weights_have_names_order_shapes_and_spread(kind, bias, bidirectional):
    module = MODULES[kind](INPUTS, H, 3, bias=bias, bidirectional=bidirectional, rng=3)
    shapes = expected_shapes(kind, 3, 1 + bidirectional, bias)
    assert [(name, array.shape) for name, array in module.weights.items()] == list(shapes.items())
    for name, array in module.weights.items():
        assert type(array) is np.ndarray
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.flags.writeable
        if name.startswith(("gain", "bias_c")):
            assert np.all(array == name.startswith("gain"))
            continue
        assert 0.9 * H**-0.5 < np.abs(array).max() <= H**-0.5


@pytest.mark.parametrize("kind", ["lstm", "projected_lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "directions"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_state_dict_of_torch_is_loaded(kind, bidirectional, bias):
    torch = pytest.importorskip("torch", reason="torch is not installed: no state_dict to load")
    options = {"bidirectional": bidirectional, "bias": bias}
    classes = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    projection = {"proj_size": width(kind, H)} if width(kind, H) < H else {}
    theirs = classes[cell_kind(kind)](INPUTS, H, 2, **options, **projection)
    module = MODULES[kind](INPUTS, H, 2, **options)
    assert list(module.weights) == list(theirs.state_dict())
    module.load(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        assert same_bits(module.weights[name], tensor.numpy())
        assert not np.shares_memory(module.weights[name], tensor.numpy())
    module.load(dict(theirs.named_parameters()))


def test_load_copies_in_place(case):
    module = MODULES[case.kind](INPUTS, H, 2, bidirectional=True)
    arrays = dict(module.weights)
    module.load(dict(reversed(case.weights.items())))
    for name, array in module.weights.items():
        assert array is arrays[name]
        assert same_bits(array, case.weights[name])
        assert not np.shares_memory(array, case.weights[name])


@kinds
def test_seed_decides_the_weights(kind):
    new = MODULES[kind]
    assert_same_bits(dict(new(3, 4, rng=1).weights), dict(new(3, 4, rng=1).weights))
    assert_same_bits(dict(new(3, 4, rng=np.random.default_rng(1)).weights), dict(new(3, 4, rng=1).weights))
    assert not same_bits(new(3, 4, rng=1).weights["weight_ih_l0"], new(3, 4, rng=2).weights["weight_ih_l0"])
    assert not same_bits(new(3, 4).weights["weight_ih_l0"], new(3, 4).weights["weight_ih_l0"])


def test_weights_cannot_be_replaced_but_changed_in_place():
    module, x = GRU(3, 4, rng=0), np.ones((2, 1, 3), np.float32)
    with pytest.raises(TypeError, match="item assignment"):
        module.weights["weight_ih_l0"] = np.zeros((12, 3), np.float32)
    with pytest.raises(AttributeError):
        module.weights = {}
    before, _ = module(x)
    module.weights["bias_ih_l0"][...] = 1
    assert not same_bits(module(x)[0], before)


OPTIONS = {"bias": False, "batch_first": True, "dropout": 0.25, "bidirectional": True}


@pytest.mark.parametrize(("cls", "own"), [(LSTM, {"peephole": True, "proj_size": 2}), (GRU, {"reset_after": False})])
def test_options_are_attributes_and_in_the_repr(cls, own):
    module = cls(np.int64(3), np.int32(4), 2, **OPTIONS, **own, dtype="float64")
    sizes = {"input_size": 3, "hidden_size": 4, "num_layers": 2}
    for name, value in (sizes | OPTIONS | own).items():
        assert getattr(module, name) == value
        assert type(getattr(module, name)) is type(value)
        assert f"{name}={value!r}" in repr(module)
    assert module.dtype == np.float64
    assert repr(module).startswith(f"{cls.__name__}(")
    assert "float64" in repr(module)
    assert "frozen" not in repr(module)
    assert "frozen" in repr(module.freeze())
    default = cls(3, 4)
    for name, value in (OPTIONS | own).items():
        assert getattr(default, name) == (0 if name in ("dropout", "proj_size") else not value)
    assert (default.num_layers, default.dtype, default.frozen) == (1, np.float32, False)


def test_freeze_marks_weights_read_only_until_unfreeze(case):
    module, desired = case.module(), case.infer()
    assert not module.frozen
    assert module.freeze() is module
    assert module.frozen
    for name, array in module.weights.items():
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
        assert same_bits(array, case.weights[name])
    assert_same_bits(case.infer(module), desired)
    assert module.unfreeze() is module
    assert not module.frozen
    for name in module.weights:
        module.weights[name][...] = 0
        case.weights[name][...] = 0
    for _ in range(2):
        assert_same_bits(case.infer(module), case.infer())
        module.freeze().freeze()  # packs what the weights are now; once more changes nothing


def test_optimizer_refuses_frozen_weights(case):
    module = case.module()
    optimizer = fusedstep.optim.Adam(module.weights)
    gradients = {name: np.ones_like(array) for name, array in module.weights.items()}
    module.freeze()
    with pytest.raises(ValueError, match=r"weight_ih_l0.*read-only"):
        optimizer.step(gradients)
    with pytest.raises(ValueError, match=r"weight_ih_l0.*read-only"):
        fusedstep.optim.Adam(module.weights)
    assert_same_bits(dict(module.weights), case.weights)
    module.unfreeze()
    assert optimizer.step(gradients).applied


@pytest.mark.parametrize("frozen", [False, True], ids=["unfrozen", "frozen"])
@pytest.mark.parametrize("duplicate", [copy.copy, *DEEP_COPIES.values()], ids=["copy", *DEEP_COPIES])
def test_copies_are_equal_and_independent(frozen, duplicate, case):
    module, desired = case.module(dropout=0.5), case.infer()
    if frozen:
        module.freeze()
    twin = duplicate(module)
    assert type(twin) is type(module)
    assert repr(twin) == repr(module)
    assert twin.frozen == module.frozen == frozen
    assert_same_bits(dict(twin.weights), dict(module.weights))
    assert all(array.flags.writeable != frozen for array in twin.weights.values())
    assert_same_bits(case.infer(twin), desired)
    for array in twin.unfreeze().weights.values():
        array[...] = 0
    assert module.frozen == frozen
    assert_same_bits(case.infer(module), desired)


@pytest.mark.parametrize("duplicate", DEEP_COPIES.values(), ids=DEEP_COPIES)
def test_module_and_optimizer_copied_together_stay_together(duplicate):
    module = GRU(3, 4, rng=0)
    twin, optimizer = duplicate((module, fusedstep.optim.Adam(module.weights)))
    before = copy.deepcopy(dict(twin.weights))
    optimizer.step({name: np.ones_like(array) for name, array in twin.weights.items()})
    assert not any(same_bits(array, before[name]) for name, array in twin.weights.items())
    assert_same_bits(dict(module.weights), before)


# ---- tapes


def test_tapes_are_independent_of_each_other_and_of_their_order(case):
    module, others = case.module(), [draw(case.kind, T + i, B, INPUTS, H, seed=i + 1) for i in range(3)]
    results, tapes = [], []
    for other in others:
        *_, tape = module.forward(other.x)
        tapes.append(tape)
    rng = np.random.default_rng(0)
    dys = [rng.standard_normal((T + i, B, 2 * case.width)).astype(np.float32) for i in range(3)]
    results = {i: flat(module.backward(tapes[i], dys[i])) for i in (1, 0, 2)}
    for i, other in enumerate(others):
        *_, tape = module.forward(other.x)
        assert_same_bits(results[i], flat(module.backward(tape, dys[i])))


@kinds
@pytest.mark.parametrize("tape", ["full", "lean"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_tape_bytes_are_those_that_a_tape_holds(kind, tape, dropout):
    rows, steps = 16, 40
    module = MODULES[kind](8, 64, 2, bidirectional=True, dropout=dropout, rng=0)
    x = np.zeros((steps, rows, 8), np.float32)
    *_, held = module.forward(x, tape=tape)
    assert held.nbytes == module.tape_bytes(steps, rows, tape)
    values = steps * rows * 2 * 64 * 4  # of one layer's h
    cell = fusedstep._core.cells()[cell_kind(kind)]
    assert module.tape_bytes(steps, rows, tape) >= values * (2 * cell["saved"] if tape == "full" else 1)


@kinds
def test_lean_tape_holds_less_than_a_full_one(kind):
    module = MODULES[kind](8, 64, 3, rng=0)
    assert 0 < module.tape_bytes(100, 16, "lean") < module.tape_bytes(100, 16) / 1.5
    assert module.tape_bytes(100, 16) == module.tape_bytes(100, 16, "full")
    assert module.tape_bytes(200, 16) == module.tape_bytes(100, 32) == 2 * module.tape_bytes(100, 16)


PEAK = """
import sys
import numpy as np
from bench.memory import baseline, highest
from rnn.sequences import MODULES

kind, tape, layers = sys.argv[1:]
module = MODULES[kind](64, 64, int(layers), rng=0)
x = np.ones((512, 64, 64), np.float32)
for steps in (2, 512):  # the first one starts threads
    before = baseline()
    if tape == "none":
        module(x[:steps])
    else:
        y, _, kept = module.forward(x[:steps], tape=tape)
        module.backward(kept, y)
print((highest() - before) / x.nbytes)
"""


def peak(kind, tape, layers=1):
    """Bytes that a step takes at its peak, for each of x."""
    command = [sys.executable, "-c", PEAK, kind, tape, str(layers)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS.parent)))}
    return float(subprocess.run(command, capture_output=True, check=True, text=True, env=environment).stdout)


peaks = pytest.mark.skipif(not RESET.exists(), reason="the peak of resident memory cannot be reset here")


@peaks
@kinds
def test_backward_of_a_lean_tape_holds_the_gates_of_few_steps(kind):
    lean, full = peak(kind, "lean"), peak(kind, "full")
    results, cell = 2, fusedstep._core.cells()[cell_kind(kind)]  # y and dx
    kept = cell["states"] - 1  # arrays of H values a step and row
    assert full > results + kept + cell["saved"]
    assert lean < results + kept + 1 + (cell["saved"] + 7) / 8 + 1


@peaks
@kinds
def test_inference_of_layers_holds_two_outputs_beside_few_steps(kind):
    assert peak(kind, "none", layers=4) < 3


@kinds
def test_inference_holds_no_memory(kind):
    module, x = MODULES[kind](8, 64, 3, rng=0).freeze(), np.zeros((200, 16, 8), np.float32)
    module(x)
    tracemalloc.start()
    try:
        y, _ = module(x)
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # y itself is no memory of Python's allocators.
    assert held < 0.1 * y.nbytes
    assert most < 0.5 * y.nbytes


@kinds
@pytest.mark.parametrize("tape", ["full", "lean"])
def test_spent_tape_is_refused(kind, tape):
    case = draw(kind, T, B, INPUTS, H)
    module, out = case.module(), {name: np.ones_like(w) for name, w in case.weights.items()}
    *_, used = module.forward(case.x, tape=tape)
    assert not used.spent
    module.backward(used, case.dy)
    assert used.spent
    with pytest.raises(ValueError, match=r"^tape: .*spent"):
        module.backward(used, case.dy, out=out)
    assert all((array == 1).all() for array in out.values())


@kinds
def test_gradients_accumulate_over_batches(kind):
    case = draw(kind, T, B, INPUTS, H, np.float64, num_layers=2)
    out = {name: np.full_like(w, np.nan) for name, w in case.weights.items()}
    halves = [case.rows([0, 1]), case.rows([2, 3])]
    for i, half in enumerate(halves):
        half.run(out=out, accumulate=i > 0)
    for name, whole in case.run().items():
        if name in out:
            np.testing.assert_allclose(out[name], whole, rtol=1e-12, atol=1e-13, err_msg=name)


# ---- streams


def test_stream_has_the_module_s_state(case):
    case = one_direction(case)
    stream = case.module().stream(batch=B)
    assert isinstance(stream.state, tuple) == ("lstm" in case.kind)
    for array, n in zip(arrays_of(stream.state), (case.width, H), strict=False):
        assert array.shape == (2, B, n)
        assert not array.any()
    h = stream.step(case.x[0])
    assert h.shape == (B, case.width)
    assert not any(np.shares_memory(h, s) for s in arrays_of(stream.state))
    before = [s.copy() for s in arrays_of(stream.state)]
    stream.reset([1, 3])
    for array, old in zip(arrays_of(stream.state), before, strict=True):
        assert not array[:, [1, 3]].any()
        assert same_bits(array[:, [0, 2]], old[:, [0, 2]])
    stream.reset()
    assert not any(array.any() for array in arrays_of(stream.state))


def test_stream_writes_out_and_returns_it(case):
    case = one_direction(case)
    stream, twin = (case.module().stream(batch=B) for _ in range(2))
    out = np.full((B, case.width), np.nan, np.float32)
    assert stream.step(case.x[0], out=out) is out
    assert same_bits(out, twin.step(case.x[0]))


def test_stream_of_one_row_takes_vectors(case):
    case = one_direction(case)
    stream, twin = (case.module().stream() for _ in range(2))
    for x in case.x[:, :1]:
        h = stream.step(x[0])
        assert h.shape == (case.width,)
        assert same_bits(h, twin.step(x)[0])


def test_streams_do_not_share_state(case):
    case = one_direction(case)
    module = case.module()
    first, second = module.stream(batch=B), module.stream(batch=B)
    desired = first.step(case.x[0])
    first.step(case.x[1])
    assert same_bits(second.step(case.x[0]), desired)


# ---- use


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("tape", ["full", "lean"])
def test_training_reduces_the_loss(kind, tape):
    """The last layer's first unit learns the mean of a row's inputs so far."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (12, 32, 3)).astype(np.float32)
    lengths = rng.integers(4, 13, 32)
    target = x[..., 0].cumsum(axis=0) / np.arange(1, 13, dtype=np.float32)[:, None]
    inside = np.arange(12)[:, None] < lengths
    module = MODULES[kind](3, 16, 2, dropout=0.05, rng=0)
    optimizer = fusedstep.optim.Adam(module.weights, lr=0.02)
    out = {name: np.zeros_like(w) for name, w in module.weights.items()}
    losses = []
    for epoch in range(60):
        y, _, held = module.forward(x, None, lengths, tape=tape, seed=epoch)
        difference = np.where(inside, y[..., 0] - target, 0).astype(np.float32)
        losses.append(float((difference**2).sum() / inside.sum()))
        dy = np.zeros_like(y)
        dy[..., 0] = 2 * difference / inside.sum()
        module.backward(held, dy, out=out)
        assert optimizer.step(out, max_norm=1.0).applied
    assert losses[-1] < 0.3 * losses[0]


def run_at_once(works):
    """Run functions in Python threads of their own; raises what one of them raises."""
    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(work) for work in works]:
            future.result()


@kinds
def test_python_threads_run_modules_of_their_own(kind):
    def work(seed):
        case = draw(kind, 8, 20, 30, 40, num_layers=2, bidirectional=True, shortest=0, seed=seed)
        desired = case.run()

        def repeat():
            module = case.module()
            for i in range(8):
                assert_same_bits(case.run(module, tape="lean" if i % 2 else "full"), desired)

        return repeat

    run_at_once([work(seed) for seed in range(3)])


@kinds
def test_python_threads_share_a_frozen_module(kind):
    case = draw(kind, 8, 20, 30, 40, num_layers=2)
    module, desired, inferred = case.module().freeze(), case.run(), case.infer()

    def repeat():
        for _ in range(8):
            assert_same_bits(case.run(module), desired)
            assert_same_bits(case.infer(module), inferred)

    run_at_once([repeat] * 3)


INTERRUPTED = """
    import os, signal, threading, time
    import numpy as np
    from fusedstep.rnn import {cls}

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    module = {cls}(1, 512, rng=0).freeze()
    short, x = np.ones((3, 1, 1), np.float32), np.ones(({steps}, 1, 1), np.float32)
    desired, _ = module(short)
    *_, tape = module.forward(x if "backward" in {call!r} else short)
    dy = np.ones((len(x), 1, 512), np.float32)
    sent = []

    def interrupt():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Timer(0.3, interrupt).start()
    try:
        {call}
    except KeyboardInterrupt:
        took = time.monotonic() - sent[0]
    else:
        raise SystemExit("the call ended before it was interrupted")
    assert took < 1, took
    assert module(short)[0].tobytes() == desired.tobytes()
"""


@pytest.mark.parametrize(
    ("call", "steps"),
    [("module(x)", 100_000), ("module.forward(x, tape='lean')", 100_000), ("module.backward(tape, dy)", 20_000)],
    ids=["inference", "forward", "backward"],
)
def test_interrupt_ends_a_long_call(call, steps):
    """Ctrl-C during a call of many seconds raises KeyboardInterrupt within one, and the module still works."""
    script = textwrap.dedent(INTERRUPTED).format(cls="GRU", call=call, steps=steps)
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert process.returncode == 0, process.stderr


# ---- packed weights in less than float32; for int8 see also test_sequence_int8


def rounded(array):
    """float32 rounded to 8 significant bits, to nearest, ties to even."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def rounded_module(module):
    """A copy whose weight matrices are rounded; biases and peepholes are kept in full."""
    copied = copy.deepcopy(module)
    for name, array in copied.weights.items():
        if name.startswith(("weight_ih", "weight_hh", "weight_hr")):
            array[...] = rounded(array)
    return copied


@kinds
@pytest.mark.parametrize(("B", "H"), [(1, 40), (5, 17)])
def test_bfloat16_weights_are_rounded_weights(kind, B, H):
    module = MODULES[kind](7, H, 2, rng=0)
    x = np.random.default_rng(1).standard_normal((6, B, 7)).astype(np.float32)
    desired, state = rounded_module(module)(x)
    y, new = module.freeze("bfloat16")(x)
    np.testing.assert_array_equal(y, desired)
    for a, b in zip(arrays_of(new), arrays_of(state), strict=True):
        np.testing.assert_array_equal(a, b)
    stream = module.unfreeze().stream(B, weights="bfloat16")
    np.testing.assert_array_equal([stream.step(x_t) for x_t in x], desired)
    full, _ = module(x)
    before = [array.copy() for array in arrays_of(stream.state)]
    assert stream.quantization_error(x) == np.abs(desired - full).max() / np.abs(full).max()
    for a, b in zip(arrays_of(stream.state), before, strict=True):
        np.testing.assert_array_equal(a, b)
    bound = 0.03 if "layer_norm" in kind else 0.02  # a norm of the small states of new weights enlarges what is lost
    assert 0 < stream.quantization_error(x) < bound
    assert module.stream(B).quantization_error(x) == 0


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_frozen_as_less_is_for_inference(weights):
    module = LSTM(3, 5, rng=0).freeze(weights)
    x = np.ones((2, 1, 3), np.float32)
    with pytest.raises(ValueError, match=f"^forward: .*{weights}"):
        module.forward(x)
    again = pickle.loads(pickle.dumps(module))
    np.testing.assert_array_equal(again(x)[0], module(x)[0])
    module.unfreeze().forward(x)


@pytest.mark.parametrize("call", ["freeze", "stream"])
def test_unknown_packing_is_refused(call):
    wide = LSTM(3, 5, dtype=np.float64)
    for module, weights in ((LSTM(3, 5), "float64"), (LSTM(3, 5), 8), (wide, "bfloat16"), (wide, "int8")):
        with pytest.raises(ValueError, match=f"^weights: .*{weights}"):
            getattr(module, call)(weights=weights)
        assert not module.frozen


@pytest.mark.parametrize("module", ["functional", "gru_cells", "layer_norm", "lstm_cells", "sequence", "stream"])
def test_examples_of_docstrings(module):
    result = doctest.testmod(importlib.import_module(f"fusedstep.rnn.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
