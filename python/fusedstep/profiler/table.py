"""The table of a profile, by rich."""

from typing import IO

from fusedstep.profiler.bounds import BANDWIDTH, COMPUTE, OVERHEAD
from fusedstep.profiler.ceilings import Machine
from fusedstep.profiler.record import Profile
from fusedstep.profiler.report import Line, Report, report

ROWS = 25  # groups of calls; the rest is one row
WIDTH, WIDE = 150, 110  # columns where the output is no terminal, and from which there is room for rates
COLUMNS = ("calls", "time", "share", "a call", "GB/s", "GFLOP/s", "of ceiling")
FEWER = ("calls", "time", "share", "a call", "ceiling")
COLORS = {BANDWIDTH: "cyan", COMPUTE: "green", OVERHEAD: "yellow"}


def number(value: float) -> str:
    """Format with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Format a time with three digits and its unit."""
    scale, unit = next(((s, u) for s, u in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")) if seconds >= s), (1e-9, "ns"))
    return f"{number(seconds / scale)} {unit}"


def show(profile: Profile, file: IO[str] | None, width: int | None, machine: Machine | None) -> None:
    """Print calls, ranges and advice."""
    try:
        from rich import box  # noqa: PLC0415
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
    except ImportError:
        raise ImportError("table: expected rich, got none; pip install 'fusedstep[profile]' brings it") from None
    found = report(profile, machine)
    console = Console(file=file, width=width, highlight=False)
    if width is None and not console.is_terminal:  # a file or a log: as wide as the table is
        console = Console(file=file, width=WIDTH, highlight=False)
    console.print(_summary(found))
    wide = console.width >= WIDE
    calls = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    calls.add_column("call")
    for title in COLUMNS if wide else FEWER:
        calls.add_column(title, justify="right", no_wrap=True)
    calls.add_column("verdict")
    for line in found.lines[:ROWS]:
        calls.add_row(*_cells(line, wide))
    rest = found.lines[ROWS:]
    if rest:
        seconds = sum(line.group.seconds for line in rest)
        count = sum(line.group.calls for line in rest)
        share = sum(line.share for line in rest)
        calls.add_row(f"{len(rest)} more", f"{count:,}", duration(seconds), f"{share:.0%}")
    if found.lines:
        console.print(calls)
    if found.ranges:
        regions = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        regions.add_column("range")
        for title in ("runs", "time", "share", "in fused calls"):
            regions.add_column(title, justify="right", no_wrap=True)
        for region in found.ranges:
            share = region.seconds / found.seconds if found.seconds else 0.0
            inside = region.inside / region.seconds if region.seconds else 0.0
            regions.add_row(region.name, f"{region.calls:,}", duration(region.seconds), f"{share:.0%}", f"{inside:.0%}")
        console.print(regions)
    if found.advice:
        console.print("What would help:")
        for text in found.advice:
            console.print(f"• {text}", markup=False)


def _summary(found: Report) -> str:
    count = sum(line.group.calls for line in found.lines)
    share = found.outside / found.seconds if found.seconds else 0.0
    text = f"{duration(found.seconds)}, {count:,} calls, {share:.0%} of the time outside them; {found.isa}"
    if found.dropped:
        text += f"; {found.dropped:,} further calls were not kept"
    return text


def _cells(line: Line, wide: bool) -> list[str]:
    group, bounds = line.group, line.ceiling
    dtype = "" if group.work.dtype == "float32" else f" {group.work.dtype}"
    if bounds is None:
        ceiling, verdict = "", "on CUDA"
    else:
        at = f" ({bounds.level})" if bounds.verdict == BANDWIDTH and wide else ""
        verdict = f"[{COLORS[bounds.verdict]}]{bounds.verdict if wide else bounds.verdict.removesuffix('-bound')}{at}"
        ceiling = f"{line.of_ceiling:.0%}"
    rates = [duration(line.mean), number(line.gigabytes), number(line.gigaflops)]
    return [
        ", ".join(filter(None, (group.work.title, group.work.shape + dtype))),
        f"{group.calls:,}",
        duration(group.seconds),
        f"{line.share:.1%}",
        *(rates if wide else rates[:1]),
        ceiling,
        verdict,
    ]
