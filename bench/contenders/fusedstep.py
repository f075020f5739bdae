"""fusedstep, and its ceilings: the same loop over the same arrays without arithmetic, and FMAs on registers."""

import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import fusedstep
import numpy as np
from fusedstep import _core
from fusedstep.optim import OPTIMIZERS

from bench import contenders, inputs, losses, roofline
from bench.cases import AnyCase, CellCase, LossCase, OptimCase, RnnCase, SequenceCase, StreamCase
from bench.contenders import Array, Step
from bench.prediction import Prediction, predicted
from bench.timing import Sampler

HUGE_PAGE = 2 << 20
Ceiling = Callable[[float], float]  # from seconds to sample, to the seconds of a step at the ceiling


def aligned(values: Array) -> Array:
    """Copy an array to where a library would put its own: aligned to 64 bytes, large ones on huge pages."""
    if values.dtype.kind != "f":
        return values
    array = _core.zeros(values.shape, values.dtype)
    array[...] = values
    return array


def huge_fraction(arrays: list[Array]) -> float | None:
    """Return the share of the arrays' memory that lies on huge pages; None where the system does not say."""
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        return None
    spans = sorted((array.ctypes.data, array.ctypes.data + array.nbytes) for array in arrays)
    huge = 0.0
    begin = end = 0
    for line in smaps.read_text().splitlines():
        head, _, rest = line.partition(" ")
        if not head.endswith(":"):
            begin, end = (int(part, 16) for part in head.split("-"))
        elif head == "AnonHugePages:":
            inside = sum(max(0, min(end, last) - max(begin, first)) for first, last in spans)
            huge += int(rest.split()[0]) * 1024 * inside / (end - begin)
    return huge / sum(last - first for first, last in spans)


def stored(sample: Ceiling) -> Ceiling:
    """Return a ceiling whose loop writes through the caches, as cross entropy does, whatever its size."""

    def sampled(seconds: float) -> float:
        before = _core.stream_from(sys.maxsize)
        try:
            return sample(seconds)
        finally:
            _core.stream_from(before)

    return sampled


def tupled(state: Any) -> tuple[Array, ...]:
    return state if isinstance(state, tuple) else (state,)


class Contender(contenders.Contender):
    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        fusedstep.set_num_threads(threads)

    def describe(self) -> dict[str, Any]:
        fusedstep.machine(refresh=True)  # what predictions are made of is of the same run
        return fusedstep.build_info()

    def clock(self) -> Callable[[], float]:
        return time.perf_counter

    def parameter(self, values: Array) -> Any:
        """Return an array as a library would allocate it."""
        return aligned(values)

    def argument(self, values: Array) -> Any:
        """Return an array as a caller would hand it in."""
        return values

    def result(self, array: Any) -> Array:
        """Return an array that NumPy can read."""
        return array  # type: ignore[no-any-return]

    def moved(self, module: Any) -> Any:
        """Return a module or a cell that is where the arrays are."""
        return module

    def predict(self, case: AnyCase) -> Prediction | None:
        """Return what the cost model tells, where it does."""
        return Prediction(case) if predicted(case, fusedstep.machine()) is not None else None

    def prepare(self, case: AnyCase) -> Step:
        step = super().prepare(case)
        if (prediction := self.predict(case)) is not None:
            step.predicted = prediction.sample
            step.facts |= {"predicted_at_first": prediction.at_first, "predicted_by": prediction.figures}
        return step

    def optim(self, case: OptimCase) -> Step:
        pairs = [(self.parameter(p), self.parameter(g)) for p, g in inputs.tensors(case)]
        params, grads = [p for p, _ in pairs], [g for _, g in pairs]
        single = len(params) == 1
        opt = OPTIMIZERS[case.method](params[0] if single else params, lr=inputs.LEARNING_RATE)
        states = [[array for name, array in state.items() if name != "step"] for state in opt.state]
        options = {"max_norm": case.max_norm, "check_finite": case.check_finite, "zero_grads": case.zero_grads}
        given = "".join(f", {name}={value}" for name, value in options.items() if value)
        step = Step(
            f"opt.step(g{given})",
            {"opt": opt, "g": grads[0] if single else grads},
            result=lambda: [self.result(p) for p in params],
            zeroes=case.zero_grads,
            clock=self.clock(),
        )
        if not case.overhead:
            step.ceiling = self.optim_ceiling(case, params, grads, states)
        step.facts |= self.memory_facts([*params, *grads, *chain(*states)])
        return step

    def optim_ceiling(self, case: OptimCase, params: list[Any], grads: list[Any], states: list[list[Any]]) -> Ceiling:
        plan = _core.Plan(None, False)
        plan.add_group(f"touch{case.states}", [], False, params, states)
        names = {"touch": plan.stepper(), "g": grads, "max_norm": case.max_norm}
        return Sampler(f"touch(g, max_norm, 1.0, {case.check_finite}, {case.zero_grads})", names).sample

    def memory_facts(self, arrays: list[Any]) -> dict[str, Any]:
        large = [array for array in arrays if array.nbytes >= HUGE_PAGE]
        return {"huge_pages": huge_fraction(large)} if large else {}

    def cell(self, case: CellCase) -> Step:
        x, state, weights = inputs.cell(case)
        cell: Any = {"lstm": fusedstep.rnn.LSTMCell, "gru": fusedstep.rnn.GRUCell}[case.method](case.size, case.size)
        for name, weight in weights.items():
            cell.weights[name][...] = weight
        out = tuple(np.empty_like(a) for a in state)
        x, state = self.argument(x), tuple(map(self.argument, state))
        out = tuple(map(self.argument, out))
        names = {"cell": self.moved(cell), "x": x, "state": state, "out": out}
        if len(state) == 1:
            names |= {"state": state[0], "out": out[0]}
        step = Step("cell(x, state, out=out)", names, result=lambda: list(map(self.result, out)), clock=self.clock())
        if case.frozen:
            cell.freeze()
        if not case.overhead:
            step.ceiling = self.rnn_ceiling(case)
        return step

    def rnn_ceiling(self, case: RnnCase) -> Ceiling | None:
        return partial(roofline.peak, case.work)

    def sequence(self, case: SequenceCase) -> Step:
        given = inputs.sequence(case)
        rnn = self.moved(inputs.module(case, given.weights))
        x, *state = (self.argument(a) for a in (given.x, *(a[None] for a in given.state)))
        names: dict[str, Any] = {"rnn": rnn, "x": x, "state": tuple(state) if len(state) > 1 else state[0]}
        make = partial(Step, names=names, clock=self.clock(), ceiling=self.rnn_ceiling(case))

        def result() -> list[Array]:
            found = [names["y"], *(a[0] for a in tupled(names["new"]))]
            if case.backward:
                g = names["g"]
                found += [g.x, *(a[0] for a in tupled(g.state)), *(g.weights[f"{name}_l0"] for name in given.weights)]
            return list(map(self.result, found))

        if case.backward:
            statement = "y, new, tape = rnn.forward(x, state); g = rnn.backward(tape, dy)"
            names["dy"] = self.argument(given.dy)
            return make(statement, result=result)
        if case.frozen:
            rnn.freeze()
        if case.taped:
            names["seed"] = inputs.SEED
            return make("y, new, tape = rnn.forward(x, state, seed=seed)", result=result)
        if case.varied:
            names["lengths"] = given.lengths
        return make(f"y, new = rnn(x, state{', lengths' * case.varied})", result=result)

    def stream(self, case: StreamCase) -> Step:
        x, _, weights = inputs.cell(case)
        rnn = inputs.module(case, weights)
        rnn.freeze()
        stream = rnn.stream(case.batch, weights=case.weights, threads=case.threads)
        names: dict[str, Any] = {"s": stream, "x": x if case.batch > 1 else x[0]}

        def result() -> list[Array]:
            return [a.reshape(case.batch, case.size) for a in (names["h"], *tupled(stream.state))]

        return Step("h = s.step(x)", names, result, rounding={"bfloat16": 0.01, "int8": 0.05}.get(case.weights, 0.0))

    def loss(self, case: LossCase) -> Step:
        x, target = map(aligned, inputs.loss(case))
        out = np.empty_like(x)
        if case.classes:
            f: Any = getattr(fusedstep.loss, case.method)
        else:
            written = losses.CUSTOM[case.method]
            f = fusedstep.loss.custom(lambda pred, target: written(fusedstep.loss.math, pred, target))
        names: dict[str, Any] = {"f": f, "x": x, "target": target, "out": out}
        read = [x] if case.classes else [x, target]
        # The same arrays read and the gradient written, by the same threads: one copy or one addition.
        program = [("copy" if case.classes else "add", False, len(read), list(range(len(read))))]
        move = _core.Expression(program, len(read), 0, 0, [False], False)
        given = {"move": move, "x": x, "read": read, "names": ["x", "target"][: len(read)], "out": out}
        ceiling = Sampler("move.run(x, read, names, [], [(out, False)], out)", given)
        with fusedstep.profile() as prof:
            f(x, target, out=out)
        return Step(
            "value, grad = f(x, target, out=out)",
            names,
            lambda: [np.float64(names["value"]), out],
            ceiling=stored(ceiling.sample) if case.classes else ceiling.sample,
            computing=roofline.computing(
                sum(group.work.cost.flops for group in prof.groups()),
                x.size,
                {} if case.classes else roofline.divisions(f),
            ),
        )
