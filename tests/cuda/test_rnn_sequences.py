"""Sequences over arrays of a GPU, whose kernels run on the host: the CPU's results with every option, both ways to take
the steps, and what is promised about bits."""

import copy
from dataclasses import replace

import fusedstep
import numpy as np
import pytest
from fusedstep.rnn import CELLS, gru, gru_backward, lstm, lstm_backward

from tests.cuda import foreign
from tests.cuda.rnn_cases import (
    KINDS,
    ORDERS,
    UNITS,
    assert_close,
    exact,
    gates_of,
    module_on_gpu,
    ordered,
    path,
    to_gpu,
    to_host,
)
from tests.rnn.cells import arrays_of, assert_same_bits, flat
from tests.rnn.sequences import LAYOUTS, draw

kinds = pytest.mark.parametrize("kind", KINDS)
# One product and two, one state and two, peepholes: what takes other ways through the kernels.
some_kinds = pytest.mark.parametrize("kind", ["coupled_peephole_lstm", "gru", "gru_reset_before"])
cells = pytest.mark.parametrize("kind", CELLS)  # those that persistent kernels take
paths = pytest.mark.parametrize("way", ["steps", "persistent"])

# Every option, each a few times: layers, directions, lengths, resets, no bias, one row, more rows than a chunk holds.
CASES = {
    "plain": {"T": 4, "B": 3, "inputs": 4, "H": 33},
    "layers": {"T": 4, "B": 7, "inputs": 5, "H": 17, "num_layers": 2, "bidirectional": True, "shortest": 0},
    "resets": {"T": 6, "B": 3, "inputs": 17, "H": 16, "reset": True, "shortest": 1, "bias": False},
    "directions": {"T": 4, "B": 2, "inputs": 3, "H": 8, "bidirectional": True},
    "row": {"T": 5, "B": 1, "inputs": 3, "H": 40, "num_layers": 2, "reset": True},
}
DROPOUT = 0.25  # where there are layers


def run(case, module, layout="time first"):
    """Training and inference by name."""
    state = LAYOUTS["time first" if layout == "batch first" else layout]
    args, keywords, _ = case.arguments(layout)
    y, new = module(*args, **keywords)
    inferred = {"y inferred": LAYOUTS[layout][1](y)}
    inferred |= {f"{n} inferred": state[1](s) for n, s in zip("hc", arrays_of(new), strict=False)}
    return case.run(module, layout, seed=5) | inferred


def both(cupy, case, layout="time first", **options):
    """Results on the GPU, and on the CPU."""
    options |= {"batch_first": layout == "batch first", "dropout": DROPOUT * (case.num_layers > 1)}
    desired = run(case, case.module(**options), layout)
    return to_host(run(to_gpu(cupy, case), module_on_gpu(case, **options), layout)), desired


@kinds
@pytest.mark.parametrize(
    ("way", "name"), [*(("steps", name) for name in CASES), ("persistent", "layers"), ("persistent", "row")]
)
def test_results_are_the_cpus(cupy, monkeypatch, kind, way, name):
    layout = {"row": "unbatched", "layers": "batch first"}.get(name, "time first")
    with path(way, monkeypatch):
        assert_close(*both(cupy, draw(kind, **CASES[name]), layout), UNITS[kind])


@kinds
@pytest.mark.parametrize("name", ["layers", "resets"])
def test_results_in_double_are_the_cpus(cupy, kind, name):
    assert_close(*both(cupy, draw(kind, **CASES[name], dtype=np.float64)), UNITS[kind])


@kinds
@pytest.mark.parametrize("name", ["layers", "directions"])
@pytest.mark.parametrize("layout", ["time first", "batch first"])
def test_layouts(cupy, monkeypatch, kind, name, layout):
    with path("steps", monkeypatch):
        assert_close(*both(cupy, draw(kind, **CASES[name]), layout), UNITS[kind])


def states_and_inputs(results):
    """What is no sum over rows and steps."""
    return {name: array for name, array in results.items() if name in ("y", "h", "c", "dx", "dh", "dc")}


@cells
@pytest.mark.parametrize("name", CASES)
def test_persistent_bits_are_the_cpus_where_products_are_exact(cupy, monkeypatch, kind, name):
    case = exact(draw(kind, **CASES[name]))
    with path("persistent", monkeypatch):
        actual, desired = both(cupy, case)
    assert_same_bits(states_and_inputs(actual), states_and_inputs(desired))


@kinds
@pytest.mark.parametrize("name", ["layers", "resets"])
def test_bits_of_steps_are_the_cpus_where_products_are_exact(cupy, monkeypatch, kind, name):
    for gate in range(gates_of(kind)):
        case = exact(draw(kind, **CASES[name]), gate)
        with path("steps", monkeypatch):
            actual, desired = both(cupy, case)
        assert_same_bits(states_and_inputs(actual), states_and_inputs(desired))


# Blocks, and bytes of shared memory of each: all rows at once, some at a time, one hidden unit of a block.
DEVICES = {"one block": (2, 1 << 17), "three blocks": (6, 1 << 17), "chunks": (10, 1100), "many": (24, 1 << 14)}


@some_kinds
def test_blocks_and_chunks_show_in_no_bit(cupy, device, monkeypatch, kind):
    case = draw(kind, 2, 19, 3, 10, bidirectional=True, shortest=0)
    module, gpu = module_on_gpu(case), to_gpu(cupy, case)
    results = []
    for size in DEVICES.values():
        with path("persistent", monkeypatch, device, size):
            device.launches()
            results.append(to_host(run(gpu, module)))
            launches = [launch for launch in device.launches() if launch.cooperative]
        assert len(launches) == 3  # training forward and back, inference
        assert all(launch.dynamic_bytes <= size[1] for launch in launches)
    for other in results[1:]:
        assert_same_bits(other, results[0])


@some_kinds
@paths
@pytest.mark.parametrize("order", ORDERS)
def test_order_of_threads_shows_in_no_bit(cupy, device, monkeypatch, kind, way, order):
    case = draw(kind, 2, 5, 3, 10, bidirectional=True, shortest=1)
    module, gpu = module_on_gpu(case), to_gpu(cupy, case)
    with path(way, monkeypatch, device, DEVICES["three blocks"]):
        desired = to_host(run(gpu, module))
        with ordered(device, *ORDERS[order]):
            assert_same_bits(to_host(run(gpu, module)), desired)


@some_kinds
def test_a_row_in_a_persistent_sweep_does_not_see_the_others(cupy, monkeypatch, kind):
    case = exact(draw(kind, 4, 9, 3, 20))  # x's products are exact: they are cuBLAS', which promises nothing
    rng = np.random.default_rng(1)
    hh = case.weights["weight_hh_l0"]
    case = replace(case, weights={**case.weights, "weight_hh_l0": rng.standard_normal(hh.shape).astype(np.float32)})
    with path("persistent", monkeypatch):
        whole = to_host(to_gpu(cupy, case).run(module_on_gpu(case)))
        for row in (0, 8):
            one = case.rows([row])
            alone = to_host(to_gpu(cupy, one).run(module_on_gpu(one)))
            for name in ("y", "h", "dx", "dh"):
                assert_same_bits([alone[name]], [whole[name][:, [row]]])


def test_which_way_is_taken(cupy, device):
    """Persistent for up to 32 rows forward and 16 back, where the weights fit; two directions in one launch."""

    def launches(B, H=8):
        case = draw("lstm", 3, B, 2, H, bidirectional=True)
        module, gpu = module_on_gpu(case), to_gpu(cupy, case)
        args, keywords, gradients = gpu.arguments()
        device.launches()
        _, _, tape = module.forward(*args, **keywords)
        forward = device.launches()
        module.backward(tape, *gradients)
        return [sum(record.cooperative for record in records) for records in (forward, device.launches())]

    assert launches(1) == [1, 1]
    assert launches(16) == [1, 1]
    assert launches(17) == [1, 0]
    assert launches(33) == [0, 0]
    fits = fusedstep._cuda.persistent_fits
    h100 = (132, 232448)
    assert fits("lstm", True, 32, 1024, 1, False, h100)
    assert fits("lstm", True, 16, 1024, 1, True, h100)
    assert not fits("lstm", True, 1, 2048, 1, False, h100)  # 64 MiB
    assert not fits("lstm", True, 32, 1024, 2, False, h100)  # two directions: 32 MiB
    assert fits("gru", True, 32, 512, 2, True, h100)
    assert not fits("lstm", True, 1, 512, 1, False, (40, 65536))  # a T4
    assert fits("lstm", True, 1, 256, 1, False, (40, 65536))
    assert not fits("lstm", False, 1, 8, 1, False, h100)  # float32 alone
    assert not fits("lstm", True, 1, 8, 2, False, (1, 232448))  # each direction needs a block of its own
    assert not fits("lstm", True, 1, 8, 1, False, (0, 0))


@kinds
@paths
def test_padding_is_not_read(cupy, monkeypatch, kind, way):
    case = draw(kind, 5, 4, 3, 6, num_layers=2, bidirectional=True, shortest=0)
    past = np.arange(5)[:, None] >= case.lengths
    dirty = replace(case, x=np.where(past[..., None], np.nan, case.x), dy=np.where(past[..., None], np.nan, case.dy))
    module = module_on_gpu(case)
    with path(way, monkeypatch):
        actual = to_host(to_gpu(cupy, dirty).run(module))
        assert_same_bits(actual, to_host(to_gpu(cupy, case).run(module)))
    assert not actual["y"][past].any()
    assert not actual["dx"][past].any()


@kinds
def test_no_steps_no_rows(cupy, kind):
    for T, B in ((0, 2), (3, 0)):
        case = draw(kind, T, B, 3, 5, num_layers=2, bidirectional=True)
        assert_close(*both(cupy, case))
    case = draw(kind, 3, 2, 3, 5)
    case = replace(case, lengths=np.zeros(2, np.int64))
    assert_close(*both(cupy, case))


@kinds
def test_steps_and_rows_apart(cupy, kind):
    case = draw(kind, 8, 6, 3, 5)
    gpu = to_gpu(cupy, case)
    half = replace(case, x=case.x[::2, ::-3], dy=case.dy[1::2, ::3], states=tuple(s[:, :2] for s in case.states),
                   dstates=tuple(d[:, :2] for d in case.dstates))  # fmt: skip
    half_gpu = replace(gpu, x=gpu.x[::2, ::-3], dy=gpu.dy[1::2, ::3], states=tuple(s[:, :2] for s in gpu.states),
                       dstates=tuple(d[:, :2] for d in gpu.dstates))  # fmt: skip
    assert_close(to_host(run(half_gpu, module_on_gpu(case))), run(half, case.module()))
    # x in another order than the module's, for which dx is reordered
    put = lambda a: a.swapaxes(0, 1).copy().swapaxes(0, 1)  # noqa: E731
    actual = to_host(replace(gpu, x=put(gpu.x)).run(module_on_gpu(case)))
    assert_close(actual, case.run())


@kinds
def test_gradients_are_added_to_given_arrays(cupy, kind):
    case = draw(kind, 4, 3, 5, 6, bidirectional=True)
    module, gpu = module_on_gpu(case), to_gpu(cupy, case)
    once = to_host(gpu.run(module))
    out = {name: cupy.asarray(np.full_like(w, 2)) for name, w in case.weights.items()}
    sums = gpu.run(module, out=out, accumulate=True)
    for name, array in out.items():
        assert sums[name] is array
        assert_close({name: array.get()}, {name: once[name] + 2})
    assert_close(to_host(gpu.run(module, out=out)), once)


@some_kinds
def test_functions_use_the_weights_as_they_are(cupy, kind):
    case = draw(kind, 4, 3, 5, 6, num_layers=2, bidirectional=True, shortest=1)
    gpu = to_gpu(cupy, case)
    forward, backward, options = {
        True: (lstm, lstm_backward, {"coupled": "coupled" in kind}),
        False: (gru, gru_backward, {"reset_after": kind != "gru_reset_before"}),
    }["lstm" in kind]
    (x, state, lengths), keywords, gradients = gpu.arguments()
    y, new, tape = forward(x, state, gpu.weights, lengths, **keywords, **options, dropout=0.25, tape="full", seed=3)
    assert all(tape._module.weights[name] is w for name, w in gpu.weights.items())
    results = flat(backward(tape, *gradients)) | {"y": y, **dict(zip("hc", arrays_of(new), strict=False))}
    assert_same_bits(to_host(results), to_host(gpu.run(module_on_gpu(case, dropout=0.25), seed=3)))
    inferred, _ = forward(x, state, gpu.weights, lengths, **keywords, **options)
    assert_close({"y": inferred.get()}, {"y": case.infer()["y"]})


def test_arrays_of_other_libraries(cupy):
    case = draw("gru", 4, 3, 5, 6)
    module = module_on_gpu(case)
    y, _ = module(foreign.Interface(case.x), foreign.Interface(case.states[0]))
    assert isinstance(y, cupy.ndarray)
    assert_close({"y": y.get()}, {"y": case.infer()["y"]})


def test_module_moves_pickles_saves(cupy, tmp_path):
    case = draw("lstm", 4, 3, 5, 6, num_layers=2)
    module = case.module()
    before = {name: w.copy() for name, w in module.weights.items()}
    assert module.device == "cpu"
    assert module.to("cuda") is module
    assert module.device == "cuda"
    assert all(isinstance(w, cupy.ndarray) for w in module.weights.values())
    same = dict(module.weights)
    assert all(module.to("cuda").weights[name] is w for name, w in same.items())
    other = copy.deepcopy(module)
    assert other.device == "cuda"
    assert all(other.weights[name].data.ptr != w.data.ptr for name, w in same.items())
    assert_same_bits(module.to_torch(), before)
    pytest.importorskip("safetensors")
    module.save(tmp_path / "m.safetensors")
    assert_same_bits(dict(type(module).from_safetensors(tmp_path / "m.safetensors").weights), before)
    doubled = {name: 2 * w for name, w in before.items()}
    module.load(doubled)
    assert_same_bits(to_host(module.weights), doubled)
    module.load({name: cupy.asarray(w) for name, w in before.items()})
    assert all(module.weights[name] is w for name, w in same.items())
    assert_same_bits(dict(module.to("cpu").weights), before)


def test_tape_bytes_are_told(cupy):
    for kind in KINDS:
        case = draw(kind, 4, 3, 5, 6, num_layers=2, bidirectional=True)
        module, gpu = module_on_gpu(case), to_gpu(cupy, case)
        _, _, tape = module.forward(gpu.x)
        assert tape.nbytes == module.tape_bytes(4, 3)
        module.backward(tape, None)
        assert tape.spent
        assert tape.nbytes == 0
        with pytest.raises(ValueError, match=r"^tape: expected one that no backward call has used"):
            module.backward(tape, None)


@paths
def test_nothing_waits_for_the_gpu(cupy, monkeypatch, way):
    case = draw("peephole_lstm", 4, 3, 5, 6, num_layers=2, bidirectional=True, shortest=1)
    module, gpu = module_on_gpu(case, dropout=0.5), to_gpu(cupy, case)
    with path(way, monkeypatch):
        gpu.run(module)
    assert cupy.state.copies == 0


@paths
def test_launches_go_to_the_current_stream(cupy, device, monkeypatch, way):
    case = draw("gru_reset_before", 4, 3, 5, 6, num_layers=2, shortest=1)
    module, gpu = module_on_gpu(case, dropout=0.5), to_gpu(cupy, case)
    device.launches()
    with path(way, monkeypatch), cupy.cuda.Stream(0x77):
        gpu.run(module)
    assert {record.stream for record in device.launches()} == {0x77}


@paths
def test_launches_go_to_the_gpu_of_the_weights(cupy, device, monkeypatch, way):
    case = draw("gru_reset_before", 4, 3, 5, 6, num_layers=2, shortest=1)
    with cupy.cuda.Device(1):
        module, gpu = module_on_gpu(case, dropout=0.5), to_gpu(cupy, case)
        device.launches()
        with path(way, monkeypatch):
            gpu.run(module)
        assert {launch.gpu for launch in device.launches()} == {1}
    with pytest.raises(RuntimeError, match=r"^the arrays are on GPU 1, and CuPy's current device is 0"):
        gpu.run(module)
    with pytest.raises(TypeError, match=r"^x: expected an array on GPU 1, got one on GPU 0"):
        module(cupy.asarray(case.x))


@pytest.mark.usefixtures("cupy")
def test_where_a_module_may_move():
    module = fusedstep.rnn.GRU(3, 4, rng=0).to("cuda")
    with pytest.raises(ValueError, match=r"^device: expected 'cpu' or 'cuda', got 'cuda:1'"):
        module.to("cuda:1")
    frozen = fusedstep.rnn.GRU(3, 4, rng=0).freeze()
    with pytest.raises(ValueError, match=r"^to: .*unfreeze"):
        frozen.to("cuda")
