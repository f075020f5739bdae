"""fusedstep, and its ceilings: the same loop over the same arrays without arithmetic, and FMAs on registers."""

from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import fusedstep
import numpy as np
from fusedstep import _core
from fusedstep.optim import OPTIMIZERS

from bench import contenders, inputs, losses
from bench.cases import CellCase, LossCase, OptimCase, SequenceCase, StreamCase
from bench.contenders import Array, Step
from bench.timing import Sampler

HUGE_PAGE = 2 << 20


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


def tupled(state: Any) -> tuple[Array, ...]:
    return state if isinstance(state, tuple) else (state,)


class Contender(contenders.Contender):
    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        fusedstep.set_num_threads(threads)

    def describe(self) -> dict[str, Any]:
        return fusedstep.build_info()

    def optim(self, case: OptimCase) -> Step:
        pairs = [(aligned(p), aligned(g)) for p, g in inputs.tensors(case)]
        params, grads = [p for p, _ in pairs], [g for _, g in pairs]
        single = len(params) == 1
        opt = OPTIMIZERS[case.method](params[0] if single else params, lr=inputs.LEARNING_RATE)
        states = [[array for name, array in state.items() if name != "step"] for state in opt.state]
        options = {"max_norm": case.max_norm, "check_finite": case.check_finite, "zero_grads": case.zero_grads}
        given = "".join(f", {name}={value}" for name, value in options.items() if value)
        step = Step(
            f"opt.step(g{given})",
            {"opt": opt, "g": grads[0] if single else grads},
            result=lambda: params,
            zeroes=case.zero_grads,
        )
        if not case.overhead:
            plan = _core.Plan(None, False)
            plan.add_group(f"touch{case.states}", [], False, params, states)
            names = {"touch": plan.stepper(), "g": grads, "max_norm": case.max_norm}
            touch = Sampler(f"touch(g, max_norm, 1.0, {case.check_finite}, {case.zero_grads})", names)
            step.ceiling = touch.sample
        large = [array for array in chain(params, grads, *states) if array.nbytes >= HUGE_PAGE]
        if large:
            step.facts["huge_pages"] = huge_fraction(large)
        return step

    def cell(self, case: CellCase) -> Step:
        x, state, weights = inputs.cell(case)
        cell: Any = {"lstm": fusedstep.rnn.LSTMCell, "gru": fusedstep.rnn.GRUCell}[case.method](case.size, case.size)
        for name, weight in weights.items():
            cell.weights[name][...] = weight
        out = tuple(np.empty_like(a) for a in state)
        names = {"cell": cell, "x": x, "state": state, "out": out}
        if len(state) == 1:
            names |= {"state": state[0], "out": out[0]}
        step = Step("cell(x, state, out=out)", names, result=lambda: list(out))
        if case.frozen:
            cell.freeze()
        if not case.overhead:
            step.ceiling = partial(peak, case.work)
        return step

    def sequence(self, case: SequenceCase) -> Step:
        given = inputs.sequence(case)
        rnn = inputs.module(case, given.weights)
        state = tuple(a[None] for a in given.state)
        names: dict[str, Any] = {"rnn": rnn, "x": given.x, "state": state if len(state) > 1 else state[0]}
        ceiling = partial(peak, case.work)

        def result() -> list[Array]:
            found = [names["y"], *(a[0] for a in tupled(names["new"]))]
            if case.backward:
                g = names["g"]
                found += [g.x, *(a[0] for a in tupled(g.state)), *(g.weights[f"{name}_l0"] for name in given.weights)]
            return found

        if case.backward:
            statement = "y, new, tape = rnn.forward(x, state); g = rnn.backward(tape, dy)"
            names["dy"] = given.dy
            return Step(statement, names, result, ceiling=ceiling)
        if case.frozen:
            rnn.freeze()
        if case.taped:
            names["seed"] = inputs.SEED
            return Step("y, new, tape = rnn.forward(x, state, seed=seed)", names, result, ceiling=ceiling)
        if case.varied:
            names["lengths"] = given.lengths
        return Step(f"y, new = rnn(x, state{', lengths' * case.varied})", names, result, ceiling=ceiling)

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
        return Step(
            "value, grad = f(x, target, out=out)",
            names,
            lambda: [np.float64(names["value"]), out],
            ceiling=Sampler("move.run(x, read, names, [], [(out, False)], out)", given).sample,
        )


def peak(flops: int, seconds: float) -> float:
    """Return the seconds that so many operations take at the peak."""
    return flops / (_core.fma_peak(np.float32, seconds) * 1e9)
