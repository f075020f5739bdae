"""Trace events: what ui.perfetto.dev and chrome://tracing read.

Each call is a "complete" event, ``"ph": "X"``, with its start and duration in microseconds, on the track of its Python
thread, or of its stream on a GPU. Google, "Trace Event Format", 2016.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any

from fusedstep._record import track_name
from fusedstep.profiler.groups import FIELDS, RANGE
from fusedstep.profiler.record import Profile
from fusedstep.profiler.work import KINDS, Work, decoded


def events(profile: Profile) -> list[dict[str, Any]]:
    """Return the events of a profile: the process's and the threads' names, then the calls by their start."""
    rows, names, _ = profile.calls
    pid = os.getpid()
    known = {thread.ident: thread.name for thread in threading.enumerate()}
    threads = list(dict.fromkeys(int(thread) for thread in rows["thread"]))
    result: list[dict[str, Any]] = [{"name": "process_name", "ph": "M", "pid": pid, "args": {"name": "fusedstep"}}]
    for number, thread in enumerate(threads):
        name = track_name(thread) or known.get(thread, f"thread {number}")
        result.append({"name": "thread_name", "ph": "M", "pid": pid, "tid": number, "args": {"name": name}})
    numbers = {thread: number for number, thread in enumerate(threads)}
    cache: dict[bytes, Work] = {}
    for row in rows[rows["start"].argsort(kind="stable")]:
        key = b"".join(row[field].tobytes() for field in FIELDS)
        if key not in cache:
            cache[key] = decoded(row, names)
        work = cache[key]
        event = {
            "name": work.title,
            "cat": "range" if row["kind"] == RANGE else KINDS[row["kind"]],
            "ph": "X",
            "ts": (int(row["start"]) - profile.start) / 1e3,
            "dur": (int(row["end"]) - int(row["start"])) / 1e3,
            "pid": pid,
            "tid": numbers[int(row["thread"])],
        }
        if row["kind"] != RANGE:
            event["args"] = {
                "shape": work.shape,
                "dtype": work.dtype,
                "bytes": work.cost.bytes,
                "flops": work.cost.flops,
                "device": work.device,
                "threads": work.threads,
            }
        result.append(event)
    return result


def write(profile: Profile, path: Any) -> None:
    """Write the events as a JSON object."""
    record = {"traceEvents": events(profile), "displayTimeUnit": "ns"}
    Path(path).write_text(json.dumps(record) + "\n", encoding="utf-8")
