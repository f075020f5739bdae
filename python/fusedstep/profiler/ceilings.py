"""The machine's ceilings: bytes a second from each level of the caches and from memory, and FLOPs a second."""

import os
import platform
import re
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fusedstep import _core
from fusedstep.profiler import kernels
from fusedstep.profiler.figures import DTYPES, LEVELS, MEMORY, STREAMS, Figure, Meter, Rate, figures

# Bytes where the system does not tell: what most of today's processors have at least.
_USUAL = {"L1": 32 << 10, "L2": 512 << 10, "L3": 8 << 20}
_SECONDS = 0.02  # of one figure; there are four dozen
_TURNS = 3  # in which it is measured


class Machine(NamedTuple):
    """What a machine can do, as `machine` measured it.

    Attributes
    ----------
    cpu, isa : str
        The processor's name, and the instruction set in use.
    threads : int
        How many "all" threads are.
    caches : dict
        Bytes that one thread has of ``"L1"``, ``"L2"`` and ``"L3"`` where the others run too.
    bandwidth : dict
        By level (``"L1"``, ``"L2"``, ``"L3"``, ``"memory"``), then by stream, a `Rate` in GB/s: ``"read"``,
        ``"copy"`` (one array to another), ``"triad"`` (a sum of two) and ``"update"`` (Adam's bytes without its
        arithmetic). All threads are as many times as fast as the slowest of them.
    peak : dict
        By dtype, a `Rate` in GFLOP/s: fused multiply-adds on registers, each two FLOPs.
    region : float
        Seconds of a parallel region of all threads that read its arguments and meet once.
    barrier : float
        Seconds in which all threads of a region meet once more.
    calls : dict
        By kind (``"optimizer"``, ``"cell"``, …), seconds of the smallest call; ``"tensor"``: of each further one in an
        optimizer's step.
    rates : dict
        By part of the kernels, a `Rate` in 1e9 a second, of float32: FLOPs of ``"products"`` of many rows
        and of the gates' ``"functions"``; elements with a root and a division (``"roots"``), and of ``"norms"``;
        weights of ``"packing"``.
    """

    cpu: str
    isa: str
    threads: int
    caches: dict[str, int]
    bandwidth: dict[str, dict[str, Rate]]
    peak: dict[str, Rate]
    region: float
    barrier: float
    calls: dict[str, float]
    rates: dict[str, Rate]

    def __str__(self) -> str:
        """Lay out the figures as a table."""
        lines = [f"{self.cpu}, {self.isa}, {self.threads} thread{'s' * (self.threads != 1)}", ""]
        lines.append(f"{'GB/s, one thread / all':24}" + "".join(f"{stream:>18}" for stream in STREAMS))
        for level, by_stream in self.bandwidth.items():
            size = f" ({_size(self.caches[level])} a thread)" if level in self.caches else ""
            lines.append(f"{level + size:24}" + "".join(f"{_pair(by_stream[stream]):>18}" for stream in STREAMS))
        lines += ["", f"{'GFLOP/s':24}" + "".join(f"{dtype:>18}" for dtype in self.peak)]
        lines.append(f"{'fused multiply-adds':24}" + "".join(f"{_pair(rate):>18}" for rate in self.peak.values()))
        lines += ["", f"{'a region':24}{self.region * 1e9:15,.0f} ns"]
        lines += [f"{'a barrier':24}{self.barrier * 1e9:15,.0f} ns"]
        lines += [f"{'smallest ' + name:24}{seconds * 1e9:15,.0f} ns" for name, seconds in self.calls.items()]
        lines += [f"{name + ', one thread / all':24}{_pair(rate):>18} G/s" for name, rate in self.rates.items()]
        return "\n".join(lines)


def _pair(rate: Rate) -> str:
    return f"{rate.one:.1f} / {rate.all:.1f}"


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _processors(text: str) -> set[int]:
    """Read a list such as ``0-3,8``."""
    ranges = (part.partition("-") for part in text.strip().split(",") if part)
    return {i for first, _, last in ranges for i in range(int(first), int(last or first) + 1)}


def _system_caches() -> Iterator[tuple[str, int]]:
    """Yield the level and the bytes that each thread has of every data cache of the first processor of ours."""
    ours = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    for index in sorted(Path(f"/sys/devices/system/cpu/cpu{ours[0]}/cache").glob("index*")):
        about = {name: (index / name).read_text().strip() for name in ("level", "type", "size", "shared_cpu_list")}
        if about["type"] != "Instruction":
            unit = {"K": 1 << 10, "M": 1 << 20}.get(about["size"][-1], 1)
            sharing = len(_processors(about["shared_cpu_list"]) & set(ours)) or 1
            yield f"L{about['level']}", int(about["size"].rstrip("KM")) * unit // sharing


def _caches() -> dict[str, int]:
    try:
        found = dict(_system_caches())
    except OSError:  # a container without /sys
        found = {}
    return {level: found.get(level, usual) for level, usual in _USUAL.items()}


def _measure() -> Machine:
    threads, caches = _core.num_threads(), _caches()
    meter = Meter(threads, caches)
    measured: dict[Figure, list[float]] = {figure: [] for figure in figures()}
    for turn in range(_TURNS):  # a while apart, as others may use the machine
        for figure, values in measured.items():
            seconds = _SECONDS / (3 if figure[0] in ("calls", "rates") else 1)
            if (threads == 1 and figure[-1] == "all") or (MEMORY in figure and turn == 0):
                continue  # the same as on one; or twice is enough, as its arrays take a while
            values.append(meter.measure(figure, seconds / _TURNS))

    def chosen(figure: Figure) -> float:
        values = measured[figure] or measured[*figure[:-1], "one"]
        if figure[0] in ("bandwidth", "peak"):
            # The best that the machine did; but what is larger than a cache is at times found there.
            return min(values) if MEMORY in figure else max(values)
        # A difference is small where the longer call alone was undisturbed: not the best of them.
        return statistics.median(values) if figure[0] in ("calls", "rates") else min(values)

    found = {figure: chosen(figure) for figure in measured}
    nothing = Rate(0.0, 0.0)
    empty = Machine(
        _cpu(),
        _core.build_info()["isa"],
        threads,
        caches,
        {level: dict.fromkeys(STREAMS, nothing) for level in LEVELS},
        dict.fromkeys(DTYPES, nothing),
        0.0,
        0.0,
        dict.fromkeys(kernels.CALLS, 0.0),
        dict.fromkeys(kernels.RATES, nothing),
    )
    return replaced(empty, found)


def value(machine: Machine, figure: Figure) -> float:
    """Return a figure of a machine."""
    found: Any = getattr(machine, figure[0])
    for name in figure[1:]:
        found = getattr(found, name) if isinstance(found, Rate) else found[name]
    return float(found)


def replaced(machine: Machine, found: Mapping[Figure, float]) -> Machine:
    """Return a machine with these figures, and the others as they are."""

    def rate(*place: str, known: Rate) -> Rate:
        return Rate(*(found.get((*place, count), getattr(known, count)) for count in Rate._fields))

    bandwidth = {
        level: {stream: rate("bandwidth", level, stream, known=known) for stream, known in by_stream.items()}
        for level, by_stream in machine.bandwidth.items()
    }
    return machine._replace(
        bandwidth=bandwidth,
        peak={dtype: rate("peak", dtype, known=known) for dtype, known in machine.peak.items()},
        region=found.get(("region",), machine.region),
        barrier=found.get(("barrier",), machine.barrier),
        calls={kind: found.get(("calls", kind), known) for kind, known in machine.calls.items()},
        rates={part: rate("rates", part, known=known) for part, known in machine.rates.items()},
    )


def _folder() -> Path:
    """Return the user's cache folder of this package."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "fusedstep"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "fusedstep"


def _file() -> Path:
    info = _core.build_info()
    words = (_cpu(), info["isa"], info["version"])
    name = "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", word).strip("-") for word in words)
    return _folder() / f"machine-{name}-{info['threads']}.json"


def _read(file: Path) -> Machine | None:
    import json  # noqa: PLC0415 - not needed by `import fusedstep`

    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        bandwidth = {
            level: {stream: Rate(*by_stream[stream]) for stream in STREAMS}
            for level, by_stream in record.pop("bandwidth").items()
        }
        peak = {dtype: Rate(*record["peak"][dtype]) for dtype in DTYPES}
        rates = {part: Rate(*record["rates"][part]) for part in kernels.RATES}
        given = {"bandwidth": bandwidth, "peak": peak, "calls": record["calls"], "rates": rates}
        return Machine(**{**record, **given})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or not ours: measure anew
        return None


def _write(file: Path, measured: Machine) -> None:
    import json  # noqa: PLC0415

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(measured._asdict(), indent=1) + "\n", encoding="utf-8")
        partial.replace(file)  # readers see the whole file or the one before
    except OSError:  # a home that cannot be written: the next process measures again
        return


_known: dict[Path, Machine] = {}


def machine(*, refresh: bool = False) -> Machine:
    """Measure what this machine can do, or recall it.

    Measured once for each processor model, instruction set and number of threads, in about two seconds, and kept in
    the user's cache folder (``$XDG_CACHE_HOME/fusedstep``, ``~/.cache/fusedstep``; on macOS ``~/Library/Caches``).

    Parameters
    ----------
    refresh : bool, optional
        Measure again: the machine was busy, or its clock was low.

    Returns
    -------
    Machine
        Bandwidths and peaks; printed, a table.

    Notes
    -----
    The streams run over float32 arrays with the stores that the kernels use. Bytes are those that the loops name; what
    a cache reads before it is written is not counted, as nowhere here.

    References
    ----------
    .. [1] McCalpin, "Memory Bandwidth and Machine Balance in Current High Performance Computers", IEEE TCCA
       Newsletter, 1995 (STREAM).
    .. [2] Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009.

    Examples
    --------
    >>> import fusedstep
    >>> m = fusedstep.machine()
    >>> m.peak["float32"].all > 0, sorted(m.bandwidth)
    (True, ['L1', 'L2', 'L3', 'memory'])
    """
    if not isinstance(refresh, bool):
        raise TypeError(f"refresh must be True or False, got {refresh!r}")
    file = _file()
    found = None if refresh else _known.get(file) or _read(file)
    if found is None:
        found = _measure()
        _write(file, found)
    _known[file] = found
    return found
