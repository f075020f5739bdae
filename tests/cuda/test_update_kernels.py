"""The update kernels, launched one by one: the bits of the CPU's, for every rule, format, length and alignment."""

import numpy as np
import pytest

from tests.cuda.launchers import CHUNK, REPORT, RULE_BYTES, Tensor, room_of
from tests.cuda.tensors import assert_same_tensors, check_steps, draw, hyper_of, narrow, step, step_on_cpu, widen
from tests.optim.methods import METHODS

RULES = (
    "adam",
    "amsgrad",
    "rmsprop",
    "rmsprop_momentum",
    "rmsprop_centered",
    "rmsprop_centered_momentum",
    "adagrad",
    "touch1",
    "touch2",
    "touch3",
)


LENGTHS = (0, 1, 2, 7, 8, 31, 32, 33, 255, 257, CHUNK - 1, CHUNK, CHUNK + 1)


def test_rules_are_numbered_as_the_cpus(kernels):
    assert tuple(kernels.rules) == RULES
    assert [kernels.rules[rule][0] for rule in RULES] == list(range(len(RULES)))


@pytest.mark.parametrize("rule", RULES)
def test_update_has_the_bits_of_the_cpu(kernels, rule, stored, order):
    """Any length; arrays that agree modulo 16 bytes, and arrays that do not; special values."""
    storage, master = stored
    rng = np.random.default_rng(1)
    states = kernels.rules[rule][2]
    tensors = [
        draw(rng, n, storage, master, states, [k] * 6 if together else rng.integers(16, size=6))
        for n in LENGTHS
        for together in (True, False)
        for k in [rng.integers(16)]
    ]
    check_steps(kernels, rule, storage, tensors, zero=order != "forward", sign=-1 if order == "random" else 1)


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("storage", ["f16", "bf16"])
@pytest.mark.parametrize("master", [False, True], ids=["", "master"])
def test_half_formats_have_the_bits_of_the_numpy_reference(kernels, method, storage, master):
    rng = np.random.default_rng(2)
    rule, hyper = method.cls.rule(method.hyper)
    tensor = draw(rng, 300, storage, master, len(method.state_names), [0] * 6)
    wide = tensor.master.copy() if master else widen(tensor.p, storage)
    states = tuple(s.copy() for s in tensor.states)
    steps, rules = np.zeros(1), np.zeros(RULE_BYTES, np.uint8)
    for t in range(1, 4):
        kernels.prepare(rule, storage, hyper, [0], steps, rules)
        kernels.update(rule, storage, [tensor], rules, multiplier=0.5)
        method.reference(wide, widen(tensor.g, storage), states, t, 0.5)
        desired = Tensor(narrow(wide, storage), tensor.g, list(states), wide if master else None)
        assert_same_tensors([tensor], [desired], storage)
        if not master:
            wide = widen(tensor.p, storage)


@pytest.mark.parametrize("rule", ["adam", "amsgrad", "adagrad"])
def test_more_tensors_than_a_launch_holds(kernels, rule, stored):
    storage, master = stored
    rng = np.random.default_rng(3)
    states = kernels.rules[rule][2]
    room = room_of(2 + states + master)
    sizes = rng.integers(0, 4, 3 * room // 2)  # a fourth is empty
    tensors = [draw(rng, int(n), storage, master, states, rng.integers(8, size=6), False) for n in sizes]
    kernels.records()
    check_steps(kernels, rule, storage, tensors)
    updates = [record for record in kernels.records() if record.threads == 256]
    assert room < sum(sizes > 0) <= 2 * room
    assert len(updates) == 2 * 2
    assert max(record.blocks for record in updates) == room


@pytest.mark.parametrize("storage", ["f16", "bf16"])
def test_tensors_with_and_without_a_master_copy_mix(kernels, storage):
    rng = np.random.default_rng(4)
    tensors = [draw(rng, 40, storage, master, 2, [0] * 6) for master in (True, True, False, True, False, False)]
    check_steps(kernels, "adam", storage, tensors)


def test_numbers_say_whose_rule_and_count_it_is(kernels):
    """Tensors of any order and number, among more than one launch of `prepare` holds, have counts and rules apart."""
    rng = np.random.default_rng(5)
    count = 2500
    steps, rules = np.arange(count, dtype=float), np.zeros((count, RULE_BYTES), np.uint8)
    numbers = rng.permutation(count)[:2100]
    untouched = np.setdiff1d(np.arange(count), numbers)
    tensors = [draw(rng, 3, "f64", False, 2, [0] * 6, False) for _ in numbers]
    for tensor, number in zip(tensors, numbers, strict=True):
        tensor.number = int(number)
    desired = [tensor.copy() for tensor in tensors]
    step(kernels, "adam", "f64", tensors, steps, rules)
    for tensor in desired:
        step_on_cpu(tensor, "f64", "adam", hyper_of(kernels, "adam"), tensor.number + 1, 1, False)
    assert_same_tensors(tensors, desired, "f64")
    assert (steps[numbers] == numbers + 1).all()
    assert (steps[untouched] == untouched).all()
    assert not rules[untouched].any()
    assert not rules[:, 9 * 8 :].any()  # what is past the rule's nine scalars


@pytest.mark.parametrize("storage", ["f32", "f64"])
def test_large_step_counts_have_the_bits_of_the_cpu(kernels, storage):
    rng = np.random.default_rng(6)
    counts = [1, 2, 3, 10, 1000, 12_345, 10**6, 10**9, 2**53 - 1]
    tensors = [draw(rng, 4, storage, False, 2, [0] * 6, False) for _ in counts]
    for number, tensor in enumerate(tensors):
        tensor.number = number
    desired = [tensor.copy() for tensor in tensors]
    rules = np.zeros((len(counts), RULE_BYTES), np.uint8)
    step(kernels, "adam", storage, tensors, np.array(counts, float) - 1, rules)
    for t, tensor in zip(counts, desired, strict=True):
        step_on_cpu(tensor, storage, "adam", hyper_of(kernels, "adam"), t, 1, False)
    assert_same_tensors(tensors, desired, storage)


@pytest.mark.parametrize("applied", [0, 1])
def test_the_report_says_whether_anything_is_written(kernels, stored, applied):
    """Not applied, every byte stays: of tensors, counts and rules. Applied, its multiplier counts."""
    storage, master = stored
    rng = np.random.default_rng(13)
    tensors = [draw(rng, n, storage, master, 2, [0] * 6) for n in (3, 5000)]
    for number, tensor in enumerate(tensors):
        tensor.number = number
    steps, rules = np.full(2, 6.0), rng.integers(256, size=(2, RULE_BYTES)).astype(np.uint8)
    report = np.array((1.0, -1 if applied else 0, applied, 0.25, 1.0), REPORT)
    everything = [steps, rules, *(array for tensor in tensors for array in tensor.arrays())]
    before = [array.tobytes() for array in everything]
    desired = [tensor.copy() for tensor in tensors]
    step(kernels, "adam", storage, tensors, steps, rules, report=report, sign=-1, multiplier=77, zero=True)
    if applied:
        for tensor in desired:
            step_on_cpu(tensor, storage, "adam", hyper_of(kernels, "adam"), 7, -0.25, True)
        assert_same_tensors(tensors, desired, storage)
        assert (steps == 7).all()
    else:
        assert [array.tobytes() for array in everything] == before


def test_launches_go_to_the_stream(kernels):
    tensor = draw(np.random.default_rng(14), 5, "f64", False, 2, [0] * 6)
    kernels.records()
    kernels.norm([("f64", tensor)], stream=0xABC0)
    steps, rules = np.zeros(1), np.zeros(RULE_BYTES, np.uint8)
    kernels.prepare("adam", "f64", hyper_of(kernels, "adam"), [0], steps, rules, stream=0xABC0)
    kernels.update("adam", "f64", [tensor], rules, stream=0xABC0)
    records = kernels.records()
    assert len(records) == 2 + 2 + 1 + 1
    assert {record.stream for record in records} == {0xABC0}


def test_errors_name_what_was_launched(kernels):
    tensor = draw(np.random.default_rng(15), 5, "f32", False, 2, [0] * 6)
    rules = np.zeros(RULE_BYTES, np.uint8)
    kernels.driver(False)
    try:
        with pytest.raises(RuntimeError, match=r"^update: CUDA driver version is insufficient for"):
            kernels.update("adam", "f32", [tensor], rules)
        with pytest.raises(RuntimeError, match=r"^square_sums: CUDA driver"):
            kernels.norm([("f32", tensor)])
    finally:
        kernels.driver(True)
    tensor.master = np.zeros(5, np.float32)
    with pytest.raises(RuntimeError, match=r"^a master copy is for half formats alone$"):
        kernels.update("adam", "f32", [tensor], rules)
