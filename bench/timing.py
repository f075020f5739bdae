"""Timing of one statement, and the statistics of rounds."""

import time
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class Sampler:
    """Times a statement over some names, many times a sample where it is short.

    With `pace` runs start so many seconds apart, asleep between them, and each is timed by itself. `clock` tells the
    seconds.
    """

    def __init__(
        self,
        statement: str,
        names: dict[str, Any],
        setup: str = "pass",
        pace: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._timer = timeit.Timer(statement, setup, clock, names)
        self._pace = pace
        self._seconds = 0.0  # of one run, as seen last

    def sample(self, seconds: float) -> float:
        """Run for about so many seconds, at least once, and return the seconds of one run.

        A fifth of that goes before it, to warm up: nothing where one run takes longer. Of paced runs it is the median.
        """
        if self._pace:
            return self._paced(max(3, round(seconds / self._pace)))
        if not self._seconds:
            self._seconds = self._calibrate(seconds)
        self._timer.timeit(int(seconds / 5 / self._seconds))
        repeats = max(1, round(seconds / self._seconds))
        self._seconds = self._timer.timeit(repeats) / repeats
        return self._seconds

    def _paced(self, runs: int) -> float:
        start = time.perf_counter()
        taken = []
        for i in range(runs):
            time.sleep(max(0.0, start + i * self._pace - time.perf_counter()))
            taken.append(self._timer.timeit(1))
        return float(np.median(taken))

    def _calibrate(self, seconds: float) -> float:
        repeats = 1
        while (taken := self._timer.timeit(repeats)) < seconds / 4:
            repeats *= 4
        return taken / repeats


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        low, median, high = np.quantile(np.asarray(samples), (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high))

    @property
    def relative(self) -> float:
        """Half the distance between the quartiles, of the median."""
        return (self.high - self.low) / 2 / self.median

    def inverse(self) -> "Spread":
        return Spread(1 / self.median, 1 / self.high, 1 / self.low)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return the spread of ours / theirs, taken round by round; rounds that only one of them has are left out."""
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=False)])
