"""Growth: time and peak memory of an LSTM against steps, batch and width, one at a time, fusedstep beside torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.cases import SequenceCase
from bench.runner import Outcome, Runner

PEERS = ("torch",)
BASE = SequenceCase("lstm", PEERS, steps=32, batch=32, size=256, frozen=False)
AXES = {
    "steps": (2, 8, 32, 128, 512),
    "batch": (1, 4, 16, 32, 64, 256),
    "size": (16, 64, 128, 256, 512, 1024),
}
SMOKE = {"steps": (1, 2)}
SYMBOLS = {"steps": "T", "batch": "B", "size": "I=H"}


@dataclass
class Point:
    """The case with one number changed: inference, forward + backward, and the peak bytes of the latter."""

    axis: str
    value: int
    inference: Outcome
    training: Outcome
    memory: dict[str, int] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        outcomes = {"inference": self.inference.record(), "training": self.training.record()}
        return {"axis": self.axis, "value": self.value, **outcomes, "memory": self.memory}


def measure(runner: Runner, axes: Mapping[str, Sequence[int]], tick: Callable[[str], None]) -> list[Point]:
    """Time and measure each point; those that several axes share, once."""
    seen: dict[str, Point] = {}
    points = []
    for axis, values in axes.items():
        for value in values:
            case = replace(BASE, **{axis: value})
            if case.name not in seen:
                tick(f"growth, {SYMBOLS[axis]}={value}")
                seen[case.name] = point(runner, axis, value, case)
            points.append(replace(seen[case.name], axis=axis, value=value))
    return points


def point(runner: Runner, axis: str, value: int, case: SequenceCase) -> Point:
    training = replace(case, backward=True)
    found = Point(axis, value, *(runner.measure(c, lambda _: None) for c in (case, training)))
    correct = [name for name, timing in found.training.timings.items() if timing.correct]
    found.memory = {name: runner.memory(name, training) for name in correct}
    return found
