"""Lean tapes on a GPU: the results of the CPU, of a chunk of steps at a time, and less memory."""

import numpy as np
import pytest
from fusedstep.rnn._cuda import lean as replay

from tests.cuda.rnn_cases import KINDS, UNITS, assert_close, exact, gates_of, module_on_gpu, path, to_gpu, to_host
from tests.cuda.test_rnn_sequences import CASES, states_and_inputs
from tests.rnn.cells import DTYPES
from tests.rnn.sequences import draw

kinds = pytest.mark.parametrize("kind", KINDS)
NOISE = {"recurrent_dropout": 0.5, "zoneout": 0.3}


@pytest.fixture(params=[1, 10, 4096], ids=lambda pairs: f"{pairs} pairs")
def chunks(request, monkeypatch):
    """Chunks of one step, of some, and of all."""
    monkeypatch.setattr(replay, "PAIRS", request.param)


def lean(cupy, case, **options):
    return to_host(to_gpu(cupy, case).run(module_on_gpu(case, **options), seed=5, tape="lean"))


@kinds
@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("chunks")
def test_results_are_the_cpus(cupy, kind, name):
    case = draw(kind, **CASES[name])
    options = {"dropout": 0.25 * (case.num_layers > 1)}
    assert_close(lean(cupy, case, **options), case.run(case.module(**options), seed=5), UNITS[kind])


@kinds
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.usefixtures("chunks")
def test_results_with_noise_are_the_cpus(cupy, kind, dtype):
    case = draw(kind, **CASES["layers"], dtype=dtype)
    assert_close(lean(cupy, case, **NOISE), case.run(case.module(**NOISE), seed=5), UNITS[kind])


@kinds
@pytest.mark.parametrize("name", ["layers", "resets"])
@pytest.mark.parametrize("noise", [{}, NOISE], ids=["", "noise"])
@pytest.mark.usefixtures("chunks")
def test_bits_are_those_of_a_full_tape_where_products_are_exact(cupy, monkeypatch, kind, name, noise):
    for gate in range(gates_of(kind)):
        case = exact(draw(kind, **CASES[name]), gate)
        module, gpu = module_on_gpu(case, **noise), to_gpu(cupy, case)
        with path("steps", monkeypatch):
            full, own = (states_and_inputs(to_host(gpu.run(module, seed=5, tape=tape))) for tape in ("full", "lean"))
        for name_of, array in full.items():
            assert array.tobytes() == own[name_of].tobytes(), name_of


@kinds
@pytest.mark.usefixtures("chunks")
def test_gradients_are_added(cupy, kind):
    case = draw(kind, 4, 3, 5, 6, bidirectional=True, shortest=0)
    module, gpu = module_on_gpu(case), to_gpu(cupy, case)
    out = {name: cupy.asarray(np.full_like(w, 2)) for name, w in case.weights.items()}
    once = to_host(gpu.run(module, tape="lean"))
    gpu.run(module, tape="lean", out=out, accumulate=True)
    assert_close({name: array.get() for name, array in out.items()}, {name: once[name] + 2 for name in out})


@kinds
@pytest.mark.usefixtures("chunks")
def test_steps_and_rows_apart(cupy, kind):
    case = draw(kind, 5, 4, 3, 5)
    desired = case.run(case.module(batch_first=True), "batch first")
    gpu = to_gpu(cupy, case)
    assert_close(to_host(gpu.run(module_on_gpu(case, batch_first=True), "batch first", tape="lean")), desired)


@kinds
def test_no_steps_no_rows(cupy, kind):
    for T, B in ((0, 2), (3, 0)):
        case = draw(kind, T, B, 3, 5, num_layers=2, bidirectional=True)
        assert_close(lean(cupy, case), case.run())


@kinds
def test_a_lean_tape_holds_no_gates(cupy, kind):
    case = draw(kind, 4, 3, 5, 6, num_layers=2, bidirectional=True, shortest=0)
    module, gpu = module_on_gpu(case), to_gpu(cupy, case)
    _, _, tape = module.forward(gpu.x, tape="lean")
    assert tape.nbytes == module.tape_bytes(4, 3, "lean")
    module.backward(tape, None)
    assert tape.nbytes == 0
    with pytest.raises(ValueError, match=r"^tape: expected one that no backward call has used"):
        module.backward(tape, None)


@kinds
def test_gates_of_few_steps_are_there_at_a_time(cupy, monkeypatch, kind):
    """Nothing that backward makes has room for as many steps as there are."""
    case = draw(kind, 40, 3, 5, 6)
    module, gpu = module_on_gpu(case), to_gpu(cupy, case)
    _, _, tape = module.forward(gpu.x, tape="lean")
    monkeypatch.setattr(replay, "PAIRS", 12)
    device, made = type(module._place.device), []

    def recorded(make):
        return lambda self, shape, dtype: (made.append(shape), make(self, shape, dtype))[1]

    for name in ("empty", "zeros"):
        monkeypatch.setattr(device, name, recorded(getattr(device, name)))
    module.backward(tape, gpu.dy)
    assert max(shape[0] for shape in made if len(shape) == 3) == 4


def test_nothing_waits_for_the_gpu(cupy):
    case = draw("peephole_lstm", **CASES["layers"])
    to_gpu(cupy, case).run(module_on_gpu(case, **NOISE), tape="lean")
    assert cupy.state.copies == 0
