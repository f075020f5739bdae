"""The model of docs/gpu.md: torch's launches as its source makes them, ours as they are made, and the page itself."""

from dataclasses import replace

import numpy as np
import pytest

from bench import gpu_model, machine_code, rows
from bench.cases import OptimCase
from bench.gpu_model import CHUNK, CHUNKS, LISTED, Cost, Tables, multi_tensor

lacking = machine_code.missing()
needs_module = pytest.mark.skipif(bool(lacking), reason=lacking or "")


@pytest.mark.parametrize("lists", LISTED)
def test_torch_launches_where_tensors_or_chunks_are_full(lists):
    room = LISTED[lists]
    assert multi_tensor([], lists) == 0
    assert multi_tensor([0], lists) == 0
    assert multi_tensor([1] * room, lists) == 1
    assert multi_tensor([1] * (room + 1), lists) == 2
    assert multi_tensor([CHUNK * CHUNKS], lists) == 1
    assert multi_tensor([CHUNK * CHUNKS + 1], lists) == 2
    # The last tensor of a full launch goes on in the next, as its first.
    assert multi_tensor([CHUNK * (CHUNKS + 1)] + [1] * (room - 1), lists) == 2
    assert multi_tensor([CHUNK * (CHUNKS + 1)] + [1] * room, lists) == 3


def test_torchs_bytes_count_every_pass():
    case = OptimCase("adamw", (), shapes=((10,),))
    assert gpu_model.torchs(case).bytes == 10 * 28  # reads p g m v, writes p m v
    assert gpu_model.torchs(replace(case, max_norm=1.0)).bytes == 10 * (28 + 12)  # reads g twice, writes it
    assert gpu_model.torchs(replace(case, zero_grads=True)).bytes == 10 * (28 + 4)
    assert gpu_model.torchs(replace(case, method="rmsprop")).bytes == 10 * 52


def test_costs_add_up():
    cost = Cost(3_000_000, 2) + Cost(operations=60_000_000, barriers=2)
    assert cost == Cost(3_000_000, 2, 60_000_000, 2)
    assert cost.seconds == pytest.approx(1e-6 + 2 * 2.5e-6 + 1e-6 + 2 * 1.5e-6)


def test_parts_of_a_page_are_written_between_their_marks():
    page = "a\n<!-- one -->\nold\n<!-- end -->\nb\n<!-- two -->\n<!-- end -->\nc\n"
    once = gpu_model.written(page, {"one": "1", "two": "2"})
    assert once == "a\n<!-- one -->\n\n1\n\n<!-- end -->\nb\n<!-- two -->\n\n2\n\n<!-- end -->\nc\n"
    assert gpu_model.written(once, {"one": "1", "two": "2"}) == once
    with pytest.raises(AssertionError, match="0 parts called three"):
        gpu_model.written(page, {"three": ""})


def test_model_has_the_shapes_of_the_benchmark():
    cases = {case.name for case in rows.OPTIM}
    bare = {replace(case, max_norm=None, zero_grads=False).name for case in gpu_model.STEPS}
    assert bare <= cases


# With the compiled module.


@pytest.fixture
def host():
    """The launchers as they run on the CPU."""
    from tests.cuda_host import build

    if why := build.missing():
        pytest.skip(why)
    from tests.cuda.launchers import launchers

    return launchers()


@needs_module
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("method", "rule"), [("adamw", "adam"), ("rmsprop", "rmsprop"), ("adagrad", "adagrad")])
def test_launches_are_those_that_are_made(host, method, rule, norm):
    """Of more tensors than a launch holds, by the launchers that a step calls."""
    from tests.cuda.launchers import RULE_BYTES, Tensor

    case = OptimCase(method, (), shapes=((1,),) * 1500, check_finite=norm)
    tensors = [
        Tensor(
            *(np.ones(1, np.float32) for _ in range(2)), [np.ones(1, np.float32) for _ in range(case.states)], number=i
        )
        for i in range(len(case.shapes))
    ]
    steps, rules = np.zeros(len(tensors)), np.zeros((len(tensors), RULE_BYTES), np.uint8)
    host.records()
    report = host.norm([("f32", tensor) for tensor in tensors]) if norm else None
    hyper = [0.5] * len(host.rules[rule][1])
    host.prepare(rule, "f32", hyper, range(len(tensors)), steps, rules, report)
    host.update(rule, "f32", tensors, rules, report=report)
    made = len(host.records())
    ptx = machine_code.ptx(machine_code.library())
    if not ptx:
        pytest.skip("this build has no PTX")
    assert made == Tables(ptx).ours(case).launches
    assert made > 3


@needs_module
def test_page_is_up_to_date():
    path = machine_code.library()
    if set(gpu_model.TARGETS) - machine_code.targets(path):
        pytest.skip("this build has no machine code for some of the page's targets")
    parts = gpu_model.tables(path)
    page = gpu_model.PAGE.read_text(encoding="utf-8")
    if parts["kernels"].splitlines()[0] not in page:
        pytest.skip("this build's compiler is not the page's")
    assert gpu_model.written(page, parts) == page, "run python -m bench.gpu_model"
