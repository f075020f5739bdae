"""Calls that are alike, out of the records of the compiled core."""

from typing import NamedTuple

import numpy as np

from fusedstep._array import Array
from fusedstep._record import MORE
from fusedstep.profiler.work import KINDS, Work, decoded, merged

RANGE = KINDS.index("range")
FIELDS = ("n", "options", "method", "threads", "kind", "dtype")  # in which calls that are alike agree


class Group(NamedTuple):
    """Calls that are alike.

    Attributes
    ----------
    work : Work
        What one of them is.
    calls : int
        How many.
    seconds, fastest : float
        Of all of them, and of the fastest.
    """

    work: Work
    calls: int
    seconds: float
    fastest: float


class Calls(NamedTuple):
    """The records of a profile, and the names that they number."""

    rows: Array
    names: list[str]
    dropped: int


def grouped(rows: Array, names: list[str]) -> list[Group]:
    """Return the groups of records that are no ranges, the longest in total first."""
    if not len(rows):
        return []
    more = (rows["options"] & MORE).astype(bool) & (rows["kind"] == 0)
    key = np.zeros(len(rows), [(name, rows.dtype[name]) for name in FIELDS])
    for name in FIELDS:
        key[name] = rows[name]
    _, firsts, numbers = np.unique(key.view(f"V{key.dtype.itemsize}").ravel(), return_index=True, return_inverse=True)
    numbers = numbers.ravel()
    # A step in several parts is a group by all of them: parts have its thread and start.
    parts: dict[tuple[int, int], list[int]] = {}
    for i in map(int, np.flatnonzero(more)):
        parts.setdefault((int(rows["thread"][i]), int(rows["start"][i])), []).append(int(numbers[i]))
    whole = np.flatnonzero(~more)
    seconds = (rows["end"] - rows["start"])[whole] * 1e-9
    of: dict[tuple[int, ...], int] = {}
    groups: Array
    if parts:
        begun = zip(numbers[whole], rows["thread"][whole], rows["start"][whole], strict=True)
        keys = [(int(number), *parts.get((int(thread), int(start)), ())) for number, thread, start in begun]
        groups = np.array([of.setdefault(key, len(of)) for key in keys])
    else:
        kinds, groups = np.unique(numbers[whole], return_inverse=True)
        of = {(int(number),): i for i, number in enumerate(kinds)}
    count, total = np.bincount(groups), np.bincount(groups, seconds)
    fastest = np.full(len(of), np.inf)
    np.minimum.at(fastest, groups, seconds)
    result = []
    for (first, *others), number in of.items():
        work = decoded(rows[firsts[first]], names)
        if others:
            work = merged(work, [decoded(rows[firsts[other]], names) for other in others])
        result.append(Group(work, int(count[number]), float(total[number]), float(fastest[number])))
    return sorted(result, key=lambda group: -group.seconds)
