"""Workers that sleep while another is timed, and the rounds over them."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Self

from bench import inputs
from bench.cases import AnyCase, SequenceCase
from bench.contenders import CONTENDERS
from bench.timing import Spread, ratio

ROOT = Path(__file__).parent.parent
OURS = "fusedstep"
NUMPY_SLOWERS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # the workers do without
MIN_ROUNDS = 3
NOISY = 0.1  # half the distance between the quartiles, of the median: such a case takes up to twice as many rounds


class WorkerError(RuntimeError):
    """A worker ended; the message is what it wrote last."""


class Worker:
    """The process of one contender. It runs from a request to its answer, and is stopped otherwise."""

    def __init__(self, name: str, threads: int, device: str = "cpu") -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close()
        self._connection, theirs = Pipe()
        environment = {key: value for key, value in os.environ.items() if key not in NUMPY_SLOWERS}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", str(theirs.fileno()), name, str(threads), device],
            cwd=ROOT,
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, request: str, argument: Any = None) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self._connection.send((request, argument))

    def finish(self) -> Any:
        """Wait for the answer and stop the process."""
        try:
            answer = self._connection.recv()
        except EOFError:
            code = self._process.wait()
            self._log.seek(0)
            raise WorkerError(f"exit status {code}\n{self._log.read()[-2000:]}") from None
        os.kill(self.pid, signal.SIGSTOP)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._log.close()


@dataclass
class Timing:
    """A contender in a case. Samples are seconds a step, a round each."""

    statement: str = ""
    variant: str = ""
    scaled_by: float = 1.0  # what the time of a smaller size was multiplied by
    error: float = 0.0
    rounding: float = 0.0  # what rounded weights may add to it
    facts: dict[str, Any] = field(default_factory=dict)
    samples: list[float] = field(default_factory=list)
    failure: str = ""

    @property
    def correct(self) -> bool:
        return not self.failure and self.error <= inputs.TOLERANCE + self.rounding  # NaN is not

    @property
    def time(self) -> Spread:
        return Spread.of(self.samples)


@dataclass
class Outcome:
    """A case with its timings by contender.

    `ceiling` is the seconds of a step at the ceiling, a round each; `roofline` the longer of these and of its
    arithmetic alone, where that is counted. `predicted` is what the cost model tells, a round each, with the figures of
    the machine that it takes measured in that round.
    """

    case: Any
    timings: dict[str, Timing] = field(default_factory=dict)
    ceiling: list[float] = field(default_factory=list)
    roofline: list[float] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)
    skipped: str = ""

    @property
    def ours(self) -> Timing | None:
        timing = self.timings.get(OURS)
        return timing if timing and timing.samples else None

    @property
    def correct(self) -> bool:
        return all(timing.correct for timing in self.timings.values())

    def ratio(self, to: str) -> Spread | None:
        """Return our time over that of a contender, the ceiling or the roofline; over 1 second for "seconds"."""
        if self.ours is None:
            return None
        if to == "seconds":
            return self.ours.time
        limits = {"ceiling": self.ceiling, "roofline": self.roofline}
        theirs = limits[to] if to in limits else self.timings[to].samples if to in self.timings else []
        return ratio(self.ours.samples, theirs) if theirs else None

    @property
    def noisy(self) -> bool:
        """Whether our samples lie so far apart that more of them are worth their time."""
        return self.ours is not None and self.ours.time.relative > NOISY

    @property
    def told(self) -> Spread | None:
        """Return the predicted time over ours, round by round."""
        return ratio(self.predicted, self.ours.samples) if self.predicted and self.ours else None

    def record(self) -> dict[str, Any]:
        """Return everything as plain numbers."""
        contenders = {}
        for name, timing in self.timings.items():
            row = {**asdict(timing), "correct": timing.correct}
            if timing.samples:
                relative = self.ratio(name)
                row |= {"seconds": asdict(timing.time), "rate": self.case.work / timing.time.median / 1e9}
                row["ours_over_this"] = relative and asdict(relative)
            contenders[name] = row
        limits: dict[str, Any] = {"ceiling": None, "roofline": None, "predicted": None}
        for name, samples in (("ceiling", self.ceiling), ("roofline", self.roofline)):
            if samples and (relative := self.ratio(name)):
                limit = Spread.of(samples)
                found = {"seconds": asdict(limit), "rate": self.case.work / limit.median / 1e9, "samples": samples}
                limits[name] = {**found, "fraction": asdict(relative.inverse())}
        if self.told:
            limits["predicted"] = {"samples": self.predicted, "over_ours": asdict(self.told)}
        case = self.case
        about = {key: getattr(case, key) for key in ("name", "group", "table", "method", "work", "unit", "every")}
        measured = {"skipped": self.skipped, **limits, "contenders": contenders}
        return {**about, "targets": dict(case.targets), **measured}


@dataclass(frozen=True)
class Settings:
    """How long to measure: seconds of a sample, rounds, and seconds a peer may take past the third; ours may twice."""

    threads: int
    sample: float
    rounds: int
    budget: float
    device: str = "cpu"


def available_memory() -> float:
    """Return the bytes that can be had without swapping; no limit where the system does not say."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), float("inf"))


class Runner:
    """Runs cases. `facts` holds what each contender says of itself."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.facts: dict[str, Any] = {}
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def _worker(self, name: str) -> Worker:
        return Worker(name, self.settings.threads, self.settings.device)

    def start(self, names: Iterable[str]) -> None:
        """Start contenders side by side, and let them import what they need."""
        fresh = {name: self._worker(name) for name in names if name not in self._workers}
        self._workers |= fresh
        for name in fresh:
            if facts := self._finish(name, failed := Timing()):
                self.facts[name] = facts
            else:
                self.facts[name] = {"failure": failed.failure}

    def _finish(self, name: str, timing: Timing) -> Any:
        """Return a worker's answer. One that ended is noted in `timing`; the next case starts it anew."""
        try:
            return self._workers[name].finish()
        except WorkerError as error:
            self._workers.pop(name).close()
            timing.failure = str(error)
            return None

    def _ask(self, name: str, timing: Timing, request: str, argument: Any = None) -> Any:
        self._workers[name].start(request, argument)
        return self._finish(name, timing)

    def measure(self, case: AnyCase, tick: Callable[[str], None]) -> Outcome:
        """Prepare and check every contender, then time them in rounds. `tick` hears of each step."""
        outcome = Outcome(case)
        names = [OURS, *(peer for peer in case.peers if CONTENDERS[peer].installed)]
        need = 1.5 * case.memory * len(names)  # some make temporaries
        if need > self.facts.get(OURS, {}).get("free_memory", available_memory()):
            outcome.skipped = f"needs about {need / 2**30:.0f} GiB of free memory"
            return outcome
        if case.threads > self.settings.threads:
            outcome.skipped = f"takes {case.threads} threads"
            return outcome
        tick("preparing")
        self.start(names)
        for name in names:
            outcome.timings[name] = Timing(failure=self.facts[name].get("failure", ""))
        alive = [name for name in names if name in self._workers]
        expected = inputs.sequence_reference(case) if isinstance(case, SequenceCase) else None
        # Side by side, as nothing is timed yet; sequences, that use all processors, one after the other.
        for batch in [alive] if expected is None else [[name] for name in alive]:
            for name in batch:
                self._workers[name].start("prepare", (case, expected))
            for name in batch:
                if report := self._finish(name, outcome.timings[name]):
                    outcome.timings[name] = Timing(**report)
        for i in range(2 * self.settings.rounds):
            if i >= self.settings.rounds and not outcome.noisy:
                break
            tick(f"round {i + 1}")
            self._round(i, outcome)
        for name in names:
            if name in self._workers:
                self._ask(name, outcome.timings[name], "release")
        return outcome

    def memory(self, name: str, case: SequenceCase) -> int:
        """Return the bytes that a step of a contender takes at its peak, in a process of its own."""
        worker = self._worker(name)
        try:
            worker.finish()
            worker.start("memory", case)
            return int(worker.finish())
        finally:
            worker.close()

    def _round(self, i: int, outcome: Outcome) -> None:
        names = list(outcome.timings)
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:  # no one always follows the same other
            timing = outcome.timings[name]
            spent = sum(timing.samples) / timing.scaled_by
            budget = self.settings.budget * (1 + (name == OURS))  # ours is in every ratio
            if not timing.correct or (i >= MIN_ROUNDS and spent > budget):
                continue
            if (seconds := self._ask(name, timing, "sample", self.settings.sample)) is None:
                continue
            timing.samples.append(seconds)
            if name == OURS and (told := self._ask(name, timing, "predicted", self.settings.sample)):
                outcome.predicted.append(told)
            if name == OURS and (limit := self._ask(name, timing, "ceiling", self.settings.sample)):
                outcome.ceiling.append(limit)
                if computing := self._ask(name, timing, "computing", self.settings.sample):
                    outcome.roofline.append(max(limit, computing))
