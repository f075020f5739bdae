"""The figures of a machine: each is there, is measured, can be replaced, and is found where a prediction takes it."""

import pytest
from fusedstep import _core
from fusedstep.profiler import kernels, model
from fusedstep.profiler.binding import binding
from fusedstep.profiler.ceilings import replaced, value
from fusedstep.profiler.figures import Meter, figures
from fusedstep.rnn._cost import Sizes

from tests.profiler.conftest import machine_of

CACHES = {"L1": 1 << 15, "L2": 1 << 17, "L3": 1 << 19}  # small, so that little is allocated
FIGURES = list(figures())


@pytest.mark.parametrize("figure", FIGURES, ids="/".join)
def test_a_figure_is_replaced_alone(figure, machine):
    other = replaced(machine, {figure: 123.0})
    assert value(other, figure) == 123.0
    assert [f for f in FIGURES if value(other, f) != value(machine, f)] == [figure]
    assert replaced(other, {figure: value(machine, figure)}) == machine


def test_they_are_all_that_a_machine_has(machine):
    numbers = replaced(machine, dict.fromkeys(FIGURES, 1.0))
    assert {rate for streams in numbers.bandwidth.values() for pair in streams.values() for rate in pair} == {1.0}
    assert {rate for pairs in (numbers.peak, numbers.rates) for pair in pairs.values() for rate in pair} == {1.0}
    assert {numbers.region, numbers.barrier, *numbers.calls.values()} == {1.0}
    assert len(set(FIGURES)) == len(FIGURES)


@pytest.mark.parametrize("timer", [kernels.fastest, kernels.mean])
def test_each_is_measured(timer):
    threads = _core.num_threads()
    meter = Meter(threads, CACHES)
    for figure in FIGURES:
        found = meter.measure(figure, 1e-4, timer)
        assert (found > 0) == (threads > 1 or figure not in (("region",), ("barrier",))), figure


def test_sizes_lie_between_the_caches():
    meter = Meter(1, {"L1": 1 << 15, "L2": 1 << 20, "L3": 1 << 24})
    sizes = list(meter._sizes.values())
    assert sizes == sorted(sizes)
    assert sizes[0] < 1 << 15 < sizes[1] < 1 << 20 < sizes[2] < 1 << 24 < sizes[3]


@pytest.mark.parametrize("threads", [1, 2, 3, 8, 64])
def test_so_many_threads_share_what_is_measured_on_them(threads):
    machine = machine_of(threads)
    assert model._threads(8 * kernels.packed_width(threads) ** 2, model.STEP_PRODUCTS, machine) == threads
    assert model._threads(kernels.STEP_ELEMENTS, model.STEP_ELEMENTS, machine_of(8)) == 1
    assert model._threads(8 * kernels.packed_width(1) ** 2, model.STEP_PRODUCTS, machine_of(8)) == 1


def test_calls_beyond_another_are_differences():
    seconds = iter([1e-6, 3e-6])
    probe = kernels._rate(4000, str, str)
    assert probe.measure(1.0, lambda *_: next(seconds)) == pytest.approx(4000 / 2e-6 / 1e9)


def test_the_mean_is_of_all_rounds_and_the_fastest_of_one():
    calls = []
    assert 0 < kernels.fastest(lambda: calls.append(1), 1e-4) <= kernels.mean(lambda: calls.append(1), 1e-2)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_predictions_depend_on_what_binds_them(threads):
    machine = machine_of(threads)
    count = "one" if threads == 1 else "all"

    def step(elements, **options):
        return lambda m: model.step(m, "adam", 1, elements, 4, **options).seconds

    assert binding(step(1), machine) == [("calls", "optimizer")]
    assert binding(step(10**8), machine) == [("bandwidth", "memory", "update", count)]
    assert ("bandwidth", "memory", "read", count) in binding(step(10**8, norm=True), machine)
    found = binding(lambda m: model.cell(m, Sizes("lstm", 512, 512, 512), 1).seconds, machine)
    assert {figure[1] for figure in found if figure[0] == "bandwidth"} == {"L2", "L3"} if threads < 8 else {"L2"}
    assert not any("triad" in figure for figure in found)
