"""Frozen weights on a GPU: a snapshot that later writes do not change, optimizers that refuse, and rounded weights."""

import copy
import gc
import pickle

import fusedstep
import numpy as np
import pytest
from fusedstep.rnn import CELLS, LSTM

from tests.cuda.rnn_cases import KINDS, assert_close, module_on_gpu, path, to_gpu, to_host
from tests.cuda.test_rnn_sequences import CASES, run
from tests.rnn.cells import arrays_of, assert_same_bits, flat
from tests.rnn.cells import draw as draw_step
from tests.rnn.sequences import draw
from tests.rnn.test_sequence_api import rounded_module

kinds = pytest.mark.parametrize("kind", KINDS)
cells = pytest.mark.parametrize("kind", CELLS)
paths = pytest.mark.parametrize("way", ["steps", "persistent"])
tapes = pytest.mark.parametrize("tape", ["full", "lean"])


def zero(weights):
    for array in weights.values():
        array[...] = 0


@kinds
@paths
def test_writes_do_not_show_before_unfreeze(cupy, monkeypatch, kind, way):
    case = draw(kind, **CASES["layers"])
    gpu, module = to_gpu(cupy, case), module_on_gpu(case)
    with path(way, monkeypatch):
        desired = to_host(run(gpu, module))
        assert module.freeze() is module
        assert module.frozen
        assert "frozen" in repr(module)
        assert_same_bits(to_host(run(gpu, module)), desired)
        zero(module.weights)
        assert_same_bits(to_host(run(gpu, module)), desired)
        module.freeze()  # what the weights are now
        zeroed = to_host(run(gpu, module))
        assert not np.array_equal(zeroed["y"], desired["y"])
        assert module.unfreeze() is module
        assert not module.frozen
        assert_same_bits(to_host(run(gpu, module)), zeroed)


@cells
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_writes_to_a_cells_weights_do_not_show(cupy, kind, dtype):
    step = draw_step(kind, 3, 5, 8, dtype)
    gpu, cell = to_gpu(cupy, step), step.cell().to("cuda")

    def results():
        """A step, and the gradients of one whose weights are written meanwhile."""
        new, tape = cell(gpu.x, gpu.state, tape=True)
        kept = {name: w.copy() for name, w in cell.weights.items()}
        if cell.frozen:
            zero(cell.weights)
        gradients = flat(CELLS[kind].backward(tape, *gpu.douts))
        for name, w in cell.weights.items():
            w[...] = kept[name]
        return to_host({**gradients, **{f"state {i}": s for i, s in enumerate(arrays_of(new))}})

    desired = results()
    assert cell.freeze() is cell
    assert cell.frozen
    assert_same_bits(results(), desired)
    zero(cell.weights)
    assert_same_bits(results(), desired)
    cell.unfreeze()
    assert cell(gpu.x, gpu.state) is not None
    changed = [array.get() for array in arrays_of(cell(gpu.x, gpu.state))]
    assert any((a != desired[f"state {i}"]).any() for i, a in enumerate(changed))


@kinds
@tapes
def test_gradients_are_those_of_the_snapshot(cupy, kind, tape):
    case = draw(kind, **CASES["layers"])
    gpu, module = to_gpu(cupy, case), module_on_gpu(case).freeze()
    args, keywords, gradients = gpu.arguments()
    desired = to_host(flat(module.backward(module.forward(*args, **keywords, tape=tape)[2], *gradients)))
    *_, kept = module.forward(*args, **keywords, tape=tape)
    zero(module.weights)
    module.unfreeze()
    assert_same_bits(to_host(flat(module.backward(kept, *gradients))), desired)


@pytest.mark.parametrize("make", [lambda: LSTM(3, 4, rng=0), lambda: fusedstep.rnn.LSTMCell(3, 4, rng=0)])
def test_nothing_of_the_package_writes_frozen_weights(cupy, make):
    model = make().to("cuda")
    before = to_host(model.weights)
    gradients = {name: cupy.asarray(np.ones(w.shape, np.float32)) for name, w in model.weights.items()}
    name, weight = next(iter(model.weights.items()))
    optimizer, of_a_part = fusedstep.optim.Adam(model.weights), fusedstep.optim.Adam([weight[2:3]])
    states = [cupy.zeros(weight.shape, np.float32) for _ in range(2)]
    model.freeze()
    with pytest.raises(ValueError, match=rf"^params\['{name}'\]: expected a writeable array, got a read-only one"):
        optimizer.step(gradients)
    assert [state["step"] for state in optimizer.state] == [0] * len(gradients)
    with pytest.raises(ValueError, match=r"^params\[0\]: expected a writeable array"):
        of_a_part.step([gradients[name][2:3]])
    with pytest.raises(ValueError, match=rf"^params\['{name}'\]: expected a writeable array"):
        fusedstep.optim.Adam(model.weights)
    with pytest.raises(ValueError, match=r"^p: expected a writeable array"):
        fusedstep.optim.adam_step(weight, gradients[name], *states, step=1)
    with pytest.raises(ValueError, match=r"^grads\[0\]: expected a writeable array"):  # zeroed, it would be written
        fusedstep.optim.Adam([gradients[name]]).step([weight], zero_grads=True)
    assert_same_bits(to_host(model.weights), before)
    fusedstep.optim.Adam([gradients[name]]).step([weight])  # read alone
    other = copy.deepcopy(model).unfreeze()
    fusedstep.optim.Adam(other.weights).step(gradients)  # arrays of its own
    model.unfreeze()
    assert optimizer.step(gradients).applied


def test_weights_may_be_written_once_the_module_is_gone(cupy):
    module = LSTM(3, 4, rng=0).to("cuda")
    weights = dict(module.weights)
    optimizer = fusedstep.optim.Adam(weights)
    gradients = {name: cupy.asarray(np.ones(w.shape, np.float32)) for name, w in weights.items()}
    module.freeze()
    with pytest.raises(ValueError, match="read-only"):
        optimizer.step(gradients)
    del module
    gc.collect()
    assert optimizer.step(gradients).applied


@kinds
@paths
def test_bfloat16_weights_are_rounded_weights(cupy, monkeypatch, kind, way):
    case = draw(kind, 6, 3, 7, 12, num_layers=2)
    module, x = module_on_gpu(case), cupy.asarray(case.x)
    with path(way, monkeypatch):
        desired, state = rounded_module(case.module()).to("cuda")(x)
        y, new = module.freeze("bfloat16")(x)
        assert_same_bits(
            [y.get(), *(s.get() for s in arrays_of(new))], [desired.get(), *(s.get() for s in arrays_of(state))]
        )
        on_cpu, _ = case.module().freeze("bfloat16")(case.x)
        assert_close({"y": y.get()}, {"y": on_cpu})
        full, _ = module.unfreeze()(x)
    stream = module.stream(3, weights="bfloat16")
    assert stream.weights == "bfloat16"
    assert_close({"y": np.stack([stream.step(x_t).get() for x_t in x])}, {"y": desired.get()})
    before = [array.get() for array in arrays_of(stream.state)]
    error = np.abs(desired.get() - full.get()).max() / np.abs(full.get()).max()
    assert stream.quantization_error(x) == pytest.approx(error, rel=1e-2)
    assert_same_bits([array.get() for array in arrays_of(stream.state)], before)
    assert module.stream(3).quantization_error(x) < 1e-6


def test_frozen_as_less_is_for_inference(cupy):
    module = LSTM(3, 5, rng=0).to("cuda").freeze("bfloat16")
    x = cupy.asarray(np.ones((2, 1, 3), np.float32))
    with pytest.raises(ValueError, match=r"^forward: .*bfloat16"):
        module.forward(x)
    again = pickle.loads(pickle.dumps(module))
    assert again.frozen
    assert_same_bits([again(x)[0].get()], [module(x)[0].get()])


@pytest.mark.usefixtures("cupy")
def test_what_float64_is_frozen_as():
    wide = LSTM(3, 5, dtype=np.float64).to("cuda")
    with pytest.raises(ValueError, match=r"^weights: expected 'float64', got 'bfloat16'"):
        wide.freeze("bfloat16")
    assert wide.freeze("float64").frozen


def test_a_frozen_module_neither_loads_nor_moves(cupy):
    case = draw("gru", 4, 3, 5, 6)
    module = module_on_gpu(case).freeze()
    with pytest.raises(ValueError, match=r"^weights: .*frozen"):
        module.load(case.weights)
    with pytest.raises(ValueError, match=r"^to: .*unfreeze"):
        module.to("cpu")
    for twin in (copy.copy(module), pickle.loads(pickle.dumps(module))):
        assert twin.frozen
        zero(twin.unfreeze().weights)
        assert module.frozen
    assert_close(
        to_host({"y": module(cupy.asarray(case.x), cupy.asarray(case.states[0]))[0]}), {"y": case.infer()["y"]}
    )


def test_freezing_waits_for_nothing(cupy):
    module = LSTM(3, 5, rng=0).to("cuda")
    module.freeze()
    assert cupy.state.copies == 0
