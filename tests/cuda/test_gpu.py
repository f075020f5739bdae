"""On a real GPU: the public API on CuPy arrays, compared with the CPU. `pytest -m gpu`; skipped where there is none."""

import functools

import fusedstep
import numpy as np
import pytest
from fusedstep.optim import OPTIMIZERS
from fusedstep.rnn import CELLS

from bench import machine
from tests.optim.methods import DTYPES, METHODS, VARIANTS, Mirror, assert_same_bits, copies, draw, normal
from tests.rnn.cells import draw as draw_cell
from tests.rnn.cells import error, flat

SHAPES = ((3, 4), (1,), (0,), (70_001,), (5,), (128, 33))
MODULES = {
    "lstm": fusedstep.rnn.LSTM,
    "peephole_lstm": functools.partial(fusedstep.rnn.LSTM, peephole=True),
    "coupled_lstm": functools.partial(fusedstep.rnn.LSTM, coupled=True),
    "projected_lstm": functools.partial(fusedstep.rnn.LSTM, proj_size=24),
    "gru": fusedstep.rnn.GRU,
    "gru_reset_before": functools.partial(fusedstep.rnn.GRU, reset_after=False),
    "layer_norm_lstm": functools.partial(fusedstep.rnn.LSTM, layer_norm=True),
    "layer_norm_gru": functools.partial(fusedstep.rnn.GRU, layer_norm=True),
}
# Of a result's largest value: products are summed in other orders than the CPU's.
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}

pytestmark = pytest.mark.gpu
if lacking := machine.cuda_missing():
    pytest.skip(lacking, allow_module_level=True)


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy", reason="CuPy is not installed")


@pytest.fixture
def stream(cupy):
    """A stream that may be captured, made the current one."""
    with cupy.cuda.Stream(non_blocking=True) as stream:
        yield stream
        stream.synchronize()


def host(array):
    return array.get()


def assert_equals(params, optimizer, mirror):
    """Parameters and states on the GPU have the bits of the reference's."""
    for i, (actual, desired) in enumerate(zip(params, mirror.params, strict=True)):
        assert_same_bits(host(actual), desired, f"params[{i}]")
    for i, own in enumerate(optimizer.state):
        assert own["step"] == mirror.steps[i]
        for name, desired in zip(mirror.method.state_names, mirror.states[i], strict=True):
            assert_same_bits(host(own[name]), desired, f"{name} of params[{i}]")


def captured(stream, call):
    """A graph of what a call launches, which does not run it."""
    stream.begin_capture()
    call()
    return stream.end_capture()


# Optimizers.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", VARIANTS, ids=str)
def test_step_has_the_bits_of_the_reference(cupy, method, dtype):
    start = draw(dtype, SHAPES)
    mirror = Mirror(method, start)
    params = [cupy.asarray(p) for p in start]
    optimizer = method.optimizer(params)
    for seed in (1, 2, 3):
        grads = draw(dtype, SHAPES, seed=seed)
        optimizer.step([cupy.asarray(g) for g in grads])
        mirror.step(grads)
    assert_equals(params, optimizer, mirror)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_place_in_memory_changes_nothing(cupy, method):
    rng = np.random.default_rng(0)
    start, g = normal(rng, 5000, np.float32), normal(rng, 5000, np.float32)
    mirror = Mirror(method, [start])
    mirror.step([g])
    for offset in range(5):
        p, grad = (cupy.empty(5010, np.float32)[at : at + 5000] for at in (offset, 4 - offset))
        p.set(start)
        grad.set(g)
        optimizer = method.optimizer(p)
        optimizer.step(grad)
        assert_equals([p], optimizer, mirror)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_many_tensors_equal_one(cupy, method):
    rng = np.random.default_rng(0)
    whole, g = normal(rng, 60_000, np.float32), normal(rng, 60_000, np.float32)
    cuts = np.sort(rng.integers(0, whole.size, 1500))
    together, apart = cupy.asarray(whole), [cupy.asarray(p) for p in np.split(whole, cuts)]
    method.optimizer(together).step(cupy.asarray(g))
    method.optimizer(apart).step([cupy.asarray(part) for part in np.split(g, cuts)])
    assert_same_bits(np.concatenate([host(p) for p in apart]), host(together))


@pytest.mark.parametrize("master", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_half_precision_is_computed_in_float32(cupy, name, master):
    start = [p.astype(np.float16) for p in draw(np.float32, ((999,), (7, 3)))]
    params = [cupy.asarray(p) for p in start]
    optimizer = OPTIMIZERS[name](params, **({"master": True} if master else {}))
    exact = [p.astype(np.float32) for p in start]
    desired = OPTIMIZERS[name](exact)
    for seed in (1, 2):
        grads = [g.astype(np.float16) for g in draw(np.float32, ((999,), (7, 3)), seed=seed)]
        optimizer.step([cupy.asarray(g) for g in grads])
        desired.step([g.astype(np.float32) for g in grads])
        for actual, p in zip(params, exact, strict=True):
            with np.errstate(over="ignore"):
                rounded = p.astype(np.float16)
            assert_same_bits(host(actual), rounded)
            if not master:  # what is stored is all that there is
                p[...] = rounded


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_clip_and_zero_are_those_of_the_cpu(cupy, dtype):
    start, grads = draw(dtype, SHAPES), draw(dtype, SHAPES, seed=1)
    params, on_gpu = ([cupy.asarray(a) for a in arrays] for arrays in (start, grads))
    ours, theirs = fusedstep.optim.Adam(params), fusedstep.optim.Adam(start)
    for max_norm in (0.5, 1e9):
        options = {"max_norm": max_norm, "grad_scale": 3.0, "zero_grads": max_norm > 1}
        got, expected = ours.step(on_gpu, **options), theirs.step(grads, **options)
        assert float(got.norm) == expected.norm
        assert bool(got.applied)
        assert int(got.first_nonfinite) == -1
    for actual, desired in zip([*params, *on_gpu], [*start, *grads], strict=True):
        assert_same_bits(host(actual), desired)


def test_gradient_that_is_not_finite_changes_nothing(cupy):
    start = draw(np.float32, ((300,), (5000,), (7,)))
    params = [cupy.asarray(p) for p in start]
    optimizer = fusedstep.optim.AdamW(params)
    grads = draw(np.float32, ((300,), (5000,), (7,)), seed=1)
    grads[1][4999] = np.inf
    info = optimizer.step([cupy.asarray(g) for g in grads], check_finite=True)
    assert not bool(info.applied)
    assert int(info.first_nonfinite) == 1
    for actual, desired in zip(params, start, strict=True):
        assert_same_bits(host(actual), desired)
    assert [own["step"] for own in optimizer.state] == [0, 0, 0]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_graph_replays_steps(cupy, stream, method):
    start, grads = draw(np.float32, SHAPES), draw(np.float32, SHAPES, seed=1)
    method.optimizer([cupy.asarray(p) for p in start]).step([cupy.asarray(g) for g in grads], max_norm=1.0)  # warm up
    params, on_gpu = ([cupy.asarray(a) for a in arrays] for arrays in (start, grads))
    optimizer = method.optimizer(params)
    expected = method.optimizer(start)
    graph = captured(stream, lambda: optimizer.step(on_gpu, max_norm=1.0))
    for replay in range(4):
        if replay == 2:
            optimizer.lr = expected.lr = 0.25
        graph.launch(stream)
        expected.step(grads, max_norm=1.0)
    for actual, desired in zip(params, start, strict=True):
        assert_same_bits(host(actual), desired)
    assert [own["step"] for own in optimizer.state] == [own["step"] for own in expected.state]


def test_step_does_not_wait_for_the_gpu(cupy, stream):
    p, g = cupy.ones(1000, np.float32), cupy.ones(1000, np.float32)
    optimizer = fusedstep.optim.Adam(p)
    optimizer.step(g, max_norm=1.0)
    busy = cupy.ones((4096, 4096), np.float32)
    busy @ busy
    stream.synchronize()
    for _ in range(20):
        busy @ busy
    optimizer.step(g, max_norm=1.0)
    assert not stream.done


def test_streams_do_not_disturb_each_other(cupy):
    start, grads = draw(np.float32, SHAPES), draw(np.float32, SHAPES, seed=1)
    expected = fusedstep.optim.Adam(desired := copies(start))
    for _ in range(20):
        expected.step(grads, max_norm=1.0)
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(3)]
    own = []
    for stream in streams:
        with stream:
            params = [cupy.asarray(p) for p in start]
            own.append((fusedstep.optim.Adam(params), params, [cupy.asarray(g) for g in grads]))
    for _ in range(20):
        for stream, (optimizer, _, on_gpu) in zip(streams, own, strict=True):
            with stream:
                optimizer.step(on_gpu, max_norm=1.0)
    for stream, (_, params, _) in zip(streams, own, strict=True):
        stream.synchronize()
        for actual, p in zip(params, desired, strict=True):
            assert_same_bits(host(actual), p)


def test_functional_form_has_the_bits_of_the_cpu(cupy):
    arrays = draw(np.float32, ((4097,),) * 4)
    arrays[3] = np.abs(arrays[3])
    on_gpu = [cupy.asarray(a) for a in arrays]
    for step in (1, 2):
        fusedstep.optim.adam_step(*arrays, step=step, lr=0.1)
        fusedstep.optim.adam_step(*on_gpu, step=step, lr=0.1)
    for actual, desired in zip(on_gpu, arrays, strict=True):
        assert_same_bits(host(actual), desired)


def test_torchs_tensors_are_updated_in_place(cupy):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    start, g = draw(np.float32, ((1000,), (1000,)))
    p = torch.from_numpy(start).cuda()
    fusedstep.optim.Adam(p).step(torch.from_numpy(g).cuda())
    cupy.cuda.get_current_stream().synchronize()
    fusedstep.optim.Adam(start).step(g)
    assert_same_bits(p.cpu().numpy(), start)


def test_mixed_devices_are_refused(cupy):
    with pytest.raises(TypeError, match="CUDA memory"):
        fusedstep.optim.Adam([cupy.zeros(3, np.float32), np.zeros(3, np.float32)])
    with pytest.raises(TypeError, match="CUDA memory"):
        fusedstep.optim.Adam(cupy.zeros(3, np.float32)).step(np.zeros(3, np.float32))


# Cells and sequences.


def assert_close(actual, desired, dtype):
    assert actual.keys() == desired.keys()
    for name, expected in desired.items():
        assert error(host(actual[name]), expected) <= TOLERANCE[dtype], name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", CELLS)
def test_cell_agrees_with_the_cpu(cupy, kind, dtype):
    step = draw_cell(kind, 37, 40, 33, dtype)
    moved = step.map(cupy.asarray)
    assert_close(moved.backward(), step.backward(), dtype)


def module(kind, **options):
    """A module on the CPU and one on the GPU, of the same weights."""
    own = MODULES[kind](40, 64, rng=0, **options)
    return own, MODULES[kind](40, 64, rng=0, **options).to("cuda")


def trained(rnn, x, dy, lengths=None, tape="full"):
    """Everything that a run and the way back give, by name."""
    y, state, tape = rnn.forward(x, None, lengths, tape=tape, seed=7)
    states = state if isinstance(state, tuple) else (state,)
    return {"y": y, **{f"state {i}": s for i, s in enumerate(states)}} | flat(rnn.backward(tape, dy))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 20, 70])
@pytest.mark.parametrize("kind", MODULES)
def test_module_agrees_with_the_cpu(cupy, kind, batch, dtype):
    rng = np.random.default_rng(0)
    on_cpu, on_gpu = module(kind, num_layers=2, bidirectional=True, dtype=dtype)
    x, dy = (rng.standard_normal((9, batch, n)).astype(dtype) for n in (40, 2 * on_cpu._width))
    lengths = rng.integers(1, 10, batch)
    desired = trained(on_cpu, x, dy, lengths)
    assert_close(trained(on_gpu, cupy.asarray(x), cupy.asarray(dy), lengths), desired, dtype)


@pytest.mark.parametrize("tape", ["full", "lean"])
@pytest.mark.parametrize("batch", [1, 70])
@pytest.mark.parametrize("kind", MODULES)
def test_noise_and_lean_tapes_agree_with_the_cpu(cupy, kind, batch, tape):
    rng = np.random.default_rng(0)
    on_cpu, on_gpu = module(kind, bidirectional=True, recurrent_dropout=0.25, zoneout=0.5)
    x, dy = (rng.standard_normal((90, batch, n)).astype(np.float32) for n in (40, 2 * on_cpu._width))
    lengths = rng.integers(0, 91, batch)
    desired = trained(on_cpu, x, dy, lengths, tape)
    assert_close(trained(on_gpu, cupy.asarray(x), cupy.asarray(dy), lengths, tape), desired, np.float32)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", MODULES)
def test_frozen_modules_and_streams_agree_with_the_cpu(cupy, kind, weights):
    on_cpu, on_gpu = module(kind)
    x = np.random.default_rng(0).standard_normal((9, 3, 40)).astype(np.float32)
    desired = on_cpu.freeze(weights)(x)[0]
    on_gpu.freeze(weights)
    for array in on_gpu.weights.values():
        array[...] = 0
    assert error(host(on_gpu(cupy.asarray(x))[0]), desired) <= TOLERANCE[np.float32]
    stream = module(kind)[1].stream(3, weights=weights)
    steps = [host(stream.step(cupy.asarray(x_t))) for x_t in x]
    assert error(np.stack(steps), desired) <= TOLERANCE[np.float32]
    with pytest.raises(ValueError, match="read-only"):
        fusedstep.optim.Adam(on_gpu.weights)


@pytest.mark.parametrize("kind", MODULES)
def test_few_rows_repeat_to_the_bit(cupy, kind):
    """One kernel takes all steps then; only the input's product, which is cuBLAS's, may depend on the batch."""
    x = cupy.asarray(np.random.default_rng(0).standard_normal((50, 24, 40)).astype(np.float32))
    _, rnn = module(kind)
    y, _ = rnn(x)
    again, _ = rnn(x)
    alone, _ = rnn(x[:, 5:6].copy())
    assert_same_bits(host(again), host(y))
    assert error(host(alone), host(y)[:, 5:6]) <= TOLERANCE[np.float32]


@pytest.mark.parametrize("batch", [1, 70])
@pytest.mark.parametrize("kind", MODULES)
def test_graph_replays_a_sequence(cupy, stream, kind, batch):
    rng = np.random.default_rng(0)
    _, rnn = module(kind)
    first, second = (cupy.asarray(rng.standard_normal((5, batch, 40)).astype(np.float32)) for _ in range(2))
    desired = [host(rnn(x)[0]) for x in (first, second)]
    x, kept = first.copy(), {}
    graph = captured(stream, lambda: kept.update(y=rnn(x)[0]))
    for given, expected in zip((first, second), desired, strict=True):
        x[...] = given
        graph.launch(stream)
        assert_same_bits(host(kept["y"]), expected)


# The profiler.


def test_profile_times_what_the_gpu_does(cupy, stream):
    """A step waits for nothing, and its time is that of its bytes, not of the launch or of what runs before."""
    n = 50_000_000
    p, g = cupy.zeros(n, np.float32), cupy.ones(n, np.float32)
    optimizer = fusedstep.optim.Adam(p)
    optimizer.step(g)
    busy = cupy.ones((4096, 4096), np.float32)
    busy @ busy
    stream.synchronize()
    with fusedstep.profile() as prof:
        for _ in range(20):
            busy @ busy
        for _ in range(5):
            optimizer.step(g)
        assert not stream.done
    (group,) = prof.groups()
    assert (group.calls, group.work.device) == (5, "cuda")
    assert 100e9 < group.work.cost.bytes / group.fastest < 20e12
    rows = prof.calls.rows
    assert np.all(rows["end"][:-1] <= rows["start"][1:])
    assert rows["end"][-1] <= prof.start + 1e9 * prof.seconds
