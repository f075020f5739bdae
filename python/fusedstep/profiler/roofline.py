"""The roofline picture, by matplotlib."""

from typing import Any

import numpy as np

from fusedstep.profiler.bounds import BANDWIDTH, COMPUTE, OVERHEAD, bandwidth
from fusedstep.profiler.ceilings import Machine
from fusedstep.profiler.record import Profile
from fusedstep.profiler.report import Line, report

LABELLED, SMALL = 12, 0.002  # calls with a number and a line below: so many at most, of such a share; the rest are dots
OFFSETS = ((9, -3), (-15, -3), (9, 7), (-15, 7))  # of numbers, in points: of the first of several close by, and so on
CLOSE = 0.06  # decades
COLORS = {BANDWIDTH: "tab:blue", COMPUTE: "tab:green", OVERHEAD: "tab:orange"}


def draw(profile: Profile, path: Any, machine: Machine | None) -> None:
    """Draw the groups of calls below the roofs of all threads."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
        from matplotlib.lines import Line2D  # noqa: PLC0415
    except ImportError:
        raise ImportError(
            "roofline: expected matplotlib, got none; pip install 'fusedstep[profile]' brings it"
        ) from None
    found = report(profile, machine)
    # A GPU's roofs are not known.
    lines = [line for line in found.lines if line.ceiling and line.group.work.cost.flops > 0 and line.mean > 0]
    roofs = found.machine
    named = sum(line.share >= SMALL for line in lines[:LABELLED])
    figure = Figure(figsize=(9, 5.5 + 0.19 * named), layout="constrained")
    axes = figure.subplots()
    x = [line.group.work.cost.flops / line.group.work.cost.bytes for line in lines]
    y = [line.gigaflops for line in lines]
    low, high = min([0.05, *(v / 2 for v in x)]), max([100.0, *(v * 2 for v in x)])
    top = _roofs(axes, roofs, {line.group.work.dtype for line in lines} or {"float32"}, low, high)
    for i, line in enumerate(lines):
        size = 30 + 900 * line.share
        axes.scatter(x[i], y[i], s=size, color=COLORS[line.bounds.verdict], alpha=0.75, linewidths=0, zorder=3)
    _number(axes, x[:named], y[:named])
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(min([top / 1e3, *(v / 2 for v in y)]), 2 * top))
    axes.set(xlabel="FLOPs a byte", ylabel="GFLOP/s")
    axes.set_title(f"{roofs.cpu}, {roofs.isa}, threads: {roofs.threads}", fontsize="medium")
    axes.grid(alpha=0.2, which="both")
    handles = [Line2D([], [], color=color, marker="o", linestyle="", label=name) for name, color in COLORS.items()]
    axes.legend(
        handles=handles, loc="lower right", title="area: share of the time; dotted: one thread", fontsize="small"
    )
    text = "\n".join(f"{i + 1:2}  {_title(line)}" for i, line in enumerate(lines[:named]))
    if len(lines) > named:
        text += f"\n    {len(lines) - named} more, without a number"
    axes.text(0, -0.13, text, transform=axes.transAxes, fontsize="small", va="top", family="monospace")
    figure.savefig(path, dpi=110)


def _title(line: Line) -> str:
    work = line.group.work
    return f"{line.share:5.1%} of the time, {line.of_ceiling:4.0%} of its ceiling  {work.title}, {work.shape}"


def _roofs(axes: Any, machine: Machine, dtypes: set[str], low: float, high: float) -> float:
    """Draw the peak of each dtype and each level's bandwidth, dotted those of one thread; return the highest peak."""
    top = max(machine.peak[dtype].all for dtype in dtypes)
    for dtype in sorted(dtypes):
        peak = machine.peak[dtype]
        text = f"{dtype}: {peak.all:,.0f} GFLOP/s"
        if machine.threads > 1:
            text += f", one thread {peak.one:,.0f}"
            axes.plot([low, high], [peak.one, peak.one], color="black", linewidth=0.8, linestyle=":")
        axes.plot([low, high], [peak.all, peak.all], color="black", linewidth=1)
        axes.annotate(text, (high, peak.all), (-4, 3), textcoords="offset points", ha="right", fontsize="small")
    for i, level in enumerate(machine.bandwidth):
        for threads in sorted({1, machine.threads}):
            rate = bandwidth(level, threads, machine) / 1e9
            style = "-" if threads == machine.threads else ":"
            axes.plot([low, top / rate], [low * rate, top], color="grey", linewidth=1, linestyle=style)
        at = low * 1.15 if i % 2 == 0 else (low * top / rate) ** 0.5  # by turns: two levels may be as fast
        axes.text(
            at,
            at * rate * 1.06,
            f"{level}: {rate:,.0f} GB/s",
            rotation=float(np.degrees(np.arctan(rate))),  # the line's slope in the data, which the axes then turn
            rotation_mode="anchor",
            transform_rotates_text=True,
            fontsize="small",
            color="dimgrey",
        )
    return top


def _number(axes: Any, x: list[float], y: list[float]) -> None:
    """Write the points' numbers, each a little apart from those before it that lie close."""
    placed: list[tuple[float, float]] = []
    for i, (a, b) in enumerate(zip(np.log10(x), np.log10(y), strict=True)):
        near = sum(abs(a - c) < CLOSE and abs(b - d) < CLOSE for c, d in placed)
        placed.append((float(a), float(b)))
        offset = OFFSETS[near % len(OFFSETS)]
        axes.annotate(str(i + 1), (x[i], y[i]), offset, textcoords="offset points", fontsize="small", zorder=4)
