"""A contender's process: `python -m bench.worker FD NAME THREADS DEVICE`. It answers requests on a pipe, in order."""

import ctypes
import gc
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

from bench import inputs, memory
from bench.cases import AnyCase
from bench.contenders import Array, Contender, Step, load
from bench.timing import Sampler


def die_with_parent() -> None:
    """Leave no stopped process behind where the parent is killed (Linux)."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Job:
    """A case, ready to be timed. `expected` is the reference of the case, where it is known."""

    def __init__(self, contender: Contender, case: AnyCase, expected: list[Array] | None) -> None:
        fitted = contender.fit(case)
        self.scale = case.work / fitted.work
        self.step: Step = contender.prepare(fitted)
        self.sampler = Sampler(self.step.statement, self.step.names, self.step.setup, fitted.pace, self.step.clock)
        for _ in range(inputs.STEPS):
            exec(self.step.statement, self.step.names)  # noqa: S102
        known = expected if fitted is case else None
        self.error = inputs.error(fitted, self.step.result(), zeroes=self.step.zeroes, expected=known)

    def report(self) -> dict[str, Any]:
        return {
            "statement": self.step.statement,
            "variant": self.step.variant,
            "scaled_by": self.scale,
            "error": self.error,
            "rounding": self.step.rounding,
            "facts": self.step.facts,
        }


def serve(connection: Connection, contender: Contender) -> None:
    connection.send(contender.describe())
    job: Job | None = None
    while True:
        try:
            request, argument = connection.recv()
        except EOFError:  # the parent is done
            return
        if request == "prepare":
            job = Job(contender, *argument)
            connection.send(job.report())
        elif request == "sample":
            assert job
            connection.send(job.sampler.sample(argument) * job.scale)
        elif request in ("ceiling", "computing", "predicted"):
            assert job
            limit = getattr(job.step, request)
            connection.send(limit(argument) if limit else None)
        elif request == "memory":
            connection.send(memory.of_step(contender, argument))
        elif request == "release":
            job = None
            contender.release()
            gc.collect()
            connection.send(None)


if __name__ == "__main__":
    die_with_parent()
    fd, name, threads, device = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):  # the libraries without a setting of their own count the processors
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    serve(Connection(int(fd)), load(name, int(threads), device))
