"""What a profile says: each group of calls against the machine's ceilings, a verdict, and what would help."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fusedstep._array import Array
from fusedstep._record import MORE
from fusedstep.profiler import advice
from fusedstep.profiler.bounds import Bounds, bounds_of
from fusedstep.profiler.ceilings import Machine, machine
from fusedstep.profiler.groups import RANGE, Group
from fusedstep.profiler.record import Profile
from fusedstep.profiler.work import Work


class Line(NamedTuple):
    """A group of calls in a report.

    Attributes
    ----------
    group : Group
        The calls.
    ceiling : Bounds or None
        What one of them would take at the machine's ceilings; None on a GPU, whose ceilings are not known.
    share : float
        Of the profile's seconds.
    """

    group: Group
    ceiling: Bounds | None
    share: float

    @property
    def bounds(self) -> Bounds:
        """The same, of a call that has one."""
        if self.ceiling is None:
            raise ValueError(f"{self.group.work.title}: expected a call on the CPU, got one on a GPU")
        return self.ceiling

    @property
    def mean(self) -> float:
        """Seconds of a call."""
        return self.group.seconds / self.group.calls

    @property
    def gigabytes(self) -> float:
        """GB/s."""
        return self.group.work.cost.bytes / self.mean / 1e9 if self.mean else 0.0

    @property
    def gigaflops(self) -> float:
        """GFLOP/s."""
        return self.group.work.cost.flops / self.mean / 1e9 if self.mean else 0.0

    @property
    def of_ceiling(self) -> float | None:
        """What of the time the ceiling that binds asks for."""
        if self.ceiling is None:
            return None
        return self.ceiling.seconds / self.mean if self.mean else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        work = self.group.work
        return {
            "name": work.title,
            "kind": work.kind,
            "method": work.method,
            "dtype": work.dtype,
            "shape": work.shape,
            "sizes": work.sizes,
            "options": list(work.options),
            "device": work.device,
            "threads": work.threads,
            "calls": self.group.calls,
            "seconds": self.group.seconds,
            "fastest": self.group.fastest,
            "share": self.share,
            "bytes": work.cost.bytes,
            "flops": work.cost.flops,
            "GB/s": self.gigabytes,
            "GFLOP/s": self.gigaflops,
            "ceiling": self.of_ceiling,
            "level": self.ceiling and self.ceiling.level,
            "verdict": self.ceiling and self.ceiling.verdict,
        }


class Range(NamedTuple):
    """The runs of a region.

    Attributes
    ----------
    name : str
        As it was given.
    calls : int
        How often it ran.
    seconds, inside : float
        In all, and in recorded calls of its thread.
    """

    name: str
    calls: int
    seconds: float
    inside: float


class Report(NamedTuple):
    """What `Profile.table` prints.

    Attributes
    ----------
    lines : list of Line
        The longest in total first.
    ranges : list of Range
        In the order of their first run.
    seconds, outside : float
        Of the profile, and those in which the thread with most calls, or the GPU's stream, was in none.
    dropped : int
        Calls that were counted alone.
    isa : str
        The instruction set.
    machine : Machine
        The ceilings.
    advice : list of str
        What would help, the most first.
    """

    lines: list[Line]
    ranges: list[Range]
    seconds: float
    outside: float
    dropped: int
    isa: str
    machine: Machine
    advice: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings."""
        return {
            "seconds": self.seconds,
            "outside": self.outside,
            "dropped": self.dropped,
            "isa": self.isa,
            "machine": self.machine._asdict(),
            "calls": [line.to_dict() for line in self.lines],
            "ranges": [range_._asdict() for range_ in self.ranges],
            "advice": list(self.advice),
        }


def report(profile: Profile, ceilings: Machine | None = None) -> Report:
    """Set a profile against the ceilings; those of this machine where None."""
    measured = ceilings or machine()
    seconds, calls = profile.seconds, profile.calls
    lines = [
        Line(group, _bounds(group.work, measured), group.seconds / seconds if seconds else 0.0)
        for group in profile.groups()
    ]
    outside = max(0.0, seconds - _inside(calls.rows))
    found = list(advice.given(lines, seconds, outside, measured))
    ranges = list(_ranges(calls.rows, calls.names))
    return Report(lines, ranges, seconds, outside, calls.dropped, measured.isa, measured, found)


def _bounds(work: Work, measured: Machine) -> Bounds | None:
    return bounds_of(work, measured) if work.device == "cpu" else None


def _busy(rows: Array) -> float:
    """Return the seconds of calls of one thread, of which none lies in another."""
    return float((rows["end"] - rows["start"]).sum()) * 1e-9


def _own(rows: Array) -> Array:
    """Return the calls, without ranges and what is more of a call."""
    more = (rows["kind"] == 0) & ((rows["options"] & MORE) != 0)
    own: Array = rows[(rows["kind"] != RANGE) & ~more]
    return own


def _inside(rows: Array) -> float:
    calls = _own(rows)
    return max((_busy(calls[calls["thread"] == thread]) for thread in np.unique(calls["thread"])), default=0.0)


def _ranges(rows: Array, names: Sequence[str]) -> Iterator[Range]:
    regions, calls = rows[rows["kind"] == RANGE], _own(rows)
    order = np.argsort(regions["start"], kind="stable")
    for number in dict.fromkeys(int(n) for n in regions["method"][order]):
        mine = regions[regions["method"] == number]
        inside = 0.0
        for thread in np.unique(mine["thread"]):
            of_thread = calls[calls["thread"] == thread]
            of_thread = of_thread[np.argsort(of_thread["start"])]
            sums = np.concatenate([[0], np.cumsum(of_thread["end"] - of_thread["start"])])
            own = mine[mine["thread"] == thread]
            first = np.searchsorted(of_thread["start"], own["start"])
            last = np.searchsorted(of_thread["start"], own["end"])
            inside += float((sums[last] - sums[first]).sum()) * 1e-9
        yield Range(names[number], len(mine), _busy(mine), inside)
